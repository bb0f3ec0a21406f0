//! A broker that tells neither what is out nor what has ended, as a bare RabbitMQ.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    QueueName, QueueProvider, QueueSpec, Result,
    provider::{Capabilities, LeaseModel, QueueAdmin, Support},
    stats::QueueStats,
};
use queue_memory::MemoryProvider;
use queue_testkit::front::{AdminFront, InFront, ProviderFront};
use tokio::time::sleep;

use crate::{SECOND, builder, seen, submit, take, worker};

#[derive(Debug)]
struct Estimating(MemoryProvider);

#[derive(Debug)]
struct EstimatingAdmin(Arc<dyn QueueAdmin>);

impl ProviderFront for Estimating {
    fn behind(&self) -> &dyn QueueProvider {
        &self.0
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(InFront(EstimatingAdmin(self.0.admin())))
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let mut can = self.0.capabilities(spec);
        can.exact_depth = Support::Unsupported { instead: "take the numbers as estimates" };
        can.lease = LeaseModel::Session { max_hold: 1_800 * SECOND };
        can
    }
}

#[async_trait]
impl AdminFront for EstimatingAdmin {
    fn behind(&self) -> &dyn QueueAdmin {
        &*self.0
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        let estimate = |stats: Result<QueueStats>| {
            let stats = stats?;
            let mut estimate = QueueStats::empty(stats.queue.clone());
            (estimate.exact, estimate.pending) = (false, stats.pending);
            Ok(estimate)
        };
        self.0.stats(queues).await.into_iter().map(estimate).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_can_tell_that_jobs_are_taken_no_queue_is_called_unhealthy() {
    let (seen, sink) = seen();
    let queues = builder().provider(Arc::new(InFront(Estimating(MemoryProvider::with_env(crate::env())))));
    let queues = queues.connect().await.unwrap();
    queues.alerts().sink(sink).start().await.unwrap();
    let long = queues.enqueue_all((0..2_000).map(|_| crate::Take { seconds: 50 })).await;
    assert!(long.iter().all(Result::is_ok));
    submit(&queues, 10).await;
    let worker = worker(&queues).await;
    sleep(900 * SECOND).await;
    let health = queues.health().await;
    assert!(health.providers[0].queues[0].pending > 0, "{health:?}");
    assert_eq!(health.providers[0].queues[0].oldest_pending_ms, None, "nobody can tell: {health:?}");
    assert!(health.is_healthy(), "{health:?}");
    assert_eq!(take(&seen), []);
    worker.stop().await;
    queues.close().await.unwrap();
}
