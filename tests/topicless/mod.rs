//! Memory without topics of its own, as a broker that has none.

use std::sync::Arc;

use queue_core::{QueueProvider, provider::Topics};
use queue_memory::MemoryProvider;
use queue_testkit::front::ProviderFront;

#[derive(Debug)]
pub(crate) struct Topicless(pub(crate) MemoryProvider);

impl ProviderFront for Topicless {
    fn behind(&self) -> &dyn QueueProvider {
        &self.0
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }
}
