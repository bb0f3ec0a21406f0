//! How everything is doing: health, numbers, events.

use std::{sync::Arc, time::Duration};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, future::join_all, stream};
use queue_core::{
    Event, Result,
    event::{ProviderEvent, ProviderStatus},
    store::Watched,
    worker::WorkerStatus,
};

use super::{
    QueueManager,
    queues::{merged, stats_of},
};
use crate::{
    HealthReport, Statistics,
    config::ProviderName,
    health::{examine, within},
    routes::Member,
    statistics::{ProviderStatistics, QueueStatistics},
};

/// # Watching
impl QueueManager {
    /// Whether everything answers, how far behind it is, and whether the workers of this process consume. It takes twice the
    /// configured `provider.ping_timeout` at most.
    pub async fn health(&self) -> HealthReport {
        let examined = self.members().map(|member| examine(member, self.config()));
        HealthReport::new(join_all(examined).await)
    }

    /// The health now, and again whenever the status of it or of a provider changes, or a worker's liveness: looked at every
    /// `provider.health_interval`, for as long as the stream is polled. It does not end.
    pub fn health_changes(&self) -> BoxStream<'static, HealthReport> {
        let manager = self.clone();
        let changes = stream::unfold((manager, None::<HealthReport>), |(manager, last)| async move {
            loop {
                if last.is_some() {
                    tokio::time::sleep(manager.config().provider.health_interval).await;
                }
                let report = manager.health().await;
                if last.as_ref().is_none_or(|last| last.outline() != report.outline()) {
                    return Some((report.clone(), (manager, Some(report))));
                }
            }
        });
        changes.boxed()
    }

    /// The workers of this process, by name; each once, with all its queues on all providers.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let mut workers: Vec<WorkerStatus> = Vec::new();
        for worker in self.members().flat_map(|member| member.scheduler.workers()) {
            match workers.iter_mut().find(|known| known.name == worker.name) {
                Some(known) => known.pools.extend(worker.pools),
                None => workers.push(worker),
            }
        }
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        workers
    }

    /// The numbers of all queues of all providers, and of the workers of this process. A provider that cannot tell, or does not
    /// answer within `provider.ping_timeout`, is in it with its fault and without its queues. Of providers that have the same
    /// URL and store only the first is in it.
    pub async fn statistics(&self) -> Statistics {
        let limit = self.config().provider.ping_timeout;
        let asked = self.distinct().map(|member| async move {
            let stats = within(limit, "statistics", stats_of(member)).await;
            (member, stats)
        });
        let (mut providers, mut all, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (member, stats) in join_all(asked).await {
            providers.push(ProviderStatistics::new(&member.name, member.scheduler.provider().scheme(), &stats));
            let stats = stats.unwrap_or_default();
            places.extend(stats.iter().map(|stats| (stats.queue.clone(), member.name.clone())));
            all.extend(stats);
        }
        let of = |queue| {
            let at = places.iter().filter(|(name, _)| *name == queue).map(|(_, provider)| provider.clone());
            at.collect::<Vec<_>>()
        };
        let queues = merged(all).into_iter().map(|stats| QueueStatistics { providers: of(stats.queue.clone()), stats });
        Statistics::new(self.inner.routes.now(), providers, queues.collect(), &self.workers())
    }

    /// What happens from now on, on every provider: to jobs everywhere, where the provider has a store, else in this process;
    /// to everything else in this process. While the stream is polled each provider is asked every `provider.health_interval`
    /// whether it answers, and a change is an event too. Hints: they may repeat, and where some were missed the stream says so and
    /// goes on.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    pub async fn events(&self) -> Result<BoxStream<'static, Watched<Event>>> {
        Ok(self.events_by_provider().await?.map(|(_, what)| what).boxed())
    }

    /// The same, each with the provider that it is of.
    ///
    /// # Errors
    /// `UNAVAILABLE`.
    pub async fn events_by_provider(&self) -> Result<BoxStream<'static, (ProviderName, Watched<Event>)>> {
        let mut streams = Vec::new();
        for member in self.distinct() {
            let name = member.name.clone();
            let events = stream::select(member.scheduler.events().await?, self.availability(member));
            streams.push(events.map(move |what| (name.clone(), what)));
        }
        Ok(stream::select_all(streams).boxed())
    }

    /// Whether a provider answers, and the store that it is paired with, told when it changes. Both are taken to answer at
    /// first: they did when they were connected.
    fn availability(&self, member: &Member) -> BoxStream<'static, Watched<Event>> {
        let (every, limit) = (self.config().provider.health_interval, self.config().provider.ping_timeout);
        let name: Arc<str> = member.name.as_str().into();
        let scheduler = member.scheduler.clone();
        let told = move |to, error| {
            let event = ProviderEvent::new(scheduler.env().now(), Arc::clone(&name), to, error);
            Watched::Event(Event::Provider(event))
        };
        let (broker, store) = (member.scheduler.clone(), member.scheduler.clone());
        let of_store = told.clone();
        let broker = stream::unfold(ProviderStatus::Up, move |last| {
            let (scheduler, told) = (broker.clone(), told.clone());
            async move {
                loop {
                    tokio::time::sleep(every).await;
                    let (to, error) = match within(limit, "ping", scheduler.provider().ping()).await {
                        Ok(()) => (ProviderStatus::Up, None),
                        Err(error) => (ProviderStatus::Down, Some(error.message().to_owned())),
                    };
                    if to != last {
                        return Some((told(to, error), to));
                    }
                }
            }
        });
        if store.provider().paired().is_none() {
            return broker.boxed();
        }
        // Workers, the maintenance and that ping notice it; here it is only read.
        let look = every.min(STORE_LOOK);
        let store = stream::unfold(ProviderStatus::StoreBack, move |last| {
            let (scheduler, told) = (store.clone(), of_store.clone());
            async move {
                loop {
                    tokio::time::sleep(look).await;
                    let away = scheduler.provider().paired().and_then(|store| store.away);
                    let to = if away.is_some() { ProviderStatus::StoreAway } else { ProviderStatus::StoreBack };
                    if to != last {
                        return Some((told(to, away.map(|away| away.error.to_string())), to));
                    }
                }
            }
        });
        stream::select(broker, store).boxed()
    }
}

/// How often it is looked at whether somebody noticed that a store is away.
const STORE_LOOK: Duration = Duration::from_millis(250);
