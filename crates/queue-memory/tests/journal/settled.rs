//! What an answer is worth.

use queue_core::{ErrorCode, job::JobError, provider::Beat};

use super::*;

/// A queue of each durability loses at a crash what it may lose, and nothing else.
#[tokio::test(start_paused = true)]
async fn an_answer_is_worth_what_the_durability_says() {
    for (durability, left) in [
        (None, 2),
        (Some(Durability::Synced), 2),
        (Some(Durability::Interval(seconds(5))), 1),
        (Some(Durability::Relaxed), 1),
    ] {
        let rig = Rig::with_queue(|spec| spec.durability = durability).await;
        // One that asks for more, which takes all before it along; then one that does not.
        let options = PublishOptions { durability: Some(Durability::Synced), ..PublishOptions::default() };
        assert!(rig.provider.publish(&queue(), vec![job(1)], &options).await[0].is_accepted());
        rig.accepted([job(2)]).await;
        let rig = rig.crash();
        assert_eq!(rig.stats().await.pending, left, "{durability:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_file_cannot_give_is_refused() {
    let rig = Rig::new();
    let copies = Durability::Replicated { replicas: 2, timeout: seconds(1) };
    let mut spec = QueueSpec::new(queue());
    spec.durability = Some(copies);
    assert_eq!(rig.provider.declare(&spec).await.unwrap_err().code(), ErrorCode::Unsupported);
    let options = PublishOptions { durability: Some(copies), ..PublishOptions::default() };
    assert!(matches!(rig.provider.publish(&queue(), vec![job(1)], &options).await[0], PublishOutcome::Rejected(_)));
    assert_eq!(rig.provider.capabilities(None).durability, ["synced", "interval", "relaxed"]);

    let memory = MemoryProvider::with_env(Env::seeded(START, 1));
    let options = PublishOptions { durability: Some(Durability::Synced), ..PublishOptions::default() };
    assert!(matches!(memory.publish(&queue(), vec![job(1)], &options).await[0], PublishOutcome::Rejected(_)));
    assert_eq!(memory.note("k", "v", Durability::Synced).await.unwrap_err().code(), ErrorCode::Unsupported);
    memory.note("k", "v", Durability::Relaxed).await.unwrap();
    assert_eq!(memory.capabilities(None).durability, ["relaxed"]);
    assert!(memory.recovery().is_none());
}

/// A settlement whose answer was lost in the crash is repeated to the next process.
#[tokio::test(start_paused = true)]
async fn a_settlement_is_known_after_a_crash_and_a_lost_one_is_not() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=3).map(job)).await;
    let consumer = rig.consumer(9).await;
    let deliveries = consumer.fetch(9, Duration::ZERO).await.unwrap();
    assert!(settle(&*consumer, &deliveries[0], done()).await.is_settled());
    let rig = rig.crash();
    let consumer = rig.consumer(9).await;
    assert!(matches!(settle(&*consumer, &deliveries[0], done()).await, SettleOutcome::AlreadySettled));
    let other = Disposition::DeadLetter { error: JobError::custom("E", "no") };
    assert!(matches!(settle(&*consumer, &deliveries[0], other).await, SettleOutcome::Conflict));
    assert!(matches!(settle(&*consumer, &deliveries[1], done()).await, SettleOutcome::LeaseLost));
    // The new process gives out no ticket of the old one, whatever of it the disk has seen.
    let again = consumer.fetch(9, Duration::ZERO).await.unwrap();
    assert_eq!(numbers(&again), [2, 3]);
    for (old, new) in deliveries[1..].iter().zip(&again) {
        assert!(new.receipt.epoch > old.receipt.epoch + 1_000);
        assert!(matches!(settle(&*consumer, old, done()).await, SettleOutcome::LeaseLost));
        assert!(settle(&*consumer, new, done()).await.is_settled());
    }
}

/// The future that settles is dropped while it waits: the change stands, and its repetition is answered so.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_loses_only_its_answer() {
    let disk = ModelDisk::new();
    let rig = Rig::on(disk.clone(), Env::seeded(START, 1));
    rig.provider.declare(&QueueSpec::new(queue())).await.unwrap();
    rig.accepted([job(1)]).await;
    let consumer = rig.consumer(9).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    disk.refuse(Some(std::io::ErrorKind::StorageFull));
    let outcome = settle(&*consumer, &delivery, done()).await;
    assert!(matches!(outcome, SettleOutcome::Unknown(_)), "{outcome:?}");
    disk.refuse(None);
    rig.provider.maintain(true).await.unwrap();
    assert!(matches!(settle(&*consumer, &delivery, done()).await, SettleOutcome::AlreadySettled));
    assert_eq!(rig.crash().stats().await.finished, 1);
}

/// Progress, logs and a request to stop are part of the record.
#[tokio::test(start_paused = true)]
async fn what_a_running_job_said_is_kept() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1)]).await;
    let consumer = rig.consumer(9).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let beat =
        Beat { progress: Some("{}".into()), logs: vec!["line".into()], ..Beat::extend(delivery.receipt, seconds(9)) };
    consumer.heartbeat(&[beat]).await;
    rig.provider.maintain(true).await.unwrap();
    let record = rig.crash().record(1).await;
    assert_eq!((record.progress.as_deref(), record.logs.len()), (Some(&b"{}"[..]), 1));
}
