//! What was answered is still so after a crash, and no claim is mistaken for another's.

use std::time::Duration;

use queue_core::{
    Envelope, JobError, JobRef, QueueName,
    lifecycle::JobState,
    provider::{BeatOutcome, Cancel, Disposition, FollowUp, ParkKey, ReleaseReason, SettleOutcome},
    queue_spec::Retention,
    store::{Lookup, QueueControl, RedriveOutcome, StageOutcome, StagedJob, TrackedSettle, Verdict},
};
use tokio::time::sleep;

use super::{
    context::{LEASE, SLACK, STAGE, StoreCtx, only, scope, staged, tracked},
    store_cases,
};
use crate::{
    conformance::{
        Failed, Outcome,
        case::{check, check_eq, check_matches},
    },
    harness::Ending::{Crash, Orderly},
};

store_cases! { "restart";
    it_is_the_same_store
    staged_is_swept
    held_is_kept_until_due
    unique_key_stays_held
    unstaged_may_be_tried_again
    refused_stays_dead
    fences_differ_across_crashes
    holder_settles_after_an_orderly_end
    process_killer_is_counted
    completed_stays_completed
    follow_ups_are_swept
    successor_outdates_its_original
    released_waits
    parked_stays_in_line
    unparked_is_swept
    swept_generation_stands
    cancelled_stays_cancelled
    evicted_stays_gone
    redriven_lives
    forgotten_dead_stay_gone
    switches_and_numbers_stay
    purged_stay_cancelled
    dropped_queue_stays_dropped
    adopted_is_known
}

fn failed() -> JobError {
    JobError::custom("TEMP", "again")
}

fn bury() -> Disposition {
    Disposition::DeadLetter { error: failed() }
}

fn complete() -> Disposition {
    Disposition::Complete { result: Some("7".into()) }
}

fn next(of: &Envelope) -> Envelope {
    of.edit(|job| {
        job.attempt += 1;
        job.generation += 1;
    })
}

async fn settled(ctx: &StoreCtx, settle: TrackedSettle) -> Outcome {
    check_matches!(ctx.settle_with(settle).await?, SettleOutcome::Settled, "the settlement");
    Ok(())
}

/// The one copy that the sweep hands out of a queue once a stage lease is over.
async fn swept(ctx: &StoreCtx, queue: &QueueName) -> Outcome<StagedJob> {
    sleep(STAGE + SLACK).await;
    only(ctx.due(queue, true).await?).map_err(|error| Failed(format!("the sweep: {}", error.0)))
}

async fn dropped(ctx: &StoreCtx, queue: &QueueName, copy: &Envelope) -> Outcome {
    check_matches!(ctx.judge(queue, copy, "worker").await?, Verdict::Drop, "a copy of it");
    Ok(())
}

async fn it_is_the_same_store(ctx: &StoreCtx) -> Outcome {
    let id = ctx.store.id();
    for ending in [Orderly, Crash] {
        let ctx = ctx.reopened(ending).await?;
        check_eq!(ctx.store.id(), id, "its id");
    }
    Ok(())
}

async fn staged_is_swept(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    ctx.stage(&queue, &job).await?;
    let ctx = ctx.reopened(Crash).await?;
    check_matches!(ctx.offer(&queue, &job).await?, StageOutcome::Again, "its publisher asks again");
    let copy = swept(&ctx, &queue).await?;
    check_eq!((&copy.job.id, &copy.envelope), (&job.id, &job), "the copy");
    Ok(())
}

async fn held_is_kept_until_due(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let mut held = staged(&queue, &job);
    held.hold = Some(LEASE);
    check_matches!(only(ctx.store.stage(&[held], STAGE).await)?, StageOutcome::Staged, "holding");
    let ctx = ctx.reopened(Crash).await?;
    check!(ctx.due(&queue, true).await?.is_empty(), "handed out before it is due");
    sleep(LEASE + SLACK).await;
    check_eq!(ctx.due(&queue, true).await?.len(), 1, "handed out when it is due");
    Ok(())
}

async fn unique_key_stays_held(ctx: &StoreCtx) -> Outcome {
    let (queue, first) = (ctx.queue(), ctx.unique("first", "key"));
    let holder = ctx.publish(&queue, &first).await?;
    let ctx = ctx.reopened(Crash).await?;
    let outcome = ctx.offer(&queue, &ctx.unique("second", "key")).await?;
    check_matches!(outcome, StageOutcome::Duplicate { existing } if *existing == holder, "the key is held");
    let (fence, _) = ctx.run(&queue, &first).await?;
    settled(&ctx, tracked(fence, complete())).await?;
    let ctx = ctx.reopened(Crash).await?;
    check_matches!(ctx.offer(&queue, &ctx.unique("third", "key")).await?, StageOutcome::Staged, "the key is free");
    Ok(())
}

