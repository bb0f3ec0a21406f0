//! Who follows events of other processes hears where some are missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures_util::StreamExt as _;
use queue_core::{
    Env, Envelope, JobId, JobStore, QueueName, QueueProvider as _, QueueSpec,
    event::JobEventKind,
    job::JobKind,
    provider::PublishOptions,
    store::{Watch, Watched},
};
use queue_redis::{RedisOptions, RedisProvider};
use redis::Value;
use server::Server;

static QUEUE: LazyLock<QueueName> = LazyLock::new(|| QueueName::from_static("mail"));
const STREAM: &str = "queue:{mail}:e";
const SOON: Duration = Duration::from_secs(5);

async fn connect(server: &Server) -> (RedisProvider, Arc<dyn JobStore>) {
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    let mut spec = QueueSpec::new(QUEUE.clone());
    spec.max_len = Some(100_000);
    provider.declare(&spec).await.unwrap();
    let store = provider.job_store().unwrap();
    (provider, store)
}

fn jobs(count: usize) -> Vec<Envelope> {
    let env = Env::system();
    let job = |_| Envelope::builder(JobId::fresh(&env), JobKind::from_static("test.job"), "{}", env.now()).seal();
    (0..count).map(job).collect()
}

async fn publish(provider: &RedisProvider, jobs: &[Envelope]) {
    for part in jobs.chunks(100) {
        let outcomes = provider.publish(&QUEUE, part.to_vec(), &PublishOptions::default()).await;
        assert!(outcomes.iter().all(queue_core::provider::PublishOutcome::is_accepted), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_is_too_slow_hears_that_events_are_missing_and_where() {
    server::require();
    let server = Server::start().unwrap();
    let (provider, store) = connect(&server).await;
    let mut events = store.watch(Watch::Queue(QUEUE.clone())).await.unwrap();
    let all = jobs(20_000);
    publish(&provider, &all).await;
    let (mut heard, mut missed) = (Vec::new(), Vec::new());
    loop {
        match tokio::time::timeout(SOON, events.next()).await.expect("the last one is told").unwrap() {
            Watched::Missed => missed.push(heard.len()),
            Watched::Event(event) => {
                assert_eq!(event.what, JobEventKind::Submitted);
                heard.push(event.job.id);
                if event.job.id == all[19_999].id {
                    break;
                }
            }
        }
    }
    assert!(heard.len() < 20_000, "nothing was cut: the test is of no use");
    let all: Vec<JobId> = all.iter().map(|job| job.id).collect();
    // One that is slow may fall behind more than once.
    let (mut from, mut next) = (0, 0);
    for (gaps, gap) in missed.into_iter().chain([heard.len()]).enumerate() {
        let part = &heard[from..gap];
        if gaps > 0 {
            next += all[next..].iter().position(|id| Some(id) == part.first()).unwrap_or(0);
        }
        assert_eq!(part, &all[next..next + part.len()], "nothing is missing before, behind or between gaps");
        (from, next) = (gap, next + part.len());
    }
    assert_eq!(next, all.len(), "nor at the end");
}

/// Repeats the event of a job in this stream, in one step with what is done to the stream then.
async fn tell_and(redis: &mut redis::aio::MultiplexedConnection, times: usize, then: &[&str]) {
    let newest = redis::cmd("XREVRANGE").arg(STREAM).arg("+").arg("-").arg("COUNT").arg(1).take();
    let newest: Vec<(String, Vec<Value>)> = newest.query_async(redis).await.unwrap();
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    let tell = |pipeline: &mut redis::Pipeline| {
        let add = pipeline.cmd("XADD").arg(STREAM).arg("*");
        for word in &newest[0].1 {
            let Value::BulkString(word) = word else { panic!("{word:?}") };
            add.arg(&word[..]);
        }
    };
    for _ in 1..times {
        tell(&mut pipeline);
    }
    if let Some((name, words)) = then.split_first() {
        let then = pipeline.cmd(name).arg(STREAM);
        for word in words {
            then.arg(word);
        }
    }
    tell(&mut pipeline);
    pipeline.query_async::<Value>(redis).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_somebody_cuts_is_told_from_one_that_was_read() {
    server::require();
    let server = Server::start().unwrap();
    let (provider, store) = connect(&server).await;
    let mut events = store.watch(Watch::Queue(QUEUE.clone())).await.unwrap();
    let mut redis = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    publish(&provider, &jobs(3)).await;
    assert_eq!(heard(&mut events, 3).await, [true, true, true]);
    // What was read may go.
    tell_and(&mut redis, 1, &["XTRIM", "MAXLEN", "0"]).await;
    assert_eq!(heard(&mut events, 1).await, [true]);
    // Two of these three come and go at once.
    tell_and(&mut redis, 3, &["XTRIM", "MAXLEN", "0"]).await;
    assert_eq!(heard(&mut events, 2).await, [false, true]);
    tell_and(&mut redis, 2, &[]).await;
    assert_eq!(heard(&mut events, 2).await, [true, true]);
    tell_and(&mut redis, 2, &["DEL"]).await;
    assert_eq!(heard(&mut events, 2).await, [false, true]);
    tell_and(&mut redis, 2, &[]).await;
    assert_eq!(heard(&mut events, 2).await, [true, true]);
    assert!(tokio::time::timeout(Duration::from_millis(300), events.next()).await.is_err(), "nothing more");
}

/// Of so many items which are events; the others say that some are missing.
async fn heard(events: &mut futures_core::stream::BoxStream<'static, Watched>, count: usize) -> Vec<bool> {
    let mut heard = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(SOON, events.next()).await.expect("nothing was told").unwrap();
        heard.push(matches!(next, Watched::Event(_)));
    }
    heard
}
