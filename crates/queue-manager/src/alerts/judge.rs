//! What of the numbers is worth telling.

use std::{collections::HashMap, time::Duration};

use queue_core::{
    JobId, JobScheduler, QueueName, Timestamp,
    event::{Alert, AlertKind},
    stats::QueueStats,
};

use super::{
    condition::{Change, Condition, Level},
    look,
    rules::Rules,
    window::Window,
};
use crate::config::AlertsConfig;

/// Both times of one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: Timestamp,
    pub(super) mono: Duration,
}

/// The queues of one provider as they were at the last look. It keeps a fixed amount for each, and forgets queues that are gone.
#[derive(Debug)]
pub(super) struct Judge {
    config: AlertsConfig,
    queues: HashMap<QueueName, Watched>,
    /// Whether its numbers tell that somebody takes jobs is asked of it; `None`: they do.
    provider: Option<JobScheduler>,
}

/// What is kept of one queue.
#[derive(Debug)]
struct Watched {
    rules: Rules,
    last: Option<Last>,
    /// Looks in a row that found a zero which may be none.
    zeros: u32,
    died: Window,
    submitted: Window,
    /// Looks in a row at which jobs waited and nobody had taken one since the look before, and when that began.
    still: u32,
    still_since: Duration,
    backlog: Condition,
    dead_letters: Condition,
    growth: Condition,
    unhealthy: Condition,
    flood: Condition,
    late: Late,
}

/// The numbers of the last look.
#[derive(Debug, Clone, Copy)]
struct Last {
    mono: Duration,
    pending: u64,
    dead: u64,
    submitted: u64,
    ended: u64,
}

/// Jobs that were late.
#[derive(Debug, Default)]
struct Late {
    condition: Condition,
    last: Duration,
    since_told: u64,
}

/// A job that took, or already takes, longer than its class allows.
#[derive(Debug)]
pub(super) struct LateJob {
    pub(super) job: JobId,
    pub(super) actual: Duration,
    pub(super) target: Duration,
    /// It is not finished yet.
    pub(super) unfinished: bool,
}

/// A restart of the workers takes a look or two: only what lasts longer is told.
const STILL_LOOKS: u32 = 3;

impl Judge {
    /// The most queues that are looked at, per provider.
    pub(super) const MAX_QUEUES: usize = 10_000;

    pub(super) fn new(config: AlertsConfig) -> Self {
        Self { config, queues: HashMap::new(), provider: None }
    }

    /// Of a provider that may not tell all.
    pub(super) fn of(mut self, provider: JobScheduler) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Looks at some queues.
    pub(super) fn look(&mut self, stats: &[QueueStats], now: Now) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for stats in stats {
            if let Some(queue) = self.watched(&stats.queue) {
                queue.look(stats, now, &mut alerts);
            }
        }
        alerts
    }

    /// Forgets the queues that are not among these.
    pub(super) fn keep(&mut self, there: impl Fn(&QueueName) -> bool) {
        self.queues.retain(|queue, _| there(queue));
    }

    /// A job was late.
    pub(super) fn late(&mut self, queue: &QueueName, late: &LateJob, now: Now) -> Option<Alert> {
        let watched = self.watched(queue).filter(|watched| watched.rules.sla)?;
        watched.late(queue, late, now)
    }

    /// The queue has late jobs: says whether one of them is to be told.
    pub(super) fn asks_for_late(&mut self, queue: &QueueName, now: Now) -> bool {
        let Some(watched) = self.watched(queue).filter(|watched| watched.rules.sla) else { return false };
        watched.late.last = now.mono;
        watched.late.condition.asks(now.mono, watched.rules.repeat)
    }

    fn watched(&mut self, queue: &QueueName) -> Option<&mut Watched> {
        if !self.queues.contains_key(queue) {
            if self.queues.len() >= Self::MAX_QUEUES {
                return None;
            }
            let mut rules = Rules::of(queue, &self.config);
            if self.provider.as_ref().is_some_and(|provider| !look::shows_takers(provider, queue)) {
                rules.unhealthy_after = None;
            }
            self.queues.insert(queue.clone(), Watched::new(rules));
        }
        self.queues.get_mut(queue)
    }
}

