//! An admin that has no numbers, or none now.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use queue_core::{Error, QueueName, Result, provider::QueueAdmin, stats::QueueStats};
use queue_testkit::front::AdminFront;

use super::{Faults, away};

pub(super) struct FaultyAdmin {
    pub(super) inner: Arc<dyn QueueAdmin>,
    pub(super) faults: Faults,
}

impl fmt::Debug for FaultyAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyAdmin")
    }
}

#[async_trait]
impl AdminFront for FaultyAdmin {
    fn behind(&self) -> &dyn QueueAdmin {
        &*self.inner
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.faults.0.looks.fetch_add(1, Ordering::SeqCst);
        if self.faults.0.no_stats.load(Ordering::SeqCst) {
            return queues.iter().map(|_| Err(Error::unsupported("memory", "stats", "count yourself"))).collect();
        }
        if self.faults.0.stats_away.load(Ordering::SeqCst) {
            return queues.iter().map(|_| Err(away())).collect();
        }
        self.inner.stats(queues).await
    }
}
