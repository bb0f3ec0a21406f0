//! Letting parked jobs go: staged with a new generation, published, confirmed.

use queue_core::{QueueName, Result, provider::ParkKey};

use super::core::Core;

/// How many are let go at once.
const AT_ONCE: usize = 500;

impl Core {
    pub(super) async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        if !self.is_tracked(queue).await {
            return self.transport.unpark(queue, key, n).await;
        }
        let scope = self.scope(Some(vec![queue.clone()]));
        let mut unparked = 0;
        while unparked < n {
            let part = AT_ONCE.min(n - unparked);
            let call = self.store.unpark(&scope, key, part, self.options.stage_lease);
            let staged = self.ask(call).await.map_err(|error| error.at("unpark").on(queue))?;
            let found = staged.len();
            unparked += found;
            // What the transport does not take now the sweep publishes.
            self.publish_promised(staged).await;
            if found < part {
                break;
            }
        }
        Ok(unparked)
    }
}
