//! `redis:` as a URL.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, QueueProvider, QueueSpec, Result,
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
        Ok(Arc::new(RedisProvider::connect(&options(url)?, env).await?))
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
        Ok(Arc::new(RedisTracking::connect(&options(url)?, env).await?))
    }
}

fn options(url: &ProviderUrl) -> Result<RedisOptions> {
    let mut options = RedisOptions::with_client(ClientOptions::read(url, &["prefix", "shards"])?);
    if let Some((_, prefix)) = url.query().find(|(name, _)| *name == "prefix") {
        options.prefix = prefix.to_owned();
    }
    if let Some((_, shards)) = url.query().find(|(name, _)| *name == "shards") {
        let number = shards.parse().ok().filter(|shards| (1..=QueueSpec::MAX_SHARDS).contains(shards));
        options.shards = number.ok_or_else(|| {
            Error::new(ErrorCode::Config, "`shards` is a number from 1 to 64").at("connect").by(crate::SCHEME)
        })?;
    }
    Ok(options)
}
