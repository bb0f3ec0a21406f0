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
    Error, ErrorCode, JobScheduler,
    provider::{PublishOptions, PublishOutcome, Rejection},
    scheduler::Submitted,
};
use tokio::task::JoinSet;

use crate::load::{Load, dice};

const PRODUCERS: usize = 3;
/// So many jobs may be in the queue: enough that every worker always has some, and no more.
const BACKLOG: u64 = 400;
const PAUSE: Duration = Duration::from_millis(10);

/// What was published: a number for each job, and the best answer to it.
pub(crate) type Published = Vec<(u64, PublishOutcome)>;

#[derive(Debug)]
struct Shared {
    load: Load,
    next: AtomicU64,
    published: Mutex<Published>,
    ended: Arc<AtomicU64>,
    stop: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Producers {
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
        };
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        for _ in 0..PRODUCERS {
            tasks.spawn(publish(scheduler.clone(), Arc::clone(&shared)));
        }
        Self { shared, tasks }
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
    let options = PublishOptions { deadline: Duration::from_secs(10), ..PublishOptions::default() };
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
            let answers = scheduler.submit(&shared.load.queue, jobs, &options).await;
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
