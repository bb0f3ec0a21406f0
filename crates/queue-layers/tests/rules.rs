//! Each rule under the table, with it and without it: what it keeps is kept with it, and lost without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bed::{Bed, Process, complete, follow_up, secs, settle};
use queue_core::{
    Consumer, Env, Envelope, ErrorCode, JobError, QueueName, QueueProvider, QueueSpec, Result,
    job::{Unique, UniqueKey},
    lifecycle::JobState,
    provider::{
        Beat, BeatOutcome, Delivery, Disposition, ParkKey, PublishOutcome, QueueAdmin, Rejection, ReleaseReason,
        SettleOutcome, Settlement,
    },
    stats::QueueStats,
};
use queue_layers::{Options, Tracked, tracked::Rule};
use queue_memory::MemoryTracking;
use queue_testkit::{
    faults::StoreCall,
    front::{AdminFront, InFront, ProviderFront},
    models::{PushModel, VisibilityModel},
};

type Broken = Option<Rule>;

fn push() -> Bed {
    Bed::new(PushModel::default())
}

fn visibility() -> Bed {
    Bed::new(VisibilityModel::default())
}

/// So that the reconciler repairs nothing that the rule should have prevented.
fn blind() -> Options {
    let mut options = Options::default();
    options.reconcile_after = secs(100_000);
    options
}

fn process(bed: &Bed, broken: Broken) -> Process {
    bed.process_with(blind(), broken)
}

fn retry(after: Duration) -> Disposition {
    Disposition::Retry { after, error: JobError::custom("BAD", "no use") }
}

fn park(at_most: Duration) -> Disposition {
    Disposition::Park { key: ParkKey("key".into()), at_most }
}

fn unique(job: &Envelope) -> Envelope {
    let unique = Unique { key: UniqueKey::new("key").unwrap(), window: None };
    job.edit(|job| job.unique = Some(Box::new(unique)))
}

/// Kills the process after so many calls of what is done.
async fn killed_after(process: &Process, calls: usize, act: impl Future<Output = ()>) {
    process.fuse.burn_after(calls);
    tokio::select! {
        biased;
        () = act => panic!("it was not killed"),
        () = process.fuse.burnt() => {}
    }
    process.crash();
}

async fn running(bed: &Bed) -> u64 {
    let admin = bed.broker.connect().admin();
    admin.stats(std::slice::from_ref(&bed.queue)).await.remove(0).map_or(0, |stats| stats.running)
}

async fn taken(bed: &Bed, process: &Process) -> (Envelope, Arc<dyn Consumer>, Delivery) {
    let job = bed.job("job");
    process.accepted(&job).await;
    let consumer = process.consumer().await;
    let delivery = process.take(&consumer).await;
    (job, consumer, delivery)
}

/// The layer has noticed that the store is away.
async fn outage(process: &Process) {
    process.faults.outage(true);
    process.tracked.ping().await.unwrap();
    assert!(process.tracked.paired().unwrap().away.is_some());
}

async fn confirm_names_the_copy(broken: Broken) -> bool {
    let bed = push();
    let (slow, other) = (process(&bed, broken), process(&bed, None));
    // Before it is settled which copy it names.
    slow.fuse.hold_at(if broken.is_some() { "store.get" } else { "store.confirm" });
    let (tracked, queue, job) = (Arc::clone(&slow.tracked), bed.queue.clone(), bed.job("job"));
    let publishing = tokio::spawn(async move { tracked.publish(&queue, vec![job], &Default::default()).await });
    let consumer = other.consumer().await;
    let delivery = other.take(&consumer).await;
    bed.broker.faults(|faults| faults.refuse_publishes(&bed.queue, 1));
    assert!(settle(&consumer, &delivery, retry(Duration::ZERO)).await.is_settled());
    slow.fuse.release();
    assert!(publishing.await.unwrap()[0].is_accepted());
    other.work_on(&consumer, secs(100)).await.get("job") == Some(&vec![2])
}

