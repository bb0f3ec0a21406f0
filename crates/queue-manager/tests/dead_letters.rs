//! Dead letters: found, looked at, brought back and forgotten.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use queue_core::{
    Env, ErrorCode, Failure, Job, JobContext, JobError, JobId, QueueName, QueueSpec, Timestamp,
    job::JobKind,
    provider::{DeadFilter, RedriveReport},
    queue_spec::Tracking,
    scheduler::NewJob,
    worker::Worker,
};
use queue_manager::{ManagerBuilder, QueueManager};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use validator::Validate;

const SECOND: Duration = Duration::from_secs(1);
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Send {
    #[validate(length(max = 20))]
    to: String,
}

impl Job for Send {
    const KIND: &'static str = "mail.send";
    const QUEUE: &'static str = "mail";
    type Output = ();
}

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Print {
    pages: u32,
}

impl Job for Print {
    const KIND: &'static str = "paper.print";
    const QUEUE: &'static str = "mail";
    type Output = ();
}

fn builder() -> ManagerBuilder {
    QueueManager::builder().env(Env::seeded(START, 7))
}

fn report(matched: u64, redriven: u64) -> RedriveReport {
    RedriveReport { matched, redriven, duplicates: 0 }
}

fn never(code: &'static str) -> Failure {
    Failure::Never(JobError::custom(code, "no").permanent())
}

/// Everything dies of the error it names, except what is right.
async fn worker(queues: &QueueManager) -> Worker {
    let send = async |job: Send| match job.to.as_str() {
        "right" => Ok(()),
        "late" => Err(never("LATE")),
        _ => Err(Failure::never("nobody there")),
    };
    let print = async |_: Print| Err::<(), _>(never("PAPER"));
    queues.worker().queue("mail", 8).heartbeat_on_runtime().register(send).register(print).start().await.unwrap()
}

async fn submit(queues: &QueueManager, to: &str) -> JobId {
    queues.enqueue(Send { to: to.into() }).await.unwrap().id()
}

/// Who is written to by the jobs that match.
async fn found(queues: &QueueManager, filter: &DeadFilter) -> Vec<String> {
    let dead = queues.dead_letters("mail").unwrap();
    assert_eq!(dead.count(filter).await.unwrap(), dead.list(filter, None, 100).await.unwrap().items.len() as u64);
    let mut found = Vec::new();
    for job in dead.list(filter, None, 100).await.unwrap().items {
        let letter = dead.get(job.id).await.unwrap();
        found.push(letter.decode::<Send>().map_or_else(|_| "print".to_owned(), |job| job.to));
    }
    found
}

