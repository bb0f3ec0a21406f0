//! Ending a claim.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_settlement_counts_once_and_only_under_its_fence() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    let forged = Fence { epoch: fence.epoch + 1, ..fence };
    assert!(matches!(bed.settle(forged, done()).await, SettleOutcome::LeaseLost));
    let other_copy = Fence { generation: 1, ..fence };
    assert!(matches!(bed.settle(other_copy, done()).await, SettleOutcome::LeaseLost));
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Settled));
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::AlreadySettled));
    assert!(matches!(bed.settle(fence, Disposition::Complete { result: None }).await, SettleOutcome::Conflict));
    assert!(matches!(bed.settle(fence, retry(seconds(1))).await, SettleOutcome::Conflict));
    let record = bed.record(&job).await;
    assert_eq!((record.state, record.result.as_deref()), (JobState::Completed, Some(&b"result"[..])));
}

#[tokio::test(start_paused = true)]
async fn a_dead_lease_that_nobody_claimed_can_still_be_settled() {
    let bed = Bed::new();
    let (kept, swept) = (bed.job(), bed.job());
    let fences = [bed.running(&kept).await, bed.running(&swept).await];
    pass(LEASE).await;
    assert!(bed.due().await.is_empty(), "dead leases only if asked");
    assert!(matches!(bed.settle(fences[0], done()).await, SettleOutcome::Settled));
    let copies = bed.due_and_dead().await;
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].envelope.generation, 1);
    assert!(matches!(bed.settle(fences[1], done()).await, SettleOutcome::Settled), "swept, and not claimed yet");
    assert!(matches!(bed.claim(&copies[0].envelope).await, Verdict::Drop));
}

