//! Records: looked up, listed, commanded, kept and forgotten.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use queue_core::{
    Envelope, ErrorCode, JobError, JobRef,
    job::{Headers, JobKind, LimitKeys, RawHeaders},
    lifecycle::JobState,
    provider::{Beat, BeatOutcome, Cancel, Cursor, DeadFilter, Delivery, Disposition, Redrive, SettleOutcome},
    queue_spec::Retention,
    store::{CancelOutcome, JobQuery, Lookup, QueueControl},
};
use tokio::time::sleep;

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::text,
};

cases! { "store";
    found_and_not_found [Store]
    record_of_a_waiting_job [Store]
    record_of_a_running_job [Store]
    record_of_a_completed_job [Store]
    record_of_a_failing_job [Store, Retry, Delay]
    record_of_a_dead_and_redriven_job [Store, DeadLetters]
    history_is_bounded [Store, Retry]
    progress_and_logs [Store]
    listed_by_state_kind_tag_and_tenant [Store]
    listed_page_by_page [Store]
    foreign_cursor_is_refused [Store]
    cancel_of_a_waiting_job [Store, CancelPending]
    cancel_of_a_scheduled_job [Store, CancelPending, Delay]
    cancel_frees_the_unique_key [Store, CancelPending, UniqueKeys]
    cancel_of_a_running_job_reaches_its_heartbeat [Store, CancelRunning]
    cancelled_running_job_may_still_complete [Store, CancelRunning]
    cancel_of_a_finished_job [Store]
    cancel_of_nothing [Store]
    cancel_answers_in_order [Store, CancelPending]
    control_is_compare_and_set [Store]
    control_pauses [Store, Pause]
    evicted_is_gone_and_not_run_again [Store, DedupById]
    eviction_keeps_to_the_count [Store]
    eviction_keeps_to_the_age [Store]
    eviction_leaves_the_living_and_the_dead [Store, DeadLetters]
    one_leads_at_a_time [Store]
    leaders_are_fenced [Store]
    several_connections_see_the_same_records [Store]
}

async fn running(ctx: &Ctx) -> Outcome<(JobRef, std::sync::Arc<dyn queue_core::Consumer>, Delivery)> {
    let queue = ctx.queue("store");
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    Ok((job, consumer, delivery))
}

async fn found_and_not_found(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("store");
    let jobs = ctx.publish_texts(&queue, &["a", "b"]).await?;
    let stranger = JobRef::new(queue.clone(), ctx.id());
    let nowhere = JobRef::new(ctx.queue("nowhere"), jobs[0].id);
    let asked = [jobs[1].clone(), stranger, jobs[0].clone(), nowhere];
    let mut found = Vec::new();
    for answer in ctx.store()?.get(&asked).await {
        found.push(match answer? {
            Lookup::Found(record) => String::from_utf8_lossy(&record.envelope.payload).into_owned(),
            Lookup::NotFound => "not found".into(),
            other => format!("{other:?}"),
        });
    }
    check_eq!(found, ["b", "not found", "a", "not found"], "one answer a job, in order");
    Ok(())
}

async fn record_of_a_waiting_job(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("store");
    let before = ctx.now();
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    let record = ctx.record(&job).await?;
    check_eq!(record.job, job, "whose record");
    check_eq!(record.state, JobState::Pending, "the state");
    check_eq!((record.attempt, record.started_count), (1, 0), "the attempt and started deliveries");
    check!(record.submitted_at >= before && record.submitted_at <= ctx.now(), "submitted at {:?}", record.submitted_at);
    check!(record.started_at.is_none() && record.finished_at.is_none(), "it neither started nor finished");
    check_eq!(record.lease_ends, None, "until when it is held that nobody holds");
    check!(record.result.is_none() && record.error.is_none() && !record.cancel_requested, "nothing happened to it");
    if ctx.caps().delay.is_supported() {
        let later = ctx.delayed("later", Duration::from_secs(900));
        let due = later.not_before;
        let record = ctx.record(&ctx.publish(&queue, later).await?).await?;
        check_eq!((record.state, record.due_at), (JobState::Scheduled, due), "a scheduled job's state and time");
    }
    Ok(())
}

