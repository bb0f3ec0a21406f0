#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
//! What an operator sets, on a broker of its own: virtual hosts, what a user may do, and the limit of deliveries that stands behind the
//! scheduler's.

mod broker;
mod server;

use std::time::Duration;

use broker::{PREFIX, Plain, job, options, queue};
use queue_core::{
    Consumer, Env, Error, ErrorCode, JobError, QueueName, QueueProvider as _, QueueSpec, Result,
    provider::{
        ConsumeOptions, DeadFilter, Delivery, Disposition, PublishOptions, PublishOutcome, Redrive, Rejection,
        Settlement,
    },
};
use queue_rabbitmq::RabbitProvider;
use server::Server;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// One broker for all of it: starting one takes longer than the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operator_sets() {
    if !server::is_installed() {
        return;
    }
    let server = block_in_place(Server::start);
    virtual_hosts_are_apart(&server).await;
    least_privilege_is_enough_and_less_is_told(&server).await;
    a_job_that_kills_its_holders_is_buried_by_the_broker(&server).await;
    block_in_place(|| drop(server));
}

async fn connect(server: &Server, user: &str, vhost: &str) -> Result<RabbitProvider> {
    let mut options = options(&server.url());
    (options.user, options.vhost) = (user.into(), vhost.into());
    options.password = if user == "guest" { "guest".into() } else { "secret".into() };
    RabbitProvider::connect(options, &Env::system()).await
}

