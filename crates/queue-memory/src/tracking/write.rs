//! What changed, as one batch of the journal.

use queue_core::job::{Envelope, QueueName};

use super::{
    ledger::Ledger,
    record::Tracked,
    records::Records,
    room::{Room, Rooms},
    rows::{BirthRow, HoldRow, Place, RecordRow, StoneRow, write_watermark},
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
            batch.delete(Table::Records, &row.number.to_be_bytes());
            if row.revised {
                batch.delete(Table::Stages, &Place::State(row.number).key());
            }
        }
    }
}

fn write_record(record: &mut Tracked, batch: &mut Batch, now: Now) {
    let number = record.row.number;
    if record.kept.as_ref().is_some_and(|kept| is_same(kept, &record.job.envelope)) {
        batch.put_with(Table::Stages, &Place::State(number).key(), |out| RecordRow::write(record, now, out));
        record.row.revised = true;
        return;
    }
    batch.put_with(Table::Records, &number.to_be_bytes(), |out| BirthRow::write(record, now, out));
    if std::mem::take(&mut record.row.revised) {
        batch.delete(Table::Stages, &Place::State(number).key());
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
            for key in keys {
                batch.delete(Table::Stages, &Place::Unique(queue.clone(), key).key());
            }
            batch.delete(Table::Stages, &Place::Queue(queue).key());
        }
        for queue in changed {
            if let Some(room) = self.get_mut_unnoted(&queue) {
                write_room(queue, room, batch, now);
            }
        }
    }
}

fn write_room(queue: QueueName, room: &mut Room, batch: &mut Batch, now: Now) {
    for key in room.take_moved() {
        let hold = room.hold_of(&key);
        let place = Place::Unique(queue.clone(), key).key();
        match hold {
            Some((id, until)) => {
                let row = HoldRow { id, until: until.map(|until| now.time_of(until)) };
                batch.put_with(Table::Stages, &place, |out| row.write(out));
            }
            None => batch.delete(Table::Stages, &place),
        }
    }
    let row = room.row();
    if room.kept != row {
        room.kept = row;
        batch.put_with(Table::Stages, &Place::Queue(queue).key(), |out| row.write(out));
    }
}

impl Tombstones {
    fn write(&mut self, batch: &mut Batch, now: Now) {
        for (serial, laid, job) in self.take_moved() {
            let place = Place::Stone(serial).key();
            match self.kind_of(serial, &job) {
                Some(kind) => {
                    let row = StoneRow { job, kind, laid: now.time_of(laid) };
                    batch.put_with(Table::Stages, &place, |out| row.write(out));
                }
                None => batch.delete(Table::Stages, &place),
            }
        }
        for (queue, mark) in self.take_raised() {
            let place = Place::Watermark(queue).key();
            batch.put_with(Table::Stages, &place, |out| write_watermark(mark, out));
        }
    }
}
