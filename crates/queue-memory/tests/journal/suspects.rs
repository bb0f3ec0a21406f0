//! Jobs that may have ended the process.

use queue_core::{
    lifecycle::JobState,
    provider::{Beat, Cancel},
    store::CancelOutcome,
};

use super::*;

fn started(delivery: &Delivery) -> Beat {
    Beat { started: true, ..Beat::extend(delivery.receipt, seconds(60)) }
}

/// Each process runs the job as a worker does, and dies of it.
#[tokio::test(start_paused = true)]
async fn a_job_that_kills_its_process_is_counted_and_ends() {
    let mut rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1)]).await;
    let mut counts = Vec::new();
    for _ in 0..6 {
        let consumer = rig.consumer(9).await;
        let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
        counts.push((delivery.redelivered, delivery.started_before));
        if delivery.redelivered {
            // A worker waits for this before it runs the job.
            consumer.heartbeat(&[started(&delivery)]).await;
        }
        rig = rig.crash();
    }
    // Of the first claim the disk knows nothing; the second is there before the job is handed out.
    assert_eq!(counts, [(false, 0), (false, 0), (true, 0), (true, 1), (true, 2), (true, 3)]);
    // One that is settled was not the cause.
    let consumer = rig.consumer(9).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    consumer.heartbeat(&[started(&delivery)]).await;
    let back = Disposition::Release { after: Duration::ZERO, reason: queue_core::provider::ReleaseReason::Busy };
    assert!(settle(&*consumer, &delivery, back).await.is_settled());
    let delivery = rig.crash().fetch(1).await.remove(0);
    assert_eq!((delivery.redelivered, delivery.started_before), (false, 4));
}

/// What was merely fetched is not blamed, however often the process dies.
#[tokio::test(start_paused = true)]
async fn a_job_that_was_never_started_is_not_counted() {
    let mut rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1)]).await;
    for _ in 0..12 {
        assert_eq!(rig.fetch(1).await[0].started_before, 0);
        rig = rig.crash();
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_orderly_end_nobody_is_suspect() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1)]).await;
    let rig = rig.restart().await;
    assert_eq!(rig.fetched(1).await, [1]);
    let rig = rig.crash();
    assert!(!rig.fetch(1).await[0].redelivered, "its first claim was not awaited");
}

/// A suspect that cannot be noted is not handed out, stands where it stood and is as suspect as before.
#[tokio::test(start_paused = true)]
async fn a_suspect_waits_for_the_disk() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=2).map(job)).await;
    let rig = rig.crash();
    let consumer = rig.consumer(9).await;
    rig.disk.refuse(Some(std::io::ErrorKind::StorageFull));
    let error = consumer.fetch(1, Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), queue_core::ErrorCode::Unavailable, "{error}");
    assert_eq!((rig.stats().await.pending, rig.stats().await.running), (2, 0));
    rig.disk.refuse(None);
    rig.provider.maintain(true).await.unwrap();
    let deliveries = consumer.fetch(1, Duration::ZERO).await.unwrap();
    assert_eq!(numbers(&deliveries), [1]);
    let delivery = rig.crash().fetch(2).await;
    assert_eq!((numbers(&delivery), delivery[0].redelivered), (vec![1, 2], true));
}

/// A start that is not on disk is answered with no answer.
#[tokio::test(start_paused = true)]
async fn a_start_that_cannot_be_noted_is_unknown() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted([job(1)]).await;
    rig.fetch(1).await;
    rig.provider.maintain(true).await.unwrap();
    let rig = rig.crash();
    let consumer = rig.consumer(1).await;
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    assert!(delivery.redelivered);
    rig.disk.refuse(Some(std::io::ErrorKind::StorageFull));
    for _ in 0..2 {
        let outcome = consumer.heartbeat(&[started(&delivery)]).await.remove(0);
        assert!(matches!(outcome, queue_core::provider::BeatOutcome::Unknown(_)), "{outcome:?}");
    }
    rig.disk.refuse(None);
    rig.provider.maintain(true).await.unwrap();
    for refuse in [None, Some(std::io::ErrorKind::StorageFull)] {
        // Once it is there, it is: the job goes on whatever the disk does.
        rig.disk.refuse(refuse);
        let outcome = consumer.heartbeat(&[started(&delivery)]).await.remove(0);
        assert!(matches!(outcome, queue_core::provider::BeatOutcome::Held(_)), "{outcome:?}");
    }
    // A beat that starts nothing keeps the lease, disk or no disk.
    let outcome = consumer.heartbeat(&[Beat::extend(delivery.receipt, seconds(60))]).await.remove(0);
    assert!(matches!(outcome, queue_core::provider::BeatOutcome::Held(_)), "{outcome:?}");
}

/// One that was cancelled while the disk was waited for does not come back.
#[tokio::test]
async fn a_suspect_that_is_cancelled_before_it_is_handed_out_is_over() {
    let rig = Rig::with_queue(|_| {}).await;
    rig.accepted((1..=100).map(job)).await;
    rig.provider.abandon();
    let disk = ModelDisk::with(rig.disk.contents());
    let provider = MemoryProvider::open(&JournalOptions::on_disk(&disk, false), rig.env.clone()).unwrap();
    let options = ConsumeOptions { lease: seconds(3_600), ..ConsumeOptions::new("w", 200) };
    let consumer = provider.consumer(&queue(), options).await.unwrap();
    let store = provider.job_store().unwrap();
    let cancel = Cancel { by: "me".into(), grace: seconds(1) };
    for n in 1..=100 {
        let mut fetch = consumer.fetch(1, Duration::ZERO);
        if std::future::poll_fn(|cx| std::task::Poll::Ready(fetch.as_mut().poll(cx))).await.is_ready() {
            // The disk was faster.
            continue;
        }
        let reference = [JobRef::new(queue(), id(n))];
        assert_eq!(*store.cancel(&reference, &cancel).await[0].as_ref().unwrap(), CancelOutcome::Requested);
        drop(fetch);
        let Lookup::Found(record) = store.get(&reference).await.remove(0).unwrap() else { panic!("it is there") };
        assert_eq!(record.state, JobState::Cancelled);
        return;
    }
    panic!("the disk is never waited for");
}