impl Watched {
    fn new(rules: Rules) -> Self {
        Self {
            last: None,
            zeros: 0,
            died: Window::new(rules.growth_within),
            submitted: Window::new(rules.flood_within),
            still: 0,
            still_since: Duration::ZERO,
            backlog: Condition::default(),
            dead_letters: Condition::default(),
            growth: Condition::default(),
            unhealthy: Condition::default(),
            flood: Condition::default(),
            late: Late::default(),
            rules,
        }
    }

    fn look(&mut self, stats: &QueueStats, now: Now, alerts: &mut Vec<Alert>) {
        let stats = &self.believed(stats);
        let ended = stats.completed_total + stats.failed_total;
        let numbers =
            Last { mono: now.mono, pending: stats.pending, dead: stats.dead, submitted: stats.submitted_total, ended };
        let last = self.last.replace(numbers);
        let mut tell = |found: Option<(AlertKind, String)>| {
            if let Some((what, message)) = found {
                alerts.push(Alert::new(now.wall, stats.queue.clone(), what, message));
            }
        };
        tell(self.backlog(stats, now));
        tell(self.dead_letters(stats, now));
        if let Some(last) = last {
            let over = now.mono.saturating_sub(last.mono);
            // What is redriven or removed between two looks is not seen to have died.
            tell(self.growth(stats.dead.saturating_sub(last.dead), over, stats, now));
            // A counter that fell began anew.
            tell(self.flood(stats.submitted_total.saturating_sub(last.submitted), over, stats, now));
            self.notice_stillness(stats, last, numbers);
            tell(self.unhealthy(stats, now));
        }
        self.late.rest(stats, &self.rules, now);
    }

    /// A broker that estimates may say zero of what it cannot see for a moment: RabbitMQ does while the leader of a queue is busy or
    /// away. Taken at its word that would clear what was told, and what is seen again would be new. So it is believed only when it
    /// lasts.
    fn believed(&mut self, stats: &QueueStats) -> QueueStats {
        let mut believed = stats.clone();
        let Some(last) = self.last.filter(|_| !stats.exact) else { return believed };
        let vanished = |now: u64, then: u64| now == 0 && then > 0;
        if !vanished(stats.pending, last.pending) && !vanished(stats.dead, last.dead) {
            self.zeros = 0;
            return believed;
        }
        self.zeros += 1;
        if self.zeros >= STILL_LOOKS {
            self.zeros = 0;
            return believed;
        }
        for (now, then) in [(&mut believed.pending, last.pending), (&mut believed.dead, last.dead)] {
            if *now == 0 {
                *now = then;
            }
        }
        believed
    }

    fn backlog(&mut self, stats: &QueueStats, now: Now) -> Option<(AlertKind, String)> {
        let (threshold, waiting) = (self.rules.backlog?, stats.waiting());
        let level = Level::of(waiting, threshold, self.rules.clear_at);
        let change = self.backlog.change(level, now.mono, self.rules.repeat);
        told(change, "backlog", stats).then(|| {
            let message = format!("{waiting} jobs wait; more than {threshold} are too many");
            (AlertKind::Backlog { waiting, threshold }, message)
        })
    }

    fn dead_letters(&mut self, stats: &QueueStats, now: Now) -> Option<(AlertKind, String)> {
        let (threshold, dead) = (self.rules.dead_letters?, stats.dead);
        let level = Level::of(dead, threshold, self.rules.clear_at);
        let change = self.dead_letters.change(level, now.mono, self.rules.repeat);
        told(change, "dead letters", stats).then(|| {
            let message = format!("{dead} jobs are dead; more than {threshold} are too many");
            (AlertKind::DeadLetters { dead, threshold }, message)
        })
    }

