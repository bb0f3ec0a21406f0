//! A queue with limits, a worker whose handler keeps book, and what the book says.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt;
use queue_core::{
    Env, Event, Failure, Job, JobContext, JobScheduler, QueueName, QueueProvider, RetryPolicy, Timestamp,
    event::{BreakerEvent, BreakerState, JobEvent},
    job::{JobRef, LimitKeys},
    limit::{Limit, LimitRule},
    provider::{Cancel, PublishOptions},
    scheduler::{NewJob, Submitted},
    store::{JobRecord, Lookup, Watched},
    worker::Worker,
};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use validator::Validate;

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn keys(set: impl FnOnce(&mut LimitKeys)) -> LimitKeys {
    let mut keys = LimitKeys::default();
    set(&mut keys);
    keys
}

pub(crate) fn limit(scope: &str, limit: Limit) -> LimitRule {
    LimitRule { scope: scope.parse().unwrap(), limit }
}

#[derive(Debug, Serialize, Deserialize, Validate)]
pub(crate) struct Numbered {
    number: u32,
    queue: String,
    /// The name of the first key it has.
    key: String,
    submitted: Duration,
}

impl Job for Numbered {
    const KIND: &'static str = "work";
    const QUEUE: &'static str = "jobs";
    type Output = ();
}

/// One run of a job; times are since the rig was made.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) number: u32,
    pub(crate) queue: String,
    pub(crate) key: String,
    pub(crate) submitted: Duration,
    pub(crate) begun: Duration,
    pub(crate) ended: Option<Duration>,
}

/// What a run does.
pub(crate) enum Work {
    Takes(Duration),
    Fails(Failure),
    Panics,
    Hangs,
}

type Does = Arc<dyn Fn(&Run) -> Work + Send + Sync>;

pub(crate) struct Rig {
    pub(crate) queues: JobScheduler,
    start: tokio::time::Instant,
    book: Arc<Mutex<Vec<Run>>>,
    does: Arc<Mutex<Does>>,
    jobs: Arc<Mutex<Vec<JobRef>>>,
}

impl Rig {
    pub(crate) fn new(rules: &[(&str, Limit)]) -> Self {
        let env = env();
        Self::on(Arc::new(MemoryProvider::with_env(env.clone())), env, rules)
    }

    pub(crate) fn on(provider: Arc<dyn QueueProvider>, env: Env, rules: &[(&str, Limit)]) -> Self {
        let queues = JobScheduler::with_env(provider, env);
        for (scope, rule) in rules {
            queues.limit(limit(scope, *rule)).unwrap();
        }
        let does: Does = Arc::new(|_| Work::Takes(Duration::ZERO));
        Self {
            queues,
            start: tokio::time::Instant::now(),
            book: Arc::default(),
            does: Arc::new(Mutex::new(does)),
            jobs: Arc::default(),
        }
    }

    /// Another scheduler on the same provider, as another process would have; it keeps the same book.
    pub(crate) fn beside(&self, rules: &[(&str, Limit)]) -> Self {
        let other = Self::on(Arc::clone(self.queues.provider()), self.queues.env().clone(), rules);
        Self {
            start: self.start,
            book: Arc::clone(&self.book),
            does: Arc::clone(&self.does),
            jobs: Arc::clone(&self.jobs),
            ..other
        }
    }

    pub(crate) fn work(&self, does: impl Fn(&Run) -> Work + Send + Sync + 'static) {
        *self.does.lock().unwrap() = Arc::new(does);
    }

    pub(crate) async fn submit(&self, count: u32, keys: LimitKeys) {
        self.submit_jobs("jobs", count, keys, None).await;
    }

    pub(crate) async fn submit_to(&self, queue: &str, count: u32, keys: LimitKeys) {
        self.submit_jobs(queue, count, keys, None).await;
    }

    pub(crate) async fn submit_retrying(&self, count: u32, keys: LimitKeys, retry: RetryPolicy) {
        self.submit_jobs("jobs", count, keys, Some(retry)).await;
    }

    async fn submit_jobs(&self, queue: &str, count: u32, keys: LimitKeys, retry: Option<RetryPolicy>) {
        let named = [&keys.tenant, &keys.rate, &keys.concurrency, &keys.breaker];
        let key = named.into_iter().flatten().next().map(ToString::to_string).unwrap_or_default();
        let first = u32::try_from(self.jobs.lock().unwrap().len()).unwrap();
        let job = |number| {
            let job = Numbered { number, queue: queue.into(), key: key.clone(), submitted: self.start.elapsed() };
            let mut job = NewJob::typed(&job).unwrap();
            job.options.headers.keys = keys.clone();
            job.options.retry = retry.clone();
            job
        };
        let batch = (first..first + count).map(job).collect();
        let answers = self.queues.submit(&QueueName::new(queue).unwrap(), batch, &PublishOptions::default()).await;
        let mut jobs = self.jobs.lock().unwrap();
        for answer in answers {
            let Submitted::Accepted(job) = answer else { panic!("{answer:?}") };
            jobs.push(job);
        }
    }

    pub(crate) async fn worker(&self, slots: usize) -> Worker {
        self.worker_on(&[("jobs", slots)]).await
    }

    pub(crate) async fn worker_on(&self, queues: &[(&str, usize)]) -> Worker {
        self.start_worker(queues, seconds(30)).await
    }

    pub(crate) async fn worker_with_lease(&self, slots: usize, lease: Duration) -> Worker {
        self.start_worker(&[("jobs", slots)], lease).await
    }

