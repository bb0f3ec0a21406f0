//! What a worker does is known from a job's start until its observer has heard of its end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    sync::{Mutex, mpsc},
    time::Duration,
};

use queue_core::{
    JobScheduler, QueueName,
    job::JobKind,
    provider::PublishOptions,
    scheduler::{NewJob, Submitted},
    worker::{AtWork, Failure, JobRequest, RunAny},
};
use queue_memory::MemoryProvider;

const RUN: Duration = Duration::from_millis(20);

struct Sleeps;

impl RunAny for Sleeps {
    async fn run(&self, _: JobRequest) -> Result<Option<bytes::Bytes>, Failure> {
        tokio::time::sleep(RUN).await;
        Ok(None)
    }
}

async fn submitted(queues: &JobScheduler) -> Vec<queue_core::JobId> {
    let jobs = (0..2).map(|_| NewJob::new(JobKind::new("x").unwrap(), "")).collect();
    let answers = queues.submit(&QueueName::new("q").unwrap(), jobs, &PublishOptions::default()).await;
    let accepted = |answer| match answer {
        Submitted::Accepted(job) => job.id,
        other => panic!("{other:?}"),
    };
    answers.into_iter().map(accepted).collect()
}

/// Waits until it is so.
async fn until(queues: &JobScheduler, is_so: impl Fn(&[AtWork]) -> bool) -> Vec<AtWork> {
    loop {
        let at_work = queues.at_work();
        if is_so(&at_work) {
            return at_work;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_ran_is_at_work_until_the_observer_has_heard_of_it() {
    let queues = JobScheduler::new(MemoryProvider::new());
    let (hears, heard) = mpsc::channel();
    let (goes_on, may) = mpsc::channel::<()>();
    let may = Mutex::new(may);
    let observe = move |report: queue_core::worker::RunReport| {
        hears.send((report.job.id, report.attempt, report.run)).unwrap();
        // Until it is told to, or the test is over.
        let _ = tokio::task::block_in_place(|| may.lock().unwrap().recv());
    };
    let ids = submitted(&queues).await;
    let worker = queues.worker().queue("q", 2).fallback_any(Sleeps).observe(observe).start().await.unwrap();
    let running = until(&queues, |all| all.len() == 2).await;
    assert!(running.iter().all(|at_work| ids.contains(&at_work.job)));
    // One is being told of; the other is settled with it, or waits for its turn.
    let ended = until(&queues, |all| all.iter().all(|at_work| at_work.ended_after.is_some())).await;
    assert_eq!(ended.len(), 2, "{ended:?}");
    let (id, attempt, run) = tokio::task::block_in_place(|| heard.recv().unwrap());
    assert!(run >= RUN);
    let told = ended.iter().find(|at_work| at_work.job == id).unwrap();
    assert_eq!((told.attempt, told.ended_after), (attempt, Some(run)));
    tokio::time::sleep(5 * RUN).await;
    assert_eq!(queues.at_work().len(), 2, "neither observer has returned");
    goes_on.send(()).unwrap();
    let left = until(&queues, |all| all.len() == 1).await;
    assert_ne!(left[0].job, id);
    goes_on.send(()).unwrap();
    until(&queues, <[AtWork]>::is_empty).await;
    worker.stop().await;
}