async fn record_of_a_running_job(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    let record = ctx.record(&job).await?;
    check_eq!(record.state, JobState::Running, "the state");
    check_eq!(record.worker.as_deref(), Some("suite"), "who holds it");
    check!(record.started_at.is_some(), "when it was claimed is not recorded");
    check_eq!(record.attempt, 1, "the attempt");
    check!(
        record.lease_ends > record.started_at,
        "claimed at {:?}, and held until {:?}",
        record.started_at,
        record.lease_ends
    );
    // Of a lease that is as long as it was, the end moves on with time.
    sleep(Duration::from_millis(20)).await;
    consumer.heartbeat(&[Beat::extend(delivery.receipt, ctx.long_lease())]).await;
    let (before, after) = (record.lease_ends, ctx.record(&job).await?.lease_ends);
    check!(after > before, "held until {after:?} after a heartbeat, and until {before:?} before");
    ctx.complete(&consumer, &delivery).await?;
    check_eq!(ctx.record(&job).await?.lease_ends, None, "until when it is held once it is completed");
    Ok(())
}

async fn record_of_a_completed_job(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    let result = Some(Bytes::from_static(b"{\"sum\":7}"));
    ctx.end(&consumer, &delivery, Disposition::Complete { result: result.clone() }).await?;
    let record = ctx.record(&job).await?;
    check_eq!(record.state, JobState::Completed, "the state");
    check_eq!(record.result, result, "the result");
    check!(record.finished_at.is_some(), "when it finished is not recorded");
    Ok(())
}

async fn record_of_a_failing_job(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    let error = |n: u32| JobError::custom("TEMP", format!("failure {n}"));
    let after = Duration::from_secs(2);
    ctx.end(&consumer, &delivery, Disposition::Retry { after, error: error(1) }).await?;
    let record = ctx.record(&job).await?;
    check_eq!((record.state, record.attempt), (JobState::Retrying, 2), "the state and the attempt");
    check_eq!(record.error, Some(error(1)), "the last failure");
    check!(record.due_at.is_some_and(|due| due > ctx.now()), "due at {:?}", record.due_at);
    check_eq!(record.lease_ends, None, "until when it is held that waits for its next attempt");
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, Disposition::Retry { after, error: error(2) }).await?;
    let record = ctx.record(&job).await?;
    check_eq!(record.error, Some(error(2)), "the last failure");
    let history: Vec<_> = record.history.iter().map(|past| (past.attempt, past.error.clone())).collect();
    check_eq!(history, [(1, error(1))], "the failures before the last");
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    check_eq!(ctx.record(&job).await?.attempt, 3, "the attempt that completed it");
    Ok(())
}

async fn record_of_a_dead_and_redriven_job(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    let error = JobError::custom("BAD", "no use").permanent();
    ctx.end(&consumer, &delivery, Disposition::DeadLetter { error: error.clone() }).await?;
    let record = ctx.record(&job).await?;
    check_eq!((record.state, record.error), (JobState::Dead, Some(error)), "the state and the error");
    check!(record.finished_at.is_some(), "when it died is not recorded");
    ctx.provider().admin().redrive(&job.queue, &Redrive::one(job.id)).await?;
    let record = ctx.record(&job).await?;
    check_eq!((record.state, record.attempt), (JobState::Pending, 1), "the state and the attempt after a redrive");
    check!(record.finished_at.is_none(), "it is alive again, and finished at {:?}", record.finished_at);
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    check_eq!(ctx.record(&job).await?.state, JobState::Completed, "the state in the end");
    Ok(())
}

async fn history_is_bounded(ctx: &Ctx) -> Outcome {
    let (job, consumer, mut delivery) = running(ctx).await?;
    let times = queue_core::store::JobRecord::MAX_HISTORY as u32 + 9;
    for n in 1..=times {
        let error = JobError::custom("TEMP", format!("failure {n}"));
        ctx.end(&consumer, &delivery, Disposition::Retry { after: Duration::ZERO, error }).await?;
        delivery = ctx.take_one(&consumer).await?;
    }
    let record = ctx.record(&job).await?;
    check!(
        record.history.len() <= queue_core::store::JobRecord::MAX_HISTORY,
        "{} failures are kept",
        record.history.len()
    );
    check_eq!(
        record.history.last().map(|past| past.attempt),
        Some(times - 1),
        "the newest of the failures before the last"
    );
    check_eq!(record.attempt, times + 1, "the attempt");
    Ok(())
}

