//! Another life for dead jobs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bench;

use std::time::Duration;

use bench::{START, consumer, fetched, ids, job, provider, publish, queue, run_one};
use queue_core::{
    ErrorCode, JobError, JobRef, QueueProvider, QueueSpec,
    job::Envelope,
    provider::{
        Beat, BeatOutcome, Cancel, DeadFilter, Disposition, Redrive, RedriveReport, RedriveSelection, Settlement,
    },
    queue_spec::Tracking,
};
use queue_memory::MemoryProvider;

fn dead() -> Disposition {
    Disposition::DeadLetter { error: JobError::custom("BROKEN", "no") }
}

fn living_for(seconds: u64) -> Envelope {
    job(1).edit(|parts| parts.expires_at = Some(START + Duration::from_secs(seconds)))
}

async fn redrive(provider: &MemoryProvider, times: usize, dry_run: bool) -> RedriveReport {
    let which = RedriveSelection::Jobs(vec![job(1).id; times]);
    provider.admin().redrive(&queue(), &Redrive { which, payload: None, dry_run }).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_new_life_forgets_who_wanted_the_old_one_to_stop() {
    let provider = provider();
    publish(&provider, [job(1)]).await;
    let consumer = consumer(&provider, 1).await;
    let taken = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let store = provider.job_store().unwrap();
    let reference = JobRef::new(queue(), job(1).id);
    store.cancel(&[reference], &Cancel::by("me")).await;
    consumer.settle(&[Settlement::new(taken.receipt, dead())]).await;
    assert_eq!(redrive(&provider, 1, false).await.redriven, 1);
    let again = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let BeatOutcome::Held(lease) =
        consumer.heartbeat(&[Beat::extend(again.receipt, Duration::from_secs(9))]).await[0].clone()
    else {
        panic!("it is leased")
    };
    assert!(lease.cancel.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_that_has_passed_is_lifted_and_one_that_has_not_stands() {
    for (seconds, outlives) in [(4, true), (20, false)] {
        let provider = provider();
        publish(&provider, [living_for(seconds)]).await;
        let consumer = consumer(&provider, 1).await;
        run_one(&*consumer, dead()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(redrive(&provider, 1, false).await.redriven, 1);
        let stats = async || provider.admin().stats(&[queue()]).await.remove(0).unwrap().pending;
        assert_eq!(stats().await, 1);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(fetched(&*consumer, 1).await, if outlives { ids([1]) } else { ids([]) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_named_twice_is_one() {
    let provider = provider();
    publish(&provider, [job(1)]).await;
    run_one(&*consumer(&provider, 1).await, dead()).await;
    let report = redrive(&provider, 2, true).await;
    assert_eq!((report.matched, report.redriven), (1, 0));
    let report = redrive(&provider, 2, false).await;
    assert_eq!((report.matched, report.redriven), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_edited_payload_that_is_too_large_is_refused_and_the_job_stays_dead() {
    let provider = provider();
    let mut spec = QueueSpec::new(queue());
    spec.max_encoded_len = 1_000;
    provider.declare(&spec).await.unwrap();
    publish(&provider, [job(1)]).await;
    run_one(&*consumer(&provider, 1).await, dead()).await;
    let edited =
        |bytes: usize, dry_run| Redrive { payload: Some(vec![b'x'; bytes].into()), dry_run, ..Redrive::one(job(1).id) };
    for dry_run in [true, false] {
        let error = provider.admin().redrive(&queue(), &edited(1_000, dry_run)).await.unwrap_err();
        assert_eq!((error.code(), error.operation()), (ErrorCode::PayloadTooLarge, Some("redrive")));
    }
    let dead = provider.admin().dead(&queue(), &DeadFilter::default(), None, 9).await.unwrap();
    assert_eq!(dead.items.len(), 1);
    assert_eq!(provider.admin().redrive(&queue(), &edited(500, false)).await.unwrap().redriven, 1);
}

#[tokio::test(start_paused = true)]
async fn named_jobs_of_an_untracked_queue_are_found_too() {
    let provider = provider();
    let mut spec = QueueSpec::new(queue());
    spec.tracking = Tracking::Off;
    provider.declare(&spec).await.unwrap();
    publish(&provider, [1, 2, 2, 3].map(job)).await;
    let consumer = consumer(&provider, 4).await;
    for _ in 0..4 {
        run_one(&*consumer, dead()).await;
    }
    let which = RedriveSelection::Jobs([3, 2, 3].map(|n| job(n).id).to_vec());
    let report = provider.admin().redrive(&queue(), &Redrive { which, payload: None, dry_run: false }).await.unwrap();
    assert_eq!((report.matched, report.redriven), (2, 2));
    assert_eq!(fetched(&*consumer, 4).await, ids([2, 3]));
}
