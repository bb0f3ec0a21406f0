//! What a fault or a hand broke in the records of tracked queues is repaired by the sweep; and what replicas have not confirmed is no yes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use queue_core::{
    Env, Envelope, ErrorCode, JobId, JobRef, QueueName,
    job::{JobError, JobKind, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{Disposition, Durability, ParkKey, Receipt, SettleOutcome, Settlement},
    store::{Claim, Fence, JobStore, Lookup, Scope, StageOutcome, StagedJob, TrackedSettle, TrackingStore, Verdict},
};
use queue_redis::{RedisOptions, RedisTracking};
use server::Server;

/// Longer than any test.
const STAGE: Duration = Duration::from_secs(600);

struct Rig {
    server: Server,
    store: RedisTracking,
    queue: QueueName,
}

impl Rig {
    async fn new() -> Option<Self> {
        if !server::is_installed() {
            assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        }
        let server = Server::start().unwrap();
        let store = connect(&server, None).await.unwrap();
        Some(Self { server, store, queue: QueueName::from_static("q") })
    }

    async fn staged(&self, job: &Envelope) {
        let job = StagedJob::new("bus", JobRef::new(self.queue.clone(), job.id), job.clone());
        assert!(matches!(self.store.stage(&[job], STAGE).await[..], [StageOutcome::Staged]));
    }

    async fn claim(&self, job: &Envelope, lease: Duration) -> Fence {
        let job_ref = JobRef::new(self.queue.clone(), job.id);
        let (provider, worker) = ("bus".into(), "w".into());
        let claim = Claim { provider, job: job_ref, envelope: job.clone(), worker, lease };
        match self.store.claim(&[claim]).await.remove(0) {
            Verdict::Run { fence, .. } => fence,
            other => panic!("{other:?}"),
        }
    }

    async fn running(&self, lease: Duration) -> (Envelope, Fence) {
        let job = job(|_| {});
        self.staged(&job).await;
        let fence = self.claim(&job, lease).await;
        (job, fence)
    }

    async fn ended(&self, disposition: Disposition) -> JobId {
        let (job, fence) = self.running(STAGE).await;
        let settled = self.store.settle(&[settlement(fence, disposition)], STAGE).await.remove(0);
        assert!(settled.outcome.is_settled());
        job.id
    }

    async fn due(&self) -> Vec<JobId> {
        let scope = Scope { provider: "bus".into(), queues: None };
        let due = self.store.due(&scope, true, 100, STAGE).await.unwrap();
        due.iter().map(|staged| staged.job.id).collect()
    }

    /// As a process that begins sees to it: one that looked through a queue leaves it alone for a minute.
    async fn sweep_afresh(&self) -> Vec<JobId> {
        let fresh = Self {
            server: Server::start().unwrap(),
            store: connect(&self.server, None).await.unwrap(),
            queue: self.queue.clone(),
        };
        fresh.due().await
    }

    async fn state(&self, id: JobId) -> Option<JobState> {
        match self.store.get(&[JobRef::new(self.queue.clone(), id)]).await.remove(0).unwrap() {
            Lookup::Found(record) => Some(record.state),
            _ => None,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("queue:track:{{q}}:{name}")
    }

    fn ask(&self, words: &[&[u8]]) -> redis::Value {
        let mut connection = redis::Client::open(self.server.url()).unwrap().get_connection().unwrap();
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut connection).unwrap()
    }

    /// Everything that follows from the rows.
    fn standing(&self) -> BTreeMap<String, String> {
        let sets = ["a", "l", "t", "x", "d", "f", "o", "w", "k", "k:door"];
        let mut all: BTreeMap<_, _> = sets
            .map(|set| {
                let key = self.key(set);
                (set.to_owned(), format!("{:?}", self.ask(&[b"ZRANGE", key.as_bytes(), b"0", b"-1", b"WITHSCORES"])))
            })
            .into();
        let key = self.key("n");
        let counters = self.ask(&[b"HMGET", key.as_bytes(), b"p", b"s", b"t", b"r", b"d", b"c", b"k"]);
        let counters: Vec<Option<u64>> = redis::from_redis_value(counters).unwrap();
        all.insert("counters".into(), format!("{:?}", counters.iter().map(|n| n.unwrap_or(0)).collect::<Vec<_>>()));
        all
    }
}

async fn connect(server: &Server, durability: Option<Durability>) -> queue_core::Result<RedisTracking> {
    let mut options = RedisOptions::new(server.url());
    options.durability = durability;
    RedisTracking::connect(&options, &Env::system()).await
}

fn job(change: impl FnOnce(&mut queue_core::job::EnvelopeBuilder)) -> Envelope {
    let env = Env::system();
    let mut parts = Envelope::builder(JobId::fresh(&env), JobKind::from_static("k"), "{}", env.now());
    change(&mut parts);
    parts.seal()
}

