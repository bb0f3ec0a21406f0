//! The write-order table, row by row: the order itself, and a crash in every gap of it, over each model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use std::time::Duration;

use bed::{Bed, Process, Runs, follow_up, secs, shapes};
use queue_core::{
    Envelope, JobError, QueueProvider,
    lifecycle::JobState,
    provider::{Disposition, ParkKey, Redrive, ReleaseReason, Settlement},
};
use queue_testkit::models::{PushModel, Shape};

/// Longer than any lease, delay and park of these tests together.
const LONG: Duration = Duration::from_secs(600);
const KEY: &str = "limit";

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Publish,
    Held,
    Claim,
    Complete,
    Dead,
    Cancelled,
    RetryNow,
    RetryLater,
    Release,
    Park,
    Unpark,
    Redrive,
}

const ROWS: [Row; 12] = [
    Row::Publish,
    Row::Held,
    Row::Claim,
    Row::Complete,
    Row::Dead,
    Row::Cancelled,
    Row::RetryNow,
    Row::RetryLater,
    Row::Release,
    Row::Park,
    Row::Unpark,
    Row::Redrive,
];

fn error() -> JobError {
    JobError::custom("BAD", "no use")
}

fn park() -> Disposition {
    Disposition::Park { key: ParkKey(KEY.into()), at_most: secs(60) }
}

/// Brings everything to where the row begins.
async fn before(row: Row, bed: &Bed, process: &Process, job: &Envelope) {
    match row {
        Row::Publish | Row::Held => {}
        Row::Unpark | Row::Redrive => {
            process.accepted(job).await;
            let consumer = process.consumer().await;
            let delivery = process.take(&consumer).await;
            let end = if row == Row::Unpark { park() } else { Disposition::DeadLetter { error: error() } };
            assert!(bed::settle(&consumer, &delivery, end).await.is_settled());
            consumer.close(secs(1)).await;
        }
        _ => process.accepted(job).await,
    }
    assert!(bed.copies().await <= 1);
}

/// The row itself, with the fuse from its first call on. `true` where the job was run before a settlement.
async fn flow(row: Row, bed: &Bed, process: &Process, job: &Envelope, cut: usize) {
    let disposition = match row {
        Row::Publish | Row::Held => {
            process.fuse.burn_after(cut);
            process.publish(job).await;
            return;
        }
        Row::Claim => {
            let consumer = process.consumer().await;
            process.fuse.burn_after(cut);
            consumer.fetch(1, secs(5)).await.unwrap();
            return;
        }
        Row::Unpark => {
            process.fuse.burn_after(cut);
            process.tracked.unpark(&bed.queue, &ParkKey(KEY.into()), 5).await.unwrap();
            return;
        }
        Row::Redrive => {
            process.fuse.burn_after(cut);
            process.tracked.admin().redrive(&bed.queue, &Redrive::one(job.id)).await.unwrap();
            return;
        }
        Row::Complete => bed::complete(),
        Row::Dead => Disposition::DeadLetter { error: error() },
        Row::Cancelled => Disposition::Cancelled,
        Row::RetryNow => Disposition::Retry { after: Duration::ZERO, error: error() },
        Row::RetryLater => Disposition::Retry { after: secs(20), error: error() },
        Row::Release => Disposition::Release { after: secs(20), reason: ReleaseReason::Snooze },
        Row::Park => park(),
    };
    let consumer = process.consumer().await;
    let delivery = process.take(&consumer).await;
    let then = vec![follow_up(bed, &delivery, "then")];
    process.fuse.burn_after(cut);
    let outcome =
        consumer.settle(&[Settlement { then, ..Settlement::new(delivery.receipt, disposition) }]).await.remove(0);
    assert!(outcome.is_settled(), "{outcome:?}");
}

/// What the next process must run if the row's first write was made: attempts of the job, and whether what follows it.
fn expected(row: Row) -> (Vec<u32>, bool) {
    match row {
        Row::Complete | Row::Dead | Row::Cancelled => (vec![], true),
        Row::RetryNow | Row::RetryLater => (vec![2], true),
        Row::Release | Row::Park => (vec![1], true),
        Row::Publish | Row::Held | Row::Claim | Row::Unpark | Row::Redrive => (vec![1], false),
    }
}

/// What it must run if not even that was made.
fn expected_without(row: Row) -> (Vec<u32>, bool) {
    match row {
        Row::Publish | Row::Held | Row::Redrive => (vec![], false),
        _ => (vec![1], false),
    }
}

fn job_of(row: Row, bed: &Bed) -> Envelope {
    let job = bed.job("job");
    // Beyond what the model that hides messages can hold.
    if row == Row::Held { job.edit(|job| job.not_before = Some(bed.env.now() + secs(1_000))) } else { job }
}