#[tokio::test(start_paused = true)]
async fn every_part_of_a_filter_must_match() {
    let queues = builder().connect().await.unwrap();
    let worker = worker(&queues).await;
    for (at, to) in [(0, "early"), (10, "late"), (20, "late"), (30, "nobody")] {
        submit(&queues, to).await;
        queues.enqueue(Print { pages: at }).await.unwrap();
        sleep(10 * SECOND).await;
    }
    let code = || Some("LATE".to_owned());
    let kind = || Some(JobKind::from_static(Send::KIND));
    let at = |seconds: u32| Some(START + SECOND * seconds);
    let all = DeadFilter::default();
    let cases = [
        (DeadFilter { code: code(), ..all.clone() }, vec!["late", "late"]),
        (DeadFilter { kind: kind(), ..all.clone() }, vec!["early", "late", "late", "nobody"]),
        (DeadFilter { kind: kind(), since: at(5), ..all.clone() }, vec!["late", "late", "nobody"]),
        (DeadFilter { kind: kind(), since: at(5), before: at(15), ..all.clone() }, vec!["late"]),
        (DeadFilter { code: code(), since: at(15), ..all.clone() }, vec!["late"]),
        (DeadFilter { code: code(), kind: kind(), since: at(15), before: at(40) }, vec!["late"]),
        (DeadFilter { code: code(), kind: Some(JobKind::from_static(Print::KIND)), ..all.clone() }, vec![]),
        (DeadFilter { code: code(), before: at(5), ..all.clone() }, vec![]),
    ];
    for (filter, wanted) in cases {
        assert_eq!(found(&queues, &filter).await, wanted, "{filter:?}");
    }
    assert_eq!(queues.dead_letters("mail").unwrap().count(&all).await.unwrap(), 8);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_is_inspected_with_its_history() {
    for tracking in [Tracking::Full, Tracking::Off] {
        let queues = builder().connect().await.unwrap();
        let mut spec = QueueSpec::new(QueueName::from_static("mail"));
        spec.tracking = tracking;
        queues.declare(spec).await.unwrap();
        let fail = async |_: Send, context: JobContext| {
            Err::<(), _>(Failure::Retry(JobError::custom("BROKEN", format!("attempt {}", context.attempt()))))
        };
        let worker = queues.worker().queue("mail", 1).heartbeat_on_runtime().register(fail).start().await.unwrap();
        let ids = [submit(&queues, "a").await, submit(&queues, "b").await];
        sleep(60 * SECOND).await;
        let dead = queues.dead_letters("mail").unwrap();
        let letter = dead.get(ids[1]).await.unwrap();
        assert_eq!((letter.job.id, letter.job.attempt, &*letter.job.error.code), (ids[1], 4, "BROKEN"));
        assert_eq!((letter.job.error.message.as_str(), letter.payload()), ("attempt 4", &br#"{"to":"b"}"#[..]));
        let listed = dead.list(&DeadFilter::default(), None, 9).await.unwrap().items;
        let died_at = listed.iter().find(|job| job.id == ids[1]).unwrap().died_at;
        assert_eq!((letter.kind().unwrap().as_str(), letter.job.died_at), (Send::KIND, died_at));
        assert!(!format!("{letter:?}").contains("\"b\""), "{letter:?}");
        let past: Vec<_> = letter.history().iter().map(|past| past.error.message.as_str()).collect();
        match tracking {
            Tracking::Full => assert_eq!(past, ["attempt 1", "attempt 2", "attempt 3"]),
            Tracking::Off => assert!(past.is_empty() && letter.record.is_none()),
        }

        let error = dead.get(JobId::derive(b"x", 1)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound);
        worker.stop().await;
        let alive = submit(&queues, "c").await;
        let error = dead.get(alive).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound);
        if tracking == Tracking::Full {
            assert_eq!(error.message(), "the job is pending, not dead");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_counts_first_and_brings_back_what_matched_then() {
    let queues = builder().connect().await.unwrap();
    let running = worker(&queues).await;
    for to in ["late", "nobody", "late", "late"] {
        submit(&queues, to).await;
    }
    sleep(SECOND).await;
    let dead = queues.dead_letters("mail").unwrap();
    let late = DeadFilter { code: Some("LATE".into()), ..DeadFilter::default() };
    let mut plan = dead.plan(&late).await.unwrap();
    let codes: Vec<_> = plan.by_code().iter().map(|(code, count)| (code.as_str(), *count)).collect();
    assert_eq!((plan.count(), plan.is_complete(), codes), (3, true, vec![("LATE", 3)]));
    assert_eq!(queues.stats("mail").await.unwrap().dead, 4, "a plan changes nothing");
    assert_eq!(dead.plan(&DeadFilter::default()).await.unwrap().by_code().len(), 2);

    // One more that matches dies, and one that was planned is brought back by somebody else.
    let since = submit(&queues, "late").await;
    sleep(SECOND).await;
    running.stop().await;
    let first = dead.list(&late, None, 1).await.unwrap().items.remove(0).id;
    assert_eq!(dead.redrive_one(first).await.unwrap(), report(1, 1));
    assert_eq!(plan.redrive().await.unwrap(), report(2, 2));
    assert_eq!((plan.remaining(), plan.count()), (0, 3));
    assert_eq!(plan.redrive().await.unwrap(), report(2, 2), "it is done, and says so again");
    let left: Vec<_> = dead.list(&late, None, 9).await.unwrap().items.into_iter().map(|job| job.id).collect();
    assert_eq!(left, [since]);
}

#[tokio::test(start_paused = true)]
async fn many_come_back_in_parts() {
    let queues = builder().connect().await.unwrap();
    let running = worker(&queues).await;
    for answer in queues.enqueue_all((0..1_201).map(|_| Send { to: "late".into() })).await {
        answer.unwrap();
    }
    sleep(60 * SECOND).await;
    running.stop().await;
    let dead = queues.dead_letters("mail").unwrap();
    let mut plan = dead.plan(&DeadFilter::default()).await.unwrap();
    assert_eq!((plan.count(), plan.by_code()["LATE"]), (1_201, 1_201));
    let mut seen = Vec::new();
    plan.redrive_with(|progress| seen.push((progress.done, progress.total, progress.report.redriven))).await.unwrap();
    assert_eq!(seen, [(500, 1_201, 500), (1_000, 1_201, 1_000), (1_201, 1_201, 1_201)]);
    let stats = queues.stats("mail").await.unwrap();
    assert_eq!((stats.dead, stats.pending), (0, 1_201));
    assert_eq!(dead.redrive_all().await.unwrap(), report(0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_typed_edit_is_checked_before_the_job_comes_back() {
    let queues = builder().connect().await.unwrap();
    let running = worker(&queues).await;
    let id = submit(&queues, "wrong").await;
    let raw = NewJob::new(JobKind::from_static(Send::KIND), r#"{"to": 7, "hunter2": 1}"#);
    let raw = queues.enqueue_raw("mail", raw).await.unwrap().id();
    sleep(SECOND).await;
    let dead = queues.dead_letters("mail").unwrap();

    let error = dead.redrive_edited::<Print>(id, |job| job.pages = 1).await.unwrap_err();
    assert!(error.message().contains("of kind mail.send, not paper.print"), "{error}");
    let error = dead.redrive_edited::<Send>(id, |job| job.to = "x".repeat(21)).await.unwrap_err();
    assert!(error.code() == ErrorCode::Validation && error.message().contains("to (length)"), "{error}");
    let error = dead.redrive_edited::<Send>(raw, |job| job.to = "right".into()).await.unwrap_err();
    assert!(error.code() == ErrorCode::Validation && error.message().contains("line 1"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    assert_eq!(queues.stats("mail").await.unwrap().dead, 2, "nothing came back");

    assert_eq!(dead.redrive_edited::<Send>(id, |job| job.to = "right".into()).await.unwrap(), report(1, 1));
    assert_eq!(dead.redrive_with_payload(raw, r#"{"to":"right"}"#).await.unwrap(), report(1, 1));
    sleep(SECOND).await;
    let stats = queues.stats("mail").await.unwrap();
    assert_eq!((stats.dead, stats.completed_total), (0, 2));
    let error = dead.redrive_edited::<Send>(id, |_| {}).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (ErrorCode::NotFound, "the job is completed, not dead"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_the_queue_does_not_take_leaves_the_job_dead() {
    let queues = builder().variables([("QUEUE__QUEUES__MAIL__MAX_ENCODED_LEN", "1KiB")]).connect().await.unwrap();
    let running = worker(&queues).await;
    let id = submit(&queues, "wrong").await;
    sleep(SECOND).await;
    let dead = queues.dead_letters("mail").unwrap();
    let error = dead.redrive_with_payload(id, vec![b' '; 1_024]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
    assert_eq!(dead.get(id).await.unwrap().payload(), br#"{"to":"wrong"}"#);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_dead_are_forgotten_when_they_are_old() {
    for (configured, hours) in [("2h", 2), ("4h", 4)] {
        let variable = Some(("QUEUE__QUEUES__MAIL__RETENTION__DEAD", configured));
        let queues = builder().variables(variable).connect().await.unwrap();
        let running = worker(&queues).await;
        let id = submit(&queues, "wrong").await;
        sleep(SECOND).await;
        running.stop().await;
        sleep(3_600 * SECOND * hours - 60 * SECOND).await;
        let dead = queues.dead_letters("mail").unwrap();
        assert_eq!(dead.get(id).await.unwrap().job.id, id);
        sleep(120 * SECOND).await;
        assert_eq!(dead.get(id).await.unwrap_err().code(), ErrorCode::NotFound);
        assert_eq!(queues.stats("mail").await.unwrap().dead, 0);
    }
    // Days of ticks take long to simulate: the default is looked at.
    let default = QueueSpec::new(QueueName::from_static("mail")).retention.dead;
    assert_eq!(default, 7 * 24 * 3_600 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_purge_takes_what_matches() {
    let queues = builder().connect().await.unwrap();
    let running = worker(&queues).await;
    for to in ["late", "nobody", "late"] {
        submit(&queues, to).await;
    }
    sleep(SECOND).await;
    let dead = queues.dead_letters("mail").unwrap();
    let late = DeadFilter { code: Some("LATE".into()), ..DeadFilter::default() };
    assert_eq!(dead.purge(&late).await.unwrap(), 2);
    assert_eq!(found(&queues, &DeadFilter::default()).await, ["nobody"]);
    running.stop().await;
}

/// Two lives end badly, the third well. While workers run, everything that is dead is brought back again and again: each job
/// must run once in each life, and none may be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_redrive_while_workers_run_loses_and_repeats_nothing() {
    const JOBS: u64 = 3_000;
    let queues = QueueManager::connect("memory:").await.unwrap();
    let runs: Arc<Mutex<HashMap<JobId, u32>>> = Arc::default();
    let counted = Arc::clone(&runs);
    let send = move |_: Send, context: JobContext| {
        let run = {
            let mut runs = counted.lock().unwrap();
            let run = runs.entry(context.id()).or_default();
            *run += 1;
            *run
        };
        async move { if run < 3 { Err(Failure::never("not yet")) } else { Ok(()) } }
    };
    let worker = queues.worker().queue("mail", 16).register(send).start().await.unwrap();
    let dead = queues.dead_letters("mail").unwrap();
    let redriver = tokio::spawn(async move {
        let mut redriven = 0;
        while redriven < 2 * JOBS {
            redriven += dead.redrive_all().await.unwrap().redriven;
            tokio::task::yield_now().await;
        }
        redriven
    });
    for chunk in 0..JOBS / 100 {
        let jobs = (0..100).map(|_| Send { to: chunk.to_string() });
        assert!(queues.enqueue_all(jobs).await.iter().all(Result::is_ok));
    }
    let redriven = tokio::time::timeout(60 * SECOND, redriver).await.expect("some are lost").unwrap();
    let done = async {
        while queues.stats("mail").await.unwrap().completed_total < JOBS {
            sleep(SECOND / 100).await;
        }
    };
    tokio::time::timeout(60 * SECOND, done).await.expect("some are lost");
    worker.stop().await;
    let stats = queues.stats("mail").await.unwrap();
    assert_eq!((redriven, stats.dead, stats.waiting(), stats.running), (2 * JOBS, 0, 0, 0));
    let runs = runs.lock().unwrap();
    assert_eq!(runs.len() as u64, JOBS);
    assert!(runs.values().all(|runs| *runs == 3), "one ran without a life of its own");
}
