//! Dead jobs: kept with their error, found, and brought back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    Consumer, Envelope, ErrorCode, JobError, JobRef, QueueName,
    job::JobKind,
    provider::{
        Cursor, DeadBody, DeadFilter, DeadJob, Disposition, PublishOutcome, Redrive, RedriveReport, RedriveSelection,
    },
};
use tokio::time::sleep;

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::text,
};

cases! { "dead_letter";
    kept_with_its_error [DeadLetters]
    keeps_the_attempt [DeadLetters, Retry]
    filtered_by_code_and_kind [DeadLetters]
    filtered_by_time [DeadLetters]
    listed_page_by_page_oldest_first [DeadLetters]
    foreign_cursor_is_refused [DeadLetters]
    redrive_one [DeadLetters]
    redrive_all [DeadLetters]
    redrive_what_matches [DeadLetters]
    redrive_begins_at_attempt_one [DeadLetters, Retry]
    redrive_dry_run_changes_nothing [DeadLetters]
    redrive_with_an_edited_payload [DeadLetters]
    edited_payload_needs_one_named_job [DeadLetters]
    redrive_twice_is_once [DeadLetters]
    redrive_of_the_living_is_nothing [DeadLetters]
    redriven_job_can_die_again [DeadLetters]
    redrive_leaves_a_held_unique_key_alone [DeadLetters, UniqueKeys]
    redrive_takes_the_unique_key_again [DeadLetters, UniqueKeys]
    drop_removes_what_matches [DeadLetters]
    queues_have_their_own [DeadLetters]
    failed_dead_letter_leaves_the_job [DeadLetters, SuccessorFaults]
    failed_retry_leaves_the_job [Retry, SuccessorFaults]
}

fn error(code: &'static str) -> JobError {
    JobError::custom(code, format!("it failed with {code}")).with_detail("at line 7").permanent()
}

async fn bury(ctx: &Ctx, queue: &QueueName, job: Envelope, code: &'static str) -> Outcome<JobRef> {
    let job = ctx.publish(queue, job).await?;
    let consumer = ctx.narrow_consumer(queue, 1).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(delivery.envelope.id, job.id, "the job to bury");
    ctx.end(&consumer, &delivery, Disposition::DeadLetter { error: error(code) }).await?;
    consumer.close(Duration::from_secs(1)).await;
    Ok(job)
}

async fn dead(ctx: &Ctx, queue: &QueueName, filter: &DeadFilter) -> Outcome<Vec<DeadJob>> {
    let page = ctx.provider().admin().dead(queue, filter, None, 100).await?;
    check!(page.next.is_none() || page.items.len() == 100, "a short page says that there is more");
    Ok(page.items)
}

async fn dead_names(ctx: &Ctx, queue: &QueueName, filter: &DeadFilter) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = dead(ctx, queue, filter).await?.iter().map(name).collect();
    names.sort_unstable();
    Ok(names)
}

fn name(dead: &DeadJob) -> String {
    match &dead.body {
        DeadBody::Envelope(envelope) => String::from_utf8_lossy(&envelope.payload).into_owned(),
        DeadBody::Raw(bytes) => format!("raw {bytes:?}"),
    }
}

fn report(matched: u64, redriven: u64, duplicates: u64) -> RedriveReport {
    RedriveReport { matched, redriven, duplicates }
}

async fn redrive(ctx: &Ctx, queue: &QueueName, what: &Redrive) -> Outcome<RedriveReport> {
    Ok(ctx.provider().admin().redrive(queue, what).await?)
}

async fn kept_with_its_error(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let before = ctx.now();
    let sent = ctx.job("a").seal();
    let job = bury(ctx, &queue, sent.clone(), "BROKEN_THING").await?;
    let found = dead(ctx, &queue, &DeadFilter::default()).await?;
    let [one] = found.as_slice() else { return Err(Failed(format!("{} dead jobs, one died", found.len()))) };
    check_eq!(one.id, job.id, "the id");
    check_eq!(one.error, error("BROKEN_THING"), "the error");
    check_eq!(one.attempt, 1, "the last attempt");
    check_matches!(&one.body, DeadBody::Envelope(envelope) if envelope.payload == sent.payload, "the job");
    let slack = if ctx.caps().broker_clock { Duration::from_secs(5) } else { Duration::ZERO };
    check!(one.died_at + slack >= before && one.died_at <= ctx.now() + slack, "it died at {:?}", one.died_at);
    let consumer = ctx.consumer(&queue).await?;
    ctx.nothing(&consumer, "the dead do not run").await
}