    async fn start_worker(&self, queues: &[(&str, usize)], lease: Duration) -> Worker {
        let (book, does, start) = (Arc::clone(&self.book), Arc::clone(&self.does), self.start);
        let mut worker = self.queues.worker().heartbeat_on_runtime().lease(lease);
        for (queue, slots) in queues {
            worker = worker.queue(queue, *slots);
        }
        let handler = move |job: Numbered, _: JobContext| {
            let (book, does) = (Arc::clone(&book), Arc::clone(&does));
            async move {
                let Numbered { number, queue, key, submitted } = job;
                let run = Run { number, queue, key, submitted, begun: start.elapsed(), ended: None };
                let work = Arc::clone(&does.lock().unwrap())(&run);
                let place = {
                    let mut book = book.lock().unwrap();
                    book.push(run);
                    book.len() - 1
                };
                match work {
                    Work::Takes(time) if time.is_zero() => {}
                    Work::Takes(time) => tokio::time::sleep(time).await,
                    Work::Fails(failure) => {
                        tokio::time::sleep(millis(2)).await;
                        return Err(failure);
                    }
                    Work::Panics => panic!("on purpose"),
                    Work::Hangs => std::future::pending().await,
                }
                book.lock().unwrap()[place].ended = Some(start.elapsed());
                Ok(())
            }
        };
        worker.register(handler).start().await.unwrap()
    }

    /// How long it took, from the rig's making, until so many runs had ended well.
    pub(crate) async fn until_done(&self, count: usize) -> Duration {
        self.until(|runs| runs.iter().filter(|run| run.ended.is_some()).count() >= count).await
    }

    pub(crate) async fn until(&self, done: impl Fn(&[Run]) -> bool) -> Duration {
        for _ in 0..200_000 {
            if done(&self.book.lock().unwrap()) {
                let took = self.start.elapsed();
                // Let settlements be done too.
                tokio::time::sleep(millis(5)).await;
                return took;
            }
            tokio::time::sleep(millis(5)).await;
        }
        panic!("after {:?}: {:?}", self.start.elapsed(), self.book.lock().unwrap().len());
    }

    /// Runs, in the order in which they began.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.book.lock().unwrap().clone()
    }

    pub(crate) fn starts(&self, which: impl Fn(&Run) -> bool) -> Vec<Duration> {
        self.runs().iter().filter(|run| which(run)).map(|run| run.begun).collect()
    }

    pub(crate) fn attempts(&self) -> Vec<Duration> {
        self.starts(|_| true)
    }

    pub(crate) fn most_at_once(&self, which: impl Fn(&Run) -> bool) -> usize {
        let runs: Vec<_> = self.runs().into_iter().filter(|run| which(run)).collect();
        let at =
            |now: Duration| runs.iter().filter(|run| run.begun <= now && run.ended.is_none_or(|end| end > now)).count();
        runs.iter().map(|run| at(run.begun)).max().unwrap_or_default()
    }

    pub(crate) async fn records(&self) -> Vec<JobRecord> {
        let jobs = self.jobs.lock().unwrap().clone();
        let found = self.queues.store().unwrap().get(&jobs).await;
        let record = |found| match found {
            Ok(Lookup::Found(record)) => *record,
            other => panic!("{other:?}"),
        };
        found.into_iter().map(record).collect()
    }

    pub(crate) async fn all_completed_at_the_first_attempt(&self) {
        for record in self.records().await {
            assert_eq!((record.state.as_str(), record.attempt), ("completed", 1), "{record:?}");
        }
    }

    pub(crate) async fn cancel(&self, number: usize) {
        let job = self.jobs.lock().unwrap()[number].clone();
        let outcomes = self.queues.store().unwrap().cancel(&[job], &Cancel::by("a test")).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }

    pub(crate) async fn pause(&self, queue: &str, paused: bool) {
        self.queues.admin().pause(&QueueName::new(queue).unwrap(), paused).await.unwrap();
    }

    pub(crate) async fn parked(&self) -> u64 {
        self.queues.stats(&QueueName::from_static("jobs")).await.unwrap().parked
    }

    async fn listen<T: Send + 'static>(
        &self,
        take: impl Fn(Event) -> Option<T> + Send + 'static,
    ) -> Arc<Mutex<Vec<T>>> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut events = self.queues.events().await.unwrap();
        let hears = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(watched) = events.next().await {
                let Watched::Event(event) = watched else { panic!("missed events") };
                hears.lock().unwrap().extend(take(event));
            }
        });
        heard
    }

    pub(crate) async fn breaker_events(&self) -> Arc<Mutex<Vec<BreakerEvent>>> {
        let breaker = |event| if let Event::Breaker(event) = event { Some(event) } else { None };
        self.listen(breaker).await
    }

    pub(crate) async fn job_events(&self) -> Arc<Mutex<Vec<JobEvent>>> {
        self.listen(|event| if let Event::Job(event) = event { Some(event) } else { None }).await
    }

    /// When which breaker changed how, in whole seconds.
    pub(crate) fn seconds_of(&self, changes: &Mutex<Vec<BreakerEvent>>) -> Vec<(BreakerState, BreakerState, u64)> {
        let begin = START;
        let of = |event: &BreakerEvent| (event.from, event.to, (event.at.as_millis() - begin) / 1_000);
        changes.lock().unwrap().iter().map(of).collect()
    }
}

const START: u64 = 1_700_000_000_000;

pub(crate) fn env() -> Env {
    Env::seeded(Timestamp::from_millis(START), 5)
}
