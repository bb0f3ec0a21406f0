//! `redis:` as a URL.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, QueueProvider, Result,
    provider::{ProviderFactory, ProviderInfo, ProviderUrl, Registry},
};

use crate::{RedisOptions, RedisProvider, provider::capabilities};

/// Adds the scheme `redis` to a program.
pub fn register(registry: &mut Registry) {
    registry.register(RedisFactory);
}

#[derive(Debug)]
struct RedisFactory;

#[async_trait]
impl ProviderFactory for RedisFactory {
    fn about(&self) -> ProviderInfo {
        ProviderInfo {
            name: "redis",
            schemes: &["redis"],
            description: "Redis 7.0 or later: jobs and records in one place, changed atomically",
            example: "redis://localhost",
            capabilities: capabilities(None),
        }
    }

    async fn connect(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
        url.allow_query(&["prefix"])?;
        let mut options = RedisOptions::new(url.expose().split('?').next().unwrap_or_default());
        if let Some((_, prefix)) = url.query().find(|(name, _)| *name == "prefix") {
            options.prefix = prefix.to_owned();
        }
        Ok(Arc::new(RedisProvider::connect(&options, env).await?))
    }
}
