//! Finished jobs are forgotten as their queue was declared, whoever leads the maintenance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bed::{Bed, complete, secs, settle};
use queue_core::{
    JobId, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    provider::{ConsumeOptions, PublishOptions, QueueAdmin},
    queue_spec::Retention,
    store::{Lookup, QueueControl},
};
use queue_layers::Tracked;
use queue_testkit::{
    faults::{FaultyStore, StoreCall},
    front::{AdminFront, InFront, ProviderFront},
    fuse::Fuse,
    models::PushModel,
};

const ASKED_FOR: Duration = Duration::from_millis(10);

/// A broker that keeps no declarations, as RabbitMQ.
#[derive(Debug)]
struct Forgetful(Arc<dyn QueueProvider>);

#[async_trait]
impl ProviderFront for Forgetful {
    fn behind(&self) -> &dyn QueueProvider {
        &*self.0
    }

    /// It cannot tell that the queue was declared otherwise before.
    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.0.declare(&QueueSpec::new(spec.name.clone())).await
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(InFront(ForgetfulAdmin(self.0.admin())))
    }
}

#[derive(Debug)]
struct ForgetfulAdmin(Arc<dyn QueueAdmin>);

#[async_trait]
impl AdminFront for ForgetfulAdmin {
    fn behind(&self) -> &dyn QueueAdmin {
        &*self.0
    }

    async fn spec(&self, _: &QueueName) -> Result<Option<QueueSpec>> {
        tokio::time::sleep(ASKED_FOR).await;
        Ok(None)
    }
}

/// A process of its own, over the bed's broker and store.
struct Process {
    tracked: Tracked,
    store: FaultyStore,
}

fn process(bed: &Bed) -> Process {
    let transport = Arc::new(InFront(Forgetful(bed.broker.connect())));
    let store = FaultyStore::new(bed.store.clone());
    Process { tracked: Tracked::new(transport, Arc::new(store.clone()), &bed.env), store }
}

fn keeping(bed: &Bed, count: u64) -> QueueSpec {
    let mut spec = QueueSpec::new(bed.queue.clone());
    spec.retention = Retention { count, ..Retention::default() };
    spec
}

async fn noted(bed: &Bed) -> Option<u64> {
    bed.store.queue_control(&bed.queue).await.unwrap().retention.map(|retention| retention.count)
}

async fn left(bed: &Bed, jobs: &[JobId]) -> usize {
    let jobs: Vec<_> = jobs.iter().map(|job| bed.reference(*job)).collect();
    let found = bed.store.get(&jobs).await;
    found.into_iter().filter(|job| matches!(job, Ok(Lookup::Found(_)))).count()
}

impl Process {
    async fn declare(&self, bed: &Bed, count: u64) {
        self.tracked.declare(&keeping(bed, count)).await.unwrap();
    }

    /// Publishes so many and completes them.
    async fn finish(&self, bed: &Bed, jobs: usize) -> Vec<JobId> {
        let batch: Vec<_> = (0..jobs).map(|n| bed.job(&n.to_string())).collect();
        let ids = batch.iter().map(|job| job.id).collect();
        for outcome in self.tracked.publish(&bed.queue, batch, &PublishOptions::default()).await {
            assert!(outcome.is_accepted(), "{outcome:?}");
        }
        let consumer = self.tracked.consumer(&bed.queue, ConsumeOptions::new("worker", 16)).await.unwrap();
        let mut done = 0;
        while done < jobs {
            for delivery in consumer.fetch(16, secs(1)).await.unwrap() {
                settle(&consumer, &delivery, complete()).await;
                done += 1;
            }
        }
        consumer.close(secs(1)).await;
        ids
    }

