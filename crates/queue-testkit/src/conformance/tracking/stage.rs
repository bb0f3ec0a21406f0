//! Staging, confirming, unstaging, refusing.

use queue_core::{
    Envelope, JobError,
    lifecycle::JobState,
    provider::Disposition,
    store::{StageOutcome, StagedJob},
};
use tokio::time::sleep;

use super::{
    context::{SLACK, STAGE, StoreCtx, staged},
    store_cases,
};
use crate::conformance::{
    Outcome,
    case::{check, check_eq, check_matches},
};

store_cases! { "stage";
    staged_is_shown_as_pending
    again_until_confirmed
    known_when_further_on
    known_when_finished
    unique_key_is_held
    unique_key_is_freed_by_the_end
    outcomes_in_order
    unstaged_frees_the_key
    swept_is_not_unstaged
    refused_for_good_is_dead
}

async fn staged_is_shown_as_pending(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let staged = ctx.stage(&queue, &job).await?;
    check_eq!(ctx.state(&staged).await?, JobState::Pending, "the state of a staged job");
    ctx.confirm(&staged, 0).await?;
    check_eq!(ctx.state(&staged).await?, JobState::Pending, "the state of a confirmed job");
    sleep(STAGE + SLACK).await;
    check!(ctx.due(&queue, true).await?.is_empty(), "the sweep publishes what was confirmed");
    Ok(())
}

async fn again_until_confirmed(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let staged = ctx.stage(&queue, &job).await?;
    check_matches!(ctx.offer(&queue, &job).await?, StageOutcome::Again, "staged and not confirmed");
    ctx.confirm(&staged, 0).await?;
    check_matches!(ctx.offer(&queue, &job).await?, StageOutcome::Known, "confirmed");
    Ok(())
}

async fn known_when_further_on(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, _) = ctx.running("a").await?;
    check_matches!(ctx.offer(&job.queue, &envelope).await?, StageOutcome::Known, "running");
    check_eq!(ctx.state(&job).await?, JobState::Running, "the state");
    Ok(())
}

async fn known_when_finished(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    ctx.settle(fence, Disposition::Complete { result: None }).await?;
    check_matches!(ctx.offer(&job.queue, &envelope).await?, StageOutcome::Known, "completed");
    check_eq!(ctx.state(&job).await?, JobState::Completed, "the state");
    Ok(())
}

async fn unique_key_is_held(ctx: &StoreCtx) -> Outcome {
    let (queue, first) = (ctx.queue(), ctx.unique("first", "key"));
    let holder = ctx.publish(&queue, &first).await?;
    let outcome = ctx.offer(&queue, &ctx.unique("second", "key")).await?;
    check_matches!(outcome, StageOutcome::Duplicate { existing } if *existing == holder, "the key is held");
    check_matches!(ctx.offer(&queue, &first).await?, StageOutcome::Known, "by itself");
    check_matches!(ctx.offer(&ctx.queue(), &ctx.unique("third", "key")).await?, StageOutcome::Staged, "another queue");
    Ok(())
}

async fn unique_key_is_freed_by_the_end(ctx: &StoreCtx) -> Outcome {
    let ends = [
        Disposition::Complete { result: None },
        Disposition::DeadLetter { error: JobError::custom("BAD", "no use") },
        Disposition::Cancelled,
        Disposition::Expired,
    ];
    for end in ends {
        let (queue, first) = (ctx.queue(), ctx.unique("first", "key"));
        ctx.publish(&queue, &first).await?;
        let (fence, _) = ctx.run(&queue, &first).await?;
        ctx.settle(fence, end.clone()).await?;
        let outcome = ctx.offer(&queue, &ctx.unique("second", "key")).await?;
        check_matches!(outcome, StageOutcome::Staged, "after {end:?} the key may be taken over");
    }
    Ok(())
}

async fn outcomes_in_order(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let known = ctx.unique("known", "key");
    ctx.publish(&queue, &known).await?;
    let batch: Vec<Envelope> = vec![ctx.job("fresh"), known, ctx.unique("duplicate", "key"), ctx.job("fresh too")];
    let batch: Vec<StagedJob> = batch.iter().map(|envelope| staged(&queue, envelope)).collect();
    let outcomes = ctx.store.stage(&batch, STAGE).await;
    check!(
        matches!(
            outcomes.as_slice(),
            [StageOutcome::Staged, StageOutcome::Known, StageOutcome::Duplicate { .. }, StageOutcome::Staged]
        ),
        "one outcome a job, in order: {outcomes:?}"
    );
    Ok(())
}

async fn unstaged_frees_the_key(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.unique("first", "key"));
    let staged = ctx.stage(&queue, &job).await?;
    let answers = ctx.store.unstage(&[(staged, 0)]).await;
    check_matches!(answers.as_slice(), [Ok(true)], "unstaged by its first publisher");
    check_matches!(ctx.offer(&queue, &ctx.unique("second", "key")).await?, StageOutcome::Staged, "the key is free");
    sleep(STAGE + SLACK).await;
    let due = ctx.due(&queue, true).await?;
    check!(due.iter().all(|staged| staged.envelope.id != job.id), "the sweep publishes what was unstaged");
    Ok(())
}

async fn swept_is_not_unstaged(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let staged = ctx.stage(&queue, &job).await?;
    sleep(STAGE + SLACK).await;
    check_eq!(ctx.due(&queue, false).await?.len(), 1, "what the sweep took over");
    let answers = ctx.store.unstage(&[(staged.clone(), 0)]).await;
    check_matches!(answers.as_slice(), [Ok(false)], "the sweep took it over: it is accepted");
    check_eq!(ctx.state(&staged).await?, JobState::Pending, "the state");
    Ok(())
}

async fn refused_for_good_is_dead(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let staged = ctx.stage(&queue, &job).await?;
    let error = JobError::custom("TOO_LARGE", "the broker will never take it");
    let answers = ctx.store.refuse(&[(staged.clone(), 0, error.clone())]).await;
    check_matches!(answers.as_slice(), [Ok(())], "refused for good");
    let record = ctx.record(&staged).await?;
    check_eq!((record.state, record.error), (JobState::Dead, Some(error)), "the state and the error");
    sleep(STAGE + SLACK).await;
    check!(ctx.due(&queue, true).await?.is_empty(), "the sweep publishes the dead");
    Ok(())
}
