//! The tracking store as several processes see it, and what it does where the suite cannot look.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, time::Duration};

use queue_core::{
    Env, Envelope, ErrorCode, JobId, JobRef, QueueName, QueueProvider,
    job::{JobKind, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{
        Disposition, FollowUp, ProviderUrl, PublishOptions, Receipt, Registry, Rejection, SettleOutcome, Settlement,
    },
    store::{
        Claim, Fence, JobStore, Lookup, Scope, StageOutcome, StagedJob, StoreScope, TrackedSettle, TrackingStore,
        Verdict,
    },
};
use queue_redis::{RedisOptions, RedisProvider, RedisTracking};
use redis::aio::MultiplexedConnection;
use server::Server;

const STAGE: Duration = Duration::from_millis(300);

macro_rules! server {
    () => {{
        if !server::is_installed() {
            return eprintln!("LEFT OUT: no redis-server on the path");
        }
        Server::start().unwrap()
    }};
}

async fn open(url: &str) -> queue_core::Result<Arc<dyn TrackingStore>> {
    let mut registry = Registry::new();
    queue_redis::register(&mut registry);
    registry.open_store(&ProviderUrl::parse(url)?, &Env::system()).await
}

async fn connect(server: &Server) -> RedisTracking {
    RedisTracking::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap()
}

async fn hand(server: &Server) -> MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

fn job(text: &str) -> Envelope {
    let env = Env::system();
    Envelope::builder(JobId::fresh(&env), JobKind::from_static("k"), text.as_bytes().to_vec(), env.now()).seal()
}

fn staged(queue: &QueueName, job: &Envelope) -> StagedJob {
    StagedJob::new("bus", JobRef::new(queue.clone(), job.id), job.clone())
}

fn scope() -> Scope {
    Scope { provider: "bus".into(), queues: None }
}

fn complete(fence: Fence) -> TrackedSettle {
    let receipt = Receipt { id: fence.id, slot: 0, epoch: fence.epoch };
    let settlement = Settlement::new(receipt, Disposition::Complete { result: Some("1".into()) });
    TrackedSettle { fence, settlement, successor: None }
}

async fn run(store: &dyn TrackingStore, queue: &QueueName, job: &Envelope) -> Fence {
    let claim = Claim {
        provider: "bus".into(),
        job: JobRef::new(queue.clone(), job.id),
        envelope: job.clone(),
        worker: "w".into(),
        lease: Duration::from_secs(60),
    };
    match store.claim(&[claim]).await.remove(0) {
        Verdict::Run { fence, .. } => fence,
        other => panic!("{other:?}"),
    }
}

async fn state(store: &dyn TrackingStore, queue: &QueueName, id: JobId) -> Option<JobState> {
    match store.get(&[JobRef::new(queue.clone(), id)]).await.remove(0).unwrap() {
        Lookup::Found(record) => Some(record.state),
        _ => None,
    }
}

#[tokio::test]
async fn a_url_names_one_store_for_all() {
    let server = server!();
    let (one, two) = (open(&server.url()).await.unwrap(), open(&server.url()).await.unwrap());
    assert_eq!((one.id(), one.scope()), (two.id(), StoreScope::Shared));
    let other = open(&format!("{}?prefix=other", server.url())).await.unwrap();
    assert_ne!(one.id(), other.id());
    assert_eq!(open(&format!("{}?colour=red", server.url())).await.unwrap_err().code(), ErrorCode::Config);
    let (queue, job) = (QueueName::from_static("q"), job("a"));
    one.stage(&[staged(&queue, &job)], STAGE).await;
    assert_eq!(state(&*two, &queue, job.id).await, Some(JobState::Pending));
    assert_eq!(state(&*other, &queue, job.id).await, None);
    // What one process claimed another may settle, which has not heard of the queue.
    let fence = run(&*one, &queue, &job).await;
    let fresh = open(&server.url()).await.unwrap();
    assert!(fresh.settle(&[complete(fence)], STAGE).await[0].outcome.is_settled());
    let settled = two.settle(&[complete(fence)], STAGE).await.remove(0);
    assert!(matches!(settled.outcome, SettleOutcome::AlreadySettled));
}

#[tokio::test]
async fn a_provider_s_queue_of_the_same_name_is_another() {
    let server = server!();
    let store = connect(&server).await;
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    assert_ne!(provider.job_store().unwrap().id(), store.id());
    let (queue, mine, tracked) = (QueueName::from_static("q"), job("a"), job("b"));
    provider.publish(&queue, vec![mine.clone()], &PublishOptions::default()).await;
    store.stage(&[staged(&queue, &tracked)], STAGE).await;
    provider.maintain(true).await.unwrap();
    assert_eq!(state(&store, &queue, mine.id).await, None);
    store.drop_queue(&queue).await.unwrap();
    let stats = provider.admin().stats(&[queue]).await.remove(0).unwrap();
    assert_eq!(stats.pending, 1);
}

#[tokio::test]
async fn of_many_who_want_a_key_one_gets_it() {
    let server = server!();
    let queue = QueueName::from_static("q");
    for _ in 0..20 {
        let key = UniqueKey::new(format!("key {}", Env::system().random.next_u64())).unwrap();
        let mut tries = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = connect(&server).await;
            let unique = Unique { key: key.clone(), window: None };
            let staged = staged(&queue, &job("a").edit(|job| job.unique = Some(Box::new(unique))));
            tries.spawn(async move { store.stage(&[staged], STAGE).await.remove(0) });
        }
        let outcomes = tries.join_all().await;
        let won = outcomes.iter().filter(|outcome| matches!(outcome, StageOutcome::Staged)).count();
        let lost = outcomes.iter().filter(|outcome| matches!(outcome, StageOutcome::Duplicate { .. })).count();
        assert_eq!((won, lost), (1, 7), "{outcomes:?}");
    }
}

