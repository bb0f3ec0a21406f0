//! All that a program may ask of a bare provider once it has a store.

use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt;
use queue_core::{
    ErrorCode, Event, Failure, JobContext, QueueSpec, RetryPolicy,
    event::JobEventKind,
    lifecycle::JobState,
    limit::{Limit, LimitBy, LimitRule, LimitScope},
    provider::{Cancel, DeadFilter},
    scheduler::WaitReason,
    store::{CancelOutcome, JobQuery, Watched},
};
use queue_manager::QueueManager;
use tokio::time::sleep;

use crate::bench::{Bench, Mail, SCHEMES, SECOND, mail, the_mail};

async fn handler(mail: Mail, context: JobContext) -> Result<String, Failure> {
    match &*mail.to {
        "nobody" => Err(Failure::never("no such address")),
        "slow" => {
            context.progress(50.0);
            context.cancelled().await;
            Err(Failure::never("cancelled"))
        }
        "late" => {
            sleep(5 * SECOND).await;
            Ok(mail.to)
        }
        _ => Ok(format!("sent to {}", mail.to)),
    }
}

async fn work(queues: &QueueManager, slots: usize) -> queue_core::Worker {
    queues.worker().queue("mail", slots).prefetch(0).heartbeat_on_runtime().register(handler).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn everything_works_over_any_model_with_a_store_in_memory() {
    for scheme in SCHEMES {
        everything(&format!("{scheme}://h?store=memory:"), true).await;
    }
}

#[cfg(feature = "journal")]
#[tokio::test]
async fn everything_works_over_any_model_with_a_store_in_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = SCHEMES.map(|scheme| {
        let url = format!("{scheme}://h?store=journal%3A{}%2F{scheme}", dir.path().display());
        tokio::spawn(async move { everything(&url, false).await })
    });
    for pair in pairs {
        pair.await.unwrap();
    }
}

async fn everything(url: &str, paused: bool) {
    let bench = Bench::new();
    let mut spec = QueueSpec::new(the_mail());
    spec.retry = RetryPolicy::never();
    let slow = LimitRule { scope: LimitScope::of(LimitBy::Queue, "mail"), limit: Limit::Concurrency { max: 2 } };
    let queues = bench.builder().url(url).queue(spec).limit(slow).connect().await.unwrap();
    let scheduler = queues.provider("default").unwrap().clone();
    let mut events = queues.events().await.unwrap();

    // Waiting: states, reasons, keys, positions, numbers.
    let first = queues.enqueue(mail("ann")).unique("ann").unwrap().await.unwrap();
    let again = queues.enqueue(mail("ann")).unique("ann").unwrap().await.unwrap();
    assert!(again.is_duplicate() && again.id() == first.id(), "{url}");
    let later = queues.enqueue(mail("bob")).delay(3_600 * SECOND).await.unwrap();
    assert_eq!(later.record().await.unwrap().state, JobState::Scheduled, "{url}");
    queues.pause("mail").await.unwrap();
    let why = scheduler.explain(first.job()).await.unwrap();
    assert!(why.reasons.contains(&WaitReason::Paused), "{url}: {why}");
    assert!(why.reasons.iter().any(|reason| matches!(reason, WaitReason::NoWorker { .. })), "{url}: {why}");
    queues.resume("mail").await.unwrap();
    let stats = queues.stats("mail").await.unwrap();
    assert_eq!((stats.pending, stats.scheduled, stats.paused), (1, 1, false), "{url}");
    assert_eq!(queues.statistics().await.queues[0].stats.submitted_total, 2, "{url}");

    // Running: a result, a cancel of one that runs and one that waits, dead letters.
    let worker = work(&queues, 4).await;
    assert_eq!(first.result().await.unwrap(), "sent to ann", "{url}");
    assert_eq!(later.cancel().await.unwrap(), CancelOutcome::Cancelled, "{url}");
    let stuck = queues.enqueue(mail("slow")).await.unwrap();
    let mut said = stuck.progress().await.unwrap();
    assert!((said.next().await.unwrap().unwrap().percent - 50.0).abs() < 0.1, "{url}");
    assert_eq!(queues.cancel(stuck.job(), &Cancel::by("me")).await.unwrap(), CancelOutcome::Requested, "{url}");
    assert_eq!(stuck.finished().await.unwrap().state, JobState::Cancelled, "{url}");
    let lost = queues.enqueue(mail("nobody")).await.unwrap();
    assert_eq!(lost.finished().await.unwrap().state, JobState::Dead, "{url}");
    let dead = queues.dead_letters("mail").unwrap();
    let page = dead.list(&DeadFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.id).collect::<Vec<_>>(), [lost.id()], "{url}");
    assert!(page.items[0].error.message.contains("no such address"), "{url}");
    let fixed = dead.redrive_edited::<Mail>(lost.id(), |mail| mail.to = "carl".into()).await.unwrap();
    assert_eq!(fixed.redriven, 1, "{url}");
    assert_eq!(lost.result().await.unwrap(), "sent to carl", "{url}");

    // A limit: of three, two run.
    let mut three = Vec::new();
    for _ in 0..3 {
        three.push(queues.enqueue(mail("late")).await.unwrap());
    }
    sleep(if paused { SECOND } else { 2 * SECOND }).await;
    let mut states = Vec::new();
    for job in &three {
        states.push(job.record().await.unwrap().state);
    }
    assert_eq!(states.iter().filter(|state| **state == JobState::Running).count(), 2, "{url}: {states:?}");
    let waiting = &three[states.iter().position(|state| *state != JobState::Running).unwrap()];
    let why = scheduler.explain(waiting.job()).await.unwrap();
    assert!(why.reasons.iter().any(|reason| matches!(reason, WaitReason::Limited { .. })), "{url}: {why}");
    for job in &three {
        assert_eq!(job.result().await.unwrap(), "late", "{url}");
    }
    worker.stop().await;

    // All of it was told, and can be listed.
    let done = queues.jobs(&JobQuery::queue(the_mail()).in_states([JobState::Completed]), None, 100).await.unwrap();
    assert_eq!(done.items.len(), 5, "{url}");
    let mut kinds = BTreeSet::new();
    while let Ok(Some(Watched::Event(event))) = tokio::time::timeout(Duration::from_millis(100), events.next()).await {
        if let Event::Job(event) = event {
            kinds.insert(event.what);
        }
    }
    use JobEventKind::{CancelRequested, Cancelled, Completed, DeadLettered, Progress, Redriven, Started, Submitted};
    for kind in [Submitted, Started, Progress, Completed, CancelRequested, Cancelled, DeadLettered, Redriven] {
        assert!(kinds.contains(&kind), "{url}: {kind:?} is not among {kinds:?}");
    }
    assert!(queues.health().await.is_healthy(), "{url}: {:?}", queues.health().await);
    // With force: the copy of what was cancelled may still be there.
    queues.drop_queue("mail", false).await.unwrap();
    assert_eq!(queues.job(first.job()).await.unwrap_err().code(), ErrorCode::NotFound, "{url}");
    drop(events);
    queues.close().await.unwrap();
}
