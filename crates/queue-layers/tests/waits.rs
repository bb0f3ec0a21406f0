//! Who waits for what: a publisher for room, a paused consumer for the switch, a dead lease for its holder.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bed::{Bed, Process, complete, secs, settle, shapes};
use queue_core::{
    Consumer, Envelope, Error, ErrorCode, JobStore as _, QueueName, QueueProvider, QueueSpec,
    lifecycle::JobState,
    provider::{BeatOutcome, ConsumeOptions, OnFull, PublishOptions, PublishOutcome, Rejection},
    store::Lookup,
};
use queue_layers::Tracked;
use queue_testkit::{
    faults::StoreCall,
    front::{InFront, ProviderFront},
    fuse::Fuse,
    models::PushModel,
};

/// The first publisher heard that the job is accepted, so no later one may take it back: it is tried again with the same id
/// while its first copy is not confirmed, and the transport refuses the second.
#[tokio::test(start_paused = true)]
async fn what_another_publisher_staged_is_not_taken_back() {
    for shape in shapes() {
        let bed = Bed::new(shape.clone());
        let process = bed.process();
        let job = bed.job("job");
        process.faults.lose_replies_to(StoreCall::Confirm, 1);
        bed.broker.faults(|faults| faults.lose_publish_replies(1));
        process.accepted(&job).await;
        bed.broker.faults(|faults| faults.refuse_publishes(&bed.queue, 1));
        process.accepted(&job).await;
        assert_eq!(process.faults.calls(StoreCall::Unstage), 0);
        assert_eq!(process.work_for(secs(120)).await.get("job"), Some(&vec![1]), "{shape:?}");
        assert_eq!(bed.state(job.id).await, JobState::Completed);
    }
}

async fn bounded(bed: &Bed, process: &Process) {
    let mut spec = QueueSpec::new(bed.queue.clone());
    spec.max_len = Some(1);
    process.tracked.declare(&spec).await.unwrap();
}

/// A queue is full by the store's count, and so is its publisher's patience.
#[tokio::test(start_paused = true)]
async fn a_publisher_waits_for_room_until_its_deadline() {
    for shape in shapes() {
        let bed = Bed::new(shape.clone());
        let process = bed.process();
        bounded(&bed, &process).await;
        process.accepted(&bed.job("first")).await;
        let options = |on_full| PublishOptions { on_full, deadline: secs(20), ..PublishOptions::default() };
        let publish = async |name: &str, on_full| {
            let begun = tokio::time::Instant::now();
            let outcome = process.tracked.publish(&bed.queue, vec![bed.job(name)], &options(on_full)).await.remove(0);
            (outcome, begun.elapsed())
        };
        let (outcome, waited) = publish("at once", OnFull::Reject).await;
        assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Full)), "{shape:?}: {outcome:?}");
        assert!(waited < secs(1), "{waited:?}");
        let (outcome, waited) = publish("in vain", OnFull::Wait).await;
        assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Full)), "{shape:?}: {outcome:?}");
        assert!((secs(19)..secs(21)).contains(&waited), "{waited:?}");

        let consumer = process.consumer().await;
        let work = async {
            tokio::time::sleep(secs(10)).await;
            let delivery = process.take(&consumer).await;
            settle(&consumer, &delivery, complete()).await
        };
        let ((outcome, waited), settled) = tokio::join!(publish("second", OnFull::Wait), work);
        assert!(outcome.is_accepted() && settled.is_settled(), "{shape:?}: {outcome:?}, {settled:?}");
        assert!((secs(9)..secs(15)).contains(&waited), "{waited:?}");
        let (outcome, _) = publish("beyond", OnFull::Exceed).await;
        assert!(outcome.is_accepted(), "{outcome:?}");
        let ran: Vec<String> = process.work_on(&consumer, secs(60)).await.into_keys().collect();
        assert_eq!(ran, ["beyond", "second"], "{shape:?}: what was refused left nothing");
    }
}