fn settlement(fence: Fence, disposition: Disposition) -> TrackedSettle {
    let receipt = Receipt { id: fence.id, slot: 0, epoch: fence.epoch };
    TrackedSettle { fence, settlement: Settlement::new(receipt, disposition), successor: None }
}

fn complete() -> Disposition {
    Disposition::Complete { result: None }
}

#[tokio::test]
async fn every_set_and_counter_is_made_again_from_the_rows() {
    let Some(rig) = Rig::new().await else { return };
    let soon = Env::system().now() + Duration::from_secs(600);
    rig.staged(&job(|_| {})).await;
    rig.staged(&job(|parts| parts.not_before = Some(soon))).await;
    rig.staged(&job(|parts| parts.expires_at = Some(soon))).await;
    let window = Some(Duration::from_secs(600));
    let unique = Unique { key: UniqueKey::new("one").unwrap(), window };
    rig.staged(&job(|parts| parts.unique = Some(Box::new(unique)))).await;
    rig.running(STAGE).await;
    rig.ended(complete()).await;
    rig.ended(Disposition::DeadLetter { error: JobError::new(ErrorCode::Internal, "no") }).await;
    rig.ended(Disposition::Park { key: ParkKey("door".into()), at_most: STAGE }).await;
    assert!(rig.sweep_afresh().await.is_empty(), "nothing is due");
    let right = rig.standing();
    assert!(right.values().all(|set| *set != "array()" && *set != "[]"), "each set has something in it: {right:?}");
    for set in ["a", "l", "t", "x", "d", "f", "o", "w", "k", "k:door"] {
        rig.ask(&[b"DEL", rig.key(set).as_bytes()]);
    }
    for counter in ["p", "s", "r", "d", "c", "k"] {
        rig.ask(&[b"HINCRBY", rig.key("n").as_bytes(), counter.as_bytes(), b"7"]);
    }
    assert!(rig.sweep_afresh().await.is_empty(), "nothing is due");
    assert_eq!(rig.standing(), right);

    let scores: Vec<_> = ["a", "l", "t", "x"].into_iter().collect();
    for set in scores {
        // Somebody else's place, and a wrong one.
        rig.ask(&[
            b"ZUNIONSTORE",
            rig.key(set).as_bytes(),
            b"2",
            rig.key(set).as_bytes(),
            rig.key("d").as_bytes(),
            b"WEIGHTS",
            b"2",
            b"2",
        ]);
    }
    rig.sweep_afresh().await;
    assert_eq!(rig.standing(), right);
}

thread_local! {
    static WARNED: Cell<usize> = const { Cell::new(0) };
}

/// Counts the warnings of each thread. It is there for all of them: tracing forgets one that only some threads have.
struct Warnings;

impl tracing::Subscriber for Warnings {
    fn enabled(&self, what: &tracing::Metadata<'_>) -> bool {
        *what.level() == tracing::Level::WARN
    }

