//! A manager with three providers: `reports.*` goes to `bulk`, except audits, which go to `safe` from wherever; the rest is at
//! the default.

#![allow(dead_code, reason = "each test uses its own part of it")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, Job, QueueName, QueueProvider, Result, Timestamp,
    job::JobKind,
    provider::{ProviderFactory, ProviderInfo, ProviderUrl},
    scheduler::NewJob,
};
use queue_manager::{ManagerBuilder, QueueManager, config::RouteConfig};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Debug, Serialize, Deserialize, Validate)]
pub(crate) struct Report {
    pub(crate) page: u32,
}

impl Job for Report {
    const KIND: &'static str = "report";
    const QUEUE: &'static str = "reports.daily";
    type Output = u32;
}

#[derive(Debug, Serialize, Deserialize, Validate)]
pub(crate) struct Audit {
    pub(crate) page: u32,
}

impl Job for Audit {
    const KIND: &'static str = "audit.page";
    const QUEUE: &'static str = "reports.daily";
    type Output = u32;
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn env() -> Env {
    Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7)
}

pub(crate) fn name(text: &'static str) -> QueueName {
    QueueName::from_static(text)
}

pub(crate) fn to(provider: &str) -> RouteConfig {
    RouteConfig::to(provider).unwrap()
}

pub(crate) fn builder() -> ManagerBuilder {
    QueueManager::builder()
        .env(env())
        .provider_url("bulk", "memory:")
        .provider_named("safe", Arc::new(MemoryProvider::with_env(env())))
        .route("reports", to("bulk").queue("reports.*").unwrap())
        .route("audits", to("safe").kind("audit.*").unwrap().order(1))
}

pub(crate) async fn manager() -> QueueManager {
    builder().connect().await.unwrap()
}

/// How many jobs wait in a queue at each provider, by name.
pub(crate) async fn spread(queues: &QueueManager, queue: &'static str) -> Vec<(String, u64)> {
    let mut spread = Vec::new();
    for (provider, scheduler) in queues.providers() {
        let waiting = scheduler.stats(&name(queue)).await.map_or(0, |stats| stats.waiting());
        spread.push((provider.to_string(), waiting));
    }
    spread.retain(|(_, waiting)| *waiting > 0);
    spread
}

pub(crate) fn at(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter().map(|(name, jobs)| ((*name).to_owned(), *jobs)).collect()
}

pub(crate) fn job(kind: &'static str) -> NewJob {
    NewJob::new(JobKind::from_static(kind), r#"{"page":1}"#)
}

/// Connections to one memory, and to one that is not there.
#[derive(Debug)]
pub(crate) struct Theirs(pub(crate) Arc<MemoryProvider>);

#[async_trait]
impl ProviderFactory for Theirs {
    fn about(&self) -> ProviderInfo {
        let capabilities = MemoryProvider::new().capabilities(None);
        ProviderInfo { name: "theirs", schemes: &["theirs", "away"], description: "", example: "", capabilities }
    }

    async fn connect(&self, url: &ProviderUrl, _: &Env) -> Result<Arc<dyn QueueProvider>> {
        match url.scheme() {
            "away" => Err(Error::new(ErrorCode::Unavailable, "it is away")),
            _ => Ok(self.0.clone()),
        }
    }
}
