//! What older versions wrote is still run: rows as they stood in Redis, byte by byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::time::Duration;

use queue_core::{
    Env, QueueName, QueueProvider, QueueSpec,
    provider::{ConsumeOptions, Disposition, Settlement},
};
use queue_redis::{RedisOptions, RedisProvider};
use redis::aio::MultiplexedConnection;
use server::Server;

const FRESH: &[u8; 16] = b"fresh-job-of-v1!";
const TRIED: &[u8; 16] = b"tried-job-of-v1!";
const FINISHED: &[u8; 16] = b"ended-job-of-v1!";

/// Version 1, no flags, priority 7, submitted at 1,700,000,000,000, rank 7, attempt 1, never started; then kind, no options, JSON, created at
/// the same time, timeout of 1,000 ms, generation 0, no headers, payload.
const RECORD: &[u8] = b"\x01\x00\x07\x00\x68\xe5\xcf\x8b\x01\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\
    \x0aemail.send\x00\x00\x00\x68\xe5\xcf\x8b\x01\xe8\x07\x00\x00{\"to\":1}";

/// Pending, no flags, priority 7, attempt 2, started once; epoch 5, rank 5, changed and started at 1,700,000,000,000, no turn; settled by 5
/// with a print; worker `w`.
const STATUS: &[u8] = b"\x01\x00\x07\x02\x00\x00\x00\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\
    \x00\x68\xe5\xcf\x8b\x01\x00\x68\xe5\xcf\x8b\x01\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00printed!\x01w";

async fn put(redis: &mut MultiplexedConnection, words: &[&[u8]]) {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    let _: redis::Value = command.query_async(redis).await.unwrap();
}

#[tokio::test]
async fn jobs_of_version_1_are_run_and_forgotten() {
    if !server::is_installed() {
        return eprintln!("LEFT OUT: no redis-server on the path");
    }
    let server = Server::start().unwrap();
    let queue = QueueName::from_static("old");
    let mut spec = QueueSpec::new(queue.clone());
    spec.retention.count = 2;
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    provider.declare(&spec).await.unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let completed = [&[5], &STATUS[1..]].concat();
    let rows: &[&[&[u8]]] = &[
        &[b"HSET", b"queue:{old}:j", FRESH, RECORD, TRIED, RECORD, FINISHED, RECORD],
        &[b"HSET", b"queue:{old}:s", TRIED, STATUS, FINISHED, &completed],
        &[b"RPUSH", b"queue:{old}:r7", TRIED, FRESH],
        &[b"ZADD", b"queue:{old}:f", b"1700000000000", FINISHED],
        &[b"HSET", b"queue:{old}:n", b"p", b"2", b"c", b"1", b"ticket", b"7", b"fbytes", b"60"],
    ];
    for row in rows {
        put(&mut redis, row).await;
    }

    let consumer = provider.consumer(&queue, ConsumeOptions::new("new", 10)).await.unwrap();
    let jobs = consumer.fetch(10, Duration::ZERO).await.unwrap();
    let seen: Vec<_> = jobs.iter().map(|job| (job.receipt.id.as_bytes(), job.attempt, job.started_before)).collect();
    assert_eq!(seen, [(TRIED, 2, 1), (FRESH, 1, 0)]);
    assert!(jobs.iter().all(|job| job.envelope.kind.as_str() == "email.send" && job.envelope.payload == "{\"to\":1}"));
    assert_eq!(jobs[1].envelope.timeout, Duration::from_secs(1));
    let settle =
        |job: &queue_core::provider::Delivery| Settlement::new(job.receipt, Disposition::Complete { result: None });
    let settled = consumer.settle(&jobs.iter().map(settle).collect::<Vec<_>>()).await;
    assert!(settled.iter().all(|outcome| outcome.is_settled()), "{settled:?}");

    // What had finished before lines up with the rest, and is forgotten in its turn: three are one too many.
    while provider.maintain(true).await.unwrap().is_zero() {}
    let stats = provider.admin().stats(std::slice::from_ref(&queue)).await.remove(0).unwrap();
    assert_eq!((stats.pending, stats.running), (0, 0));
    let left: Vec<Vec<u8>> = redis::cmd("HKEYS").arg("queue:{old}:j").query_async(&mut redis).await.unwrap();
    assert_eq!(left.len(), 2);
    let before: u64 = redis::cmd("EXISTS").arg("queue:{old}:f").query_async(&mut redis).await.unwrap();
    assert_eq!(before, 0);
}
