//! Stage, confirm, unstage, refuse.

use queue_core::provider::Rejection;

use super::*;

#[tokio::test(start_paused = true)]
async fn staging_again_goes_on_until_it_is_confirmed_and_is_known_after() {
    let bed = Bed::new();
    let job = bed.job();
    assert!(matches!(bed.stage(&job).await, StageOutcome::Staged));
    assert_eq!(bed.state(&job).await, JobState::Pending, "staged is shown as pending");
    assert!(matches!(bed.stage(&job).await, StageOutcome::Again));
    bed.confirm(&job).await;
    assert!(matches!(bed.stage(&job).await, StageOutcome::Known));
    let fence = bed.run(&job).await;
    assert!(matches!(bed.stage(&job).await, StageOutcome::Known));
    bed.settle(fence, done()).await;
    assert!(matches!(bed.stage(&job).await, StageOutcome::Known));
    assert_eq!(bed.evict().await, 1);
    assert!(matches!(bed.stage(&job).await, StageOutcome::Known), "a tombstone knows it too");
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_is_not_published_again_because_a_newer_one_is_staged() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    bed.settle_with(fence, retry(Duration::ZERO), Some(successor(&job)), Vec::new()).await;
    assert!(matches!(bed.stage(&job).await, StageOutcome::Known));
    assert!(matches!(bed.stage(&successor(&job)).await, StageOutcome::Again));
}

#[tokio::test(start_paused = true)]
async fn a_unique_key_is_held_until_the_job_is_finished() {
    let bed = Bed::new();
    let first = bed.job_with(|job| job.unique = unique("u", None));
    let second = bed.job_with(|job| job.unique = unique("u", None));
    bed.stage(&first).await;
    match bed.stage(&second).await {
        StageOutcome::Duplicate { existing } => assert_eq!(existing, reference(&first)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(bed.look(&second).await, Lookup::NotFound), "a duplicate leaves nothing");
    let fence = bed.run(&first).await;
    assert!(matches!(bed.stage(&second).await, StageOutcome::Duplicate { .. }), "a running job holds it");
    bed.settle(fence, done()).await;
    assert!(matches!(bed.stage(&second).await, StageOutcome::Staged));
}

#[tokio::test(start_paused = true)]
async fn a_window_holds_a_unique_key_beyond_the_end_and_no_longer_than_it_says() {
    let bed = Bed::new();
    let job = |bed: &Bed| bed.job_with(|job| job.unique = unique("u", Some(seconds(60))));
    let first = job(&bed);
    let fence = bed.running(&first).await;
    bed.settle(fence, done()).await;
    pass(seconds(59)).await;
    assert!(matches!(bed.stage(&job(&bed)).await, StageOutcome::Duplicate { .. }));
    pass(seconds(1)).await;
    assert!(matches!(bed.stage(&job(&bed)).await, StageOutcome::Staged));
}

#[tokio::test(start_paused = true)]
async fn unique_keys_of_two_queues_are_two() {
    let bed = Bed::new();
    let first = bed.job_with(|job| job.unique = unique("u", None));
    bed.stage(&first).await;
    let second = bed.job_with(|job| job.unique = unique("u", None));
    let job = JobRef::new(QueueName::from_static("other"), second.id);
    let elsewhere = StagedJob::new(PROVIDER, job, second);
    assert!(matches!(bed.store.stage(&[elsewhere], STAGE).await[0], StageOutcome::Staged));
}

#[tokio::test(start_paused = true)]
async fn one_id_in_two_queues_is_two_jobs() {
    let bed = Bed::new();
    let job = bed.job();
    let there = JobRef::new(QueueName::from_static("other"), job.id);
    let fence = bed.running(&job).await;
    bed.store.stage(&[StagedJob::new(PROVIDER, there.clone(), job.clone())], STAGE).await;
    let claim = claim_of(there.clone(), &job);
    let Verdict::Run { fence: other, .. } = bed.store.claim(&[claim]).await.remove(0) else { panic!() };
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Settled));
    let Lookup::Found(record) = bed.store.get(&[there]).await.remove(0).unwrap() else { panic!() };
    assert_eq!(record.state, JobState::Running);
    assert!(matches!(bed.settle(other, done()).await, SettleOutcome::Settled));
}

