//! A disk that refuses, and takes again.

use std::io::ErrorKind::StorageFull;

use queue_core::{
    ErrorCode,
    job::{Unique, UniqueKey},
    provider::{OnFull, Rejection},
    store::JobQuery,
};

use super::*;

fn unavailable(outcome: &PublishOutcome) -> bool {
    matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(error)) if error.code() == ErrorCode::Unavailable)
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_delays_and_loses_nothing() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=3).map(job)).await;
    rig.accepted([job(4).edit(|parts| parts.not_before = Some(START + seconds(10)))]).await;
    let consumer = rig.consumer(9).await;
    let deliveries = consumer.fetch(2, Duration::ZERO).await.unwrap();
    rig.disk.refuse(Some(StorageFull));
    // The first is in the queue before anybody knows of the disk; nothing more comes in.
    let outcomes = rig.publish([job(5)]).await;
    assert!(matches!(outcomes[0], PublishOutcome::Unknown(_)), "{outcomes:?}");
    let outcomes = rig.publish([job(6), job(7)]).await;
    assert!(outcomes.iter().all(unavailable), "{outcomes:?}");
    assert_eq!(rig.stats().await.submitted_total, 5);
    // Nothing new is handed out, nothing is settled, nothing is changed by hand.
    assert_eq!(consumer.fetch(1, seconds(1)).await.unwrap_err().code(), ErrorCode::Unavailable);
    assert!(matches!(settle(&*consumer, &deliveries[0], done()).await, SettleOutcome::Unknown(_)));
    let admin = rig.provider.admin();
    assert_eq!(admin.pause(&queue(), true).await.unwrap_err().code(), ErrorCode::Unavailable);
    assert_eq!(admin.purge(&queue()).await.unwrap_err().code(), ErrorCode::Unavailable);
    assert_eq!(rig.provider.note("k", "v", Durability::Relaxed).await.unwrap_err().code(), ErrorCode::Unavailable);
    assert!(!rig.stats().await.paused);
    // Time goes on.
    tokio::time::advance(seconds(11)).await;
    assert_eq!((rig.stats().await.scheduled, rig.stats().await.pending), (0, 3));

    rig.disk.refuse(None);
    rig.provider.maintain(true).await.unwrap();
    assert!(settle(&*consumer, &deliveries[0], done()).await.is_settled());
    rig.accepted([job(5), job(6)]).await;
    assert_eq!(numbers(&consumer.fetch(9, Duration::ZERO).await.unwrap()), [3, 5, 4, 6]);
    let rig = rig.crash();
    assert_eq!((rig.stats().await.finished, rig.stats().await.pending), (1, 5));
}

/// What the disk never took was never promised.
#[tokio::test(start_paused = true)]
async fn a_crash_on_a_full_disk_leaves_what_was_acknowledged() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1), job(2)]).await;
    let consumer = rig.consumer(9).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    rig.disk.refuse(Some(StorageFull));
    assert!(matches!(settle(&*consumer, &delivery, done()).await, SettleOutcome::Unknown(_)));
    assert_eq!(rig.stats().await.finished, 1, "in memory it is");
    let rig = rig.crash();
    assert_eq!((rig.stats().await.finished, rig.stats().await.pending), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn who_would_rather_wait_waits_for_the_disk() {
    let rig = Arc::new(Rig::with_queue(|_| {}).await);
    rig.disk.refuse(Some(StorageFull));
    assert!(matches!(rig.publish([job(1)]).await[0], PublishOutcome::Unknown(_)));
    let options = PublishOptions { on_full: OnFull::Wait, ..PublishOptions::default() };
    let waiting = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.provider.publish(&queue(), vec![job(2)], &options).await }
    });
    tokio::time::sleep(seconds(5)).await;
    assert!(!waiting.is_finished());
    rig.disk.refuse(None);
    assert!(waiting.await.unwrap()[0].is_accepted());
    assert_eq!(rig.stats().await.pending, 2);
}

#[tokio::test(start_paused = true)]
async fn a_close_says_what_it_could_not_keep() {
    let rig = Rig::with_queue(|spec| spec.durability = Some(Durability::Relaxed)).await;
    rig.accepted([job(1)]).await;
    rig.disk.refuse(Some(StorageFull));
    assert_eq!(rig.provider.close().await.unwrap_err().code(), ErrorCode::Unavailable);
}

