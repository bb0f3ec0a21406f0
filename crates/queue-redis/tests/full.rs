//! Who waits for room in a full queue.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::time::Duration;

use queue_core::{
    Env, Envelope, JobId, QueueName, QueueProvider, QueueSpec,
    job::JobKind,
    provider::{OnFull, PublishOptions, PublishOutcome, Rejection},
};
use queue_redis::{RedisOptions, RedisProvider};
use server::Server;
use tokio::time::Instant;

fn job() -> Vec<Envelope> {
    let env = Env::system();
    vec![Envelope::builder(JobId::fresh(&env), JobKind::from_static("test.job"), "{}", env.now()).seal()]
}

/// One slow answer leaves no time for another like it; the next ones are quick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_found_also_after_one_slow_answer() {
    server::require();
    let server = Server::start().unwrap();
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    let queue = QueueName::from_static("q");
    let mut spec = QueueSpec::new(queue.clone());
    spec.max_len = Some(1);
    provider.declare(&spec).await.unwrap();
    let wait = |deadline| PublishOptions { deadline, on_full: OnFull::Wait, ..PublishOptions::default() };
    assert!(provider.publish(&queue, job(), &wait(Duration::from_secs(1))).await[0].is_accepted());

    let begun = Instant::now();
    let options = wait(Duration::from_secs(4));
    let (outcome, ()) = tokio::join!(provider.publish(&queue, job(), &options), async {
        server.hang();
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        server.go_on();
        tokio::time::sleep(Duration::from_millis(600)).await;
        provider.admin().purge(&queue).await.unwrap();
    });
    assert!(outcome[0].is_accepted(), "{outcome:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    // There is none at all: a plain refusal, at the deadline.
    let begun = Instant::now();
    let outcome = provider.publish(&queue, job(), &wait(Duration::from_millis(300))).await;
    assert!(matches!(outcome[..], [PublishOutcome::Rejected(Rejection::Full)]), "{outcome:?}");
    assert!((Duration::from_millis(290)..Duration::from_secs(2)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}