async fn swept_is_accepted(broken: Broken) -> bool {
    let bed = push();
    let other = process(&bed, None);
    bed.broker.faults(|faults| faults.refuse_publishes(&bed.queue, 1));
    let mut options = blind();
    options.store_timeout = secs(600);
    let patient = bed.process_with(options, broken);
    patient.fuse.hold_at("store.unstage");
    let patience = queue_core::provider::PublishOptions { deadline: secs(600), ..Default::default() };
    let (tracked, queue, job) = (Arc::clone(&patient.tracked), bed.queue.clone(), bed.job("job"));
    let publishing = tokio::spawn(async move { tracked.publish(&queue, vec![job], &patience).await });
    let runs = other.work_for(secs(60)).await;
    assert_eq!(runs.get("job"), Some(&vec![1]), "the sweep published it");
    patient.fuse.release();
    publishing.await.unwrap()[0].is_accepted()
}

async fn refused_is_unstaged(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    bed.broker.faults(|faults| faults.refuse_publishes(&bed.queue, 1));
    let outcome = process.publish(&bed.job("job")).await;
    assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcome:?}");
    process.work_for(secs(100)).await.is_empty()
}

async fn staged_only(bed: &Bed) -> Envelope {
    let (publisher, job) = (process(bed, None), bed.job("job"));
    killed_after(&publisher, 1, async { drop(publisher.publish(&job).await) }).await;
    job
}

async fn sweep_tries_again(broken: Broken) -> bool {
    let bed = push();
    staged_only(&bed).await;
    bed.broker.faults(|faults| faults.refuse_publishes(&bed.queue, 1));
    process(&bed, broken).work_for(secs(100)).await.len() == 1
}

async fn refused_for_good_is_dead(broken: Broken) -> bool {
    let bed = push();
    let job = staged_only(&bed).await;
    bed.broker.faults(|faults| faults.unroutable(&bed.queue, true));
    process(&bed, broken).maintain_for(secs(60)).await;
    bed.state(job.id).await == JobState::Dead
}

async fn follow_ups_are_checked_first(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    let (job, consumer, delivery) = taken(&bed, &process).await;
    let then = vec![follow_up(&bed, &delivery, &"x".repeat(4 << 20))];
    let settlement = Settlement { then, ..Settlement::new(delivery.receipt, complete()) };
    let outcome = consumer.settle(&[settlement]).await.remove(0);
    let refused = matches!(outcome, SettleOutcome::NotSettled { then_index: Some(0), .. });
    refused && bed.state(job.id).await == JobState::Running
}

async fn unstaged_is_not_published(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    process.faults.lose_replies_to(StoreCall::Stage, 1);
    let outcome = process.publish(&bed.job("job")).await;
    matches!(outcome, PublishOutcome::Unknown(_)) && bed.copies().await == 0
}

async fn unanswered_is_not_confirmed(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    bed.broker.faults(|faults| faults.lose_publish_replies(1));
    process.accepted(&bed.job("job")).await;
    process.maintain_for(secs(40)).await;
    let again = bed.copies().await == 2;
    assert_eq!(process.work_for(secs(10)).await.get("job"), Some(&vec![1]), "the second copy is dropped");
    again
}

async fn store_is_stamped(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    process.accepted(&bed.job("job")).await;
    let bare = bed.broker.connect();
    let consumer = bare.consumer(&bed.queue, queue_core::provider::ConsumeOptions::new("bare", 1)).await.unwrap();
    let delivery = consumer.fetch(1, secs(1)).await.unwrap().remove(0);
    delivery.envelope.store == Some(queue_core::JobStore::id(&bed.store))
}

async fn claim_adopts(broken: Broken) -> bool {
    let bed = push();
    let publisher = process(&bed, None);
    outage(&publisher).await;
    publisher.accepted(&bed.job("job")).await;
    process(&bed, broken).work_for(secs(10)).await.len() == 1
}

async fn no_fence_no_run(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    process.accepted(&bed.job("job")).await;
    let consumer = process.consumer().await;
    process.faults.lose_replies_to(StoreCall::Claim, 1);
    consumer.fetch(1, Duration::from_millis(500)).await.map_or(true, |got| got.is_empty())
}

async fn unanswered_claim_goes_back(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    process.accepted(&bed.job("job")).await;
    let consumer = process.consumer().await;
    process.faults.lose_replies_to(StoreCall::Claim, 1);
    let _ = consumer.fetch(1, Duration::from_millis(500)).await;
    running(&bed).await == 0
}

