//! Which scheduler a job goes to, where a program has several.

use std::{fmt::Debug, sync::Arc};

use super::JobScheduler;
use crate::{
    error::{Error, ErrorCode, Result},
    job::{JobKind, QueueName},
};

/// Knows which scheduler has which jobs. A [`JobScheduler`] by itself has them all.
pub trait Route: Debug + Send + Sync + 'static {
    /// Where a job goes.
    ///
    /// # Errors
    /// `UNROUTABLE` where no rule matches.
    fn submit_to(&self, queue: &QueueName, kind: &JobKind) -> Result<JobScheduler>;

    /// Wherever jobs of the queue may be, each scheduler once.
    ///
    /// # Errors
    /// `UNROUTABLE` where no rule matches.
    fn consume_from(&self, queue: &QueueName) -> Result<Vec<JobScheduler>>;
}

/// One scheduler, or a choice of them.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    One(JobScheduler),
    Routed(Arc<dyn Route>),
}

impl Target {
    pub(crate) fn submit_to(&self, queue: &QueueName, kind: &JobKind) -> Result<JobScheduler> {
        match self {
            Self::One(scheduler) => Ok(scheduler.clone()),
            Self::Routed(route) => route.submit_to(queue, kind),
        }
    }

    pub(crate) fn consume_from(&self, queue: &QueueName) -> Result<Vec<JobScheduler>> {
        match self {
            Self::One(scheduler) => Ok(vec![scheduler.clone()]),
            Self::Routed(route) => match route.consume_from(queue)? {
                all if all.is_empty() => {
                    Err(Error::new(ErrorCode::Unroutable, "no provider has this queue").at("worker").on(queue))
                }
                all => Ok(all),
            },
        }
    }
}