#[tokio::test(start_paused = true)]
async fn a_late_confirm_does_not_hide_a_newer_staged_copy() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    let next = successor(&job);
    bed.settle_with(fence, retry(Duration::ZERO), Some(next.clone()), Vec::new()).await;
    bed.confirm(&job).await;
    pass(STAGE).await;
    assert_eq!(bed.due().await.len(), 1, "the successor was never confirmed");
    bed.confirm(&next).await;
    pass(STAGE).await;
    assert!(bed.due().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_first_publisher_takes_a_refused_job_back() {
    let bed = Bed::new();
    let job = bed.job_with(|job| job.unique = unique("u", Some(seconds(600))));
    bed.stage(&job).await;
    assert!(bed.unstage(&job).await);
    assert!(bed.unstage(&job).await, "repeated after a lost reply");
    assert!(matches!(bed.look(&job).await, Lookup::NotFound));
    assert!(matches!(bed.claim(&job).await, Verdict::Drop), "a copy that slipped through finds the tombstone");
    pass(STAGE).await;
    assert!(bed.due().await.is_empty());
    let other = bed.job_with(|job| job.unique = unique("u", None));
    assert!(matches!(bed.stage(&other).await, StageOutcome::Staged), "the key is free, window or not");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_taken_back_can_be_tried_again_under_its_id() {
    let bed = Bed::new();
    let job = bed.job();
    bed.stage(&job).await;
    assert!(bed.unstage(&job).await);
    assert!(matches!(bed.stage(&job).await, StageOutcome::Staged));
    bed.run(&job).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_back_that_somebody_else_may_have_published() {
    let bed = Bed::new();
    let swept = bed.job();
    bed.stage(&swept).await;
    pass(STAGE).await;
    assert_eq!(bed.due().await.len(), 1);
    assert!(!bed.unstage(&swept).await, "the sweep has it");

    let twice = bed.job();
    bed.stage(&twice).await;
    bed.stage(&twice).await;
    assert!(!bed.unstage(&twice).await, "another publisher was told to go on");

    let sent = bed.job();
    bed.published(&sent).await;
    assert!(!bed.unstage(&sent).await, "the transport has it");

    let next = successor(&sent);
    let fence = bed.run(&sent).await;
    bed.settle_with(fence, retry(Duration::ZERO), Some(next.clone()), Vec::new()).await;
    assert!(!bed.unstage(&next).await, "a successor was promised");
    for job in [swept, twice, next] {
        assert_eq!(bed.state(&job).await, JobState::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_promise_is_dead_with_its_error_and_an_old_refusal_is_nothing() {
    let bed = Bed::new();
    let job = bed.job_with(|job| job.unique = unique("u", None));
    let fence = bed.running(&job).await;
    let next = successor(&job);
    bed.settle_with(fence, retry(seconds(5)), Some(next.clone()), Vec::new()).await;
    bed.refuse(&job).await;
    assert_eq!(bed.state(&job).await, JobState::Retrying, "the refusal of another generation");
    bed.refuse(&next).await;
    let record = bed.record(&job).await;
    assert_eq!((record.state, record.error), (JobState::Dead, Some(refused())));
    let other = bed.job_with(|job| job.unique = unique("u", None));
    assert!(matches!(bed.stage(&other).await, StageOutcome::Staged), "dead frees the key");
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_job_cannot_be_refused() {
    let bed = Bed::new();
    let job = bed.job();
    bed.published(&job).await;
    bed.refuse(&job).await;
    assert_eq!(bed.state(&job).await, JobState::Pending);
}

#[tokio::test(start_paused = true)]
async fn waiting_jobs_are_bounded_per_queue_and_promised_ones_are_not_refused() {
    let bed = Bed::bounded(TrackingLimits { max_waiting: 1, ..TrackingLimits::default() });
    let first = bed.job();
    let fence = bed.running(&first).await;
    let second = bed.job();
    bed.stage(&second).await;
    assert!(matches!(bed.stage(&bed.job()).await, StageOutcome::Rejected(Rejection::Full)));
    let follow_up = FollowUp { queue: queue(), envelope: bed.job() };
    let next = successor(&first);
    bed.settle_with(fence, retry(Duration::ZERO), Some(next.clone()), vec![follow_up.clone()]).await;
    assert_eq!(bed.state(&next).await, JobState::Pending);
    assert_eq!(bed.state(&follow_up.envelope).await, JobState::Pending);
    for job in [&second, &next, &follow_up.envelope] {
        let fence = bed.run(job).await;
        bed.settle(fence, done()).await;
    }
    assert!(matches!(bed.stage(&bed.job()).await, StageOutcome::Staged));
}

#[tokio::test(start_paused = true)]
async fn a_newer_copy_of_a_dead_job_is_another_life() {
    let bed = Bed::new();
    let job = bed.job_with(|job| job.unique = unique("u", None));
    let fence = bed.running(&job).await;
    bed.beat(fence, |beat| beat.started = true).await;
    bed.settle(fence, Disposition::DeadLetter { error: failed() }).await;
    let again = job.edit(|copy| copy.generation += 1);

    let rival = bed.job_with(|job| job.unique = unique("u", None));
    bed.stage(&rival).await;
    assert!(matches!(bed.stage(&again).await, StageOutcome::Duplicate { .. }), "the key is another's now");
    assert!(bed.unstage(&rival).await);

    assert!(matches!(bed.stage(&again).await, StageOutcome::Staged));
    assert!(matches!(bed.stage(&rival).await, StageOutcome::Duplicate { .. }), "and its own again");
    assert!(bed.unstage(&again).await);
    assert_eq!(bed.record(&job).await.error, Some(failed()), "refused: dead as before");
    assert_eq!(bed.state(&job).await, JobState::Dead);

    let retention = queue_core::queue_spec::Retention { dead: Duration::ZERO, ..Default::default() };
    let third = again.edit(|copy| copy.generation += 1);
    assert!(matches!(bed.stage(&third).await, StageOutcome::Staged));
    assert_eq!(bed.store.evict(&queue(), &retention, 9).await.unwrap(), 0, "it is not dead any more");
    assert!(matches!(bed.claim(&job).await, Verdict::Drop));
    match bed.claim(&third).await {
        Verdict::Run { attempt, started_before, .. } => assert_eq!((attempt, started_before), (1, 0)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn another_life_knows_nothing_of_lost_workers() {
    let bed = Bed::new();
    let job = bed.job();
    bed.running(&job).await;
    pass(LEASE).await;
    bed.run(&job).await;
    pass(LEASE).await;
    let copy = bed.due_and_dead().await.remove(0).envelope;
    bed.refuse(&copy).await;
    assert_eq!(bed.state(&job).await, JobState::Dead);
    let again = copy.edit(|copy| copy.generation += 1);
    bed.published(&again).await;
    assert!(matches!(bed.claim(&again).await, Verdict::Run { redelivered: false, .. }));
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_back_makes_room() {
    let bed = Bed::bounded(TrackingLimits { max_waiting: 1, ..TrackingLimits::default() });
    let job = bed.job();
    bed.stage(&job).await;
    assert!(bed.unstage(&job).await);
    assert!(matches!(bed.stage(&bed.job()).await, StageOutcome::Staged));
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_counts_from_the_last_time_and_not_while_there_is_a_record() {
    let bed = Bed::bounded(TrackingLimits { tombstone_age: seconds(60), ..TrackingLimits::default() });
    let job = bed.job_with(|job| (job.id, job.unique) = (JobId::derive(b"x", 1), unique("x", None)));
    bed.stage(&job).await;
    bed.unstage(&job).await;
    pass(seconds(30)).await;
    bed.stage(&job).await;
    bed.unstage(&job).await;
    pass(seconds(30)).await;
    bed.due().await;
    assert!(matches!(bed.claim(&job).await, Verdict::Drop), "30 s of 60");

    let (early, back) = (bed.job(), bed.job());
    bed.stage(&back).await;
    bed.unstage(&back).await;
    bed.published(&back).await;
    pass(seconds(60)).await;
    bed.due().await;
    assert!(matches!(bed.claim(&early).await, Verdict::Run { .. }), "no watermark: the job is here");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ended_while_it_was_staged_has_ended() {
    let bed = Bed::new();
    let job = bed.job();
    bed.stage(&job).await;
    bed.store.cancel(&[reference(&job)], &queue_core::provider::Cancel::by("me")).await;
    assert!(!bed.unstage(&job).await, "somebody may wait for its end");
    bed.refuse(&job).await;
    bed.confirm(&job).await;
    let record = bed.record(&job).await;
    assert_eq!((record.state, record.error), (JobState::Cancelled, None));
    assert!(matches!(bed.stage(&job).await, StageOutcome::Known));
    assert_eq!(bed.evict().await, 1);
}