/// The last connection ends the journal, not the first, and what comes after is told so.
#[tokio::test(start_paused = true)]
async fn the_last_connection_closes() {
    let rig = Rig::with_queue(|spec| spec.durability = Some(Durability::Relaxed)).await;
    let other = rig.provider.connect();
    rig.provider.close().await.unwrap();
    let outcomes = other.publish(&queue(), vec![job(1)], &PublishOptions::default()).await;
    assert!(outcomes[0].is_accepted());
    let consumer = other.consumer(&queue(), ConsumeOptions::new("w", 1)).await.unwrap();
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    other.close().await.unwrap();
    assert!(matches!(settle(&*consumer, &delivery, done()).await, SettleOutcome::Unknown(_)));
    assert_eq!(consumer.fetch(1, Duration::ZERO).await.unwrap_err().code(), ErrorCode::Closed);
    let rig = Rig::on(ModelDisk::with(rig.disk.contents()), rig.env.clone());
    assert!(rig.provider.recovery().unwrap().clean);
    assert!(rig.fetch(1).await[0].redelivered, "it ran when the last process ended");
}

/// Nobody closed it: it ends in order all the same, with what nobody waited for.
#[tokio::test(start_paused = true)]
async fn a_provider_that_is_dropped_writes_what_it_holds() {
    let rig = Rig::with_queue(|spec| spec.durability = Some(Durability::Relaxed)).await;
    rig.accepted([job(1)]).await;
    let (disk, env) = (rig.disk.clone(), rig.env.clone());
    drop(rig);
    assert_eq!(Rig::on(disk, env).fetched(9).await, [1]);
}

/// Publishers and workers on threads of their own, on a disk that comes and goes: what was acknowledged is there.
#[test]
fn what_was_acknowledged_on_a_flickering_disk_is_there() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let disk = ModelDisk::new();
    let left = runtime.block_on(async {
        let provider = MemoryProvider::open(&JournalOptions::on_disk(&disk, false), Env::system()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for part in 0..3u64 {
            let provider = provider.clone();
            tasks.spawn(async move {
                let mut accepted = Vec::new();
                for n in (0..40).map(|n| part * 1_000 + n) {
                    let options = PublishOptions { deadline: seconds(20), on_full: OnFull::Wait, ..Default::default() };
                    if provider.publish(&queue(), vec![job(n)], &options).await[0].is_accepted() {
                        accepted.push(n);
                    }
                }
                (accepted, Vec::new())
            });
        }
        let worker = provider.clone();
        tasks.spawn(async move {
            let consumer = worker.consumer(&queue(), ConsumeOptions::new("w", 10)).await.unwrap();
            let mut settled = Vec::new();
            while settled.len() < 60 {
                let Ok(deliveries) = consumer.fetch(5, seconds(1)).await else {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                };
                for delivery in deliveries {
                    while !settle(&*consumer, &delivery, done()).await.is_settled() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    settled.push(number(&delivery));
                }
            }
            (Vec::new(), settled)
        });
        let flickering = disk.clone();
        let flicker = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                flickering.refuse(Some(StorageFull));
                tokio::time::sleep(Duration::from_millis(10)).await;
                flickering.refuse(None);
            }
        });
        let (mut accepted, mut settled) = (Vec::new(), Vec::new());
        while let Some(done) = tasks.join_next().await {
            let (more, done) = done.unwrap();
            accepted.extend(more);
            settled.extend(done);
        }
        flicker.abort();
        disk.refuse(None);
        provider.abandon();
        accepted.retain(|n| !settled.contains(n));
        (accepted, settled)
    });
    let (accepted, settled) = left;
    assert!(accepted.len() + settled.len() > 60, "{} {}", accepted.len(), settled.len());
    runtime.block_on(async {
        let rig = Rig::on(ModelDisk::with(disk.contents()), Env::system());
        for n in accepted {
            assert_eq!(rig.record(n).await.state, queue_core::lifecycle::JobState::Pending, "{n}");
        }
        for n in settled {
            assert_eq!(rig.record(n).await.state, queue_core::lifecycle::JobState::Completed, "{n}");
        }
    });
}

/// Whoever closes once more waits as long as the first who did, and hears the same.
#[tokio::test]
async fn closing_again_waits_for_the_end_too() {
    let disk = ModelDisk::new();
    let options = JournalOptions::on_disk(&disk, false);
    let provider = MemoryProvider::open(&options, Env::seeded(START, 1)).unwrap();
    provider.declare(&QueueSpec::new(queue())).await.unwrap();
    disk.refuse(Some(StorageFull));
    provider.note("k", "v", Durability::Relaxed).await.unwrap();
    let first = tokio::time::timeout(Duration::from_millis(300), provider.close()).await;
    assert!(first.is_err(), "the disk is full: {first:?}");
    disk.refuse(None);
    provider.close().await.unwrap();
    let again =
        MemoryProvider::open(&JournalOptions::on_disk(&ModelDisk::with(disk.contents()), true), Env::seeded(START, 2));
    let again = again.unwrap();
    assert!(again.recovery().unwrap().clean, "it was closed");
    assert_eq!(again.notes().len(), 1);
}

