//! Whatever a worker does with its deliveries, the layer gives every copy an end, and hands out none without a fence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use std::sync::Arc;

use bed::{Bed, LEASE, beat, complete, secs, settle, shapes, unclosable::Unclosable};
use queue_core::{
    ErrorCode, JobError, JobStore as _, QueueProvider, QueueSpec,
    provider::{BeatOutcome, Cancel, ConsumeOptions, Disposition, Redrive, RedriveReport, ReleaseReason},
    queue_spec::Tracking,
};
use queue_layers::Tracked;
use queue_memory::MemoryTracking;
use queue_testkit::{faults::FaultyStore, models::PushModel};

/// A worker whose lease ended unrenewed gives its delivery up without a word: only its lease tells that it did.
#[tokio::test(start_paused = true)]
async fn a_delivery_that_was_given_up_holds_no_place() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        for name in ["given up", "behind it"] {
            process.accepted(&bed.job(name)).await;
        }
        let consumer = process.consumer_of(1).await;
        let delivery = process.take(&consumer).await;
        process.faults.outage(true);
        for _ in 0..4 {
            assert!(matches!(beat(&consumer, &delivery).await, BeatOutcome::Unknown(_)));
            process.maintain_for(LEASE / 3).await;
        }
        process.faults.outage(false);
        let runs = process.work_on(&consumer, secs(200)).await;
        assert_eq!(runs.keys().collect::<Vec<_>>(), ["behind it", "given up"], "{runs:?}");
        assert!(runs.values().all(|attempts| attempts.len() == 1), "{runs:?}");
    }
}