async fn away_stops_fetching(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    process.accepted(&bed.job("job")).await;
    let consumer = process.consumer().await;
    outage(&process).await;
    process.fuse.mend();
    let answer = consumer.fetch(1, Duration::from_millis(500)).await;
    answer.is_err_and(|error| error.code() == ErrorCode::Unavailable)
        && !process.fuse.calls().contains(&"transport.fetch")
}

async fn nothing_is_acknowledged_while_away(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    let (_, consumer, delivery) = taken(&bed, &process).await;
    outage(&process).await;
    assert!(matches!(settle(&consumer, &delivery, complete()).await, SettleOutcome::Unknown(_)));
    bed.copies().await == 1
}

async fn settlements_wait(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    let (job, consumer, delivery) = taken(&bed, &process).await;
    outage(&process).await;
    assert!(matches!(settle(&consumer, &delivery, complete()).await, SettleOutcome::Unknown(_)));
    process.maintain_for(secs(20)).await;
    process.faults.outage(false);
    process.maintain_for(secs(3)).await;
    bed.state(job.id).await == JobState::Completed && bed.copies().await == 0
}

async fn full_buffer_stops_fetching(broken: Broken) -> bool {
    let bed = push();
    let mut options = blind();
    options.max_buffered = 1;
    let process = bed.process_with(options, broken);
    let (_, consumer, delivery) = taken(&bed, &process).await;
    process.accepted(&bed.job("next")).await;
    outage(&process).await;
    settle(&consumer, &delivery, complete()).await;
    process.faults.outage(false);
    tokio::time::sleep(secs(2)).await;
    let full = consumer.fetch(1, Duration::from_millis(500)).await.is_err();
    process.maintain_for(secs(2)).await;
    assert!(!full || process.take(&consumer).await.envelope.payload == "next", "it goes on when the store is back");
    full
}

async fn waiting_leases_are_extended(broken: Broken) -> bool {
    let bed = visibility();
    let process = process(&bed, broken);
    let (_, consumer, delivery) = taken(&bed, &process).await;
    outage(&process).await;
    settle(&consumer, &delivery, complete()).await;
    process.maintain_for(secs(100)).await;
    running(&bed).await == 1
}

async fn keys_need_the_store(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    outage(&process).await;
    let outcome = process.publish(&unique(&bed.job("job"))).await;
    matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(_)))
}

async fn publishing_goes_on(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    outage(&process).await;
    let outcome = process.publish(&bed.job("job")).await;
    outcome.is_accepted() && bed.copies().await == 1
}

async fn dead_leases_wait(broken: Broken) -> bool {
    let bed = push();
    let (worker, leader) = (process(&bed, None), process(&bed, broken));
    let (job, consumer, delivery) = taken(&bed, &worker).await;
    outage(&worker).await;
    outage(&leader).await;
    leader.maintain_for(secs(40)).await;
    worker.faults.outage(false);
    leader.faults.outage(false);
    leader.maintain_for(secs(5)).await;
    let waited = bed.copies().await == 1;
    assert!(matches!(bed::beat(&consumer, &delivery).await, BeatOutcome::Held(_)));
    assert!(settle(&consumer, &delivery, complete()).await.is_settled());
    assert_eq!(bed.state(job.id).await, JobState::Completed);
    waited
}

async fn store_settles_first(broken: Broken) -> bool {
    let bed = push();
    let worker = process(&bed, broken);
    let (_, consumer, delivery) = taken(&bed, &worker).await;
    killed_after(&worker, 1, async { drop(settle(&consumer, &delivery, complete()).await) }).await;
    process(&bed, None).work_for(secs(200)).await.is_empty()
}

async fn repeat_goes_on(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    let (_, consumer, delivery) = taken(&bed, &process).await;
    process.faults.lose_replies_to(StoreCall::Settle, 1);
    assert!(matches!(settle(&consumer, &delivery, complete()).await, SettleOutcome::Unknown(_)));
    process.maintain_for(secs(5)).await;
    bed.copies().await == 0
}

/// A worker that fell silent, and lost its job to another through the sweep. What its beat, or its settlement, leaves.
async fn lost(bed: &Bed, broken: Broken, beats: bool) -> (Process, Process) {
    let (silent, other) = (process(bed, broken), process(bed, None));
    let (_, consumer, delivery) = taken(bed, &silent).await;
    other.maintain_for(secs(40)).await;
    let winner = other.consumer().await;
    other.take(&winner).await;
    assert_eq!(running(bed).await, 2);
    if beats {
        assert!(matches!(bed::beat(&consumer, &delivery).await, BeatOutcome::Lost));
    } else {
        assert!(matches!(settle(&consumer, &delivery, complete()).await, SettleOutcome::LeaseLost));
    }
    // They keep their sessions until the caller has looked.
    std::mem::forget((consumer, winner));
    (silent, other)
}

