//! Who may run a copy, and the beats of those who do.

use queue_core::{provider::Cancel, store::CancelOutcome};

use super::*;

fn is_busy(verdict: &Verdict, wanted: Duration) -> bool {
    matches!(verdict, Verdict::Busy { remaining } if *remaining == wanted)
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_arrives_before_its_confirmation_runs_once() {
    let bed = Bed::new();
    let job = bed.job();
    bed.stage(&job).await;
    let fence = match bed.claim(&job).await {
        Verdict::Run { fence, lease, attempt, started_before, redelivered } => {
            assert_eq!((fence.id, fence.generation), (job.id, 0));
            assert_eq!((lease.remaining, attempt, started_before, redelivered), (Some(LEASE), 1, 0, false));
            fence
        }
        other => panic!("{other:?}"),
    };
    bed.settle(fence, release(Duration::ZERO)).await;
    pass(STAGE).await;
    assert!(bed.due().await.is_empty(), "delivered is confirmed");
}

#[tokio::test(start_paused = true)]
async fn a_second_copy_is_busy_while_the_first_lives_and_dropped_when_it_is_done() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    pass(seconds(4)).await;
    assert!(is_busy(&bed.claim(&job).await, seconds(6)));
    bed.settle(fence, done()).await;
    assert!(matches!(bed.claim(&job).await, Verdict::Drop));
    assert_eq!(bed.evict().await, 1);
    assert!(matches!(bed.claim(&job).await, Verdict::Drop), "evicted");
}

