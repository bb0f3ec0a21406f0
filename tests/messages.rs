//! Message mode, over memory and every broker's shape: what is sent is received, once by one of many, and never lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod faulty;
mod topicless;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use faulty::{Faults, Faulty};
use futures_util::{StreamExt, future::join_all};
use queue_core::{
    Env, Error, ErrorCode, Failure, Job, JobContext, JobId, JobScheduler, Priority, QueueName, QueueProvider,
    QueueSpec, RetryPolicy, Timestamp,
    job::ContentType,
    lifecycle::JobState,
    message::{Destination, Inbox, Message, Payload, RawMessage, Received},
    provider::{Cancel, DeadFilter, DeadJob, Support},
    scheduler::{Route, Submitted},
    worker::DrainReport,
};
use queue_manager::QueueManager;
use queue_memory::MemoryProvider;
use queue_testkit::models::{Broker, LogModel, PushModel, Shape, VisibilityModel};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use topicless::Topicless;
use validator::{Validate, ValidationErrors};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
struct Order {
    #[validate(range(max = 1_000_000))]
    number: u32,
}

impl Message for Order {
    const KIND: &'static str = "order.placed";

    fn check(&self) -> Result<(), ValidationErrors> {
        self.validate()
    }
}

const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

fn order(number: u32) -> Order {
    Order { number }
}

fn orders() -> QueueName {
    QueueName::from_static("orders")
}

fn env() -> Env {
    Env::seeded(Timestamp::from_millis(1_700_000_000_000), 5)
}

fn memory() -> JobScheduler {
    let env = env();
    JobScheduler::with_env(Arc::new(MemoryProvider::with_env(env.clone())), env)
}

/// Memory as a broker without topics.
fn topicless() -> JobScheduler {
    let env = env();
    JobScheduler::with_env(Arc::new(Topicless(MemoryProvider::with_env(env.clone()))), env)
}

fn shapes() -> [Shape; 3] {
    [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()]
}

fn on(shape: Shape) -> (Arc<Broker>, JobScheduler) {
    let env = env();
    let broker = Broker::new(env.clone(), shape);
    let queues = JobScheduler::with_env(broker.connect(), env);
    (broker, queues)
}

/// Memory and the three shapes, each with a queue `orders` whose messages are tried three times, 5 s apart.
async fn everywhere() -> Vec<JobScheduler> {
    let mut all = vec![memory()];
    all.extend(shapes().map(|shape| on(shape).1));
    for queues in &all {
        let mut spec = QueueSpec::new(orders());
        spec.retry = RetryPolicy::fixed(3, 5 * SECOND);
        queues.declare(spec).await.unwrap();
    }
    all
}

/// The same without the log: there a consumer that joins takes partitions from the others, whatever they have in hand, and
/// one that is not read keeps its own.
async fn everywhere_but_on_a_log() -> Vec<JobScheduler> {
    everywhere().await.into_iter().filter(|queues| queues.provider().scheme() != "model-log").collect()
}

async fn inbox(queues: &JobScheduler) -> Inbox<Order> {
    queues.inbox("orders").open().await.unwrap()
}

async fn number<M: Payload>(inbox: &Inbox<M>, wait: Duration) -> Option<Received<M>> {
    inbox.receive(wait).await.unwrap()
}

async fn dead(queues: &JobScheduler) -> Vec<DeadJob> {
    queues.admin().dead(&orders(), &DeadFilter::default(), None, 100).await.unwrap().items
}

