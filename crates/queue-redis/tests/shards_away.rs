//! A server of a cluster stands still that has some of a queue's shards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::BTreeSet, time::Duration};

use queue_core::{
    Env, Envelope, JobId, QueueName, QueueProvider, QueueSpec,
    job::JobKind,
    provider::{ConsumeOptions, Disposition, PublishOptions, PublishOutcome, Settlement},
};
use queue_redis::{RedisOptions, RedisProvider};
use server::{Server, await_that, free_port};
use tokio::time::Instant;

/// Primaries without replicas, which go on as far as they can when one is away.
fn cluster() -> Vec<Server> {
    let start = |_| {
        let bus = free_port().unwrap().to_string();
        let settings = [
            ["--cluster-enabled", "yes"],
            ["--cluster-config-file", "nodes.conf"],
            ["--cluster-port", &bus],
            ["--cluster-require-full-coverage", "no"],
            ["--cluster-node-timeout", "2000"],
        ];
        (Server::start_with(free_port().unwrap(), settings.as_flattened()).unwrap(), bus)
    };
    let (servers, buses): (Vec<Server>, Vec<String>) = (0..3).map(start).unzip();
    for (index, server) in servers.iter().enumerate() {
        let (from, to) = (index * 16_384 / 3, (index + 1) * 16_384 / 3 - 1);
        server.tell(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
    }
    for (server, bus) in servers.iter().zip(&buses).skip(1) {
        servers[0].tell(&["CLUSTER", "MEET", "127.0.0.1", &server.port().to_string(), bus]);
    }
    for server in &servers {
        let report = || server.tell(&["CLUSTER", "INFO"]);
        await_that("three nodes", Duration::from_secs(20), || report().contains("cluster_known_nodes:3"));
        await_that("a cluster", Duration::from_secs(20), || report().contains("cluster_slots_ok:16384"));
    }
    servers
}

fn jobs(count: usize) -> Vec<Envelope> {
    let env = Env::system();
    let job = || Envelope::builder(JobId::fresh(&env), JobKind::from_static("test.job"), "{}", env.now()).seal();
    std::iter::repeat_with(job).take(count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_shards_go_on() {
    if !server::is_installed() {
        assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
        eprintln!("LEFT OUT: no redis-server on the path");
        return;
    }
    let servers = cluster();
    let url = format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", servers[0].port(), servers[1].port());
    let provider = RedisProvider::connect(&RedisOptions::new(url), &Env::system()).await.unwrap();
    let queue = QueueName::from_static("hot");
    let mut spec = QueueSpec::new(queue.clone());
    spec.shards = Some(8);
    provider.declare(&spec).await.unwrap();
    let batch = jobs(400);
    let ids: Vec<JobId> = batch.iter().map(|job| job.id).collect();
    let outcomes = provider.publish(&queue, batch, &PublishOptions::default()).await;
    assert!(outcomes.iter().all(PublishOutcome::is_accepted));
    // Which jobs are where: each server tells how many records of the queue it has.
    let keys = |server: &Server| -> Vec<String> {
        let keys = server.ask(&["KEYS", "queue:{hot*}:j"]).unwrap();
        redis::from_redis_value(keys).unwrap()
    };
    let away = keys(&servers[2]);
    assert!(!away.is_empty() && away.len() < 8, "{away:?}");
    let place = |key: &String| -> u16 {
        let tag = key.trim_start_matches("queue:{hot").trim_end_matches("}:j");
        tag.trim_start_matches("%s").parse().unwrap_or(0)
    };
    let away: BTreeSet<u16> = away.iter().map(place).collect();
    let is_away =
        |outcome: &PublishOutcome| matches!(outcome, PublishOutcome::Accepted { place } if away.contains(place));
    let mut left: BTreeSet<JobId> = ids.iter().copied().collect();
    let reachable: BTreeSet<JobId> =
        ids.iter().zip(&outcomes).filter(|(_, outcome)| !is_away(outcome)).map(|(id, _)| *id).collect();

    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    servers[2].hang();
    let (begun, mut slowest, mut last) = (Instant::now(), Duration::ZERO, Instant::now());
    while left.iter().any(|id| reachable.contains(id)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} jobs of servers that answer wait", left.len());
        let Ok(taken) = consumer.fetch(10, Duration::from_millis(500)).await else { continue };
        let settlements: Vec<_> =
            taken.iter().map(|one| Settlement::new(one.receipt, Disposition::Complete { result: None })).collect();
        assert!(consumer.settle(&settlements).await.iter().all(|outcome| outcome.is_settled()));
        taken.iter().for_each(|one| {
            left.remove(&one.envelope.id);
        });
        if !taken.is_empty() {
            slowest = slowest.max(last.elapsed());
            last = Instant::now();
        }
    }
    eprintln!("the shards of two servers were empty after {:?}; at most {slowest:?} without jobs", begun.elapsed());
    assert!(slowest < Duration::from_secs(15), "{slowest:?}");
    servers[2].go_on();
    while !left.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(90), "{} jobs of the server that was away wait", left.len());
        let Ok(taken) = consumer.fetch(10, Duration::from_secs(1)).await else { continue };
        let settlements: Vec<_> =
            taken.iter().map(|one| Settlement::new(one.receipt, Disposition::Complete { result: None })).collect();
        consumer.settle(&settlements).await;
        taken.iter().for_each(|one| {
            left.remove(&one.envelope.id);
        });
    }
}
