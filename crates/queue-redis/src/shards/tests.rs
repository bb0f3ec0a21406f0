use queue_core::{
    Envelope, ErrorCode, JobId, QueueName, QueueSpec,
    job::{JobKind, Timestamp, Unique, UniqueKey},
    queue_spec::Retention,
};

use super::{conflict, settled, share, turns::width};
use crate::{layout::Layout, specs::Known};

fn spec(shards: Option<u16>, max_len: Option<u64>) -> QueueSpec {
    let mut spec = QueueSpec::new(QueueName::from_static("mail"));
    (spec.shards, spec.max_len) = (shards, max_len);
    spec
}

fn known(shards: u16) -> Known {
    let spec = spec(Some(shards).filter(|shards| *shards > 1), None);
    Known::new(&Layout::new("queue"), spec, Vec::new().into(), "1".into())
}

fn job(id: u64, key: Option<&str>) -> Envelope {
    let id = JobId::derive(b"shards", id);
    let kind = JobKind::from_static("test.job");
    let job = Envelope::builder(id, kind, "{}", Timestamp::from_millis(1)).seal();
    job.edit(|parts| {
        parts.unique = key.map(|key| Box::new(Unique { key: UniqueKey::new(key).unwrap(), window: None }));
    })
}

#[test]
fn a_queue_of_one_is_as_it_always_was() {
    let known = known(1);
    let [only] = known.parts() else { panic!("{known:?}") };
    assert_eq!((&*only.base, only.spec.max_len), ("queue:{mail}:", None));
    for declared in [None, Some(1)] {
        assert_eq!(settled(&spec(declared, None), 1), spec(None, None), "{declared:?}");
    }
}

#[test]
fn who_waits_in_a_shard_is_found_there_by_every_version() {
    let known = known(8);
    let place = |id, key| known.shard_of(&job(id, key)).place;
    // Pinned: jobs of older versions stand where these say.
    assert_eq!([1, 2, 5, 6, 7, 8].map(|id| place(id, None)), [4, 4, 0, 6, 6, 7]);
    assert_eq!(["a", "b", "a key"].map(|key| place(1, Some(key))), [7, 4, 0]);
    assert_eq!(place(2, Some("a")), place(1, Some("a")));
}

#[test]
fn jobs_are_spread_evenly() {
    for shards in [2, 3, 7, 64] {
        let known = known(shards);
        let mut counts = vec![0_u32; usize::from(shards)];
        for id in 0..16_000 {
            counts[usize::from(known.shard_of(&job(id, None)).place)] += 1;
        }
        let even = 16_000 / u32::from(shards);
        assert!(counts.iter().all(|count| (even * 7 / 10..=even * 13 / 10).contains(count)), "{counts:?}");
    }
}

#[test]
fn a_place_that_is_known_is_looked_at_first() {
    let known = known(8);
    let id = job(1, None).id;
    assert_eq!(known.guess(id, 5), 5);
    for unknown in [0, 8, 65_535] {
        assert_eq!(known.guess(id, unknown), known.shard_of(&job(1, None)).place);
    }
}

#[test]
fn shares_bound_what_was_declared() {
    for (shards, max_len) in [(2, 3), (4, 4), (7, 1_000), (64, 100_000)] {
        let spec = spec(Some(shards), Some(max_len));
        assert!(spec.validate().is_ok());
        let shares = (0..shards).map(|place| share(&spec, place).max_len.unwrap());
        let shares: Vec<u64> = shares.collect();
        assert_eq!(shares.iter().sum::<u64>(), max_len);
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    }
    let mut spec = spec(Some(4), None);
    spec.retention = Retention { count: 2, bytes: 0, ..Retention::default() };
    let shared = share(&spec, 3).retention;
    assert_eq!((shared.count, shared.bytes, shared.age), (1, 0, spec.retention.age));
}

#[test]
fn a_small_queue_is_spread_only_where_it_says_so() {
    for (declared, max_len, kept) in [
        (None, None, Some(4)),
        (None, Some(100_000), Some(4)),
        (None, Some(2_500), Some(2)),
        (None, Some(999), None),
        (Some(1), None, None),
        (Some(8), Some(10), Some(8)),
    ] {
        assert_eq!(settled(&spec(declared, max_len), 4).shards, kept, "{declared:?} {max_len:?}");
    }
}

#[test]
fn another_number_of_shards_is_a_conflict_by_name() {
    let four = known(4);
    assert!(conflict(&four, &spec(None, None)).is_none());
    assert!(conflict(&four, &spec(Some(4), None)).is_none());
    assert!(conflict(&known(1), &spec(Some(1), None)).is_none());
    for (known, asked) in [(&four, 2), (&four, 1), (&known(1), 2)] {
        let error = conflict(known, &spec(Some(asked), None)).unwrap();
        assert_eq!(error.code(), ErrorCode::Conflict);
        assert!(error.message().contains("`shards`"), "{error}");
    }
}

#[test]
fn no_more_is_asked_for_than_there_is_room_for() {
    for room in 1..=300 {
        for left in 1..=64 {
            for is_first in [true, false] {
                let (width, each) = width(room, left, is_first, 100);
                assert!(width >= 1 && width <= left && (1..=100).contains(&each), "{room} {left}");
                assert!(width * each <= room, "{width} of {each} into {room}");
            }
        }
    }
    assert_eq!(width(8, 4, true, 100), (1, 8), "one call where it may be enough");
    assert_eq!(width(8, 3, false, 100), (3, 2));
}
