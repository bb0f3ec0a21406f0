//! Why a job is not running.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::JobScheduler;
use crate::{
    error::{Error, ErrorCode, Result},
    event::BreakerState,
    job::{JobId, JobKind, JobRef, QueueName, Timestamp},
    lifecycle::JobState,
    limit::{Limit, LimitRules, Need, Room},
    provider::ParkKey,
    queue_spec::QueueSpec,
    stats::QueueStats,
    store::{JobRecord, StoreScope},
    worker::PoolStatus,
};

/// Why a job is not running: what stands in its way, in the order in which it must go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// Which job.
    pub job: JobId,
    /// In which queue.
    pub queue: QueueName,
    /// Its state, where it is known.
    pub state: Option<JobState>,
    /// What stands in its way. Empty for a job that runs or is over, and for one that will start at any moment.
    pub reasons: Vec<WaitReason>,
}

/// Something that stands in a job's way. `Display` says it in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The broker does not answer.
    BrokerAway {
        /// What it says, or that it says nothing.
        error: String,
    },
    /// The records cannot be read: nothing of the queue is claimed until they can.
    StoreAway {
        /// What it says, or that it says nothing.
        error: String,
    },
    /// Workers of the queue are held back.
    Paused,
    /// It was submitted for later, or put off.
    DelayedUntil {
        /// When it is due, where it is known.
        until: Option<Timestamp>,
    },
    /// It failed and waits for its next attempt.
    RetryAt {
        /// When it is due, where it is known.
        until: Option<Timestamp>,
        /// The attempt that is next.
        attempt: u32,
        /// Why the last one failed.
        error: Option<String>,
    },
    /// A limit has no room.
    Limited {
        /// Under which key.
        key: ParkKey,
        /// When it has room again, where time alone brings it about.
        until: Option<Timestamp>,
    },
    /// The circuit breaker of what it depends on is not closed.
    Breaker {
        /// Which.
        key: ParkKey,
        /// What it does.
        state: BreakerState,
        /// When it lets the next job try.
        until: Option<Timestamp>,
    },
    /// No worker takes its kind from its queue.
    NoWorker {
        /// The kind; `None` where no record tells it, and no worker known here is on the queue at all.
        kind: Option<JobKind>,
        /// Workers on its queue that are known here.
        workers: usize,
        /// Whether other processes may have one that is not known here.
        elsewhere: bool,
    },
    /// Workers take its kind, and none of them fetches.
    WorkersSilent {
        /// How long ago the last one did.
        since: Duration,
    },
    /// Every slot that could take it has a job.
    WorkersBusy {
        /// How many slots.
        slots: usize,
    },
    /// As many jobs of its partition run as may.
    PartitionFull {
        /// Which partition.
        partition: Arc<str>,
        /// How many run.
        running: u64,
    },
    /// Others are before it.
    Position {
        /// How many.
        ahead: u64,
    },
}

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl JobScheduler {
    /// Why a job is not running. It takes 5 s at most for each thing that does not answer, and says so of it.
    ///
    /// Limits are those of this scheduler. Workers are those of this process: `elsewhere` says whether there may be others.
    ///
    /// # Errors
    /// `NOT_FOUND` where there is no such job (any more).
    pub async fn explain(&self, job: &JobRef) -> Result<Explanation> {
        let record = match within(self.get(job)).await {
            Ok(record) => Ok(record),
            Err(error) if error.code() == ErrorCode::NotFound => return Err(error),
            Err(error) => Err(error),
        };
        let state = record.as_ref().ok().map(|record| record.state);
        let mut explanation = Explanation { job: job.id, queue: job.queue.clone(), state, reasons: Vec::new() };
        if state.is_some_and(|state| state == JobState::Running || state.is_terminal()) {
            return Ok(explanation);
        }
        let reasons = &mut explanation.reasons;
        if let Err(error) = within(self.provider().ping()).await {
            reasons.push(WaitReason::BrokerAway { error: error.message().to_owned() });
        }
        reasons.extend(self.store_away(record.as_ref().err()));
        let stats = within(self.stats(&job.queue)).await.ok();
        if stats.as_ref().is_some_and(|stats| stats.paused) {
            reasons.push(WaitReason::Paused);
        }
        match &record {
            Ok(record) => {
                reasons.extend(delay(record));
                reasons.extend(self.limited(record).await);
                reasons.extend(stats.and_then(|stats| crowded(record, &stats)));
                reasons.extend(self.workers_missing(record));
            }
            Err(_) => reasons.extend(self.nobody_here(&job.queue)),
        }
        if state == Some(JobState::Pending)
            && let Ok(Some(ahead)) = within(self.admin().position(job)).await
            && ahead > 0
        {
            reasons.push(WaitReason::Position { ahead });
        }
        Ok(explanation)
    }

    /// The records cannot be read, or the store beside the broker does not answer: then nothing is claimed either.
    fn store_away(&self, unread: Option<&Error>) -> Option<WaitReason> {
        let away = self.provider().paired().and_then(|store| store.away);
        let error = match (away, unread) {
            (Some(away), _) => format!("since {}: {}", away.since, away.error),
            (None, Some(error)) if error.code() != ErrorCode::Unsupported => error.message().to_owned(),
            (None, _) => return None,
        };
        Some(WaitReason::StoreAway { error })
    }

    /// Every limit that has no room for it when it is due, and the one it is parked under first.
    async fn limited(&self, record: &JobRecord) -> Vec<WaitReason> {
        let rules = self.limits().unwrap_or_else(|| Arc::new(LimitRules::default()));
        let mut needs = rules.needs(&record.job.queue, &record.envelope);
        let parked = record.parked.as_ref();
        needs.sort_by_key(|need| Some(&need.key) != parked);
        let rooms = within(async { Ok(self.limiter().room(&needs).await) }).await.unwrap_or_default();
        let now = self.env().now();
        let mut reasons = Vec::new();
        let due = record.due_at.filter(|_| is_put_off(record.state));
        for (index, Need { key, limit }) in needs.iter().enumerate() {
            let room = match rooms.get(index) {
                Some(Ok(room)) => *room,
                // Nobody says when, but it is known to wait for that.
                _ if parked == Some(key) => Room { free: 0, next: None, breaker: None },
                _ => continue,
            };
            if room.free > 0 && parked != Some(key) {
                continue;
            }
            let (key, until) = (key.clone(), room.next.map(|next| now + next));
            // What has room again before the job is due stands in nobody's way, and of what has no end yet nobody knows.
            if is_put_off(record.state) && until <= due {
                continue;
            }
            reasons.push(match limit {
                Limit::Breaker(_) => {
                    WaitReason::Breaker { key, state: room.breaker.unwrap_or(BreakerState::Open), until }
                }
                _ => WaitReason::Limited { key, until },
            });
        }
        // Parked under a rule that only another process has.
        if let Some(key) = parked.filter(|key| needs.iter().all(|need| need.key != **key)) {
            reasons.insert(0, WaitReason::Limited { key: key.clone(), until: None });
        }
        reasons
    }

    /// Of a job that no record tells of: whether anybody here works on its queue.
    fn nobody_here(&self, queue: &QueueName) -> Option<WaitReason> {
        let workers = self.pools_on(queue).len();
        (workers == 0).then(|| WaitReason::NoWorker { kind: None, workers, elsewhere: self.may_be_elsewhere() })
    }

    fn pools_on(&self, queue: &QueueName) -> Vec<PoolStatus> {
        let pools = self.workers().into_iter().flat_map(|worker| worker.pools);
        pools.filter(|pool| pool.queue == *queue).collect()
    }

    /// Whether other processes may work on what this one does.
    fn may_be_elsewhere(&self) -> bool {
        self.store().map_or(true, |store| store.scope() == StoreScope::Shared)
    }

    fn workers_missing(&self, record: &JobRecord) -> Option<WaitReason> {
        let kind = &record.envelope.kind;
        let mut pools = self.pools_on(&record.job.queue);
        let workers = pools.len();
        pools.retain(|pool| pool.takes(kind));
        let elsewhere = self.may_be_elsewhere();
        let Some(since) = pools.iter().map(|pool| pool.fetched_ago).min() else {
            return Some(WaitReason::NoWorker { kind: Some(kind.clone()), workers, elsewhere });
        };
        if elsewhere {
            return None;
        }
        if pools.iter().all(|pool| !pool.consuming) {
            return Some(WaitReason::WorkersSilent { since });
        }
        let slots = pools.iter().map(|pool| pool.slots).sum();
        // Who is put off or parked needs no slot now.
        let ready = record.state == JobState::Pending && record.parked.is_none();
        (ready && pools.iter().all(|pool| pool.busy >= pool.slots)).then_some(WaitReason::WorkersBusy { slots })
    }
}