    fn growth(&mut self, died: u64, over: Duration, stats: &QueueStats, now: Now) -> Option<(AlertKind, String)> {
        let (threshold, within) = (self.rules.growth?, self.rules.growth_within);
        let died = self.died.add(died, over, now.mono);
        let level = Level::of(died, threshold, self.rules.clear_at);
        let change = self.growth.change(level, now.mono, self.rules.repeat);
        told(change, "dead letter growth", stats).then(|| {
            let message = format!("{died} jobs died within {within:?}; more than {threshold} are too many");
            (AlertKind::DeadLetterGrowth { died, threshold, within_ms: millis(within) }, message)
        })
    }

    fn flood(&mut self, came: u64, over: Duration, stats: &QueueStats, now: Now) -> Option<(AlertKind, String)> {
        let (threshold, within) = (self.rules.flood?, self.rules.flood_within);
        let submitted = self.submitted.add(came, over, now.mono);
        let level = Level::of(submitted, threshold, self.rules.clear_at);
        let change = self.flood.change(level, now.mono, self.rules.repeat);
        told(change, "flood", stats).then(|| {
            let message = format!("{submitted} jobs came within {within:?}; more than {threshold} are too many");
            (AlertKind::Flood { submitted, threshold, within_ms: millis(within) }, message)
        })
    }

    /// Whether jobs could be taken, and none was since the last look.
    fn notice_stillness(&mut self, stats: &QueueStats, last: Last, this: Last) {
        let could = !stats.paused && stats.pending > stats.parked;
        let taken = stats.running > 0 || this.ended != last.ended;
        if !could || taken {
            self.still = 0;
            return;
        }
        if self.still == 0 {
            self.still_since = last.mono;
        }
        self.still = self.still.saturating_add(1);
    }

    fn unhealthy(&mut self, stats: &QueueStats, now: Now) -> Option<(AlertKind, String)> {
        let after = self.rules.unhealthy_after?;
        // Where the provider cannot tell how long the oldest has waited, it is at least as long as nobody took one.
        let seen = now.mono.saturating_sub(self.still_since);
        let waited = stats.oldest_pending.map_or(seen, |oldest| oldest.until(now.wall));
        let level = match self.still {
            0 => Level::Under,
            looks if looks >= STILL_LOOKS && waited > after => Level::Over,
            _ => Level::Between,
        };
        let change = self.unhealthy.change(level, now.mono, self.rules.repeat);
        told(change, "unhealthy", stats).then(|| {
            let ready = stats.pending - stats.parked;
            let message = format!("{ready} jobs are ready, the oldest for {waited:.0?}, and nobody takes them");
            (AlertKind::Unhealthy { oldest_pending_ms: millis(waited) }, message)
        })
    }

    fn late(&mut self, queue: &QueueName, late: &LateJob, now: Now) -> Option<Alert> {
        self.late.last = now.mono;
        self.late.since_told += 1;
        if self.late.condition.change(Level::Over, now.mono, self.rules.repeat) != Change::Tell {
            return None;
        }
        let LateJob { job, actual, target, unfinished } = late;
        let others = std::mem::take(&mut self.late.since_told) - 1;
        let took = if *unfinished { "is not finished after" } else { "took" };
        let mut message = format!("a job {took} {actual:.1?}, its class allows {target:?}");
        if others > 0 {
            message.push_str(&format!("; {others} more were late since this was last told"));
        }
        let what = AlertKind::SlaBreach { job: *job, actual_ms: millis(*actual), target_ms: millis(*target) };
        Some(Alert::new(now.wall, queue.clone(), what, message))
    }
}

impl Late {
    /// Clears where no job was late for a while.
    fn rest(&mut self, stats: &QueueStats, rules: &Rules, now: Now) {
        let quiet = now.mono.saturating_sub(self.last) >= rules.sla_quiet;
        if quiet {
            told(self.condition.change(Level::Under, now.mono, None), "SLA breach", stats);
            self.since_told = 0;
        }
    }
}

fn told(change: Change, what: &'static str, stats: &QueueStats) -> bool {
    if change == Change::Clear {
        tracing::info!(queue = %stats.queue, alert = what, "an alert has cleared");
    }
    change == Change::Tell
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