async fn keeps_the_attempt(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    die_in_attempt(ctx, &consumer, 3).await?;
    let found = dead(ctx, &queue, &DeadFilter::default()).await?;
    check_eq!(found.iter().map(|job| job.attempt).collect::<Vec<_>>(), [3], "the last attempt of the dead");
    Ok(())
}

async fn die_in_attempt(ctx: &Ctx, consumer: &Arc<dyn Consumer>, attempt: u32) -> Outcome {
    for _ in 1..attempt {
        let delivery = ctx.take_one(consumer).await?;
        let again = Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") };
        ctx.end(consumer, &delivery, again).await?;
    }
    let delivery = ctx.take_one(consumer).await?;
    check_eq!(delivery.attempt, attempt, "the attempt that dies");
    ctx.end(consumer, &delivery, Disposition::DeadLetter { error: error("LAST") }).await
}

async fn three_dead(ctx: &Ctx, queue: &QueueName) -> Outcome<[JobRef; 3]> {
    let other = |text: &str| {
        let mut job = ctx.job(text);
        job.kind = JobKind::from_static("other.kind");
        job.seal()
    };
    Ok([
        bury(ctx, queue, ctx.job("a").seal(), "RED").await?,
        bury(ctx, queue, other("b"), "RED").await?,
        bury(ctx, queue, other("c"), "BLUE").await?,
    ])
}

async fn filtered_by_code_and_kind(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    three_dead(ctx, &queue).await?;
    let code = |code: &str| DeadFilter { code: Some(code.into()), ..DeadFilter::default() };
    let kind = Some(JobKind::from_static("other.kind"));
    check_eq!(dead_names(ctx, &queue, &DeadFilter::default()).await?, ["a", "b", "c"], "without a filter");
    check_eq!(dead_names(ctx, &queue, &code("RED")).await?, ["a", "b"], "by code");
    check_eq!(
        dead_names(ctx, &queue, &DeadFilter { kind: kind.clone(), ..DeadFilter::default() }).await?,
        ["b", "c"],
        "by kind"
    );
    check_eq!(dead_names(ctx, &queue, &DeadFilter { kind, ..code("RED") }).await?, ["b"], "by both");
    check!(dead_names(ctx, &queue, &code("GREEN")).await?.is_empty(), "a code that nothing has");
    Ok(())
}

async fn filtered_by_time(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    bury(ctx, &queue, ctx.job("early").seal(), "RED").await?;
    sleep(Duration::from_secs(1)).await;
    bury(ctx, &queue, ctx.job("late").seal(), "RED").await?;
    let all = dead(ctx, &queue, &DeadFilter::default()).await?;
    let Some(late) = all.iter().find(|job| name(job) == "late") else { return Err(Failed("it is not there".into())) };
    let since = DeadFilter { since: Some(late.died_at), ..DeadFilter::default() };
    let before = DeadFilter { before: Some(late.died_at), ..DeadFilter::default() };
    check_eq!(dead_names(ctx, &queue, &since).await?, ["late"], "since the second's death, inclusive");
    check_eq!(dead_names(ctx, &queue, &before).await?, ["early"], "before the second's death, exclusive");
    Ok(())
}

async fn listed_page_by_page_oldest_first(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let names: Vec<String> = (0..7).map(|n| n.to_string()).collect();
    for name in &names {
        bury(ctx, &queue, ctx.job(name).seal(), "RED").await?;
        sleep(Duration::from_millis(5)).await;
    }
    let admin = ctx.provider().admin();
    let (mut found, mut cursor) = (Vec::new(), None);
    for _ in 0..10 {
        let page = admin.dead(&queue, &DeadFilter::default(), cursor.take(), 3).await?;
        check!(page.items.len() <= 3, "a page of {} for a limit of 3", page.items.len());
        found.extend(page.items.iter().map(name));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    check!(cursor.is_none(), "the listing has no end");
    check_eq!(found, names, "the dead, the oldest first, each once");
    Ok(())
}

async fn foreign_cursor_is_refused(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    bury(ctx, &queue, ctx.job("a").seal(), "RED").await?;
    let cursor = Some(Cursor("no cursor of this listing/ü".into()));
    let answer = ctx.provider().admin().dead(&queue, &DeadFilter::default(), cursor, 3).await;
    let code = answer.err().map(|error| error.code());
    check_eq!(code, Some(ErrorCode::Validation), "a cursor of another listing");
    Ok(())
}

async fn redrive_one(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let [_, second, _] = three_dead(ctx, &queue).await?;
    check_eq!(redrive(ctx, &queue, &Redrive::one(second.id)).await?, report(1, 1, 0), "the report");
    check_eq!(dead_names(ctx, &queue, &DeadFilter::default()).await?, ["a", "c"], "the dead that stay");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(text(&delivery), "b", "what was redriven");
    check_eq!(delivery.envelope.id, second.id, "the id stays");
    ctx.complete(&consumer, &delivery).await?;
    ctx.nothing(&consumer, "only one was redriven").await
}

async fn redrive_all(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    three_dead(ctx, &queue).await?;
    check_eq!(redrive(ctx, &queue, &Redrive::all()).await?, report(3, 3, 0), "the report");
    check!(dead_names(ctx, &queue, &DeadFilter::default()).await?.is_empty(), "some stayed dead");
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 3).await?;
    ctx.complete_all(&consumer, &got).await?;
    ctx.nothing(&consumer, "all are completed").await
}

