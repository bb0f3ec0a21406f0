//! Nonsense in the keys of a queue, while it is at work: nobody panics or waits for ever, and others go on.

use std::time::Duration;

use queue_core::{
    Consumer, Envelope, JobError, QueueName, QueueProvider as _,
    job::{JobRef, Unique, UniqueKey},
    provider::{
        Beat, BeatOutcome, Cancel, DeadFilter, Delivery, Disposition, ParkKey, PublishOutcome, Redrive, SettleOutcome,
        Settlement,
    },
    store::{CancelOutcome, JobQuery},
};
use queue_redis::RedisProvider;

use crate::rig::{Rig, accepted, complete, consumer, envelope, id, publish};

const LEASE: Duration = Duration::from_secs(30);

fn keyed(n: u64, key: &str) -> Envelope {
    let unique = Unique { key: UniqueKey::new(key).unwrap(), window: None };
    envelope(n).edit(|parts| parts.unique = Some(Box::new(unique)))
}

fn later(n: u64) -> Envelope {
    let at = queue_core::Env::system().now();
    envelope(n).edit(|parts| parts.not_before = Some(at + Duration::from_secs(600)))
}

fn retry() -> Disposition {
    Disposition::Retry { after: Duration::ZERO, error: JobError::custom("BAD", "again") }
}

fn bury() -> Disposition {
    Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }
}

fn park() -> Disposition {
    Disposition::Park { key: ParkKey("k".into()), at_most: Duration::from_secs(600) }
}

fn beat(delivery: &Delivery) -> Beat {
    let mut beat = Beat::extend(delivery.receipt, LEASE);
    (beat.started, beat.logs) = (true, vec!["a line".into()]);
    beat
}

async fn settle(consumer: &dyn Consumer, taken: &[Delivery], how: Disposition) -> Vec<SettleOutcome> {
    let batch: Vec<_> = taken.iter().map(|one| Settlement::new(one.receipt, how.clone())).collect();
    consumer.settle(&batch).await
}

fn all_settled(outcomes: &[SettleOutcome]) -> bool {
    outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled))
}

