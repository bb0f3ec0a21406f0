//! Forgetting finished jobs by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use queue_core::{
    Env, JobError, QueueProvider, QueueSpec,
    error::ErrorCode,
    job::{Envelope, JobKind},
    provider::{ConsumeOptions, Disposition, PublishOptions, Settlement},
    queue_spec::Retention,
};

use queue_core::{QueueName, job::JobId};
use queue_memory::MemoryProvider;

#[tokio::test]
async fn only_what_is_named_and_finished_is_forgotten() {
    let provider = MemoryProvider::new();
    let name = QueueName::from_static("q");
    let mut spec = QueueSpec::new(name.clone());
    spec.retention = Retention { age: Duration::MAX, count: 2, bytes: u64::MAX, dead: Duration::MAX };
    provider.declare(&spec).await.unwrap();
    let env = Env::system();
    let jobs: Vec<_> = (0..5)
        .map(|_| Envelope::builder(JobId::fresh(&env), JobKind::from_static("k"), Bytes::new(), env.now()).seal())
        .collect();
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    provider.publish(&name, jobs, &PublishOptions::default()).await;
    let consumer = provider.consumer(&name, ConsumeOptions::new("w", 4)).await.unwrap();
    let fetched = consumer.fetch(4, Duration::ZERO).await.unwrap();
    let error = || JobError::new(ErrorCode::HandlerFailed, "no");
    let settle = |n: usize, disposition| Settlement::new(fetched[n].receipt, disposition);
    let done = || Disposition::Complete { result: None };
    let batch = [settle(0, done()), settle(1, Disposition::DeadLetter { error: error() }), settle(2, done())];
    consumer.settle(&batch).await;

    let all: HashSet<JobId> = ids.iter().copied().filter(|id| *id != ids[2]).collect();
    assert_eq!(provider.forget(&name, &all), 2, "the completed and the dead one; one runs, one waits");
    assert_eq!(provider.forget(&name, &all), 0);
    let stats = provider.admin().stats(std::slice::from_ref(&name)).await.remove(0).unwrap();
    assert_eq!((stats.dead, stats.running, stats.pending), (0, 1, 1));
    // What is left is counted as before: the third and one more stay, then the oldest goes.
    consumer.settle(&[settle(3, done())]).await;
    let store = provider.job_store().unwrap();
    let found = store.list(&queue_core::store::JobQuery::queue(name.clone()), None, 10).await.unwrap();
    assert_eq!(found.items.len(), 3);
}