async fn redrive_what_matches(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    three_dead(ctx, &queue).await?;
    let red = DeadFilter { code: Some("RED".into()), ..DeadFilter::default() };
    check_eq!(redrive(ctx, &queue, &Redrive::matching(red)).await?, report(2, 2, 0), "the report");
    check_eq!(dead_names(ctx, &queue, &DeadFilter::default()).await?, ["c"], "the dead that stay");
    Ok(())
}

async fn redrive_begins_at_attempt_one(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    die_in_attempt(ctx, &consumer, 3).await?;
    redrive(ctx, &queue, &Redrive::all()).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(delivery.attempt, 1, "another life begins at attempt 1");
    check_eq!(delivery.started_before, 0, "and without started deliveries");
    check!(!delivery.redelivered, "and is no redelivery");
    ctx.complete(&consumer, &delivery).await
}

async fn redrive_dry_run_changes_nothing(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    three_dead(ctx, &queue).await?;
    let what = Redrive { dry_run: true, ..Redrive::all() };
    let told = redrive(ctx, &queue, &what).await?;
    check_eq!(told.matched, 3, "what a dry run counts");
    check_eq!(dead_names(ctx, &queue, &DeadFilter::default()).await?, ["a", "b", "c"], "the dead after a dry run");
    let consumer = ctx.consumer(&queue).await?;
    ctx.nothing(&consumer, "it was a dry run").await
}

async fn redrive_with_an_edited_payload(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let [first, ..] = three_dead(ctx, &queue).await?;
    let what = Redrive { payload: Some(Bytes::from_static(b"mended")), ..Redrive::one(first.id) };
    check_eq!(redrive(ctx, &queue, &what).await?, report(1, 1, 0), "the report");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!((text(&delivery), delivery.envelope.id), ("mended".to_owned(), first.id), "the edited job");
    ctx.complete(&consumer, &delivery).await
}

async fn edited_payload_needs_one_named_job(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let jobs = three_dead(ctx, &queue).await?;
    let two = RedriveSelection::Jobs(jobs[..2].iter().map(|job| job.id).collect());
    for which in [RedriveSelection::Matching(DeadFilter::default()), two, RedriveSelection::Jobs(Vec::new())] {
        let what = Redrive { which, dry_run: false, payload: Some(Bytes::from_static(b"mended")) };
        let code = ctx.provider().admin().redrive(&queue, &what).await.err().map(|error| error.code());
        check_eq!(code, Some(ErrorCode::Validation), "an edited payload for {:?}", what.which);
    }
    check_eq!(dead_names(ctx, &queue, &DeadFilter::default()).await?, ["a", "b", "c"], "the dead");
    Ok(())
}

async fn redrive_twice_is_once(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let job = bury(ctx, &queue, ctx.job("a").seal(), "RED").await?;
    check_eq!(redrive(ctx, &queue, &Redrive::one(job.id)).await?, report(1, 1, 0), "the first report");
    check_eq!(redrive(ctx, &queue, &Redrive::one(job.id)).await?, report(0, 0, 0), "the second report");
    check_eq!(redrive(ctx, &queue, &Redrive::all()).await?, report(0, 0, 0), "the third report");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    ctx.nothing(&consumer, "it was redriven once").await
}

async fn redrive_of_the_living_is_nothing(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let job = ctx.publish(&queue, ctx.job("alive").seal()).await?;
    let stranger = Redrive { which: RedriveSelection::Jobs(vec![job.id, ctx.id()]), dry_run: false, payload: None };
    check_eq!(redrive(ctx, &queue, &stranger).await?, report(0, 0, 0), "the report");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    ctx.nothing(&consumer, "it is one job").await
}

