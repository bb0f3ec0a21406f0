//! What the server pays, in memory and processor time.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, ErrorCode, QueueProvider,
    job::{Envelope, Headers, JobError, RawHeaders, TraceContext},
    provider::{ConsumeOptions, Consumer, Disposition, Settlement},
    queue_spec::Tracking,
};
use queue_redis::RedisProvider;
use redis::aio::MultiplexedConnection;

use crate::{
    Row, Scale, Wanted,
    jobs::{self, BATCH, queue},
    median,
    server::{self, Server, Spent, spent},
};

const FEW: u64 = 1_000;
/// After so many jobs as many finished ones are kept as may be, and both generations of what is remembered of forgotten ones are there: what
/// changes then is only how many wait.
const SETTLED: u64 = 31_000;
/// Rounds in a row, before the other server has as many.
const TURN: u64 = 10;

pub(crate) async fn all(server: &Server, scale: Scale, wanted: &Wanted) -> Vec<Row> {
    let mut rows = Vec::new();
    if wanted.is("memory_per_job") {
        for (name, traced) in [("memory_per_job", false), ("memory_per_job_traced", true)] {
            let value = memory_per_job(server, scale.jobs, traced).await;
            rows.push(Row { name, unit: "B", value, baseline: Some(200.0) });
        }
    }
    if wanted.is("cost") {
        costs(server, scale, &mut rows).await;
    }
    if wanted.is("flat") {
        flat(server, scale, &mut rows).await;
    }
    rows
}

fn with_trace(envelope: &Envelope) -> Envelope {
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
    let headers = Headers { trace: Some(TraceContext { traceparent, tracestate: None }), ..Headers::default() };
    envelope.edit(|parts| parts.headers = RawHeaders::encode(&headers).unwrap())
}

/// Growth of the server's memory while so many jobs wait: a power of two and a half, where its tables are neither full nor empty.
async fn memory_per_job(server: &Server, jobs: u64, traced: bool) -> f64 {
    let provider = jobs::provider(server, Tracking::Full).await;
    let mut connection = server.connect().await;
    // What the scripts and the connection take is there before.
    jobs::publish(&provider, jobs::envelopes(BATCH, "nothing")).await;
    let before = server::memory(&mut connection).await;
    for _ in 0..jobs / BATCH {
        let mut batch = jobs::envelopes(BATCH, "nothing");
        if traced {
            batch = batch.iter().map(with_trace).collect();
        }
        jobs::publish(&provider, batch).await;
    }
    // Tables that grew are copied bit by bit, and buffers shrink, in the server's idle time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = server::memory(&mut connection).await;
    provider.close().await.unwrap();
    (after - before) / jobs as f64
}

/// A provider, a consumer and somebody who looks at the server.
struct Bench {
    provider: RedisProvider,
    consumer: Arc<dyn Consumer>,
    looks: MultiplexedConnection,
}

/// What one part of a job's life costs: all that was spent, and the microseconds of scripts in each round.
#[derive(Debug, Default)]
struct Part {
    all: Spent,
    scripts: Vec<f64>,
}

impl std::ops::AddAssign<Spent> for Part {
    fn add_assign(&mut self, spent: Spent) {
        self.all += spent;
        self.scripts.push(spent.scripts);
    }
}

/// What the parts of a job's life cost.
#[derive(Debug, Default)]
struct Life {
    jobs: f64,
    batch: f64,
    enqueue: Part,
    claim: Part,
    settle: Part,
    retain: Part,
}

impl Life {
    fn parts(&self) -> [&Part; 4] {
        [&self.enqueue, &self.claim, &self.settle, &self.retain]
    }

    /// Microseconds a job inside scripts, of each part, and of the whole life: of the median round, as the server may be kept from
    /// the processor in any of them.
    fn scripts(&self) -> ([f64; 4], f64) {
        let parts = self.parts().map(|part| match part.scripts.is_empty() {
            true => 0.0,
            false => median(part.scripts.iter().copied()) / self.batch,
        });
        (parts, parts.iter().sum())
    }