async fn unstaged_may_be_tried_again(ctx: &StoreCtx) -> Outcome {
    // One without a unique key may have been published since, while the store was away: its copy would be adopted.
    let (queue, job) = (ctx.queue(), ctx.unique("a", "key"));
    let taken_back = ctx.stage(&queue, &job).await?;
    check!(only(ctx.store.unstage(&[(taken_back, 0)]).await)??, "taken back");
    let ctx = ctx.reopened(Crash).await?;
    dropped(&ctx, &queue, &job).await?;
    check_matches!(ctx.offer(&queue, &job).await?, StageOutcome::Staged, "another try");
    Ok(())
}

async fn refused_stays_dead(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let staged = ctx.stage(&queue, &job).await?;
    only(ctx.store.refuse(&[(staged.clone(), 0, failed())]).await)??;
    let ctx = ctx.reopened(Crash).await?;
    let record = ctx.record(&staged).await?;
    check_eq!((record.state, record.error), (JobState::Dead, Some(failed())), "the state and the error");
    Ok(())
}

async fn fences_differ_across_crashes(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, first) = ctx.running("a").await?;
    let ctx = ctx.reopened(Crash).await?;
    sleep(LEASE + SLACK).await;
    let (second, _) = ctx.run(&job.queue, &envelope).await?;
    check!(first != second, "{first:?} was given out twice");
    check_matches!(ctx.settle(first, complete()).await?, SettleOutcome::LeaseLost, "the first life's settlement");
    settled(&ctx, tracked(second, complete())).await
}

async fn holder_settles_after_an_orderly_end(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    let ctx = ctx.reopened(Orderly).await?;
    check_matches!(ctx.judge(&job.queue, &envelope, "other").await?, Verdict::Busy { .. }, "it is leased");
    check_matches!(ctx.beat(fence, |_| ()).await?, BeatOutcome::Held(_), "its beat");
    settled(&ctx, tracked(fence, complete())).await
}

/// Crashes the store under a running job again and again.
async fn process_killer_is_counted(first: &StoreCtx) -> Outcome {
    let (queue, job) = (first.queue(), first.job("a"));
    first.publish(&queue, &job).await?;
    let mut counts = Vec::new();
    let mut ctx = first.reopened(Orderly).await?;
    for _ in 0..4 {
        let Verdict::Run { fence, started_before, redelivered, .. } = ctx.judge(&queue, &job, "worker").await? else {
            return Err(Failed("its lease is over, and it does not run".into()));
        };
        counts.push(started_before);
        if redelivered {
            check_matches!(ctx.beat(fence, |beat| beat.started = true).await?, BeatOutcome::Held(_), "its start");
        }
        ctx = ctx.reopened(Crash).await?;
        sleep(LEASE + SLACK).await;
    }
    check!(counts.is_sorted() && counts[3] >= 2, "starts before each of four: {counts:?}");
    Ok(())
}

async fn completed_stays_completed(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    settled(ctx, tracked(fence, complete())).await?;
    let ctx = ctx.reopened(Crash).await?;
    let record = ctx.record(&job).await?;
    check_eq!((record.state, record.result.as_deref()), (JobState::Completed, Some(&b"7"[..])), "state and result");
    dropped(&ctx, &job.queue, &envelope).await?;
    check_matches!(ctx.settle(fence, complete()).await?, SettleOutcome::AlreadySettled, "settled again");
    check_matches!(ctx.settle(fence, bury()).await?, SettleOutcome::Conflict, "settled otherwise");
    check_matches!(ctx.offer(&job.queue, &envelope).await?, StageOutcome::Known, "published again");
    Ok(())
}

async fn follow_ups_are_swept(ctx: &StoreCtx) -> Outcome {
    let (_, _, fence) = ctx.running("a").await?;
    let (queue, envelope) = (ctx.queue(), ctx.job("then"));
    let mut settle = tracked(fence, complete());
    settle.settlement.then.push(FollowUp { queue: queue.clone(), envelope: envelope.clone() });
    settled(ctx, settle.clone()).await?;
    let ctx = ctx.reopened(Crash).await?;
    let whole = ctx.settle_whole(settle).await?;
    check_eq!(whole.then, [0], "what is left to publish of a repeated settlement");
    check_eq!(swept(&ctx, &queue).await?.envelope, envelope, "the follow-up");
    Ok(())
}

