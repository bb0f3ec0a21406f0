//! All that a ledger holds, in words that do not depend on slots and on when its process began.

use std::{collections::BTreeMap, fmt::Debug};

use queue_core::lifecycle::JobState;

use super::super::{
    ledger::Ledger,
    record::{Copy, Tracked},
};
use crate::queue::{Moment, Now};

/// What is known under each name, and the moments in it.
pub(super) type Portrait = BTreeMap<String, (String, Vec<Moment>)>;

/// Wall-clock times have no parts of a millisecond, and none is early.
const GRAIN: Moment = 2_000_000;

pub(super) fn portrait(ledger: &Ledger, now: Now) -> Portrait {
    let mut all = Portrait::new();
    let mut note = |name: String, what: &dyn Debug, moments: Vec<Moment>| {
        let moments = moments.into_iter().map(|moment| moment.max(now.mono)).collect();
        assert!(all.insert(name.clone(), (format!("{what:?}"), moments)).is_none(), "{name} twice");
    };
    for (_, record) in ledger.slots.iter_from(0) {
        let (what, moments) = paint(record);
        note(format!("job {}", record.reference()), &what, moments);
    }
    let name_of = |slot: u32| ledger.slots.get(slot).map(|record| record.reference().to_string());
    for (queue, room) in ledger.rooms.iter() {
        let states = JobState::ALL.map(|state| room.number_of(state));
        if states.iter().sum::<u64>() + room.submitted + room.control.version > 0 {
            let totals = (states, &room.control, room.submitted, room.completed, room.failed);
            let finished: Vec<_> = room.finished.iter().map(|slot| name_of(*slot)).collect();
            let mut dead: Vec<_> = room.dead.iter().map(|(died, slot)| (died, name_of(*slot))).collect();
            dead.sort();
            note(format!("queue {queue}"), &(totals, finished, room.finished_bytes, dead), Vec::new());
        }
        for (key, line) in &room.parked {
            let line: Vec<_> = line.iter().map(|(ticket, slot)| (ticket, name_of(*slot))).collect();
            note(format!("parked {queue} {key:?}"), &line, Vec::new());
        }
        for (key, id, until) in room.holds() {
            note(format!("key {queue} {}", key.as_str()), &(id, until.is_some()), until.into_iter().collect());
        }
    }
    for (name, what) in ledger.tombstones.words() {
        note(name, &what, Vec::new());
    }
    all
}

fn paint(record: &Tracked) -> (String, Vec<Moment>) {
    let job = &record.job;
    let mut moments = Vec::new();
    let copy = match record.copy {
        Copy::Sent => "sent".to_owned(),
        Copy::Staged { until, lease, origin } => {
            // Nobody looks at it any more once the job is over.
            moments.extend((!job.state.is_terminal()).then_some(until));
            format!("staged {origin:?} for {lease:?}")
        }
    };
    // A lease begins anew, and an end that is past says nothing.
    if record.due.is_some() || record.is_parked() {
        moments.push(job.turn_at);
    }
    let (mut whole, details) = (Vec::new(), job.details().filter(|details| !details.is_empty()));
    let mut say = |what: &dyn Debug| whole.push(format!("{what:?}"));
    say(&(&record.queue, record.place, &record.provider, &record.worker, record.claimed, record.due));
    say(&(record.announced, record.lease, record.row.number, copy, record.appointment().map(|(agenda, _)| agenda)));
    say(&(job.envelope.encode(), job.ticket, job.state, job.marked, job.orphaned, job.attempt, job.started_count));
    say(&(job.settled, job.submitted_at, job.changed_at, job.started_at, details));
    (whole.join("\n  "), moments)
}

/// Panics with what differs.
pub(super) fn compare(lived: &Portrait, recovered: &Portrait) {
    for (name, (what, moments)) in lived {
        let Some((kept, times)) = recovered.get(name) else { panic!("{name} is not in the journal: {what}") };
        assert_eq!(what, kept, "{name}");
        let near = moments.iter().zip(times).all(|(one, other)| one.abs_diff(*other) <= GRAIN);
        assert!(near && moments.len() == times.len(), "{name}: {moments:?} and {times:?}\n{what}");
    }
    let more: Vec<_> = recovered.keys().filter(|name| !lived.contains_key(*name)).collect();
    assert!(more.is_empty(), "only the journal knows of {more:?}");
}
