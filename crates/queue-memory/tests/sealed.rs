//! Jobs that are drafted and sealed by who submits them are held to what all jobs are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::Duration;

use bytes::Bytes;
use queue_core::{
    ErrorCode, JobId, JobScheduler, QueueName, QueueSpec, job::JobKind, provider::PublishOptions, scheduler::Submitted,
};
use queue_memory::MemoryProvider;

#[tokio::test]
async fn no_timeout_is_refused_and_the_neighbours_are_taken() {
    let queues = JobScheduler::new(MemoryProvider::new());
    let name = QueueName::new("q").unwrap();
    queues.declare(QueueSpec::new(name.clone())).await.unwrap();
    let spec = queues.declared(&name).await.unwrap();
    let now = queues.env().now();
    let job = |number, timeout: Option<Duration>| {
        let id = JobId::derive(b"sealed", number);
        let mut parts = queues.draft(&spec, id, JobKind::new("x").unwrap(), Bytes::new(), now);
        parts.timeout = timeout.unwrap_or(parts.timeout);
        parts.seal()
    };
    let jobs = [job(1, None), job(2, Some(Duration::ZERO)), job(3, None)];
    let answers = queues.submit_sealed(&name, &jobs, &PublishOptions::default()).await;
    let [Submitted::Accepted(first), Submitted::Rejected(error), Submitted::Accepted(last)] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!((first.id, error.code(), last.id), (jobs[0].id, ErrorCode::Validation, jobs[2].id));
    assert_eq!(queues.stats(&name).await.unwrap().pending, 2);
}