async fn successor_outdates_its_original(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    let retry = Disposition::Retry { after: Duration::ZERO, error: failed() };
    settled(ctx, TrackedSettle { successor: Some(next(&envelope)), ..tracked(fence, retry) }).await?;
    let ctx = ctx.reopened(Crash).await?;
    dropped(&ctx, &job.queue, &envelope).await?;
    let copy = swept(&ctx, &job.queue).await?;
    let (_, attempt) = ctx.run(&job.queue, &copy.envelope).await?;
    check_eq!((copy.envelope.generation, attempt), (1, 2), "generation and attempt");
    Ok(())
}

async fn released_waits(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    let release = Disposition::Release { after: LEASE, reason: ReleaseReason::Busy };
    settled(ctx, tracked(fence, release)).await?;
    let ctx = ctx.reopened(Crash).await?;
    check_matches!(ctx.judge(&job.queue, &envelope, "worker").await?, Verdict::Busy { .. }, "before it is due");
    sleep(LEASE + SLACK).await;
    let (_, attempt) = ctx.run(&job.queue, &envelope).await?;
    check_eq!(attempt, 1, "the attempt");
    Ok(())
}

async fn park(ctx: &StoreCtx, queue: &QueueName, text: &str) -> Outcome<(JobRef, Envelope)> {
    let job = ctx.job(text);
    let parked = ctx.publish(queue, &job).await?;
    let (fence, _) = ctx.run(queue, &job).await?;
    let at_most = Duration::from_secs(600);
    settled(ctx, tracked(fence, Disposition::Park { key: ParkKey("key".into()), at_most })).await?;
    Ok((parked, job))
}

async fn parked_stays_in_line(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let (first, _) = park(ctx, &queue, "first").await?;
    park(ctx, &queue, "second").await?;
    let ctx = ctx.reopened(Crash).await?;
    let key = ParkKey("key".into());
    check_eq!(ctx.store.parked(&queue, 9).await?, [(key.clone(), 2)], "parked");
    let copies = ctx.store.unpark(&scope(&queue), &key, 1, STAGE).await?;
    check_eq!(copies.iter().map(|copy| copy.job.id).collect::<Vec<_>>(), [first.id], "the first in line");
    Ok(())
}

async fn unparked_is_swept(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let (_, old) = park(ctx, &queue, "a").await?;
    ctx.store.unpark(&scope(&queue), &ParkKey("key".into()), 1, STAGE).await?;
    let ctx = ctx.reopened(Crash).await?;
    check!(ctx.store.parked(&queue, 9).await?.is_empty(), "it is parked again");
    dropped(&ctx, &queue, &old).await?;
    check_eq!(swept(&ctx, &queue).await?.envelope.generation, 1, "the generation");
    Ok(())
}

async fn swept_generation_stands(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, _) = ctx.running("a").await?;
    // Somebody must have waited for a claim before, that it outlives a crash: the second one is a redelivery.
    sleep(LEASE + SLACK).await;
    ctx.run(&job.queue, &envelope).await?;
    sleep(LEASE + SLACK).await;
    let copy = only(ctx.due(&job.queue, true).await?)?;
    check_eq!(copy.envelope.generation, 1, "the generation for a dead lease");
    let ctx = ctx.reopened(Crash).await?;
    sleep(LEASE + SLACK).await;
    dropped(&ctx, &job.queue, &envelope).await?;
    ctx.run(&job.queue, &copy.envelope).await?;
    Ok(())
}

async fn cancelled_stays_cancelled(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let waiting = ctx.publish(&queue, &job).await?;
    let (running, _, fence) = ctx.running("b").await?;
    for answer in ctx.store.cancel(&[waiting.clone(), running.clone()], &Cancel::by("case")).await {
        answer?;
    }
    let ctx = ctx.reopened(Crash).await?;
    check_eq!(ctx.state(&waiting).await?, JobState::Cancelled, "the state of the one that waited");
    dropped(&ctx, &queue, &job).await?;
    check!(ctx.record(&running).await?.cancel_requested, "the request to the one that runs");
    let beat = ctx.beat(fence, |_| ()).await?;
    check_matches!(beat, BeatOutcome::Held(lease) if lease.cancel.is_some(), "its beat");
    Ok(())
}

