//! Events: hints that come in order, while the record is the truth.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use queue_core::{
    JobError, JobRef,
    event::{JobEvent, JobEventKind as E},
    job::{Headers, RawHeaders, SlaClass},
    provider::{Beat, Cancel, Disposition, Redrive},
    store::{Watch, Watched},
};
use tokio::time::{Instant, timeout};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq},
};

cases! { "watch";
    life_of_a_job [Store, Retry]
    death_and_redrive [Store, DeadLetters]
    progress_is_told [Store]
    only_the_jobs_watched [Store]
    only_the_queue_watched [Store]
    commands_are_requests_only [Store, CancelRunning]
    each_event_fires_once [Store]
    released_and_lost [Store, PerMessageLease]
    several_watchers [Store]
    completion_tells_whether_it_kept_to_its_class [Store]
}

type Stream = BoxStream<'static, Watched>;

async fn watch(ctx: &Ctx, what: Watch) -> Outcome<Stream> {
    Ok(ctx.store()?.watch(what).await?)
}

/// The events that come until `n` are there, or the patience is over.
async fn events(ctx: &Ctx, stream: &mut Stream, n: usize) -> Vec<JobEvent> {
    let end = Instant::now() + ctx.patience().min(Duration::from_secs(10));
    let mut found = Vec::new();
    while found.len() < n {
        match timeout(end.saturating_duration_since(Instant::now()), stream.next()).await {
            Ok(Some(Watched::Event(event))) => found.push(event),
            Ok(Some(Watched::Missed)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    found
}

/// What else comes while nothing should.
async fn more(ctx: &Ctx, stream: &mut Stream) -> Vec<JobEvent> {
    let end = Instant::now() + ctx.quiet_time();
    let mut found = Vec::new();
    while let Ok(Some(item)) = timeout(end.saturating_duration_since(Instant::now()), stream.next()).await {
        if let Watched::Event(event) = item {
            found.push(event);
        }
    }
    found
}

fn kinds(events: &[JobEvent]) -> Vec<E> {
    events.iter().map(|event| event.what).collect()
}

async fn life_of_a_job(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let mut stream = watch(ctx, Watch::Queue(queue.clone())).await?;
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.take_one(&consumer).await?;
    let error = JobError::custom("TEMP", "again");
    ctx.end(&consumer, &first, Disposition::Retry { after: Duration::ZERO, error }).await?;
    let second = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &second).await?;
    let found = events(ctx, &mut stream, 5).await;
    check_eq!(kinds(&found), [E::Submitted, E::Started, E::Retrying, E::Started, E::Completed], "the life of a job");
    check!(found.iter().all(|event| event.job == job), "all events are of {job}: {found:?}");
    check_eq!(found[0].kind.as_str(), "test.job", "the job's kind");
    check_eq!(
        (found[1].attempt, found[3].attempt, found[4].attempt),
        (1, 2, 2),
        "the attempts of starts and completion"
    );
    Ok(())
}

async fn death_and_redrive(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let mut stream = watch(ctx, Watch::Queue(queue.clone())).await?;
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }).await?;
    ctx.provider().admin().redrive(&queue, &Redrive::one(job.id)).await?;
    let found = events(ctx, &mut stream, 4).await;
    check_eq!(kinds(&found), [E::Submitted, E::Started, E::DeadLettered, E::Redriven], "a death and another life");
    Ok(())
}

async fn progress_is_told(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    let mut stream = watch(ctx, Watch::Jobs(vec![job])).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let said = Bytes::from_static(br#"{"percent":42.0}"#);
    let beat = Beat { progress: Some(said.clone()), ..Beat::extend(delivery.receipt, ctx.long_lease()) };
    consumer.heartbeat(&[beat]).await;
    let found = events(ctx, &mut stream, 2).await;
    check_eq!(kinds(&found), [E::Started, E::Progress], "what was told");
    check_eq!(found[1].progress, Some(said), "what the handler said");
    Ok(())
}

async fn only_the_jobs_watched(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let jobs = ctx.publish_texts(&queue, &["a", "b", "c"]).await?;
    let mut stream = watch(ctx, Watch::Jobs(vec![jobs[0].clone(), jobs[2].clone()])).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 3).await?;
    ctx.complete_all(&consumer, &got).await?;
    let found = events(ctx, &mut stream, 4).await;
    check_eq!(found.len(), 4, "events of two jobs: {found:?}");
    check!(found.iter().all(|event| event.job != jobs[1]), "an event of a job that is not watched: {found:?}");
    let rest = more(ctx, &mut stream).await;
    check!(rest.is_empty(), "more events than happened: {rest:?}");
    Ok(())
}

