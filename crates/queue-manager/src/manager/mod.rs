//! The one front door.

mod bulk;
mod jobs;
mod patterns;
mod queues;
mod watch;

pub use bulk::CancelReport;

use std::{path::Path, sync::Arc};

use futures_util::future::join_all;
use queue_core::{Error, ErrorCode, JobScheduler, QueueName, Result};

use crate::{
    Config, ManagerBuilder,
    alerts::Post,
    config::ProviderName,
    routes::{Member, Routes},
};

/// Queues on whichever providers are configured. A clone is another handle on the same connections.
#[derive(Debug, Clone)]
pub struct QueueManager {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    post: Post,
    config: Config,
    routes: Arc<Routes>,
}

/// # Connecting
impl QueueManager {
    /// Connects to what the URL names: `memory:`, `redis://host`, … Everything else is as by default.
    ///
    /// # Errors
    /// As [`ManagerBuilder::connect`].
    pub async fn connect(url: impl AsRef<str>) -> Result<Self> {
        Self::builder().url(url).connect().await
    }

    /// Connects as the process's environment says: `MESSAGE_QUEUE_PROVIDER` and the variables of the configuration
    /// reference.
    ///
    /// # Errors
    /// As [`ManagerBuilder::connect`].
    pub async fn from_env() -> Result<Self> {
        Self::builder().environment().connect().await
    }

    /// Connects as a TOML file says, and over it the process's environment.
    ///
    /// # Errors
    /// As [`ManagerBuilder::connect`].
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().file(path.as_ref()).environment().connect().await
    }

    /// Begins a manager that is told more: queues, routes, providers of one's own, a clock.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::new()
    }

    pub(crate) fn new(config: Config, routes: Routes) -> Self {
        Self { inner: Arc::new(Inner { post: Post::default(), config, routes: Arc::new(routes) }) }
    }

    /// What it was configured with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Its providers, the one called `default` first, then by name.
    pub fn providers(&self) -> impl Iterator<Item = (&ProviderName, &JobScheduler)> {
        self.inner.routes.members().map(|member| (&member.name, &member.scheduler))
    }

    /// The scheduler of one provider, for what the manager does not offer itself.
    ///
    /// # Errors
    /// `NOT_FOUND`, naming those there are.
    pub fn provider(&self, name: impl AsRef<str>) -> Result<&JobScheduler> {
        let name = name.as_ref();
        self.inner.routes.named(name).map(|member| &member.scheduler).ok_or_else(|| {
            let known: Vec<&str> = self.providers().map(|(name, _)| name.as_str()).collect();
            let message = format!("there is no provider {name:?}; there are: {}", known.join(", "));
            Error::new(ErrorCode::NotFound, message).at("provider")
        })
    }

    /// The scheduler that has this queue, for what the manager does not offer itself; where several may have jobs of it, the
    /// first in the order of the routes.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name; `UNROUTABLE` where no route matches.
    pub fn scheduler(&self, queue: impl AsRef<str>) -> Result<&JobScheduler> {
        self.schedulers_of(queue)?.into_iter().next().ok_or_else(|| Error::new(ErrorCode::Internal, "no provider"))
    }

    /// Every scheduler that may have jobs of this queue, in the order of the routes.
    ///
    /// # Errors
    /// `VALIDATION` for what is no queue name; `UNROUTABLE` where no route matches.
    pub fn schedulers_of(&self, queue: impl AsRef<str>) -> Result<Vec<&JobScheduler>> {
        let places = self.inner.routes.places(&QueueName::new(queue)?)?;
        Ok(places.into_iter().map(|member| &member.scheduler).collect())
    }

    /// The queue wherever it is, to look at it and to look after it.
    fn route(&self, queue: &QueueName) -> Result<JobScheduler> {
        self.inner.routes.whole(queue)
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.inner.routes.members()
    }

    /// For what would be counted or told twice where two connections lead to the same jobs.
    fn distinct(&self) -> impl Iterator<Item = &Member> {
        self.inner.routes.distinct()
    }

    pub(crate) fn post(&self) -> &Post {
        &self.inner.post
    }

    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.inner.routes
    }

    /// Stops the watcher of alerts and the maintenance, and closes the connections. Workers are to be stopped before. Every
    /// provider is closed, also where one of them fails.
    ///
    /// # Errors
    /// What could not be flushed: the first.
    pub async fn close(&self) -> Result<()> {
        self.inner.post.stop().await;
        let closed = join_all(self.members().map(|member| member.scheduler.close())).await;
        closed.into_iter().collect()
    }
}
