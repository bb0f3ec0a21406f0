//! How many a second, how soon, and at what cost to the broker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use queue_core::{Env, Failure, JobScheduler};
use queue_layers::Tracked;
use tokio::sync::mpsc;

use crate::{
    Row, Scale, Wanted,
    bare::Bare,
    jobs::{self, Nothing},
    redis::Redis,
    server::Server,
};

/// One round of everything, each beside its baseline.
pub(crate) async fn round(server: &Server, scale: Scale, wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    let rates = ["publish", "consume", "broker", "tracked_redis"];
    if rates.iter().any(|name| wanted.is(name)) {
        throughput(server, scale, wanted, &mut rows).await;
    }
    if wanted.is("latency_idle") {
        let bare = Bare::new(server).await;
        let baseline = bare.latency(scale.samples).await;
        bare.end().await;
        let waited = latency(server, scale.samples).await;
        for (name, part) in [("latency_idle_p50", 0.5), ("latency_idle_p99", 0.99)] {
            let (value, baseline) = (percentile(&waited, part), percentile(&baseline, part));
            rows.push(Row { name, unit: "us", value, baseline: Some(baseline) });
        }
    }
    rows
}

async fn throughput(server: &Server, scale: Scale, wanted: &Wanted, rows: &mut Vec<Row>) {
    let jobs = scale.jobs;
    let bare = Bare::new(server).await;
    let (bare_publish, bare_publish_cpu) = spent(server, jobs, bare.publish(jobs)).await;
    let (bare_consume, bare_consume_cpu) = spent(server, jobs, bare.consume(jobs)).await;
    bare.end().await;

    let provider = jobs::provider(server).await;
    jobs::declare(&provider).await;
    let (publish, publish_cpu) = spent(server, jobs, jobs::publish(&provider, jobs)).await;
    let queues = JobScheduler::with_env(provider, Env::system());
    let (consume, consume_cpu) = spent(server, jobs, jobs::work_off(&queues, jobs)).await;
    queues.close().await.unwrap();

    let mut add = |name, unit, value, baseline| rows.push(Row { name, unit, value, baseline: Some(baseline) });
    add("publish", "jobs/s", publish, bare_publish);
    add("consume", "jobs/s", consume, bare_consume);
    if wanted.is("tracked_redis")
        && let Some(tracked) = tracked(server, jobs).await
    {
        add("tracked_redis", "jobs/s", tracked, bare_consume);
    }
    add("broker_publish", "us/job", publish_cpu, bare_publish_cpu);
    add("broker_consume", "us/job", consume_cpu, bare_consume_cpu);
}

/// Jobs a second through the tracking layer, whose store is in Redis on this machine.
async fn tracked(server: &Server, jobs: u64) -> Option<f64> {
    let redis = Redis::start()?;
    let (store, env) = (redis.store().await, Env::system());
    let provider: Arc<dyn queue_core::QueueProvider> =
        Arc::new(Tracked::new(jobs::provider(server).await, store, &env));
    jobs::declare(&provider).await;
    jobs::publish(&provider, jobs).await;
    let queues = JobScheduler::with_env(provider, Env::system());
    let rate = jobs::work_off(&queues, jobs).await;
    queues.close().await.unwrap();
    Some(rate)
}

/// What comes of it, and microseconds of the broker's processor time for each job.
async fn spent(server: &Server, jobs: u64, what: impl Future<Output = f64>) -> (f64, f64) {
    let before = server.processor_time();
    let rate = what.await;
    (rate, (server.processor_time() - before).as_secs_f64() * 1e6 / jobs as f64)
}

fn percentile(waited: &[f64], part: f64) -> f64 {
    let mut sorted = waited.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// Microseconds from the call of `enqueue` to the handler, one job at a time, on a worker that sleeps.
async fn latency(server: &Server, samples: usize) -> Vec<f64> {
    let provider = jobs::provider(server).await;
    jobs::declare(&provider).await;
    let queues = JobScheduler::with_env(provider, Env::system());
    let (sender, mut begun) = mpsc::unbounded_channel();
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
    let mut waited = Vec::with_capacity(samples);
    for _ in 0..samples {
        // Long enough for the worker to have settled the last one and to sleep.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let started = Instant::now();
        queues.enqueue(Nothing::new()).await.unwrap();
        let at = begun.recv().await.unwrap();
        waited.push(at.duration_since(started).as_secs_f64() * 1e6);
    }
    running.stop().await;
    queues.close().await.unwrap();
    waited
}