async fn redriven_job_can_die_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let job = bury(ctx, &queue, ctx.job("a").seal(), "RED").await?;
    let consumer = ctx.consumer(&queue).await?;
    for code in ["BLUE", "GREEN"] {
        check_eq!(redrive(ctx, &queue, &Redrive::one(job.id)).await?, report(1, 1, 0), "the report");
        let delivery = ctx.take_one(&consumer).await?;
        ctx.end(&consumer, &delivery, Disposition::DeadLetter { error: error(code) }).await?;
        let codes: Vec<_> = dead(ctx, &queue, &DeadFilter::default())
            .await?
            .into_iter()
            .map(|job| job.error.code.into_owned())
            .collect();
        check_eq!(codes, [code], "the error of the last death");
    }
    Ok(())
}

async fn redrive_leaves_a_held_unique_key_alone(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let dead_one = bury(ctx, &queue, ctx.unique("dead", "key", None), "RED").await?;
    let plain = bury(ctx, &queue, ctx.job("plain").seal(), "RED").await?;
    ctx.publish(&queue, ctx.unique("holder", "key", None)).await?;
    check_eq!(redrive(ctx, &queue, &Redrive::all()).await?, report(2, 1, 1), "the report");
    check_eq!(dead_names(ctx, &queue, &DeadFilter::default()).await?, ["dead"], "what stays dead");
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 2).await?;
    check!(got.iter().any(|delivery| delivery.envelope.id == plain.id), "the one without a key came back");
    ctx.complete_all(&consumer, &got).await?;
    // The holder is finished: now it can be redriven.
    check_eq!(redrive(ctx, &queue, &Redrive::one(dead_one.id)).await?, report(1, 1, 0), "the report after that");
    Ok(())
}

async fn redrive_takes_the_unique_key_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    let job = bury(ctx, &queue, ctx.unique("a", "key", None), "RED").await?;
    redrive(ctx, &queue, &Redrive::one(job.id)).await?;
    let outcome = ctx.offer_one(&queue, ctx.unique("b", "key", None)).await?;
    check_matches!(&outcome, PublishOutcome::Duplicate { existing } if existing.id == job.id, "the redriven job holds it");
    Ok(())
}

async fn drop_removes_what_matches(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dead");
    three_dead(ctx, &queue).await?;
    let admin = ctx.provider().admin();
    let red = DeadFilter { code: Some("RED".into()), ..DeadFilter::default() };
    check_eq!(admin.drop_dead(&queue, &red).await?, 2, "how many were dropped");
    check_eq!(dead_names(ctx, &queue, &DeadFilter::default()).await?, ["c"], "the dead that stay");
    check_eq!(admin.drop_dead(&queue, &red).await?, 0, "how many were dropped again");
    check_eq!(redrive(ctx, &queue, &Redrive::all()).await?, report(1, 1, 0), "what can still be redriven");
    Ok(())
}

async fn queues_have_their_own(ctx: &Ctx) -> Outcome {
    let (one, two) = (ctx.queue("dead"), ctx.queue("dead"));
    bury(ctx, &one, ctx.job("one").seal(), "RED").await?;
    bury(ctx, &two, ctx.job("two").seal(), "RED").await?;
    check_eq!(redrive(ctx, &one, &Redrive::all()).await?, report(1, 1, 0), "the report");
    check_eq!(dead_names(ctx, &two, &DeadFilter::default()).await?, ["two"], "the other queue's dead");
    Ok(())
}

async fn failed_dead_letter_leaves_the_job(ctx: &Ctx) -> Outcome {
    failed_successor(ctx, Disposition::DeadLetter { error: error("RED") }).await
}

async fn failed_retry_leaves_the_job(ctx: &Ctx) -> Outcome {
    failed_successor(ctx, Disposition::Retry { after: Duration::from_secs(1), error: error("RED") }).await
}

/// The successor cannot be published: the original is still leased here, and the same settlement works later.
async fn failed_successor(ctx: &Ctx, disposition: Disposition) -> Outcome {
    let queue = ctx.queue("fault");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.harness().refuse_successors(&queue, true).await;
    let outcome = ctx.settle(&consumer, &delivery, disposition.clone()).await?;
    ctx.harness().refuse_successors(&queue, false).await;
    check!(!outcome.is_settled(), "nothing was published and the answer was {outcome:?}");
    let other = ctx.consumer(&queue).await?;
    ctx.nothing(&other, "it is still leased").await?;
    let again = ctx.settle(&consumer, &delivery, disposition).await?;
    check!(again.is_settled(), "the same settlement, when the broker takes it: {again:?}");
    ctx.nothing(&other, "it is dead or waits").await.or_else(|failed| {
        // A retry after one second may have come by now.
        if ctx.quiet_time() >= Duration::from_secs(1) { Ok(()) } else { Err(failed) }
    })
}
