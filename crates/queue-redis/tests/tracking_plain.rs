//! The short scripts of the tracking store leave behind what the general ones do. Somebody who watches a queue makes everything in it
//! special: so the same is done in a watched queue and in another one, and what is kept of both is compared.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use queue_core::{
    Env, Envelope, JobId, JobRef, QueueName,
    job::{JobError, JobKind},
    provider::{Disposition, Receipt, SettleOutcome, Settlement},
    store::{Claim, Fence, StagedJob, TrackedSettle, TrackingStore, Verdict},
};
use queue_redis::{RedisOptions, RedisTracking};
use server::Server;

const LONG: Duration = Duration::from_secs(600);

struct Rig {
    server: Server,
    store: RedisTracking,
    env: Env,
}

/// What is kept of a queue, without tickets and times: those are told apart from none, and no more.
type Kept = BTreeMap<String, Vec<Vec<u8>>>;

impl Rig {
    async fn new() -> Option<Self> {
        if !server::is_installed() {
            assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        }
        let (server, env) = (Server::start().unwrap(), Env::system());
        let store = RedisTracking::connect(&RedisOptions::new(server.url()), &env).await.unwrap();
        Some(Self { server, store, env })
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.ask_raw(&words)
    }

    fn ask_raw<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut connection = redis::Client::open(self.server.url()).unwrap().get_connection().unwrap();
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut connection).unwrap()
    }

    fn kept(&self, queue: &QueueName) -> Kept {
        let key = |name: &str| format!("queue:track:{{{queue}}}:{name}");
        let mut kept = Kept::new();
        let rows: BTreeMap<Vec<u8>, Vec<u8>> = self.ask(&["HGETALL", &key("s")]);
        kept.insert("s".into(), rows.into_iter().flat_map(|(id, row)| [id, masked(row)]).collect());
        let details: BTreeMap<Vec<u8>, Vec<u8>> = self.ask(&["HGETALL", &key("i")]);
        // A history has times in it.
        let details = details.into_iter().filter(|(name, _)| name[16] != b'h');
        kept.insert("i".into(), details.flat_map(|(name, value)| [name, value]).collect());
        for set in ["a", "l", "t", "x", "d", "f", "o"] {
            let mut ids: Vec<Vec<u8>> = self.ask(&["ZRANGE", &key(set), "0", "-1"]);
            ids.sort();
            kept.insert(set.into(), ids);
        }
        let numbers =
            ["HMGET", &key("n"), "p", "s", "t", "r", "d", "c", "k", "fbytes", "completed", "failed", "submitted"];
        let numbers: Vec<Option<i64>> = self.ask(&numbers);
        let ended: Vec<Vec<u8>> = self.ask(&["ZRANGE", &key("f"), "0", "-1"]);
        let size = |hash: &str, field: &[u8]| {
            let bytes: i64 = self.ask_raw(&[b"HSTRLEN", key(hash).as_bytes(), field]);
            bytes
        };
        let held = ended.iter().map(|id| size("j", id) + size("i", &[id, &b"r"[..]].concat())).sum::<i64>();
        assert_eq!(numbers[7].unwrap_or(0), held, "bytes of what is finished");
        kept.insert("n".into(), numbers.iter().map(|n| n.unwrap_or(0).to_string().into_bytes()).collect());
        kept
    }

    async fn stage(&self, queue: &QueueName, jobs: &[Envelope]) {
        let staged = |job: &Envelope| StagedJob::new("bus", JobRef::new(queue.clone(), job.id), job.clone());
        self.store.stage(&jobs.iter().map(staged).collect::<Vec<_>>(), LONG).await;
    }

    async fn claim(&self, queue: &QueueName, jobs: &[Envelope], worker: &str) -> Vec<Verdict> {
        let claim = |job: &Envelope| Claim {
            provider: "bus".into(),
            job: JobRef { place: 3, ..JobRef::new(queue.clone(), job.id) },
            envelope: job.clone(),
            worker: worker.into(),
            lease: LONG,
        };
        self.store.claim(&jobs.iter().map(claim).collect::<Vec<_>>()).await
    }

    async fn settle(&self, fences: &[Fence], how: impl Fn(usize) -> Disposition) -> Vec<SettleOutcome> {
        let settle = |(n, fence): (usize, &Fence)| {
            let receipt = Receipt { id: fence.id, slot: 0, epoch: fence.epoch };
            TrackedSettle { fence: *fence, settlement: Settlement::new(receipt, how(n)), successor: None }
        };
        let settles: Vec<_> = fences.iter().enumerate().map(settle).collect();
        self.store.settle(&settles, LONG).await.into_iter().map(|answer| answer.outcome).collect()
    }

    /// A queue's life, and what is kept after each step of it.
    async fn live(&self, queue: QueueName, jobs: &[Envelope], watched: bool) -> Vec<Kept> {
        if watched {
            let key = format!("queue:track:{{{queue}}}:n");
            let _: i64 = self.ask(&["HSET", &key, "watched", "99999999999999"]);
        }
        let mut seen = Vec::new();
        self.stage(&queue, jobs).await;
        // The last two were delivered before anybody confirmed them.
        let sent: Vec<_> = jobs[..4].iter().map(|job| (JobRef::new(queue.clone(), job.id), 0)).collect();
        self.store.confirm(&sent).await;
        let first = fences(self.claim(&queue, jobs, "first").await);
        seen.push(self.kept(&queue));
        // All come back at once, some having failed.
        let back = |n| match n % 2 {
            0 => Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "no") },
            _ => Disposition::Release { after: Duration::ZERO, reason: queue_core::provider::ReleaseReason::Busy },
        };
        assert!(self.settle(&first, back).await.iter().all(SettleOutcome::is_settled));
        let second = fences(self.claim(&queue, jobs, "another worker").await);
        seen.push(self.kept(&queue));
        let done = |n| Disposition::Complete { result: (n % 3 > 0).then(|| Bytes::from(vec![b'r'; n])) };
        assert!(self.settle(&second[1..], done).await.iter().all(SettleOutcome::is_settled));
        seen.push(self.kept(&queue));
        let again = self.settle(&second[1..], done).await;
        assert!(again.iter().all(|outcome| matches!(outcome, SettleOutcome::AlreadySettled)), "{again:?}");
        let other = |_| Disposition::Complete { result: Some(Bytes::from_static(b"another")) };
        assert!(matches!(self.settle(&second[1..2], other).await[..], [SettleOutcome::Conflict]));
        assert!(matches!(self.settle(&first, done).await[1], SettleOutcome::LeaseLost));
        let dropped = self.claim(&queue, jobs, "late").await;
        assert!(matches!(dropped[0], Verdict::Busy { .. }), "{dropped:?}");
        assert!(dropped[1..].iter().all(|verdict| matches!(verdict, Verdict::Drop)), "{dropped:?}");
        seen.push(self.kept(&queue));
        seen
    }
}

