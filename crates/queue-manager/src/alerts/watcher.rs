//! The task that watches.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_core::{future::BoxFuture, stream::BoxStream};
use futures_util::{
    FutureExt, StreamExt,
    future::join_all,
    stream::{FuturesUnordered, SelectAll},
};
use queue_core::{
    Event, JobScheduler, QueueName, Result, Timestamp,
    event::{Alert, JobEvent, ProviderEvent, ProviderStatus},
    job::SlaClass,
    store,
};
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};

use super::{
    judge::{Judge, LateJob, Now},
    look,
    outbox::Outbox,
    sla::SlaLedger,
};
use crate::listing::Numbers;

/// How long sinks may take for what still waits when the watcher is stopped.
const FLUSH: Duration = Duration::from_secs(5);
/// Alerts of its own that it may hear again: as many as a scheduler's listeners may be behind, so that none is told twice.
const OWN: usize = 4_096;

/// A running watcher. Dropped, it stops by itself.
#[derive(Debug)]
pub(super) struct Watcher {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Stops it and waits until it has: the sinks are given a few seconds for what still waits.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the watcher of alerts did not end well");
        }
    }
}

/// What became of the looks so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) looked_at: Option<Timestamp>,
    pub(super) raised: u64,
}

/// One provider.
pub(super) struct Member {
    /// In the configuration.
    pub(super) name: Arc<str>,
    pub(super) scheduler: JobScheduler,
    pub(super) judge: Judge,
    /// Queues that the configuration names.
    pub(super) named: Arc<[QueueName]>,
    /// The first queue for which the last look had no time.
    pub(super) from: Option<QueueName>,
    /// Its last look failed, and that was said.
    pub(super) away: bool,
    /// The store that it is paired with was away at the last look.
    pub(super) store_away: bool,
}

type Heard = (usize, store::Watched<Event>);

/// Everything the task has.
pub(super) struct Task {
    pub(super) members: Vec<Member>,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) every: Duration,
    /// How long a provider may take for its answer.
    pub(super) patience: Duration,
    /// Whether late jobs are told.
    pub(super) sla: bool,
    pub(super) ledger: Arc<SlaLedger>,
    pub(super) tally: Arc<Mutex<Tally>>,
    heard: SelectAll<BoxStream<'static, Heard>>,
    own: VecDeque<Alert>,
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
    looking: bool,
}

/// What a provider answered.
enum Answer {
    Looked(Vec<Result<Numbers>>),
    Late(usize, QueueName, Option<LateJob>),
}

impl Task {
    pub(super) fn new(members: Vec<Member>, outboxes: Vec<Outbox>, ledger: Arc<SlaLedger>) -> Self {
        Self {
            members,
            outboxes,
            every: Duration::MAX,
            patience: Duration::MAX,
            sla: false,
            ledger,
            tally: Arc::default(),
            heard: SelectAll::new(),
            own: VecDeque::new(),
            asked: FuturesUnordered::new(),
            looking: false,
        }
    }

    /// Begins to listen to what happens. From here on nothing is missed.
    pub(super) async fn listen(&mut self) -> Result<()> {
        for (index, member) in self.members.iter().enumerate() {
            let events = member.scheduler.events().await?;
            self.heard.push(events.map(move |event| (index, event)).boxed());
        }
        Ok(())
    }