#[tokio::test(start_paused = true)]
async fn a_dead_lease_is_taken_over_and_what_was_started_counts() {
    let bed = Bed::new();
    let job = bed.job();
    let old = bed.running(&job).await;
    for _ in 0..2 {
        assert!(matches!(bed.beat(old, |beat| beat.started = true).await, BeatOutcome::Held(_)));
    }
    pass(LEASE).await;
    let new = match bed.claim(&job).await {
        Verdict::Run { fence, attempt, started_before, redelivered, .. } => {
            assert_eq!((attempt, started_before, redelivered), (1, 1, true));
            fence
        }
        other => panic!("{other:?}"),
    };
    assert_ne!(old.epoch, new.epoch);
    assert!(matches!(bed.beat(old, |_| ()).await, BeatOutcome::Lost));
    assert!(matches!(bed.settle(old, done()).await, SettleOutcome::LeaseLost));
    assert!(matches!(bed.beat(new, |beat| beat.started = true).await, BeatOutcome::Held(_)));
    bed.settle(new, release(Duration::ZERO)).await;
    match bed.claim(&job).await {
        Verdict::Run { redelivered, started_before, .. } => assert_eq!((redelivered, started_before), (false, 1)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_copy_is_dropped_and_a_newer_one_is_adopted() {
    let bed = Bed::new();
    let job = bed.job();
    bed.published(&job).await;
    let newer = job.edit(|copy| {
        copy.generation = 5;
        copy.attempt = 3;
        copy.deliveries = 2;
    });
    match bed.claim(&newer).await {
        Verdict::Run { fence, attempt, started_before, .. } => {
            assert_eq!((fence.generation, attempt, started_before), (5, 3, 2));
            bed.settle(fence, release(Duration::ZERO)).await;
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(bed.claim(&job).await, Verdict::Drop));
    bed.run(&newer).await;
    let newest = newer.edit(|copy| copy.generation = 6);
    assert!(is_busy(&bed.claim(&newest).await, LEASE), "a live lease holds against a newer copy too");
}

#[tokio::test(start_paused = true)]
async fn a_job_without_a_record_is_adopted_unless_it_was_here_before() {
    let bed = Bed::bounded(TrackingLimits { max_tombstones: 1, ..TrackingLimits::default() });
    let early = bed.job();
    pass(Duration::from_millis(1)).await;
    let (a, b) = (bed.job(), bed.job());
    for job in [&a, &b] {
        let fence = bed.running(job).await;
        bed.settle(fence, done()).await;
    }
    pass(Duration::from_millis(1)).await;
    let late = bed.job();
    assert_eq!(bed.evict().await, 2);
    assert!(matches!(bed.claim(&a).await, Verdict::Drop), "its tombstone had to go: the watermark stands for it");
    assert!(matches!(bed.look(&a).await, Lookup::Gone));
    assert!(matches!(bed.claim(&b).await, Verdict::Drop), "its tombstone stands");
    assert!(matches!(bed.claim(&early).await, Verdict::Drop), "older than the watermark");
    let fence = bed.run(&late).await;
    assert_eq!(bed.state(&late).await, JobState::Running);
    bed.settle(fence, done()).await;
    let derived = bed.job_with(|job| job.id = JobId::derive(b"x", 1));
    bed.run(&derived).await;
}

#[tokio::test(start_paused = true)]
async fn the_watermark_is_for_the_unknown_not_for_what_is_staged() {
    let bed = Bed::bounded(TrackingLimits { tombstone_age: seconds(1), ..TrackingLimits::default() });
    let slow = bed.job();
    let fence = bed.running(&bed.job()).await;
    bed.settle(fence, done()).await;
    assert_eq!(bed.evict().await, 1);
    pass(seconds(2)).await;
    bed.due().await;
    assert!(matches!(bed.stage(&slow).await, StageOutcome::Staged));
    bed.run(&slow).await;
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_outlives_its_record_by_its_age_and_the_watermark_takes_over() {
    let bed = Bed::bounded(TrackingLimits { tombstone_age: seconds(60), ..TrackingLimits::default() });
    let derived = bed.job_with(|job| job.id = JobId::derive(b"x", 1));
    let fence = bed.running(&derived).await;
    bed.settle(fence, done()).await;
    assert_eq!(bed.evict().await, 1);
    pass(seconds(59)).await;
    assert!(matches!(bed.look(&derived).await, Lookup::Gone));
    assert!(matches!(bed.claim(&derived).await, Verdict::Drop));
    pass(seconds(1)).await;
    bed.due().await;
    // Nothing is known of a derived id any more: the age was too short for this transport.
    assert!(matches!(bed.claim(&derived).await, Verdict::Run { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_job_is_not_run_before_it_is_due() {
    let bed = Bed::new();
    let job = bed.job_with(|job| job.not_before = Some(START + seconds(60)));
    bed.published(&job).await;
    assert_eq!(bed.state(&job).await, JobState::Scheduled);
    assert_eq!(bed.record(&job).await.due_at, Some(START + seconds(60)));
    assert!(is_busy(&bed.claim(&job).await, seconds(60)));
    pass(seconds(60)).await;
    assert_eq!(bed.state(&job).await, JobState::Pending);
    bed.run(&job).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_is_not_started_after_its_time_to_live() {
    let bed = Bed::new();
    let [known, adopted, swept] = [(); 3].map(|()| bed.job_with(|job| job.expires_at = Some(START + seconds(60))));
    bed.published(&known).await;
    bed.stage(&swept).await;
    pass(seconds(60)).await;
    assert!(matches!(bed.claim(&known).await, Verdict::Drop));
    assert!(matches!(bed.claim(&adopted).await, Verdict::Drop));
    assert!(bed.due().await.is_empty(), "nobody need publish it");
    for job in [known, adopted, swept] {
        assert_eq!(bed.state(&job).await, JobState::Expired);
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_that_ends_while_the_job_runs_is_looked_at_when_it_comes_back() {
    let bed = Bed::new();
    let job = bed.job_with(|job| job.expires_at = Some(START + seconds(5)));
    let fence = bed.running(&job).await;
    pass(seconds(6)).await;
    assert_eq!(bed.state(&job).await, JobState::Running);
    bed.settle(fence, release(Duration::ZERO)).await;
    assert_eq!(bed.state(&job).await, JobState::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_is_dropped() {
    let bed = Bed::new();
    let job = bed.job();
    bed.published(&job).await;
    let cancel = || async { bed.store.cancel(&[reference(&job)], &Cancel::by("me")).await.remove(0).unwrap() };
    assert_eq!(cancel().await, CancelOutcome::Cancelled);
    assert_eq!(cancel().await, CancelOutcome::AlreadyTerminal);
    assert!(matches!(bed.claim(&job).await, Verdict::Drop));
    assert_eq!(bed.evict().await, 1);
    assert_eq!(cancel().await, CancelOutcome::AlreadyTerminal, "forgotten is finished");
    let missing = JobRef::new(queue(), JobId::derive(b"none", 0));
    assert_eq!(bed.store.cancel(&[missing], &Cancel::by("me")).await.remove(0).unwrap(), CancelOutcome::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_asked_to_stop_does_not_come_back() {
    let bed = Bed::new();
    let (retried, orphaned) = (bed.job(), bed.job());
    let fence = bed.running(&retried).await;
    bed.running(&orphaned).await;
    let both = [reference(&retried), reference(&orphaned)];
    for outcome in bed.store.cancel(&both, &Cancel::by("me")).await {
        assert_eq!(outcome.unwrap(), CancelOutcome::Requested);
    }
    match bed.beat(fence, |_| ()).await {
        BeatOutcome::Held(lease) => assert_eq!(lease.cancel, Some(Cancel::by("me"))),
        other => panic!("{other:?}"),
    }
    let next = successor(&retried);
    bed.settle_with(fence, retry(Duration::ZERO), Some(next.clone()), Vec::new()).await;
    assert_eq!(bed.record(&retried).await.envelope.generation, 0, "no successor was staged");
    assert!(matches!(bed.claim(&next).await, Verdict::Drop));
    pass(LEASE).await;
    assert!(matches!(bed.claim(&orphaned).await, Verdict::Drop), "its worker died before it stopped");
    for job in [retried, orphaned] {
        assert_eq!(bed.state(&job).await, JobState::Cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn a_beat_carries_life_progress_and_logs() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    pass(seconds(9)).await;
    let outcome = bed.beat(fence, |beat| {
        beat.started = true;
        beat.progress = Some("{\"percent\":50.0}".into());
        beat.logs = vec!["half".into()];
    });
    match outcome.await {
        BeatOutcome::Held(lease) => assert_eq!(lease.remaining, Some(LEASE)),
        other => panic!("{other:?}"),
    }
    pass(seconds(9)).await;
    assert!(is_busy(&bed.claim(&job).await, seconds(1)), "the lease was extended");
    match bed.beat(fence, |beat| beat.extend = None).await {
        BeatOutcome::Held(lease) => assert_eq!(lease.remaining, Some(seconds(1)), "and now it was not"),
        other => panic!("{other:?}"),
    }
    let record = bed.record(&job).await;
    assert_eq!(record.progress.as_deref(), Some(&b"{\"percent\":50.0}"[..]));
    assert_eq!((record.logs.len(), record.started_count, record.worker.as_deref()), (1, 1, Some("w")));
}

#[tokio::test(start_paused = true)]
async fn the_watermark_rises_and_does_not_fall() {
    let bed = Bed::bounded(TrackingLimits { max_tombstones: 0, ..TrackingLimits::default() });
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(bed.job());
        pass(seconds(1)).await;
    }
    for at in [1, 2, 0] {
        let fence = bed.running(&jobs[at]).await;
        bed.settle(fence, done()).await;
        bed.evict().await;
    }
    assert!(matches!(bed.claim(&jobs[2]).await, Verdict::Drop));
}
