//! Another primary: gone to by hand or by itself, looked at before it is worked with, and told of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "real servers live in real time")]

mod server;

use std::{net::TcpListener, time::Duration};

use queue_core::{
    Env, Envelope, ErrorCode, JobId, QueueName, QueueProvider as _,
    job::JobKind,
    provider::{Durability, PublishOptions, PublishOutcome, Rejection},
};
use queue_redis::{
    Address, ClientEvent, ClientOptions, FailoverMode, Finding, RedisClusterClient, RedisOptions, RedisProvider, Role,
    Servers, Severity,
};
use server::{Server, free_port};
use tokio::{sync::broadcast::Receiver, time::Instant};

fn at(server: &Server) -> Address {
    Address::new("127.0.0.1", server.port())
}

fn replica(of: &Server, settings: &[&str]) -> Server {
    let port = of.port().to_string();
    let settings = [&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"][..], settings].concat();
    let replica = Server::start_with(free_port().unwrap(), &settings).unwrap();
    of.await_replicas(1);
    replica
}

async fn connect(servers: Servers, failover: FailoverMode, strict: bool) -> RedisClusterClient {
    let mut options = ClientOptions::new(servers).failover(failover);
    (options.strict, options.retry_for) = (strict, Duration::from_secs(3));
    options.health_interval = Duration::from_secs(1);
    RedisClusterClient::connect(options, &Env::system()).await.unwrap()
}

fn list(first: &Server, second: &Server) -> Servers {
    Servers::Nodes(vec![(at(first), Role::Primary), (at(second), Role::Replica)])
}

async fn hears(events: &mut Receiver<ClientEvent>, wanted: &ClientEvent) {
    let heard = async { while events.recv().await.unwrap() != *wanted {} };
    let most = Duration::from_secs(10);
    tokio::time::timeout(most, heard).await.unwrap_or_else(|_| panic!("{wanted:?} was not told"));
}

async fn ping(client: &RedisClusterClient) -> queue_core::Result<redis::Value> {
    client.execute(None, &redis::cmd("PING"), true).await
}

async fn primary(client: &RedisClusterClient) -> Address {
    client.primaries().await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_to_what_will_not_do_changes_nothing() {
    server::require();
    let first = Server::start().unwrap();
    let second = replica(&first, &[]);
    let client = connect(list(&first, &second), FailoverMode::Manual, false).await;
    let nobody = Address::new("127.0.0.1", free_port().unwrap());
    for wrong in [nobody, at(&second)] {
        let refused = client.switch(Some(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Unavailable, "{refused}");
        assert_eq!(primary(&client).await, at(&first));
        assert_eq!(client.stats().lost, 0, "it is worked with as before");
        ping(&client).await.unwrap();
    }
    second.tell(&["REPLICAOF", "NO", "ONE"]);
    client.switch(None).await.unwrap();
    assert_eq!(primary(&client).await, at(&second), "of two that lead the other one is meant");
    // It stays there, also when it was lost.
    second.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    ping(&client).await.unwrap();
    assert_eq!(primary(&client).await, at(&second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_manual_client_stays_where_it_was_sent() {
    server::require();
    let first = Server::start().unwrap();
    let second = Server::start().unwrap();
    let client = connect(list(&first, &second), FailoverMode::Automatic, false).await;
    client.switch(Some(at(&second))).await.unwrap();
    assert_eq!(primary(&client).await, at(&second));
    second.kill();
    ping(&client).await.unwrap();
    assert_eq!(primary(&client).await, at(&first), "nobody bound it to a server that is dead");
}

fn job(env: &Env) -> Envelope {
    Envelope::builder(JobId::fresh(env), JobKind::from_static("test"), &b"{}"[..], env.now()).seal()
}

/// For good it is refused only where there never was a replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_do_not_follow_a_new_primary_yet_are_away() {
    server::require();
    let first = Server::start().unwrap();
    let second = replica(&first, &[]);
    let mut client = ClientOptions::new(list(&first, &second));
    client.retry_for = Duration::from_secs(3);
    let env = Env::system();
    let provider = RedisProvider::connect(&RedisOptions::with_client(client), &env).await.unwrap();
    let queue = QueueName::from_static("mail");
    let durability = Some(Durability::Replicated { replicas: 1, timeout: Duration::from_secs(1) });
    let options = PublishOptions { durability, ..PublishOptions::default() };
    let publish = async || provider.publish(&queue, vec![job(&env)], &options).await.remove(0);
    assert!(publish().await.is_accepted());
    first.kill();
    second.tell(&["REPLICAOF", "NO", "ONE"]);
    let mut alone = publish().await;
    for _ in 0..5 {
        // Who does not know it yet writes, and nobody confirms it.
        if matches!(alone, PublishOutcome::Unknown(_)) {
            alone = publish().await;
        }
    }
    assert!(matches!(alone, PublishOutcome::Rejected(Rejection::Unavailable(_))), "{alone:?}");
    assert!(provider.capabilities(None).durability.contains(&"replicated"), "it is what Redis is set up for");
    let _third = replica(&second, &[]);
    let followed = publish().await;
    assert!(followed.is_accepted(), "{followed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_still_connecting_to_the_old_primary_follows_a_switch() {
    server::require();
    let first = Server::start().unwrap();
    let second = Server::start().unwrap();
    let client = connect(list(&first, &second), FailoverMode::Automatic, false).await;
    let mut events = client.events();
    first.hang();
    client.disconnect();
    let asking = tokio::spawn({
        let client = client.clone();
        let write = redis::cmd("SET").arg("queue:x").arg(1).take();
        async move { client.execute(Some("queue:x"), &write, true).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.switch(Some(at(&second))).await.unwrap();
    first.go_on();
    asking.await.unwrap();
    assert_eq!((first.tell(&["EXISTS", "queue:x"]), second.tell(&["EXISTS", "queue:x"])), ("0".into(), "1".into()));
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.extend(matches!(event, ClientEvent::Primary { .. }).then_some(event));
    }
    assert_eq!(told, [ClientEvent::Primary { server: at(&second) }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_told_to_switch_whether_the_old_primary_is_dead_or_a_replica() {
    server::require();
    for dies in [true, false] {
        let first = Server::start().unwrap();
        let second = replica(&first, &[]);
        let client = connect(list(&first, &second), FailoverMode::Manual, false).await;
        let mut events = client.events();
        second.tell(&["REPLICAOF", "NO", "ONE"]);
        if dies {
            first.kill();
        } else {
            first.tell(&["REPLICAOF", "127.0.0.1", &second.port().to_string()]);
            let write = redis::cmd("SET").arg("queue:x").arg(1).take();
            client.execute(Some("queue:x"), &write, false).await.expect_err("it stays where it is");
        }
        hears(&mut events, &ClientEvent::SwitchNeeded { to: at(&second) }).await;
        client.switch(None).await.unwrap();
        assert_eq!(primary(&client).await, at(&second));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_takes_over_is_looked_at_and_told_of() {
    server::require();
    let settings = ["--maxmemory-policy", "allkeys-lru", "--appendonly", "no"];
    let first = Server::start().unwrap();
    let second = replica(&first, &settings);
    let client = connect(list(&first, &second), FailoverMode::Automatic, false).await;
    let picky = connect(list(&first, &second), FailoverMode::Automatic, true).await;
    assert_eq!((client.findings(), picky.findings()), (vec![], vec![]));
    let mut events = client.events();
    first.kill();
    second.tell(&["REPLICAOF", "NO", "ONE"]);
    ping(&client).await.unwrap();
    let findings = client.findings();
    let [policy, kept] = &findings[..] else { panic!("{findings:?}") };
    assert!(policy.message.contains("noeviction") && kept.message.contains("appendonly yes"), "{findings:?}");
    for finding in findings {
        let Finding { severity, message } = &finding;
        assert!(*severity == Severity::Warning && message.contains(&second.port().to_string()), "{finding:?}");
        hears(&mut events, &ClientEvent::Found { server: at(&second), finding }).await;
    }
    let refused = ping(&picky).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Config, "{refused}");
    assert!(refused.to_string().contains("noeviction"), "{refused}");

    // What was found of a server that is not worked with any more is not of now.
    first.restart_after_kill();
    client.switch(Some(at(&first))).await.unwrap();
    assert_eq!(client.findings(), []);
    second.kill();
    ping(&picky).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_that_comes_back_otherwise_is_told_of() {
    server::require();
    let server = Server::start().unwrap();
    let client = connect(Servers::One(at(&server)), FailoverMode::Automatic, false).await;
    let mut events = client.events();
    server.tell(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    server.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let heard = async {
        loop {
            if let ClientEvent::Found { finding, .. } = events.recv().await.unwrap() {
                return finding;
            }
        }
    };
    let finding = tokio::time::timeout(Duration::from_secs(10), heard).await.expect("it was not told");
    assert!(finding.message.contains("noeviction"), "{finding:?}");
    assert_eq!(client.findings(), [finding]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_says_nothing_is_waited_for_once() {
    server::require();
    let primary = Server::start().unwrap();
    let sentinel = Server::start_sentinel(primary.port(), Duration::from_secs(1)).unwrap();
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let sentinels = vec![Address::new("127.0.0.1", silent.local_addr().unwrap().port()), at(&sentinel)];
    let servers = Servers::Sentinel { sentinels, service: "main".into() };
    let begun = Instant::now();
    let client = connect(servers, FailoverMode::Automatic, false).await;
    assert!(begun.elapsed() > Duration::from_millis(1_900), "it was asked first: {:?}", begun.elapsed());
    let begun = Instant::now();
    client.switch(None).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1_900), "it was asked first again: {:?}", begun.elapsed());
}