    /// Leads for longer than a declaration is only supposed.
    async fn lead(&self) {
        for _ in 0..90 {
            let _ = self.tracked.maintain(true).await;
            tokio::time::sleep(secs(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_leads_without_having_declared_goes_by_the_declaration() {
    let bed = Bed::new(PushModel::default());
    let (declares, leads) = (process(&bed), process(&bed));
    declares.declare(&bed, 3).await;
    let jobs = leads.finish(&bed, 8).await;
    leads.lead().await;
    assert_eq!(left(&bed, &jobs).await, 3);
}

#[tokio::test(start_paused = true)]
async fn who_leads_without_having_declared_forgets_nothing_that_is_to_be_kept() {
    let bed = Bed::new(PushModel::default());
    let (declares, leads) = (process(&bed), process(&bed));
    let mut spec = keeping(&bed, u64::MAX);
    spec.retention.age = secs(400_000);
    declares.tracked.declare(&spec).await.unwrap();
    let jobs = leads.finish(&bed, 8).await;
    leads.lead().await;
    // Beyond the default age of a day.
    tokio::time::sleep(secs(200_000)).await;
    leads.lead().await;
    assert_eq!(left(&bed, &jobs).await, 8);
    tokio::time::sleep(secs(400_000)).await;
    leads.lead().await;
    assert_eq!(left(&bed, &jobs).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_declared_has_the_default() {
    let bed = Bed::new(PushModel::default());
    let leads = process(&bed);
    let jobs = leads.finish(&bed, 8).await;
    leads.lead().await;
    assert_eq!(left(&bed, &jobs).await, 8);
    tokio::time::sleep(Retention::default().age).await;
    leads.lead().await;
    assert_eq!((left(&bed, &jobs).await, noted(&bed).await), (0, None));
}

/// The last declaration counts, and what is as it was noted is not written again.
#[tokio::test(start_paused = true)]
async fn a_declaration_is_noted_where_it_differs() {
    let bed = Bed::new(PushModel::default());
    let (one, other) = (process(&bed), process(&bed));
    one.declare(&bed, 3).await;
    one.declare(&bed, 3).await;
    other.declare(&bed, 3).await;
    let writes = || one.store.calls(StoreCall::SetQueueControl) + other.store.calls(StoreCall::SetQueueControl);
    assert_eq!((noted(&bed).await, writes()), (Some(3), 1));
    other.declare(&bed, 5).await;
    other.lead().await;
    one.lead().await;
    assert_eq!((noted(&bed).await, writes()), (Some(5), 2), "maintenance does not go back to an older one");
}

#[tokio::test(start_paused = true)]
async fn a_pause_keeps_what_was_noted_and_a_note_keeps_the_pause() {
    let bed = Bed::new(PushModel::default());
    let process = process(&bed);
    process.declare(&bed, 3).await;
    process.tracked.admin().pause(&bed.queue, true).await.unwrap();
    assert_eq!(noted(&bed).await, Some(3));
    process.declare(&bed, 5).await;
    let control = bed.store.queue_control(&bed.queue).await.unwrap();
    assert!(control.paused);
    assert_eq!(control.retention, Some(keeping(&bed, 5).retention));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_noted_is_noted_once_the_store_is_back() {
    for leading in [true, false] {
        let bed = Bed::new(PushModel::default());
        let process = process(&bed);
        process.store.outage(true);
        process.declare(&bed, 3).await;
        let _ = process.tracked.maintain(leading).await;
        assert_eq!(noted(&bed).await, None);
        process.store.outage(false);
        tokio::time::sleep(secs(2)).await;
        let _ = process.tracked.maintain(leading).await;
        assert_eq!(noted(&bed).await, Some(3), "leading: {leading}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_was_dropped_is_not_noted_any_more() {
    let bed = Bed::new(PushModel::default());
    let process = process(&bed);
    process.store.lose_replies_to(StoreCall::QueueControl, 1);
    process.declare(&bed, 3).await;
    assert_eq!(noted(&bed).await, None);
    tokio::time::sleep(secs(2)).await;
    process.tracked.drop_queue(&bed.queue, false).await.unwrap();
    let _ = process.tracked.maintain(false).await;
    assert_eq!(noted(&bed).await, None);
}

/// Not while the store is away, and not where it is only this answer that did not come.
#[tokio::test(start_paused = true)]
async fn nothing_is_forgotten_while_it_is_not_known_by_what() {
    let bed = Bed::new(PushModel::default());
    let (declares, leads) = (process(&bed), process(&bed));
    let mut spec = keeping(&bed, u64::MAX);
    spec.retention.age = secs(400_000);
    declares.tracked.declare(&spec).await.unwrap();
    let jobs = leads.finish(&bed, 8).await;
    tokio::time::sleep(secs(200_000)).await;
    for _ in 0..5 {
        leads.store.lose_replies_to(StoreCall::QueueControl, 2);
        let _ = leads.tracked.maintain(true).await;
        tokio::time::sleep(secs(2)).await;
    }
    assert_eq!((left(&bed, &jobs).await, leads.store.calls(StoreCall::Evict)), (8, 0));
    leads.store.lose_replies_to(StoreCall::QueueControl, 0);
    leads.lead().await;
    assert!(leads.store.calls(StoreCall::Evict) > 0);
    assert_eq!(left(&bed, &jobs).await, 8);
}

#[tokio::test(start_paused = true)]
async fn a_note_is_owed_until_its_answer_has_come() {
    let bed = Bed::new(PushModel::default());
    let process = process(&bed);
    process.store.lose_replies_to(StoreCall::SetQueueControl, 1);
    process.declare(&bed, 3).await;
    let control = bed.store.queue_control(&bed.queue).await.unwrap();
    bed.store.set_queue_control(&bed.queue, &QueueControl { retention: None, ..control }).await.unwrap();
    tokio::time::sleep(secs(2)).await;
    let _ = process.tracked.maintain(false).await;
    assert_eq!(noted(&bed).await, Some(3));
}

/// Two that declare and pause at once: neither is lost to the other.
#[tokio::test(start_paused = true)]
async fn a_note_that_loses_a_race_is_tried_again() {
    let bed = Bed::new(PushModel::default());
    let fuse = Fuse::new();
    let transport = Arc::new(InFront(Forgetful(bed.broker.connect())));
    let tracked = Tracked::new(transport, fuse.store(bed.store.clone()), &bed.env);
    fuse.hold_at("store.set_queue_control");
    let spec = keeping(&bed, 3);
    let pause = async {
        tokio::time::sleep(secs(1)).await;
        let control = bed.store.queue_control(&bed.queue).await.unwrap();
        bed.store.set_queue_control(&bed.queue, &QueueControl { paused: true, ..control }).await.unwrap();
        fuse.release();
    };
    let (declared, ()) = tokio::join!(tracked.declare(&spec), pause);
    declared.unwrap();
    let control = bed.store.queue_control(&bed.queue).await.unwrap();
    assert_eq!((control.paused, control.retention), (true, Some(spec.retention)));
}

#[tokio::test(start_paused = true)]
async fn a_declaration_stands_that_came_while_the_broker_was_asked() {
    let bed = Bed::new(PushModel::default());
    let process = process(&bed);
    let declare = async {
        tokio::time::sleep(ASKED_FOR / 2).await;
        process.declare(&bed, 3).await;
        let control = bed.store.queue_control(&bed.queue).await.unwrap();
        bed.store.set_queue_control(&bed.queue, &QueueControl { retention: None, ..control }).await.unwrap();
    };
    let (jobs, ()) = tokio::join!(process.finish(&bed, 8), declare);
    let _ = process.tracked.maintain(true).await;
    assert_eq!(left(&bed, &jobs).await, 3);
}
