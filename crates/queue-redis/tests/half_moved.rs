//! A slot of a cluster that stands still in the middle of its move: no script runs on the half of a queue.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::time::Duration;

use queue_core::{
    Env, Envelope, ErrorCode, JobId, QueueName, QueueProvider, QueueSpec,
    job::JobKind,
    provider::{ConsumeOptions, Disposition, PublishOptions, PublishOutcome, Rejection, SettleOutcome, Settlement},
};
use queue_redis::{ClientOptions, RedisOptions, RedisProvider};
use server::{Server, await_that, free_port};

/// Two servers, each with a half of the slots.
fn cluster() -> [Server; 2] {
    let start = |_| {
        let bus = free_port().unwrap().to_string();
        let settings = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", &bus];
        (Server::start_with(free_port().unwrap(), &settings).unwrap(), bus)
    };
    let [(one, _), (two, bus)] = [0, 1].map(start);
    one.tell(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    two.tell(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    one.tell(&["CLUSTER", "MEET", "127.0.0.1", &two.port().to_string(), &bus]);
    for server in [&one, &two] {
        let report = || server.tell(&["CLUSTER", "INFO"]);
        await_that("a cluster", Duration::from_secs(20), || report().contains("cluster_state:ok"));
    }
    [one, two]
}

fn migrate(from: &Server, to: &Server, keys: &[String]) {
    let port = to.port().to_string();
    let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    words.extend(keys.iter().map(String::as_str));
    from.tell(&words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_done_to_a_queue_that_is_in_two_places() {
    if !server::is_installed() {
        assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
        return eprintln!("LEFT OUT: no redis-server on the path");
    }
    let servers = cluster();
    let url = format!("redis+cluster://127.0.0.1:{},127.0.0.1:{}", servers[0].port(), servers[1].port());
    let mut client = ClientOptions::from_url(&url).unwrap();
    client.retry_for = Duration::from_millis(500);
    let env = Env::system();
    let provider = RedisProvider::connect(&RedisOptions::with_client(client), &env).await.unwrap();
    let queue = QueueName::from_static("mail");
    provider.declare(&QueueSpec::new(queue.clone())).await.unwrap();
    let publish = async |count: usize| {
        let job = || Envelope::builder(JobId::fresh(&env), JobKind::from_static("test.job"), "{}", env.now()).seal();
        let jobs = std::iter::repeat_with(job).take(count).collect();
        provider.publish(&queue, jobs, &PublishOptions::default()).await.pop().unwrap()
    };
    assert!(publish(5).await.is_accepted());
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    let first = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);

    let slot: u16 = redis::from_redis_value(servers[0].ask(&["CLUSTER", "KEYSLOT", "{mail}"]).unwrap()).unwrap();
    let (from, to) = if slot < 8192 { (&servers[0], &servers[1]) } else { (&servers[1], &servers[0]) };
    let (slot, giver, taker) = (slot.to_string(), from.tell(&["CLUSTER", "MYID"]), to.tell(&["CLUSTER", "MYID"]));
    to.tell(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &giver]);
    from.tell(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &taker]);
    let settlement = Settlement::new(first.receipt, Disposition::Complete { result: None });
    // First the records alone: a claim that ran here would take ids from their line, and break off at the records. Then what a publication
    // reads first, too.
    for moved in ["j", "n"] {
        migrate(from, to, &[format!("queue:{{mail}}:{moved}")]);
        let refused = publish(1).await;
        let PublishOutcome::Rejected(Rejection::Unavailable(error)) = &refused else { panic!("{refused:?}") };
        assert!(error.message().contains("TRYAGAIN"), "{error}");
        let refused = consumer.fetch(10, Duration::ZERO).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Unavailable, "{refused}");
        let settled = consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
        assert!(matches!(settled, SettleOutcome::Unknown(_) | SettleOutcome::NotSettled { .. }), "{settled:?}");
        assert_eq!(from.tell(&["LLEN", "queue:{mail}:r5"]), "4", "the line is as it was");
        assert_eq!(from.tell(&["HLEN", "queue:{mail}:s"]), "1", "and so are the states");
        assert_eq!(from.tell(&["ZCARD", "queue:{mail}:t"]), "1", "and the leases");
    }

    loop {
        let keys = from.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).unwrap();
        let keys: Vec<String> = redis::from_redis_value(keys).unwrap();
        if keys.is_empty() {
            break;
        }
        migrate(from, to, &keys);
    }
    for server in [to, from] {
        server.tell(&["CLUSTER", "SETSLOT", &slot, "NODE", &taker]);
    }
    assert!(publish(1).await.is_accepted());
    assert!(consumer.settle(&[settlement]).await.remove(0).is_settled());
    assert_eq!(consumer.fetch(10, Duration::ZERO).await.unwrap().len(), 5);
    let stats = provider.admin().stats(std::slice::from_ref(&queue)).await.remove(0).unwrap();
    assert_eq!((stats.pending, stats.running, stats.finished, stats.submitted_total), (0, 5, 1, 6));
}