async fn lost_copy_goes_back(broken: Broken) -> bool {
    let mut back = true;
    for beats in [true, false] {
        let bed = push();
        let _processes = lost(&bed, broken, beats).await;
        back &= running(&bed).await == 1;
    }
    back
}

async fn lost_copy_is_kept(broken: Broken) -> bool {
    let bed = push();
    let _processes = lost(&bed, broken, false).await;
    bed.copies().await == 2
}

async fn record_counts_starts(broken: Broken) -> bool {
    let bed = push();
    let (silent, other) = (process(&bed, None), process(&bed, broken));
    let (_, consumer, delivery) = taken(&bed, &silent).await;
    consumer.heartbeat(&[Beat { started: true, ..Beat::extend(delivery.receipt, bed::LEASE) }]).await;
    other.maintain_for(secs(40)).await;
    let winner = other.consumer().await;
    // The sweep's copy is a fresh message.
    let again = other.take(&winner).await;
    (again.started_before, again.redelivered) == (1, true)
}

async fn lease_counts_from_the_asking(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    process.accepted(&bed.job("job")).await;
    let consumer = process.consumer().await;
    process.fuse.hold_at("store.claim");
    let (fuse, fetching) = (process.fuse.clone(), Arc::clone(&consumer));
    let fetching = tokio::spawn(async move { fetching.fetch(1, secs(10)).await });
    tokio::time::sleep(secs(3)).await;
    fuse.release();
    let delivery = fetching.await.unwrap().unwrap().remove(0);
    delivery.lease.remaining.unwrap() <= secs(27)
}

/// A parked job whose old copy came back, because its worker died before it was acknowledged.
async fn parked_with_its_copy(bed: &Bed) {
    let worker = process(bed, None);
    let (_, consumer, delivery) = taken(bed, &worker).await;
    killed_after(&worker, 1, async { drop(settle(&consumer, &delivery, park(secs(3_600))).await) }).await;
    assert_eq!(bed.copies().await, 1);
}

async fn busy_is_short(broken: Broken) -> bool {
    let bed = push();
    parked_with_its_copy(&bed).await;
    let process = process(&bed, broken);
    assert!(process.work_for(secs(2)).await.is_empty());
    assert_eq!(process.tracked.unpark(&bed.queue, &ParkKey("key".into()), 1).await.unwrap(), 1);
    assert_eq!(process.work_for(secs(120)).await.get("job"), Some(&vec![1]));
    bed.copies().await == 0
}

async fn busy_is_kept(broken: Broken) -> bool {
    let bed = push();
    parked_with_its_copy(&bed).await;
    assert!(process(&bed, broken).work_for(secs(2)).await.is_empty());
    bed.copies().await == 1
}

async fn outdated_is_dropped(broken: Broken) -> bool {
    let bed = push();
    let worker = process(&bed, None);
    let (_, consumer, delivery) = taken(&bed, &worker).await;
    killed_after(&worker, 1, async { drop(settle(&consumer, &delivery, complete()).await) }).await;
    assert!(process(&bed, broken).work_for(secs(10)).await.is_empty());
    bed.copies().await == 0
}

async fn foreign_is_left_alone(broken: Broken) -> bool {
    let bed = push();
    process(&bed, None).accepted(&bed.job("job")).await;
    let store: Arc<_> = Arc::new(MemoryTracking::with_env(Env::seeded(bed.env.now(), 99)));
    let mut stranger = Tracked::new(bed.broker.connect(), store, &bed.env);
    if let Some(rule) = broken {
        stranger = stranger.without(rule);
    }
    let options = queue_core::provider::ConsumeOptions::new("stranger", 1);
    let consumer = stranger.consumer(&bed.queue, options).await.unwrap();
    let answer = consumer.fetch(1, secs(1)).await;
    let left = answer.is_err_and(|error| error.code() == ErrorCode::ForeignStore);
    assert!(!left || process(&bed, None).work_for(secs(100)).await.len() == 1, "its own store's worker runs it");
    left
}