async fn progress_and_logs(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    let beat = |progress: &'static [u8], logs: &[&'static str]| Beat {
        progress: Some(Bytes::from_static(progress)),
        logs: logs.iter().map(|line| Bytes::from_static(line.as_bytes())).collect(),
        ..Beat::extend(delivery.receipt, ctx.long_lease())
    };
    consumer.heartbeat(&[beat(br#"{"percent":10.0}"#, &["one", "two"])]).await;
    consumer.heartbeat(&[beat(br#"{"percent":50.0}"#, &["three"])]).await;
    let record = ctx.record(&job).await?;
    check_eq!(record.progress.as_deref(), Some(&br#"{"percent":50.0}"#[..]), "what the handler said last");
    check_eq!(record.logs, ["one", "two", "three"], "what the handler logged");
    // A beat that says nothing leaves what was said.
    consumer.heartbeat(&[Beat::extend(delivery.receipt, ctx.long_lease())]).await;
    check!(ctx.record(&job).await?.progress.is_some(), "a beat without progress took the progress away");
    let many: Vec<Bytes> = (0..150).map(|n| Bytes::from(format!("{n} {}", "x".repeat(2_000)))).collect();
    consumer.heartbeat(&[Beat { logs: many, ..Beat::extend(delivery.receipt, ctx.long_lease()) }]).await;
    let record = ctx.record(&job).await?;
    check!(record.logs.len() <= queue_core::store::JobRecord::MAX_LOGS, "{} lines are kept", record.logs.len());
    let longest = record.logs.iter().map(Bytes::len).max().unwrap_or(0);
    check!(longest <= queue_core::store::JobRecord::MAX_LOG_LINE, "a line of {longest} bytes is kept");
    check!(record.logs.last().is_some_and(|line| line.starts_with(b"149 ")), "the newest line is kept");
    ctx.complete(&consumer, &delivery).await?;
    check!(ctx.record(&job).await?.progress.is_some(), "the progress is gone with the job");
    Ok(())
}

async fn names(ctx: &Ctx, query: &JobQuery) -> Outcome<Vec<String>> {
    let page = ctx.store()?.list(query, None, 100).await?;
    let mut names: Vec<String> =
        page.items.iter().map(|record| String::from_utf8_lossy(&record.envelope.payload).into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

async fn listed_by_state_kind_tag_and_tenant(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("store");
    let marked = |text: &str, tag: &str, tenant: &str| -> Outcome<Envelope> {
        let keys = LimitKeys { tenant: Some(tenant.into()), ..LimitKeys::default() };
        let headers = Headers { tags: vec![tag.into(), "all".into()], keys, ..Headers::default() };
        let mut job = ctx.job(text);
        job.headers = RawHeaders::encode(&headers)?;
        job.kind = JobKind::new(format!("kind.{tenant}"))?;
        Ok(job.seal())
    };
    ctx.publish_all(
        &queue,
        vec![marked("a", "red", "acme")?, marked("b", "blue", "acme")?, marked("c", "red", "other")?],
    )
    .await?;
    ctx.publish_texts(&ctx.queue("elsewhere"), &["elsewhere"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let claimed = text(&delivery);
    let every = JobQuery::queue(queue.clone());
    check_eq!(names(ctx, &every).await?, ["a", "b", "c"], "of the queue");
    check_eq!(names(ctx, &every.clone().in_states([JobState::Running])).await?, [claimed], "running");
    check_eq!(names(ctx, &every.clone().in_states([JobState::Pending])).await?.len(), 2, "pending");
    check_eq!(names(ctx, &every.clone().in_states([JobState::Running, JobState::Pending])).await?.len(), 3, "either");
    check!(names(ctx, &every.clone().in_states([JobState::Dead])).await?.is_empty(), "none is dead");
    let by = |change: fn(&mut JobQuery)| {
        let mut query = every.clone();
        change(&mut query);
        query
    };
    let kind = by(|query| query.kind = Some(JobKind::from_static("kind.acme")));
    check_eq!(names(ctx, &kind).await?, ["a", "b"], "of the kind");
    check_eq!(names(ctx, &by(|query| query.tag = Some("red".into()))).await?, ["a", "c"], "with the tag");
    check_eq!(names(ctx, &by(|query| query.tenant = Some("other".into()))).await?, ["c"], "of the tenant");
    let both = by(|query| {
        query.tag = Some("red".into());
        query.tenant = Some("acme".into());
    });
    check_eq!(names(ctx, &both).await?, ["a"], "with the tag, of the tenant");
    ctx.complete(&consumer, &delivery).await
}

async fn listed_page_by_page(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("store");
    let jobs = ctx.publish_all(&queue, (0..11).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    let (store, query) = (ctx.store()?, JobQuery::queue(queue));
    let (mut found, mut cursor) = (Vec::new(), None);
    for _ in 0..20 {
        let page = store.list(&query, cursor.take(), 4).await?;
        check!(page.items.len() <= 4, "a page of {} for a limit of 4", page.items.len());
        found.extend(page.items.iter().map(|record| record.job.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    check!(cursor.is_none(), "the listing has no end");
    check_eq!(found.len(), 11, "records listed");
    let (found, all): (BTreeSet<_>, BTreeSet<_>) =
        (found.into_iter().collect(), jobs.iter().map(|job| job.id).collect());
    check!(found == all, "each record once");
    Ok(())
}

async fn foreign_cursor_is_refused(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("store");
    ctx.publish_texts(&queue, &["a"]).await?;
    let cursor = Some(Cursor("no cursor of this listing/ü".into()));
    let code = ctx.store()?.list(&JobQuery::queue(queue), cursor, 4).await.err().map(|error| error.code());
    check_eq!(code, Some(ErrorCode::Validation), "a cursor of another listing");
    Ok(())
}

async fn cancel(ctx: &Ctx, job: &JobRef) -> Outcome<CancelOutcome> {
    let mut answers = ctx.store()?.cancel(std::slice::from_ref(job), &Cancel::by("operator")).await;
    check_eq!(answers.len(), 1, "answers for one job");
    Ok(answers.pop().ok_or_else(|| Failed("no answer".into()))??)
}

async fn cancel_of_a_waiting_job(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("cancel");
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    check_eq!(cancel(ctx, &job).await?, CancelOutcome::Cancelled, "cancelling what waits");
    check_eq!(ctx.record(&job).await?.state, JobState::Cancelled, "the state");
    check_eq!(cancel(ctx, &job).await?, CancelOutcome::AlreadyTerminal, "cancelling it again");
    let consumer = ctx.consumer(&queue).await?;
    ctx.nothing(&consumer, "it was cancelled").await
}

async fn cancel_of_a_scheduled_job(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("cancel");
    let job = ctx.publish(&queue, ctx.delayed("a", Duration::from_secs(2))).await?;
    check_eq!(cancel(ctx, &job).await?, CancelOutcome::Cancelled, "cancelling what is scheduled");
    let consumer = ctx.consumer(&queue).await?;
    sleep(Duration::from_secs(2)).await;
    ctx.nothing(&consumer, "it was cancelled").await
}

async fn cancel_frees_the_unique_key(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("cancel");
    let job = ctx.publish(&queue, ctx.unique("a", "key", None)).await?;
    cancel(ctx, &job).await?;
    ctx.publish(&queue, ctx.unique("b", "key", None)).await.map(drop)
}

async fn cancel_of_a_running_job_reaches_its_heartbeat(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    check_eq!(cancel(ctx, &job).await?, CancelOutcome::Requested, "cancelling what runs");
    let record = ctx.record(&job).await?;
    check_eq!((record.state, record.cancel_requested), (JobState::Running, true), "the state and the request");
    check_eq!(cancel(ctx, &job).await?, CancelOutcome::Requested, "cancelling it again");
    let beats = consumer.heartbeat(&[Beat::extend(delivery.receipt, ctx.long_lease())]).await;
    let [BeatOutcome::Held(lease)] = beats.as_slice() else {
        return Err(Failed(format!("the heartbeat of a job that is to stop was answered {beats:?}")));
    };
    check_eq!(lease.cancel.as_ref().map(|cancel| &*cancel.by), Some("operator"), "who asks, in the next heartbeat");
    check_eq!(lease.cancel.as_ref().map(|cancel| cancel.grace), Some(Cancel::by("x").grace), "the grace");
    ctx.end(&consumer, &delivery, Disposition::Cancelled).await?;
    check_eq!(ctx.record(&job).await?.state, JobState::Cancelled, "the state in the end");
    check_eq!(cancel(ctx, &job).await?, CancelOutcome::AlreadyTerminal, "cancelling it once more");
    ctx.nothing(&consumer, "it was cancelled").await
}

async fn cancelled_running_job_may_still_complete(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    cancel(ctx, &job).await?;
    // The handler was faster than the request.
    ctx.complete(&consumer, &delivery).await?;
    check_eq!(ctx.record(&job).await?.state, JobState::Completed, "the state in the end");
    Ok(())
}

async fn cancel_of_a_finished_job(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    ctx.complete(&consumer, &delivery).await?;
    check_eq!(cancel(ctx, &job).await?, CancelOutcome::AlreadyTerminal, "cancelling what is completed");
    check_eq!(ctx.record(&job).await?.state, JobState::Completed, "the state");
    Ok(())
}

async fn cancel_of_nothing(ctx: &Ctx) -> Outcome {
    let queue = ctx.declared("cancel", |_| {}).await?;
    let stranger = JobRef::new(queue, ctx.id());
    check_eq!(cancel(ctx, &stranger).await?, CancelOutcome::NotFound, "cancelling what never was");
    Ok(())
}

async fn cancel_answers_in_order(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("cancel");
    let first = ctx.publish(&queue, ctx.job("done").seal()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    consumer.demand(0).await?;
    let waiting = ctx.publish(&queue, ctx.job("waits").seal()).await?;
    let asked = [waiting, JobRef::new(queue.clone(), ctx.id()), first];
    let mut found = Vec::new();
    for answer in ctx.store()?.cancel(&asked, &Cancel::by("operator")).await {
        found.push(answer?);
    }
    let expected = [CancelOutcome::Cancelled, CancelOutcome::NotFound, CancelOutcome::AlreadyTerminal];
    check_eq!(found, expected, "one answer a job, in order");
    Ok(())
}

async fn control_is_compare_and_set(ctx: &Ctx) -> Outcome {
    let queue = ctx.declared("control", |_| {}).await?;
    let store = ctx.store()?;
    let read = store.queue_control(&queue).await?;
    check!(!read.paused, "a new queue is paused");
    store.set_queue_control(&queue, &QueueControl { paused: true, ..read.clone() }).await?;
    let second = store.queue_control(&queue).await?;
    check!(second.paused && second.version > read.version, "after a change: {second:?}, before: {read:?}");
    let stale = store.set_queue_control(&queue, &QueueControl { paused: false, ..read }).await;
    check_eq!(stale.err().map(|error| error.code()), Some(ErrorCode::Conflict), "a change on an old version");
    check!(store.queue_control(&queue).await?.paused, "the change on an old version was made");
    store.set_queue_control(&queue, &QueueControl { paused: false, ..second }).await?;
    Ok(())
}

async fn control_pauses(ctx: &Ctx) -> Outcome {
    let queue = ctx.declared("control", |_| {}).await?;
    let store = ctx.store()?;
    ctx.provider().admin().pause(&queue, true).await?;
    let control = store.queue_control(&queue).await?;
    check!(control.paused, "a pause is not seen in the queue's control");
    store.set_queue_control(&queue, &QueueControl { paused: false, ..control }).await?;
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn finished(ctx: &Ctx, n: usize) -> Outcome<Vec<JobRef>> {
    let queue = ctx.queue("evict");
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let mut jobs = Vec::new();
    for n in 0..n {
        jobs.push(ctx.publish(&queue, ctx.job(n.to_string()).seal()).await?);
        let delivery = ctx.take_one(&consumer).await?;
        ctx.complete(&consumer, &delivery).await?;
        sleep(Duration::from_millis(10)).await;
    }
    Ok(jobs)
}

/// Which of the jobs still have records.
async fn remembered(ctx: &Ctx, jobs: &[JobRef]) -> Outcome<Vec<bool>> {
    let answers = ctx.store()?.get(jobs).await;
    answers.into_iter().map(|answer| Ok(matches!(answer?, Lookup::Found(_)))).collect()
}

async fn evicted_is_gone_and_not_run_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("evict");
    let envelope = ctx.job("a").seal();
    let job = ctx.publish(&queue, envelope.clone()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    sleep(Duration::from_millis(10)).await;
    check_eq!(ctx.store()?.evict(&queue, &Retention::none(), 10).await?, 1, "how many were evicted");
    check_matches!(ctx.lookup(&job).await?, Lookup::Gone, "an evicted job");
    check_eq!(ctx.store()?.evict(&queue, &Retention::none(), 10).await?, 0, "how many were evicted again");
    ctx.publish(&queue, envelope).await?;
    ctx.nothing(&consumer, "its id is remembered").await
}

async fn eviction_keeps_to_the_count(ctx: &Ctx) -> Outcome {
    let jobs = finished(ctx, 6).await?;
    let retention = Retention { count: 2, ..Retention::default() };
    let store = ctx.store()?;
    check_eq!(store.evict(&jobs[0].queue, &retention, 3).await?, 3, "how many were evicted, three at most");
    check_eq!(remembered(ctx, &jobs).await?, [false, false, false, true, true, true], "the oldest go first");
    check_eq!(store.evict(&jobs[0].queue, &retention, 3).await?, 1, "how many more were evicted");
    check_eq!(remembered(ctx, &jobs).await?, [false, false, false, false, true, true], "two are kept");
    Ok(())
}

async fn eviction_keeps_to_the_age(ctx: &Ctx) -> Outcome {
    let mut jobs = finished(ctx, 2).await?;
    sleep(Duration::from_secs(3)).await;
    let consumer = ctx.narrow_consumer(&jobs[0].queue, 1).await?;
    jobs.push(ctx.publish(&jobs[0].queue, ctx.job("young").seal()).await?);
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    let retention = Retention { age: Duration::from_secs(2), ..Retention::default() };
    check_eq!(ctx.store()?.evict(&jobs[0].queue, &retention, 10).await?, 2, "how many were evicted");
    check_eq!(remembered(ctx, &jobs).await?, [false, false, true], "the old ones go");
    Ok(())
}

async fn eviction_leaves_the_living_and_the_dead(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("evict");
    let jobs = ctx.publish_texts(&queue, &["dead", "running", "waiting"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let id = delivery.envelope.id;
    ctx.end(&consumer, &delivery, Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }).await?;
    let running = ctx.take_one(&consumer).await?;
    sleep(Duration::from_millis(10)).await;
    check_eq!(ctx.store()?.evict(&queue, &Retention::none(), 10).await?, 0, "how many were evicted");
    check_eq!(remembered(ctx, &jobs).await?, [true, true, true], "the living and the dead stay");
    ctx.complete(&consumer, &running).await?;
    sleep(Duration::from_secs(2)).await;
    let retention = Retention { dead: Duration::from_secs(1), ..Retention::default() };
    check_eq!(ctx.store()?.evict(&queue, &retention, 10).await?, 1, "how many dead were evicted, by their own age");
    let dead = ctx.provider().admin().dead(&queue, &DeadFilter::default(), None, 10).await?;
    check!(dead.items.iter().all(|job| job.id != id), "the evicted dead job is still listed");
    Ok(())
}

async fn one_leads_at_a_time(ctx: &Ctx) -> Outcome {
    let store = ctx.store()?;
    let role = ctx.queue("role").to_string();
    let term = Duration::from_secs(2);
    let Some(first) = store.lead(&role, "a", term).await? else { return Err(Failed("nobody leads".into())) };
    check!(!first.remaining.is_zero() && first.remaining <= term, "a term of {term:?} has {:?} left", first.remaining);
    check!(store.lead(&role, "b", term).await?.is_none(), "two lead");
    let again = store.lead(&role, "a", term).await?;
    check_eq!(again.map(|lead| lead.epoch), Some(first.epoch), "the epoch of a renewed lead");
    check!(store.lead(ctx.queue("role").as_str(), "b", term).await?.is_some(), "another role has its own leader");
    Ok(())
}

async fn leaders_are_fenced(ctx: &Ctx) -> Outcome {
    let store = ctx.store()?;
    let role = ctx.queue("role").to_string();
    let term = Duration::from_millis(800);
    let first = store.lead(&role, "a", term).await?.map_or(0, |lead| lead.epoch);
    sleep(term / 2).await;
    check!(store.lead(&role, "b", term).await?.is_none(), "the term is not over");
    sleep(term).await;
    let second = store.lead(&role, "b", term).await?;
    check!(second.is_some_and(|lead| lead.epoch > first), "a new leader has a higher epoch: {second:?} after {first}");
    check!(store.lead(&role, "a", term).await?.is_none(), "the old leader leads again while another does");
    Ok(())
}

async fn several_connections_see_the_same_records(ctx: &Ctx) -> Outcome {
    let (job, consumer, delivery) = running(ctx).await?;
    let other = ctx.connect().await?;
    let store = other.job_store().ok_or_else(|| Failed("the other connection has no store".into()))?;
    check_eq!(store.id(), ctx.store()?.id(), "the id of the same store");
    let answer = store.cancel(std::slice::from_ref(&job), &Cancel::by("operator")).await.pop();
    check_matches!(answer, Some(Ok(CancelOutcome::Requested) | Err(_)), "cancelled over there");
    let outcome = ctx.settle(&consumer, &delivery, Disposition::Complete { result: None }).await?;
    check_matches!(outcome, SettleOutcome::Settled, "completed here");
    check_matches!(store.get(&[job]).await.pop(), Some(Ok(Lookup::Found(_))), "the record over there");
    Ok(())
}
