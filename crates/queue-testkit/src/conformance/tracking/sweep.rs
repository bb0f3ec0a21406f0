//! What the sweep must publish, and when.

use std::time::Duration;

use queue_core::{
    lifecycle::JobState,
    provider::{Disposition, ParkKey},
    store::{StageOutcome, StagedJob, Verdict},
};
use tokio::time::sleep;

use super::{
    context::{LEASE, SLACK, STAGE, StoreCtx, only, scope, staged},
    store_cases,
};
use crate::conformance::{
    Outcome,
    case::{check, check_eq, check_matches},
};

store_cases! { "sweep";
    leaves_the_publisher_its_time
    takes_over_and_tries_again
    stops_when_confirmed
    keeps_to_its_queues_and_limit
    holds_what_is_held
    dead_leases_only_if_asked
    live_leases_never
    dead_lease_fences_when_claimed
    parked_beyond_at_most
    late_copy_of_a_parked_job_waits
}

fn generations(due: &[StagedJob]) -> Vec<u32> {
    due.iter().map(|staged| staged.envelope.generation).collect()
}

async fn leaves_the_publisher_its_time(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    ctx.stage(&queue, &job).await?;
    check!(ctx.due(&queue, true).await?.is_empty(), "swept while its publisher has time");
    sleep(STAGE / 2).await;
    check!(ctx.due(&queue, true).await?.is_empty(), "swept while its publisher has time");
    sleep(STAGE / 2 + SLACK).await;
    check_eq!(generations(&ctx.due(&queue, false).await?), [0], "swept when its publisher fell silent");
    Ok(())
}

async fn takes_over_and_tries_again(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    ctx.stage(&queue, &job).await?;
    for _ in 0..3 {
        sleep(STAGE + SLACK).await;
        let due = ctx.due(&queue, false).await?;
        check_eq!(due.iter().map(|staged| staged.envelope.id).collect::<Vec<_>>(), [job.id], "what the sweep takes");
        check!(ctx.due(&queue, false).await?.is_empty(), "two sweeps take it at once");
    }
    Ok(())
}

async fn stops_when_confirmed(ctx: &StoreCtx) -> Outcome {
    let (queue, job) = (ctx.queue(), ctx.job("a"));
    let staged = ctx.stage(&queue, &job).await?;
    sleep(STAGE + SLACK).await;
    ctx.due(&queue, false).await?;
    ctx.confirm(&staged, 0).await?;
    sleep(STAGE + SLACK).await;
    check!(ctx.due(&queue, true).await?.is_empty(), "swept after it was confirmed");
    ctx.run(&queue, &job).await.map(drop)
}

async fn keeps_to_its_queues_and_limit(ctx: &StoreCtx) -> Outcome {
    let (one, two) = (ctx.queue(), ctx.queue());
    for _ in 0..3 {
        ctx.stage(&one, &ctx.job("a")).await?;
    }
    sleep(STAGE + SLACK).await;
    check!(ctx.due(&two, false).await?.is_empty(), "swept from another queue");
    let first = ctx.store.due(&scope(&one), false, 2, STAGE).await?;
    let rest = ctx.store.due(&scope(&one), false, 2, STAGE).await?;
    check_eq!((first.len(), rest.len()), (2, 1), "swept, two at most");
    Ok(())
}

async fn holds_what_is_held(ctx: &StoreCtx) -> Outcome {
    let (queue, envelope) = (ctx.queue(), ctx.job("a"));
    let hold = STAGE * 3;
    let staged = staged(&queue, &envelope).held(hold);
    check_matches!(only(ctx.store.stage(&[staged], STAGE).await)?, StageOutcome::Staged, "a held job");
    sleep(STAGE + SLACK).await;
    check!(ctx.due(&queue, true).await?.is_empty(), "published before its time");
    sleep(hold - STAGE).await;
    check_eq!(ctx.due(&queue, false).await?.len(), 1, "published when its time has come");
    Ok(())
}

async fn dead_leases_only_if_asked(ctx: &StoreCtx) -> Outcome {
    let (job, _, _) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    check!(ctx.due(&job.queue, false).await?.is_empty(), "a dead lease was swept though nobody asked for it");
    check_eq!(generations(&ctx.due(&job.queue, true).await?), [1], "a dead lease's copy");
    check!(ctx.due(&job.queue, true).await?.is_empty(), "a dead lease was swept twice");
    Ok(())
}

async fn live_leases_never(ctx: &StoreCtx) -> Outcome {
    let (job, _, fence) = ctx.running("a").await?;
    for _ in 0..4 {
        sleep(LEASE / 2).await;
        ctx.beat(fence, |_| {}).await?;
        check!(ctx.due(&job.queue, true).await?.is_empty(), "a live lease was swept");
    }
    check_eq!(ctx.state(&job).await?, JobState::Running, "the state");
    Ok(())
}

async fn dead_lease_fences_when_claimed(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, old) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    let swept = ctx.due(&job.queue, true).await?;
    check_eq!(generations(&swept), [1], "a dead lease's copy");
    let (new, attempt) = ctx.run(&job.queue, &swept[0].envelope).await?;
    check_eq!((new.generation, attempt), (1, 1), "the generation and the attempt");
    let outcome = ctx.settle(old, Disposition::Complete { result: None }).await?;
    check_matches!(outcome, queue_core::provider::SettleOutcome::LeaseLost, "the old holder, when it was claimed");
    check_matches!(ctx.judge(&job.queue, &envelope, "other").await?, Verdict::Drop, "the old copy");
    Ok(())
}

/// The transport has forgotten the copy when the job was parked: whoever ran one that comes late could not give it back.
async fn late_copy_of_a_parked_job_waits(ctx: &StoreCtx) -> Outcome {
    let (job, copy, fence) = ctx.running("a").await?;
    let at_most = Duration::from_secs(1);
    ctx.settle(fence, Disposition::Park { key: ParkKey("limit".into()), at_most }).await?;
    check_matches!(ctx.judge(&job.queue, &copy, "late").await?, Verdict::Busy { .. }, "while it may be parked");
    sleep(at_most + SLACK).await;
    let verdict = ctx.judge(&job.queue, &copy, "later").await?;
    check_matches!(verdict, Verdict::Busy { remaining } if !remaining.is_zero(), "parked long enough, not swept");
    let record = ctx.record(&job).await?;
    check_eq!((record.state, record.parked.is_some()), (JobState::Pending, true), "the job that was asked for twice");
    let due = ctx.due(&job.queue, false).await?;
    check_eq!(generations(&due), [1], "swept all the same");
    check_matches!(ctx.judge(&job.queue, &copy, "late").await?, Verdict::Drop, "beside a newer copy");
    ctx.run(&job.queue, &due[0].envelope).await.map(drop)
}

async fn parked_beyond_at_most(ctx: &StoreCtx) -> Outcome {
    let (job, _, fence) = ctx.running("a").await?;
    let at_most = Duration::from_secs(3);
    ctx.settle(fence, Disposition::Park { key: ParkKey("limit".into()), at_most }).await?;
    sleep(at_most / 2).await;
    check!(ctx.due(&job.queue, true).await?.is_empty(), "swept while it may be parked");
    sleep(at_most / 2 + SLACK).await;
    let due = ctx.due(&job.queue, false).await?;
    check_eq!(generations(&due), [1], "swept when it was parked long enough");
    ctx.run(&job.queue, &due[0].envelope).await.map(drop)
}
