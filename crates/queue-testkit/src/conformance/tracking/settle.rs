//! Terminal state or successor, result and follow-ups, in one write.

use std::time::Duration;

use queue_core::{
    Envelope, JobError, JobId,
    lifecycle::JobState,
    provider::{Disposition, FollowUp, ParkKey, ReleaseReason, SettleOutcome, Settlement},
    store::{StageOutcome, TrackedSettle, Verdict},
};
use tokio::time::sleep;

use super::{
    context::{LEASE, SLACK, STAGE, StoreCtx, receipt, scope, tracked},
    store_cases,
};
use crate::conformance::{
    Outcome,
    case::{check, check_eq, check_matches},
};

store_cases! { "settle";
    completes_once
    contradiction_is_a_conflict
    loser_is_refused
    late_holder_still_settles
    retry_by_copy
    retry_in_place
    release_keeps_generation_and_attempt
    follow_ups_are_staged
    unwanted_follow_up_is_not_published
    losers_follow_ups_are_not
    repeated_settlement_stages_once
    late_confirm_hides_no_newer_copy
    parked_until_unparked
    outcomes_in_order
}

fn error() -> JobError {
    JobError::custom("TEMP", "again")
}

fn complete() -> Disposition {
    Disposition::Complete { result: Some("7".into()) }
}

/// The next attempt as a copy of its own.
fn successor(of: &Envelope, due: Option<queue_core::Timestamp>) -> Envelope {
    of.edit(|job| {
        job.attempt += 1;
        job.generation += 1;
        job.not_before = due;
    })
}

async fn completes_once(ctx: &StoreCtx) -> Outcome {
    let (job, _, fence) = ctx.running("a").await?;
    check_matches!(ctx.settle(fence, complete()).await?, SettleOutcome::Settled, "completing");
    check_matches!(ctx.settle(fence, complete()).await?, SettleOutcome::AlreadySettled, "completing again");
    let record = ctx.record(&job).await?;
    check_eq!((record.state, record.result.as_deref()), (JobState::Completed, Some(&b"7"[..])), "state and result");
    Ok(())
}

async fn contradiction_is_a_conflict(ctx: &StoreCtx) -> Outcome {
    let (job, _, fence) = ctx.running("a").await?;
    ctx.settle(fence, complete()).await?;
    let outcome = ctx.settle(fence, Disposition::DeadLetter { error: error() }).await?;
    check_matches!(outcome, SettleOutcome::Conflict, "burying the completed");
    check_eq!(ctx.state(&job).await?, JobState::Completed, "the state");
    Ok(())
}

async fn loser_is_refused(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, old) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    let (new, _) = ctx.run(&job.queue, &envelope).await?;
    check_matches!(ctx.settle(old, complete()).await?, SettleOutcome::LeaseLost, "the loser's settlement");
    check_eq!(ctx.state(&job).await?, JobState::Running, "the state");
    check_matches!(ctx.settle(new, complete()).await?, SettleOutcome::Settled, "the winner's settlement");
    check_matches!(ctx.settle(old, complete()).await?, SettleOutcome::LeaseLost, "the loser's settlement after that");
    Ok(())
}

async fn late_holder_still_settles(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    let swept = ctx.due(&job.queue, true).await?;
    check_eq!(
        swept.iter().map(|staged| staged.envelope.generation).collect::<Vec<_>>(),
        [1],
        "the copy of a dead lease"
    );
    // Swept, and not claimed by anyone: its holder may still settle.
    check_matches!(ctx.settle(fence, complete()).await?, SettleOutcome::Settled, "the late holder's settlement");
    for copy in [&envelope, &swept[0].envelope] {
        check_matches!(ctx.judge(&job.queue, copy, "other").await?, Verdict::Drop, "a copy of what is completed");
    }
    Ok(())
}

async fn retry_by_copy(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    let after = Duration::from_secs(1);
    let next = successor(&envelope, Some(ctx.now() + after));
    let settle =
        TrackedSettle { successor: Some(next.clone()), ..tracked(fence, Disposition::Retry { after, error: error() }) };
    check_matches!(ctx.settle_with(settle.clone()).await?, SettleOutcome::Settled, "a retry by copy");
    check_matches!(ctx.settle_with(settle).await?, SettleOutcome::AlreadySettled, "the same again");
    let record = ctx.record(&job).await?;
    check_eq!((record.attempt, record.error), (2, Some(error())), "the attempt and the error");
    check_matches!(ctx.judge(&job.queue, &envelope, "other").await?, Verdict::Drop, "the old copy");
    check_matches!(ctx.judge(&job.queue, &next, "other").await?, Verdict::Busy { .. }, "the new copy before its time");
    // Nobody confirmed the successor: the sweep publishes it.
    sleep(STAGE + SLACK).await;
    let due = ctx.due(&job.queue, false).await?;
    check_eq!(due.iter().map(|staged| staged.envelope.generation).collect::<Vec<_>>(), [1], "what the sweep publishes");
    let (fence, attempt) = ctx.run(&job.queue, &next).await?;
    check_eq!((fence.generation, attempt), (1, 2), "the generation and the attempt");
    Ok(())
}

