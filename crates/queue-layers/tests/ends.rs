//! What was accepted comes to an end, however often it was tried before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use bed::{Bed, Process, complete, secs, settle, shapes};
use queue_core::{
    Envelope, JobError, QueueProvider,
    lifecycle::JobState,
    provider::{Disposition, PublishOutcome, Rejection, SettleOutcome},
};
use queue_testkit::faults::StoreCall;

/// The transport refuses it, and the record goes: whether its publisher heard so or not.
async fn refused_once(bed: &Bed, process: &Process, heard: bool) -> Envelope {
    let job = bed.job("job");
    bed.broker.faults(|faults| faults.refuse_publishes(&bed.queue, 1));
    if !heard {
        process.faults.lose_replies_to(StoreCall::Unstage, 1);
    }
    match process.publish(&job).await {
        PublishOutcome::Rejected(Rejection::Unavailable(_)) if heard => {}
        PublishOutcome::Unknown(_) if !heard => {}
        other => panic!("{other:?}"),
    }
    job
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_taken_back_may_be_tried_again_without_the_store() {
    for shape in shapes() {
        for heard in [true, false] {
            let bed = Bed::new(shape.clone());
            let process = bed.process();
            let job = refused_once(&bed, &process, heard).await;
            process.faults.outage(true);
            process.tracked.ping().await.unwrap();
            assert!(process.tracked.paired().unwrap().away.is_some(), "the layer has noticed");
            process.accepted(&job).await;
            process.faults.outage(false);
            assert_eq!(process.work_for(secs(120)).await.get("job"), Some(&vec![1]), "{shape:?}, heard: {heard}");
            assert_eq!(bed.state(job.id).await, JobState::Completed);
        }
    }
}

/// Somebody claims a job with that time to live, and dies.
async fn orphaned(bed: &Bed, live: u64) -> Envelope {
    let job = bed.job("job").edit(|job| job.expires_at = Some(bed.env.now() + secs(live)));
    let process = bed.process();
    process.accepted(&job).await;
    let consumer = process.consumer().await;
    process.take(&consumer).await;
    process.crash();
    job
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_worker_died_expires() {
    for shape in shapes() {
        // Before its lease is over; after the sweep has published it again.
        for live in [10, 100] {
            let bed = Bed::new(shape.clone());
            let job = orphaned(&bed, live).await;
            let process = bed.process();
            process.maintain_for(secs(80)).await;
            assert_eq!(bed.state(job.id).await == JobState::Expired, live == 10, "{shape:?}, {live} s to live");
            process.maintain_for(secs(120)).await;
            assert_eq!(bed.state(job.id).await, JobState::Expired, "{shape:?}, {live} s to live");
            assert!(process.work_for(secs(60)).await.is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_that_waits_does_not_hide_what_was_settled() {
    for shape in shapes() {
        let bed = Bed::new(shape.clone());
        let process = bed.process();
        let job = bed.job("job");
        process.accepted(&job).await;
        let consumer = process.consumer().await;
        let delivery = process.take(&consumer).await;
        assert!(matches!(settle(&consumer, &delivery, complete()).await, SettleOutcome::Settled));
        process.faults.lose_replies_to(StoreCall::Settle, 1);
        let dead = Disposition::DeadLetter { error: JobError::custom("OTHERWISE", "on second thoughts") };
        assert!(matches!(settle(&consumer, &delivery, dead).await, SettleOutcome::Unknown(_)));
        let again = settle(&consumer, &delivery, complete()).await;
        assert!(matches!(again, SettleOutcome::AlreadySettled), "{shape:?}: {again:?}");
        assert_eq!(bed.state(job.id).await, JobState::Completed);
    }
}