/// It is not due yet.
const fn is_put_off(state: JobState) -> bool {
    matches!(state, JobState::Scheduled | JobState::Retrying)
}

fn delay(record: &JobRecord) -> Option<WaitReason> {
    let until = record.due_at;
    match record.state {
        JobState::Scheduled => Some(WaitReason::DelayedUntil { until }),
        JobState::Retrying => {
            let error = record.error.as_ref().map(ToString::to_string);
            Some(WaitReason::RetryAt { until, attempt: record.attempt, error })
        }
        _ => None,
    }
}

/// It is ready, and as many of its partition run as may.
fn crowded(record: &JobRecord, stats: &QueueStats) -> Option<WaitReason> {
    if record.state != JobState::Pending || record.parked.is_some() {
        return None;
    }
    let named = record.envelope.partition();
    let named = named.as_deref().unwrap_or(QueueSpec::DEFAULT_PARTITION);
    let full = stats.partitions.iter().find(|partition| *partition.name == *named && partition.is_full())?;
    Some(WaitReason::PartitionFull { partition: Arc::clone(&full.name), running: full.running })
}

async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorCode::Timeout, format!("no answer within {PATIENCE:?}")).at("explain")))
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.map_or("of unknown state", JobState::as_str);
        write!(f, "{} is {state}", self.job)?;
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{}{reason}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokerAway { error } => write!(f, "the broker does not answer ({error})"),
            Self::StoreAway { error } => write!(f, "the store does not answer ({error})"),
            Self::Paused => f.write_str("the queue is paused: resume it"),
            Self::DelayedUntil { until } => write!(f, "it is delayed{}", Until(until)),
            Self::RetryAt { until, attempt, error } => {
                write!(f, "attempt {attempt} waits{}", Until(until))?;
                error.as_ref().map_or(Ok(()), |error| write!(f, " after {error}"))
            }
            Self::Limited { key, until } => write!(f, "the limit {} has no room{}", key.0, Until(until)),
            Self::Breaker { key, state, until } => {
                let state = match state {
                    BreakerState::Closed => "closed again",
                    BreakerState::Open => "open",
                    BreakerState::HalfOpen => "trying a few",
                };
                write!(f, "the circuit breaker {} is {state}{}", key.0, Until(until))
            }
            Self::NoWorker { kind: None, elsewhere, .. } => write!(f, "no worker is on the queue{}", here(*elsewhere)),
            Self::NoWorker { kind: Some(kind), workers: 0, elsewhere } => {
                write!(f, "no worker takes `{kind}`: none works on the queue{}", here(*elsewhere))
            }
            Self::NoWorker { kind: Some(kind), workers, elsewhere } => {
                write!(
                    f,
                    "none of {workers} workers on the queue takes `{kind}`: register a handler{}",
                    here(*elsewhere)
                )
            }
            Self::WorkersSilent { since } => write!(f, "its workers have fetched nothing for {} s", since.as_secs()),
            Self::WorkersBusy { slots: 1 } => f.write_str("the only slot for it is busy"),
            Self::WorkersBusy { slots } => write!(f, "all {slots} slots for it are busy"),
            Self::PartitionFull { partition, running } => {
                write!(f, "its partition `{partition}` has {running} running, as many as may")
            }
            Self::Position { ahead: 1 } => f.write_str("1 job is before it"),
            Self::Position { ahead } => write!(f, "{ahead} jobs are before it"),
        }
    }
}

const fn here(elsewhere: bool) -> &'static str {
    if elsewhere { " in this process (others are not known here)" } else { "" }
}

struct Until<'a>(&'a Option<Timestamp>);

impl fmt::Display for Until<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |until| write!(f, " until {until}"))
    }
}
