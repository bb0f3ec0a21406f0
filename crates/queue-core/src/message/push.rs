//! Receiving by push: a handler, run by a worker.

use std::{future::Future, sync::Arc};

use super::{Payload, RawMessage};
use crate::worker::{Failure, JobContext, JobRequest, WorkerBuilder};

impl WorkerBuilder {
    /// Handles messages of a type: acknowledged where it returns `Ok`, else what becomes of a job whose handler fails so.
    /// A type without a kind of its own ([`RawMessage`]) gets every kind that has no handler of its own.
    pub fn on_message<M, F, Fut, E>(self, handler: F) -> Self
    where
        M: Payload,
        F: Fn(M, JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send,
        E: Into<Failure>,
    {
        let handler = Arc::new(handler);
        let service = tower::service_fn(move |request: JobRequest| {
            let handler = Arc::clone(&handler);
            async move {
                let message = M::from_raw(RawMessage::of(request.context.envelope())).map_err(Failure::from)?;
                handler(message, request.context).await.map_err(Into::into)?;
                Ok::<_, Failure>(None)
            }
        });
        match M::kind() {
            Some(kind) => self.service(kind, service),
            None => self.fallback(service),
        }
    }
}
