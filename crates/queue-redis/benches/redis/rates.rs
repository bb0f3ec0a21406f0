//! How many a second, and how soon.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use queue_core::{Env, Failure, JobScheduler, queue_spec::Tracking};
use queue_redis::{ClientOptions, RedisClusterClient};
use tokio::sync::mpsc;

use crate::{
    Row, Scale, Wanted,
    jobs::{self, BATCH, Nothing},
    server::Server,
};

const TASKS: u64 = 50;

/// One round of all rates, with their baselines.
pub(crate) async fn round(server: &Server, scale: Scale, wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    server.connect().await;
    let rates = ["lpush", "enqueue_single", "enqueue_batch_100", "process", "process_result_32", "process_untracked"];
    if rates.iter().any(|name| wanted.is(name)) {
        server.clear().await;
        let rival = |test: &str, pipeline| server.rival(test, scale.jobs, pipeline);
        let baseline = rival("lpush", 1);
        let mut add = |name, value| rows.push(Row { name, unit: "jobs/s", value, baseline: Some(baseline) });
        add("lpush", baseline);
        add("rpop", rival("rpop", 1));
        add("lpush_pipelined_50", rival("lpush", 50));
        add("rpop_pipelined_50", rival("rpop", 50));
        if wanted.is("enqueue_single") {
            add("enqueue_single", enqueue(server, scale.jobs, 1).await);
        }
        if wanted.is("enqueue_batch_100") {
            add("enqueue_batch_100", enqueue(server, scale.jobs, BATCH).await);
        }
        if wanted.is("process") {
            add("process", process(server, scale.jobs, Tracking::Full, "nothing").await);
        }
        if wanted.is("process_result_32") {
            add("process_result_32", process(server, scale.jobs, Tracking::Full, "answered").await);
        }
        if wanted.is("process_untracked") {
            add("process_untracked", process(server, scale.jobs, Tracking::Off, "nothing").await);
        }
    }
    if wanted.is("latency_idle") {
        let (pinged, waited) = latency_idle(server, scale.samples).await;
        let baseline = percentile(&pinged, 0.5);
        let mut add = |name, value| rows.push(Row { name, unit: "us", value, baseline: Some(baseline) });
        add("ping_idle_p50", baseline);
        add("ping_idle_p99", percentile(&pinged, 0.99));
        add("latency_idle_p50", percentile(&waited, 0.5));
        add("latency_idle_p99", percentile(&waited, 0.99));
        // For scale: processors that rest take long to wake, and a loop does not let them.
        add("ping_looped_p50", ping_looped(server, scale.samples).await);
    }
    rows
}

fn rate(jobs: u64, started: Instant) -> f64 {
    jobs as f64 / started.elapsed().as_secs_f64()
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// 50 tasks, so many jobs a call each; typed jobs one at a time, packed ones in batches.
async fn enqueue(server: &Server, jobs: u64, batch: u64) -> f64 {
    let provider = jobs::provider(server, Tracking::Full).await;
    let queues = JobScheduler::new(provider.clone());
    let tasks = if batch == 1 { TASKS } else { 8 };
    let started = Instant::now();
    let mut sides = Vec::new();
    for _ in 0..tasks {
        let (queues, provider) = (queues.clone(), provider.clone());
        sides.push(tokio::spawn(async move {
            let job = Nothing::new();
            for _ in 0..jobs / tasks / batch {
                if batch == 1 {
                    queues.enqueue(job.clone()).await.unwrap();
                } else {
                    jobs::publish(&provider, jobs::envelopes(batch, "nothing")).await;
                }
            }
        }));
    }
    for side in sides {
        side.await.unwrap();
    }
    let rate = rate(jobs, started);
    queues.close().await.unwrap();
    rate
}

/// A full queue, worked off by one worker.
async fn process(server: &Server, jobs: u64, tracking: Tracking, kind: &'static str) -> f64 {
    let provider = jobs::provider(server, tracking).await;
    jobs::fill(&provider, jobs, kind).await;
    let queues = JobScheduler::new(provider);
    let started = Instant::now();
    jobs::work_off(&queues, jobs).await;
    let rate = rate(jobs, started);
    queues.close().await.unwrap();
    rate
}

/// Microseconds of one `PING` through the client on which the provider runs.
async fn ping(client: &RedisClusterClient) -> f64 {
    let started = Instant::now();
    client.execute(None, &redis::cmd("PING"), true).await.unwrap();
    started.elapsed().as_secs_f64() * 1e6
}

async fn client(server: &Server) -> RedisClusterClient {
    let options = ClientOptions::from_url(&server.url()).unwrap();
    RedisClusterClient::connect(options, &Env::system()).await.unwrap()
}

async fn ping_looped(server: &Server, samples: usize) -> f64 {
    let client = client(server).await;
    let mut took = Vec::with_capacity(samples);
    for _ in 0..samples {
        took.push(ping(&client).await);
    }
    took.sort_by(f64::total_cmp);
    percentile(&took, 0.5)
}

/// Microseconds from the call of `enqueue` to the handler, one job at a time, on a worker that sleeps; before them those of a `PING` in
/// between, as seldom.
async fn latency_idle(server: &Server, samples: usize) -> (Vec<f64>, Vec<f64>) {
    let client = client(server).await;
    let queues = JobScheduler::new(jobs::provider(server, Tracking::Full).await);
    let (sender, mut begun) = mpsc::unbounded_channel();
    let sender = Arc::new(sender);
    let running = queues
        .worker()
        .queue("bench", 16)
        .register(move |_: Nothing| {
            let _ = sender.send(Instant::now());
            std::future::ready(Ok::<_, Failure>(()))
        })
        .start()
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (mut pinged, mut waited) = (Vec::with_capacity(samples), Vec::with_capacity(samples));
    for _ in 0..samples {
        tokio::time::sleep(Duration::from_millis(3)).await;
        pinged.push(ping(&client).await);
        // Long enough for the worker to have settled the last one and to sleep.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let started = Instant::now();
        queues.enqueue(Nothing::new()).await.unwrap();
        let at = begun.recv().await.unwrap();
        waited.push(at.duration_since(started).as_secs_f64() * 1e6);
    }
    running.stop().await;
    queues.close().await.unwrap();
    pinged.sort_by(f64::total_cmp);
    waited.sort_by(f64::total_cmp);
    (pinged, waited)
}
