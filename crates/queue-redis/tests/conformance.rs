//! The conformance suite on a real Redis. Where `redis-server` is on the path each case has a server of its own, which it may kill; else
//! all share the one of `QUEUE_TEST_REDIS_URL`, apart by their prefixes. A URL of Sentinels or of a cluster is taken in any case:
//! `eval "$(cargo xtask brokers up redis-cluster)"`, then `QUEUE_TEST_REDIS_URL=$QUEUE_TEST_REDIS_CLUSTER_URL cargo test -p
//! queue-redis --test conformance`. `QUEUE_TEST_SHARDS=4` has every queue spread over so many shards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use queue_core::{Env, Error, ErrorCode, QueueName, QueueProvider, Result};
use queue_redis::{RedisOptions, RedisProvider};
use queue_testkit::harness::{Factory, Facts, Harness};
use server::Server;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    let url = std::env::var("QUEUE_TEST_REDIS_URL").ok();
    if !server::is_installed() && url.is_none() {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        eprintln!(
            "LEFT OUT: no redis-server on the path and no QUEUE_TEST_REDIS_URL; see `cargo xtask brokers up redis`"
        );
        std::process::exit(i32::from(required));
    }
    let factory = Factory::new("redis", false, move || {
        let url = url.clone();
        async move { Redis::for_case(url).map(|redis| Arc::new(redis) as Arc<dyn Harness>) }
    });
    let mut trials = queue_testkit::conformance::run_suite(&factory);
    if shards() > 1 {
        trials.retain(|trial| !OF_ONE_LINE.iter().any(|case| trial.name().ends_with(case)));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

#[derive(Debug)]
struct Redis {
    options: RedisOptions,
    /// One that may be killed.
    env: Env,
    own: Option<Server>,
}

/// What is true of each shard, and not of all together: who is before whom, and which of all finished jobs is the oldest.
const OF_ONE_LINE: [&str; 2] = ["waiting::position_counts_who_is_before", "store::eviction_keeps_to_the_count"];

/// Over how many shards queues are spread.
fn shards() -> u16 {
    std::env::var("QUEUE_TEST_SHARDS").map_or(1, |number| number.parse().expect("QUEUE_TEST_SHARDS is a number"))
}

impl Redis {
    fn for_case(url: Option<String>) -> Result<Self> {
        let is_more_than_one = url.as_ref().is_some_and(|url| url.starts_with("redis+") || url.contains(','));
        if server::is_installed() && !is_more_than_one {
            let server = Server::start().map_err(away)?;
            let mut options = RedisOptions::new(server.url());
            options.shards = shards();
            return Ok(Self { options, env: Env::system(), own: Some(server) });
        }
        let mut options = RedisOptions::new(url.unwrap_or_default());
        options.shards = shards();
        options.prefix = format!("case-{:016x}", Env::system().random.next_u64());
        Ok(Self { options, env: Env::system(), own: None })
    }
}

fn away(error: std::io::Error) -> Error {
    Error::new(ErrorCode::Unavailable, error.to_string())
}

#[async_trait]
impl Harness for Redis {
    fn facts(&self) -> Facts {
        let facts = Facts { crash: true, restart: self.own.is_some(), ..Facts::real(Duration::from_secs(1)) };
        if shards() == 1 {
            return facts;
        }
        // Order is each shard's own.
        Facts { fifo: false, strict_priority: false, release_to_head: false, unpark_to_head: false, ..facts }
    }

    /// One for all of a case: two may differ by a millisecond.
    fn env(&self) -> Env {
        self.env.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(Arc::new(RedisProvider::connect(&self.options, &self.env).await?))
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        drop(connection);
    }

    async fn restart_broker(&self) -> Result<()> {
        self.own.as_ref().map_or(Ok(()), |server| server.restart().map_err(away))
    }

    async fn publish_raw(&self, _queue: &QueueName, _bytes: Bytes) -> Result<()> {
        Err(Error::new(ErrorCode::Unsupported, "Redis holds jobs, not bytes"))
    }

    async fn refuse_successors(&self, _queue: &QueueName, _refuse: bool) {}
}