async fn evicted_stays_gone(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    settled(ctx, tracked(fence, complete())).await?;
    check_eq!(ctx.store.evict(&job.queue, &Retention::none(), 9).await?, 1, "evicted");
    let ctx = ctx.reopened(Crash).await?;
    check_matches!(only(ctx.store.get(std::slice::from_ref(&job)).await)??, Lookup::Gone, "the record");
    dropped(&ctx, &job.queue, &envelope).await
}

async fn dead(ctx: &StoreCtx) -> Outcome<(JobRef, Envelope)> {
    let (job, envelope, fence) = ctx.running("a").await?;
    settled(ctx, tracked(fence, bury())).await?;
    Ok((job, envelope))
}

async fn redriven_lives(ctx: &StoreCtx) -> Outcome {
    let (job, _) = dead(ctx).await?;
    let ctx = ctx.reopened(Crash).await?;
    let outcome = only(ctx.store.redrive(&[(job.clone(), Some("other".into()))], STAGE).await)??;
    check_matches!(outcome, RedriveOutcome::Staged(_), "the redrive");
    let ctx = ctx.reopened(Crash).await?;
    let copy = swept(&ctx, &job.queue).await?;
    check_eq!((copy.envelope.generation, &*copy.envelope.payload), (1, &b"other"[..]), "generation and payload");
    let (_, attempt) = ctx.run(&job.queue, &copy.envelope).await?;
    check_eq!(attempt, 1, "the attempt");
    Ok(())
}

async fn forgotten_dead_stay_gone(ctx: &StoreCtx) -> Outcome {
    let (job, envelope) = dead(ctx).await?;
    check!(only(ctx.store.forget_dead(std::slice::from_ref(&job)).await)??, "forgotten");
    let ctx = ctx.reopened(Crash).await?;
    check_matches!(only(ctx.store.get(std::slice::from_ref(&job)).await)??, Lookup::Gone, "the record");
    dropped(&ctx, &job.queue, &envelope).await
}

async fn switches_and_numbers_stay(ctx: &StoreCtx) -> Outcome {
    let (job, _) = dead(ctx).await?;
    let queue = &job.queue;
    ctx.publish(queue, &ctx.job("b")).await?;
    let control = ctx.store.queue_control(queue).await?;
    let retention = Some(Retention { count: u64::MAX, bytes: 7, ..Retention::default() });
    ctx.store.set_queue_control(queue, &QueueControl { paused: true, retention, ..control }).await?;
    let (control, stats) =
        (ctx.store.queue_control(queue).await?, only(ctx.store.stats(std::slice::from_ref(queue)).await)??);
    check_eq!((control.paused, control.retention), (true, retention), "the switches as they were set");
    let ctx = ctx.reopened(Crash).await?;
    check_eq!(ctx.store.queue_control(queue).await?, control, "the switches");
    check_eq!(only(ctx.store.stats(std::slice::from_ref(queue)).await)??, stats, "the numbers");
    Ok(())
}

async fn purged_stay_cancelled(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let purged = ctx.publish(&queue, &job).await?;
    check_eq!(ctx.store.purge(&queue).await?, 1, "purged");
    let ctx = ctx.reopened(Crash).await?;
    check_eq!(ctx.state(&purged).await?, JobState::Cancelled, "the state");
    Ok(())
}

async fn dropped_queue_stays_dropped(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.unique("a", "key"));
    let gone = ctx.publish(&queue, &job).await?;
    ctx.store.drop_queue(&queue).await?;
    let ctx = ctx.reopened(Crash).await?;
    let lookup = only(ctx.store.get(std::slice::from_ref(&gone)).await)??;
    check_matches!(lookup, Lookup::NotFound | Lookup::Gone, "the record");
    check_matches!(ctx.offer(&queue, &ctx.unique("b", "key")).await?, StageOutcome::Staged, "its key is free");
    Ok(())
}

async fn adopted_is_known(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    ctx.run(&queue, &job).await?;
    let ctx = ctx.reopened(Crash).await?;
    check_matches!(ctx.judge(&queue, &job, "other").await?, Verdict::Busy { .. }, "its claim stands");
    sleep(LEASE + SLACK).await;
    let verdict = ctx.judge(&queue, &job, "other").await?;
    check_matches!(verdict, Verdict::Run { redelivered: true, .. }, "the next claim");
    Ok(())
}
