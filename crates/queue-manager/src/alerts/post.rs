//! Where the manager keeps its watcher, and how one is started.

use std::sync::{Arc, Mutex, PoisonError};

use queue_core::{JobScheduler, QueueName, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    filter::EventFilter,
    judge::Judge,
    outbox::{Line, Outbox, SinkStatus},
    rules::Rules,
    sink::{AlertSink, LogSink},
    sla::{SlaLedger, SlaReport},
    watcher::{Member, Tally, Task, Watcher},
};
use crate::{Config, QueueManager, config::AlertsConfig};

/// The one watcher of a manager, if it has one, and what was counted by it and those before it.
#[derive(Debug, Default)]
pub(crate) struct Post {
    on_duty: Mutex<Option<OnDuty>>,
    ledger: Arc<SlaLedger>,
}

#[derive(Debug)]
struct OnDuty {
    watcher: Watcher,
    tally: Arc<Mutex<Tally>>,
    lines: Vec<Arc<Line>>,
}

/// How the watcher is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AlertsStatus {
    /// When it last looked at the queues; absent before the first look.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub looked_at: Option<Timestamp>,
    /// Alerts it raised.
    pub raised: u64,
    /// Those it tells.
    pub sinks: Vec<SinkStatus>,
}

impl Post {
    /// Takes the watcher off duty and waits until it has gone.
    pub(crate) async fn stop(&self) {
        let gone = self.on_duty.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(gone) = gone {
            gone.watcher.stop().await;
        }
    }

    fn status(&self) -> Option<AlertsStatus> {
        let on_duty = self.on_duty.lock().unwrap_or_else(PoisonError::into_inner);
        let OnDuty { tally, lines, .. } = on_duty.as_ref()?;
        let sinks = lines.iter().map(|line| line.status()).collect();
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        Some(AlertsStatus { looked_at: tally.looked_at, raised: tally.raised, sinks })
    }
}

/// # Alerts
impl QueueManager {
    /// Begins a watcher of the queues, with what the configuration says of `alerts` and its webhook, and a log.
    pub fn alerts(&self) -> AlertsBuilder<'_> {
        AlertsBuilder { manager: self, config: self.config().alerts.clone(), sinks: Vec::new(), log: true }
    }

    /// Stops the watcher, if one runs, and waits for it: its sinks are given 5 s for what still waits. `close` does it too.
    pub async fn stop_alerts(&self) {
        self.post().stop().await;
    }

    /// How the watcher is doing. `None` where none runs.
    #[must_use]
    pub fn alerts_status(&self) -> Option<AlertsStatus> {
        self.post().status()
    }

    /// How each SLA class was kept to by the jobs that completed while a watcher listened.
    #[must_use]
    pub fn sla_report(&self) -> SlaReport {
        self.post().ledger.report()
    }
}

/// A watcher before it starts.
#[must_use = "a watcher is started by `start`"]
pub struct AlertsBuilder<'a> {
    manager: &'a QueueManager,
    config: AlertsConfig,
    sinks: Vec<(Box<dyn AlertSink>, EventFilter, usize)>,
    log: bool,
}

/// Events that may wait for a sink of the program's own.
const LINE: usize = 1_000;

