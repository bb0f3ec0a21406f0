//! Who may run a copy.

use std::time::Duration;

use queue_core::{
    JobRef,
    lifecycle::JobState,
    provider::{BeatOutcome, Cancel, Disposition, ReleaseReason},
    store::Verdict,
};
use tokio::time::sleep;

use super::{
    context::{LEASE, SLACK, StoreCtx},
    store_cases,
};
use crate::conformance::{
    Failed, Outcome,
    case::{check, check_eq, check_matches},
};

store_cases! { "claim";
    first_copy_runs
    second_copy_does_not
    unconfirmed_copy_runs
    finished_copy_is_dropped
    cancelled_copy_is_dropped
    expired_copy_is_dropped
    older_generation_is_dropped
    newer_generation_is_adopted
    unknown_job_is_adopted
    not_due_is_busy
    lost_lease_is_claimed_again
    given_back_unstarted_stays_redelivered
    fences_differ
    started_runs_are_counted
    heartbeat_extends
    heartbeat_of_the_loser_is_lost
    heartbeat_carries_the_cancel
    heartbeat_keeps_progress
}

async fn first_copy_runs(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let published = ctx.publish(&queue, &job).await?;
    let before = ctx.now();
    let verdict = ctx.judge(&queue, &job, "ann").await?;
    let Verdict::Run { fence, lease, attempt, started_before, redelivered } = verdict else {
        return Err(Failed(format!("the first copy was judged {verdict:?}")));
    };
    check_eq!((fence.id, fence.generation), (job.id, 0), "the fence");
    check!(lease.remaining.is_some_and(|left| !left.is_zero() && left <= LEASE), "the lease: {lease:?}");
    check_eq!((attempt, started_before, redelivered), (1, 0, false), "attempt, started before, redelivered");
    let record = ctx.record(&published).await?;
    check_eq!((record.state, record.worker.as_deref()), (JobState::Running, Some("ann")), "the state and the worker");
    let ends = record.lease_ends.ok_or_else(|| Failed("until when it is held is not recorded".into()))?;
    let (first, last) = (before + LEASE, ctx.now() + LEASE + SLACK);
    check!(first <= ends + SLACK && ends <= last, "held until {ends:?}, which is not from {first:?} to {last:?}");
    ctx.settle(fence, Disposition::Complete { result: None }).await?;
    check_eq!(ctx.record(&published).await?.lease_ends, None, "until when it is held once it is completed");
    Ok(())
}

async fn second_copy_does_not(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, _) = ctx.running("a").await?;
    let verdict = ctx.judge(&job.queue, &envelope, "other").await?;
    check_matches!(verdict, Verdict::Busy { .. } | Verdict::Drop, "a second copy while another runs");
    if let Verdict::Busy { remaining } = verdict {
        check!(!remaining.is_zero() && remaining <= LEASE, "busy for {remaining:?} of a lease of {LEASE:?}");
    }
    Ok(())
}

async fn unconfirmed_copy_runs(ctx: &StoreCtx) -> Outcome {
    // The transport was faster than the confirm.
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let staged = ctx.stage(&queue, &job).await?;
    ctx.run(&queue, &job).await?;
    ctx.confirm(&staged, 0).await?;
    check_eq!(ctx.state(&staged).await?, JobState::Running, "the state after a late confirm");
    Ok(())
}

async fn finished_copy_is_dropped(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    ctx.settle(fence, Disposition::Complete { result: None }).await?;
    check_matches!(ctx.judge(&job.queue, &envelope, "other").await?, Verdict::Drop, "a copy of a completed job");
    Ok(())
}

async fn cancelled_copy_is_dropped(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let published = ctx.publish(&queue, &job).await?;
    ctx.store.cancel(&[published], &Cancel::by("suite")).await;
    check_matches!(ctx.judge(&queue, &job, "worker").await?, Verdict::Drop, "a copy of a cancelled job");
    Ok(())
}

async fn expired_copy_is_dropped(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let expiry = ctx.now() + Duration::from_secs(1);
    let job = ctx.job("a").edit(|job| job.expires_at = Some(expiry));
    let published = ctx.publish(&queue, &job).await?;
    sleep(Duration::from_secs(1) + SLACK).await;
    check_matches!(ctx.judge(&queue, &job, "worker").await?, Verdict::Drop, "a copy of an expired job");
    check_eq!(ctx.state(&published).await?, JobState::Expired, "the state");
    Ok(())
}

async fn older_generation_is_dropped(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a").edit(|job| job.generation = 3));
    ctx.publish(&queue, &job).await?;
    let older = job.edit(|job| job.generation = 2);
    check_matches!(ctx.judge(&queue, &older, "worker").await?, Verdict::Drop, "an older generation");
    ctx.run(&queue, &job).await.map(drop)
}

async fn newer_generation_is_adopted(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let published = ctx.publish(&queue, &job).await?;
    // A store that was restored knows less than the transport.
    let newer = job.edit(|job| {
        job.generation = 2;
        job.attempt = 3;
    });
    let (fence, attempt) = ctx.run(&queue, &newer).await?;
    check_eq!((fence.generation, attempt), (2, 3), "the generation and the attempt");
    ctx.settle(fence, Disposition::Complete { result: None }).await?;
    check_eq!(ctx.state(&published).await?, JobState::Completed, "the state");
    Ok(())
}