    fn add(&mut self, more: Self) {
        self.batch = more.batch;
        self.jobs += more.jobs;
        let parts = [&mut self.enqueue, &mut self.claim, &mut self.settle, &mut self.retain];
        for (part, more) in parts.into_iter().zip([more.enqueue, more.claim, more.settle, more.retain]) {
            part.all += more.all;
            part.scripts.extend(more.scripts);
        }
    }

    fn whole(&self, of: fn(&Spent) -> f64) -> f64 {
        self.parts().map(|part| of(&part.all)).iter().sum::<f64>() / self.jobs
    }
}

/// How a life is led.
#[derive(Debug, Clone, Copy)]
struct Way {
    batch: u64,
    /// With random delays, up to an hour, and not claimed.
    delayed: bool,
    dead: bool,
    /// Whether retention is at work, too.
    retain: bool,
}

const USUAL: Way = Way { batch: BATCH, delayed: false, dead: false, retain: false };

impl Bench {
    async fn new(server: &Server, tracking: Tracking) -> Self {
        let provider = jobs::provider(server, tracking).await;
        let consumer = provider.consumer(&queue(), ConsumeOptions::new("bench", 1_000)).await.unwrap();
        Self { provider, consumer, looks: server.connect().await }
    }

    async fn publish(&self, way: Way) {
        let mut batch = jobs::envelopes(way.batch, "nothing");
        if way.delayed {
            let env = Env::system();
            for job in &mut batch {
                let delay = Duration::from_millis(60_000 + env.random.next_u64() % 3_600_000);
                *job = job.edit(|parts| parts.not_before = Some(env.now() + delay));
            }
        }
        jobs::publish(&self.provider, batch).await;
    }

    async fn settle(&self, deliveries: Vec<queue_core::provider::Delivery>, dead: bool) {
        let disposition = match dead {
            false => Disposition::Complete { result: None },
            true => Disposition::DeadLetter { error: JobError::new(ErrorCode::Internal, "it failed") },
        };
        let done: Vec<_> = deliveries.iter().map(|job| Settlement::new(job.receipt, disposition.clone())).collect();
        let outcomes = self.consumer.settle(&done).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_settled()));
    }

    /// So many lives, each part of which is looked at.
    async fn live(&mut self, rounds: u64, way: Way) -> Life {
        let mut life = Life { jobs: (rounds * way.batch) as f64, batch: way.batch as f64, ..Life::default() };
        for _ in 0..rounds {
            let before = spent(&mut self.looks).await;
            self.publish(way).await;
            let published = spent(&mut self.looks).await;
            life.enqueue += published - before;
            if way.delayed {
                continue;
            }
            let deliveries = self.consumer.fetch(way.batch as usize, Duration::ZERO).await.unwrap();
            assert_eq!(deliveries.len() as u64, way.batch);
            let claimed = spent(&mut self.looks).await;
            life.claim += claimed - published;
            self.settle(deliveries, way.dead).await;
            let settled = spent(&mut self.looks).await;
            life.settle += settled - claimed;
            if way.retain {
                while self.provider.maintain(true).await.unwrap().is_zero() {}
                life.retain += spent(&mut self.looks).await - settled;
            }
        }
        life
    }

    /// So many, four batches at a time.
    async fn fill(&self, jobs: u64, way: Way) {
        for _ in 0..jobs / way.batch / 4 {
            tokio::join!(self.publish(way), self.publish(way), self.publish(way), self.publish(way));
            if way.dead {
                while let deliveries = self.consumer.fetch(BATCH as usize, Duration::ZERO).await.unwrap()
                    && !deliveries.is_empty()
                {
                    self.settle(deliveries, true).await;
                }
            }
        }
    }

    async fn end(self) {
        self.provider.close().await.unwrap();
    }
}

