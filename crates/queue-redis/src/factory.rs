//! `redis:` as a URL.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, QueueProvider, Result,
    provider::{ProviderFactory, ProviderInfo, ProviderUrl, Registry, StoreFactory, StoreInfo},
    store::TrackingStore,
};

use crate::{ClientOptions, RedisOptions, RedisProvider, RedisTracking, provider::capabilities};

/// Adds the schemes of Redis to a program.
pub fn register(registry: &mut Registry) {
    registry.register(RedisFactory);
    registry.register_store(RedisStores);
}

const SCHEMES: &[&str] = &["redis", "rediss", "redis+cluster", "redis+sentinel"];

#[derive(Debug)]
struct RedisFactory;

#[async_trait]
impl ProviderFactory for RedisFactory {
    fn about(&self) -> ProviderInfo {
        ProviderInfo {
            name: "redis",
            schemes: SCHEMES,
            description: "Redis 7.0 or later: jobs and records in one place, changed atomically",
            example: "redis://localhost",
            capabilities: capabilities(None),
        }
    }

    async fn connect(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
        let mut options = options(url, &["prefix", "spool"])?;
        if let Some((_, dir)) = url.query().find(|(name, _)| *name == "spool") {
            options.spool = Some(spool(dir, env).await?);
        }
        Ok(Arc::new(RedisProvider::connect(&options, env).await?))
    }
}

/// `redis:` as the value of `store=`.
#[derive(Debug)]
struct RedisStores;

#[async_trait]
impl StoreFactory for RedisStores {
    fn about(&self) -> StoreInfo {
        StoreInfo {
            schemes: SCHEMES,
            description: "in Redis 7.0 or later, shared by all processes that name the same server and prefix",
            example: "redis://localhost",
        }
    }

    async fn open(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn TrackingStore>> {
        Ok(Arc::new(RedisTracking::connect(&options(url, &["prefix"])?, env).await?))
    }
}

/// Jobs in a journal.
#[cfg(feature = "spool")]
async fn spool(dir: &str, env: &Env) -> Result<Arc<dyn QueueProvider>> {
    let mut registry = Registry::new();
    queue_memory::register(&mut registry);
    registry.connect(&ProviderUrl::parse(format!("memory:?journal={dir}"))?, env).await
}

#[cfg(not(feature = "spool"))]
#[allow(clippy::unused_async, reason = "as where there is a journal")]
async fn spool(_: &str, _: &Env) -> Result<Arc<dyn QueueProvider>> {
    let message = "this program was built without the journal that a spool needs: build it with the feature `journal`";
    Err(queue_core::Error::new(queue_core::ErrorCode::Config, message).at("connect").by(crate::SCHEME))
}

fn options(url: &ProviderUrl, more: &[&str]) -> Result<RedisOptions> {
    let mut options = RedisOptions::with_client(ClientOptions::read(url, more)?);
    if let Some((_, prefix)) = url.query().find(|(name, _)| *name == "prefix") {
        options.prefix = prefix.to_owned();
    }
    Ok(options)
}
