//! A program with model brokers, and a store that can be taken away.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Env, Job, QueueName, Result, Timestamp,
    provider::{ProviderUrl, Registry, StoreFactory, StoreInfo},
    store::TrackingStore,
};
use queue_manager::{ManagerBuilder, QueueManager, registry};
use queue_memory::MemoryTracking;
use queue_testkit::{
    faults::FaultyStore,
    models::{Broker, LogModel, PushModel, Shape, VisibilityModel},
};
use serde::{Deserialize, Serialize};
use validator::Validate;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const SCHEMES: [&str; 3] = ["model-push", "model-log", "model-visibility"];

#[derive(Debug, Serialize, Deserialize, Validate)]
pub(crate) struct Mail {
    pub(crate) to: String,
}

impl Job for Mail {
    const KIND: &'static str = "mail.send";
    const QUEUE: &'static str = "mail";
    type Output = String;
}

pub(crate) fn mail(to: &str) -> Mail {
    Mail { to: to.to_owned() }
}

pub(crate) fn the_mail() -> QueueName {
    QueueName::from_static("mail")
}

#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) env: Env,
    pub(crate) brokers: Vec<Arc<Broker>>,
    /// What `faulty:` names.
    pub(crate) faults: FaultyStore,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
        let shapes: [Shape; 3] =
            [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()];
        let brokers = shapes.into_iter().map(|shape| Broker::new(env.clone(), shape)).collect();
        let faults = FaultyStore::new(MemoryTracking::with_env(env.clone()));
        Self { env, brokers, faults }
    }

    pub(crate) fn registry(&self) -> Registry {
        let mut registry = registry();
        self.brokers.iter().for_each(|broker| broker.register(&mut registry));
        registry.register_store(Faulty(self.faults.clone()));
        registry
    }

    pub(crate) fn builder(&self) -> ManagerBuilder {
        QueueManager::builder().env(self.env.clone()).registry(self.registry())
    }

    pub(crate) async fn connect(&self, url: &str) -> Result<QueueManager> {
        self.builder().url(url).connect().await
    }
}

#[derive(Debug)]
struct Faulty(FaultyStore);

#[async_trait]
impl StoreFactory for Faulty {
    fn about(&self) -> StoreInfo {
        StoreInfo { schemes: &["faulty"], description: "", example: "faulty:" }
    }

    async fn open(&self, _: &ProviderUrl, _: &Env) -> Result<Arc<dyn TrackingStore>> {
        Ok(Arc::new(self.0.clone()))
    }
}
