//! Many at once: one answer per item, in order, and one call per provider.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod counting;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use counting::Counting;
use queue_core::{
    ErrorCode, Failure, Job, JobId, JobRef, QueueName, QueueSpec, RetryPolicy,
    job::JobKind,
    lifecycle::JobState,
    provider::{Cancel, PublishOptions, Redrive},
    scheduler::{NewJob, Submitted},
    store::{CancelOutcome, JobQuery, Lookup},
};
use queue_manager::{QueueManager, config::RouteConfig};
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Work {
    number: u32,
}

impl Job for Work {
    const KIND: &'static str = "work";
    const QUEUE: &'static str = "a.work";
    type Output = u32;
}

fn name(text: &'static str) -> QueueName {
    QueueName::from_static(text)
}

/// Kinds that begin with `b.` go to `b`, all else to `a`.
async fn manager() -> (QueueManager, Counting, Counting) {
    let (a, b) = (Counting::default(), Counting::default());
    let builder = QueueManager::builder()
        .provider_named("a", Arc::new(a.clone()))
        .provider_named("b", Arc::new(b.clone()))
        .default_provider("a")
        .route("b", RouteConfig::to("b").unwrap().kind("b.*").unwrap());
    (builder.connect().await.unwrap(), a, b)
}

fn job(kind: &'static str) -> NewJob {
    NewJob::new(JobKind::from_static(kind), r#"{"number":1}"#)
}

fn accepted(answers: Vec<Submitted>) -> Vec<JobRef> {
    let accepted = answers.into_iter().map(|answer| match answer {
        Submitted::Accepted(job) => job,
        other => panic!("{other:?}"),
    });
    accepted.collect()
}

#[tokio::test]
async fn a_batch_over_queues_is_one_publish_per_queue_and_provider_and_answers_in_order() {
    let (queues, a, b) = manager().await;
    let jobs = vec![
        ("x", job("k")),
        ("y", job("b.k")),
        ("x", job("b.k")),
        ("no name", job("k")),
        ("x", job("k")),
        ("y", job("k")),
    ];
    let answers = queues.enqueue_many(jobs, &PublishOptions::default()).await;
    assert_eq!((a.calls().0, b.calls().0), (2, 2));
    let places = answers.iter().map(|answer| match answer {
        Submitted::Accepted(job) => job.queue.as_str(),
        Submitted::Rejected(error) => error.code().as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(places.collect::<Vec<_>>(), ["x", "y", "x", "VALIDATION", "x", "y"]);
    // The answers are those of the jobs in their places.
    let kinds = ["k", "b.k", "b.k", "", "k", "k"];
    for (answer, kind) in answers.iter().zip(kinds) {
        if let Submitted::Accepted(job) = answer {
            assert_eq!(queues.job(job).await.unwrap().envelope.kind.as_str(), kind);
        }
    }
    assert!(queues.enqueue_many(Vec::<(&str, NewJob)>::new(), &PublishOptions::default()).await.is_empty());
    let batch = queues.enqueue_batch("x", vec![job("k"), job("b.k")], &PublishOptions::default()).await.unwrap();
    assert_eq!(accepted(batch).len(), 2);
    assert_eq!(queues.size("x").await.unwrap(), 5);
}

#[tokio::test]
async fn jobs_are_looked_up_and_cancelled_in_one_call_per_provider() {
    let (queues, a, b) = manager().await;
    let jobs = (0..50).flat_map(|_| [("x", job("k")), ("y", job("b.k"))]).collect();
    let mut jobs = accepted(queues.enqueue_many(jobs, &PublishOptions::default()).await);
    jobs.insert(7, JobRef::new(name("x"), JobId::derive(b"nobody", 0)));
    a.calls();
    b.calls();

    let found = queues.get_many(&jobs).await;
    // Each may be at `b` first; what is not there is asked of `a`.
    assert_eq!((a.calls(), b.calls()), ((0, 1, 0), (0, 1, 0)));
    for (index, (wanted, found)) in jobs.iter().zip(&found).enumerate() {
        match found {
            Ok(Lookup::Found(record)) => assert_eq!(record.job, *wanted),
            Ok(Lookup::NotFound) => assert_eq!(index, 7),
            other => panic!("{other:?}"),
        }
    }
    let outcomes = queues.cancel_many(&jobs[..20], &Cancel::by("me")).await;
    assert_eq!((a.calls(), b.calls()), ((0, 0, 1), (0, 0, 1)));
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let wanted = if index == 7 { CancelOutcome::NotFound } else { CancelOutcome::Cancelled };
        assert_eq!(outcome.unwrap(), wanted, "{index}");
    }
    assert_eq!(queues.size("x").await.unwrap() + queues.size("y").await.unwrap(), 100 - 19);

    // What cannot be asked is no reason to say that there is nothing.
    b.away(true);
    let found = queues.get_many(&jobs[7..9]).await;
    assert_eq!(found[0].as_ref().unwrap_err().code(), ErrorCode::Unavailable, "it may be there");
    let at_a = jobs.iter().position(|job| job.queue.as_str() == "x").unwrap();
    assert!(matches!(&queues.get_many(&jobs[at_a..=at_a]).await[..], [Ok(Lookup::Found(_))]));
    assert!(queues.get_many(&[]).await.is_empty());
}

#[tokio::test]
async fn all_that_match_are_cancelled_page_by_page_and_counted() {
    let (queues, ..) = manager().await;
    let jobs = (0..1_300).map(|number| ("x", job(if number % 2 == 0 { "k" } else { "b.k" }))).collect();
    accepted(queues.enqueue_many(jobs, &PublishOptions::default()).await);
    let mut later = job("k");
    later.options.start = queue_core::scheduler::Start::After(Duration::from_secs(60));
    later.options.headers.tags.push("later".into());
    accepted(queues.enqueue_many(vec![("x", later)], &PublishOptions::default()).await);

    let by = Cancel::by("me");
    let all = JobQuery::queue(name("x"));
    let counted = queues.cancel_matching(&all, &by, true).await.unwrap();
    assert_eq!((counted.matched, counted.cancelled, counted.complete), (1_301, 0, true));
    assert_eq!(queues.size("x").await.unwrap(), 1_301);

    let mut tagged = JobQuery::queue(name("x"));
    tagged.tag = Some("later".into());
    assert_eq!(queues.cancel_matching(&tagged, &by, false).await.unwrap().cancelled, 1);
    let mut some = JobQuery::queue(name("x")).in_states([JobState::Scheduled, JobState::Pending, JobState::Completed]);
    some.kind = Some(JobKind::from_static("k"));
    let report = queues.cancel_matching(&some, &by, false).await.unwrap();
    assert_eq!((report.matched, report.cancelled, report.complete), (650, 650, true));
    let report = queues.cancel_matching(&all, &by, false).await.unwrap();
    assert_eq!((report.matched, report.cancelled, report.failed), (650, 650, 0));
    let finished = all.clone().in_states([JobState::Cancelled]);
    assert_eq!(queues.cancel_matching(&finished, &by, false).await.unwrap().matched, 0, "they are over");
    assert_eq!(
        queues.cancel_matching(&JobQuery::default(), &by, true).await.unwrap_err().code(),
        ErrorCode::Validation
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["cancelled"], &json["complete"]), (&650.into(), &true.into()));
}

#[tokio::test(start_paused = true)]
async fn running_jobs_that_match_are_asked_once() {
    let (queues, ..) = manager().await;
    let deaf = async |_: Work| std::future::pending::<Result<u32, Failure>>().await;
    let worker = queues.worker().queue("a.work", 3).heartbeat_on_runtime().register(deaf).start().await.unwrap();
    for number in 0..5 {
        queues.enqueue(Work { number }).timeout(Duration::from_secs(3_600)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let report = queues.cancel_matching(&JobQuery::queue(name("a.work")), &Cancel::by("me"), false).await.unwrap();
    assert_eq!((report.matched, report.cancelled + report.requested), (5, 5), "{report:?}");
    assert!(report.requested >= 3 && report.complete, "{report:?}");
    worker.stop().await;
}

#[tokio::test]
async fn queues_are_looked_after_by_pattern() {
    let (queues, ..) = manager().await;
    for queue in ["reports.b", "reports.a", "mail"] {
        let jobs = vec![(queue, job("k")), (queue, job("b.k"))];
        accepted(queues.enqueue_many(jobs, &PublishOptions::default()).await);
    }
    let names = |outcomes: Vec<(QueueName, queue_core::Result<()>)>| {
        outcomes.into_iter().map(|(name, outcome)| (name.to_string(), outcome.is_ok())).collect::<Vec<_>>()
    };
    let reports = [("reports.a".to_owned(), true), ("reports.b".to_owned(), true)];
    assert_eq!(names(queues.pause_matching("reports.*").await.unwrap()), reports);
    let paused = async || {
        let stats = queues.stats_all().await.unwrap();
        stats.iter().map(|stats| stats.paused).collect::<Vec<_>>()
    };
    assert_eq!(paused().await, [false, true, true]);
    assert_eq!(names(queues.resume_matching("*.a").await.unwrap()), reports[..1]);
    assert_eq!(paused().await, [false, false, true]);
    let purged = queues.purge_matching("*a*").await.unwrap();
    let purged: Vec<_> = purged.into_iter().map(|(name, removed)| (name.to_string(), removed.unwrap())).collect();
    assert_eq!(purged, [("mail".to_owned(), 2), ("reports.a".to_owned(), 2)]);
    assert_eq!(queues.queues_matching("reports.b").await.unwrap(), [name("reports.b")]);
    assert!(queues.pause_matching("nowhere").await.unwrap().is_empty());
    assert_eq!(queues.pause_matching("a b").await.unwrap_err().code(), ErrorCode::Validation);
}

#[tokio::test(start_paused = true)]
async fn dead_jobs_of_many_queues_are_brought_back() {
    let (queues, ..) = manager().await;
    let mut handles = Vec::new();
    for queue in ["r.a", "r.b", "s"] {
        let mut spec = QueueSpec::new(QueueName::new(queue).unwrap());
        spec.retry = RetryPolicy::never();
        queues.declare(spec).await.unwrap();
        handles.push(queues.enqueue(Work { number: 1 }).to(queue).await.unwrap());
    }
    let fails = async |_: Work| Err::<u32, _>(Failure::retry("no"));
    let worker = queues.worker().queue("r.a", 1).queue("r.b", 1).queue("s", 1).heartbeat_on_runtime().register(fails);
    let worker = worker.start().await.unwrap();
    for handle in &handles {
        handle.finished().await.unwrap();
    }
    worker.stop().await;
    let dry = Redrive { dry_run: true, ..Redrive::all() };
    let counted = queues.redrive_matching("r.*", &dry).await.unwrap();
    assert_eq!(counted.iter().map(|(_, report)| report.as_ref().unwrap().matched).collect::<Vec<_>>(), [1, 1]);
    let done = queues.redrive_matching("r.*", &Redrive::all()).await.unwrap();
    assert_eq!(done.iter().map(|(_, report)| report.as_ref().unwrap().redriven).collect::<Vec<_>>(), [1, 1]);
    let dead: BTreeSet<_> = queues
        .stats_all()
        .await
        .unwrap()
        .into_iter()
        .filter(|stats| stats.dead > 0)
        .collect::<Vec<_>>()
        .into_iter()
        .map(|stats| stats.queue)
        .collect();
    assert_eq!(dead, BTreeSet::from([name("s")]));
}

/// A web server moves them between threads.
#[tokio::test]
async fn the_futures_can_be_sent() {
    fn sent<F: Future + Send>(_: F) {}
    let (queues, ..) = manager().await;
    let (query, by) = (JobQuery::queue(name("x")), Cancel::by("me"));
    sent(queues.enqueue_many(vec![("x", job("k"))], &PublishOptions::default()));
    sent(queues.get_many(&[]));
    sent(queues.cancel_many(&[], &by));
    sent(queues.cancel_matching(&query, &by, true));
    sent(queues.pause_matching("*"));
    sent(queues.redrive_matching("*", &Redrive::all()));
    sent(queues.jobs(&query, None, 1));
    sent(queues.stats_all());
    sent(queues.statistics());
    sent(queues.health());
    sent(queues.events());
    sent(QueueManager::builder().connect());
}