    pub(super) fn start(self) -> Watcher {
        let (stop, stopped) = watch::channel(false);
        Watcher { stop, task: tokio::spawn(self.run(stopped)) }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // Also where the manager is gone, which is an error here.
                _ = stopped.wait_for(|stopped| *stopped) => break,
                Some(answer) = self.asked.next() => self.answered(answer),
                _ = ticks.tick() => self.look(),
                Some((index, event)) = self.heard.next() => self.hear(index, event),
            }
        }
        // What it still asks is nobody's business any more.
        self.asked.clear();
        join_all(self.outboxes.drain(..).map(|outbox| outbox.close(FLUSH))).await;
    }

    /// Asks every provider for its numbers, one look at a time.
    fn look(&mut self) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let stats = |member: &Member| {
            look::stats(member.scheduler.clone(), Arc::clone(&member.named), member.from.clone(), self.patience)
        };
        let stats = join_all(self.members.iter().map(stats).collect::<Vec<_>>());
        self.asked.push(stats.map(Answer::Looked).boxed());
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Looked(all) => {
                self.looking = false;
                for (index, stats) in all.into_iter().enumerate() {
                    self.looked(index, stats);
                }
                let now = self.members.first().map(|member| member.scheduler.env().now());
                self.tally.lock().unwrap_or_else(PoisonError::into_inner).looked_at = now;
            }
            Answer::Late(index, queue, late) => {
                if let Some(late) = late {
                    self.late(index, &queue, &late);
                }
            }
        }
    }

    /// Tells the sinks where the store of a provider went away, or came back.
    fn look_at_store(&mut self, index: usize) {
        let Some(member) = self.members.get_mut(index) else { return };
        let away = member.scheduler.provider().paired().and_then(|store| store.away);
        if std::mem::replace(&mut member.store_away, away.is_some()) == away.is_some() {
            return;
        }
        let to = if away.is_some() { ProviderStatus::StoreAway } else { ProviderStatus::StoreBack };
        let error = away.map(|away| away.error.to_string());
        let event = ProviderEvent::new(member.scheduler.env().now(), Arc::clone(&member.name), to, error);
        self.outboxes.iter().for_each(|outbox| outbox.offer(&Event::Provider(event.clone())));
    }

    fn looked(&mut self, index: usize, numbers: Result<Numbers>) {
        self.look_at_store(index);
        let Some(member) = self.members.get_mut(index) else { return };
        let provider = member.scheduler.provider().scheme();
        let Numbers { told: stats, untold, late, error } = match numbers {
            Ok(numbers) => numbers,
            Err(error) => {
                if !std::mem::replace(&mut member.away, true) {
                    tracing::warn!(provider, %error, "the queues cannot be looked at; nothing of them is told until they can");
                }
                return;
            }
        };
        match (&error, std::mem::replace(&mut member.away, error.is_some())) {
            (Some(error), false) => tracing::warn!(provider, %error, "some queues cannot be looked at"),
            (None, true) => tracing::info!(provider, "the queues can be looked at again"),
            _ => {}
        }
        // Where there was no time for all, the next look begins with the rest.
        member.from = late;
        let now = now(&member.scheduler);
        let alerts = member.judge.look(&stats, now);
        let there: HashSet<&QueueName> = stats.iter().map(|stats| &stats.queue).chain(&untold).collect();
        member.judge.keep(|queue| there.contains(queue));
        if self.sla {
            for stats in &stats {
                if let Some(class) = look::overdue(&member.scheduler, stats)
                    && member.judge.asks_for_late(&stats.queue, now)
                {
                    let (queue, patience) = (stats.queue.clone(), self.patience);
                    self.asked.push(find_late(index, member.scheduler.clone(), queue, class, patience).boxed());
                }
            }
        }
        for alert in alerts {
            self.raise(index, alert);
        }
    }

    fn hear(&mut self, index: usize, event: store::Watched<Event>) {
        let store::Watched::Event(event) = event else {
            self.ledger.gap();
            self.outboxes.iter().for_each(Outbox::gap);
            return;
        };
        match &event {
            Event::Job(job) if self.sla => self.measure(index, job),
            Event::Alert(alert) => {
                if let Some(at) = self.own.iter().position(|own| own == alert) {
                    self.own.remove(at);
                    return;
                }
            }
            _ => {}
        }
        self.outboxes.iter().for_each(|outbox| outbox.offer(&event));
    }

    /// Counts a completed job of a class, and tells of it where it was late.
    fn measure(&mut self, index: usize, event: &JobEvent) {
        let (Some(sla), Some(member)) = (event.sla, self.members.get(index)) else { return };
        let Some(class) = event.sla_class.or_else(|| member.scheduler.spec(&event.job.queue).sla) else { return };
        self.ledger.record(class, sla);
        if !sla.met {
            let actual = Duration::from_millis(sla.actual_ms);
            let late = LateJob { job: event.job.id, actual, target: class.target(), unfinished: false };
            self.late(index, &event.job.queue, &late);
        }
    }

    fn late(&mut self, index: usize, queue: &QueueName, late: &LateJob) {
        let Some(member) = self.members.get_mut(index) else { return };
        let now = now(&member.scheduler);
        if let Some(alert) = member.judge.late(queue, late, now) {
            self.raise(index, alert);
        }
    }

    /// Tells the sinks at once, and those who listen to the events; what comes back that way is known.
    fn raise(&mut self, index: usize, alert: Alert) {
        let Some(member) = self.members.get(index) else { return };
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).raised += 1;
        let event = Event::Alert(alert.clone());
        self.outboxes.iter().for_each(|outbox| outbox.offer(&event));
        if !self.heard.is_empty() {
            if self.own.len() == OWN {
                self.own.pop_front();
            }
            self.own.push_back(alert);
        }
        member.scheduler.announce(|| event);
    }
}

async fn find_late(
    index: usize,
    scheduler: JobScheduler,
    queue: QueueName,
    class: SlaClass,
    limit: Duration,
) -> Answer {
    let late = look::late(scheduler, queue.clone(), class, limit).await;
    Answer::Late(index, queue, late)
}

fn now(scheduler: &JobScheduler) -> Now {
    let (wall, mono) = scheduler.env().clock.read();
    Now { wall, mono }
}
