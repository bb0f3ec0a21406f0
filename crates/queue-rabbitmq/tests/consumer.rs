//! What a consumer lives through: lost connections, lost queues, and a broker that sends what it was allowed to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod broker;

use std::{sync::Arc, time::Duration};

use broker::{Plain, job};
use futures_util::FutureExt as _;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use queue_core::{
    Consumer, Envelope, ErrorCode, JobError, QueueName, QueueProvider as _, QueueSpec,
    job::Priority,
    provider::{
        Beat, BeatOutcome, ConsumeOptions, DeadFilter, Delivery, Disposition, FollowUp, PublishOptions, Redrive,
        RedriveReport, SettleOutcome, Settlement,
    },
};
use queue_rabbitmq::RabbitProvider;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

struct Rig {
    provider: RabbitProvider,
    queue: QueueName,
}

impl Rig {
    async fn new(name: &str) -> Option<Self> {
        let provider = broker::connect(name).await?;
        let queue = broker::queue(name);
        provider.declare(&QueueSpec::new(queue.clone())).await.unwrap();
        Some(Self { provider, queue })
    }

    async fn publish(&self, jobs: Vec<Envelope>) {
        let outcomes = self.provider.publish(&self.queue, jobs, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{outcomes:?}");
    }

    async fn consumer(&self, outstanding: usize) -> Arc<dyn Consumer> {
        self.provider.consumer(&self.queue, ConsumeOptions::new("test", outstanding)).await.unwrap()
    }

    async fn end(self) {
        self.provider.drop_queue(&self.queue, false).await.unwrap();
        self.provider.close().await.unwrap();
    }
}

async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let (mut got, end) = (Vec::new(), Instant::now() + PATIENCE);
    while got.len() < count {
        assert!(Instant::now() < end, "{} of {count} came", got.len());
        match consumer.fetch(count - got.len(), Duration::from_secs(1)).await {
            Ok(more) => got.extend(more),
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    got
}

fn complete(delivery: &Delivery) -> Settlement {
    Settlement::new(delivery.receipt, Disposition::Complete { result: None })
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.envelope.payload).into_owned()
}

async fn settled(consumer: &Arc<dyn Consumer>, deliveries: &[Delivery]) {
    let all: Vec<Settlement> = deliveries.iter().map(complete).collect();
    let outcomes = consumer.settle(&all).await;
    assert!(outcomes.iter().all(SettleOutcome::is_settled), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_outlives_its_connection_and_old_receipts_do_nothing() {
    let Some(rig) = Rig::new("outlives").await else { return };
    rig.publish(vec![job("a"), job("b")]).await;
    let consumer = rig.consumer(5).await;
    let before = take(&consumer, 2).await;
    settled(&consumer, &before[..1]).await;
    let repeated = consumer.settle(&[complete(&before[0])]).await;
    assert!(matches!(repeated[..], [SettleOutcome::AlreadySettled]), "{repeated:?}");
    // An acknowledgement is sent, and nothing confirms it: what is still on its way is cut off too.
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.provider.cut();
    let after = take(&consumer, 1).await;
    assert_eq!((text(&after[0]), after[0].redelivered, after[0].started_before), (text(&before[1]), true, 1));
    assert_ne!(after[0].receipt, before[1].receipt);
    // Of the session before nobody knows anything any more, also not what was settled in it.
    let stale = consumer.settle(&[complete(&before[0]), complete(&before[1])]).await;
    assert!(matches!(stale[..], [SettleOutcome::LeaseLost, SettleOutcome::LeaseLost]), "{stale:?}");
    let beats = consumer.heartbeat(&[before[1].receipt, after[0].receipt].map(|one| Beat::extend(one, PATIENCE))).await;
    assert!(matches!(beats[..], [BeatOutcome::Lost, BeatOutcome::Held(_)]), "{beats:?}");
    settled(&consumer, &after).await;
    rig.publish(vec![job("c")]).await;
    let last = take(&consumer, 1).await;
    assert_eq!(text(&last[0]), "c");
    settled(&consumer, &last).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_band_whose_queue_is_gone_silences_no_other() {
    let Some(rig) = Rig::new("band").await else { return };
    let consumer = rig.consumer(5).await;
    let plain = Plain::open().await;
    plain.delete(&plain.ready(&rig.queue, 3)).await;
    for n in 0..3 {
        rig.publish(vec![job(n.to_string())]).await;
        let end = Instant::now() + PATIENCE;
        let got = loop {
            assert!(Instant::now() < end, "nothing came");
            match consumer.fetch(1, Duration::from_secs(1)).await {
                Ok(got) if !got.is_empty() => break got,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        };
        assert_eq!(text(&got[0]), n.to_string());
        settled(&consumer, &got).await;
    }
    rig.end().await;
}

fn ranked(payload: &str, level: u8) -> Envelope {
    job(payload).edit(|parts| parts.priority = Priority::new(level).unwrap())
}

/// Whoever finds a part of a queue missing makes it again: who consumes, and who publishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_band_that_was_removed_by_hand_is_made_again() {
    let Some(rig) = Rig::new("removed").await else { return };
    let (consumer, plain) = (rig.consumer(5).await, Plain::open().await);
    for (band, level) in [(0, 1), (2, 10), (3, 15)] {
        let name = plain.ready(&rig.queue, band);
        plain.delete(&name).await;
        let end = Instant::now() + PATIENCE;
        while plain.depth(&name).await.is_none() {
            assert!(Instant::now() < end, "band {band} stays away");
            sleep(Duration::from_millis(50)).await;
        }
        rig.publish(vec![ranked("urgent", level)]).await;
        let got = take(&consumer, 1).await;
        assert_eq!(text(&got[0]), "urgent");
        settled(&consumer, &got).await;
    }
    consumer.close(PATIENCE).await;
    // Also by one that declared nothing, and found the queue as it stood.
    let other = broker::connect("other").await.unwrap();
    for _ in 0..2 {
        let outcomes = other.publish(&rig.queue, vec![ranked("urgent", 15)], &PublishOptions::default()).await;
        assert!(outcomes[0].is_accepted(), "{outcomes:?}");
        plain.delete(&plain.ready(&rig.queue, 3)).await;
    }
    other.close().await.unwrap();
    rig.end().await;
}

/// Who does not know how a queue was declared does not make its parts again, and goes on with those it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_declared_otherwise_is_used_without_the_band_that_was_removed() {
    let Some(other) = broker::connect("otherwise").await else { return };
    let (owner, queue, plain) =
        (broker::connect("owner").await.unwrap(), broker::queue("otherwise"), Plain::open().await);
    let mut spec = QueueSpec::new(queue.clone());
    spec.max_deliveries += 1;
    owner.declare(&spec).await.unwrap();
    plain.delete(&plain.ready(&queue, 3)).await;
    for (level, accepted) in [(5, true), (15, false), (5, true)] {
        let outcomes = other.publish(&queue, vec![ranked("x", level)], &PublishOptions::default()).await;
        assert_eq!(outcomes[0].is_accepted(), accepted, "{outcomes:?}");
    }
    owner.drop_queue(&queue, false).await.unwrap();
    owner.close().await.unwrap();
    other.close().await.unwrap();
}

/// A queue that is dropped as a whole stays so, whoever still consumes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_queue_is_not_made_again_by_who_consumes_it() {
    let Some(rig) = Rig::new("stays").await else { return };
    let (consumer, plain) = (rig.consumer(5).await, Plain::open().await);
    rig.provider.drop_queue(&rig.queue, false).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    for band in 0..4 {
        assert_eq!(plain.depth(&plain.ready(&rig.queue, band)).await, None, "band {band}");
    }
    assert_eq!(consumer.fetch(1, Duration::ZERO).await.unwrap_err().code(), ErrorCode::NotFound);
    rig.end().await;
}

/// A queue that is being made, or has no leader for now, refuses what it will take a little later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_settlement_is_offered_again_where_it_is_refused_for_a_moment() {
    let Some(rig) = Rig::new("moment").await else { return };
    let (consumer, plain) = (rig.consumer(5).await, Plain::open().await);
    rig.publish(vec![job("dies"), ranked("again", 15)]).await;
    let dispositions = |delivery: &Delivery| match text(delivery).as_str() {
        "dies" => Disposition::DeadLetter { error: JobError::custom("BAD", "no use") },
        _ => Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") },
    };
    let got = take(&consumer, 2).await;
    let batch: Vec<_> = got.iter().map(|one| Settlement::new(one.receipt, dispositions(one))).collect();
    let dead = plain.dead(&rig.queue);
    plain.fill(&dead, 1).await;
    let relent = async {
        sleep(Duration::from_millis(400)).await;
        plain.make_room(&dead, 1).await;
    };
    let (outcomes, ()) = tokio::join!(consumer.settle(&batch), relent);
    assert!(outcomes.iter().all(SettleOutcome::is_settled), "{outcomes:?}");
    assert_eq!(plain.depth(&dead).await, Some(1));
    let again = take(&consumer, 1).await;
    assert_eq!((text(&again[0]).as_str(), again[0].attempt), ("again", 2));
    settled(&consumer, &again).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_out_stays_within_twice_the_demand_over_all_bands() {
    let Some(rig) = Rig::new("bounded").await else { return };
    let ranked = |level: u8| job("x").edit(|parts| parts.priority = Priority::new(level).unwrap());
    rig.publish([2, 6, 11, 15].into_iter().flat_map(|level| (0..50).map(move |_| level)).map(ranked).collect()).await;
    let plain = Plain::open().await;
    let consumer = rig.consumer(10).await;
    for (demand, most) in [(10, 20), (4, 8), (30, 60)] {
        // What the subscriptions before brought is given back first.
        consumer.demand(0).await.unwrap();
        consumer.demand(demand).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        let out = 200 - all_ready(&rig, &plain).await;
        assert!((demand as u32..=most).contains(&out), "{out} are out for a demand of {demand}");
    }
    consumer.demand(0).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(all_ready(&rig, &plain).await, 200, "without demand nothing is kept");
    consumer.close(Duration::ZERO).await;
    rig.end().await;
}

async fn all_ready(rig: &Rig, plain: &Plain) -> u32 {
    let mut ready = 0;
    for band in 0..4 {
        ready += plain.depth(&plain.ready(&rig.queue, band)).await.unwrap();
    }
    ready
}

/// Each change cancels subscriptions, and the next ones would bring as much again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cancelled_subscriptions_brought_counts_as_out() {
    let Some(rig) = Rig::new("carried").await else { return };
    rig.publish([2, 6, 11, 15].into_iter().flat_map(|level| (0..50).map(move |_| ranked("x", level))).collect()).await;
    let plain = Plain::open().await;
    let consumer = rig.consumer(10).await;
    let mut running = take(&consumer, 10).await;
    for demand in [9, 10, 8, 10, 7, 10] {
        consumer.demand(demand).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        // A smaller demand takes back nothing that is with a worker. RabbitMQ counts none where a band's leader is busy, now and then.
        let mut out = 200;
        for _ in 0..10 {
            out = 200 - all_ready(&rig, &plain).await;
            if out <= 20 {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        assert!(out <= 20, "{out} are out for a demand of {demand}");
    }
    // And what ended makes room again, to the last one.
    let mut ended = 0;
    while ended < 200 {
        settled(&consumer, &running).await;
        ended += running.len();
        running = if ended < 200 { take(&consumer, 1).await } else { Vec::new() };
    }
    consumer.close(Duration::ZERO).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settled_in_any_order_every_one_is_acknowledged_once() {
    let Some(rig) = Rig::new("order").await else { return };
    rig.publish((0..500).map(|n| job(n.to_string())).collect()).await;
    let consumer = rig.consumer(500).await;
    let mut got = take(&consumer, 500).await;
    // A fixed shuffle: neither order nor reverse order.
    got.sort_by_key(|delivery| delivery.receipt.slot * 7_919 % 503);
    let mut tasks = tokio::task::JoinSet::new();
    for part in got.chunks(37) {
        let (consumer, part) = (Arc::clone(&consumer), part.to_vec());
        tasks.spawn(async move { settled(&consumer, &part).await });
    }
    tasks.join_all().await;
    // A tag named twice would have ended the channel, and brought some of them again.
    let more = consumer.fetch(1, Duration::from_millis(500)).await.unwrap();
    assert!(more.is_empty(), "{:?}", more.iter().map(text).collect::<Vec<_>>());
    let report = consumer.close(Duration::from_secs(5)).await;
    assert_eq!((report.returned, report.still_open), (0, 0));
    let next = rig.consumer(1).await;
    assert!(next.fetch(1, Duration::from_millis(500)).await.unwrap().is_empty());
    rig.end().await;
}

/// Such a message would take up its band's only place, and the band would hear nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_neither_run_nor_named_nor_marked_is_buried_and_in_nobodys_way() {
    let Some(provider) = broker::connect("poison").await else { return };
    let rig = Rig { provider, queue: broker::queue("poison") };
    let mut spec = QueueSpec::new(rig.queue.clone());
    spec.max_encoded_len = 2_000;
    rig.provider.declare(&spec).await.unwrap();
    let plain = Plain::open().await;
    let ready = plain.ready(&rig.queue, 1);
    // Too large to be published anew with an id.
    plain.publish(&ready, BasicProperties::default(), &[b'x'; 5_000]).await;
    // It says that it is ours and is not, and fills its frame, so that nothing can be noted beside what it has.
    let mut headers = FieldTable::default();
    headers.insert("much".into(), AMQPValue::LongString("m".repeat(130_900).into()));
    let marked = BasicProperties::default().with_app_id("queue/x".into()).with_headers(headers);
    plain.publish(&ready, marked, b"bytes").await;
    rig.publish(vec![job("after")]).await;
    let consumer = rig.consumer(1).await;
    let got = take(&consumer, 1).await;
    assert_eq!(text(&got[0]), "after");
    settled(&consumer, &got).await;
    assert_eq!(plain.depth(&plain.dead(&rig.queue)).await, Some(2));
    let page = rig.provider.admin().dead(&rig.queue, &DeadFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.items.len(), 2);
    consumer.close(Duration::ZERO).await;
    rig.end().await;
}

/// Whoever gives up half-way leaves a delivery that can be settled again, and a consumer that can be closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_that_is_dropped_half_way_leaves_its_delivery_free() {
    let Some(rig) = Rig::new("dropped").await else { return };
    rig.publish(vec![job("a"), job("b")]).await;
    let consumer = rig.consumer(5).await;
    let got = take(&consumer, 2).await;
    let bury = |delivery: &Delivery| {
        Settlement::new(delivery.receipt, Disposition::DeadLetter { error: JobError::custom("BAD", "no use") })
    };
    let batch = [bury(&got[0])];
    assert!(consumer.settle(&batch).now_or_never().is_none(), "it was to be under way yet");
    let again = timeout(PATIENCE, consumer.settle(&batch)).await.expect("the delivery is free again");
    assert!(again[0].is_settled(), "{again:?}");
    // One that is published by the time that its caller goes is ended, or free: either way nobody has it any more.
    let batch = [bury(&got[1])];
    let _ = timeout(Duration::from_millis(20), consumer.settle(&batch)).await;
    let again = timeout(PATIENCE, consumer.settle(&batch)).await.expect("the delivery is free again");
    assert!(matches!(again[..], [SettleOutcome::Settled | SettleOutcome::AlreadySettled]), "{again:?}");
    assert_eq!(consumer.close(Duration::ZERO).await.still_open, 0);
    rig.end().await;
}

/// One follow-up of the two is taken, the other refused: the broker keeps the job all the same, and the same settlement works later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follow_up_that_cannot_be_published_leaves_its_job_unacknowledged() {
    let Some(rig) = Rig::new("parent").await else { return };
    let child = broker::queue("child");
    rig.provider.declare(&QueueSpec::new(child.clone())).await.unwrap();
    rig.publish(vec![job("parent")]).await;
    let consumer = rig.consumer(5).await;
    let with_follow_ups = |delivery: &Delivery| {
        let follow_up = |queue: &QueueName, text| FollowUp { queue: queue.clone(), envelope: job(text) };
        let then = vec![follow_up(&rig.queue, "other"), follow_up(&child, "child")];
        Settlement { then, ..complete(delivery) }
    };
    let plain = Plain::open().await;
    let home = plain.ready(&child, 1);
    plain.refuse(&home).await;
    let before = take(&consumer, 1).await;
    let outcomes = consumer.settle(&[with_follow_ups(&before[0])]).await;
    assert!(matches!(outcomes[..], [SettleOutcome::NotSettled { then_index: Some(1), .. }]), "{outcomes:?}");
    let is_held = async || {
        let beats = consumer.heartbeat(&[Beat::extend(before[0].receipt, PATIENCE)]).await;
        matches!(beats[..], [BeatOutcome::Held(_)])
    };
    assert!(is_held().await);
    // What was acknowledged does not come back over another connection. What is on its way has time to get there.
    sleep(Duration::from_millis(500)).await;
    rig.provider.cut();
    // What waits here came over the old one.
    while is_held().await {
        sleep(Duration::from_millis(5)).await;
    }
    let mut after = take(&consumer, 2).await;
    after.sort_by_key(text);
    assert_eq!(after.iter().map(text).collect::<Vec<_>>(), ["other", "parent"]);
    assert_eq!(after[1].envelope.id, before[0].envelope.id);
    plain.delete(&home).await;
    let outcomes = consumer.settle(&[complete(&after[0]), with_follow_ups(&after[1])]).await;
    assert!(outcomes.iter().all(SettleOutcome::is_settled), "{outcomes:?}");
    assert_eq!(plain.depth(&home).await, Some(1));
    consumer.close(Duration::ZERO).await;
    rig.provider.drop_queue(&child, false).await.unwrap();
    rig.end().await;
}

/// A letter that was put there by hand, or before the queue was declared anew with a lower limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_can_never_be_published_is_in_no_others_way() {
    let Some(provider) = broker::connect("stuck").await else { return };
    let rig = Rig { provider, queue: broker::queue("stuck") };
    let mut spec = QueueSpec::new(rig.queue.clone());
    spec.max_encoded_len = 2_000;
    rig.provider.declare(&spec).await.unwrap();
    let plain = Plain::open().await;
    let dead = plain.dead(&rig.queue);
    plain.publish(&dead, BasicProperties::default(), &[b'x'; 5_000]).await;
    plain.publish(&dead, BasicProperties::default(), b"small").await;
    let admin = rig.provider.admin();
    let report = admin.redrive(&rig.queue, &Redrive::all()).await.unwrap();
    assert_eq!((report.matched, report.redriven), (2, 1));
    assert_eq!(plain.depth(&dead).await, Some(1));
    assert!(admin.redrive(&rig.queue, &Redrive::all()).await.is_err(), "of the last one it is said why");
    assert_eq!(plain.depth(&dead).await, Some(1));
    let consumer = rig.consumer(1).await;
    let got = take(&consumer, 1).await;
    assert_eq!(text(&got[0]), "small");
    settled(&consumer, &got).await;
    consumer.close(Duration::ZERO).await;
    rig.end().await;
}

