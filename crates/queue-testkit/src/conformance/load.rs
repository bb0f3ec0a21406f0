//! Many jobs, many hands, and faults: nothing lost, nothing run twice without a reason.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use queue_core::{
    Consumer, Envelope, Error, ErrorCode, JobError, QueueName,
    provider::{Disposition, PublishOptions, SettleOutcome, Settlement},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq},
};
use crate::checker::{End, Recorder, Struck};

cases! { "load";
    four_producers_four_consumers []
    workers_that_are_killed [Crash]
    workers_that_fail_and_hand_back [Retry]
    broker_restarted_twice [Restart]
}

/// Far beyond what a part of a case takes: the slowest waits for a publish's deadline, and for the patience.
const PHASE: Duration = Duration::from_secs(180);

/// Publishes `jobs` from several tasks in batches of mixed sizes; what is not answered is offered again where ids count.
async fn produce(ctx: &Ctx, queue: &QueueName, jobs: Vec<Envelope>, record: &Arc<Recorder>) -> Outcome<JoinSet<()>> {
    let mut producers = JoinSet::new();
    let share = jobs.len().div_ceil(4).max(1);
    let again = ctx.caps().dedup_by_id.is_supported();
    for (at, mine) in jobs.chunks(share).enumerate() {
        let provider = ctx.connect().await?;
        let (queue, mine, record) = (queue.clone(), mine.to_vec(), Arc::clone(record));
        producers.spawn(async move {
            for batch in mine.chunks(1 + at * 7) {
                let mut left = batch.to_vec();
                while !left.is_empty() {
                    let outcomes = provider.publish(&queue, left.clone(), &PublishOptions::default()).await;
                    let mut refused = Vec::new();
                    for (job, outcome) in left.into_iter().zip(outcomes) {
                        record.published(job.id, &outcome);
                        if !outcome.is_accepted() && again {
                            refused.push(job);
                        }
                    }
                    left = refused;
                    if !left.is_empty() {
                        sleep(Duration::from_millis(100)).await;
                    }
                }
                tokio::task::yield_now().await;
            }
        });
    }
    Ok(producers)
}

fn jobs(ctx: &Ctx, n: usize) -> Vec<Envelope> {
    (0..n).map(|n| ctx.job(n.to_string()).seal()).collect()
}

/// What a worker does with its `n`-th delivery.
type Choose = Arc<dyn Fn(usize) -> Disposition + Send + Sync>;

struct Work {
    name: String,
    consumer: Arc<dyn Consumer>,
    record: Arc<Recorder>,
    choose: Choose,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
}

