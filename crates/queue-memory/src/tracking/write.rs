//! What changed, as one batch of the journal.

use queue_core::job::Envelope;

use super::{
    ledger::Ledger,
    record::Tracked,
    records::Records,
    room::{Room, Rooms},
    rows::{Aside, BirthRow, QueueRow, RecordRow, stone_key, unique_key, watermark_key},
    tombstones::Tombstones,
};
use crate::{
    journal::{Batch, Table},
    queue::Now,
};

impl Ledger {
    /// Takes all that changed since the last call.
    pub(super) fn write(&mut self, batch: &mut Batch, now: Now) {
        self.rooms.write(batch, now);
        self.slots.write(batch, now);
        self.tombstones.write(batch, now);
    }
}

impl Records {
    fn write(&mut self, batch: &mut Batch, now: Now) {
        let gone = self.take_changes(|record| write_record(record, batch, now));
        for row in gone {
            let key = row.number.to_be_bytes();
            batch.delete(Table::Jobs, &key);
            if row.revised {
                batch.delete(Table::States, &key);
            }
        }
    }
}

fn write_record(record: &mut Tracked, batch: &mut Batch, now: Now) {
    let key = record.row.number.to_be_bytes();
    if record.kept.as_ref().is_some_and(|kept| is_same(kept, &record.job.envelope)) {
        batch.put(Table::States, &key, &RecordRow::encode(record, now));
        record.row.revised = true;
        return;
    }
    batch.put(Table::Jobs, &key, &BirthRow::encode(record, now));
    if std::mem::take(&mut record.row.revised) {
        batch.delete(Table::States, &key);
    }
    record.kept = Some(record.job.envelope.clone());
}

/// An envelope is never changed, only replaced.
fn is_same(one: &Envelope, other: &Envelope) -> bool {
    std::ptr::eq(&raw const **one, &raw const **other)
}

impl Rooms {
    fn write(&mut self, batch: &mut Batch, now: Now) {
        let (dropped, changed) = self.take_changes();
        for (queue, keys) in dropped {
            batch.delete(Table::Queues, queue.as_str().as_bytes());
            for key in keys {
                batch.delete(Table::Keys, &unique_key(&queue, &key));
            }
        }
        for queue in changed {
            if let Some(room) = self.get_mut_unnoted(&queue) {
                write_room(&queue, room, batch, now);
            }
        }
    }
}

fn write_room(queue: &queue_core::QueueName, room: &mut Room, batch: &mut Batch, now: Now) {
    let row = room.row();
    if room.kept != row {
        room.kept = row;
        batch.put(Table::Queues, queue.as_str().as_bytes(), &QueueRow::encode(row));
    }
    for key in room.take_moved() {
        match room.hold_of(&key) {
            Some((id, until)) => {
                let until = until.map(|until| now.time_of(until));
                let (key, row) = Aside::Unique { queue: queue.clone(), key, id, until }.encode();
                batch.put(Table::Keys, &key, &row);
            }
            None => batch.delete(Table::Keys, &unique_key(queue, &key)),
        }
    }
}

impl Tombstones {
    fn write(&mut self, batch: &mut Batch, now: Now) {
        for (serial, laid, job) in self.take_moved() {
            match self.kind_of(serial, &job) {
                Some(kind) => {
                    let (key, row) = Aside::Stone { serial, job, kind, laid: now.time_of(laid) }.encode();
                    batch.put(Table::Keys, &key, &row);
                }
                None => batch.delete(Table::Keys, &stone_key(serial)),
            }
        }
        for (queue, mark) in self.take_raised() {
            let key = watermark_key(&queue);
            let (_, row) = Aside::Watermark { queue, mark }.encode();
            batch.put(Table::Keys, &key, &row);
        }
    }
}