async fn retry_in_place(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    let after = Duration::from_secs(2);
    check_matches!(
        ctx.settle(fence, Disposition::Retry { after, error: error() }).await?,
        SettleOutcome::Settled,
        "in place"
    );
    let verdict = ctx.judge(&job.queue, &envelope, "other").await?;
    check_matches!(verdict, Verdict::Busy { remaining } if *remaining <= after, "the same copy before its time");
    sleep(after + SLACK).await;
    let (fence, attempt) = ctx.run(&job.queue, &envelope).await?;
    check_eq!((fence.generation, attempt), (0, 2), "the generation and the attempt");
    Ok(())
}

async fn release_keeps_generation_and_attempt(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    check_matches!(ctx.settle(fence, release).await?, SettleOutcome::Settled, "a release");
    check_eq!(ctx.state(&job).await?, JobState::Pending, "the state");
    let (fence, attempt) = ctx.run(&job.queue, &envelope).await?;
    check_eq!((fence.generation, attempt), (0, 1), "the generation and the attempt");
    Ok(())
}

fn with_follow_up(
    ctx: &StoreCtx,
    fence: queue_core::store::Fence,
    queue: &queue_core::QueueName,
) -> (TrackedSettle, Envelope) {
    let envelope = ctx.job("then").edit(|job| job.id = JobId::derive(fence.id.as_bytes(), 0));
    let then = vec![FollowUp { queue: queue.clone(), envelope: envelope.clone() }];
    let settlement = Settlement { receipt: receipt(fence), disposition: complete(), then };
    (TrackedSettle { fence, settlement, successor: None }, envelope)
}

async fn follow_ups_are_staged(ctx: &StoreCtx) -> Outcome {
    let (_, _, fence) = ctx.running("a").await?;
    let next = ctx.queue();
    let (settle, then) = with_follow_up(ctx, fence, &next);
    for _ in 0..2 {
        let answer = ctx.settle_whole(settle.clone()).await?;
        check!(answer.outcome.is_settled(), "a settlement with a follow-up was answered {answer:?}");
        check_eq!((answer.successor, answer.then), (false, vec![0]), "what is left to publish");
    }
    check_matches!(ctx.offer(&next, &then).await?, StageOutcome::Again, "the follow-up is staged");
    sleep(STAGE + SLACK).await;
    let due = ctx.due(&next, false).await?;
    check_eq!(due.iter().map(|staged| staged.envelope.id).collect::<Vec<_>>(), [then.id], "what the sweep publishes");
    Ok(())
}

async fn unwanted_follow_up_is_not_published(ctx: &StoreCtx) -> Outcome {
    let (_, _, fence) = ctx.running("a").await?;
    let next = ctx.queue();
    ctx.publish(&next, &ctx.unique("holder", "key")).await?;
    let (mut settle, wanted) = with_follow_up(ctx, fence, &next);
    let unwanted = ctx.unique("unwanted", "key");
    settle.settlement.then.insert(0, FollowUp { queue: next.clone(), envelope: unwanted.clone() });
    for _ in 0..2 {
        let answer = ctx.settle_whole(settle.clone()).await?;
        check!(answer.outcome.is_settled(), "a follow-up whose key is held was answered {answer:?}");
        check_eq!(answer.then, [1], "what is left to publish");
    }
    sleep(STAGE + SLACK).await;
    let due = ctx.due(&next, false).await?;
    check_eq!(due.iter().map(|staged| staged.envelope.id).collect::<Vec<_>>(), [wanted.id], "what the sweep publishes");
    Ok(())
}

