//! A worker that stands still past its lease and then goes on.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use queue_core::{
    QueueName, QueueProvider as _,
    job::JobRef,
    lifecycle::JobState,
    provider::{SettleOutcome, Settlement},
    store::Lookup,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Rig, complete, connect, consumer, envelope, id, publish};

const LEASE: Duration = Duration::from_millis(700);
const URL: &str = "QUEUE_TEST_STOPPED_WORKER_OF";

/// The worker process: takes a job, says so, and completes it when it is told to.
#[tokio::test]
#[ignore = "not a test: the other process of the test below"]
async fn the_worker_that_is_stopped() {
    let Ok(url) = std::env::var(URL) else { return };
    let provider = connect(&url).await;
    let consumer = consumer(&provider, &QueueName::from_static("faults"), LEASE).await;
    let jobs = consumer.fetch(1, Duration::from_secs(10)).await.unwrap();
    eprintln!("holding");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let outcome = consumer.settle(&[Settlement::new(jobs[0].receipt, complete())]).await.remove(0);
    eprintln!("told {outcome:?}");
}

async fn told(stop: bool) -> Option<(String, JobState)> {
    let rig = Rig::new()?;
    let provider = rig.connect().await;
    publish(&provider, &rig.queue, vec![envelope(1)]).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["stopped::the_worker_that_is_stopped", "--exact", "--ignored", "--nocapture"]);
    command.env(URL, rig.server.url()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.find(|line| line == "holding").expect("it holds the job");
    if stop {
        kill_process(pid, Signal::STOP).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    if stop {
        let other = rig.consumer(&provider, LEASE).await;
        let jobs = other.fetch(1, Duration::from_secs(10)).await.unwrap();
        let outcome = other.settle(&[Settlement::new(jobs[0].receipt, complete())]).await.remove(0);
        assert!(matches!(outcome, SettleOutcome::Settled), "{outcome:?}");
        kill_process(pid, Signal::CONT).unwrap();
    }
    let told = said.find_map(|line| line.strip_prefix("told ").map(str::to_owned)).expect("it was told something");
    child.wait().unwrap();
    let store = provider.job_store().unwrap();
    let job = JobRef::new(rig.queue.clone(), id(1));
    let Lookup::Found(record) = store.get(&[job]).await.remove(0).unwrap() else { panic!("it is gone") };
    assert_eq!(rig.stats(&provider).await.completed_total, 1);
    Some((told, record.state))
}

#[tokio::test]
async fn a_worker_stopped_past_its_lease_cannot_settle_what_another_has_finished() {
    let Some(stopped) = told(true).await else { return };
    assert_eq!(stopped, ("LeaseLost".to_owned(), JobState::Completed));
    // And it is the stop that makes the difference.
    assert_eq!(told(false).await, Some(("Settled".to_owned(), JobState::Completed)));
}
