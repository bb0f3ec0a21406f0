//! What is found out when connecting, who is let in, and what a server does that is full.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{process::Command, time::Duration};

use queue_core::{
    Env, ErrorCode, QueueName, QueueProvider, QueueSpec,
    job::{Envelope, JobId, JobKind, JobRef},
    provider::{
        Cancel, ConsumeOptions, Disposition, Durability, FollowUp, PublishOptions, PublishOutcome, Rejection,
        SettleOutcome, Settlement,
    },
    queue_spec::Tracking,
    store::CancelOutcome,
};
use queue_redis::{ClientOptions, RedisClusterClient, RedisOptions, RedisProvider, Severity, Tls};
use server::{Server, free_port};

fn start(settings: &[&str]) -> Option<Server> {
    if server::is_installed() {
        return Some(Server::start_with(free_port().unwrap(), settings).unwrap());
    }
    assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
    eprintln!("LEFT OUT: no redis-server on the path");
    None
}

async fn connect(url: &str) -> queue_core::Result<RedisClusterClient> {
    RedisClusterClient::connect(ClientOptions::from_url(url)?, &Env::system()).await
}

#[tokio::test]
async fn what_loses_jobs_is_warned_of_or_refused() {
    let settings = ["--maxmemory-policy", "allkeys-lru", "--appendonly", "no"];
    let Some(server) = start(&settings) else { return };
    let client = connect(&server.url()).await.unwrap();
    let mut warnings = client.findings();
    warnings.retain(|found| found.severity == Severity::Warning);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].message.contains("noeviction") && warnings[1].message.contains("appendonly yes"));
    let refused = connect(&format!("{}?strict=true", server.url())).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Config, "{refused}");
    assert!(refused.to_string().contains("noeviction"), "{refused}");

    let well = start(&[]).unwrap();
    assert_eq!(connect(&format!("{}?strict=true", well.url())).await.unwrap().findings(), []);
}

#[tokio::test]
async fn a_replica_is_refused() {
    let Some(primary) = start(&[]) else { return };
    let replica = start(&["--replicaof", "127.0.0.1", &primary.port().to_string()]).unwrap();
    primary.await_replicas(1);
    let refused = connect(&replica.url()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Config, "{refused}");
    assert!(refused.to_string().contains("read-only replica"), "{refused}");
}

#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    let Some(server) = start(&[]) else { return };
    server.tell(&["ACL", "SETUSER", "worker", "on", ">hunter2", "~queue:*", "+@all", "-@admin", "-@dangerous"]);
    let url = |login: &str| server.url().replace("redis://", &format!("redis://{login}@"));
    let provider = RedisProvider::connect(&RedisOptions::new(url("worker:hunter2")), &Env::system()).await.unwrap();
    provider.declare(&QueueSpec::new(QueueName::from_static("mail"))).await.unwrap();
    let env = Env::system();
    let queue = QueueName::from_static("mail");
    let published = provider.publish(&queue, vec![job(&env, 10)], &PublishOptions::default()).await;
    assert!(matches!(published[..], [PublishOutcome::Accepted { .. }]), "{published:?}");
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    let receipt = consumer.fetch(1, Duration::from_secs(1)).await.unwrap().remove(0).receipt;
    let settled = consumer.settle(&[Settlement::new(receipt, Disposition::Complete { result: None })]).await;
    assert!(matches!(settled[..], [SettleOutcome::Settled]), "{settled:?}");
    assert!(
        consumer.fetch(1, Duration::from_millis(200)).await.unwrap().is_empty(),
        "it may wait in the server as well"
    );
    let findings = provider.client().findings();
    assert!(findings.len() > 2 && findings.iter().all(|found| found.severity == Severity::Note), "{findings:?}");

    let refused = connect(&url("worker:hunter3")).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Authentication, "{refused:?}");
    assert!(!format!("{refused} {refused:?}").contains("hunter"), "{refused:?}");
    assert!(!format!("{provider:?}").contains("hunter"));
}

