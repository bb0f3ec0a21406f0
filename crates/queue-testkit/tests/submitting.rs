//! A publish that is not answered is repeated where that makes no second job, and both tries have one deadline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Env, Envelope, Error, ErrorCode, JobScheduler, QueueName, QueueProvider, Timestamp,
    job::JobKind,
    provider::{PublishOptions, PublishOutcome},
    scheduler::{NewJob, Submitted},
};
use queue_memory::MemoryProvider;
use queue_testkit::front::{InFront, ProviderFront};
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(30);

/// Every publish takes so long, or until its deadline, and is not answered.
#[derive(Debug)]
struct Silent {
    behind: MemoryProvider,
    takes: Duration,
    /// Which deadlines it was given.
    given: Arc<Mutex<Vec<Duration>>>,
}

#[async_trait]
impl ProviderFront for Silent {
    fn behind(&self) -> &dyn QueueProvider {
        &self.behind
    }

    async fn publish(&self, _: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.given.lock().unwrap().push(options.deadline);
        tokio::time::sleep(self.takes.min(options.deadline)).await;
        let unanswered = || PublishOutcome::Unknown(Error::new(ErrorCode::Timeout, "no answer"));
        batch.iter().map(|_| unanswered()).collect()
    }
}

/// Which deadlines the provider was given.
async fn deadlines(takes: Duration) -> Vec<Duration> {
    let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
    let (behind, given) = (MemoryProvider::with_env(env.clone()), Arc::default());
    let provider = InFront(Silent { behind, takes, given: Arc::clone(&given) });
    let queues = JobScheduler::with_env(Arc::new(provider), env);
    let begun = Instant::now();
    let options = PublishOptions { deadline: DEADLINE, ..PublishOptions::default() };
    let jobs = vec![NewJob::new(JobKind::from_static("x"), "")];
    let submitted = queues.submit(&QueueName::from_static("q"), jobs, &options).await;
    assert!(matches!(submitted[..], [Submitted::Unknown(..)]), "{submitted:?}");
    assert!(begun.elapsed() <= DEADLINE + Duration::from_millis(10), "{:?}", begun.elapsed());
    given.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_repeated_publish_has_what_the_first_left_of_the_deadline() {
    let given = deadlines(Duration::from_secs(18)).await;
    assert_eq!(given.iter().map(Duration::as_secs).collect::<Vec<_>>(), [30, 12], "{given:?}");
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_took_all_the_time_is_not_repeated() {
    assert_eq!(deadlines(DEADLINE).await, [DEADLINE]);
}
