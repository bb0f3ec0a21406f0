//! `amqp:` as a URL.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, QueueProvider, Result,
    provider::{ProviderFactory, ProviderInfo, ProviderUrl, Registry},
};

use crate::{RabbitOptions, RabbitProvider, capabilities};

/// Adds the schemes of RabbitMQ to a program.
pub fn register(registry: &mut Registry) {
    registry.register(RabbitFactory);
}

#[derive(Debug)]
struct RabbitFactory;

#[async_trait]
impl ProviderFactory for RabbitFactory {
    fn about(&self) -> ProviderInfo {
        ProviderInfo {
            name: "rabbitmq",
            schemes: &["amqp", "amqps"],
            description: "RabbitMQ 3.10 or later: quorum queues, bare or with a store beside them",
            example: "amqp://localhost",
            capabilities: capabilities::of(RabbitOptions::default().max_hold, None),
        }
    }

    async fn connect(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
        Ok(Arc::new(RabbitProvider::connect(RabbitOptions::read(url)?, env).await?))
    }
}