#[tokio::test]
async fn more_than_there_is_is_refused() {
    let Some(server) = start(&[]) else { return };
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    let mut spec = QueueSpec::new(QueueName::from_static("mail"));
    assert_eq!(provider.capabilities(None).durability, ["relaxed"]);
    spec.durability = Some(Durability::Replicated { replicas: 1, timeout: Duration::from_secs(1) });
    let refused = provider.declare(&spec).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unsupported, "{refused}");
    let airgap = connect(&format!("{}?failover=airgap-safe", server.url())).await.unwrap_err();
    assert_eq!(airgap.code(), ErrorCode::Unsupported, "{airgap}");
}

/// Only a server that answers can say that it has none.
#[tokio::test]
async fn a_server_that_cannot_be_asked_for_its_replicas_is_away() {
    let Some(server) = start(&[]) else { return };
    let env = Env::system();
    let mut client = ClientOptions::from_url(&server.url()).unwrap();
    client.retry_for = Duration::from_millis(500);
    let provider = RedisProvider::connect(&RedisOptions::with_client(client), &env).await.unwrap();
    let mut spec = QueueSpec::new(QueueName::from_static("mail"));
    provider.declare(&spec).await.unwrap();
    let durability = Some(Durability::Replicated { replicas: 1, timeout: Duration::from_millis(300) });
    let options = PublishOptions { durability, ..PublishOptions::default() };
    let publish = async || provider.publish(&spec.name, vec![job(&env, 10)], &options).await.remove(0);
    let refused = publish().await;
    assert!(matches!(refused, PublishOutcome::Rejected(Rejection::Denied(_))), "{refused:?}");
    server.tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let refused = publish().await;
    assert!(matches!(refused, PublishOutcome::Rejected(Rejection::Denied(_))), "it is asked again: {refused:?}");

    server.kill();
    let PublishOutcome::Rejected(Rejection::Unavailable(error)) = publish().await else { panic!("for good") };
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    spec.durability = durability;
    let error = provider.declare(&spec).await.unwrap_err();
    assert_eq!((error.code(), error.operation()), (ErrorCode::Unavailable, Some("declare")), "{error}");
}

#[tokio::test]
async fn too_few_replicas_are_not_a_yes() {
    let Some(primary) = start(&[]) else { return };
    let replica = start(&["--replicaof", "127.0.0.1", &primary.port().to_string(), "--repl-diskless-sync-delay", "0"]);
    let replica = replica.unwrap();
    primary.await_replicas(1);
    let env = Env::system();
    let provider = RedisProvider::connect(&RedisOptions::new(primary.url()), &env).await.unwrap();
    let queue = QueueName::from_static("mail");
    let mut spec = QueueSpec::new(queue.clone());
    spec.durability = Some(Durability::Replicated { replicas: 1, timeout: Duration::from_secs(1) });
    provider.declare(&spec).await.unwrap();
    let publish = async |job: Envelope| provider.publish(&queue, vec![job], &PublishOptions::default()).await.remove(0);
    let [first, second] = [job(&env, 10), job(&env, 10)];
    assert!(matches!(publish(first).await, PublishOutcome::Accepted { .. }));
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    let delivery = consumer.fetch(1, Duration::from_secs(1)).await.unwrap().remove(0);

    replica.hang();
    assert!(matches!(publish(second.clone()).await, PublishOutcome::Unknown(_)));
    // It is there already, and still nobody has confirmed it.
    assert!(matches!(publish(second.clone()).await, PublishOutcome::Unknown(_)));
    let settlement = Settlement::new(delivery.receipt, Disposition::Complete { result: None });
    let settle = async || consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
    assert!(matches!(settle().await, SettleOutcome::Unknown(_)));
    assert!(matches!(settle().await, SettleOutcome::Unknown(_)));
    replica.go_on();
    // A replica on a busy machine may take more than its second to catch up.
    let mut ended = (publish(second.clone()).await, settle().await);
    for _ in 0..20 {
        if !ended.0.is_accepted() || !ended.1.is_settled() {
            ended = (publish(second.clone()).await, settle().await);
        }
    }
    assert!(matches!(ended, (PublishOutcome::Accepted { .. }, SettleOutcome::AlreadySettled)), "{ended:?}");
}

