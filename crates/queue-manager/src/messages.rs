//! Message mode, on whichever provider has the queue.

use std::future::Future;

use queue_core::{
    Failure, JobContext, JobScheduler, Result,
    message::{InboxBuilder, Many, One, Payload, Post, ToQueue, Topic},
    worker::WorkerBuilder,
};

use crate::QueueManager;

/// # Messages
impl QueueManager {
    /// Begins to send a message to a queue; await it, or set options first.
    pub fn send<M: Payload>(&self, queue: impl AsRef<str>, message: &M) -> Post<One<ToQueue>> {
        JobScheduler::send_by(self.as_route(), queue, message)
    }

    /// Begins to send a batch: one answer per message, in order. A refused message does not touch its neighbours.
    pub fn send_all<'a, M: Payload>(
        &self,
        queue: impl AsRef<str>,
        messages: impl IntoIterator<Item = &'a M>,
    ) -> Post<Many<ToQueue>> {
        JobScheduler::send_all_by(self.as_route(), queue, messages)
    }

    /// A topic: what is published to it reaches every queue that is subscribed, on whichever provider each one is. A name that is
    /// none is refused when it is used.
    #[must_use]
    pub fn topic(&self, name: impl AsRef<str>) -> Topic {
        JobScheduler::topic_by(
            self.as_route(),
            self.routes().distinct().map(|member| member.scheduler.clone()).collect(),
            name,
        )
    }

    /// An inbox for the messages of a queue, with the configured lease and drain deadline, to be opened: of one type, or
    /// [`queue_core::RawMessage`] for all.
    pub fn inbox<M: Payload>(&self, queue: impl AsRef<str>) -> InboxBuilder<M> {
        let defaults = &self.config().worker;
        JobScheduler::inbox_by(self.as_route(), queue).lease(defaults.lease).drain_deadline(defaults.drain_deadline)
    }

    /// A worker, with the configured defaults, that handles a queue's messages of one type, at most `concurrency` at a time, to
    /// be started: [`WorkerBuilder::on_message`] adds further types.
    pub fn subscribe<M, F, Fut, E>(&self, queue: impl AsRef<str>, concurrency: usize, handler: F) -> WorkerBuilder
    where
        M: Payload,
        F: Fn(M, JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send,
        E: Into<Failure>,
    {
        self.worker().queue(queue, concurrency).on_message(handler)
    }
}