/// Everything that is done to a queue, whatever comes of it.
async fn all_there_is(provider: &RedisProvider, queue: &QueueName, held: &[Delivery], worker: &dyn Consumer) {
    let (store, admin) = (provider.job_store().unwrap(), provider.admin());
    publish(provider, queue, vec![envelope(50), keyed(51, "a"), later(52)]).await;
    publish(provider, queue, vec![envelope(53)]).await;
    drop(worker.heartbeat(&held.iter().map(beat).collect::<Vec<_>>()).await);
    for (one, how) in held.iter().zip([complete(), retry(), bury(), park()]) {
        settle(worker, std::slice::from_ref(one), how).await;
    }
    drop(worker.fetch(10, Duration::from_millis(20)).await);
    drop(admin.stats(std::slice::from_ref(queue)).await);
    drop(store.list(&JobQuery::queue(queue.clone()), None, 100).await);
    let jobs: Vec<JobRef> = (0..60).map(|n| JobRef::new(queue.clone(), id(n))).collect();
    drop(store.get(&jobs).await);
    drop(store.cancel(&jobs[..3], &Cancel::by("hand")).await);
    drop(admin.position(&jobs[4]).await);
    drop(admin.parked(queue, 10).await);
    drop(admin.dead(queue, &DeadFilter::default(), None, 10).await);
    drop(admin.redrive(queue, &Redrive::all()).await);
    drop(admin.drop_dead(queue, &DeadFilter::default()).await);
    drop(provider.unpark(queue, &ParkKey("k".into()), 10).await);
    drop(admin.pause(queue, true).await);
    drop(admin.pause(queue, false).await);
    drop(provider.maintain(true).await);
    drop(admin.purge(queue).await);
    drop(provider.maintain(true).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_its_queues_trouble_alone() {
    let Some(rig) = Rig::new() else { return };
    let other = QueueName::from_static("other");
    let lanes = (1..=15).map(|n| format!("r{n}"));
    let names =
        ["spec", "n", "j", "s", "i", "h", "t", "x", "u", "w", "d", "c", "a", "b", "y", "z", "l", "k", "k:k", "m", "q"];
    let names = names.map(str::to_owned).into_iter().chain(["v", "e", "ix", "f"].map(str::to_owned)).chain(lanes);
    for name in names {
        rig.say("FLUSHALL");
        let provider = rig.connect().await;
        let (here, there) = (rig.consumer(&provider, LEASE).await, consumer(&provider, &other, LEASE).await);
        for queue in [&rig.queue, &other] {
            assert!(accepted(&publish(&provider, queue, (0..8).map(envelope).collect()).await));
        }
        let held = here.fetch(4, Duration::ZERO).await.unwrap();
        rig.say(&format!("DEL {}", rig.key(&name)));
        let nonsense = if name == "spec" { "HSET KEY a b" } else { "SET KEY x" };
        rig.say(&nonsense.replace("KEY", &rig.key(&name)));
        let all = all_there_is(&provider, &rig.queue, &held, &*here);
        tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .unwrap_or_else(|_| panic!("{name}: it takes for ever"));

        assert!(accepted(&publish(&provider, &other, (8..16).map(envelope).collect()).await), "{name}");
        let taken = there.fetch(20, Duration::from_secs(1)).await.unwrap();
        assert_eq!(taken.len(), 16, "{name}");
        assert!(all_settled(&settle(&*there, &taken, complete()).await), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_cut_is_its_jobs_trouble_alone() {
    let Some(rig) = Rig::new() else { return };
    let provider = rig.connect().await;
    let worker = rig.consumer(&provider, LEASE).await;
    let cut = |key: &str, field: &[u8]| drop(rig.ask(&[b"HSET", rig.key(key).as_bytes(), field, b"x"]));
    let detail = |n: u64, letter: &[u8]| cut("i", &[id(n).as_bytes().as_slice(), letter].concat());
    assert!(accepted(&publish(&provider, &rig.queue, (0..6).map(|n| keyed(n, &n.to_string())).collect()).await));
    let taken = worker.fetch(10, Duration::ZERO).await.unwrap();

    // A key whose hold says nothing is nobody's, and keeps nobody who comes with it.
    cut("u", b"new");
    cut("u", b"0");
    assert!(accepted(&publish(&provider, &rig.queue, vec![keyed(20, "new"), envelope(21)]).await));
    // What was logged, asked or failed before.
    let store = provider.job_store().unwrap();
    let first = [JobRef::new(rig.queue.clone(), id(1))];
    store.cancel(&first, &Cancel::by("hand")).await;
    detail(1, b"c");
    let asked = store.cancel(&first, &Cancel::by("hand")).await;
    assert!(matches!(asked[0], Ok(CancelOutcome::Requested)), "{asked:?}");
    detail(2, b"l");
    let beaten = worker.heartbeat(&taken.iter().map(beat).collect::<Vec<_>>()).await;
    assert!(beaten.iter().all(|outcome| matches!(outcome, BeatOutcome::Held(_))), "{beaten:?}");
    detail(3, b"h");
    detail(4, b"h");
    assert!(all_settled(&settle(&*worker, &taken[3..5], retry()).await));
    cut("a", id(30).as_bytes());
    cut("y", id(30).as_bytes());
    let mut gone = taken[5].receipt;
    gone.id = id(30);
    let batch = [&taken[0], &taken[1], &taken[5]].map(|one| Settlement::new(one.receipt, complete()));
    let batch = [&batch[..], &[Settlement::new(gone, complete())]].concat();
    let outcomes = worker.settle(&batch).await;
    assert!(all_settled(&outcomes[..3]), "{outcomes:?}");
    assert!(matches!(outcomes[3], SettleOutcome::LeaseLost), "{outcomes:?}");
    let again = worker.fetch(10, Duration::ZERO).await.unwrap();
    assert_eq!(again.len(), 4, "two that are new, two to be tried again");
    assert!(all_settled(&settle(&*worker, &again, complete()).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_and_switches_that_are_no_numbers_are_mended() {
    let Some(rig) = Rig::new() else { return };
    for name in
        ["p", "s", "t", "r", "c", "k", "fbytes", "submitted", "completed", "ticket", "watched", "sleeping", "tick"]
    {
        rig.say("FLUSHALL");
        let provider = rig.connect().await;
        let worker = rig.consumer(&provider, LEASE).await;
        assert!(accepted(&publish(&provider, &rig.queue, (0..4).map(envelope).collect()).await));
        let held = worker.fetch(2, Duration::ZERO).await.unwrap();
        rig.say(&format!("HSET {} {name} x", rig.key("n")));
        provider.maintain(true).await.unwrap();
        let outcomes: Vec<PublishOutcome> = publish(&provider, &rig.queue, vec![envelope(4), later(5)]).await;
        assert!(accepted(&outcomes), "{name}: {outcomes:?}");
        assert!(all_settled(&settle(&*worker, &held, complete()).await), "{name}");
        let taken = worker.fetch(10, Duration::ZERO).await.unwrap();
        assert_eq!(taken.len(), 3, "{name}");
        assert!(all_settled(&settle(&*worker, &taken, complete()).await), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_cache_that_is_emptied_all_the_time_costs_nothing_but_time() {
    let Some(rig) = Rig::new() else { return };
    let provider = rig.connect().await;
    let sleeper = rig.consumer(&provider, LEASE).await;
    for n in 0..20 {
        let sleeping = tokio::spawn({
            let sleeper = std::sync::Arc::clone(&sleeper);
            async move { sleeper.fetch(1, Duration::from_secs(10)).await }
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        rig.say("SCRIPT FLUSH");
        assert!(accepted(&publish(&provider, &rig.queue, vec![envelope(n)]).await));
        let taken = sleeping.await.unwrap().unwrap();
        assert_eq!(taken.len(), 1, "{n}");
        rig.say("SCRIPT FLUSH");
        assert!(all_settled(&settle(&*sleeper, &taken, complete()).await));
    }
}