async fn publish(provider: &RabbitProvider, queue: &QueueName, payload: &str, after: Duration) -> Result<()> {
    let env = Env::system();
    let due = (!after.is_zero()).then(|| env.now() + after);
    let batch = vec![job(payload).edit(|parts| parts.not_before = due)];
    match provider.publish(queue, batch, &PublishOptions::default()).await.remove(0) {
        PublishOutcome::Accepted { .. } => Ok(()),
        PublishOutcome::Rejected(Rejection::Denied(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

async fn take(consumer: &dyn Consumer) -> Delivery {
    consumer.fetch(1, PATIENCE).await.unwrap().remove(0)
}

async fn settle(consumer: &dyn Consumer, delivery: &Delivery, disposition: Disposition) {
    let outcome = consumer.settle(&[Settlement::new(delivery.receipt, disposition)]).await.remove(0);
    assert!(outcome.is_settled(), "{outcome:?}");
}

/// Publishes, delays, runs, retries, buries, brings back and drops: everything that needs the broker's leave.
async fn a_whole_life(provider: &RabbitProvider, queue: &QueueName) -> Result<()> {
    provider.declare(&QueueSpec::new(queue.clone())).await?;
    publish(provider, queue, "delayed", Duration::from_secs(1)).await?;
    let consumer = provider.consumer(queue, ConsumeOptions::new("test", 1)).await?;
    let error = || JobError::custom("SOON", "as planned");
    let first = take(&*consumer).await;
    settle(&*consumer, &first, Disposition::Retry { after: Duration::from_millis(10), error: error() }).await;
    let second = take(&*consumer).await;
    assert_eq!(second.attempt, 2);
    settle(&*consumer, &second, Disposition::DeadLetter { error: error() }).await;
    let report = provider.admin().redrive(queue, &Redrive::all()).await?;
    assert_eq!(report.redriven, 1);
    let third = take(&*consumer).await;
    settle(&*consumer, &third, Disposition::Complete { result: None }).await;
    consumer.close(Duration::from_secs(1)).await;
    provider.drop_queue(queue, false).await
}

async fn virtual_hosts_are_apart(server: &Server) {
    let vhost = "team/a b";
    block_in_place(|| {
        server.ctl(&["add_vhost", vhost]);
        server.ctl(&["set_permissions", "-p", vhost, "guest", ".*", ".*", ".*"]);
    });
    let (queue, here) = (queue("vhost"), connect(server, "guest", "/").await.unwrap());
    // As it stands in a URL.
    let there = options(&server.url().replace("/%2f", "/team%2Fa%20b"));
    let there = RabbitProvider::connect(there, &Env::system()).await.unwrap();
    publish(&there, &queue, "there", Duration::ZERO).await.unwrap();
    let plain = Plain::open_at(&server.url()).await;
    assert_eq!(plain.depth(&plain.ready(&queue, 1)).await, None, "the other host has no such queue");
    publish(&here, &queue, "here", Duration::ZERO).await.unwrap();
    for (provider, payload) in [(&here, "here"), (&there, "there")] {
        let consumer = provider.consumer(&queue, ConsumeOptions::new("test", 5)).await.unwrap();
        let got = take(&*consumer).await;
        assert_eq!(got.envelope.payload, payload.as_bytes());
        settle(&*consumer, &got, Disposition::Complete { result: None }).await;
        assert!(consumer.fetch(5, Duration::from_millis(300)).await.unwrap().is_empty());
        consumer.close(Duration::ZERO).await;
    }
    for provider in [here, there] {
        provider.drop_queue(&queue, false).await.unwrap();
        provider.close().await.unwrap();
    }
}

/// What the documentation says that a user needs is enough; without a part of it, it is said which.
async fn least_privilege_is_enough_and_less_is_told(server: &Server) {
    let own = format!("^{PREFIX}\\..*");
    let write = format!("^({PREFIX}\\..*|amq\\.default)$");
    let permit = |configure: &str, write: &str, read: &str| {
        block_in_place(|| server.ctl(&["set_permissions", "app", configure, write, read]));
    };
    block_in_place(|| server.ctl(&["add_user", "app", "secret"]));
    let owner = connect(server, "guest", "/").await.unwrap();
    let stands = queue("stands");
    owner.declare(&QueueSpec::new(stands.clone())).await.unwrap();

    permit(&own, &write, &own);
    let app = connect(server, "app", "/").await.unwrap();
    a_whole_life(&app, &queue("whole")).await.unwrap();
    app.close().await.unwrap();

    let denied = |error: &Error, words: &[&str]| {
        assert_eq!(error.code(), ErrorCode::Denied, "{error}");
        assert!(words.iter().all(|word| error.message().contains(word)), "{words:?}: {error}");
        assert!(!error.is_retryable() && !error.to_string().contains("secret"), "{error}");
    };
    // A broker remembers for a while what a channel may do: each has a connection of its own.
    permit("^$", &write, &own);
    let app = connect(server, "app", "/").await.unwrap();
    denied(&app.declare(&QueueSpec::new(queue("new"))).await.unwrap_err(), &["`configure`", "app", PREFIX]);
    denied(&app.drop_queue(&stands, false).await.unwrap_err(), &["`configure`", &*format!("{PREFIX}.v1.ready.1")]);
    app.close().await.unwrap();

    permit(&own, &own, &own);
    let app = connect(server, "app", "/").await.unwrap();
    denied(&publish(&app, &stands, "x", Duration::ZERO).await.unwrap_err(), &["`write` on `amq.default`"]);
    app.close().await.unwrap();

    permit(&own, &write, "^$");
    let app = connect(server, "app", "/").await.unwrap();
    let refused = app.consumer(&stands, ConsumeOptions::new("test", 1)).await.unwrap_err();
    denied(&refused, &["`read`", PREFIX]);
    denied(&app.admin().redrive(&stands, &Redrive::all()).await.unwrap_err(), &["`read`", "dead"]);
    app.close().await.unwrap();

    // Another prefix is another's.
    permit(&own, &write, &own);
    let mut foreign = options(&server.url());
    (foreign.user, foreign.password, foreign.prefix) = ("app".into(), "secret".into(), "elsewhere".into());
    let app = RabbitProvider::connect(foreign, &Env::system()).await.unwrap();
    denied(&app.declare(&QueueSpec::new(queue("foreign"))).await.unwrap_err(), &["elsewhere."]);
    app.close().await.unwrap();
    owner.drop_queue(&stands, false).await.unwrap();
    owner.close().await.unwrap();
}

/// Nobody comes so far that they could settle it or count: the broker's own limit stands at ten times the queue's.
async fn a_job_that_kills_its_holders_is_buried_by_the_broker(server: &Server) {
    let (queue, owner) = (queue("poison"), connect(server, "guest", "/").await.unwrap());
    let mut spec = QueueSpec::new(queue.clone());
    spec.max_deliveries = 1;
    owner.declare(&spec).await.unwrap();
    publish(&owner, &queue, "poison", Duration::ZERO).await.unwrap();
    let plain = Plain::open_at(&server.url()).await;
    let dead = plain.dead(&queue);
    let mut deaths = 0;
    while plain.depth(&dead).await == Some(0) {
        assert!(deaths <= 10, "it killed {deaths} and is not dead");
        let victim = connect(server, "guest", "/").await.unwrap();
        victim.declare(&spec).await.unwrap();
        let consumer = victim.consumer(&queue, ConsumeOptions::new("victim", 1)).await.unwrap();
        let got = consumer.fetch(1, Duration::from_secs(3)).await.unwrap();
        deaths += got.len();
        victim.sever().await;
        // Until the broker knows, and has buried it if it does.
        let until = Instant::now() + if deaths > 10 { PATIENCE } else { Duration::from_millis(300) };
        while plain.depth(&dead).await == Some(0) && Instant::now() < until {
            sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(deaths, 11, "ten deliveries, and the one that was too many");
    assert_eq!(plain.depth(&plain.ready(&queue, 1)).await, Some(0));
    let page = owner.admin().dead(&queue, &DeadFilter::default(), None, 10).await.unwrap();
    let [letter] = &page.items[..] else { panic!("{page:?}") };
    assert_eq!(&*letter.error.code, "DELIVERY_LIMIT");
    // And it may live again, which is counted anew.
    assert_eq!(owner.admin().redrive(&queue, &Redrive::all()).await.unwrap().redriven, 1);
    let consumer = owner.consumer(&queue, ConsumeOptions::new("test", 1)).await.unwrap();
    let again = take(&*consumer).await;
    assert_eq!((again.envelope.payload.as_ref(), again.started_before), (&b"poison"[..], 0));
    settle(&*consumer, &again, Disposition::Complete { result: None }).await;
    consumer.close(Duration::from_secs(1)).await;
    owner.drop_queue(&queue, false).await.unwrap();
    owner.close().await.unwrap();
}
