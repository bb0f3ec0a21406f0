//! Those who publish: as fast as the workers keep up, each job until it is accepted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use queue_core::{
    Error, ErrorCode, JobId, JobScheduler,
    provider::{PublishOptions, PublishOutcome, Rejection},
    scheduler::Submitted,
};
use tokio::task::JoinSet;

use super::load::{Load, dice};

const PRODUCERS: usize = 3;
/// So many jobs may be in the queue: enough that every worker always has some, and no more.
const BACKLOG: u64 = 400;
const PAUSE: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_secs(10);
/// What a busy machine adds to a deadline.
const SLACK: Duration = Duration::from_secs(3);

/// What was published: a number for each job, and the best answer to it.
pub(crate) type Published = Vec<(u64, PublishOutcome)>;

#[derive(Debug)]
struct Shared {
    load: Load,
    next: AtomicU64,
    published: Mutex<Published>,
    ended: Arc<AtomicU64>,
    stop: AtomicBool,
    /// The longest that an answer took, in milliseconds.
    slowest: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Producers {
    scheduler: JobScheduler,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Producers {
    pub(crate) fn start(scheduler: &JobScheduler, load: &Load, ended: Arc<AtomicU64>) -> Self {
        let shared = Shared {
            load: load.clone(),
            next: AtomicU64::new(0),
            published: Mutex::default(),
            ended,
            stop: AtomicBool::new(false),
            slowest: AtomicU64::new(0),
        };
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        for _ in 0..PRODUCERS {
            tasks.spawn(publish(scheduler.clone(), Arc::clone(&shared)));
        }
        Self { scheduler: scheduler.clone(), shared, tasks }
    }

    /// Publishes one job beside the others, however many wait. A try that was not accepted may have taken: it is not repeated.
    pub(crate) async fn one_more(&self, deadline: Duration) -> (JobId, Submitted) {
        let shared = &self.shared;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let options = PublishOptions { deadline, ..PublishOptions::default() };
        let answer = self.scheduler.submit(&shared.load.queue, vec![shared.load.job(number)], &options).await.remove(0);
        shared.published.lock().push((number, outcome(answer.clone())));
        (shared.load.id(number), answer)
    }

    /// Whether an answer came after its deadline.
    pub(crate) fn late(&self) -> Option<String> {
        let slowest = Duration::from_millis(self.shared.slowest.load(Ordering::Relaxed));
        (slowest > DEADLINE + SLACK)
            .then(|| format!("a publish was answered after {slowest:?}, its deadline was {DEADLINE:?}"))
    }

    /// How many jobs were begun.
    pub(crate) fn begun(&self) -> u64 {
        self.shared.next.load(Ordering::Relaxed)
    }

    /// Ends publishing and says what was published.
    pub(crate) async fn stop(mut self) -> Published {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.shared.published.lock())
    }
}

async fn publish(scheduler: JobScheduler, shared: Arc<Shared>) {
    let options = PublishOptions { deadline: DEADLINE, ..PublishOptions::default() };
    while !shared.stop.load(Ordering::Relaxed) {
        let next = shared.next.load(Ordering::Relaxed);
        if next.saturating_sub(shared.ended.load(Ordering::Relaxed)) > BACKLOG {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let size = dice(shared.load.seed, next, 6) % 20 + 1;
        let first = shared.next.fetch_add(size, Ordering::Relaxed);
        let mut left: Vec<u64> = (first..first + size).collect();
        while !left.is_empty() {
            let jobs = left.iter().map(|number| shared.load.job(*number)).collect();
            let asked = tokio::time::Instant::now();
            let answers = scheduler.submit(&shared.load.queue, jobs, &options).await;
            let took = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            shared.slowest.fetch_max(took, Ordering::Relaxed);
            let stop = shared.stop.load(Ordering::Relaxed);
            let mut again = Vec::new();
            for (number, answer) in left.into_iter().zip(answers) {
                let outcome = outcome(answer);
                match outcome {
                    PublishOutcome::Accepted { .. } => shared.published.lock().push((number, outcome)),
                    // An earlier try may have taken.
                    _ if stop => shared.published.lock().push((number, PublishOutcome::Unknown(given_up()))),
                    _ => again.push(number),
                }
            }
            left = again;
            if !left.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn given_up() -> Error {
    Error::new(ErrorCode::Unavailable, "given up")
}

fn outcome(answer: Submitted) -> PublishOutcome {
    match answer {
        Submitted::Accepted(job) => PublishOutcome::Accepted { place: job.place },
        Submitted::Unknown(_, error) => PublishOutcome::Unknown(error),
        Submitted::Rejected(error) => PublishOutcome::Rejected(Rejection::Unavailable(error)),
        Submitted::Duplicate(_) => {
            let never = Error::new(ErrorCode::Internal, "a job without a unique key is a duplicate");
            PublishOutcome::Rejected(Rejection::Denied(never))
        }
    }
}