/// The queue of a follow-up asks for more than that of the job before it; a cancel is as safe as its queue.
#[tokio::test]
async fn follow_ups_and_cancels_are_as_safe_as_their_queues_ask() {
    let Some(primary) = start(&[]) else { return };
    let env = Env::system();
    let provider = RedisProvider::connect(&RedisOptions::new(primary.url()), &env).await.unwrap();
    // It came after the provider had looked.
    let replica = start(&["--replicaof", "127.0.0.1", &primary.port().to_string(), "--repl-diskless-sync-delay", "0"]);
    let replica = replica.unwrap();
    primary.await_replicas(1);
    let [relaxed, safe] = [QueueName::from_static("relaxed"), QueueName::from_static("safe")];
    let mut spec = QueueSpec::new(safe.clone());
    spec.durability = Some(Durability::Replicated { replicas: 1, timeout: Duration::from_secs(1) });
    provider.declare(&spec).await.unwrap();
    provider.declare(&QueueSpec::new(relaxed.clone())).await.unwrap();
    let waiting = job(&env, 10);
    for (queue, jobs) in [(&safe, vec![waiting.clone()]), (&relaxed, vec![job(&env, 10), job(&env, 10)])] {
        let outcomes = provider.publish(queue, jobs, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(PublishOutcome::is_accepted), "{outcomes:?}");
    }
    let consumer = provider.consumer(&relaxed, ConsumeOptions::new("worker", 10)).await.unwrap();
    let deliveries = consumer.fetch(2, Duration::from_secs(1)).await.unwrap();
    let mut batch: Vec<_> = deliveries
        .iter()
        .map(|delivery| Settlement::new(delivery.receipt, Disposition::Complete { result: None }))
        .collect();
    batch[0].then.push(FollowUp { queue: safe.clone(), envelope: job(&env, 10) });
    let store = provider.job_store().unwrap();
    let cancelled = [JobRef::new(safe.clone(), waiting.id)];
    let cancel = async || store.cancel(&cancelled, &Cancel::by("somebody")).await.remove(0);

    replica.hang();
    let settled = consumer.settle(&batch[..1]).await;
    assert!(matches!(settled[..], [SettleOutcome::Unknown(_)]), "{settled:?}");
    let settled = consumer.settle(&batch[1..]).await;
    assert!(matches!(settled[..], [SettleOutcome::Settled]), "nothing of it asks for more: {settled:?}");
    let unsure = cancel().await.unwrap_err();
    assert_eq!(unsure.code(), ErrorCode::Unavailable, "{unsure}");
    let nobody = [JobRef::new(safe.clone(), job(&env, 10).id)];
    let nothing = store.cancel(&nobody, &Cancel::by("somebody")).await.remove(0);
    assert_eq!(nothing.unwrap(), CancelOutcome::NotFound, "nothing was done that anybody could confirm");
    replica.go_on();
    // A replica on a busy machine may take more than its second to catch up.
    let mut ended = (consumer.settle(&batch[..1]).await, cancel().await);
    for _ in 0..20 {
        if !matches!(ended, (ref settled, Ok(_)) if settled[0].is_settled()) {
            ended = (consumer.settle(&batch[..1]).await, cancel().await);
        }
    }
    assert!(matches!(ended.0[..], [SettleOutcome::AlreadySettled]), "{ended:?}");
    assert_eq!(ended.1.unwrap(), CancelOutcome::AlreadyTerminal);
}

/// Its disk is full, or was taken away: it says `MISCONF` to whoever would change something.
#[tokio::test]
async fn a_server_that_cannot_write_its_snapshots_is_away() {
    let Some(server) = start(&["--appendonly", "no", "--enable-protected-configs", "yes"]) else { return };
    let env = Env::system();
    let mut client = ClientOptions::from_url(&server.url()).unwrap();
    client.retry_for = Duration::from_millis(500);
    let provider = RedisProvider::connect(&RedisOptions::with_client(client), &env).await.unwrap();
    let queue = QueueName::from_static("mail");
    let publish = async || provider.publish(&queue, vec![job(&env, 10)], &PublishOptions::default()).await.remove(0);
    assert!(publish().await.is_accepted());

    server.refuse_writes();
    let PublishOutcome::Rejected(Rejection::Unavailable(error)) = publish().await else { panic!("it takes writes") };
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert!(error.to_string().contains("disk"), "{error}");
    server.take_writes();
    assert!(publish().await.is_accepted());
}

fn job(env: &Env, bytes: usize) -> Envelope {
    Envelope::builder(JobId::fresh(env), JobKind::from_static("test.job"), vec![7; bytes], env.now()).seal()
}