/// One answer that took long says nothing of the next.
#[tokio::test(start_paused = true)]
async fn a_publisher_that_waits_for_room_outlives_one_slow_answer() {
    let bed = Bed::new(PushModel::default());
    let process = bed.process();
    bounded(&bed, &process).await;
    process.accepted(&bed.job("first")).await;
    let options = PublishOptions { on_full: OnFull::Wait, deadline: secs(10), ..PublishOptions::default() };
    let publish = async {
        let begun = tokio::time::Instant::now();
        let outcome = process.tracked.publish(&bed.queue, vec![bed.job("second")], &options).await.remove(0);
        (outcome, begun.elapsed())
    };
    process.fuse.hold_at("store.stage");
    let others = async {
        tokio::time::sleep(secs(4)).await;
        process.fuse.release();
        tokio::time::sleep(secs(1)).await;
        let consumer = process.consumer().await;
        let delivery = process.take(&consumer).await;
        settle(&consumer, &delivery, complete()).await
    };
    let ((outcome, waited), settled) = tokio::join!(publish, others);
    assert!(outcome.is_accepted() && settled.is_settled(), "{outcome:?}, {settled:?}");
    assert!((secs(5)..secs(7)).contains(&waited), "{waited:?}");

    // With a store that stays slow it is a refusal, and no unknown end.
    process.fuse.hold_at("store.stage");
    let slow = async {
        tokio::time::sleep(secs(4)).await;
        process.fuse.hold_instead("store.queue_control");
    };
    let begun = tokio::time::Instant::now();
    let (outcomes, ()) = tokio::join!(process.tracked.publish(&bed.queue, vec![bed.job("third")], &options), slow);
    assert!(matches!(outcomes[0], PublishOutcome::Rejected(Rejection::Full)), "{outcomes:?}");
    assert_eq!(begun.elapsed().as_secs(), 10, "{:?}", begun.elapsed());
}

/// In real time, in which an answer takes some: a store that answers at once was asked for ever when the time was over.
#[test]
fn a_publisher_whose_time_is_over_asks_no_more_however_quick_the_store() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let publish = async {
        let bed = Bed::new(PushModel::default());
        let process = bed.process();
        bounded(&bed, &process).await;
        process.accepted(&bed.job("first")).await;
        let options =
            PublishOptions { on_full: OnFull::Wait, deadline: Duration::from_millis(300), ..PublishOptions::default() };
        process.tracked.publish(&bed.queue, vec![bed.job("second")], &options).await.remove(0)
    };
    let published = runtime.spawn(publish);
    let outcome = runtime.block_on(async { tokio::time::timeout(secs(10), published).await });
    // A task that never rests would keep a runtime from ending.
    runtime.shutdown_background();
    assert!(matches!(outcome, Ok(Ok(PublishOutcome::Rejected(Rejection::Full)))), "{outcome:?}");
}

/// A broker that blocks publishers, and a store that is some milliseconds away.
#[derive(Debug)]
struct Blocking(Arc<dyn QueueProvider>);

#[async_trait]
impl ProviderFront for Blocking {
    fn behind(&self) -> &dyn QueueProvider {
        &*self.0
    }

    async fn publish(&self, _: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        tokio::time::sleep(options.deadline).await;
        let blocked = || Rejection::Unavailable(Error::new(ErrorCode::Unavailable, "blocked"));
        batch.iter().map(|_| PublishOutcome::Rejected(blocked())).collect()
    }
}

