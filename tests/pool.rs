//! Slots that follow the load, in paused time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod faulty;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use faulty::{Faults, Faulty};
use futures_util::StreamExt;
use queue_core::{
    Env, Error, Event, Failure, Job, JobContext, JobScheduler, QueueName, Timestamp, Worker,
    event::PoolChange,
    provider::PublishOptions,
    queue_spec::{Partition, QueueSpec},
    scheduler::NewJob,
    store::Watched,
    worker::{PoolStatus, Scaling, WorkerBuilder},
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Sleep {
    millis: u64,
}

impl Job for Sleep {
    const KIND: &'static str = "sleep";
    const QUEUE: &'static str = "q";
    type Output = ();
}

async fn sleep(job: Sleep) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_millis(job.millis)).await;
    Ok(())
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn queues() -> (JobScheduler, Faults) {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 1);
    let faults = Faults::default();
    let faulty = Faulty::new(MemoryProvider::with_env(env.clone()), faults.clone());
    (JobScheduler::with_env(Arc::new(faulty), env), faults)
}

/// 2 to 9 slots, 4 at the start, up by 2 above 20, down by 1 below 5 after three looks, 5 s apart; waits do not matter.
fn scaling() -> Scaling {
    let mut scaling = Scaling::new(2, 9);
    (scaling.initial, scaling.up_depth, scaling.up_step) = (4, 20, 2);
    (scaling.down_depth, scaling.down_step, scaling.down_looks) = (5, 1, 3);
    (scaling.up_wait, scaling.cooldown, scaling.interval) = (None, seconds(30), seconds(5));
    scaling
}

fn worker(queues: &JobScheduler, scaling: Scaling) -> WorkerBuilder {
    queues.worker().scale("q", scaling).heartbeat_on_runtime().drain_deadline(seconds(1))
}

async fn submit(queues: &JobScheduler, count: usize, millis: u64) {
    let mut job = NewJob::typed(&Sleep { millis }).unwrap();
    job.options.timeout = Some(seconds(100_000));
    let jobs = vec![job; count];
    let answers = queues.submit(&QueueName::from_static("q"), jobs, &PublishOptions::default()).await;
    assert_eq!(answers.len(), count);
}

fn pool(worker: &Worker) -> PoolStatus {
    worker.status().pools.remove(0)
}

/// What is told of the pool, in order.
async fn listen(queues: &JobScheduler) -> Arc<Mutex<Vec<PoolChange>>> {
    let mut events = queues.events().await.unwrap();
    let changes: Arc<Mutex<Vec<PoolChange>>> = Arc::default();
    let log = Arc::clone(&changes);
    tokio::spawn(async move {
        while let Some(watched) = events.next().await {
            if let Watched::Event(Event::Pool(event)) = watched {
                log.lock().unwrap().push(event.what);
            }
        }
    });
    changes
}

/// Notes how many slots there are at each look.
async fn slots_over(worker: &Worker, looks: usize) -> Vec<usize> {
    let mut slots = Vec::new();
    for _ in 0..looks {
        tokio::time::sleep(seconds(5)).await;
        slots.push(pool(worker).slots);
    }
    slots
}

