//! `store=` in a provider's URL.

use std::sync::Arc;

use queue_core::{
    Env, QueueProvider,
    provider::{Capabilities, Pairing, Registry, StoreShare},
};

use super::{Options, Tracked, capabilities};

/// Has a program's bare providers paired with the store that their URL names: `amqp://host?store=redis%3A%2F%2Fhost`.
///
/// The kinds of stores are registered by those who have them, such as `queue_memory` and `queue_redis`. Behind `store_name=` the
/// URL may say what the provider is called in its store ([`Options::name`]): two brokers of one scheme that share a store must
/// differ in it.
pub fn register(registry: &mut Registry) {
    registry.pair_by(ByUrl);
}

#[derive(Debug)]
struct ByUrl;

impl Pairing for ByUrl {
    fn capabilities(&self, bare: &Capabilities) -> Capabilities {
        capabilities::paired(bare.clone())
    }

    fn pair(
        &self,
        transport: Arc<dyn QueueProvider>,
        store: StoreShare,
        name: Option<&str>,
        env: &Env,
    ) -> Arc<dyn QueueProvider> {
        let options = Options { name: name.map(Into::into), ..Options::default() };
        Arc::new(Tracked::with_share(transport, store, env, options))
    }
}
