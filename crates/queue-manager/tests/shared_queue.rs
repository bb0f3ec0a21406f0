//! A queue whose jobs are on several providers is still one queue.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod three;

use std::{collections::BTreeSet, sync::Arc};

use futures_util::StreamExt;
use queue_core::{
    ErrorCode, Event, Failure, JobId, JobRef, Priority, QueueProvider, QueueSpec,
    event::JobEventKind,
    lifecycle::JobState,
    limit::{Limit, LimitRule},
    provider::{Cancel, DeadFilter, Redrive, RedriveSelection},
    scheduler::WaitReason,
    store::{CancelOutcome, JobQuery, Watched},
};
use queue_manager::QueueManager;
use queue_memory::MemoryProvider;
use queue_testkit::models::{Broker, LogModel};

use three::{Audit, Report, SECOND, Theirs, at, builder, env, job, manager, name, spread, to};

#[tokio::test(start_paused = true)]
async fn a_worker_takes_a_queues_jobs_wherever_they_are() {
    let queues = manager().await;
    let worker = queues
        .worker()
        .queue("reports.daily", 2)
        .heartbeat_on_runtime()
        .register(async |job: Report| Ok::<_, Failure>(job.page))
        .register(async |job: Audit| Ok::<_, Failure>(job.page * 10))
        .start()
        .await
        .unwrap();
    let report = queues.enqueue(Report { page: 3 }).await.unwrap();
    let audit = queues.enqueue(Audit { page: 3 }).await.unwrap();
    assert_eq!((report.result().await.unwrap(), audit.result().await.unwrap()), (3, 30));
    // By their references, wherever they are.
    for (job, page) in [(report.job(), 3), (audit.job(), 30)] {
        assert_eq!(queues.job(job).await.unwrap().state, JobState::Completed);
        assert_eq!(queues.handle::<u32>(job.clone()).result().await.unwrap(), page);
    }
    let workers = queues.workers();
    let [one] = &workers[..] else { panic!("{workers:?}") };
    assert_eq!(one.pools.len(), 2, "audits go to one, and the route for reports lets nothing get to the default");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handle_finds_a_job_and_its_end_at_whichever_provider_has_it() {
    let queues = manager().await;
    let audit = queues.enqueue(Audit { page: 3 }).await.unwrap();
    let found = queues.handle::<u32>(audit.job().clone());
    let waiting = tokio::spawn(async move { found.finished().await });
    tokio::time::sleep(SECOND / 10).await;
    let cancelled = queues.cancel(audit.job(), &Cancel::by("me")).await.unwrap();
    assert_eq!(cancelled, CancelOutcome::Cancelled);
    assert_eq!(waiting.await.unwrap().unwrap().state, JobState::Cancelled);
    let nowhere = JobRef::new(name("reports.daily"), JobId::derive(b"nowhere", 0));
    assert_eq!(queues.job(&nowhere).await.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(queues.cancel(&nowhere, &Cancel::by("me")).await.unwrap(), CancelOutcome::NotFound);
}

#[tokio::test]
async fn why_a_job_waits_is_said_by_the_provider_that_has_it() {
    let broker = Broker::new(env(), LogModel::default());
    let queues = builder().provider_named("log", broker.connect());
    let logged = to("log").queue("reports.*").unwrap().kind("log.*").unwrap().order(2);
    let paused = queues.route("logged", logged).connect().await.unwrap();
    let (report, audit) =
        (paused.enqueue(Report { page: 1 }).await.unwrap(), paused.enqueue(Audit { page: 1 }).await.unwrap());
    paused.provider("bulk").unwrap().admin().pause(&name("reports.daily"), true).await.unwrap();
    let why = paused.explain(report.job()).await.unwrap();
    assert!(why.state == Some(JobState::Pending) && why.reasons.contains(&WaitReason::Paused), "{why}");
    let why = paused.explain(audit.job()).await.unwrap();
    assert!(why.state == Some(JobState::Pending) && !why.reasons.contains(&WaitReason::Paused), "{why}");
    // One that only the bare one may have.
    let logged = paused.enqueue_raw("reports.daily", job("log.x")).await.unwrap();
    let why = paused.explain(logged.job()).await.unwrap();
    assert!(why.state.is_none() && matches!(why.reasons[..], [WaitReason::NoWorker { kind: None, .. }]), "{why}");
    // One that nobody has, where everybody can tell.
    let queues = manager().await;
    let nowhere = JobRef::new(name("reports.daily"), JobId::derive(b"nowhere", 0));
    assert_eq!(queues.explain(&nowhere).await.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_queue_on_several_providers_is_one_queue() {
    let queues = manager().await;
    for page in 0..3 {
        queues.enqueue(Report { page }).await.unwrap();
        queues.enqueue(Audit { page }).delay(SECOND).await.unwrap();
    }
    let stats = queues.stats("reports.daily").await.unwrap();
    assert_eq!((stats.pending, stats.scheduled, stats.submitted_total), (3, 3, 6));
    assert_eq!(queues.queues().await.unwrap(), [name("reports.daily")], "once");
    let all = queues.stats_all().await.unwrap();
    assert_eq!(all.iter().map(|stats| stats.waiting()).collect::<Vec<_>>(), [6]);

    // A listing goes on where it stopped, at the next provider too, whatever the size of its pages.
    for limit in 1..8 {
        let query = JobQuery::queue(name("reports.daily"));
        let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = queues.jobs(&query, cursor, limit).await.unwrap();
            assert!(page.items.len() <= limit);
            seen.extend(page.items.into_iter().map(|record| record.job.id));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (6, 6), "pages of {limit}");
        assert!(pages >= 6usize.div_ceil(limit) && pages <= 7, "{pages} pages of {limit}");
    }
    let other = queues.jobs(&JobQuery::queue(name("mail")), None, 1).await.unwrap();
    assert!(other.items.is_empty() && other.next.is_none());
    let foreign = Some(queue_core::provider::Cursor("nobody/3".into()));
    let query = JobQuery::queue(name("reports.daily"));
    assert_eq!(queues.jobs(&query, foreign, 1).await.unwrap_err().code(), ErrorCode::Validation);

    queues.pause("reports.daily").await.unwrap();
    assert!(queues.stats("reports.daily").await.unwrap().paused);
    queues.provider("safe").unwrap().admin().pause(&name("reports.daily"), false).await.unwrap();
    assert!(!queues.stats("reports.daily").await.unwrap().paused, "some jobs come through");
    queues.resume("reports.daily").await.unwrap();
    assert_eq!(queues.pause("nowhere").await.unwrap_err().code(), ErrorCode::NotFound);

    assert_eq!(queues.purge("reports.daily").await.unwrap(), 6);
    assert_eq!(queues.size("reports.daily").await.unwrap(), 0);
    queues.drop_queue("reports.daily", true).await.unwrap();
    assert_eq!(queues.stats("reports.daily").await.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_pause_reaches_providers_that_have_not_met_the_queue() {
    let queues = manager().await;
    queues.enqueue(Audit { page: 1 }).await.unwrap();
    assert_eq!(spread(&queues, "reports.daily").await, at(&[("safe", 1)]));
    queues.pause("reports.daily").await.unwrap();
    let bulk = queues.provider("bulk").unwrap();
    assert!(bulk.stats(&name("reports.daily")).await.unwrap().paused);
    assert_eq!(queues.provider("nobody").unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_of_several_providers_are_listed_and_brought_back_as_one() {
    let queues = manager().await;
    let mut spec = QueueSpec::new(name("reports.daily"));
    spec.retry = queue_core::RetryPolicy::never();
    queues.declare(spec).await.unwrap();
    let worker = queues
        .worker()
        .queue("reports.daily", 4)
        .heartbeat_on_runtime()
        .register(async |_: Report| Err::<u32, _>(Failure::retry("no")))
        .register(async |_: Audit| Err::<u32, _>(Failure::never("never")))
        .start()
        .await
        .unwrap();
    let mut ids = BTreeSet::new();
    for page in 0..3 {
        let report = queues.enqueue(Report { page }).await.unwrap();
        let audit = queues.enqueue(Audit { page }).await.unwrap();
        for (id, record) in [(report.id(), report.finished().await), (audit.id(), audit.finished().await)] {
            assert_eq!(record.unwrap().state, JobState::Dead);
            ids.insert(id);
        }
    }
    worker.stop().await;
    let dead = queues.dead_letters("reports.daily").unwrap();
    for limit in [1, 2, 4, 10] {
        let (mut seen, mut cursor) = (BTreeSet::new(), None);
        loop {
            let page = dead.list(&DeadFilter::default(), cursor, limit).await.unwrap();
            for job in page.items {
                assert!(seen.insert(job.id), "twice");
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ids, "pages of {limit}");
    }
    let counted = dead.redrive(&Redrive { dry_run: true, ..Redrive::all() }).await.unwrap();
    assert_eq!((counted.matched, counted.redriven), (6, 0));
    let some = RedriveSelection::Jobs(ids.iter().take(2).copied().collect());
    let report = dead.redrive(&Redrive { which: some, dry_run: false, payload: None }).await.unwrap();
    assert_eq!((report.matched, report.redriven), (2, 2));
    assert_eq!(dead.purge(&DeadFilter::default()).await.unwrap(), 4);
    assert_eq!(queues.size("reports.daily").await.unwrap(), 2);
}

#[tokio::test]
async fn a_bare_transport_among_them_says_what_it_cannot_tell() {
    let broker = Broker::new(env(), LogModel::default());
    let queues = builder().provider_named("log", broker.connect());
    let queues = queues.route("logged", to("log").queue("reports.*").unwrap().kind("log.*").unwrap().order(2));
    let queues = queues.connect().await.unwrap();
    let logged = queues.enqueue_raw("reports.daily", job("log.x")).await.unwrap();
    let report = queues.enqueue(Report { page: 1 }).await.unwrap();
    assert_eq!(
        queues.job(report.job()).await.unwrap().state,
        JobState::Pending,
        "found behind the one that cannot tell"
    );
    let error = queues.job(logged.job()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported, "not found elsewhere does not mean that it is nowhere: {error}");
    assert!(error.message().contains("log"), "{error}");
    assert_eq!(queues.size("reports.daily").await.unwrap(), 2);
    // Of nobody but the bare one, the same words.
    let query = JobQuery::queue(name("reports.daily"));
    assert_eq!(queues.jobs(&query, None, 10).await.unwrap_err().code(), ErrorCode::Unsupported);
}

#[tokio::test]
async fn a_declaration_reaches_every_provider_and_every_process() {
    let (bulk, safe) = (MemoryProvider::with_env(env()), MemoryProvider::with_env(env()));
    let connect = async || {
        let builder = QueueManager::builder().env(env()).provider_named("bulk", Arc::new(bulk.connect()));
        let builder = builder.provider_named("safe", Arc::new(safe.connect())).default_provider("bulk");
        builder.route("audits", to("safe").kind("audit.*").unwrap()).connect().await.unwrap()
    };
    let (declares, only_uses) = (connect().await, connect().await);
    let mut spec = QueueSpec::new(name("reports.daily"));
    spec.default_priority = Priority::HIGH;
    spec.max_len = Some(1);
    declares.declare(spec.clone()).await.unwrap();
    assert_eq!(*only_uses.spec("reports.daily").await.unwrap(), spec);
    let report = only_uses.enqueue(Report { page: 1 }).await.unwrap();
    let audit = only_uses.enqueue(Audit { page: 1 }).await.unwrap();
    for job in [report.job(), audit.job()] {
        assert_eq!(declares.job(job).await.unwrap().envelope.priority, Priority::HIGH, "{job}");
    }
    assert_eq!(only_uses.enqueue(Audit { page: 1 }).await.unwrap_err().code(), ErrorCode::QueueFull);
    assert_eq!(*only_uses.spec("other").await.unwrap(), QueueSpec::new(name("other")));
}

#[tokio::test]
async fn limits_and_events_are_those_of_every_provider() {
    let text = "[limits.'tenant:*']\nrate = '100/60s'\n[breakers.openai]\nfailures = 3\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let own = LimitRule { scope: "tenant:*".parse().unwrap(), limit: Limit::Concurrency { max: 2 } };
    let queues = builder().file(file.path()).limit(own).connect().await.unwrap();
    for (provider, scheduler) in queues.providers() {
        let rules: Vec<String> = scheduler.limits().unwrap().iter().map(|rule| rule.scope.to_string()).collect();
        assert_eq!(rules, ["tenant:*", "tenant:*", "breaker:openai"], "{provider}");
    }
    let mut events = queues.events_by_provider().await.unwrap();
    queues.enqueue(Audit { page: 1 }).await.unwrap();
    queues.enqueue(Report { page: 1 }).await.unwrap();
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        let Some((provider, Watched::Event(Event::Job(event)))) = events.next().await else { panic!("missed") };
        assert_eq!(event.what, JobEventKind::Submitted);
        heard.insert((provider.to_string(), event.kind.to_string()));
    }
    let wanted = [("bulk", "report"), ("safe", "audit.page")].map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(heard, BTreeSet::from(wanted));
}

#[tokio::test(start_paused = true)]
async fn two_connections_to_the_same_jobs_count_them_once() {
    let mut registry = queue_manager::registry();
    registry.register(Theirs(Arc::new(MemoryProvider::with_env(env()))));
    let builder = QueueManager::builder().env(env()).registry(registry).provider_url("one", "theirs:");
    let builder = builder.provider_url("two", "theirs:").default_provider("one");
    let queues = builder.route("audits", to("two").kind("audit.*").unwrap()).connect().await.unwrap();
    let mut events = queues.events().await.unwrap();
    let audit = queues.enqueue(Audit { page: 2 }).await.unwrap();
    let report = queues.enqueue(Report { page: 1 }).await.unwrap();
    assert_eq!(queues.stats("reports.daily").await.unwrap().submitted_total, 2);
    assert_eq!(queues.stats_all().await.unwrap()[0].pending, 2);
    assert_eq!(queues.statistics().await.totals.pending, 2);
    assert_eq!(queues.jobs(&JobQuery::queue(name("reports.daily")), None, 9).await.unwrap().items.len(), 2);
    for job in [audit.job(), report.job()] {
        let Some(Watched::Event(Event::Job(event))) = events.next().await else { panic!("missed") };
        assert_eq!((&event.job, event.what), (job, JobEventKind::Submitted));
    }
    let worker = queues.worker().queue("reports.daily", 2).heartbeat_on_runtime();
    let worker = worker.register(async |job: Audit| Ok::<_, Failure>(job.page)).start().await.unwrap();
    assert_eq!(audit.result().await.unwrap(), 2);
    assert_eq!(queues.workers()[0].pools.len(), 1);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_provider_under_two_names_counts_its_jobs_once() {
    let memory: Arc<dyn QueueProvider> = Arc::new(MemoryProvider::with_env(env()));
    let builder = QueueManager::builder().env(env()).provider_named("one", Arc::clone(&memory));
    let queues = builder.provider_named("other", memory).default_provider("one").connect().await.unwrap();
    queues.enqueue(Report { page: 1 }).await.unwrap();
    let statistics = queues.statistics().await;
    assert_eq!((statistics.totals.pending, statistics.providers.len()), (1, 1));
    queues.close().await.unwrap();
}