async fn unknown_job_is_adopted(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("published while the store was away"));
    let (fence, _) = ctx.run(&queue, &job).await?;
    let adopted = JobRef::new(queue.clone(), job.id);
    check_eq!(ctx.state(&adopted).await?, JobState::Running, "the state");
    check!(!matches!(ctx.judge(&queue, &job, "other").await?, Verdict::Run { .. }), "an adopted job runs twice");
    ctx.settle(fence, Disposition::Complete { result: None }).await?;
    check_matches!(ctx.judge(&queue, &job, "other").await?, Verdict::Drop, "a copy of what was adopted and finished");
    Ok(())
}

async fn not_due_is_busy(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let due = ctx.now() + Duration::from_secs(2);
    let job = ctx.job("a").edit(|job| job.not_before = Some(due));
    ctx.publish(&queue, &job).await?;
    let verdict = ctx.judge(&queue, &job, "worker").await?;
    check_matches!(verdict, Verdict::Busy { .. }, "a copy that came early");
    sleep(Duration::from_secs(2) + SLACK).await;
    ctx.run(&queue, &job).await.map(drop)
}

async fn lost_lease_is_claimed_again(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, _) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    let verdict = ctx.judge(&job.queue, &envelope, "other").await?;
    check_matches!(verdict, Verdict::Run { redelivered: true, attempt: 1, .. }, "a copy whose worker fell silent");
    Ok(())
}

async fn given_back_unstarted_stays_redelivered(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, _) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    let (unstarted, _) = ctx.run(&job.queue, &envelope).await?;
    let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    ctx.settle(unstarted, release.clone()).await?;
    let verdict = ctx.judge(&job.queue, &envelope, "third").await?;
    let Verdict::Run { fence: started, redelivered: true, .. } = verdict else {
        check_matches!(verdict, Verdict::Run { redelivered: true, .. }, "nobody knows that it lets its worker live");
        return Ok(());
    };
    ctx.beat(started, |beat| beat.started = true).await?;
    ctx.settle(started, release).await?;
    let verdict = ctx.judge(&job.queue, &envelope, "fourth").await?;
    let fine = matches!(verdict, Verdict::Run { redelivered: false, started_before: 0, .. });
    check!(fine, "it was started and given back, so this is no redelivery: {verdict:?}");
    Ok(())
}

async fn fences_differ(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, first) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    let (second, _) = ctx.run(&job.queue, &envelope).await?;
    check!(first != second, "two claims have one fence: {first:?}");
    Ok(())
}

async fn started_runs_are_counted(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, mut fence) = ctx.running("a").await?;
    for expected in 1..=2 {
        for _ in 0..2 {
            ctx.beat(fence, |beat| beat.started = true).await?;
        }
        sleep(LEASE + SLACK).await;
        let verdict = ctx.judge(&job.queue, &envelope, "other").await?;
        let Verdict::Run { fence: next, started_before, .. } = verdict else {
            return Err(Failed(format!("a copy whose worker fell silent was judged {verdict:?}")));
        };
        check_eq!(started_before, expected, "started deliveries, each counted once");
        fence = next;
    }
    sleep(LEASE + SLACK).await;
    let verdict = ctx.judge(&job.queue, &envelope, "other").await?;
    check_matches!(verdict, Verdict::Run { started_before: 2, .. }, "after one that was never started");
    Ok(())
}

async fn heartbeat_extends(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    for _ in 0..4 {
        sleep(LEASE / 2).await;
        check_matches!(ctx.beat(fence, |_| {}).await?, BeatOutcome::Held(_), "a heartbeat in time");
        let verdict = ctx.judge(&job.queue, &envelope, "other").await?;
        check!(!matches!(verdict, Verdict::Run { .. }), "it was taken from a worker that beats");
    }
    Ok(())
}

async fn heartbeat_of_the_loser_is_lost(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, old) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    let (new, _) = ctx.run(&job.queue, &envelope).await?;
    check_matches!(ctx.beat(old, |_| {}).await?, BeatOutcome::Lost, "the loser's heartbeat");
    check_matches!(ctx.beat(new, |_| {}).await?, BeatOutcome::Held(_), "the winner's heartbeat");
    ctx.settle(new, Disposition::Complete { result: None }).await?;
    check_matches!(ctx.beat(new, |_| {}).await?, BeatOutcome::Lost, "the heartbeat of a finished job");
    Ok(())
}

async fn heartbeat_carries_the_cancel(ctx: &StoreCtx) -> Outcome {
    let (job, _, fence) = ctx.running("a").await?;
    ctx.store.cancel(&[job], &Cancel::by("operator")).await;
    let outcome = ctx.beat(fence, |_| {}).await?;
    let asked = matches!(&outcome, BeatOutcome::Held(lease) if lease.cancel.as_ref().is_some_and(|cancel| &*cancel.by == "operator"));
    check!(asked, "the heartbeat after a cancel was answered {outcome:?}");
    Ok(())
}

async fn heartbeat_keeps_progress(ctx: &StoreCtx) -> Outcome {
    let (job, _, fence) = ctx.running("a").await?;
    ctx.beat(fence, |beat| {
        beat.progress = Some("{\"percent\":7.0}".into());
        beat.logs = vec!["one".into()];
    })
    .await?;
    let record = ctx.record(&job).await?;
    check_eq!(record.progress.as_deref(), Some(&b"{\"percent\":7.0}"[..]), "the progress");
    check_eq!(record.logs, ["one"], "the logs");
    Ok(())
}
