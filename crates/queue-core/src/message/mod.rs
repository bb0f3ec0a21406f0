#![doc = include_str!("../docs/message.md")]

mod acker;
mod desk;
mod hand;
mod inbox;
mod keeper;
mod payload;
mod post;
mod push;
mod topic;

pub use acker::{Acker, Received, Settled};
pub use inbox::{Inbox, InboxBuilder};
pub use payload::{Message, Payload, RawMessage};
pub use post::{Many, One, Post, ToQueue};
pub(crate) use topic::Subscriptions;
pub use topic::{Copied, Destination, Publication, Topic};

use std::{future::Future, sync::Arc};

use crate::{
    scheduler::{JobScheduler, Route, Target},
    worker::{Failure, JobContext, WorkerBuilder},
};

/// # Messages
impl JobScheduler {
    /// Begins to send a message to a queue; await it, or set options first.
    pub fn send<M: Payload>(&self, queue: impl AsRef<str>, message: &M) -> Post<One<ToQueue>> {
        Post::one(Target::One(self.clone()), queue.as_ref(), message)
    }

    /// Begins to send a batch: one answer per message, in order. A refused message does not touch its neighbours.
    pub fn send_all<'a, M: Payload>(
        &self,
        queue: impl AsRef<str>,
        messages: impl IntoIterator<Item = &'a M>,
    ) -> Post<Many<ToQueue>> {
        Post::many(Target::One(self.clone()), queue.as_ref(), messages)
    }

    /// A topic: what is published to it reaches every queue that is subscribed. A name that is none is refused when it is used.
    #[must_use]
    pub fn topic(&self, name: impl AsRef<str>) -> Topic {
        Topic::new(Target::One(self.clone()), vec![self.clone()], name.as_ref())
    }

    /// An inbox for the messages of a queue, to be opened: of one type, or [`RawMessage`] for all.
    pub fn inbox<M: Payload>(&self, queue: impl AsRef<str>) -> InboxBuilder<M> {
        InboxBuilder::new(Target::One(self.clone()), queue.as_ref())
    }

    /// A worker that handles a queue's messages of one type, at most `concurrency` at a time, to be started:
    /// [`WorkerBuilder::on_message`] adds further types.
    pub fn subscribe<M, F, Fut, E>(&self, queue: impl AsRef<str>, concurrency: usize, handler: F) -> WorkerBuilder
    where
        M: Payload,
        F: Fn(M, JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send,
        E: Into<Failure>,
    {
        self.worker().queue(queue, concurrency).on_message(handler)
    }

    /// As [`JobScheduler::send`], to whichever scheduler the route finds.
    pub fn send_by<M: Payload>(route: Arc<dyn Route>, queue: impl AsRef<str>, message: &M) -> Post<One<ToQueue>> {
        Post::one(Target::Routed(route), queue.as_ref(), message)
    }

    /// As [`JobScheduler::send_all`], each message to whichever scheduler the route finds for its kind.
    pub fn send_all_by<'a, M: Payload>(
        route: Arc<dyn Route>,
        queue: impl AsRef<str>,
        messages: impl IntoIterator<Item = &'a M>,
    ) -> Post<Many<ToQueue>> {
        Post::many(Target::Routed(route), queue.as_ref(), messages)
    }

    /// As [`JobScheduler::topic`], where the subscribed queues may be on any of the schedulers in `reach`: those the route
    /// may find.
    #[must_use]
    pub fn topic_by(route: Arc<dyn Route>, reach: Vec<Self>, name: impl AsRef<str>) -> Topic {
        Topic::new(Target::Routed(route), reach, name.as_ref())
    }

    /// As [`JobScheduler::inbox`], on whichever scheduler the route finds for the type's kind.
    pub fn inbox_by<M: Payload>(route: Arc<dyn Route>, queue: impl AsRef<str>) -> InboxBuilder<M> {
        InboxBuilder::new(Target::Routed(route), queue.as_ref())
    }
}
