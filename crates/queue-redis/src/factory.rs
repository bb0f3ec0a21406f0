//! `redis:` as a URL.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, QueueProvider, QueueSpec, Result,
    provider::{Durability, ProviderFactory, ProviderInfo, ProviderUrl, Registry, StoreFactory, StoreInfo},
    store::TrackingStore,
};

use crate::{
    ClientOptions, RedisOptions, RedisProvider, RedisTracking, SCHEME, client::decode, indexes, provider::capabilities,
};

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
        let mut options = options(url, &["prefix", "shards", "indexes", "spool"])?;
        if let Some(text) = said(url, "indexes")? {
            options.indexes = Some(indexes::read(&text)?);
        }
        // As it was written: the journal decodes it.
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
        let mut options = options(url, &["prefix", "shards", "durability"])?;
        if let Some(text) = said(url, "durability")? {
            options.durability = Some(durability(&text).ok_or_else(|| {
                let message = "`durability` is `relaxed` or `replicated:COUNT:MILLISECONDS`, as in `replicated:1:500`";
                Error::new(ErrorCode::Config, message).at("connect").by(SCHEME)
            })?);
        }
        Ok(Arc::new(RedisTracking::connect(&options, env).await?))
    }
}

fn durability(text: &str) -> Option<Durability> {
    if text == "relaxed" {
        return Some(Durability::Relaxed);
    }
    let (replicas, millis) = text.strip_prefix("replicated:")?.split_once(':')?;
    let millis: u64 = millis.strip_suffix("ms").unwrap_or(millis).parse().ok()?;
    Some(Durability::Replicated { replicas: replicas.parse().ok()?, timeout: Duration::from_millis(millis) })
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
    Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME))
}

/// A value of the query, decoded.
fn said(url: &ProviderUrl, key: &str) -> Result<Option<String>> {
    url.query().find(|(name, _)| *name == key).map(|(_, value)| decode(value)).transpose()
}

fn options(url: &ProviderUrl, more: &[&str]) -> Result<RedisOptions> {
    let mut options = RedisOptions::with_client(ClientOptions::read(url, more)?);
    if let Some(prefix) = said(url, "prefix")? {
        options.prefix = prefix;
        options.check_prefix()?;
    }
    if let Some(shards) = said(url, "shards")? {
        let number = shards.parse().ok().filter(|shards| (1..=QueueSpec::MAX_SHARDS).contains(shards));
        options.shards = number.ok_or_else(|| {
            Error::new(ErrorCode::Config, "`shards` is a number from 1 to 64").at("connect").by(crate::SCHEME)
        })?;
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_says_is_decoded() {
        let read = |query: &str| options(&ProviderUrl::parse(format!("redis://host?{query}"))?, &["prefix", "shards"]);
        let decoded = read("prefix=a%3Ab%25&shards=%34").unwrap();
        assert_eq!((&*decoded.prefix, decoded.shards), ("a:b%", 4));
        for bad in ["prefix=a%20b", "prefix=%7Ba%7D", "prefix=a%0Ab"] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{bad}");
            assert!(error.to_string().contains("`prefix`"), "{bad}: {error}");
        }
    }
}
