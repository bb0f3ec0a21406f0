//! What is left of the file when the process or the machine stops, wherever it stops.

use super::*;
use super::{super::disk::*, rig::*};
use queue_core::clock::{Random as _, SeededRandom};

/// All of it with `QUEUE_JOURNAL_FULL=1`; else a sample that takes seconds.
pub(super) fn full() -> bool {
    std::env::var("QUEUE_JOURNAL_FULL").is_ok_and(|value| value == "1")
}

/// The images that a stop after each event may leave.
struct Images<'a> {
    events: &'a [Event],
    synced: Vec<u8>,
    pending: Vec<Change>,
    at: usize,
}

impl Images<'_> {
    fn step(&mut self) -> bool {
        let Some(event) = self.events.get(self.at) else { return false };
        match event {
            Event::Changed(change) => self.pending.push(change.clone()),
            Event::Synced => self.pending.drain(..).for_each(|change| change.apply(&mut self.synced)),
        }
        self.at += 1;
        true
    }

    /// The process was killed: all it wrote is there.
    fn killed(&self) -> Vec<u8> {
        let mut image = self.synced.clone();
        self.pending.iter().for_each(|change| change.apply(&mut image));
        image
    }

    /// As killed, but the last write was cut short at so many bytes.
    fn torn(&self, at: usize) -> Option<Vec<u8>> {
        let (Change::Write { offset, data }, before) = self.pending.split_last()? else { return None };
        let mut image = self.synced.clone();
        before.iter().for_each(|change| change.apply(&mut image));
        Change::Write { offset: *offset, data: data.get(..at)?.to_vec() }.apply(&mut image);
        Some(image)
    }
}

struct Check<'a> {
    rig: &'a Rig,
    images: usize,
    /// Of them, how many were opened, stopped within that and opened again.
    again: usize,
    random: SeededRandom,
}

impl Check<'_> {
    /// Recovers an image of a stop after `at` events.
    fn recover(&mut self, image: Vec<u8>, at: usize, what: &str) {
        let acknowledged = self.rig.acknowledged.iter().rev().find(|(from, _)| *from <= at).unwrap().1;
        let begun = self.rig.acknowledged.iter().find(|(from, _)| *from >= at).map_or(u64::MAX, |(_, upto)| *upto);
        let disk = ModelDisk::with(image);
        let random = &self.random;
        let deep = random.next_u64().is_multiple_of(8);
        if deep {
            disk.record();
        }
        let before = disk.contents();
        self.expect(&disk, acknowledged, begun, &format!("{what} after {at} events"));
        self.images += 1;
        if deep {
            // Stopped again while recovering, or just after.
            let events = disk.recorded();
            let mut images = Images { events: &events, synced: before, pending: vec![], at: 0 };
            let stop = random.next_u64() as usize % (events.len() + 1);
            while images.at < stop && images.step() {}
            let image = survivors(images.synced.clone(), &images.pending, || random.next_u64());
            let what = format!("{what} after {at} events and {stop} of recovery");
            self.expect(&ModelDisk::with(image), acknowledged, begun, &what);
            self.again += 1;
        }
    }

    fn expect(&self, disk: &ModelDisk, acknowledged: u64, begun: u64, what: &str) {
        let (journal, recovered, mut rows) =
            open(backend(disk, acknowledged), Mode::Inline).unwrap_or_else(|error| panic!("{what}: {error}"));
        // Of the recovery that was stopped.
        rows.remove(&(Table::Notes, b"after".to_vec()));
        assert!(self.rig.may_be(&rows, acknowledged, begun), "{what}: not what was acknowledged");
        assert_eq!(recovered.rolled_back, None, "{what}: nothing was damaged");
        // It goes on from there.
        let mut batch = Batch::new();
        batch.put(Table::Notes, b"after", what.as_bytes());
        let _ = journal.append(&batch, Urgency::Now);
        journal.pump();
        assert!(journal.ready().is_ok(), "{what}");
        journal.abandon();
    }
}

#[tokio::test]
async fn whatever_a_stop_leaves_holds_all_that_was_acknowledged_and_nothing_else() {
    let (seeds, rounds, every, reorderings) = if full() { (4, 40, 1, 8) } else { (2, 26, 7, 1) };
    let (mut images, mut again, mut events_seen) = (0, 0, 0);
    for seed in 0..seeds {
        let rig = life(seed, rounds).await;
        let events = rig.events();
        let mut at = Images { events: &events, synced: rig.first.clone(), pending: vec![], at: 0 };
        let mut check = Check { rig: &rig, images: 0, again: 0, random: SeededRandom::new(!seed) };
        let random = SeededRandom::new(seed);
        while at.step() {
            if !(random.next_u64() as usize).is_multiple_of(every) {
                continue;
            }
            check.recover(at.killed(), at.at, "killed");
            for border in [512, 4_096] {
                if let Some(image) = at.torn(border) {
                    check.recover(image, at.at, "torn");
                }
            }
            for _ in 0..if at.pending.is_empty() { 0 } else { reorderings } {
                let image = survivors(at.synced.clone(), &at.pending, || random.next_u64());
                check.recover(image, at.at, "without power");
            }
        }
        images += check.images;
        again += check.again;
        events_seen += events.len();
    }
    eprintln!("{images} images of {events_seen} events recovered, {again} of them twice");
    assert!(images > 200 && again > 10);
}
