#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
//! Delays on the ladder of a real broker: short ones by the clock, long ones by the rung in which they wait.

mod broker;

use std::time::Duration;

use broker::{Plain, connect, job, queue};
use futures_util::StreamExt as _;
use lapin::{
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use queue_core::{
    Env, Priority, QueueProvider as _, Timestamp,
    provider::{ConsumeOptions, PublishOptions, PublishOutcome, Rejection},
};
use queue_rabbitmq::RabbitProvider;

/// The prefix of the one test that listens to the rungs.
const TAPPED: &str = "tapped";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_delay_is_never_early_and_little_late() {
    let Some(provider) = connect("short").await else { return };
    let (env, queue, plain) = (Env::system(), queue("short"), Plain::open().await);
    let start = env.now();
    // Longer ones first: they do not stand before the shorter.
    let delays = [5_000u64, 3_000, 2_000, 1_500, 1_000, 200, 0];
    let batch = delays.map(|millis| {
        job(millis.to_string()).edit(|parts| parts.not_before = Some(start + Duration::from_millis(millis)))
    });
    for outcome in provider.publish(&queue, batch.to_vec(), &PublishOptions::default()).await {
        assert!(outcome.is_accepted(), "{outcome:?}");
    }
    let mut consumer = plain
        .channel
        .basic_consume(
            plain.ready(&queue, 1).into(),
            "".into(),
            BasicConsumeOptions { no_ack: true, ..Default::default() },
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.len() < delays.len() {
        let delivery = tokio::time::timeout(Duration::from_secs(15), consumer.next()).await.unwrap().unwrap().unwrap();
        let delay: u64 = String::from_utf8(delivery.data).unwrap().parse().unwrap();
        let after = start.until(env.now());
        let due = Duration::from_millis(delay);
        assert!(after >= due, "{delay} ms came early, after {after:?}");
        // Rounded up to seconds, and what a busy machine adds.
        assert!(after < due + Duration::from_millis(2_500), "{delay} ms came late, after {after:?}");
        seen.push(delay);
    }
    // What is due at once is beside the ladder, and its queue may be declared meanwhile.
    let whole: Vec<u64> =
        seen.iter().filter(|millis| **millis > 0).map(|millis: &u64| millis.div_ceil(1_000)).collect();
    assert!(whole.is_sorted(), "nothing waits behind a longer delay: {seen:?}");
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

/// RabbitMQ 4.x has two lanes in a quorum queue, by the message's priority, and looks for what has waited long enough in one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_priority_does_not_wait_behind_a_high_one_that_came_later() {
    let Some(provider) = connect("lanes").await else { return };
    let (env, queue) = (Env::system(), queue("lanes"));
    let delayed = |level: u8| {
        let due = env.now() + Duration::from_millis(3_900);
        job(level.to_string()).edit(|parts| {
            parts.priority = Priority::new(level).unwrap();
            parts.not_before = Some(due);
        })
    };
    let start = env.now();
    assert!(provider.publish(&queue, vec![delayed(1)], &PublishOptions::default()).await[0].is_accepted());
    // Both wait on the rung of four seconds; at the end of the first one's wait this has 3.5 s to go.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert!(provider.publish(&queue, vec![delayed(9)], &PublishOptions::default()).await[0].is_accepted());
    let consumer = provider.consumer(&queue, ConsumeOptions::new("lanes", 2)).await.unwrap();
    let got = consumer.fetch(1, Duration::from_secs(10)).await.unwrap().remove(0);
    let after = start.until(env.now());
    assert_eq!(got.envelope.priority.level(), 1);
    assert!(after < Duration::from_millis(6_500), "it came after {after:?}");
    consumer.close(Duration::from_secs(1)).await;
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

/// Each enters the ladder at its highest second, and its routing key says where it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_delay_takes_the_right_way() {
    let Some(url) = broker::url() else { return };
    // On a ladder of its own, whose tap sees nothing of the other tests, and is in nobody's way.
    let mut options = broker::options(&url);
    options.prefix = TAPPED.into();
    let provider = RabbitProvider::connect(options, &Env::system()).await.unwrap();
    let (env, queue, plain) = (Env::system(), queue("long"), Plain::open().await);
    // The ladder is there after the first delay; then the rungs are listened to.
    let now = env.now();
    let delay = |seconds: u64, now: Timestamp| {
        // Half a second of room, so that the time that passes meanwhile does not change the number of whole seconds.
        let due = now + Duration::from_millis(seconds * 1_000 - 500);
        job(seconds.to_string()).edit(|parts| parts.not_before = Some(due))
    };
    let day = 86_400;
    let longest = delay(30 * day, now);
    assert!(provider.publish(&queue, vec![longest], &PublishOptions::default()).await[0].is_accepted());
    let tap = plain
        .channel
        .queue_declare(
            "".into(),
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() },
            FieldTable::default(),
        )
        .await
        .unwrap();
    for rung in 0..22 {
        let exchange = format!("{TAPPED}.v1.delay.{rung:02}");
        // What enters here, and what passes: the pattern takes all.
        plain
            .channel
            .queue_bind(
                tap.name().clone(),
                exchange.as_str().into(),
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
    }
    for (seconds, rung) in [(10, 3), (60, 5), (100, 6), (3_600, 11), (day, 16), (7 * day, 19), (30 * day, 21)] {
        let outcomes = provider.publish(&queue, vec![delay(seconds, env.now())], &PublishOptions::default()).await;
        assert!(outcomes[0].is_accepted(), "{outcomes:?}");
        let entry = loop {
            // Rungs that it passes by hand it to their exchanges' taps too: the first is where it entered.
            let message = plain.take(tap.name().as_str()).await;
            match message {
                Some(message) if message.data == seconds.to_string().into_bytes() => break message,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let bits: String = entry.routing_key.as_str().split('.').take(28).collect();
        assert_eq!(u64::from_str_radix(&bits, 2).unwrap(), seconds);
        assert_eq!(entry.exchange.as_str(), format!("{TAPPED}.v1.delay.{rung:02}"));
        assert!(bits.trim_start_matches('0').len() == rung + 1);
    }
    for rung in 0..22 {
        holds_for_its_time(&plain, rung).await;
    }
    let ever = Timestamp::from_millis(env.now().as_millis() + (1 << 29) * 1_000);
    let batch = vec![job("ever").edit(|parts| parts.not_before = Some(ever))];
    let outcomes = provider.publish(&queue, batch, &PublishOptions::default()).await;
    assert!(matches!(outcomes[0], PublishOutcome::Rejected(Rejection::DelayTooLong { .. })), "{outcomes:?}");
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

/// The broker refuses to be told other arguments of a queue than it has: a rung's are that it holds each for 2^rung seconds, and hands it
/// on to the exchange below. With the way through the exchanges, which its routing key says, a delay is the sum of its rungs.
async fn holds_for_its_time(plain: &Plain, rung: u32) {
    let below = rung.checked_sub(1).map_or_else(|| "due".to_owned(), |below| format!("delay.{below:02}"));
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(2_i64.pow(rung) * 1_000));
    arguments.insert("x-dead-letter-exchange".into(), text(&format!("{TAPPED}.v1.{below}")));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    let channel = plain.connection.create_channel().await.unwrap();
    let name = format!("{TAPPED}.v1.delay.{rung:02}");
    channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
}

/// A job that comes due for a queue that is gone stands in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_due_for_a_dropped_queue_is_put_aside() {
    let Some(provider) = connect("dropped").await else { return };
    let (env, gone, stays, plain) = (Env::system(), queue("gone"), queue("stays"), Plain::open().await);
    let due = env.now() + Duration::from_millis(1_500);
    let later = |name: &str| job(name).edit(|parts| parts.not_before = Some(due));
    // More than the broker hands on from a rung before it waits for their confirms.
    let many = (0..100).map(|_| later("gone")).collect();
    let outcomes = provider.publish(&gone, many, &PublishOptions::default()).await;
    assert!(outcomes.iter().all(PublishOutcome::is_accepted));
    provider.drop_queue(&gone, false).await.unwrap();
    assert!(provider.publish(&stays, vec![later("stays")], &PublishOptions::default()).await[0].is_accepted());
    let start = env.now();
    while plain.take(&plain.ready(&stays, 1)).await.is_none() {
        assert!(start.until(env.now()) < Duration::from_secs(10), "it waits behind those of the dropped queue");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    provider.drop_queue(&stays, false).await.unwrap();
    provider.close().await.unwrap();
}

/// Many delays at once: none early, none lost, none behind another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_delays_do_not_hold_each_other_up() {
    let Some(provider) = connect("mixed").await else { return };
    let (env, queue, plain) = (Env::system(), queue("mixed"), Plain::open().await);
    let count = 2_000u64;
    let batch: Vec<_> = (0..count)
        .map(|n| {
            let due = env.now() + Duration::from_millis(n * 7_919 % 6_000);
            job(due.as_millis().to_string()).edit(|parts| parts.not_before = Some(due))
        })
        .collect();
    for outcome in provider.publish(&queue, batch, &PublishOptions::default()).await {
        assert!(outcome.is_accepted(), "{outcome:?}");
    }
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let ready = plain.ready(&queue, 1);
    let mut consumer =
        plain.channel.basic_consume(ready.into(), "".into(), options, FieldTable::default()).await.unwrap();
    let mut latest = Duration::ZERO;
    for _ in 0..count {
        let delivery = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await.unwrap().unwrap().unwrap();
        let due = Timestamp::from_millis(String::from_utf8(delivery.data).unwrap().parse().unwrap());
        assert!(env.now() >= due, "early");
        latest = latest.max(due.until(env.now()));
    }
    assert!(latest < Duration::from_secs(5), "one was {latest:?} late");
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}