/// What had been noted of a dropped queue's jobs while the disk refused goes with the queue: a row of theirs behind its end
/// would be a job without a queue, and nobody could open the journal again.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_dropped_after_trouble_leaves_no_row() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1), job(2).edit(|parts| parts.not_before = Some(START + seconds(10)))]).await;
    rig.disk.refuse(Some(StorageFull));
    assert!(matches!(rig.publish([job(3)]).await[0], PublishOutcome::Unknown(_)));
    tokio::time::advance(seconds(11)).await;
    assert_eq!(rig.stats().await.scheduled, 0, "it came due, which nobody could write down");
    rig.disk.refuse(None);
    rig.provider.pump();
    rig.provider.drop_queue(&queue(), false).await.unwrap();
    let rig = rig.crash();
    assert_eq!(rig.provider.recovery().unwrap().jobs, 0);
    assert!(rig.provider.admin().stats(&[queue()]).await[0].is_err());
}

/// An answer that only repeats another rests on the same commit.
#[tokio::test(start_paused = true)]
async fn a_repetition_is_no_surer_than_what_it_repeats() {
    let topic = QueueName::from_static("topic");
    let keyed = |n| {
        let unique = Unique { key: UniqueKey::new("key").unwrap(), window: None };
        job(n).edit(|parts| parts.unique = Some(Box::new(unique)))
    };
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1)]).await;
    let consumer = rig.consumer(9).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    rig.disk.refuse(Some(StorageFull));
    let batch = [Settlement::new(delivery.receipt, done()), Settlement::new(delivery.receipt, done())];
    let outcomes = consumer.settle(&batch).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Unknown(_))), "{outcomes:?}");
    let rig = rig.crash();
    assert_eq!(rig.stats().await.pending, 1, "which is why");

    let topics = rig.provider.topics().unwrap();
    topics.subscribe(&topic, &queue()).await.unwrap();
    rig.disk.refuse(Some(StorageFull));
    let outcomes = rig.publish([keyed(2), keyed(3)]).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, PublishOutcome::Unknown(_))), "{outcomes:?}");
    let rig = rig.crash();
    rig.disk.refuse(Some(StorageFull));
    let outcomes =
        rig.provider.topics().unwrap().publish(&topic, vec![keyed(2), keyed(3)], &PublishOptions::default()).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, PublishOutcome::Unknown(_))), "{outcomes:?}");
    assert_eq!(rig.crash().stats().await.pending, 1);
}

/// A disk that neither takes nor refuses, such as one on a network that is away.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "a disk answers in real time")]
async fn a_disk_that_does_not_answer_is_given_up_on() {
    let timed_out = |error: &queue_core::Error| error.code() == ErrorCode::Timeout;
    let disk = ModelDisk::new();
    let open = |disk: &ModelDisk| {
        let options = JournalOptions::on_disk(disk, false).answers_within(seconds(2));
        MemoryProvider::open(&options, Env::seeded(START, 1)).unwrap()
    };
    let provider = open(&disk);
    provider.note("before", "1", Durability::Synced).await.unwrap();
    disk.stall(true);
    let begun = std::time::Instant::now();
    assert!(timed_out(&provider.declare(&QueueSpec::new(queue())).await.unwrap_err()));
    let options = PublishOptions { deadline: seconds(1), ..PublishOptions::default() };
    let outcome = provider.publish(&queue(), vec![job(1)], &options).await.remove(0);
    assert!(matches!(&outcome, PublishOutcome::Unknown(error) if timed_out(error)), "{outcome:?}");
    assert!(timed_out(&provider.close().await.unwrap_err()));
    assert!(begun.elapsed() >= seconds(5), "2 s each, and the publisher's own deadline");
    // Nobody is held up by what is gone; and it ends in order once the disk is back.
    drop(provider);
    disk.stall(false);
    let again = || {
        let disk = ModelDisk::with(disk.contents());
        MemoryProvider::open(&JournalOptions::on_disk(&disk, true), Env::seeded(START, 2))
    };
    while !again().is_ok_and(|again| again.recovery().unwrap().clean) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let page = again().unwrap().job_store().unwrap().list(&JobQuery::default(), None, 9).await.unwrap();
    assert_eq!(page.items.len(), 1, "what was not answered for may be there");
}
