use proptest::prelude::*;
use queue_core::job::{Envelope, JobId, JobKind, Unique, UniqueKey};

use super::*;
use crate::rows::JobRow;

fn time(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn now() -> Now {
    Now { wall: time(5_000), mono: 1 << 60 }
}

fn envelope() -> Envelope {
    let mut parts =
        Envelope::builder(JobId::derive(b"golden", 1), JobKind::from_static("mail.send"), &b"{}"[..], time(0));
    parts.unique =
        Some(Box::new(Unique { key: UniqueKey::new("once").unwrap(), window: Some(Duration::from_secs(60)) }));
    parts.seal()
}

fn smallest() -> Entry {
    Entry::new(envelope(), JobState::Running, 7, 1, time(1))
}

fn fullest() -> Entry {
    let mut entry = Entry::new(envelope(), JobState::Retrying, 0x0102_0304_0506_0708, 1, time(1));
    entry.rank = 9;
    entry.marked = true;
    entry.orphaned = true;
    entry.attempt = 3;
    entry.started_count = 2;
    entry.turn_at = now().mono + 1_500_000_000;
    entry.settled = Some(Settled::new(6, 0xAB));
    entry.changed_at = time(2);
    entry.started_at = Some(time(3));
    let error = JobError::custom("E", "é").permanent().with_detail("more");
    *entry.details_mut() = Details {
        parked: Some(ParkKey("limit".into())),
        cancel: Some(Cancel { by: "me".into(), grace: Duration::from_millis(1_234) }),
        progress: Some(Bytes::from_static(b"{\"percent\":5}")),
        result: Some(Bytes::new()),
        error: Some(error.clone()),
        history: vec![PastFailure { attempt: 2, at: time(1), error }],
        logs: vec![Bytes::from_static(b"line"), Bytes::new()],
    };
    entry
}

fn encode(entry: &Entry, worker: Option<&str>, now: Now) -> Bytes {
    let mut row = Vec::new();
    StateRow::write(entry, worker, now, &mut row);
    Bytes::from(row)
}

fn job_row() -> Bytes {
    let mut row = Vec::new();
    JobRow::write(time(1), 3, &envelope(), &mut row);
    Bytes::from(row)
}

/// What is written comes back, and a second writing is the same.
fn returns(entry: &Entry, worker: Option<&str>) {
    let row = encode(entry, worker, now());
    let read = StateRow::decode(row.clone()).unwrap();
    assert_eq!(read.worker.as_deref(), worker);
    let later = Now { wall: now().wall + Duration::from_secs(1), mono: now().mono + 1_000_000_000 };
    let restored = Entry::restored(entry.envelope.clone(), entry.submitted_at, read, 1, later);
    assert_eq!(restored.details(), entry.details());
    // Never early, and at most by a millisecond and its rounding late.
    assert!((entry.turn_at..=entry.turn_at + 2_000_000).contains(&restored.turn_at), "{}", restored.turn_at);
    let mut again = restored;
    again.turn_at = entry.turn_at;
    assert_eq!(encode(&again, worker, now()), row);
}

#[test]
fn a_state_comes_back_as_it_was() {
    returns(&smallest(), None);
    returns(&fullest(), Some("w-1"));
    for state in JobState::ALL {
        returns(&Entry::new(envelope(), state, 7, 1, time(1)), Some("é"));
    }
}

/// An older program's files are read by this one: a change here is a new version, not another file.
#[test]
fn rows_are_the_published_ones() {
    let rows = [
        ("state_smallest.v1", encode(&smallest(), None, now())),
        ("state_fullest.v1", encode(&fullest(), Some("w-1"), now())),
        ("job.v1", job_row()),
    ];
    for (name, row) in rows {
        let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = format!("{}/tests/golden/{name}.hex", env!("CARGO_MANIFEST_DIR"));
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(hex, published.trim_end(), "{path}: is that meant?");
    }
}

#[test]
fn a_job_comes_back_and_a_newer_version_is_told_from_nonsense() {
    let row = job_row();
    let found = JobRow::decode(row.clone()).unwrap();
    assert_eq!(found, JobRow { submitted_at: time(1), partition: 3, envelope: envelope() });
    let with = |row: &[u8], at: usize, byte: u8| {
        let mut row = row.to_vec();
        row[at] = byte;
        Bytes::from(row)
    };
    assert_eq!(JobRow::decode(with(&row, 0, 9)), Err(Broken::Newer(9)));
    assert_eq!(JobRow::decode(with(&row, 11, 9)), Err(Broken::Newer(9)), "the envelope's own version");
    assert_eq!(JobRow::decode(with(&row, 0, 0)), Err(Broken::Record("there is no such version")));
    let state = encode(&smallest(), None, now());
    assert_eq!(StateRow::decode(with(&state, 0, 2)).unwrap_err(), Broken::Newer(2));
    assert_eq!(StateRow::decode(with(&state, 1, 9)).unwrap_err(), Broken::Record("there is no such state"));
    assert_eq!(StateRow::decode(with(&state, 2, 32)).unwrap_err(), Broken::Record("there are no such flags"));
}

#[test]
fn no_prefix_is_taken_for_a_whole() {
    for row in [encode(&fullest(), Some("w"), now()), encode(&smallest(), None, now())] {
        for len in 0..row.len() {
            assert!(StateRow::decode(row.slice(..len)).is_err(), "{len} of {}", row.len());
        }
        let longer: Vec<u8> = row.iter().copied().chain([0]).collect();
        assert!(StateRow::decode(Bytes::from(longer)).is_err());
    }
}

proptest! {
    /// Whatever comes, it is answered, and nothing large is made of a few bytes.
    #[test]
    fn nonsense_is_refused_in_peace(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
        let _ = StateRow::decode(Bytes::from(bytes.clone()));
        let _ = JobRow::decode(Bytes::from(bytes));
        let mut row = encode(&fullest(), Some("w"), now()).to_vec();
        let at = at.index(row.len());
        row[at] = byte;
        if let Ok(read) = StateRow::decode(Bytes::from(row)) {
            let details = read.details.unwrap_or_default();
            prop_assert!(details.history.len() <= JobRecord::MAX_HISTORY && details.logs.len() <= JobRecord::MAX_LOGS);
        }
    }
}
