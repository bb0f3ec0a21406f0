#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
//! What becomes of publishes and connections when a real broker, or the way to it, fails.

mod broker;
mod server;

use std::{collections::HashSet, sync::Arc, time::Duration};

use broker::{Plain, job, options, queue};
use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use queue_core::{
    Consumer, Env, ErrorCode, JobError, QueueName, QueueProvider as _,
    provider::{
        ConsumeOptions, DeadFilter, Disposition, PublishOptions, PublishOutcome, Redrive, RedriveSelection, Rejection,
        Settlement,
    },
};
use queue_rabbitmq::RabbitProvider;
use server::Server;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

async fn within(provider: &RabbitProvider, queue: &QueueName, payload: &str, deadline: Duration) -> PublishOutcome {
    let options = PublishOptions { deadline, ..PublishOptions::default() };
    provider.publish(queue, vec![job(payload)], &options).await.remove(0)
}

/// Everything that was accepted is there, and nothing that was never published.
async fn expect_all(plain: &Plain, name: &str, accepted: &HashSet<String>, unknown: &HashSet<String>) {
    let mut found = HashSet::new();
    while let Some(message) = plain.take(name).await {
        found.insert(String::from_utf8(message.data).unwrap());
    }
    let lost: Vec<_> = accepted.difference(&found).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let unexpected: Vec<_> = found.iter().filter(|one| !accepted.contains(*one) && !unknown.contains(*one)).collect();
    assert!(unexpected.is_empty(), "refused, and there all the same: {unexpected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_under_load_lose_nothing_and_come_back() {
    let Some(url) = broker::url() else { return };
    let provider = Arc::new(RabbitProvider::connect(options(&url), &Env::system()).await.unwrap());
    let queue = queue("cut");
    assert!(within(&provider, &queue, "first", 10 * SECOND).await.is_accepted());
    let publisher = {
        let (provider, queue) = (provider.clone(), queue.clone());
        tokio::spawn(async move {
            let (mut accepted, mut unknown) = (HashSet::from(["first".to_owned()]), HashSet::new());
            for call in 0..60 {
                let names: Vec<String> = (0..50).map(|n| format!("{call}.{n}")).collect();
                let batch = names.iter().map(job).collect();
                let outcomes = provider.publish(&queue, batch, &PublishOptions::default()).await;
                for (name, outcome) in names.into_iter().zip(outcomes) {
                    match outcome {
                        PublishOutcome::Accepted { .. } => drop(accepted.insert(name)),
                        PublishOutcome::Unknown(_) => drop(unknown.insert(name)),
                        PublishOutcome::Rejected(Rejection::Unavailable(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            (accepted, unknown)
        })
    };
    for _ in 0..5 {
        sleep(Duration::from_millis(150)).await;
        provider.cut();
    }
    let (accepted, unknown) = publisher.await.unwrap();
    assert!(accepted.len() > 500, "most calls go through: {}", accepted.len());
    let plain = Plain::open().await;
    expect_all(&plain, &plain.ready(&queue, 1), &accepted, &unknown).await;
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

/// A refusal ends the channel that asked, and nothing else of its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_closed_by_a_precondition_leaves_its_siblings_alone() {
    let Some(url) = broker::url() else { return };
    let (one, other) = (options(&url), options(&url));
    let [one, other] =
        [one, other].map(|options| async { RabbitProvider::connect(options, &Env::system()).await.unwrap() });
    let (one, other) = (one.await, other.await);
    let queue = queue("siblings");
    let plain = Plain::open().await;
    // The broker has it otherwise: each declaration is a closed channel.
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    plain.channel.queue_declare(plain.ready(&queue, 0).as_str().into(), durable, arguments).await.unwrap();
    let healthy = broker::queue("healthy");
    assert!(within(&one, &healthy, "0", 10 * SECOND).await.is_accepted());
    for n in 1..10 {
        let (refused, fine) =
            tokio::join!(within(&one, &queue, "x", 10 * SECOND), within(&one, &healthy, "fine", 10 * SECOND));
        assert!(
            matches!(&refused, PublishOutcome::Rejected(Rejection::Denied(error)) if error.code() == ErrorCode::Conflict),
            "{refused:?}"
        );
        assert!(fine.is_accepted(), "{n}: {fine:?}");
    }
    assert!(one.ping().await.is_ok());
    plain.delete(&plain.ready(&queue, 0)).await;
    assert!(within(&one, &queue, "x", 10 * SECOND).await.is_accepted(), "once it is gone all is well");
    for queue in [&queue, &healthy] {
        one.drop_queue(queue, false).await.unwrap();
    }
    one.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let Some(url) = broker::url() else { return };
    let connect = async |change: fn(&mut queue_rabbitmq::RabbitOptions)| {
        let mut options = options(&url);
        change(&mut options);
        let error = RabbitProvider::connect(options, &Env::system()).await.unwrap_err();
        (error.code(), error.to_string())
    };
    let (code, text) = connect(|options| options.password = "hunter2".into()).await;
    assert_eq!(code, ErrorCode::Authentication, "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let (code, text) = connect(|options| options.vhost = "nowhere".into()).await;
    assert_eq!(code, ErrorCode::Denied, "{text}");
    assert!(text.contains("nowhere"), "{text}");
    let (code, text) = connect(|options| options.brokers[0].port = 1).await;
    assert_eq!(code, ErrorCode::Unavailable, "{text}");
}

/// One broker of its own for all that only its owner may do to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_the_operator_does() {
    if !server::is_installed() {
        return;
    }
    let mut server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let provider = connect_once_up(&server).await;
    closed_by_hand(&server, &provider).await;
    busy(&server, &provider).await;
    alarm(&server, &provider).await;
    hung(&server, &provider).await;
    server = killed(server, &provider).await;
    denied(&server).await;
    provider.close().await.unwrap();
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

async fn connect_once_up(server: &Server) -> RabbitProvider {
    let start = Instant::now();
    loop {
        match RabbitProvider::connect(options(&server.url()), &Env::system()).await {
            Ok(provider) => return provider,
            Err(error) => assert!(start.elapsed() < 60 * SECOND, "{error}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn closed_by_hand(server: &Server, provider: &RabbitProvider) {
    let queue = queue("closed");
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    tokio::task::block_in_place(|| server.ctl(&["close_all_connections", "by the test"]));
    let start = Instant::now();
    assert!(within(provider, &queue, "after", 10 * SECOND).await.is_accepted());
    assert!(start.elapsed() < 5 * SECOND, "{:?}", start.elapsed());
    while provider.ping().await.is_err() {
        assert!(start.elapsed() < 5 * SECOND, "the other connection is not back");
        sleep(Duration::from_millis(50)).await;
    }
    consumes_again(provider, &*consumer, &queue, start).await;
    consumer.close(SECOND).await;
}

/// Who consumes goes on within five seconds of the broker's being back.
async fn consumes_again(provider: &RabbitProvider, consumer: &dyn Consumer, queue: &QueueName, back: Instant) {
    assert!(within(provider, queue, "for the consumer", 10 * SECOND).await.is_accepted());
    loop {
        match consumer.fetch(1, SECOND).await {
            Ok(got) if !got.is_empty() => break,
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
        assert!(back.elapsed() < 5 * SECOND, "nothing is consumed after {:?}", back.elapsed());
    }
    assert!(back.elapsed() < 5 * SECOND, "{:?}", back.elapsed());
}

/// A queue's leader that is busy for more than a quarter of a second has no messages to a broker that is asked how many: what is there
/// is neither dropped nor overlooked.
async fn busy(server: &Server, provider: &RabbitProvider) {
    let (queue, admin) = (queue("busy"), provider.admin());
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    for payload in ["one", "two"] {
        assert!(within(provider, &queue, payload, 10 * SECOND).await.is_accepted());
        let got = consumer.fetch(1, 10 * SECOND).await.unwrap();
        let dies = Disposition::DeadLetter { error: JobError::custom("BAD", "no use") };
        assert!(consumer.settle(&[Settlement::new(got[0].receipt, dies)]).await[0].is_settled());
    }
    consumer.close(SECOND).await;
    assert!(within(provider, &queue, "waits", 10 * SECOND).await.is_accepted());
    let hold = "erlang:suspend_process(P), timer:sleep(4000), erlang:resume_process(P)";
    let leaders = format!("N <- registered(), lists:suffix(\"{queue}\", atom_to_list(N)), P <- [whereis(N)]");
    tokio::task::block_in_place(|| server.ctl(&["eval", &format!("[spawn(fun() -> {hold} end) || {leaders}].")]));
    let all = DeadFilter::default();
    let (dropped, dead) = tokio::join!(provider.drop_queue(&queue, true), admin.dead(&queue, &all, None, 1));
    assert_eq!(dropped.map_err(|error| error.code()), Err(ErrorCode::Conflict), "a job waits in it");
    let dead = dead.unwrap();
    assert_eq!((dead.items.len(), dead.next.is_some()), (1, true), "two are dead, of which one was asked for");
    let plain = Plain::open_at(&server.url()).await;
    assert_eq!(plain.depth(&plain.ready(&queue, 1)).await, Some(1));
    let what = Redrive { which: RedriveSelection::Matching(all), dry_run: false, payload: None };
    let redriven = admin.redrive(&queue, &what).await.unwrap();
    assert_eq!((redriven.matched, redriven.redriven), (2, 2));
    provider.drop_queue(&queue, false).await.unwrap();
}

/// A broker that is short of memory: publishes fail by their deadline, and say whether anything was written.
async fn alarm(server: &Server, provider: &RabbitProvider) {
    let queue = queue("alarm");
    assert!(within(provider, &queue, "before", 10 * SECOND).await.is_accepted());
    tokio::task::block_in_place(|| server.ctl(&["set_vm_memory_high_watermark", "0.0001"]));
    let (mut unknown, mut unavailable) = (HashSet::new(), 0);
    for n in 0..6 {
        let (start, name) = (Instant::now(), format!("blocked {n}"));
        match within(provider, &queue, &name, SECOND).await {
            // Until the broker has said that it blocks, what is written is written.
            PublishOutcome::Unknown(_) => drop(unknown.insert(name)),
            PublishOutcome::Rejected(Rejection::Unavailable(error)) => {
                assert_eq!(error.code(), ErrorCode::Unavailable);
                unavailable += 1;
            }
            other => panic!("{other:?}"),
        }
        // An answer's time would be 10 s; a busy machine may stand still for a while.
        let took = start.elapsed();
        assert!(took < 5 * SECOND, "by the deadline, not after {took:?}");
    }
    assert!(unavailable >= 4, "only {unavailable} of 6 knew that nothing was written");
    // The other connection is not blocked: what it does goes on.
    provider.ping().await.unwrap();
    tokio::task::block_in_place(|| server.ctl(&["set_vm_memory_high_watermark", "0.9"]));
    assert!(within(provider, &queue, "after", 20 * SECOND).await.is_accepted());
    let plain = Plain::open_at(&server.url()).await;
    let accepted = ["before", "after"].map(str::to_owned).into();
    expect_all(&plain, &plain.ready(&queue, 1), &accepted, &unknown).await;
}

/// The broker is killed and comes back: what it had confirmed is there, and publishing goes on.
/// A broker that says nothing takes no longer than the publisher has, whatever there is to declare first.
async fn hung(server: &Server, provider: &RabbitProvider) {
    let late = PublishOptions { deadline: SECOND, ..PublishOptions::default() };
    let delayed = || job("delayed").edit(|job| job.not_before = Some(Env::system().now() + 3600 * SECOND));
    let known = queue("hung");
    assert!(within(provider, &known, "before", 10 * SECOND).await.is_accepted());
    server.hang();
    for (queue, job) in [(queue("unknown"), job("late")), (known.clone(), delayed())] {
        let began = Instant::now();
        let outcome = provider.publish(&queue, vec![job], &late).await.remove(0);
        let took = began.elapsed();
        assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcome:?}");
        assert!(took < 3 * SECOND, "{took:?}");
    }
    server.go_on();
    assert!(within(provider, &known, "after", 10 * SECOND).await.is_accepted());
}

async fn killed(mut server: Server, provider: &RabbitProvider) -> Server {
    let (queue, watched) = (queue("killed"), broker::queue("watched"));
    let consumer = provider.consumer(&watched, ConsumeOptions::new("worker", 10)).await.unwrap();
    let names: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let batch = names.iter().map(job).collect();
    let outcomes = provider.publish(&queue, batch, &PublishOptions::default()).await;
    assert!(outcomes.iter().all(PublishOutcome::is_accepted));
    // RabbitMQ 3.10 notes a new quorum queue on its disk a little later: one that is younger comes back unusable.
    sleep(3 * SECOND).await;
    tokio::task::block_in_place(|| server.kill());
    let away = within(provider, &queue, "away", SECOND).await;
    assert!(
        matches!(away, PublishOutcome::Rejected(Rejection::Unavailable(_)) | PublishOutcome::Unknown(_)),
        "{away:?}"
    );
    let server = tokio::task::spawn_blocking(move || {
        server.boot();
        server
    });
    let server = server.await.unwrap();
    let back = Instant::now();
    let plain = loop {
        match lapin::Connection::connect(&server.url(), lapin::ConnectionProperties::default()).await {
            Ok(_) => break Plain::open_at(&server.url()).await,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    };
    let answers = Instant::now();
    let after = within(provider, &queue, "after", 30 * SECOND).await;
    assert!(after.is_accepted(), "{after:?} after {:?}", answers.elapsed());
    assert!(
        answers.elapsed() < 5 * SECOND,
        "{:?} after the broker answered ({:?} after its port)",
        answers.elapsed(),
        back.elapsed()
    );
    consumes_again(provider, &*consumer, &watched, answers).await;
    consumer.close(SECOND).await;
    let mut accepted: HashSet<String> = names.into_iter().collect();
    accepted.insert("after".into());
    expect_all(&plain, &plain.ready(&queue, 1), &accepted, &HashSet::from(["away".to_owned()])).await;
    server
}

/// A user who may not do what the provider needs is told so, and what it needs.
async fn denied(server: &Server) {
    tokio::task::block_in_place(|| {
        server.ctl(&["add_user", "reader", "secret"]);
        server.ctl(&["set_permissions", "reader", "^$", "^$", ".*"]);
    });
    let mut options = options(&server.url());
    (options.user, options.password) = ("reader".into(), "secret".into());
    let provider = RabbitProvider::connect(options, &Env::system()).await.unwrap();
    let queue = queue("denied");
    let outcome = within(&provider, &queue, "x", 10 * SECOND).await;
    let PublishOutcome::Rejected(Rejection::Denied(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.code(), ErrorCode::Denied, "{error}");
    assert!(error.message().contains("permission"), "{error}");
    // Who may read a queue, and not delete it, leaves in it what is there.
    let owner = connect_once_up(server).await;
    assert!(within(&owner, &queue, "stays", 10 * SECOND).await.is_accepted());
    assert_eq!(provider.drop_queue(&queue, false).await.map_err(|error| error.code()), Err(ErrorCode::Denied));
    let plain = Plain::open_at(&server.url()).await;
    let name = plain.ready(&queue, 1);
    let end = Instant::now() + 5 * SECOND;
    while plain.depth(&name).await != Some(1) {
        assert!(Instant::now() < end, "what was in the queue is gone");
        sleep(Duration::from_millis(50)).await;
    }
    owner.drop_queue(&queue, false).await.unwrap();
    owner.close().await.unwrap();
    provider.close().await.unwrap();
}

/// Those that gave up wait for nothing any more, and neither does the close.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_waits_for_no_broker_that_is_away() {
    if !server::is_installed() {
        return;
    }
    let mut server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let provider = Arc::new(connect_once_up(&server).await);
    let queue = queue("away");
    assert!(within(&provider, &queue, "first", 10 * SECOND).await.is_accepted());
    server.kill();
    while provider.ping().await.is_ok() {
        sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..5 {
        let outcome = within(&provider, &queue, "late", Duration::from_millis(100)).await;
        assert!(!outcome.is_accepted(), "{outcome:?}");
    }
    let patient = {
        let (provider, queue) = (provider.clone(), queue.clone());
        tokio::spawn(async move { within(&provider, &queue, "patient", 600 * SECOND).await })
    };
    sleep(Duration::from_millis(200)).await;
    tokio::time::timeout(8 * SECOND, provider.close()).await.expect("it closes").unwrap();
    let outcome = tokio::time::timeout(SECOND, patient).await.expect("it is told").unwrap();
    assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcome:?}");
}