fn fences(verdicts: Vec<Verdict>) -> Vec<Fence> {
    let fence = |verdict| match verdict {
        Verdict::Run { fence, .. } => fence,
        other => panic!("{other:?}"),
    };
    verdicts.into_iter().map(fence).collect()
}

/// See `ROW` in `prelude.lua`.
fn masked(mut row: Vec<u8>) -> Vec<u8> {
    for (from, to) in [(13, 21), (39, 45), (45, 53), (53, 59), (59, 65), (65, 71), (77, 83), (83, 89), (89, 97)] {
        let any = row[from..to].iter().any(|byte| *byte != 0);
        row[from..to].fill(u8::from(any));
    }
    row
}

#[tokio::test]
async fn a_watched_queue_and_another_one_keep_the_same() {
    let Some(rig) = Rig::new().await else { return };
    let now = rig.env.now();
    let job = |n: usize| {
        let mut job = Envelope::builder(JobId::fresh(&rig.env), JobKind::from_static("k"), vec![b'x'; n], now);
        job.expires_at = n.is_multiple_of(3).then(|| now + LONG);
        job.seal()
    };
    let jobs: Vec<_> = (0..6).map(job).collect();
    let short = rig.live(QueueName::from_static("short"), &jobs, false).await;
    let general = rig.live(QueueName::from_static("general"), &jobs, true).await;
    for (step, (short, general)) in short.iter().zip(&general).enumerate() {
        assert_eq!(short, general, "after step {step}");
    }
}

#[tokio::test]
async fn a_job_that_is_named_twice_runs_once() {
    let Some(rig) = Rig::new().await else { return };
    let (queue, env) = (QueueName::from_static("q"), &rig.env);
    let job = Envelope::builder(JobId::fresh(env), JobKind::from_static("k"), "{}", env.now()).seal();
    rig.stage(&queue, std::slice::from_ref(&job)).await;
    let verdicts = rig.claim(&queue, &[job.clone(), job], "w").await;
    assert!(matches!(verdicts[..], [Verdict::Run { .. }, Verdict::Busy { .. }]), "{verdicts:?}");
    let Verdict::Run { fence, .. } = verdicts[0] else { unreachable!() };
    let complete = |_| Disposition::Complete { result: None };
    let outcomes = rig.settle(&[fence, fence], complete).await;
    assert!(matches!(outcomes[..], [SettleOutcome::Settled, SettleOutcome::AlreadySettled]), "{outcomes:?}");
}