#[tokio::test]
async fn a_full_server_refuses_jobs_and_lets_them_be_finished() {
    let Some(server) = start(&["--maxmemory", "8mb", "--appendonly", "no"]) else { return };
    let env = Env::system();
    let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &env).await.unwrap();
    let queue = QueueName::from_static("mail");
    let mut spec = QueueSpec::new(queue.clone());
    spec.tracking = Tracking::Off;
    provider.declare(&spec).await.unwrap();
    let publish = async || {
        let batch = (0..100).map(|_| job(&env, 1_000)).collect();
        provider.publish(&queue, batch, &PublishOptions::default()).await
    };
    let mut accepted = 0;
    let refused = 'full: loop {
        for outcome in publish().await {
            match outcome {
                PublishOutcome::Accepted { .. } => accepted += 1,
                PublishOutcome::Rejected(Rejection::Unavailable(error)) => break 'full error,
                other => panic!("{other:?}"),
            }
        }
        assert!(accepted < 100_000);
    };
    assert!(accepted > 0 && refused.to_string().contains("maxmemory"), "{accepted}: {refused}");

    // Also a worker that begins only now finishes everything, and there is room again.
    let other = RedisProvider::connect(&RedisOptions::new(server.url()), &env).await.unwrap();
    let consumer = other.consumer(&queue, ConsumeOptions::new("worker", 100)).await.unwrap();
    let mut finished = 0;
    loop {
        let deliveries = consumer.fetch(100, Duration::ZERO).await.unwrap();
        if deliveries.is_empty() {
            break;
        }
        let done = |receipt| Settlement::new(receipt, Disposition::Complete { result: None });
        let batch: Vec<_> = deliveries.into_iter().map(|delivery| done(delivery.receipt)).collect();
        for outcome in consumer.settle(&batch).await {
            assert!(matches!(outcome, SettleOutcome::Settled), "{outcome:?}");
            finished += 1;
        }
    }
    assert_eq!(finished, accepted);
    assert!(publish().await.iter().all(|outcome| matches!(outcome, PublishOutcome::Accepted { .. })));
}

#[tokio::test]
async fn tls_trusts_whom_it_is_told_to() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (ca, ca_key, key, certificate) = (at("ca.pem"), at("ca.key"), at("key.pem"), at("cert.pem"));
    let request = at("request.pem");
    let new = ["req", "-newkey", "rsa:2048", "-nodes"];
    let root = ["-x509", "-days", "2", "-subj", "/CN=a root", "-keyout", &ca_key, "-out", &ca];
    let names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    let leaf = ["-keyout", &key, "-out", &request];
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    let signed = ["-copy_extensions", "copy", "-days", "2", "-out", &certificate];
    let steps = [[&new[..], &root].concat(), [&new[..], &names, &leaf].concat(), [&sign[..], &signed].concat()];
    for step in steps {
        if !Command::new("openssl").args(&step).output().is_ok_and(|made| made.status.success()) {
            eprintln!("LEFT OUT: no openssl that makes certificates");
            return;
        }
    }
    let port = free_port().unwrap();
    let shown = port.to_string();
    let settings = [
        ["--tls-port", &shown],
        ["--tls-cert-file", &certificate],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &ca],
        ["--tls-auth-clients", "yes"],
    ];
    let Some(_server) = start(settings.as_flattened()) else { return };
    let base = format!("rediss://localhost:{port}/");
    let own = format!("cert={certificate}&key={key}");
    let client = connect(&format!("{base}?ca={ca}&{own}")).await.unwrap();
    assert!(client.stats().calls > 0);

    for wrong in [base.clone(), format!("{base}?{own}"), format!("{base}?ca={ca}"), base.replace("rediss", "redis")] {
        let mut options = ClientOptions::from_url(&wrong).unwrap();
        options.retry_for = Duration::from_millis(200);
        let refused = RedisClusterClient::connect(options, &Env::system()).await;
        assert!(refused.is_err(), "{wrong}");
    }
    let mut options = ClientOptions::from_url(&format!("{base}?ca={ca}&{own}")).unwrap();
    let identity = options.tls.take().unwrap().identity;
    let options = options.tls(Tls { identity, insecure: true, roots: None });
    RedisClusterClient::connect(options, &Env::system()).await.unwrap();
}