#[tokio::test]
async fn a_follow_up_that_cannot_reach_its_queue_is_brought_there_by_the_sweep() {
    let server = server!();
    let (store, mut hand) = (connect(&server).await, hand(&server).await);
    let (queue, next) = (QueueName::from_static("q"), QueueName::from_static("next"));
    let (first, then) = (job("first"), job("then"));
    store.stage(&[staged(&queue, &first)], STAGE).await;
    let fence = run(&store, &queue, &first).await;
    let mut settle = complete(fence);
    settle.settlement.then.push(FollowUp { queue: next.clone(), envelope: then.clone() });
    // The other queue's keys refuse every script, as another node does that is away.
    let broken = "queue:track:{next}:s";
    let _: () = redis::cmd("SET").arg(broken).arg("no hash").query_async(&mut hand).await.unwrap();
    let outcome = store.settle(&[settle.clone()], STAGE).await.remove(0);
    assert!(matches!(outcome.outcome, SettleOutcome::Settled) && outcome.then.is_empty(), "{outcome:?}");
    let _: () = redis::cmd("DEL").arg(broken).query_async(&mut hand).await.unwrap();
    assert_eq!(state(&store, &next, then.id).await, None);
    let again = store.settle(&[settle], STAGE).await.remove(0);
    assert_eq!((again.outcome.is_settled(), again.then), (true, vec![0]), "who settles again goes on where it stopped");
    let left: i64 = redis::cmd("HLEN").arg("queue:track:{q}:y").query_async(&mut hand).await.unwrap();
    assert_eq!(left, 0);

    // And where nobody settles again:
    let (second, later) = (job("second"), job("later"));
    store.stage(&[staged(&queue, &second)], STAGE).await;
    let fence = run(&store, &queue, &second).await;
    let mut settle = complete(fence);
    settle.settlement.then.push(FollowUp { queue: next.clone(), envelope: later.clone() });
    let _: () = redis::cmd("RENAME").arg(broken).arg("aside").query_async(&mut hand).await.unwrap();
    let _: () = redis::cmd("SET").arg(broken).arg("no hash").query_async(&mut hand).await.unwrap();
    store.settle(&[settle], STAGE).await;
    let _: () = redis::cmd("RENAME").arg("aside").arg(broken).query_async(&mut hand).await.unwrap();
    store.due(&scope(), true, 100, STAGE).await.unwrap();
    assert_eq!(state(&store, &next, later.id).await, Some(JobState::Pending));
    tokio::time::sleep(STAGE + Duration::from_millis(50)).await;
    let due = store.due(&scope(), true, 100, STAGE).await.unwrap();
    let mut due: Vec<JobId> = due.iter().map(|staged| staged.envelope.id).collect();
    due.sort();
    let mut expected = [then.id, later.id];
    expected.sort();
    assert_eq!(due, expected);
}

#[tokio::test]
async fn a_full_server_refuses_new_jobs_and_ends_those_it_has() {
    let server = server!();
    let (store, mut hand) = (connect(&server).await, hand(&server).await);
    let (queue, running, waiting) = (QueueName::from_static("q"), job("running"), job("waiting"));
    store.stage(&[staged(&queue, &running), staged(&queue, &waiting)], STAGE).await;
    let fence = run(&store, &queue, &running).await;
    let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).query_async(&mut hand).await.unwrap();
    let outcome = store.stage(&[staged(&queue, &job("new"))], STAGE).await.remove(0);
    let StageOutcome::Rejected(Rejection::Unavailable(error)) = outcome else { panic!("{outcome:?}") };
    assert!(error.message().contains("maxmemory"), "{error}");
    let settled = store.settle(&[complete(fence)], STAGE).await.remove(0);
    assert!(settled.outcome.is_settled(), "{settled:?}");
    let cancelled =
        store.cancel(&[JobRef::new(queue.clone(), waiting.id)], &queue_core::provider::Cancel::by("x")).await;
    assert!(cancelled[0].is_ok());
    let evicted = store.evict(&queue, &queue_core::queue_spec::Retention::none(), 10).await.unwrap();
    assert_eq!(evicted, 2);
}