impl Work {
    /// Works until it is told to stop. Errors are the broker's bad minutes: it comes back.
    async fn run(self) {
        let mut n = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(got) = self.consumer.fetch(10, Duration::from_millis(500)).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            for delivery in &got {
                self.record.started(delivery.envelope.id, &self.name);
            }
            tokio::task::yield_now().await;
            let batch: Vec<Settlement> = got
                .iter()
                .map(|delivery| {
                    n += 1;
                    Settlement::new(delivery.receipt, (self.choose)(n))
                })
                .collect();
            for (settlement, outcome) in batch.iter().zip(self.consumer.settle(&batch).await) {
                self.record.settled(settlement.receipt.id, &self.name, &settlement.disposition, &outcome);
                if outcome.is_settled() && End::of(&settlement.disposition).is_final() {
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

fn complete() -> Choose {
    Arc::new(|_| Disposition::Complete { result: None })
}

/// Waits until `done` reaches `n`, or nothing has happened for the patience.
async fn until_done(ctx: &Ctx, done: &AtomicUsize, n: usize) {
    let (mut last, mut since) = (0, Instant::now());
    while done.load(Ordering::Relaxed) < n && since.elapsed() < ctx.patience() {
        sleep(Duration::from_millis(50)).await;
        let now = done.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// Waits until all that was accepted has ended, or nothing has happened for the patience. Not all need have been accepted: a publish
/// that nobody answered may be lost.
async fn until_finished(ctx: &Ctx, done: &AtomicUsize, record: &Recorder) {
    let (mut last, mut since) = (0, Instant::now());
    while !record.check().unfinished.is_empty() && since.elapsed() < ctx.patience() {
        sleep(Duration::from_millis(250)).await;
        let now = done.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

async fn run(ctx: &Ctx, n: usize, choose: Choose) -> Outcome<Arc<Recorder>> {
    let queue = ctx.queue("load");
    let record = Arc::new(Recorder::new());
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for at in 0..4 {
        let provider = if at % 2 == 0 { Arc::clone(ctx.provider()) } else { ctx.connect().await? };
        let consumer = ctx.consumer_on(&provider, &queue, 10 + at * 10, ctx.long_lease()).await?;
        let (record, choose) = (Arc::clone(&record), Arc::clone(&choose));
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        workers.spawn(Work { name: format!("worker {at}"), consumer, record, choose, stop, done }.run());
    }
    let producers = produce(ctx, &queue, jobs(ctx, n), &record).await?;
    producers.join_all().await;
    until_done(ctx, &done, n).await;
    sleep(ctx.quiet_time()).await;
    stop.store(true, Ordering::Relaxed);
    workers.join_all().await;
    if ctx.caps().exact_depth.is_supported() {
        let stats = ctx.stats(&queue).await?;
        record.left(stats.waiting() + stats.running + stats.dead);
    }
    Ok(record)
}

async fn four_producers_four_consumers(ctx: &Ctx) -> Outcome {
    let n = 2_000;
    let record = run(ctx, n, complete()).await?;
    let report = record.check();
    check!(report.is_clean(), "{report}");
    check_eq!(
        (report.accepted, report.completed, report.starts),
        (n, n, n),
        "accepted, completed, started, without faults"
    );
    Ok(())
}

async fn workers_that_fail_and_hand_back(ctx: &Ctx) -> Outcome {
    let n = 300;
    let choose: Choose = Arc::new(|n| match n % 7 {
        2 => Disposition::Retry { after: Duration::from_millis(20), error: JobError::custom("TEMP", "again") },
        4 => Disposition::Release { after: Duration::ZERO, reason: queue_core::provider::ReleaseReason::Shutdown },
        _ => Disposition::Complete { result: None },
    });
    let report = run(ctx, n, choose).await?.check();
    check!(report.is_clean(), "{report}");
    check_eq!((report.accepted, report.completed), (n, n), "accepted and completed");
    Ok(())
}

async fn workers_that_are_killed(ctx: &Ctx) -> Outcome {
    let n = 400;
    let queue = ctx.queue("kill");
    let record = Arc::new(Recorder::new());
    let producers = produce(ctx, &queue, jobs(ctx, n), &record).await?;
    producers.join_all().await;
    let done = Arc::new(AtomicUsize::new(0));
    // Six victims hold jobs when they die; the last worker finishes what is left.
    for at in 0..6 {
        let name = format!("victim {at}");
        let provider = ctx.connect().await?;
        let consumer = ctx.consumer_on(&provider, &queue, 20, ctx.facts().lease).await?;
        let got = ctx.take(&consumer, 12).await?;
        for delivery in &got {
            record.started(delivery.envelope.id, &name);
        }
        for delivery in got.iter().take(at) {
            let disposition = Disposition::Complete { result: None };
            let outcome = ctx.settle(&consumer, delivery, disposition.clone()).await?;
            if outcome.is_settled() {
                done.fetch_add(1, Ordering::Relaxed);
            }
            record.settled(delivery.receipt.id, &name, &disposition, &told(ctx, outcome));
        }
        record.fault(&format!("{name} killed"), &Struck::Worker(&name));
        ctx.crash(provider).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let consumer = ctx.consumer(&queue).await?;
    let work = Work {
        name: "survivor".into(),
        consumer,
        record: Arc::clone(&record),
        choose: complete(),
        stop: Arc::clone(&stop),
        done: Arc::clone(&done),
    };
    let worker = tokio::spawn(work.run());
    until_done(ctx, &done, n).await;
    sleep(ctx.quiet_time()).await;
    stop.store(true, Ordering::Relaxed);
    worker.await.map_err(|error| Failed(format!("the survivor panicked: {error}")))?;
    let report = record.check();
    check!(report.is_clean(), "{report}");
    if ctx.caps().settle_confirmed {
        check_eq!((report.accepted, report.completed), (n, n), "accepted and completed");
    }
    Ok(())
}

/// Where a settlement is sent and never answered, that of a worker that is killed in the next moment may not have arrived.
fn told(ctx: &Ctx, outcome: SettleOutcome) -> SettleOutcome {
    if ctx.caps().settle_confirmed || !outcome.is_settled() {
        return outcome;
    }
    SettleOutcome::Unknown(Error::new(ErrorCode::Timeout, "sent, and not confirmed"))
}

/// A part of a case that may hang: then it is said which.
async fn phase<T>(name: &str, part: impl Future<Output = T>) -> Outcome<T> {
    timeout(PHASE, part).await.map_err(|_| Failed(format!("{name}: not over after {PHASE:?}")))
}

async fn broker_restarted_twice(ctx: &Ctx) -> Outcome {
    let n = std::env::var("QUEUE_RESTART_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let queue = ctx.declared("restart", |_| {}).await?;
    let record = Arc::new(Recorder::new());
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for at in 0..2 {
        let provider = ctx.connect().await?;
        let consumer = ctx.consumer_on(&provider, &queue, 50, ctx.facts().lease).await?;
        let (record, stop, done) = (Arc::clone(&record), Arc::clone(&stop), Arc::clone(&done));
        workers.spawn(Work { name: format!("worker {at}"), consumer, record, choose: complete(), stop, done }.run());
    }
    let producers = produce(ctx, &queue, jobs(ctx, n), &record).await?;
    for third in 1..=2 {
        phase("the work before a restart", until_done(ctx, &done, n * third / 3)).await?;
        let unconfirmed = !ctx.caps().settle_confirmed;
        record.fault("broker restarted", &Struck::Everything { settled: unconfirmed });
        phase("the restart", ctx.harness().restart_broker()).await??;
        if unconfirmed {
            // What was sent between the word and the deed, and to a socket at whose other end nobody was any more.
            record.fault("until it was gone", &Struck::Everything { settled: true });
        }
    }
    phase("the last publishes", producers.join_all()).await?;
    phase("the work that was left", until_finished(ctx, &done, &record)).await?;
    sleep(ctx.quiet_time()).await;
    stop.store(true, Ordering::Relaxed);
    phase("the workers' end", workers.join_all()).await?;
    let report = record.check();
    check!(report.is_clean(), "{report}");
    Ok(())
}