#[tokio::test(start_paused = true)]
async fn slots_come_with_the_load_and_go_with_it_between_least_and_most() {
    let (queues, faults) = queues();
    let changes = listen(&queues).await;
    let running = worker(&queues, scaling()).name("w").register(sleep).start().await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    assert_eq!((pool(&running).slots, faults.demanded()), (4, 6));
    // 1,000 s of work, of which much waits.
    submit(&queues, 100, 10_000).await;
    assert_eq!(slots_over(&running, 5).await, [6, 8, 9, 9, 9]);
    assert_eq!(faults.demanded(), 9 + 4, "it follows");
    tokio::time::sleep(seconds(200)).await;
    assert_eq!(queues.stats(&QueueName::from_static("q")).await.unwrap().completed_total, 100);
    for _ in 0..20 {
        tokio::time::sleep(seconds(5)).await;
        let slots = pool(&running).slots;
        assert_eq!(faults.demanded(), slots + slots / 2, "it follows at once, also while a fetch waits");
    }
    assert_eq!((pool(&running).slots, pool(&running).busy), (2, 0));
    use PoolChange::{ScaledDown, ScaledUp};
    let up = [(4, 6), (6, 8), (8, 9)].map(|(from, to)| ScaledUp { from, to });
    let down = [9, 8, 7, 6, 5, 4, 3].map(|from| ScaledDown { from, to: from - 1 });
    assert_eq!(*changes.lock().unwrap(), [&up[..], &down[..]].concat());
    // What came first, comes again.
    submit(&queues, 100, 10_000).await;
    assert_eq!(slots_over(&running, 4).await, [4, 6, 8, 9]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_slot_with_a_job_is_removed() {
    let (queues, _) = queues();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let running = worker(&queues, scaling())
        .register(move |job: Sleep| {
            count.fetch_add(1, Ordering::SeqCst);
            sleep(job)
        })
        .start()
        .await
        .unwrap();
    // Three that take long in four slots: little waits, so that only the idle one goes.
    submit(&queues, 3, 1_000_000).await;
    tokio::time::sleep(seconds(600)).await;
    let status = pool(&running);
    assert_eq!((status.slots, status.busy, status.in_hand), (3, 3, 3));
    // They are done; now the third goes too.
    tokio::time::sleep(seconds(500)).await;
    let status = pool(&running);
    assert_eq!((status.slots, status.busy, runs.load(Ordering::SeqCst)), (2, 0, 3), "each ran once");
    assert_eq!((status.ended_total, status.run_time_total), (3, seconds(3_000)));
    assert_eq!(status.run_time_average(), seconds(1_000));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_too_long_brings_more_slots_however_few_wait() {
    let (queues, _) = queues();
    let mut by_wait = scaling();
    by_wait.up_wait = Some(seconds(12));
    let running = worker(&queues, by_wait).prefetch(0).register(sleep).start().await.unwrap();
    submit(&queues, 10, 10_000_000).await;
    // Looks at 5, 10 and 15 s: the third sees waits beyond 12 s.
    assert_eq!(slots_over(&running, 2).await, [4, 4]);
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(slots_over(&running, 3).await, [6, 8, 9]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_comes_and_goes_does_not_make_it_flap() {
    let (queues, _) = queues();
    let changes = listen(&queues).await;
    let running = worker(&queues, scaling()).prefetch(0).register(sleep).start().await.unwrap();
    // Every 10 s a burst that is over before the next: looks find much, nothing, much, nothing.
    tokio::time::sleep(seconds(3)).await;
    for _ in 0..60 {
        submit(&queues, 40, 300).await;
        tokio::time::sleep(seconds(1)).await;
        submit(&queues, 21, 800).await;
        tokio::time::sleep(seconds(9)).await;
    }
    let changes = changes.lock().unwrap().clone();
    let downs = changes.iter().filter(|change| matches!(change, PoolChange::ScaledDown { .. })).count();
    assert_eq!(downs, 0, "{changes:?}");
    assert!(!changes.is_empty() && changes.len() <= 3, "up, and there it stays: {changes:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_changes_while_numbers_are_away_and_for_ever_where_there_are_none() {
    let (queues, faults) = queues();
    let running = worker(&queues, scaling()).register(sleep).start().await.unwrap();
    faults.stats_away(true);
    submit(&queues, 200, 20_000).await;
    assert_eq!(slots_over(&running, 10).await, [4; 10]);
    faults.stats_away(false);
    assert_eq!(slots_over(&running, 2).await, [6, 8]);
    running.stop().await;

    // Two looks that find little, one that finds nothing out, and so on: never three in a row.
    let (queues, faults) = self::queues();
    let running = worker(&queues, scaling()).register(sleep).start().await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    for _ in 0..10 {
        tokio::time::sleep(seconds(10)).await;
        faults.stats_away(true);
        assert_eq!(slots_over(&running, 1).await, [4]);
        faults.stats_away(false);
    }
    running.stop().await;

    let (queues, faults) = self::queues();
    faults.no_stats();
    let running = worker(&queues, scaling()).register(sleep).start().await.unwrap();
    submit(&queues, 200, 20_000).await;
    assert_eq!(slots_over(&running, 10).await, [4; 10]);
    assert_eq!(faults.looks(), 1, "asked once, and never again");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fixed_pool_asks_for_no_numbers_and_one_that_scales_once_an_interval() {
    let (queues, faults) = queues();
    let fixed = queues.worker().queue("q", 3).heartbeat_on_runtime().register(sleep).start().await.unwrap();
    let dev = worker(&queues, Scaling::dev()).register(sleep).start().await.unwrap();
    submit(&queues, 500, 10_000).await;
    tokio::time::sleep(seconds(300)).await;
    assert_eq!((faults.looks(), pool(&fixed).slots, pool(&dev).slots), (0, 3, 2));
    let scales = worker(&queues, scaling()).register(sleep).start().await.unwrap();
    tokio::time::sleep(seconds(101)).await;
    assert_eq!(faults.looks(), 20);
    for worker in [fixed, dev, scales] {
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_changes_nothing() {
    let (queues, _) = queues();
    let name = QueueName::from_static("q");
    let running = worker(&queues, scaling()).register(sleep).start().await.unwrap();
    submit(&queues, 1, 0).await;
    queues.admin().pause(&name, true).await.unwrap();
    submit(&queues, 100, 10_000).await;
    assert_eq!(slots_over(&running, 20).await, [4; 20]);
    queues.admin().pause(&name, false).await.unwrap();
    assert_eq!(slots_over(&running, 3).await, [6, 8, 9]);
    running.stop().await;
}

/// While slots come and go, each job runs once, and none is slept through.
#[tokio::test(start_paused = true)]
async fn every_job_runs_once_while_slots_come_and_go() {
    let (queues, _) = queues();
    let mut lively = scaling();
    (lively.min, lively.max, lively.initial) = (1, 40, 1);
    (lively.up_depth, lively.up_step, lively.down_depth, lively.down_step) = (3, 7, 3, 9);
    (lively.down_looks, lively.cooldown, lively.interval) = (1, Duration::ZERO, Duration::from_millis(10));
    let ran: Arc<Mutex<HashSet<_>>> = Arc::default();
    let (log, twice) = (Arc::clone(&ran), Arc::new(AtomicUsize::new(0)));
    let again = Arc::clone(&twice);
    let running = worker(&queues, lively)
        .register(move |job: Sleep, context: JobContext| {
            if !log.lock().unwrap().insert(context.id()) {
                again.fetch_add(1, Ordering::SeqCst);
            }
            sleep(job)
        })
        .start()
        .await
        .unwrap();
    let (mut sent, mut peak) = (0, 0);
    for round in 0..300_usize {
        let count = round % 7 * (round % 11);
        submit(&queues, count, 1 + round as u64 % 37).await;
        sent += count;
        tokio::time::sleep(Duration::from_millis(round as u64 % 91)).await;
        let status = pool(&running);
        assert!(status.busy <= status.slots && (1..=40).contains(&status.slots), "{status:?}");
        peak = peak.max(status.slots);
    }
    tokio::time::sleep(seconds(10)).await;
    assert_eq!((ran.lock().unwrap().len(), twice.load(Ordering::SeqCst)), (sent, 0));
    let status = pool(&running);
    assert_eq!((status.slots, status.busy, status.in_hand, status.ended_total), (1, 0, 0, sent as u64));
    assert!(peak > 10, "{peak}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_scaling_that_makes_no_sense_is_refused_at_the_start_and_names_its_field() {
    let (queues, _) = queues();
    let start = |builder: WorkerBuilder| async { builder.register(sleep).start().await.unwrap_err() };
    let names = |error: Error, field: &str| assert!(error.message().contains(field), "{error}");
    names(start(worker(&queues, Scaling::new(5, 4))).await, "scaling.max");
    names(start(worker(&queues, Scaling::new(0, 4))).await, "scaling.min");
    names(start(worker(&queues, Scaling::new(1, 100_000))).await, "100,000");
    names(start(worker(&queues, scaling()).health_interval(Duration::ZERO)).await, "health_interval");
    let short = worker(&queues, scaling()).health_interval(seconds(30)).sign_of_life(seconds(21));
    names(start(short).await, "sign_of_life");
    let just = worker(&queues, scaling()).health_interval(seconds(30)).sign_of_life(seconds(20));
    just.register(sleep).start().await.unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_behind_a_full_partition_call_for_no_slots() {
    let (queues, _) = queues();
    let mut spec = QueueSpec::new(QueueName::from_static("q"));
    let capped = Partition { weight: 1, max_concurrency: Some(1) };
    spec.partitions = BTreeMap::from([("bulk".into(), capped)]);
    queues.declare(spec).await.unwrap();
    let mut waits = scaling();
    waits.up_wait = Some(seconds(10));
    let worker = worker(&queues, waits).register(sleep).start().await.unwrap();
    for _ in 0..50 {
        queues.enqueue(Sleep { millis: 3_600_000 }).timeout(seconds(10_000)).partition("bulk").await.unwrap();
    }
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(pool(&worker).slots, 2, "one job may run, whatever waits behind it");
    submit(&queues, 30, 60_000).await;
    tokio::time::sleep(seconds(20)).await;
    assert!(pool(&worker).slots > 2, "others still do");
    worker.stop().await;
}
