//! `memory:` as a URL.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, QueueProvider, Result,
    provider::{ProviderFactory, ProviderInfo, ProviderUrl, Registry},
};

use crate::MemoryProvider;

/// Adds the scheme `memory` to a program. Two connections to `memory:` are two providers, each with queues of its own.
pub fn register(registry: &mut Registry) {
    registry.register(MemoryFactory);
}

#[derive(Debug)]
struct MemoryFactory;

#[async_trait]
impl ProviderFactory for MemoryFactory {
    fn about(&self) -> ProviderInfo {
        ProviderInfo {
            name: "memory",
            schemes: &["memory"],
            description: "embedded, in this process; what it holds goes with the process",
            example: "memory:",
            capabilities: MemoryProvider::new().capabilities(None),
        }
    }

    async fn connect(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
        if !matches!(url.body(), "" | "//") {
            let message = "a `memory:` URL names no host and no path: write `memory:`";
            return Err(Error::new(ErrorCode::Config, message).at("connect"));
        }
        url.allow_query(&[])?;
        Ok(Arc::new(MemoryProvider::with_env(env.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::{QueueName, QueueSpec};

    async fn connect(url: &str) -> Result<Arc<dyn QueueProvider>> {
        let mut registry = Registry::new();
        register(&mut registry);
        registry.connect(&ProviderUrl::parse(url).unwrap(), &Env::system()).await
    }

    #[tokio::test]
    async fn two_connections_are_two_stores() {
        let (one, two) = (connect("memory:").await.unwrap(), connect("memory://").await.unwrap());
        let mail = QueueName::from_static("mail");
        one.declare(&QueueSpec::new(mail.clone())).await.unwrap();
        assert!(one.admin().stats(std::slice::from_ref(&mail)).await[0].is_ok());
        assert!(two.admin().stats(&[mail]).await[0].is_err());
    }

    #[tokio::test]
    async fn what_it_does_not_know_is_refused_by_name() {
        for (url, part) in [("memory:?size=3", "`size`"), ("memory://host", "no host"), ("memory:jobs", "no path")] {
            let error = connect(url).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config);
            assert!(error.message().contains(part), "{error}");
        }
    }
}
