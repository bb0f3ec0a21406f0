//! Connections of one's own: how many are open, and for how long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod server;

use std::time::Duration;

use queue_core::{Env, QueueName, QueueProvider as _, QueueSpec, store::Watch};
use queue_redis::{ClientOptions, RedisClusterClient, RedisOptions, RedisProvider};
use server::Server;
use tokio::time::Instant;

async fn comes_to(client: &RedisClusterClient, open: usize) {
    let begun = Instant::now();
    while client.stats().pooled != open {
        assert!(begun.elapsed() < Duration::from_secs(8), "{open} are to be open: {:?}", client.stats());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn connections(server: &Server) -> usize {
    // Without the one that asks.
    server.tell(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count() - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_are_open_whatever_happens() {
    server::require();
    let server = Server::start().unwrap();
    let query = "pool_min=3&pool_target=4&pool_max=8&pool_idle=0.5&health=1";
    let options = ClientOptions::from_url(&format!("{}?{query}", server.url())).unwrap();
    let provider = RedisProvider::connect(&RedisOptions::with_client(options), &Env::system()).await.unwrap();
    let client = provider.client();
    comes_to(client, 3).await;
    let opened = client.stats().opened;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stats = client.stats();
    assert_eq!((stats.pooled, stats.idle, stats.opened), (3, 3, opened), "they stay, though nobody uses them");
    assert_eq!(connections(&server), 4, "with the one that all share");

    // Six are used, and given back: what nobody needs goes, and no more.
    let queue = QueueName::from_static("mail");
    provider.declare(&QueueSpec::new(queue.clone())).await.unwrap();
    let store = provider.job_store().unwrap();
    let mut watchers = Vec::new();
    for _ in 0..6 {
        watchers.push(store.watch(Watch::Queue(queue.clone())).await.unwrap());
    }
    let begun = Instant::now();
    while client.stats().pooled < 6 {
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", client.stats());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(watchers);
    comes_to(client, 3).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!((client.stats().pooled, connections(&server)), (3, 4));

    // All are cut; nobody asks for anything.
    server.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let begun = Instant::now();
    while connections(&server) != 4 {
        assert!(begun.elapsed() < Duration::from_secs(8), "{} are open again", connections(&server));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    comes_to(client, 3).await;
}