async fn only_the_queue_watched(ctx: &Ctx) -> Outcome {
    let (queue, other) = (ctx.queue("watch"), ctx.queue("watch"));
    let mut one = watch(ctx, Watch::Queue(queue.clone())).await?;
    let mut all = watch(ctx, Watch::All).await?;
    let elsewhere = ctx.publish(&other, ctx.job("elsewhere").seal()).await?;
    let here = ctx.publish(&queue, ctx.job("here").seal()).await?;
    let found = events(ctx, &mut one, 1).await;
    check_eq!(found.first().map(|event| event.job.clone()), Some(here), "the event of the queue");
    check!(more(ctx, &mut one).await.is_empty(), "an event of another queue");
    // On a shared broker others may publish too.
    let mut seen = false;
    while !seen {
        let found = events(ctx, &mut all, 1).await;
        check!(!found.is_empty(), "the event of {elsewhere} never came to who watches all");
        seen = found[0].job == elsewhere;
    }
    Ok(())
}

async fn commands_are_requests_only(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let mut stream = watch(ctx, Watch::Commands(queue.clone())).await?;
    let jobs = ctx.publish_texts(&queue, &["a", "b"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 2).await?;
    ctx.store()?.cancel(std::slice::from_ref(&jobs[1]), &Cancel::by("operator")).await;
    let found = events(ctx, &mut stream, 1).await;
    check_eq!(kinds(&found), [E::CancelRequested], "what a worker listens to");
    check_eq!(found[0].job, jobs[1], "the job that is to stop");
    ctx.complete_all(&consumer, &got).await?;
    let rest = more(ctx, &mut stream).await;
    check!(rest.is_empty(), "commands are requests to stop only: {rest:?}");
    Ok(())
}

async fn each_event_fires_once(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let mut stream = watch(ctx, Watch::Queue(queue.clone())).await?;
    let envelope = ctx.job("a").seal();
    ctx.publish(&queue, envelope.clone()).await?;
    if ctx.caps().dedup_by_id.is_supported() {
        ctx.publish(&queue, envelope).await?;
    }
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    for _ in 0..3 {
        ctx.settle(&consumer, &delivery, Disposition::Complete { result: None }).await?;
    }
    ctx.settle(&consumer, &delivery, Disposition::Cancelled).await?;
    let mut found = kinds(&events(ctx, &mut stream, 3).await);
    found.extend(kinds(&more(ctx, &mut stream).await));
    check_eq!(found, [E::Submitted, E::Started, E::Completed], "each event, from the winner alone");
    Ok(())
}

async fn released_and_lost(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let mut stream = watch(ctx, Watch::Queue(queue.clone())).await?;
    let theft = super::theft::steal(ctx, &queue, ctx.job("a").seal()).await?;
    let release = Disposition::Release { after: Duration::ZERO, reason: queue_core::provider::ReleaseReason::Shutdown };
    ctx.end(&theft.new, &theft.fresh, release).await?;
    let found = kinds(&events(ctx, &mut stream, 5).await);
    check_eq!(found, [E::Submitted, E::Started, E::LeaseLost, E::Started, E::Released], "lost, and handed back");
    Ok(())
}

async fn several_watchers(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(watch(ctx, Watch::Queue(queue.clone())).await?);
    }
    drop(watch(ctx, Watch::Queue(queue.clone())).await?);
    let job: JobRef = ctx.publish(&queue, ctx.job("a").seal()).await?;
    for stream in &mut streams {
        let found = events(ctx, stream, 1).await;
        check_eq!(found.first().map(|event| &event.job), Some(&job), "each watcher hears of it");
    }
    Ok(())
}

async fn completion_tells_whether_it_kept_to_its_class(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("watch");
    let mut stream = watch(ctx, Watch::Queue(queue.clone())).await?;
    let mut jobs = Vec::new();
    for class in [Some(SlaClass::Urgent), Some(SlaClass::Low), None] {
        let mut job = ctx.job(format!("{class:?}"));
        job.headers = RawHeaders::encode(&Headers { sla: class, ..Headers::default() })?;
        jobs.push(job.seal());
    }
    let jobs = ctx.publish_all(&queue, jobs).await?;
    let consumer = ctx.consumer(&queue).await?;
    let held = ctx.take(&consumer, 3).await?;
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    ctx.complete_all(&consumer, &held).await?;
    let told = events(ctx, &mut stream, 9).await;
    for (job, met) in jobs.iter().zip([Some(false), Some(true), None]) {
        let record = ctx.record(job).await?.sla();
        check_eq!(record.map(|sla| sla.met), met, "whether {job} kept to its class, by its record");
        check!(record.is_none_or(|sla| sla.actual_ms >= 3_100), "submitted 3.1 s ago, it took {record:?}");
        let event = told.iter().find(|event| event.job == *job && event.what == E::Completed);
        check_eq!(event.map(|event| event.sla), Some(record), "whether it did, by the event");
    }
    check!(told.iter().all(|event| event.what == E::Completed || event.sla.is_none()), "told before it was completed");
    Ok(())
}
