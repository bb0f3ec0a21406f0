//! A broker that cannot list its queues, as RabbitMQ, beside one that can.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Error, QueueName, QueueProvider, Result,
    job::JobKind,
    provider::{Cursor, Page, ProviderUrl, QueueAdmin},
    scheduler::NewJob,
};
use queue_layers::Tracked;
use queue_manager::{QueueManager, config::RouteConfig};
use queue_memory::MemoryTracking;
use queue_testkit::front::{AdminFront, InFront, ProviderFront};

use crate::bench::Bench;

#[derive(Debug)]
pub(crate) struct Listless(pub(crate) Arc<dyn QueueProvider>);

#[derive(Debug)]
struct ListlessAdmin(Arc<dyn QueueAdmin>);

impl ProviderFront for Listless {
    fn behind(&self) -> &dyn QueueProvider {
        &*self.0
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(InFront(ListlessAdmin(self.0.admin())))
    }
}

#[async_trait]
impl AdminFront for ListlessAdmin {
    fn behind(&self) -> &dyn QueueAdmin {
        &*self.0
    }

    async fn queues(&self, _: &str, _: Option<Cursor>, _: usize) -> Result<Page<QueueName>> {
        Err(Error::unsupported("model-push", "queues", "look into its own tools"))
    }
}

async fn bare(bench: &Bench) -> Arc<dyn QueueProvider> {
    let url = ProviderUrl::parse("model-push:").unwrap();
    Arc::new(InFront(Listless(bench.registry().connect(&url, &bench.env).await.unwrap())))
}

fn job() -> NewJob {
    NewJob::new(JobKind::from_static("k"), "1")
}

/// In memory, but for what begins with `far.`.
async fn with_a_far_one(bench: &Bench, far: Arc<dyn QueueProvider>) -> QueueManager {
    let route = RouteConfig::to("far").unwrap().queue("far.*").unwrap();
    let builder = bench.builder().url("memory:").provider_named("far", far).route("far", route);
    builder.connect().await.unwrap()
}

fn names(queues: &[QueueName]) -> Vec<&str> {
    queues.iter().map(QueueName::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn a_bare_broker_that_cannot_list_hides_nobodys_queues() {
    let bench = Bench::new();
    let queues = with_a_far_one(&bench, bare(&bench).await).await;
    queues.declare(queue_core::QueueSpec::new(QueueName::from_static("far.declared"))).await.unwrap();
    for queue in ["near", "far.used"] {
        queues.enqueue_raw(queue, job()).await.unwrap();
    }
    let worker = queues.worker().queue("far.worked", 1).heartbeat_on_runtime();
    let worker =
        worker.register(async |mail: crate::bench::Mail| Ok::<_, queue_core::Failure>(mail.to)).start().await.unwrap();

    let all = ["far.declared", "far.used", "far.worked", "near"];
    assert_eq!(names(&queues.queues().await.unwrap()), all);
    assert_eq!(names(&queues.queues_matching("far.*").await.unwrap()), all[..3]);
    let stats = queues.stats_all().await.unwrap();
    assert_eq!(stats.iter().map(|stats| stats.pending).collect::<Vec<_>>(), [0, 1, 0, 1]);
    let statistics = queues.statistics().await;
    assert!(statistics.providers.iter().all(|provider| provider.fault.is_none()), "{statistics:?}");
    assert_eq!(statistics.queues.len(), 4, "{statistics:?}");
    let health = queues.health().await;
    assert!(health.is_healthy(), "{health:?}");
    let of = |name: &str| health.providers.iter().find(|one| one.name.as_str() == name).unwrap().queues.len();
    assert_eq!((of("default"), of("far")), (1, 3), "{health:?}");
    worker.stop().await;
    let purged = queues.purge_matching("*.used").await.unwrap();
    assert!(matches!(&purged[..], [(queue, Ok(1))] if queue.as_str() == "far.used"), "{purged:?}");

    queues.drop_queue("far.used", false).await.unwrap();
    queues.drop_queue("far.declared", false).await.unwrap();
    queues.drop_queue("far.worked", false).await.unwrap();
    assert_eq!(names(&queues.queues().await.unwrap()), ["near"]);
    queues.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn its_store_lists_what_other_processes_use() {
    let bench = Bench::new();
    let store = MemoryTracking::with_env(bench.env.clone());
    let far = async || {
        let far = Tracked::new(bare(&bench).await, Arc::new(store.clone()), &bench.env);
        with_a_far_one(&bench, Arc::new(far)).await
    };
    let (theirs, ours) = (far().await, far().await);
    for queue in ["far.b", "far.a", "far.c"] {
        theirs.enqueue_raw(queue, job()).await.unwrap();
    }
    ours.declare(queue_core::QueueSpec::new(QueueName::from_static("far.bb"))).await.unwrap();
    assert_eq!(names(&ours.queues().await.unwrap()), ["far.a", "far.b", "far.bb", "far.c"]);
    assert_eq!(ours.stats_all().await.unwrap().iter().map(|stats| stats.pending).sum::<u64>(), 3);
    let paused = ours.pause_matching("far.*").await.unwrap();
    assert_eq!(paused.iter().filter(|(_, done)| done.is_ok()).count(), 4, "{paused:?}");

    // By pages: what was only declared is in its place.
    let admin = ours.provider("far").unwrap().admin();
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = admin.queues("far.", cursor, 1).await.unwrap();
        assert!(page.items.len() <= 1);
        found.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(names(&found), ["far.a", "far.b", "far.bb", "far.c"]);
    theirs.close().await.unwrap();
    ours.close().await.unwrap();
}