/// The second letter's band refuses it for longer than anybody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_that_ends_part_way_tells_what_it_did_and_loses_nothing() {
    let Some(rig) = Rig::new("part-way").await else { return };
    rig.publish(vec![ranked("first", 6)]).await;
    let consumer = rig.consumer(1).await;
    let died = || Disposition::DeadLetter { error: JobError::custom("FATAL", "as planned") };
    let bury = async || {
        let job = take(&consumer, 1).await;
        let outcomes = consumer.settle(&[Settlement::new(job[0].receipt, died())]).await;
        assert!(outcomes[0].is_settled(), "{outcomes:?}");
    };
    bury().await;
    rig.publish(vec![ranked("second", 15)]).await;
    bury().await;
    consumer.close(Duration::ZERO).await;
    let plain = Plain::open().await;
    plain.refuse(&plain.ready(&rig.queue, 3)).await;
    let admin = rig.provider.admin();
    let error = admin.redrive(&rig.queue, &Redrive::all()).await.unwrap_err();
    assert!(error.is_retryable() && error.message().starts_with("1 of 2 dead jobs"), "{error}");
    let report = RedriveReport::before(&error).expect("what was done before is told");
    assert_eq!((report.matched, report.redriven), (2, 1));
    assert_eq!(error.queue(), Some(&rig.queue));
    let end = Instant::now() + PATIENCE;
    while plain.depth(&plain.dead(&rig.queue)).await != Some(1) {
        assert!(Instant::now() < end, "the second is not where it was");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(plain.depth(&plain.ready(&rig.queue, 1)).await, Some(1));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_consumed_is_dropped_only_with_everything_in_it() {
    let Some(rig) = Rig::new("consumed").await else { return };
    rig.publish(vec![job("runs")]).await;
    let consumer = rig.consumer(5).await;
    let running = take(&consumer, 1).await;
    let refused = rig.provider.drop_queue(&rig.queue, true).await.unwrap_err();
    assert_eq!((refused.code(), refused.queue()), (ErrorCode::Conflict, Some(&rig.queue)), "{refused}");
    assert!(refused.message().contains("consumes"), "{refused}");
    // It is whole: all bands are there, and the job may be settled.
    let plain = Plain::open().await;
    for band in 0..4 {
        assert_eq!(plain.depth(&plain.ready(&rig.queue, band)).await, Some(0), "band {band}");
    }
    settled(&consumer, &running).await;
    rig.publish(vec![job("next")]).await;
    settled(&consumer, &take(&consumer, 1).await).await;
    consumer.close(Duration::ZERO).await;
    let end = Instant::now() + PATIENCE;
    while let Err(error) = rig.provider.drop_queue(&rig.queue, true).await {
        assert!(error.code() == ErrorCode::Conflict && Instant::now() < end, "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    for band in 0..4 {
        assert_eq!(plain.depth(&plain.ready(&rig.queue, band)).await, None, "band {band}");
    }
    rig.end().await;
}

/// Nobody declared the queue, so that nobody may say how its bands are to be; its dead letters are as everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_find_a_home_where_it_was_removed() {
    let Some(provider) = broker::connect("homeless").await else { return };
    let rig = Rig { provider, queue: broker::queue("homeless") };
    rig.publish(vec![job("a")]).await;
    let consumer = rig.consumer(1).await;
    let got = take(&consumer, 1).await;
    let plain = Plain::open().await;
    plain.delete(&plain.dead(&rig.queue)).await;
    let bury = Disposition::DeadLetter { error: JobError::custom("BAD", "no use") };
    let outcomes = consumer.settle(&[Settlement::new(got[0].receipt, bury)]).await;
    assert!(outcomes[0].is_settled(), "{outcomes:?}");
    assert_eq!(plain.depth(&plain.dead(&rig.queue)).await, Some(1));
    consumer.close(Duration::ZERO).await;
    rig.end().await;
}

/// The broker keeps no declarations, and a default is none.
#[tokio::test]
async fn a_queue_that_was_only_used_is_not_told_as_declared() {
    let Some(rig) = Rig::new("told").await else { return };
    let Some(other) = broker::connect("told").await else { return };
    let consumer = other.consumer(&rig.queue, ConsumeOptions::new("test", 1)).await.unwrap();
    assert!(other.admin().spec(&rig.queue).await.unwrap().is_none(), "by who only uses it");
    assert!(rig.provider.admin().spec(&rig.queue).await.unwrap().is_some(), "by who declared it");
    consumer.close(Duration::from_secs(1)).await;
    other.close().await.unwrap();
    rig.end().await;
}