/// And one that is beaten keeps its place and its copy, however long it takes.
#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_beaten_stays() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        process.accepted(&bed.job("long")).await;
        let consumer = process.consumer_of(2).await;
        let delivery = process.take(&consumer).await;
        for _ in 0..12 {
            assert!(matches!(beat(&consumer, &delivery).await, BeatOutcome::Held(_)));
            assert!(consumer.fetch(1, LEASE / 3).await.unwrap().is_empty());
        }
        assert!(settle(&consumer, &delivery, complete()).await.is_settled());
        assert_eq!(bed.copies().await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_transport_hands_to_a_closing_consumer_goes_back() {
    let bed = Bed::new(PushModel::default());
    let process = bed.process();
    process.accepted(&bed.job("job")).await;
    let consumer = process.consumer().await;
    process.fuse.hold_at("transport.close");
    let closing = tokio::spawn({
        let consumer = Arc::clone(&consumer);
        async move { consumer.close(secs(5)).await }
    });
    tokio::task::yield_now().await;
    let got = consumer.fetch(1, secs(1)).await.unwrap();
    assert!(got.is_empty(), "it has no fence: {got:?}");
    process.fuse.release();
    assert_eq!(closing.await.unwrap().still_open, 0);
    assert_eq!(process.work_for(secs(5)).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_job_is_told_of_where_no_records_are_kept_too() {
    let bed = Bed::new(PushModel::default());
    let store: Arc<_> = Arc::new(MemoryTracking::with_env(queue_core::Env::seeded(bed.env.now(), 99)));
    let stranger = Tracked::new(bed.broker.connect(), store, &bed.env);
    let mut spec = QueueSpec::new(bed.queue.clone());
    spec.tracking = Tracking::Off;
    stranger.declare(&spec).await.unwrap();
    let job = bed.job("job").edit(|job| job.store = Some(bed.store.id()));
    assert!(bed.broker.connect().publish(&bed.queue, vec![job], &Default::default()).await[0].is_accepted());
    let consumer = stranger.consumer(&bed.queue, ConsumeOptions::new("stranger", 1)).await.unwrap();
    let answer = consumer.fetch(1, secs(1)).await;
    assert_eq!(answer.unwrap_err().code(), ErrorCode::ForeignStore);
}

/// One claim answers of several copies, and what it drops is settled before the others are handed out.
#[tokio::test(start_paused = true)]
async fn a_lease_counts_on_while_other_copies_are_settled() {
    let bed = Bed::new(PushModel::default());
    let process = bed.process();
    let cancelled = bed.job("cancelled");
    for job in [&cancelled, &bed.job("job")] {
        process.accepted(job).await;
    }
    bed.store.cancel(&[bed.reference(cancelled.id)], &Cancel::by("a test")).await;
    let consumer = process.consumer().await;
    for (waited, left) in [(secs(3), Some(LEASE - secs(3))), (LEASE, None)] {
        process.fuse.hold_at("transport.settle");
        let fetching = Arc::clone(&consumer);
        let fetching = tokio::spawn(async move { fetching.fetch(16, secs(1)).await });
        tokio::time::sleep(waited).await;
        process.fuse.release();
        let got = fetching.await.unwrap().unwrap();
        assert_eq!(got.first().and_then(|delivery| delivery.lease.remaining), left, "{got:?}");
        if let Some(delivery) = got.first() {
            settle(&consumer, delivery, release()).await;
            let again = bed.job("cancelled too");
            process.accepted(&again).await;
            bed.store.cancel(&[bed.reference(again.id)], &Cancel::by("a test")).await;
        }
    }
    let runs = process.work_on(&consumer, secs(100)).await;
    assert_eq!(runs.get("job"), Some(&vec![1]), "what nobody saw comes back: {runs:?}");
}

/// What waits for the store keeps its consumer, and a consumer that nobody drops keeps its place in a group.
#[tokio::test(start_paused = true)]
async fn a_close_that_the_transport_does_not_answer_keeps_no_consumer() {
    let bed = Bed::new(PushModel::default());
    let connection: Arc<dyn QueueProvider> = bed.broker.connect();
    let transport: Arc<dyn QueueProvider> = Arc::new(Unclosable(connection));
    let watched = Arc::downgrade(&transport);
    let store = FaultyStore::new(bed.store.clone());
    let layer = Tracked::new(transport, Arc::new(store.clone()), &bed.env);
    assert!(layer.publish(&bed.queue, vec![bed.job("job")], &Default::default()).await[0].is_accepted());
    let consumer = layer.consumer(&bed.queue, ConsumeOptions::new("worker", 1)).await.unwrap();
    let delivery = consumer.fetch(1, secs(1)).await.unwrap().remove(0);
    store.outage(true);
    assert!(!settle(&consumer, &delivery, complete()).await.is_settled());
    assert_eq!(layer.settlements_waiting(), 1);
    let error = layer.close().await.unwrap_err();
    assert!(error.message().starts_with("1 settlements wait"), "{error}");
    assert!(std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("nobody answers")));
    drop((layer, consumer));
    assert_eq!(watched.strong_count(), 0, "somebody keeps the transport");
}

fn release() -> Disposition {
    Disposition::Release { after: secs(0), reason: ReleaseReason::Snooze }
}

async fn emptied(bed: &Bed) {
    bed.broker.connect().drop_queue(&bed.queue, false).await.unwrap();
    bed.broker.connect().declare(&QueueSpec::new(bed.queue.clone())).await.unwrap();
}

/// What the transport was to keep until it is due is found missing like what waits for a worker.
#[tokio::test(start_paused = true)]
async fn a_delayed_job_that_the_transport_lost_runs_once_it_is_due() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        let later = bed.env.now() + secs(100);
        process.accepted(&bed.job("later").edit(|job| job.not_before = Some(later))).await;
        emptied(&bed).await;
        assert!(process.work_for(secs(95)).await.is_empty());
        let runs = process.work_for(secs(200)).await;
        assert_eq!(runs.get("later"), Some(&vec![1]), "{runs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_the_transport_lost_runs_once_it_is_due() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        process.accepted(&bed.job("again")).await;
        let consumer = process.consumer().await;
        let delivery = process.take(&consumer).await;
        let retry = Disposition::Retry { after: secs(100), error: JobError::custom("BAD", "no use") };
        assert!(settle(&consumer, &delivery, retry).await.is_settled());
        emptied(&bed).await;
        let runs = process.work_for(secs(400)).await;
        assert_eq!(runs.get("again"), Some(&vec![2]), "{runs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_counts_from_the_asking_too() {
    let bed = Bed::new(PushModel::default());
    let process = bed.process();
    process.accepted(&bed.job("job")).await;
    let consumer = process.consumer().await;
    let delivery = process.take(&consumer).await;
    process.fuse.hold_at("store.heartbeat");
    let (fuse, answer) = (process.fuse.clone(), beat(&consumer, &delivery));
    let later = async move {
        tokio::time::sleep(secs(3)).await;
        fuse.release();
    };
    let (answer, ()) = tokio::join!(answer, later);
    let BeatOutcome::Held(lease) = answer else { panic!("{answer:?}") };
    assert_eq!(lease.remaining, Some(LEASE - secs(3)));
}

async fn bury(process: &bed::Process, jobs: usize) {
    let consumer = process.consumer_of(64).await;
    for _ in 0..jobs {
        let delivery = process.take(&consumer).await;
        let death = Disposition::DeadLetter { error: JobError::custom("BAD", "no") };
        assert!(settle(&consumer, &delivery, death).await.is_settled());
    }
    consumer.close(secs(1)).await;
}

/// The store says when a job died, and its clock may be ahead of everybody's, or behind.
#[tokio::test(start_paused = true)]
async fn the_dead_are_redriven_whatever_the_clock_here_says() {
    for shape in shapes() {
        for ahead in [true, false] {
            let bed = Bed::new(shape.clone());
            let (now, hour) = (bed.env.now(), secs(3_600));
            let start =
                if ahead { now + hour } else { queue_core::Timestamp::from_millis(now.as_millis() - 3_600_000) };
            let bed = Bed { store: MemoryTracking::with_env(queue_core::Env::seeded(start, 99)), ..bed };
            let process = bed.process();
            for name in ["one", "two"] {
                process.accepted(&bed.job(name)).await;
            }
            bury(&process, 2).await;
            let report =
                process.tracked.admin().redrive(&bed.queue, &Redrive { dry_run: true, ..Redrive::all() }).await;
            assert_eq!(report.unwrap(), RedriveReport { matched: 2, ..RedriveReport::default() });
            let report = process.tracked.admin().redrive(&bed.queue, &Redrive::all()).await.unwrap();
            assert_eq!((report.matched, report.redriven), (2, 2));
            assert_eq!(process.work_for(secs(10)).await.len(), 2);
        }
    }
}

/// More than are redriven at once, and each dies again at once.
#[tokio::test(start_paused = true)]
async fn who_dies_again_of_a_redrive_is_not_redriven_by_it_again() {
    const JOBS: usize = 450;
    let bed = Bed::new(PushModel::default());
    let process = Arc::new(bed.process());
    for n in 0..JOBS {
        process.accepted(&bed.job(&n.to_string())).await;
    }
    bury(&process, JOBS).await;
    let burying = tokio::spawn({
        let process = Arc::clone(&process);
        async move { bury(&process, JOBS).await }
    });
    process.fuse.hold_at("store.redrive");
    let redriving = tokio::spawn({
        let (tracked, queue) = (Arc::clone(&process.tracked), bed.queue.clone());
        async move { tracked.admin().redrive(&queue, &Redrive::all()).await.unwrap() }
    });
    // One part after the other, with time to die in between.
    for _ in 0..3 {
        for next in ["transport.publish", "store.redrive"] {
            tokio::time::sleep(secs(2)).await;
            process.fuse.release();
            process.fuse.hold_at(next);
        }
    }
    process.fuse.release();
    let report = redriving.await.unwrap();
    assert_eq!((report.matched, report.redriven), (JOBS as u64, JOBS as u64));
    burying.await.unwrap();
}

/// A worker that is torn down in the middle of a settlement, or of its repetition, leaves no copy in the transport's hands.
#[tokio::test(start_paused = true)]
async fn a_settlement_that_is_dropped_half_way_holds_no_place() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        for name in ["dropped", "behind it"] {
            process.accepted(&bed.job(name)).await;
        }
        let consumer = process.consumer_of(1).await;
        let delivery = process.take(&consumer).await;
        for is_first in [true, false] {
            process.fuse.hold_at("transport.settle");
            let half = async {
                match is_first {
                    true => drop(settle(&consumer, &delivery, complete()).await),
                    false => drop(process.tracked.maintain(true).await),
                }
            };
            assert!(tokio::time::timeout(secs(1), half).await.is_err(), "it was to be under way yet");
            process.fuse.release();
        }
        process.maintain_for(secs(5)).await;
        let next = process.take(&consumer).await;
        assert_eq!(next.envelope.payload, "behind it");
        assert!(settle(&consumer, &next, complete()).await.is_settled());
        assert_eq!(bed.copies().await, 0);
    }
}

/// The store has settled, and the copy of the next attempt is on its way.
#[tokio::test(start_paused = true)]
async fn a_retry_that_is_dropped_half_way_holds_no_place_and_is_kept() {
    for shape in shapes() {
        let bed = Bed::new(shape);
        let process = bed.process();
        process.accepted(&bed.job("job")).await;
        let consumer = process.consumer_of(1).await;
        let delivery = process.take(&consumer).await;
        process.fuse.hold_at("transport.publish");
        let retry = Disposition::Retry { after: secs(0), error: JobError::custom("TEMP", "again") };
        assert!(
            tokio::time::timeout(secs(1), settle(&consumer, &delivery, retry)).await.is_err(),
            "it was to be under way"
        );
        process.fuse.release();
        let runs = process.work_on(&consumer, secs(100)).await;
        assert_eq!(runs.get("job"), Some(&vec![2]), "{runs:?}");
        assert_eq!(bed.copies().await, 0);
    }
}