/// The record goes with the refusal, and for that there is time yet.
#[tokio::test(start_paused = true)]
async fn a_transport_that_refuses_at_its_deadline_is_a_refusal() {
    for (deadline, store) in [(secs(30), 500), (secs(1), 50)] {
        let bed = Bed::new(PushModel::default());
        let transport = Arc::new(InFront(Blocking(bed.broker.connect())));
        let fuse = Fuse::new();
        let tracked = Tracked::new(transport, fuse.store(bed.store.clone()), &bed.env);
        let options = PublishOptions { deadline, ..PublishOptions::default() };
        let job = bed.job("job");
        let begun = tokio::time::Instant::now();
        let publish = async { tracked.publish(&bed.queue, vec![job.clone()], &options).await.remove(0) };
        let slow = async {
            fuse.hold_at("store.unstage");
            let refused = async {
                while !fuse.calls().contains(&"store.unstage") && begun.elapsed() < deadline {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            refused.await;
            tokio::time::sleep(Duration::from_millis(store)).await;
            fuse.release();
        };
        let (outcome, ()) = tokio::join!(publish, slow);
        assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcome:?}");
        assert!(begun.elapsed() <= deadline, "{:?}", begun.elapsed());
        let found = bed.store.get(&[bed.reference(job.id)]).await.remove(0).unwrap();
        assert!(!matches!(found, Lookup::Found(_)), "{found:?}");
    }
}

async fn pause(bed: &Bed, process: &Process, paused: bool) {
    process.tracked.admin().pause(&bed.queue, paused).await.unwrap();
    // As long as the switch may take to be seen.
    tokio::time::sleep(secs(1)).await;
}

/// What a worker asks for while its queue is paused counts from when it is not.
#[tokio::test(start_paused = true)]
async fn a_demand_is_kept_over_a_pause_and_lifts_none() {
    for shape in shapes() {
        let bed = Bed::new(shape.clone());
        let process = bed.process();
        for n in 0..6 {
            process.accepted(&bed.job(&n.to_string())).await;
        }
        let consumer = process.consumer_of(1).await;
        pause(&bed, &process, true).await;
        assert!(consumer.fetch(6, secs(1)).await.unwrap().is_empty(), "{shape:?}");
        consumer.demand(3).await.unwrap();
        assert!(consumer.fetch(6, secs(2)).await.unwrap().is_empty(), "{shape:?}: it is still paused");
        pause(&bed, &process, false).await;
        let mut held = Vec::new();
        for _ in 0..6 {
            held.extend(consumer.fetch(6, secs(1)).await.unwrap());
        }
        assert_eq!(held.len(), 3, "{shape:?}");
        for delivery in &held {
            assert!(settle(&consumer, delivery, complete()).await.is_settled());
        }
    }
}

/// Claimed while the consumer was closed: the job is its own again, as if nobody had had it.
#[tokio::test(start_paused = true)]
async fn what_is_claimed_during_a_close_goes_back_unspent() {
    for shape in shapes() {
        let bed = Bed::new(shape.clone());
        let process = bed.process();
        let job = bed.job("job");
        process.accepted(&job).await;
        let consumer = process.consumer().await;
        process.fuse.hold_at("store.claim");
        let fetching = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move { consumer.fetch(1, secs(5)).await.unwrap() }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let closing = tokio::spawn({
            let consumer = Arc::clone(&consumer);
            async move { consumer.close(secs(20)).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        process.fuse.release();
        assert!(fetching.await.unwrap().is_empty(), "{shape:?}");
        closing.await.unwrap();
        let record = bed.record(job.id).await;
        assert_eq!((record.state, record.started_count, record.attempt), (JobState::Pending, 0, 1), "{shape:?}");
        let next = process.consumer().await;
        let begun = tokio::time::Instant::now();
        let delivery = process.take(&next).await;
        assert!(begun.elapsed() < secs(5), "{shape:?}: nobody waits for its lease: {:?}", begun.elapsed());
        assert_eq!((delivery.attempt, delivery.started_before), (1, 0), "{shape:?}");
    }
}

/// A consumer of this process asked for a longer lease than the options say: after an outage its holder has as long to say
/// that he lives.
#[tokio::test(start_paused = true)]
async fn a_dead_lease_waits_for_the_longest_lease_of_this_process() {
    const LONG: Duration = Duration::from_secs(120);
    let bed = Bed::new(PushModel::default());
    let process = bed.process();
    let job = bed.job("job");
    process.accepted(&job).await;
    let consumer_of = async |lease| {
        let options = ConsumeOptions { lease, ..ConsumeOptions::new("worker", 1) };
        process.tracked.consumer(&bed.queue, options).await.unwrap()
    };
    let consumer: Arc<dyn Consumer> = consumer_of(LONG).await;
    // A shorter one says nothing.
    let _other = consumer_of(secs(10)).await;
    let delivery = process.take(&consumer).await;
    process.faults.outage(true);
    process.maintain_for(LONG + secs(5)).await;
    process.faults.outage(false);
    process.maintain_for(LONG - secs(10)).await;
    assert_eq!(bed.copies().await, 1, "no second copy");
    let beat = queue_core::provider::Beat::extend(delivery.receipt, LONG);
    let outcome = consumer.heartbeat(&[beat]).await.remove(0);
    assert!(matches!(outcome, BeatOutcome::Held(_)), "{outcome:?}");
    assert!(settle(&consumer, &delivery, complete()).await.is_settled());
    assert_eq!(bed.state(job.id).await, JobState::Completed);
}
