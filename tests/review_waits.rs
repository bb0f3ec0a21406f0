//! Where several rooms meet: what holds a job that is not due, who hides behind whom, and a provider that lets nobody go.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "limited/front.rs"]
mod front;
mod limited;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use front::{Calls, Front, Mood, Moody};
use limited::{Rig, Work, env, keys, seconds};
use queue_core::{
    Envelope, ErrorCode, Failure, JobError, JobId, QueueName, QueueProvider, QueueSpec,
    job::JobKind,
    limit::Limit,
    provider::{ConsumeOptions, Disposition, PublishOptions, ReleaseReason, Settlement},
    queue_spec::Partition,
    scheduler::WaitReason,
    store::StoreScope,
};
use queue_memory::MemoryProvider;

const ONE: Limit = Limit::Concurrency { max: 1 };

fn front(rules: &[(&str, Limit)]) -> (Rig, Arc<Moody>, Calls) {
    let (env, calls) = (env(), Calls::default());
    let limiter = Moody::new(&env, StoreScope::Process, calls.clone());
    let rig = Rig::on(Front::new(&env, Arc::clone(&limiter) as _, calls.clone()), env, rules);
    (rig, limiter, calls)
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_unparks_nobody_is_not_asked_without_end() {
    let (rig, _, calls) = front(&[("concurrency:*", ONE)]);
    rig.work(|_| Work::Takes(seconds(600)));
    rig.submit(5, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let first = rig.worker(2).await;
    tokio::time::sleep(seconds(1)).await;
    drop(first);
    assert_eq!(rig.parked().await, 4);
    calls.refuse_unpark(true);
    // Its rules gave the jobs their key, as far as it knows, and do so no more: nothing holds them.
    let other = rig.beside(&[("tenant:*", ONE)]);
    let second = other.worker(2).await;
    let before = calls.so_far();
    // The time stands still while this goes on: whatever is to be done later is not done now.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let asked = calls.so_far() - before;
    assert!(asked < 20, "{asked} calls in no time at all");
    calls.refuse_unpark(false);
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(rig.parked().await, 0, "it is asked again");
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn who_returned_just_now_hides_nobody_who_waits_behind() {
    let env = env();
    let memory = MemoryProvider::with_env(env.clone());
    let queue = QueueName::from_static("q");
    let job = |number| {
        Envelope::builder(JobId::derive(b"r", number), JobKind::from_static("k"), Bytes::new(), env.now()).seal()
    };
    memory.publish(&queue, vec![job(1), job(2)], &PublishOptions::default()).await;
    let begin = env.now();
    let consumer = memory.consumer(&queue, ConsumeOptions::new("w", 1)).await.unwrap();
    let held = consumer.fetch(1, seconds(1)).await.unwrap().remove(0);
    tokio::time::sleep(seconds(20)).await;
    let release = Disposition::Release { after: seconds(0), reason: ReleaseReason::Busy };
    consumer.settle(&[Settlement::new(held.receipt, release)]).await;
    let stats = memory.admin().stats(std::slice::from_ref(&queue)).await.remove(0).unwrap();
    assert_eq!((stats.pending, stats.oldest_pending), (2, Some(begin)), "the second one has waited for 20 s");
}

async fn why(rig: &Rig, number: usize) -> Vec<WaitReason> {
    let job = rig.records().await[number].job.clone();
    rig.queues.explain(&job).await.unwrap().reasons
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_not_due_is_held_by_nothing_that_is_gone_by_then() {
    let (rig, _, _) = front(&[("concurrency:*", ONE)]);
    rig.work(|run| match run.number {
        0 => Work::Takes(seconds(60)),
        _ => Work::Fails(Failure::RetryAfter(seconds(600), JobError::new(ErrorCode::HandlerFailed, "later"))),
    });
    rig.submit(1, keys(|_| {})).await;
    rig.submit(1, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker(2).await;
    tokio::time::sleep(seconds(1)).await;
    rig.work(|_| Work::Takes(seconds(60)));
    rig.submit(1, keys(|keys| keys.concurrency = Some("db".into()))).await;
    tokio::time::sleep(seconds(1)).await;
    let reasons = why(&rig, 1).await;
    assert!(matches!(&reasons[..], [WaitReason::RetryAt { .. }]), "{reasons:?}");
    drop(worker);
}

#[tokio::test(start_paused = true)]
async fn a_parked_job_is_said_to_be_parked_also_while_the_limiter_is_away() {
    let (rig, limiter, _) = front(&[("concurrency:*", ONE)]);
    rig.work(|_| Work::Takes(seconds(60)));
    rig.submit(2, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker(2).await;
    tokio::time::sleep(seconds(1)).await;
    for mood in [Mood::Well, Mood::Away, Mood::Hangs] {
        limiter.is(mood);
        let parked = rig.records().await.iter().position(|record| record.parked.is_some());
        let reasons = match parked {
            Some(number) => why(&rig, number).await,
            None => panic!("nobody is parked"),
        };
        let [WaitReason::Limited { key, until: None }] = &reasons[..] else { panic!("{mood:?}: {reasons:?}") };
        assert_eq!(&*key.0, "concurrency:db");
    }
    drop(worker);
}

#[tokio::test(start_paused = true)]
async fn parked_jobs_leave_their_partition_its_room() {
    let rig = Rig::new(&[("concurrency:*", ONE)]);
    let one = Partition { max_concurrency: Some(1), ..Partition::default() };
    let mut spec = QueueSpec::new(QueueName::from_static("jobs"));
    spec.partitions.insert("a".into(), one);
    rig.queues.provider().declare(&spec).await.unwrap();
    rig.work(|run| if run.number == 0 { Work::Takes(seconds(300)) } else { Work::Takes(seconds(1)) });
    rig.submit(1, keys(|keys| keys.concurrency = Some("db".into()))).await;
    let worker = rig.worker(4).await;
    tokio::time::sleep(seconds(1)).await;
    let of = |limited: bool| {
        keys(move |keys| {
            keys.partition = Some("a".into());
            keys.concurrency = limited.then(|| "db".into());
        })
    };
    rig.submit(10, of(true)).await;
    rig.submit(10, of(false)).await;
    tokio::time::sleep(seconds(15)).await;
    assert_eq!(rig.runs().iter().filter(|run| run.ended.is_some()).count(), 10);
    assert_eq!(rig.parked().await, 10);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_in_vain_for_a_slot_goes_to_a_worker_that_has_one() {
    let rig = Rig::new(&[]);
    let one = Partition { max_concurrency: Some(1), ..Partition::default() };
    let mut spec = QueueSpec::new(QueueName::from_static("jobs"));
    spec.partitions.insert("a".into(), one);
    rig.queues.provider().declare(&spec).await.unwrap();
    rig.submit(1, keys(|_| {})).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let long = tower::service_fn(async |_| {
        tokio::time::sleep(seconds(50)).await;
        Ok::<_, Failure>(None)
    });
    let short = tower::service_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<_, Failure>(None))
    });
    let busy = rig.queues.worker().queue("jobs", 1).prefetch(4).heartbeat_on_runtime().service("work", long);
    let busy = busy.start().await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    let idle = rig.queues.worker().queue("jobs", 3).prefetch(0).heartbeat_on_runtime().service("work", short);
    let idle = idle.start().await.unwrap();
    tokio::time::sleep(seconds(1)).await;
    // The busy one takes the first, and with it all the room there is for them.
    rig.submit(4, keys(|keys| keys.partition = Some("a".into()))).await;
    tokio::time::sleep(seconds(45)).await;
    assert_eq!(runs.load(Ordering::SeqCst), 4, "within a lease and a beat");
    idle.stop().await;
    // It is not deaf afterwards.
    rig.submit(1, keys(|_| {})).await;
    tokio::time::sleep(seconds(60)).await;
    assert!(rig.records().await.iter().all(|record| record.state.as_str() == "completed"));
    busy.stop().await;
}