async fn silent_only_when_empty(broken: Broken) -> bool {
    let bed = push();
    let process = bed.without(broken);
    process.accepted(&bed.job("job")).await;
    process.maintain_for(secs(300)).await;
    bed.copies().await == 1
}

async fn silent_is_republished(broken: Broken) -> bool {
    let bed = push();
    let process = bed.without(broken);
    process.accepted(&bed.job("job")).await;
    bed.broker.connect().drop_queue(&bed.queue, false).await.unwrap();
    bed.broker.connect().declare(&QueueSpec::new(bed.queue.clone())).await.unwrap();
    process.work_for(secs(150)).await.len() == 1
}

/// A transport that estimates, as RabbitMQ: it does not tell what is out, and says zero while a leader is away.
#[derive(Debug)]
struct Estimating {
    behind: Arc<dyn QueueProvider>,
    leader_away: Arc<AtomicBool>,
}

#[derive(Debug)]
struct EstimatingAdmin(Arc<dyn QueueAdmin>, Arc<AtomicBool>);

impl ProviderFront for Estimating {
    fn behind(&self) -> &dyn QueueProvider {
        &*self.behind
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(InFront(EstimatingAdmin(self.behind.admin(), Arc::clone(&self.leader_away))))
    }
}

#[async_trait::async_trait]
impl AdminFront for EstimatingAdmin {
    fn behind(&self) -> &dyn QueueAdmin {
        &*self.0
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let stats = self.0.stats(queues).await.into_iter();
        let estimate = |stats: Result<QueueStats>| {
            let stats = stats?;
            let mut estimate = QueueStats::empty(stats.queue.clone());
            estimate.exact = false;
            estimate.pending = if self.1.load(Ordering::Relaxed) { 0 } else { stats.pending };
            Ok(estimate)
        };
        stats.map(estimate).collect()
    }
}

/// With ten jobs in it.
async fn estimating(bed: &Bed, leader_away: bool, broken: Broken) -> Process {
    let leader_away = Arc::new(AtomicBool::new(leader_away));
    let mut process = bed.process();
    let behind: Arc<dyn QueueProvider> = Arc::new(InFront(Estimating { behind: bed.broker.connect(), leader_away }));
    let mut tracked = Tracked::new(behind, Arc::new(bed.store.clone()), &bed.env);
    if let Some(rule) = broken {
        tracked = tracked.without(rule);
    }
    process.tracked = Arc::new(tracked);
    for job in 0..10 {
        process.accepted(&bed.job(&format!("job {job}"))).await;
    }
    process
}

async fn an_estimate_is_proven(broken: Broken) -> bool {
    let bed = push();
    let process = estimating(&bed, true, broken).await;
    process.maintain_for(secs(300)).await;
    bed.copies().await <= 11
}