#[tokio::test]
async fn a_row_of_a_newer_version_is_left_alone() {
    let server = server!();
    let (store, mut hand) = (connect(&server).await, hand(&server).await);
    let (queue, newer) = (QueueName::from_static("q"), job("newer"));
    store.stage(&[staged(&queue, &newer)], STAGE).await;
    let key = "queue:track:{q}:s";
    let mut row: Vec<u8> = redis::cmd("HGET").arg(key).arg(newer.id.as_bytes()).query_async(&mut hand).await.unwrap();
    row[0] = 200;
    let _: i64 = redis::cmd("HSET").arg(key).arg(newer.id.as_bytes()).arg(&row).query_async(&mut hand).await.unwrap();
    tokio::time::sleep(STAGE + Duration::from_millis(50)).await;
    assert!(store.due(&scope(), true, 10, STAGE).await.unwrap().is_empty());
    let claim = Claim {
        provider: "bus".into(),
        job: JobRef::new(queue.clone(), newer.id),
        envelope: newer.clone(),
        worker: "w".into(),
        lease: STAGE,
    };
    let verdict = store.claim(&[claim]).await.remove(0);
    assert!(matches!(verdict, Verdict::Busy { remaining } if remaining == Duration::from_secs(60)), "{verdict:?}");
    assert!(matches!(store.stage(&[staged(&queue, &newer)], STAGE).await[0], StageOutcome::Known));
    assert!(store.get(&[JobRef::new(queue.clone(), newer.id)]).await[0].is_err());
    assert_eq!(store.purge(&queue).await.unwrap(), 0);
    store.evict(&queue, &queue_core::queue_spec::Retention::none(), 10).await.unwrap();
    let left: Vec<u8> = redis::cmd("HGET").arg(key).arg(newer.id.as_bytes()).query_async(&mut hand).await.unwrap();
    assert_eq!(left, row);
}

/// As version 1 wrote it, byte by byte, to a queue that this version then serves.
#[tokio::test]
async fn a_job_of_version_1_is_run() {
    let server = server!();
    let (store, mut hand) = (connect(&server).await, hand(&server).await);
    let queue = QueueName::from_static("old");
    let id = JobId::from_bytes(*b"tracked-of-v1-ok");
    let copy = Envelope::builder(
        id,
        JobKind::from_static("email.send"),
        b"{}".to_vec(),
        queue_core::Timestamp::from_millis(5),
    )
    .seal();
    // Version 1, no window, no unique key, kind; the envelope's own frame, which has golden files of its own.
    let record = [&b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x0aemail.send"[..], &copy.encode()].concat();
    // Version 1, pending, staged and promised, priority 5, attempt 2, started once, ticket 9, generation 3 of attempt 2 and one delivery,
    // generation 2 claimed before, place 0; submitted 5, born 7, changed, started at 6, no turn, not delayed, stage lease until 8, no expiry;
    // settled by 8 with a print; worker `w`, provider `bus`.
    let row = b"\x01\x01\x60\x00\x05\x02\x00\x00\x00\x01\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\
        \x03\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\
        \x05\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        \x08\x00\x00\x00\x00\x00\x00\x00printed!\x01w\x03bus";
    let words: [&[&[u8]]; 4] = [
        &[b"HSET", b"queue:track:{old}:j", id.as_bytes(), &record],
        &[b"HSET", b"queue:track:{old}:s", id.as_bytes(), row],
        &[b"ZADD", b"queue:track:{old}:a", b"8", id.as_bytes()],
        &[b"ZADD", b"queue:track:queues", b"0", b"old"],
    ];
    for words in words {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| _ = command.arg(*word));
        let _: i64 = command.query_async(&mut hand).await.unwrap();
    }
    let due = store.due(&scope(), true, 10, STAGE).await.unwrap();
    let [due] = &due[..] else { panic!("{due:?}") };
    assert_eq!((due.envelope.generation, due.envelope.attempt, due.envelope.deliveries), (3, 2, 1));
    let fence = run(&store, &queue, &due.envelope).await;
    assert_eq!(fence.generation, 3);
    assert!(store.settle(&[complete(fence)], STAGE).await[0].outcome.is_settled());
    assert_eq!(state(&store, &queue, id).await, Some(JobState::Completed));
}