/// A whole life in batches of 100, and singly: enqueued, claimed, completed, and forgotten when 10,000 later ones are kept.
async fn costs(server: &Server, scale: Scale, rows: &mut Vec<Row>) {
    let mut add = |name, unit, value| rows.push(Row { name, unit, value, baseline: None });
    let rounds = scale.jobs / BATCH / 2;
    let mut bench = Bench::new(server, Tracking::Full).await;
    bench.live(110, Way { retain: true, ..USUAL }).await;
    let life = bench.live(rounds, Way { retain: true, ..USUAL }).await;
    let (parts, sum) = life.scripts();
    for (name, part) in ["cost_enqueue", "cost_claim", "cost_settle", "cost_retain"].into_iter().zip(parts) {
        add(name, "us/job", part);
    }
    add("cost_lifecycle_script", "us/job", sum);
    add("cost_lifecycle_server", "us/job", life.whole(|spent| spent.processor));
    add("cost_lifecycle_calls", "1/job", life.whole(|spent| spent.calls));
    add("cost_lifecycle_commands", "1/job", life.whole(|spent| spent.commands));
    let (single, _) = bench.live(rounds, Way { batch: 1, ..USUAL }).await.scripts();
    bench.end().await;
    for (name, part) in ["cost_single_enqueue", "cost_single_claim", "cost_single_settle"].into_iter().zip(single) {
        add(name, "us/job", part);
    }
    let mut bench = Bench::new(server, Tracking::Off).await;
    let (parts, sum) = bench.live(rounds, USUAL).await.scripts();
    bench.end().await;
    let names = ["cost_untracked_enqueue", "cost_untracked_claim", "cost_untracked_settle"];
    for (name, part) in names.into_iter().zip(parts) {
        add(name, "us/job", part);
    }
    add("cost_untracked_lifecycle_script", "us/job", sum);
}

/// What a job costs where many others are, against where 1,000 are: on two servers that take turns, so that both have the same hour and
/// nothing else is different.
async fn flat(server: &Server, scale: Scale, rows: &mut Vec<Row>) {
    let turns = scale.jobs / BATCH / 10 / TURN;
    let other = Server::start();
    // Retention keeps the number of finished jobs what it is.
    let usual = Way { retain: true, ..USUAL };
    let kinds: [(Way, [&str; 3]); 3] = [
        (usual, ["flat_waiting_enqueue", "flat_waiting_claim", "flat_waiting_settle"]),
        (Way { dead: true, ..USUAL }, ["flat_dead_enqueue", "flat_dead_claim", "flat_dead_settle"]),
        (Way { delayed: true, ..USUAL }, ["flat_delayed_enqueue", "flat_delayed_claim", "flat_delayed_settle"]),
    ];
    for (way, names) in kinds {
        let mut benches = Vec::new();
        for (server, jobs) in [(server, FEW), (&other, scale.many)] {
            let mut bench = Bench::new(server, Tracking::Full).await;
            bench.live(SETTLED / BATCH, usual).await;
            bench.fill(jobs, way).await;
            benches.push(bench);
        }
        // Few stay few.
        let stays = !way.dead && !way.delayed;
        let mut costs = if stays {
            in_turns(&mut benches, turns, TURN, way).await
        } else {
            in_turns(&mut benches, 5, 2, way).await
        };
        if way.delayed {
            // Others come and go among them.
            let among = in_turns(&mut benches, turns, TURN, usual).await;
            for (cost, among) in costs.iter_mut().zip(among) {
                (cost[1], cost[2]) = (among[1], among[2]);
            }
        }
        for bench in benches {
            bench.end().await;
        }
        for (index, name) in names.into_iter().enumerate() {
            let [few, many] = [0, 1].map(|bench: usize| costs[bench][index]);
            rows.push(Row { name, unit: "us/job", value: many, baseline: Some(few) });
        }
    }
}

/// What each part costs on each of them.
async fn in_turns(benches: &mut [Bench], turns: u64, rounds: u64, way: Way) -> Vec<[f64; 4]> {
    let mut lives: Vec<Life> = benches.iter().map(|_| Life::default()).collect();
    for _ in 0..turns {
        for (bench, life) in benches.iter_mut().zip(&mut lives) {
            life.add(bench.live(rounds, way).await);
        }
    }
    lives.iter().map(|life| life.scripts().0).collect()
}