#[tokio::test(start_paused = true)]
async fn what_an_estimating_transport_lost_is_found_with_workers_and_without() {
    for worked_on in [true, false] {
        let bed = push();
        let process = estimating(&bed, false, None).await;
        process.maintain_for(secs(100)).await;
        assert_eq!(bed.copies().await, 10, "nothing is lost");
        bed.broker.connect().drop_queue(&bed.queue, false).await.unwrap();
        bed.broker.connect().declare(&QueueSpec::new(bed.queue.clone())).await.unwrap();
        if !worked_on {
            process.maintain_for(secs(150)).await;
            assert_eq!(bed.copies().await, 11, "ten, and the outdated copy of the one that went first");
        }
        let runs = process.work_for(secs(150)).await;
        assert!(runs.len() == 10 && runs.values().all(|runs| runs.len() == 1), "{runs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_lost_itself_is_followed_by_another() {
    let bed = push();
    let process = estimating(&bed, false, None).await;
    let empty = async || {
        bed.broker.connect().drop_queue(&bed.queue, false).await.unwrap();
        bed.broker.connect().declare(&QueueSpec::new(bed.queue.clone())).await.unwrap();
    };
    empty().await;
    let mut waited = 0;
    while bed.copies().await == 0 {
        process.maintain_for(secs(1)).await;
        waited += 1;
        assert!(waited < 150, "no probe");
    }
    assert_eq!(bed.copies().await, 1);
    empty().await;
    let runs = process.work_for(secs(600)).await;
    assert!(runs.len() == 10 && runs.values().all(|runs| runs.len() == 1), "{runs:?}");
}

async fn long_delays_are_held(broken: Broken) -> bool {
    let bed = visibility();
    let process = process(&bed, broken);
    let later = bed.env.now() + secs(5_000);
    let outcome = process.publish(&bed.job("job").edit(|job| job.not_before = Some(later))).await;
    outcome.is_accepted()
        && process.work_for(secs(4_990)).await.is_empty()
        && process.work_for(secs(20)).await.len() == 1
}

async fn promises_find_room(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    let mut spec = QueueSpec::new(bed.queue.clone());
    spec.max_len = Some(1);
    process.tracked.declare(&spec).await.unwrap();
    process.accepted(&bed.job("job")).await;
    let consumer = process.consumer_of(1).await;
    let delivery = process.take(&consumer).await;
    process.accepted(&bed.job("next")).await;
    assert!(settle(&consumer, &delivery, retry(secs(5))).await.is_settled());
    let full = process.publish(&bed.job("too many")).await;
    assert!(matches!(full, PublishOutcome::Rejected(Rejection::Full)), "{full:?}");
    bed.copies().await == 2
}

async fn acknowledgements_are_repeated(broken: Broken) -> bool {
    let bed = push();
    let process = process(&bed, broken);
    let (_, consumer, delivery) = taken(&bed, &process).await;
    bed.broker.faults(|faults| faults.refuse_publishes(&bed.queue, 1));
    let release = Disposition::Release { after: secs(5), reason: ReleaseReason::Snooze };
    assert!(settle(&consumer, &delivery, release).await.is_settled());
    process.maintain_for(secs(3)).await;
    running(&bed).await == 0
}

macro_rules! rules {
    ($($name:ident $rule:ident;)*) => {
        mod with_and_without {
            use super::Rule;

            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                let sentence = Rule::$rule.sentence();
                assert!(super::$name(None).await, "it is not kept: {sentence}");
                assert!(!super::$name(Some(Rule::$rule)).await, "nothing is lost without it: {sentence}");
            })*

            #[test]
            fn every_rule_is_here() {
                assert_eq!([$(Rule::$rule),*], *Rule::ALL);
            }
        }
    };
}

rules! {
    confirm_names_the_copy ConfirmNamesTheCopy;
    swept_is_accepted SweptIsAccepted;
    refused_is_unstaged RefusedIsUnstaged;
    sweep_tries_again SweepTriesAgain;
    refused_for_good_is_dead RefusedForGoodIsDead;
    follow_ups_are_checked_first FollowUpsAreCheckedFirst;
    unstaged_is_not_published UnstagedIsNotPublished;
    unanswered_is_not_confirmed UnansweredIsNotConfirmed;
    store_is_stamped StoreIsStamped;
    claim_adopts ClaimAdopts;
    no_fence_no_run NoFenceNoRun;
    unanswered_claim_goes_back UnansweredClaimGoesBack;
    away_stops_fetching AwayStopsFetching;
    nothing_is_acknowledged_while_away NothingIsAcknowledgedWhileAway;
    settlements_wait SettlementsWait;
    full_buffer_stops_fetching FullBufferStopsFetching;
    waiting_leases_are_extended WaitingLeasesAreExtended;
    keys_need_the_store KeysNeedTheStore;
    publishing_goes_on PublishingGoesOn;
    dead_leases_wait DeadLeasesWait;
    store_settles_first StoreSettlesFirst;
    repeat_goes_on RepeatGoesOn;
    lost_copy_goes_back LostCopyGoesBack;
    lost_copy_is_kept LostCopyIsKept;
    record_counts_starts RecordCountsStarts;
    lease_counts_from_the_asking LeaseCountsFromTheAsking;
    busy_is_short BusyIsShort;
    busy_is_kept BusyIsKept;
    outdated_is_dropped OutdatedIsDropped;
    foreign_is_left_alone ForeignIsLeftAlone;
    silent_only_when_empty SilentOnlyWhenEmpty;
    silent_is_republished SilentIsRepublished;
    an_estimate_is_proven AnEstimateIsProven;
    long_delays_are_held LongDelaysAreHeld;
    promises_find_room PromisesFindRoom;
    acknowledgements_are_repeated AcknowledgementsAreRepeated;
}