/// One crash, and what came of it. The calls that were made before it.
async fn crash_at(row: Row, shape: Shape, cut: usize) -> (Vec<&'static str>, bool) {
    let bed = Bed::new(shape);
    let first = bed.process();
    let job = job_of(row, &bed);
    before(row, &bed, &first, &job).await;
    let ended = tokio::select! {
        biased;
        () = flow(row, &bed, &first, &job, cut) => true,
        () = first.fuse.burnt() => false,
    };
    let calls = first.fuse.calls();
    first.crash();

    let second = bed.process();
    let runs = second.work_for(if row == Row::Held { LONG + secs(1_000) } else { LONG }).await;
    let written = calls.iter().any(|call| {
        matches!(*call, "store.stage" | "store.settle" | "store.unpark" | "store.redrive")
            || (*call == "transport.fetch" && row == Row::Claim)
    });
    let (attempts, then) = if written { expected(row) } else { expected_without(row) };
    let mut wanted = Runs::new();
    if !attempts.is_empty() {
        wanted.insert("job".to_owned(), attempts);
    }
    if then {
        wanted.insert("then".to_owned(), vec![1]);
    }
    let place = format!("{row:?} on {:?}, killed after {calls:?}", bed.broker.connect().scheme());
    assert_eq!(runs, wanted, "{place}");
    assert_eq!(bed.copies().await, 0, "{place}: copies are left in the broker");
    if written {
        let state = bed.state(job.id).await;
        let end = match row {
            Row::Dead => JobState::Dead,
            Row::Cancelled => JobState::Cancelled,
            _ => JobState::Completed,
        };
        assert_eq!(state, end, "{place}");
    }
    (calls, ended)
}

/// Kills the process before each of its calls, until one run ends unharmed.
async fn every_gap_of(row: Row) {
    for shape in shapes() {
        let mut cut = 0;
        loop {
            let (calls, ended) = crash_at(row, shape.clone(), cut).await;
            if ended {
                assert!(calls.len() <= cut && cut > 0, "{row:?}: {calls:?}");
                break;
            }
            cut += 1;
            assert!(cut < 30, "{row:?} does not end: {calls:?}");
        }
    }
}

macro_rules! gaps {
    ($($name:ident $row:ident;)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $name() {
            every_gap_of(Row::$row).await;
        })*

        #[test]
        fn every_row_is_here() {
            assert_eq!([$(Row::$row),*], ROWS);
        }
    };
}

gaps! {
    a_crash_while_a_job_is_published_loses_and_doubles_nothing Publish;
    a_crash_while_a_delay_is_held_loses_and_doubles_nothing Held;
    a_crash_while_a_job_is_claimed_gives_it_to_another Claim;
    a_crash_while_a_job_is_completed_runs_nothing_again Complete;
    a_crash_while_a_job_is_buried_runs_nothing_again Dead;
    a_crash_while_a_job_is_cancelled_runs_nothing_again Cancelled;
    a_crash_while_a_job_is_retried_at_once_leaves_one_attempt RetryNow;
    a_crash_while_a_job_is_retried_later_leaves_one_attempt RetryLater;
    a_crash_while_a_job_is_released_leaves_one_copy_that_counts Release;
    a_crash_while_a_job_is_parked_brings_it_back_in_its_time Park;
    a_crash_while_a_job_is_unparked_leaves_one_copy_that_counts Unpark;
    a_crash_while_a_dead_job_is_redriven_leaves_one_copy_that_counts Redrive;
}

/// The writes of a row in the order in which they are made. Reads are left out.
async fn order_of(row: Row, shape: impl Into<Shape>) -> Vec<&'static str> {
    let bed = Bed::new(shape);
    let process = bed.process();
    let job = job_of(row, &bed);
    before(row, &bed, &process, &job).await;
    flow(row, &bed, &process, &job, usize::MAX).await;
    let reads = ["store.queue_control", "store.get", "store.dead"];
    process.fuse.calls().into_iter().filter(|call| !reads.contains(call)).collect()
}

#[tokio::test(start_paused = true)]
async fn each_row_writes_in_the_order_of_the_table() {
    let settled = ["store.settle", "transport.publish", "transport.settle", "store.confirm"];
    let table: [(Row, &[&str]); 12] = [
        (Row::Publish, &["store.stage", "transport.publish", "store.confirm"]),
        (Row::Held, &["store.stage", "transport.publish", "store.confirm"]),
        (Row::Claim, &["transport.fetch", "store.claim"]),
        (Row::Complete, &settled),
        (Row::Dead, &settled),
        (Row::Cancelled, &settled),
        (Row::RetryNow, &settled),
        (Row::RetryLater, &settled),
        (Row::Release, &settled),
        (Row::Park, &settled),
        (Row::Unpark, &["store.unpark", "transport.publish", "store.confirm"]),
        (Row::Redrive, &["store.redrive", "transport.publish", "store.confirm"]),
    ];
    for (row, order) in table {
        assert_eq!(order_of(row, PushModel::default()).await, order, "{row:?}");
    }
    let held = order_of(Row::Held, queue_testkit::models::VisibilityModel::default()).await;
    assert_eq!(held, ["store.stage"], "what the transport cannot hold is not sent to it");
}