#[tokio::test(start_paused = true)]
async fn a_retry_by_copy_outdates_the_old_copy_and_waits_until_due() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    let next = successor(&job);
    bed.settle_with(fence, retry(seconds(60)), Some(next.clone()), Vec::new()).await;
    let record = bed.record(&job).await;
    assert_eq!((record.state, record.attempt, record.error), (JobState::Retrying, 2, Some(failed())));
    assert_eq!(record.due_at, Some(START + seconds(60)));
    assert!(matches!(bed.claim(&job).await, Verdict::Drop));
    assert!(matches!(bed.claim(&next).await, Verdict::Busy { remaining } if remaining == seconds(60)));
    pass(seconds(59)).await;
    assert!(bed.due().await.is_empty(), "not before it is due, though its stage lease is over");
    pass(seconds(1)).await;
    let copies = bed.due().await;
    assert_eq!((copies.len(), copies[0].envelope.generation, copies[0].hold), (1, 1, None));
    match bed.claim(&next).await {
        Verdict::Run { attempt, redelivered, .. } => assert_eq!((attempt, redelivered), (2, false)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_retry_is_left_to_its_publisher_for_a_stage_lease() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    bed.settle_with(fence, retry(seconds(1)), Some(successor(&job)), Vec::new()).await;
    pass(STAGE - seconds(1)).await;
    assert!(bed.due().await.is_empty());
    pass(seconds(1)).await;
    assert_eq!(bed.due().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_in_place_keeps_its_copy_which_waits_until_due() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    bed.settle(fence, retry(seconds(60))).await;
    assert!(matches!(bed.claim(&job).await, Verdict::Busy { remaining } if remaining == seconds(60)));
    pass(seconds(60)).await;
    assert!(bed.due().await.is_empty(), "the transport has it");
    match bed.claim(&job).await {
        Verdict::Run { attempt, fence, .. } => {
            assert_eq!(attempt, 2);
            assert_eq!(bed.record(&job).await.due_at, None);
            bed.settle(fence, release(Duration::ZERO)).await;
        }
        other => panic!("{other:?}"),
    }
    bed.run(&job).await;
}

#[tokio::test(start_paused = true)]
async fn a_released_job_keeps_copy_and_attempt() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    bed.settle(fence, release(seconds(3))).await;
    assert_eq!(bed.state(&job).await, JobState::Scheduled);
    assert!(matches!(bed.claim(&job).await, Verdict::Busy { remaining } if remaining == seconds(3)));
    pass(seconds(3)).await;
    match bed.claim(&job).await {
        Verdict::Run { attempt, .. } => assert_eq!(attempt, 1),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_job_waits_for_its_key_and_no_longer_than_it_says() {
    let bed = Bed::new();
    let jobs = [bed.job(), bed.job(), bed.job()];
    for job in &jobs {
        let fence = bed.running(job).await;
        bed.settle(fence, park("key", seconds(100))).await;
        pass(seconds(1)).await;
    }
    let record = bed.record(&jobs[0]).await;
    assert_eq!((record.state, record.parked), (JobState::Pending, Some(ParkKey("key".into()))));
    assert!(matches!(bed.claim(&jobs[0]).await, Verdict::Busy { remaining } if remaining == seconds(97)));

    let other = ParkKey("other".into());
    assert!(bed.store.unpark(&everything(), &other, 9, STAGE).await.unwrap().is_empty());
    let key = ParkKey("key".into());
    let first = bed.store.unpark(&everything(), &key, 1, STAGE).await.unwrap();
    assert_eq!((first.len(), first[0].envelope.generation, first[0].envelope.attempt), (1, 1, 1));
    assert_eq!(first[0].job, reference(&jobs[0]), "first parked, first unparked");
    assert!(matches!(bed.claim(&jobs[0]).await, Verdict::Drop), "the copy from before the park");
    bed.run(&first[0].envelope).await;

    pass(seconds(98)).await;
    let second = bed.due().await;
    assert_eq!(second.len(), 1, "the second waited at most that long, the third not yet");
    assert_eq!(second[0].job, reference(&jobs[1]));
    pass(seconds(1)).await;
    assert!(
        matches!(bed.claim(&jobs[2]).await, Verdict::Busy { .. }),
        "its copy was acknowledged: the sweep sends another"
    );
    let third = bed.due().await;
    assert_eq!(third[0].job, reference(&jobs[2]));
    bed.run(&third[0].envelope).await;
    assert!(bed.store.unpark(&everything(), &key, 9, STAGE).await.unwrap().is_empty(), "nobody is parked any more");
}

#[tokio::test(start_paused = true)]
async fn an_unparked_copy_that_was_not_published_is_swept() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    bed.settle(fence, park("key", seconds(1_000))).await;
    bed.store.unpark(&everything(), &ParkKey("key".into()), 1, STAGE).await.unwrap();
    pass(STAGE).await;
    let copies = bed.due().await;
    assert_eq!((copies.len(), copies[0].envelope.generation), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn follow_ups_are_staged_in_the_same_write_once() {
    let bed = Bed::new();
    let holder = bed.job_with(|job| job.unique = unique("u", None));
    bed.published(&holder).await;
    let job = bed.job();
    let fence = bed.running(&job).await;
    let plain = FollowUp { queue: queue(), envelope: bed.job() };
    let twin = FollowUp { queue: queue(), envelope: bed.job_with(|job| job.unique = unique("u", None)) };
    let elsewhere = FollowUp { queue: QueueName::from_static("other"), envelope: bed.job() };
    let then = vec![plain.clone(), twin.clone(), elsewhere.clone(), plain.clone()];
    assert!(matches!(bed.settle_with(fence, done(), None, then.clone()).await, SettleOutcome::Settled));
    assert!(matches!(bed.settle_with(fence, done(), None, then).await, SettleOutcome::AlreadySettled));

    assert_eq!(bed.state(&plain.envelope).await, JobState::Pending);
    assert!(matches!(bed.claim(&twin.envelope).await, Verdict::Drop), "its key is held: it counts as done");
    assert!(matches!(bed.look(&twin.envelope).await, Lookup::NotFound));
    pass(STAGE - seconds(1)).await;
    assert!(bed.due().await.is_empty(), "left to their publisher");
    pass(seconds(1)).await;
    let mut swept: Vec<JobRef> = bed.due().await.into_iter().map(|copy| copy.job).collect();
    swept.sort_by_key(|job| job.queue.clone());
    assert_eq!(swept, [JobRef::new(elsewhere.queue, elsewhere.envelope.id), reference(&plain.envelope)]);
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_that_was_done_and_forgotten_is_not_done_again() {
    let bed = Bed::new();
    let follow_up = FollowUp { queue: queue(), envelope: bed.job() };
    for first in [true, false] {
        let fence = bed.running(&bed.job()).await;
        bed.settle_with(fence, done(), None, vec![follow_up.clone()]).await;
        match bed.claim(&follow_up.envelope).await {
            Verdict::Run { fence, .. } if first => drop(bed.settle(fence, done()).await),
            verdict => assert!(!first && matches!(verdict, Verdict::Drop), "{verdict:?}"),
        }
        bed.evict().await;
    }
    assert!(matches!(bed.look(&follow_up.envelope).await, Lookup::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_delayed_follow_up_is_not_swept_before_it_is_due() {
    let bed = Bed::new();
    let fence = bed.running(&bed.job()).await;
    let envelope = bed.job_with(|job| job.not_before = Some(START + seconds(100)));
    bed.settle_with(fence, done(), None, vec![FollowUp { queue: queue(), envelope }]).await;
    pass(seconds(99)).await;
    assert!(bed.due().await.is_empty());
    pass(seconds(1)).await;
    assert_eq!(bed.due().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_park_outlasts_the_copy_that_was_swept_for_its_dead_lease() {
    let bed = Bed::new();
    let fence = bed.running(&bed.job()).await;
    pass(LEASE).await;
    let swept = bed.due_and_dead().await.remove(0);
    bed.settle(fence, park("key", seconds(100))).await;
    pass(STAGE).await;
    assert!(bed.due().await.is_empty());
    assert!(matches!(bed.claim(&swept.envelope).await, Verdict::Busy { .. }));
    pass(seconds(100) - STAGE).await;
    assert_eq!(bed.due().await[0].envelope.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_stale_worker_stages_no_follow_ups() {
    let bed = Bed::new();
    let job = bed.job();
    let old = bed.running(&job).await;
    pass(LEASE).await;
    bed.run(&job).await;
    let follow_up = FollowUp { queue: queue(), envelope: bed.job() };
    assert!(matches!(bed.settle_with(old, done(), None, vec![follow_up.clone()]).await, SettleOutcome::LeaseLost));
    assert!(matches!(bed.look(&follow_up.envelope).await, Lookup::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_successor_serves_beside_the_copy_that_was_swept_for_its_dead_lease() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    pass(LEASE).await;
    let swept = bed.due_and_dead().await.remove(0);
    let next = successor(&job);
    bed.settle_with(fence, retry(seconds(5)), Some(next.clone()), Vec::new()).await;
    assert!(matches!(bed.claim(&swept.envelope).await, Verdict::Busy { .. }), "not before the retry is due");
    pass(seconds(5)).await;
    let fence = bed.run(&swept.envelope).await;
    assert!(matches!(bed.claim(&next).await, Verdict::Busy { .. }));
    bed.settle(fence, done()).await;
    assert!(matches!(bed.claim(&next).await, Verdict::Drop));
    assert_eq!(bed.record(&job).await.attempt, 2);
}
