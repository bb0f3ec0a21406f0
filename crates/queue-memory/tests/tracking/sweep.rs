//! What the sweep hands out, to whom, and how often.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_staged_job_is_left_to_its_publisher_and_then_handed_out_once_a_stage_lease() {
    let bed = Bed::new();
    let job = bed.job();
    bed.stage(&job).await;
    pass(STAGE - seconds(1)).await;
    assert!(bed.due().await.is_empty());
    pass(seconds(1)).await;
    let copies = bed.due().await;
    assert_eq!((copies.len(), copies[0].envelope.generation), (1, 0));
    assert!(bed.due().await.is_empty(), "another sweeper has it");
    pass(STAGE).await;
    assert_eq!(bed.due().await.len(), 1, "that one died too");
    bed.confirm(&job).await;
    pass(STAGE).await;
    assert!(bed.due().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn staging_again_keeps_the_sweep_away_as_long_again() {
    let bed = Bed::new();
    let job = bed.job();
    bed.stage(&job).await;
    pass(STAGE - seconds(1)).await;
    bed.stage(&job).await;
    pass(seconds(1)).await;
    assert!(bed.due().await.is_empty());
    pass(STAGE - seconds(1)).await;
    assert_eq!(bed.due().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_held_job_is_handed_out_when_the_transport_can_hold_the_rest() {
    let bed = Bed::new();
    let job = bed.job_with(|job| job.not_before = Some(START + seconds(100)));
    bed.hold(&job, seconds(60)).await;
    assert_eq!(bed.state(&job).await, JobState::Scheduled);
    pass(seconds(59)).await;
    assert!(bed.due().await.is_empty());
    pass(seconds(1)).await;
    assert_eq!(bed.due().await.len(), 1);
    assert_eq!(bed.state(&job).await, JobState::Scheduled, "and it is not due yet");
    let plain = bed.job();
    bed.hold(&plain, seconds(5)).await;
    assert_eq!(bed.state(&plain).await, JobState::Scheduled);
    pass(seconds(5)).await;
    assert_eq!(bed.state(&plain).await, JobState::Pending);
    assert_eq!(bed.due().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_job_whose_publisher_died_is_handed_out_before_it_is_due() {
    let bed = Bed::new();
    let job = bed.job_with(|job| job.not_before = Some(START + seconds(1_000)));
    bed.stage(&job).await;
    pass(STAGE).await;
    assert_eq!(bed.due().await.len(), 1, "the transport holds the delay");
}

#[tokio::test(start_paused = true)]
async fn a_dead_lease_is_staged_once_with_a_new_generation_and_taken_over_by_the_claim() {
    let bed = Bed::new();
    let job = bed.job();
    let old = bed.running(&job).await;
    assert!(bed.due_and_dead().await.is_empty(), "the lease lives");
    pass(LEASE).await;
    let copies = bed.due_and_dead().await;
    assert_eq!((copies.len(), copies[0].envelope.generation), (1, 1));
    assert!(bed.due_and_dead().await.is_empty());
    assert!(matches!(bed.claim(&job).await, Verdict::Drop), "the dead worker's copy came back as well");
    match bed.claim(&copies[0].envelope).await {
        Verdict::Run { redelivered, fence, .. } => assert_eq!((redelivered, fence.generation), (true, 1)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(bed.settle(old, done()).await, SettleOutcome::LeaseLost));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_shows_life_again_keeps_its_job_from_the_swept_copy() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    pass(LEASE).await;
    let copy = bed.due_and_dead().await.remove(0);
    assert!(matches!(bed.beat(fence, |_| ()).await, BeatOutcome::Held(_)));
    assert!(matches!(bed.claim(&copy.envelope).await, Verdict::Busy { .. }));
    for _ in 0..4 {
        pass(LEASE - seconds(1)).await;
        bed.beat(fence, |_| ()).await;
    }
    assert!(bed.due_and_dead().await.is_empty(), "it lives, so that the staged copy waits");
    pass(LEASE).await;
    assert_eq!(bed.due_and_dead().await.len(), 1);
    bed.confirm(&copy.envelope).await;
    pass(STAGE).await;
    assert!(bed.due_and_dead().await.is_empty(), "the transport has the copy");
    bed.run(&copy.envelope).await;
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_nothing_of_a_silent_worker_is_handed_out() {
    let bed = Bed::new();
    let fence = bed.running(&bed.job()).await;
    pass(LEASE).await;
    assert_eq!(bed.due_and_dead().await.len(), 1);
    pass(STAGE).await;
    assert!(bed.due().await.is_empty(), "staged for a dead lease is still a dead lease");
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Settled));
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_and_what_is_left_comes_next() {
    let bed = Bed::new();
    for _ in 0..5 {
        bed.stage(&bed.job()).await;
    }
    for _ in 0..2 {
        bed.running(&bed.job()).await;
    }
    pass(STAGE).await;
    let mut sizes = Vec::new();
    for _ in 0..4 {
        sizes.push(bed.store.due(&everything(), true, 3, STAGE).await.unwrap().len());
    }
    assert_eq!(sizes, [3, 3, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn each_provider_and_queue_sees_its_own() {
    let bed = Bed::new();
    let (mine, theirs, parked, adopted) = (bed.job(), bed.job(), bed.job(), bed.job());
    bed.stage(&mine).await;
    bed.store.stage(&[StagedJob::new("kafka", reference(&theirs), theirs.clone())], STAGE).await;
    bed.stage(&parked).await;
    let fence = bed.run(&parked).await;
    bed.settle(fence, park("key", seconds(9_999))).await;
    let claim = Claim { provider: "kafka".into(), ..claim_of(reference(&adopted), &adopted) };
    bed.store.claim(&[claim]).await;
    pass(STAGE).await;

    let key = ParkKey("key".into());
    assert!(bed.store.unpark(&provider("kafka"), &key, 9, STAGE).await.unwrap().is_empty());
    assert_eq!(bed.store.unpark(&provider("rabbit"), &key, 9, STAGE).await.unwrap().len(), 1);
    let due = async |scope: &Scope| {
        let copies = bed.store.due(scope, true, 9, STAGE).await.unwrap();
        copies.into_iter().map(|copy| copy.job.id).collect::<Vec<_>>()
    };
    let elsewhere = Scope { queues: Some(vec![QueueName::from_static("other")]), ..provider("rabbit") };
    assert!(due(&elsewhere).await.is_empty());
    let here = Scope { queues: Some(vec![queue()]), ..provider("rabbit") };
    assert_eq!(due(&here).await, [mine.id]);
    assert_eq!(due(&provider("kafka")).await, [theirs.id, adopted.id]);
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_belongs_to_its_parents_provider() {
    let bed = Bed::new();
    let job = bed.job();
    bed.stage(&job).await;
    let fence = bed.run(&job).await;
    let follow_up = FollowUp { queue: queue(), envelope: bed.job() };
    bed.settle_with(fence, done(), None, vec![follow_up]).await;
    pass(STAGE).await;
    assert!(bed.store.due(&provider("kafka"), true, 9, STAGE).await.unwrap().is_empty());
    assert_eq!(bed.store.due(&provider("rabbit"), true, 9, STAGE).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_sweeps_own_making_carries_what_the_record_knows() {
    let bed = Bed::new();
    let job = bed.job();
    let fence = bed.running(&job).await;
    bed.settle(fence, retry(Duration::ZERO)).await;
    let fence = bed.run(&job).await;
    bed.beat(fence, |beat| beat.started = true).await;
    pass(LEASE).await;
    let copy = bed.due_and_dead().await.remove(0).envelope;
    assert_eq!((copy.generation, copy.attempt, copy.deliveries), (1, 2, 1));
}
