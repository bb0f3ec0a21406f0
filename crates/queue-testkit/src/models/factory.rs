//! A model broker by URL, for tests of what connects by URL.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, QueueProvider, Result,
    provider::{ProviderFactory, ProviderInfo, ProviderUrl, Registry},
};

use super::Broker;

impl Broker {
    /// Adds the broker to a program, under the scheme of its shape: `model-push:`, `model-log:`, `model-visibility:`. Each
    /// connection is another client of it; what stands behind the colon names nothing.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register(ModelFactory(Arc::clone(self)));
    }
}

#[derive(Debug)]
struct ModelFactory(Arc<Broker>);

#[async_trait]
impl ProviderFactory for ModelFactory {
    fn about(&self) -> ProviderInfo {
        let shape = &self.0.shape;
        ProviderInfo {
            name: shape.scheme(),
            schemes: shape.schemes(),
            description: "a model of a family of brokers, for tests",
            example: "model-push://broker",
            capabilities: shape.capabilities(),
        }
    }

    async fn connect(&self, url: &ProviderUrl, _: &Env) -> Result<Arc<dyn QueueProvider>> {
        url.allow_query(&[])?;
        if self.0.lock().down {
            let message = "the broker does not answer";
            return Err(Error::new(ErrorCode::Unavailable, message).at("connect").by(self.0.shape.scheme()));
        }
        Ok(self.0.connect())
    }
}