impl AlertsBuilder<'_> {
    /// Changes what the configuration says.
    pub fn configure(mut self, change: impl FnOnce(&mut AlertsConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Tells a sink of alerts.
    pub fn sink(self, sink: impl AlertSink) -> Self {
        self.sink_of(EventFilter::alerts(), sink)
    }

    /// Tells a sink of these events.
    pub fn sink_of(mut self, events: EventFilter, sink: impl AlertSink) -> Self {
        self.sinks.push((Box::new(sink), events, LINE));
        self
    }

    /// Writes no alerts to the log.
    pub fn without_log(mut self) -> Self {
        self.log = false;
        self
    }

    /// Starts it, in the place of the one that runs. It stops with [`QueueManager::close`] or [`QueueManager::stop_alerts`], or
    /// when the last handle on the manager is dropped.
    ///
    /// # Errors
    /// `CONFIG`, naming the key; `UNAVAILABLE` where the events cannot be listened to.
    pub async fn start(self) -> Result<()> {
        let Self { manager, config, mut sinks, log } = self;
        Config { alerts: config.clone(), ..Config::default() }.validate()?;
        if log {
            sinks.push((Box::new(LogSink), EventFilter::alerts(), LINE));
        }
        if let Some((sink, events)) = webhook(&config, manager)? {
            sinks.push((sink, events, config.webhook.buffer));
        }
        manager.post().stop().await;
        let sla = Rules::any_sla(&config);
        let listens = sla || sinks.iter().any(|(_, events, _)| events.wants_more_than_alerts());
        let outboxes = sinks.into_iter().map(|(sink, events, line)| Outbox::open(sink, events, line)).collect();
        let members = manager.routes().distinct();
        let members = members.map(|it| member(manager, it.name.as_str(), &it.scheduler, &config)).collect();
        let post = manager.post();
        let mut task = Task::new(members, outboxes, Arc::clone(&post.ledger));
        task.every = config.every;
        task.patience = 2 * manager.config().provider.ping_timeout;
        task.sla = sla;
        if listens {
            task.listen().await?;
        }
        if sla && let Some(member) = task.members.first() {
            post.ledger.begin(member.scheduler.env().now());
        }
        let (tally, lines) = (Arc::clone(&task.tally), task.outboxes.iter().map(Outbox::line).collect());
        let other = {
            let mut on_duty = post.on_duty.lock().unwrap_or_else(PoisonError::into_inner);
            on_duty.replace(OnDuty { watcher: task.start(), tally, lines })
        };
        // Somebody started another meanwhile: this one came later.
        if let Some(other) = other {
            other.watcher.stop().await;
        }
        Ok(())
    }
}

impl std::fmt::Debug for AlertsBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sinks: Vec<&str> = self.sinks.iter().map(|(sink, ..)| sink.name()).collect();
        f.debug_struct("AlertsBuilder").field("config", &self.config).field("sinks", &sinks).finish_non_exhaustive()
    }
}

fn member(manager: &QueueManager, name: &str, scheduler: &JobScheduler, config: &AlertsConfig) -> Member {
    let is_its = |queue: &&QueueName| {
        let is_it = |other: &&JobScheduler| Arc::ptr_eq(other.provider(), scheduler.provider());
        manager.schedulers_of(queue).is_ok_and(|places| places.iter().any(is_it))
    };
    let mut named: Vec<QueueName> =
        config.queues.keys().chain(manager.config().queues.keys()).filter(is_its).cloned().collect();
    named.sort_unstable();
    named.dedup();
    Member {
        name: name.into(),
        scheduler: scheduler.clone(),
        judge: Judge::new(config.clone()).of(scheduler.clone()),
        named: named.into(),
        from: None,
        away: false,
        store_away: false,
    }
}

#[cfg(feature = "webhook")]
fn webhook(config: &AlertsConfig, manager: &QueueManager) -> Result<Option<(Box<dyn AlertSink>, EventFilter)>> {
    let Some((_, scheduler)) = manager.providers().next() else { return Ok(None) };
    let webhook = super::Webhook::new(&config.webhook, scheduler.env().clone())?;
    Ok(webhook.map(|webhook| (Box::new(webhook) as Box<dyn AlertSink>, config.webhook.events.clone())))
}

#[cfg(not(feature = "webhook"))]
fn webhook(config: &AlertsConfig, _: &QueueManager) -> Result<Option<(Box<dyn AlertSink>, EventFilter)>> {
    match config.webhook.url {
        None => Ok(None),
        Some(_) => {
            let message = "`alerts.webhook.url`: webhooks are not compiled in; enable the Cargo feature `webhook`";
            Err(queue_core::Error::new(queue_core::ErrorCode::Config, message).at("configure"))
        }
    }
}