    fn event(&self, _: &tracing::Event<'_>) {
        WARNED.set(WARNED.get() + 1);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}

/// It was not broken: older versions do not know the set, and neither write it nor take anything out.
#[tokio::test]
async fn pending_jobs_of_an_older_version_get_their_place_without_a_warning() {
    let Some(rig) = Rig::new().await else { return };
    tracing::subscriber::set_global_default(Warnings).unwrap();
    rig.staged(&job(|_| {})).await;
    let done = rig.ended(complete()).await;
    let right = rig.standing();
    let line = rig.key("o");
    rig.ask(&[b"DEL", line.as_bytes()]);
    rig.ask(&[b"ZADD", line.as_bytes(), b"1", done.as_bytes()]);
    rig.sweep_afresh().await;
    assert_eq!((rig.standing(), WARNED.get()), (right.clone(), 0));
    rig.ask(&[b"DEL", rig.key("f").as_bytes()]);
    rig.sweep_afresh().await;
    assert_eq!((rig.standing(), WARNED.get()), (right, 1), "that was damage");
}

#[tokio::test]
async fn since_when_the_oldest_pending_job_waits_is_said_by_its_row() {
    let Some(rig) = Rig::new().await else { return };
    let oldest = async || {
        let stats = rig.store.stats(std::slice::from_ref(&rig.queue)).await.remove(0).unwrap();
        stats.oldest_pending.map(queue_core::Timestamp::as_millis)
    };
    let done = rig.ended(complete()).await;
    assert_eq!(oldest().await, None);
    let waiting = job(|_| {});
    rig.staged(&waiting).await;
    let right = oldest().await;
    assert!(right.is_some());
    let line = rig.key("o");
    rig.ask(&[b"ZADD", line.as_bytes(), b"1", done.as_bytes(), b"5", waiting.id.as_bytes()]);
    assert_eq!(oldest().await, right);
    assert_eq!(rig.ask(&[b"ZSCORE", line.as_bytes(), done.as_bytes()]), redis::Value::Nil, "it waits no more");
}

#[tokio::test]
async fn a_job_whose_lease_was_deleted_runs_again() {
    let Some(rig) = Rig::new().await else { return };
    let (job, _) = rig.running(Duration::from_millis(50)).await;
    rig.ask(&[b"DEL", rig.key("l").as_bytes()]);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(rig.sweep_afresh().await, [job.id]);
}

#[tokio::test]
async fn a_key_of_a_job_that_is_gone_is_free_and_a_row_without_a_record_comes_back_with_its_copy() {
    let Some(rig) = Rig::new().await else { return };
    let unique = Unique { key: UniqueKey::new("one").unwrap(), window: None };
    let lost = job(|parts| parts.unique = Some(Box::new(unique)));
    rig.staged(&lost).await;
    rig.ask(&[b"HDEL", rig.key("j").as_bytes(), lost.id.as_bytes()]);
    rig.sweep_afresh().await;
    assert_eq!(rig.state(lost.id).await, None);
    rig.sweep_afresh().await;
    let held: u64 = redis::from_redis_value(rig.ask(&[b"HLEN", rig.key("u").as_bytes()])).unwrap();
    assert_eq!(held, 0, "the key is free");
    rig.claim(&lost, STAGE).await;
    assert_eq!(rig.state(lost.id).await, Some(JobState::Running));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_nothing_and_stays() {
    let Some(rig) = Rig::new().await else { return };
    let (broken, fine) = (job(|_| {}), job(|_| {}));
    rig.staged(&broken).await;
    rig.staged(&fine).await;
    for strange in [&b"\x01short"[..], b"\x02 of a version to come"] {
        rig.ask(&[b"HSET", rig.key("s").as_bytes(), broken.id.as_bytes(), strange]);
        rig.ask(&[b"ZADD", rig.key("a").as_bytes(), b"0", broken.id.as_bytes()]);
        rig.ask(&[b"ZREM", rig.key("a").as_bytes(), fine.id.as_bytes()]);
        rig.sweep_afresh().await;
        let place = rig.ask(&[b"ZSCORE", rig.key("a").as_bytes(), fine.id.as_bytes()]);
        assert_ne!(place, redis::Value::Nil, "the others are looked after");
        let row = rig.ask(&[b"HGET", rig.key("s").as_bytes(), broken.id.as_bytes()]);
        assert_eq!(row, redis::Value::BulkString(strange.to_vec()));
        let scope = Scope { provider: "bus".into(), queues: None };
        assert!(rig.store.silent(&scope, STAGE, 10, STAGE).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas_are_not_a_yes() {
    let Some(mut rig) = Rig::new().await else { return };
    let one = Some(Durability::Replicated { replicas: 1, timeout: Duration::from_secs(1) });
    let alone = connect(&rig.server, one).await.unwrap_err();
    assert_eq!(alone.code(), ErrorCode::Unsupported, "{alone}");
    let port = rig.server.port().to_string();
    let follows = ["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"];
    let replica = Server::start_with(server::free_port().unwrap(), &follows).unwrap();
    rig.server.await_replicas(1);
    rig.store = connect(&rig.server, one).await.unwrap();
    let (_, fence) = rig.running(STAGE).await;
    let dead = rig.ended(Disposition::DeadLetter { error: JobError::new(ErrorCode::Internal, "no") }).await;
    let waiting = job(|_| {});
    rig.staged(&waiting).await;

    replica.hang();
    let next = job(|_| {});
    let next = StagedJob::new("bus", JobRef::new(rig.queue.clone(), next.id), next.clone());
    let staged = rig.store.stage(std::slice::from_ref(&next), STAGE).await.remove(0);
    assert!(matches!(staged, StageOutcome::Unknown(_)), "{staged:?}");
    let settle = async || rig.store.settle(&[settlement(fence, complete())], STAGE).await.remove(0).outcome;
    assert!(matches!(settle().await, SettleOutcome::Unknown(_)));
    assert!(
        matches!(settle().await, SettleOutcome::Unknown(_)),
        "it is there already, and still nobody has confirmed it"
    );
    let taken_back = rig.store.unstage(&[(JobRef::new(rig.queue.clone(), waiting.id), 0)]).await.remove(0);
    assert_eq!(taken_back.unwrap_err().code(), ErrorCode::Unavailable);
    let redriven = rig.store.redrive(&[(JobRef::new(rig.queue.clone(), dead), None)], STAGE).await.remove(0);
    assert_eq!(redriven.unwrap_err().code(), ErrorCode::Unavailable);
    replica.go_on();
    assert!(matches!(settle().await, SettleOutcome::AlreadySettled));
    assert!(matches!(rig.store.stage(&[next], STAGE).await[..], [StageOutcome::Again]));
}
