//! Which provider a queue belongs to.

use queue_core::{JobScheduler, QueueName, provider::ProviderUrl};

/// A connected provider with its scheduler.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) scheduler: JobScheduler,
    /// `None` where the program brought the provider itself.
    pub(crate) url: Option<ProviderUrl>,
}

/// The providers of a manager, and which queue goes where. Everything that concerns a queue asks here.
#[derive(Debug)]
pub(crate) struct Routes {
    default: Member,
}

impl Routes {
    pub(crate) fn new(default: Member) -> Self {
        Self { default }
    }

    /// Who has this queue.
    pub(crate) fn route(&self, _queue: &QueueName) -> &JobScheduler {
        &self.default.scheduler
    }

    /// Who has the queues that nothing else is said of.
    pub(crate) fn default(&self) -> &JobScheduler {
        &self.default.scheduler
    }

    /// Every provider.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.default)
    }
}