fn lost(answer: Result<(), Error>) -> bool {
    answer.is_err_and(|error| error.code() == ErrorCode::LeaseLost)
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_received_with_all_that_rode_along_and_gone_once_acknowledged() {
    for queues in everywhere().await {
        let sent = queues
            .send("orders", &order(7))
            .correlation_id("cart-1")
            .metadata("source", "shop")
            .priority(Priority::HIGH)
            .await
            .unwrap();
        let inbox = inbox(&queues).await;
        let message = number(&inbox, SECOND).await.unwrap();
        assert_eq!((message.body(), message.id(), message.attempt()), (&order(7), sent.id(), 1));
        assert_eq!((message.kind().as_str(), message.queue()), ("order.placed", &orders()));
        assert_eq!((message.envelope().priority, message.is_redelivered()), (Priority::HIGH, false));
        let headers = message.envelope().headers().unwrap();
        assert_eq!((headers.correlation_id.as_deref(), &headers.metadata["source"][..]), (Some("cart-1"), "shop"));
        assert!(number(&inbox, NOW).await.is_none(), "it is in hand");
        message.ack().await.unwrap();
        // No lease that ended and no session brings it back.
        assert!(number(&inbox, 120 * SECOND).await.is_none());
        assert_eq!(inbox.close().await, DrainReport::default());
        assert!(queues.inbox::<Order>("orders").open().await.unwrap().receive(SECOND).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn priority_delay_and_time_to_live_are_those_of_jobs() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).priority(Priority::LOW).await.unwrap();
        queues.send("orders", &order(2)).priority(Priority::URGENT).await.unwrap();
        queues.send("orders", &order(3)).ttl(2 * SECOND).delay(3 * SECOND).await.unwrap();
        queues.send("orders", &order(4)).delay(10 * SECOND).await.unwrap();
        let inbox = inbox(&queues).await;
        let begun = Instant::now();
        for expected in [2, 1] {
            let message = number(&inbox, SECOND).await.unwrap();
            assert_eq!(message.body().number, expected, "{queues:?}");
            message.ack().await.unwrap();
        }
        let message = number(&inbox, 60 * SECOND).await.unwrap();
        assert_eq!(message.body().number, 4, "3 had outlived its time when it was due: {queues:?}");
        assert!(begun.elapsed() >= 10 * SECOND && begun.elapsed() < 12 * SECOND, "{:?}", begun.elapsed());
        message.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_negative_acknowledgement_is_retried_by_policy_then_dead() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = inbox(&queues).await;
        for attempt in 1..=3 {
            let begun = Instant::now();
            let message = number(&inbox, 60 * SECOND).await.unwrap();
            let waited = begun.elapsed() >= 5 * SECOND;
            assert_eq!((message.attempt(), waited), (attempt, attempt > 1));
            assert_eq!(message.is_last_attempt(), attempt == 3);
            message.nack(std::io::Error::other("the shelf is empty")).await.unwrap();
        }
        assert!(number(&inbox, 60 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        assert_eq!((dead.len(), dead[0].attempt, &dead[0].error.code[..]), (1, 3, "HANDLER_FAILED"));
        assert_eq!(dead[0].error.message, "the shelf is empty");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_delayed_released_or_rejected_by_hand() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = inbox(&queues).await;
        let after = async |attempt: u32, at_least: u64| {
            let begun = Instant::now();
            let message = number(&inbox, 600 * SECOND).await.unwrap();
            assert_eq!(message.attempt(), attempt);
            let waited = begun.elapsed();
            assert!(waited >= at_least as u32 * SECOND && waited < (at_least as u32 + 2) * SECOND, "{waited:?}");
            message
        };
        after(1, 0).await.nack_after(60 * SECOND, Failure::retry("later")).await.unwrap();
        after(2, 60).await.release(100 * SECOND).await.unwrap();
        after(2, 100).await.release(NOW).await.unwrap();
        after(2, 0).await.reject(Failure::retry("nonsense")).await.unwrap();
        assert!(number(&inbox, 600 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        assert_eq!((dead.len(), dead[0].attempt, &dead[0].error.message[..]), (1, 2, "nonsense"));

        queues.send("orders", &order(2)).await.unwrap();
        number(&inbox, SECOND).await.unwrap().nack(Failure::Cancel).await.unwrap();
        assert!(number(&inbox, 60 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_message_comes_back_soon_and_spends_nothing() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let (one, other) = (inbox(&queues).await, inbox(&queues).await);
        drop(number(&one, SECOND).await.unwrap());
        let begun = Instant::now();
        let message = number(&other, 60 * SECOND).await.unwrap();
        assert_eq!(message.attempt(), 1);
        // Not at once, which would spin, and long before the lease ends.
        assert!(begun.elapsed() >= SECOND && begun.elapsed() < 4 * SECOND, "{:?}", begun.elapsed());
        let (body, acker) = message.into_parts();
        assert_eq!(body, order(1));
        acker.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_its_consumers_ends() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = Arc::new(inbox(&queues).await);
        for _ in 0..3 {
            let inbox = Arc::clone(&inbox);
            let consumer = tokio::spawn(async move {
                let _message = number(&inbox, 60 * SECOND).await.unwrap();
                panic!("at number 1");
            });
            assert!(consumer.await.unwrap_err().is_panic());
        }
        assert!(number(&inbox, 60 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        assert_eq!((dead.len(), &dead[0].error.code[..]), (1, "HANDLER_PANICKED"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_inbox_held_is_delivered_elsewhere_and_its_acknowledgement_is_stale() {
    for queues in everywhere().await {
        queues.send_all("orders", &[order(1), order(2)]).await;
        let killed = inbox(&queues).await;
        let in_hand = number(&killed, SECOND).await.unwrap();
        drop(killed);
        assert!(lost(in_hand.ack().await), "nobody keeps its lease any more");
        let other = inbox(&queues).await;
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let message = number(&other, 120 * SECOND).await.unwrap();
            assert_eq!(message.attempt(), 1, "a lost lease is no failure");
            numbers.push(message.body().number);
            message.ack().await.unwrap();
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2]);
        assert!(number(&other, 120 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_consumers_die_ten_times_is_poison() {
    let queues = memory();
    queues.send("orders", &order(1)).await.unwrap();
    for death in 1.. {
        let inbox = inbox(&queues).await;
        let Some(message) = number(&inbox, 60 * SECOND).await else {
            assert_eq!(death, 11);
            break;
        };
        assert_eq!(message.is_redelivered(), death > 1);
        // The first delivery's start is known from its first heartbeat only.
        tokio::time::sleep(15 * SECOND).await;
        drop(inbox);
    }
    assert_eq!(dead(&queues).await[0].error.code, "POISON");
}

#[tokio::test(start_paused = true)]
async fn a_stale_acknowledgement_is_an_error_and_changes_nothing() {
    let env = env();
    let faults = Faults::default();
    let provider = MemoryProvider::with_env(env.clone());
    let faulty = Faulty::new(provider.clone(), faults.clone());
    let silent = JobScheduler::with_env(Arc::new(faulty), env.clone());
    let sound = JobScheduler::with_env(Arc::new(provider), env);
    silent.send("orders", &order(1)).timeout(3_600 * SECOND).await.unwrap();
    faults.heartbeat_hangs();
    let first = inbox(&silent).await;
    let stale = number(&first, SECOND).await.unwrap();
    let second = inbox(&sound).await;
    let fresh = number(&second, 120 * SECOND).await.expect("its lease ended");
    assert!(lost(stale.ack().await));
    assert_eq!(fresh.id(), fresh.envelope().id);
    fresh.ack().await.unwrap();

    // Where only the broker knows that the session is over, it refuses by its fence.
    for shape in shapes().into_iter().take(2) {
        let (broker, queues) = on(shape);
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = inbox(&queues).await;
        let stale = number(&inbox, SECOND).await.unwrap();
        broker.restart();
        assert!(lost(stale.ack().await));
        let fresh = number(&inbox, 60 * SECOND).await.expect("it is delivered again");
        fresh.ack().await.unwrap();
        assert!(number(&inbox, 60 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_and_lost_before_it_was_received_is_not_given_out() {
    for shape in shapes().into_iter().take(2) {
        let (broker, queues) = on(shape);
        queues.send_all("orders", &[1, 2, 3, 4].map(order)).await;
        let inbox = inbox(&queues).await;
        number(&inbox, SECOND).await.unwrap().ack().await.unwrap();
        broker.restart();
        // The next heartbeat tells.
        tokio::time::sleep(15 * SECOND).await;
        for _ in 0..3 {
            number(&inbox, 60 * SECOND).await.unwrap().ack().await.unwrap();
        }
        assert!(number(&inbox, 60 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_the_message_is_in_hand_until_its_timeout() {
    for queues in everywhere_but_on_a_log().await {
        queues.send("orders", &order(1)).timeout(600 * SECOND).await.unwrap();
        let (one, other) = (inbox(&queues).await, inbox(&queues).await);
        let message = number(&one, SECOND).await.unwrap();
        assert!(number(&other, 500 * SECOND).await.is_none(), "far beyond the lease of 30 s");
        message.ack().await.unwrap();

        queues.send("orders", &order(2)).timeout(40 * SECOND).await.unwrap();
        let message = number(&one, SECOND).await.unwrap();
        let begun = Instant::now();
        let again = number(&other, 120 * SECOND).await.unwrap();
        assert!(begun.elapsed() >= 45 * SECOND && begun.elapsed() < 50 * SECOND, "{:?}", begun.elapsed());
        assert_eq!(again.attempt(), 2);
        assert!(lost(message.ack().await));
        again.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_log_one_consumer_has_the_same_guarantees() {
    let (_broker, queues) = on(LogModel::default().into());
    let alone = queues.inbox::<Order>("orders").prefetch(2).drain_deadline(10 * SECOND).open().await.unwrap();
    queues.send("orders", &order(1)).timeout(600 * SECOND).await.unwrap();
    let message = number(&alone, SECOND).await.unwrap();
    assert!(number(&alone, 500 * SECOND).await.is_none());
    message.ack().await.unwrap();
    queues.send("orders", &order(2)).timeout(40 * SECOND).await.unwrap();
    let message = number(&alone, SECOND).await.unwrap();
    let again = number(&alone, 60 * SECOND).await.unwrap();
    assert_eq!(again.attempt(), 2);
    assert!(lost(message.ack().await));
    again.ack().await.unwrap();

    queues.send_all("orders", &[order(3), order(4), order(5)]).await;
    let (third, fourth) = (number(&alone, SECOND).await.unwrap(), number(&alone, SECOND).await.unwrap());
    assert!(number(&alone, SECOND).await.is_none(), "prefetch bounds what is in hand");
    fourth.ack().await.unwrap();
    number(&alone, SECOND).await.unwrap().ack().await.unwrap();
    assert_eq!(alone.close().await, DrainReport { done: 0, released: 0, aborted: 1 });
    assert!(lost(third.ack().await));
    assert_eq!(drained(&queues, "orders").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_dead_letter_and_the_next_one_is_received() {
    for queues in everywhere().await {
        let raw = |json: &'static str| RawMessage::new(Order::KIND, ContentType::Json, json).unwrap();
        let bad = [raw("{"), raw(r#"{"number":"seven"}"#), raw(r#"{"number":1000001}"#)];
        assert!(queues.send_all("orders", &bad).await.iter().all(Result::is_ok));
        queues.send("orders", &order(7)).await.unwrap();
        let inbox = inbox(&queues).await;
        let message = number(&inbox, SECOND).await.unwrap();
        assert_eq!(message.body(), &order(7));
        message.ack().await.unwrap();
        assert!(number(&inbox, 60 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        let told: Vec<_> = dead.iter().map(|dead| (&dead.error.code[..], dead.attempt)).collect();
        assert_eq!(told, [("VALIDATION", 1); 3]);
        assert!(dead.iter().any(|dead| dead.error.message.contains("number (range)")), "{dead:?}");
    }
    let refused = memory().send("orders", &order(1_000_001)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Validation);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_another_kind_waits_for_whoever_has_its_type() {
    for queues in everywhere_but_on_a_log().await {
        let other = RawMessage::json("order.cancelled", &9).unwrap();
        queues.send("orders", &other).await.unwrap();
        let typed = inbox(&queues).await;
        assert!(number(&typed, SECOND).await.is_none());
        let raw: Inbox<RawMessage> = queues.inbox("orders").open().await.unwrap();
        let message = number(&raw, 60 * SECOND).await.unwrap();
        assert_eq!((message.attempt(), message.body().decode::<u32>().unwrap()), (2, 9));
        assert_eq!(message.body().decode::<String>().unwrap_err().code(), ErrorCode::Validation);
        message.release(NOW).await.unwrap();
        assert!(number(&typed, 60 * SECOND).await.is_none());
        assert_eq!(dead(&queues).await[0].error.code, "NO_HANDLER");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_travel_as_they_are() {
    for queues in everywhere().await {
        let image = RawMessage::new("photo", ContentType::parse("image/png").unwrap(), vec![0, 159, 146, 150]).unwrap();
        queues.send("orders", &image).await.unwrap();
        let inbox: Inbox<RawMessage> = queues.inbox("orders").open().await.unwrap();
        let message = number(&inbox, SECOND).await.unwrap();
        assert_eq!(message.body(), &image);
        assert!(!format!("{image:?}{message:?}").contains("159"), "payloads are not shown");
        message.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_messages_go_to_three_competing_consumers_each_exactly_once() {
    for queues in everywhere().await {
        let numbers: Vec<_> = (0..10_000).map(order).collect();
        for answer in queues.send_all("orders", &numbers).await {
            answer.unwrap();
        }
        let consumer = async || {
            let inbox = queues.inbox::<Order>("orders").prefetch(50).open().await.unwrap();
            let mut got = Vec::new();
            loop {
                let batch = inbox.receive_batch(20, 10 * SECOND).await.unwrap();
                if batch.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                let (bodies, ackers): (Vec<_>, Vec<_>) = batch.into_iter().map(Received::into_parts).unzip();
                got.extend(bodies.iter().map(|body| body.number));
                for answer in join_all(ackers.into_iter().map(|acker| acker.ack())).await {
                    answer.unwrap();
                }
            }
            assert_eq!(inbox.close().await.aborted, 0);
            got
        };
        let (one, two, three) = tokio::join!(consumer(), consumer(), consumer());
        assert!(
            [&one, &two, &three].iter().all(|got| got.len() > 1_000),
            "{} {} {}",
            one.len(),
            two.len(),
            three.len()
        );
        let mut all = [one, two, three].concat();
        all.sort_unstable();
        assert_eq!(all, (0..10_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_several_threads_too_each_message_is_received_once() {
    let queues = JobScheduler::new(MemoryProvider::new());
    let numbers: Vec<_> = (0..5_000).map(order).collect();
    let inbox = Arc::new(queues.inbox::<Order>("orders").prefetch(64).open().await.unwrap());
    let other = Arc::new(queues.inbox::<Order>("orders").prefetch(3).open().await.unwrap());
    let consumer = |inbox: Arc<Inbox<Order>>| {
        tokio::spawn(async move {
            let (mut got, mut turns) = (Vec::new(), 0);
            while let Some(message) = number(&inbox, SECOND).await {
                turns += 1;
                // Some are not dealt with the first time.
                if message.body().number % 10 == 0 && turns % 2 == 0 {
                    let _ = message.release(Duration::from_millis(10)).await;
                    continue;
                }
                got.push(message.body().number);
                message.ack().await.unwrap();
            }
            got
        })
    };
    let readers = [&inbox, &inbox, &inbox, &other, &other].map(|inbox| consumer(Arc::clone(inbox)));
    for chunk in numbers.chunks(100) {
        queues.send_all("orders", chunk).await;
        tokio::task::yield_now().await;
    }
    let mut all: Vec<u32> = join_all(readers).await.into_iter().flat_map(Result::unwrap).collect();
    all.sort_unstable();
    assert_eq!(all, (0..5_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn consumers_that_are_killed_again_and_again_lose_nothing() {
    for queues in everywhere().await {
        let numbers: Vec<_> = (0..300).map(order).collect();
        queues.send_all("orders", &numbers).await;
        let mut seen = BTreeMap::<u32, u32>::new();
        let mut unacknowledged = 0;
        for life in 0.. {
            let inbox = queues.inbox::<Order>("orders").prefetch(10).open().await.unwrap();
            for turn in 0..7 {
                let Some(message) = number(&inbox, 90 * SECOND).await else { break };
                *seen.entry(message.body().number).or_default() += 1;
                // The last one of each life is in hand when it ends, while there are many.
                if turn == 6 && life < 20 {
                    unacknowledged += 1;
                    std::mem::forget(message);
                } else {
                    message.ack().await.unwrap();
                }
            }
            drop(inbox);
            if life > 20 && seen.len() == 300 && life > 60 {
                break;
            }
        }
        assert_eq!(seen.len(), 300);
        let again: u32 = seen.values().map(|times| times - 1).sum();
        assert!(again <= unacknowledged, "{again} of {unacknowledged}");
        assert!(dead(&queues).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn prefetch_bounds_what_is_unacknowledged_and_leaves_the_rest_to_others() {
    for queues in everywhere_but_on_a_log().await {
        queues.send_all("orders", &[order(1), order(2), order(3)]).await;
        let greedy = queues.inbox::<Order>("orders").prefetch(2).open().await.unwrap();
        let (first, _second) = (number(&greedy, SECOND).await.unwrap(), number(&greedy, SECOND).await.unwrap());
        let begun = Instant::now();
        assert!(number(&greedy, 3 * SECOND).await.is_none());
        assert_eq!(begun.elapsed(), 3 * SECOND);
        let other = inbox(&queues).await;
        let third = number(&other, SECOND).await.unwrap();
        third.release(NOW).await.unwrap();
        drop(other);
        // Room again: whoever waits already is served.
        let waiting = async { number(&greedy, 60 * SECOND).await.unwrap() };
        let (third, acked) = tokio::join!(waiting, first.ack());
        acked.unwrap();
        assert_eq!(third.body().number, 3);
    }
    for prefetch in [0, 100_001] {
        let refused = memory().inbox::<Order>("orders").prefetch(prefetch).open().await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Config);
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_nobody_reads_takes_nothing_away() {
    for queues in everywhere_but_on_a_log().await {
        let idle = inbox(&queues).await;
        assert!(number(&idle, SECOND).await.is_none());
        tokio::time::sleep(SECOND).await;
        queues.send("orders", &order(1)).await.unwrap();
        let busy = inbox(&queues).await;
        let message = number(&busy, 2 * SECOND).await.expect("the idle one does not hold it");
        message.ack().await.unwrap();

        // What it fetched with another and nobody asked for goes back in the end.
        queues.send_all("orders", &[order(2), order(3)]).await;
        number(&idle, SECOND).await.unwrap().ack().await.unwrap();
        let message = number(&busy, 120 * SECOND).await.expect("given back by the idle one");
        assert_eq!(message.attempt(), 1);
        message.ack().await.unwrap();
        drop(idle);
    }
}

#[tokio::test(start_paused = true)]
async fn receiving_is_exact_shared_and_loses_nothing_when_given_up() {
    for queues in everywhere().await {
        let inbox = inbox(&queues).await;
        let begun = Instant::now();
        assert!(number(&inbox, NOW).await.is_none() && number(&inbox, 7 * SECOND).await.is_none());
        assert!(begun.elapsed() >= 7 * SECOND && begun.elapsed() < 8 * SECOND, "{:?}", begun.elapsed());
        queues.send_all("orders", &[order(1), order(2)]).await;
        tokio::time::sleep(SECOND).await;
        let one = number(&inbox, NOW).await.expect("it is there");
        one.ack().await.unwrap();
        number(&inbox, NOW).await.unwrap().ack().await.unwrap();

        // Two readers of one inbox share; each waits for its own time.
        let send_later = async {
            tokio::time::sleep(2 * SECOND).await;
            queues.send("orders", &order(3)).await.unwrap();
        };
        let (short, long, ()) = tokio::join!(number(&inbox, SECOND), number(&inbox, 30 * SECOND), send_later);
        assert!(short.is_none());
        long.unwrap().ack().await.unwrap();

        // One that waits is served while the other has its message in hand.
        let one_after_the_other = async {
            queues.send("orders", &order(8)).await.unwrap();
            tokio::time::sleep(5 * SECOND).await;
            queues.send("orders", &order(9)).await.unwrap();
        };
        let begun = Instant::now();
        let (one, other, ()) =
            tokio::join!(number(&inbox, 20 * SECOND), number(&inbox, 20 * SECOND), one_after_the_other);
        assert!(begun.elapsed() < 6 * SECOND, "{:?}", begun.elapsed());
        one.unwrap().ack().await.unwrap();
        other.unwrap().ack().await.unwrap();

        // A receiver that gives up in the very moment leaves the message to the next.
        for number_sent in 4..8 {
            let receive = number(&inbox, 30 * SECOND);
            let send = queues.send("orders", &order(number_sent));
            tokio::select! {
                biased;
                _ = async { send.await.unwrap(); tokio::task::yield_now().await } => {}
                message = receive => drop(message.unwrap().release(NOW)),
            }
            let message = number(&inbox, 30 * SECOND).await.unwrap();
            assert_eq!(message.body().number, number_sent);
            message.ack().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_until_the_inbox_s_provider_is_closed() {
    let queues = memory();
    queues.send_all("orders", &[order(1), order(2), order(3)]).await;
    let inbox = inbox(&queues).await;
    let mut got = Vec::new();
    let mut stream = inbox.stream();
    while let Some(message) = stream.next().await {
        let message = message.unwrap();
        got.push(message.body().number);
        message.ack().await.unwrap();
        if got.len() == 3 {
            queues.close().await.unwrap();
        }
    }
    assert_eq!(got, [1, 2, 3]);
    assert_eq!(inbox.receive(60 * SECOND).await.unwrap_err().code(), ErrorCode::Closed);
}

#[tokio::test(start_paused = true)]
async fn closing_gives_back_what_was_not_received_and_waits_for_what_is_in_hand() {
    for queues in everywhere_but_on_a_log().await {
        queues.send_all("orders", &[1, 2, 3, 4].map(order)).await;
        let closing = queues.inbox::<Order>("orders").drain_deadline(10 * SECOND).open().await.unwrap();
        let (done, kept) = (number(&closing, SECOND).await.unwrap(), number(&closing, SECOND).await.unwrap());
        let other = inbox(&queues).await;
        let begun = Instant::now();
        let finish = async {
            tokio::time::sleep(3 * SECOND).await;
            done.ack().await.unwrap();
        };
        let elsewhere = async {
            let message = number(&other, 60 * SECOND).await.unwrap();
            (begun.elapsed(), message)
        };
        let (report, (), (waited, third)) = tokio::join!(closing.close(), finish, elsewhere);
        assert_eq!((begun.elapsed().as_secs(), report), (10, DrainReport { done: 1, released: 2, aborted: 1 }));
        assert!(waited < SECOND, "what was not received is back at once: {waited:?}");
        assert!(lost(kept.ack().await));
        third.ack().await.unwrap();
        for _ in 0..2 {
            let message = number(&other, 60 * SECOND).await.unwrap();
            assert_eq!(message.attempt(), 1);
            message.ack().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_says_that_the_broker_is_away_and_goes_on_by_itself() {
    for shape in shapes() {
        let (broker, queues) = on(shape);
        let inbox = inbox(&queues).await;
        queues.send("orders", &order(1)).await.unwrap();
        broker.stop();
        let begun = Instant::now();
        let error = inbox.receive(10 * SECOND).await.unwrap_err();
        assert_eq!((error.code(), begun.elapsed().as_secs()), (ErrorCode::Unavailable, 10));
        broker.start();
        number(&inbox, 60 * SECOND).await.unwrap().ack().await.unwrap();
        assert!(number(&inbox, SECOND).await.is_none(), "no longer an error");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_acknowledgement_is_repeated_until_it_is_answered() {
    let env = env();
    let faults = Faults::default();
    let faulty = Faulty::new(MemoryProvider::with_env(env.clone()), faults.clone());
    let queues = JobScheduler::with_env(Arc::new(faulty), env);
    let sent = queues.send("orders", &order(1)).await.unwrap();
    let inbox = inbox(&queues).await;
    let message = number(&inbox, SECOND).await.unwrap();
    faults.settle_unanswered(true);
    let acked = message.ack();
    tokio::time::sleep(5 * SECOND).await;
    faults.settle_unanswered(false);
    acked.await.unwrap();
    assert_eq!(sent.record().await.unwrap().state, JobState::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_ends_the_inbox_and_not_its_consumer() {
    for in_heartbeat in [true, false] {
        let env = env();
        let (faults, memory) = (Faults::default(), MemoryProvider::with_env(env.clone()));
        let queues = JobScheduler::with_env(Arc::new(Faulty::new(memory, faults.clone())), env);
        queues.send("orders", &order(1)).await.unwrap();
        let broken = inbox(&queues).await;
        let message = number(&broken, SECOND).await.unwrap();
        if in_heartbeat {
            faults.heartbeat_panics()
        } else {
            faults.fetch_panics(true)
        }
        assert_eq!(broken.receive(60 * SECOND).await.unwrap_err().code(), ErrorCode::Closed);
        assert!(lost(message.ack().await));
        assert_eq!(broken.close().await, DrainReport::default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_publication_without_an_answer_is_not_called_a_refusal() {
    let env = env();
    let (faults, memory) = (Faults::default(), MemoryProvider::with_env(env.clone()));
    let queues = JobScheduler::with_env(Arc::new(Faulty::new(memory, faults.clone())), env);
    queues.topic("order.placed").subscribe("orders").await.unwrap();
    faults.lose_a_publish_then_refuse();
    let published = queues.topic("order.placed").publish_all(&[order(1)]).await.remove(0).unwrap();
    assert!(matches!(published.copies[0].outcome, Submitted::Unknown(..)), "{published:?}");
    assert_eq!(published.complete().unwrap_err().code(), ErrorCode::Unavailable);
    assert_eq!(drained(&queues, "orders").await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_gives_out_nothing_and_a_dropped_one_is_found_again() {
    let queues = memory();
    queues.send_all("orders", &[order(1), order(2), order(3)]).await;
    let inbox = inbox(&queues).await;
    number(&inbox, SECOND).await.unwrap().ack().await.unwrap();
    queues.admin().pause(&orders(), true).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    assert!(number(&inbox, 10 * SECOND).await.is_none(), "although two were fetched with the first");
    queues.admin().pause(&orders(), false).await.unwrap();
    number(&inbox, SECOND).await.unwrap().ack().await.unwrap();
    number(&inbox, SECOND).await.unwrap().ack().await.unwrap();

    queues.provider().drop_queue(&orders(), false).await.unwrap();
    assert_eq!(inbox.receive(SECOND).await.unwrap_err().code(), ErrorCode::NotFound);
    queues.send("orders", &order(4)).await.unwrap();
    assert_eq!(number(&inbox, 30 * SECOND).await.unwrap().body(), &order(4));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_message_is_told_to_its_consumer_and_not_retried() {
    let queues = memory();
    let inbox = inbox(&queues).await;
    let told = queues.send("orders", &order(1)).timeout(600 * SECOND).await.unwrap();
    let deaf = queues.send("orders", &order(2)).timeout(600 * SECOND).await.unwrap();
    let (one, two) = (number(&inbox, SECOND).await.unwrap(), number(&inbox, SECOND).await.unwrap());
    let forgiving = |grace: Duration| Cancel { grace, ..Cancel::by("an operator") };
    queues.cancel(told.job(), &forgiving(60 * SECOND)).await.unwrap();
    queues.cancel(deaf.job(), &forgiving(5 * SECOND)).await.unwrap();
    assert!(!one.is_cancelled());
    tokio::time::sleep(12 * SECOND).await;
    assert!(one.is_cancelled());
    one.nack(Failure::retry("stopped")).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    assert!(lost(two.ack().await), "taken back after its grace");
    for sent in [&told, &deaf] {
        assert_eq!(sent.record().await.unwrap().state, JobState::Cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn subscribers_get_messages_pushed_and_compete_for_them() {
    for queues in everywhere().await {
        let got: Arc<Mutex<Vec<(usize, u32, u32)>>> = Arc::default();
        let subscribe = |who: usize| {
            let got = Arc::clone(&got);
            let subscriber = queues.subscribe("orders", 2, move |order: Order, context: JobContext| {
                got.lock().unwrap().push((who, order.number, context.attempt()));
                async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if order.number == 5 { Err(Failure::retry("no")) } else { Ok(()) }
                }
            });
            subscriber.heartbeat_on_runtime().start()
        };
        let (one, two) = (subscribe(1).await.unwrap(), subscribe(2).await.unwrap());
        queues.send_all("orders", &(0..40).map(order).collect::<Vec<_>>()).await;
        queues.send("orders", &RawMessage::new(Order::KIND, ContentType::Json, "[]").unwrap()).await.unwrap();
        tokio::time::sleep(60 * SECOND).await;
        one.stop().await;
        two.stop().await;
        let got = std::mem::take(&mut *got.lock().unwrap());
        assert_eq!(got.iter().map(|(who, ..)| who).collect::<std::collections::BTreeSet<_>>().len(), 2);
        let mut runs: Vec<_> = got.iter().map(|(_, number, attempt)| (*number, *attempt)).collect();
        runs.sort_unstable();
        let mut expected: Vec<_> = (0..40).map(|number| (number, 1)).chain([(5, 2), (5, 3)]).collect();
        expected.sort_unstable();
        assert_eq!(runs, expected);
        let mut codes: Vec<_> = dead(&queues).await.into_iter().map(|dead| dead.error.code).collect();
        codes.sort_unstable();
        assert_eq!(codes, ["HANDLER_FAILED", "VALIDATION"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_without_a_type_gets_what_has_no_handler_of_its_own() {
    let queues = memory();
    let got: Arc<Mutex<Vec<String>>> = Arc::default();
    let (typed, rest) = (Arc::clone(&got), Arc::clone(&got));
    let worker = queues
        .subscribe("orders", 1, move |order: Order, _| {
            typed.lock().unwrap().push(format!("order {}", order.number));
            async { Ok::<_, Failure>(()) }
        })
        .on_message(move |raw: RawMessage, _| {
            rest.lock().unwrap().push(raw.kind.to_string());
            async { Ok::<_, Failure>(()) }
        })
        .heartbeat_on_runtime()
        .start()
        .await
        .unwrap();
    queues.send("orders", &order(1)).await.unwrap();
    queues.send("orders", &RawMessage::json("other", &1).unwrap()).await.unwrap();
    tokio::time::sleep(SECOND).await;
    worker.stop().await;
    assert_eq!(*got.lock().unwrap(), ["order 1", "other"]);
}

/// What a queue holds, taken out.
async fn drained(queues: &JobScheduler, queue: &str) -> Vec<u32> {
    let inbox: Inbox<Order> = queues.inbox(queue).open().await.unwrap();
    let mut numbers = Vec::new();
    while let Some(message) = number(&inbox, SECOND).await {
        numbers.push(message.body().number);
        message.ack().await.unwrap();
    }
    inbox.close().await;
    numbers
}

#[tokio::test(start_paused = true)]
async fn a_topic_reaches_every_subscribed_queue_and_messages_wait_for_absent_subscribers() {
    for queues in shapes().map(|shape| on(shape).1).into_iter().chain([topicless()]) {
        let topic = queues.topic("order.placed");
        assert_eq!(topic.publish(&order(0)).await.unwrap_err().code(), ErrorCode::Unroutable);
        let nowhere = topic.publish_all(&[order(0)]).await;
        assert_eq!(nowhere[0].as_ref().unwrap_err().code(), ErrorCode::Unroutable);
        for queue in ["billing", "shipping", "billing"] {
            topic.subscribe(queue).await.unwrap();
        }
        // A subscription belongs to the scheduler, not to this handle.
        let published = queues.clone().topic("order.placed").publish(&order(1)).priority(Priority::HIGH).await.unwrap();
        let to: Vec<_> = published.copies.iter().map(|copy| copy.to.to_string()).collect();
        assert_eq!((to, published.is_complete()), (vec!["billing".to_owned(), "shipping".to_owned()], true));
        for published in topic.publish_all(&[order(2), order(3)]).await {
            assert!(published.unwrap().is_complete());
        }
        tokio::time::sleep(3_600 * SECOND).await;
        assert_eq!(drained(&queues, "billing").await, [1, 2, 3]);
        topic.unsubscribe("billing").await.unwrap();
        topic.unsubscribe("billing").await.unwrap();
        topic.publish(&order(4)).await.unwrap();
        assert!(drained(&queues, "billing").await.is_empty());
        assert_eq!(drained(&queues, "shipping").await, [1, 2, 3, 4], "as durable as its queue");
        assert_eq!(topic.known_subscriptions().unwrap(), [QueueName::from_static("shipping")]);
        assert!(matches!(topic.support(), Support::Emulated { caveat, .. } if caveat.contains("process")));
        topic.unsubscribe("shipping").await.unwrap();
        assert_eq!(topic.publish(&order(5)).await.unwrap_err().code(), ErrorCode::Unroutable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_refuses_a_message_is_named_and_can_be_reached_later_without_doubling() {
    let queues = topicless();
    let mut small = QueueSpec::new(QueueName::from_static("audit"));
    small.max_len = Some(1);
    queues.declare(small).await.unwrap();
    let topic = queues.topic("order.placed");
    topic.subscribe("audit").await.unwrap();
    topic.subscribe("billing").await.unwrap();
    topic.publish(&order(1)).await.unwrap();

    let id = JobId::derive(b"order 2", 0);
    let error = topic.publish(&order(2)).id(id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::QueueFull);
    assert!(error.message().contains("1 of 2 queues: audit: QUEUE_FULL"), "{error}");
    let outcomes = topic.publish_all(&[order(3), order(1_000_001)]).await;
    let third = outcomes[0].as_ref().unwrap();
    assert!(!third.is_complete());
    assert_eq!(third.copies[0].to, Destination::Queue(QueueName::from_static("audit")));
    assert_eq!(third.copies[0].error().unwrap().code(), ErrorCode::QueueFull);
    assert!(matches!(&third.copies[1].outcome, Submitted::Accepted(job) if job.id == third.id));
    assert_eq!(outcomes[1].as_ref().unwrap_err().code(), ErrorCode::Validation);

    assert_eq!(drained(&queues, "audit").await, [1]);
    topic.publish(&order(2)).id(id).await.unwrap();
    assert_eq!(drained(&queues, "audit").await, [2]);
    assert_eq!(drained(&queues, "billing").await, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_with_topics_of_its_own_keeps_the_subscriptions_for_every_process() {
    let env = env();
    let provider: Arc<dyn QueueProvider> = Arc::new(MemoryProvider::with_env(env.clone()));
    let here = JobScheduler::with_env(Arc::clone(&provider), env.clone());
    let there = JobScheduler::with_env(provider, env);
    assert_eq!(there.topic("order.placed").publish(&order(0)).await.unwrap_err().code(), ErrorCode::Unroutable);
    for queue in ["billing", "shipping"] {
        here.topic("order.placed").subscribe(queue).await.unwrap();
    }
    assert_eq!(here.topic("order.placed").support(), Support::Native);
    assert!(here.topic("order.placed").known_subscriptions().unwrap().is_empty());
    let published = there.topic("order.placed").publish(&order(1)).ttl(3_600 * SECOND).await.unwrap();
    assert_eq!((published.copies.len(), &published.copies[0].to), (1, &Destination::Provider("memory")));
    assert_eq!(drained(&here, "billing").await, [1]);
    assert_eq!(drained(&there, "shipping").await, [1]);
    here.topic("order.placed").unsubscribe("billing").await.unwrap();
    there.topic("order.placed").publish(&order(2)).await.unwrap();
    assert!(drained(&here, "billing").await.is_empty());
    assert_eq!(drained(&here, "shipping").await, [2]);
}

/// Queues of a prefix on the one, the others on the other.
#[derive(Debug)]
struct Split {
    near: JobScheduler,
    far: JobScheduler,
}

impl Route for Split {
    fn submit_to(&self, queue: &QueueName, _: &queue_core::job::JobKind) -> queue_core::Result<JobScheduler> {
        if queue.as_str().starts_with("nowhere") {
            return Err(Error::new(ErrorCode::Unroutable, "no provider has this queue"));
        }
        Ok(if queue.as_str().starts_with("far.") { self.far.clone() } else { self.near.clone() })
    }

    fn consume_from(&self, queue: &QueueName) -> queue_core::Result<Vec<JobScheduler>> {
        self.submit_to(queue, &queue_core::job::JobKind::from_static("any")).map(|one| vec![one])
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_s_queues_may_be_on_several_providers() {
    let env = env();
    let native = Arc::new(MemoryProvider::with_env(env.clone()));
    let (near, far) = (on(PushModel::default().into()).1, JobScheduler::with_env(native, env));
    let route: Arc<dyn Route> = Arc::new(Split { near: near.clone(), far: far.clone() });
    let topic = JobScheduler::topic_by(Arc::clone(&route), vec![near.clone(), far.clone()], "order.placed");
    topic.subscribe("billing").await.unwrap();
    let published = topic.publish(&order(1)).await.unwrap();
    assert_eq!(published.copies.len(), 1, "nobody is subscribed at the other");
    topic.subscribe("far.shipping").await.unwrap();
    topic.publish(&order(2)).await.unwrap();
    assert_eq!(topic.subscribe("nowhere").await.unwrap_err().code(), ErrorCode::Unroutable);
    assert!(matches!(topic.support(), Support::Emulated { .. }));
    assert_eq!(drained(&near, "billing").await, [1, 2]);
    assert_eq!(drained(&far, "far.shipping").await, [2]);

    let to_far = JobScheduler::send_by(Arc::clone(&route), "far.orders", &order(3)).await.unwrap();
    assert_eq!(to_far.job().queue.as_str(), "far.orders");
    assert_eq!(drained(&far, "far.orders").await, [3]);
    let inbox = JobScheduler::inbox_by::<Order>(route, "far.orders").open().await.unwrap();
    far.send("far.orders", &order(4)).await.unwrap();
    assert_eq!(number(&inbox, SECOND).await.unwrap().body(), &order(4));
}

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Invoice {
    #[validate(range(min = 1))]
    cents: u32,
}

impl Job for Invoice {
    const KIND: &'static str = "invoice";
    const QUEUE: &'static str = "billing";
    type Output = u32;
}

#[tokio::test(start_paused = true)]
async fn a_job_published_to_a_topic_runs_in_each_subscribed_queue() {
    let queues = topicless();
    let topic = queues.topic("invoices");
    topic.subscribe("billing").await.unwrap();
    topic.subscribe("archive").await.unwrap();
    let worker = queues
        .worker()
        .queue("billing", 1)
        .queue("archive", 1)
        .heartbeat_on_runtime()
        .register(async |invoice: Invoice| Ok::<_, Failure>(invoice.cents))
        .start()
        .await
        .unwrap();
    let published = topic.publish(&Invoice { cents: 250 }).await.unwrap();
    for copy in published.copies {
        let Submitted::Accepted(job) = copy.outcome else { panic!("{copy:?}") };
        assert_eq!(queues.handle::<u32>(job).result().await.unwrap(), 250);
    }
    let refused = topic.publish(&Invoice { cents: 0 }).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Validation, "a job's own rules hold for the message too");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_manager_offers_all_of_it() {
    let queues = QueueManager::builder()
        .env(env())
        .variables([("QUEUE__WORKER__LEASE", "5s"), ("QUEUE__WORKER__DRAIN_DEADLINE", "2s")])
        .connect()
        .await
        .unwrap();
    queues.send("orders", &order(1)).unique("cart-1").unwrap().await.unwrap();
    assert!(queues.send("orders", &order(1)).unique("cart-1").unwrap().await.unwrap().is_duplicate());
    let answers = queues.send_all("orders", &[order(2), order(1_000_001), order(3)]).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let inbox: Inbox<Order> = queues.inbox("orders").open().await.unwrap();
    let killed = number(&inbox, SECOND).await.unwrap();
    drop(inbox);
    let begun = Instant::now();
    let inbox: Inbox<Order> = queues.inbox("orders").open().await.unwrap();
    for _ in 0..3 {
        number(&inbox, 30 * SECOND).await.unwrap().ack().await.unwrap();
    }
    assert!(
        begun.elapsed() >= 3 * SECOND && begun.elapsed() < 7 * SECOND,
        "the configured lease: {:?}",
        begun.elapsed()
    );
    assert!(lost(killed.ack().await));
    queues.send("orders", &order(9)).await.unwrap();
    let kept = number(&inbox, SECOND).await.unwrap();
    let begun = Instant::now();
    assert_eq!((inbox.close().await.aborted, begun.elapsed()), (1, 2 * SECOND), "the configured deadline");
    drop(kept);
    assert_eq!(queues.size("orders").await.unwrap(), 1);

    let topic = queues.topic("order.placed");
    topic.subscribe("billing").await.unwrap();
    topic.publish(&order(4)).await.unwrap();
    let got: Arc<Mutex<Vec<u32>>> = Arc::default();
    let seen = Arc::clone(&got);
    let worker = queues
        .subscribe("billing", 2, move |order: Order, _| {
            seen.lock().unwrap().push(order.number);
            async { Ok::<_, Failure>(()) }
        })
        .heartbeat_on_runtime()
        .start()
        .await
        .unwrap();
    tokio::time::sleep(SECOND).await;
    worker.stop().await;
    assert_eq!(*got.lock().unwrap(), [4]);
    for bad in ["", "two words"] {
        assert_eq!(queues.send(bad, &order(1)).await.unwrap_err().code(), ErrorCode::Validation);
        assert_eq!(queues.topic(bad).publish(&order(1)).await.unwrap_err().code(), ErrorCode::Validation);
        assert_eq!(queues.inbox::<Order>(bad).open().await.unwrap_err().code(), ErrorCode::Validation);
    }
    queues.close().await.unwrap();
}