async fn losers_follow_ups_are_not(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, old) = ctx.running("a").await?;
    sleep(LEASE + SLACK).await;
    ctx.run(&job.queue, &envelope).await?;
    let next = ctx.queue();
    let (settle, then) = with_follow_up(ctx, old, &next);
    check_matches!(ctx.settle_with(settle).await?, SettleOutcome::LeaseLost, "the loser's settlement");
    sleep(STAGE + SLACK).await;
    check!(ctx.due(&next, true).await?.is_empty(), "the loser's follow-up was staged");
    check_matches!(ctx.offer(&next, &then).await?, StageOutcome::Staged, "nobody has heard of it");
    Ok(())
}

async fn repeated_settlement_stages_once(ctx: &StoreCtx) -> Outcome {
    let (_, _, fence) = ctx.running("a").await?;
    let next = ctx.queue();
    let (settle, then) = with_follow_up(ctx, fence, &next);
    ctx.settle_with(settle.clone()).await?;
    ctx.confirm(&queue_core::JobRef::new(next.clone(), then.id), 0).await?;
    let answer = ctx.settle_whole(settle).await?;
    check_matches!(answer.outcome, SettleOutcome::AlreadySettled, "the same again");
    check!(answer.then.is_empty(), "a confirmed follow-up is to be published again");
    sleep(STAGE + SLACK).await;
    check!(ctx.due(&next, true).await?.is_empty(), "a confirmed follow-up was staged again");
    Ok(())
}

async fn late_confirm_hides_no_newer_copy(ctx: &StoreCtx) -> Outcome {
    let (queue, envelope) = (ctx.queue(), ctx.job("a"));
    let job = ctx.stage(&queue, &envelope).await?;
    let (fence, _) = ctx.run(&queue, &envelope).await?;
    let next = successor(&envelope, None);
    let retry = Disposition::Retry { after: Duration::ZERO, error: error() };
    ctx.settle_with(TrackedSettle { successor: Some(next), ..tracked(fence, retry) }).await?;
    // The confirm of the first copy comes late.
    ctx.confirm(&job, 0).await?;
    sleep(STAGE + SLACK).await;
    let due = ctx.due(&queue, false).await?;
    check_eq!(due.iter().map(|staged| staged.envelope.generation).collect::<Vec<_>>(), [1], "what the sweep publishes");
    Ok(())
}

async fn parked_until_unparked(ctx: &StoreCtx) -> Outcome {
    let (job, envelope, fence) = ctx.running("a").await?;
    let key = ParkKey("limit".into());
    let park = Disposition::Park { key: key.clone(), at_most: Duration::from_secs(600) };
    check_matches!(ctx.settle(fence, park).await?, SettleOutcome::Settled, "parking");
    check_eq!(ctx.record(&job).await?.parked, Some(key.clone()), "what it waits for");
    let verdict = ctx.judge(&job.queue, &envelope, "other").await?;
    check_matches!(verdict, Verdict::Busy { .. } | Verdict::Drop, "the old copy of a parked job");
    let other = ctx.store.unpark(&scope(&job.queue), &ParkKey("other".into()), 5, STAGE).await?;
    check!(other.is_empty(), "another key unparked it");
    let unparked = ctx.store.unpark(&scope(&job.queue), &key, 5, STAGE).await?;
    check_eq!(
        unparked.iter().map(|staged| staged.envelope.generation).collect::<Vec<_>>(),
        [1],
        "what is to be published"
    );
    check!(ctx.store.unpark(&scope(&job.queue), &key, 5, STAGE).await?.is_empty(), "it was unparked twice");
    check_matches!(ctx.judge(&job.queue, &envelope, "other").await?, Verdict::Drop, "the old copy after that");
    let (_, attempt) = ctx.run(&job.queue, &unparked[0].envelope).await?;
    check_eq!(attempt, 1, "parking spends no attempt");
    Ok(())
}

async fn outcomes_in_order(ctx: &StoreCtx) -> Outcome {
    let (one, two) = (ctx.running("one").await?.2, ctx.running("two").await?.2);
    let forged = queue_core::store::Fence { epoch: two.epoch.wrapping_add(77), ..two };
    let batch =
        [tracked(forged, complete()), tracked(one, complete()), tracked(one, complete()), tracked(two, complete())];
    let outcomes = ctx.store.settle(&batch, STAGE).await.into_iter().map(|answer| answer.outcome);
    let outcomes: Vec<SettleOutcome> = outcomes.collect();
    check!(
        matches!(
            outcomes.as_slice(),
            [SettleOutcome::LeaseLost, SettleOutcome::Settled, SettleOutcome::AlreadySettled, SettleOutcome::Settled]
        ),
        "one outcome a settlement, in order: {outcomes:?}"
    );
    Ok(())
}
