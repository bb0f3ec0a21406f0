//! Follow-ups ride on the settlement.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Consumer, Envelope, JobError, JobId, QueueName,
    provider::{Beat, BeatOutcome, Delivery, Disposition, FollowUp, SettleOutcome, Settlement},
};
use tokio::time::Instant;

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::{text, texts},
    theft::steal,
};

cases! { "follow_up";
    published_with_the_settlement []
    to_its_own_queue []
    rides_on_a_death [DeadLetters]
    rides_on_a_retry [Retry]
    repeated_settlement_publishes_once []
    stale_workers_are_not_published [Theft]
    contradicting_settlement_publishes_nothing []
    oversize_leaves_the_job_leased []
    known_id_is_not_doubled [DedupById]
    held_unique_key_counts_as_done [UniqueKeys]
    takes_over_its_parents_unique_key [UniqueKeys, AtomicThen]
    delay_is_kept [Delay]
    survives_the_workers_crash [Crash]
    many_on_one_settlement []
    each_settlement_of_a_batch_has_its_own []
}

struct Stage {
    queue: QueueName,
    next: QueueName,
    consumer: Arc<dyn Consumer>,
    delivery: Delivery,
}

async fn stage(ctx: &Ctx) -> Outcome<Stage> {
    let (queue, next) = (ctx.queue("first"), ctx.queue("next"));
    ctx.publish_texts(&queue, &["origin"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    Ok(Stage { queue, next, consumer, delivery })
}

/// A follow-up as the scheduler makes it: its id follows from its parent's.
fn follow_up(ctx: &Ctx, parent: &Delivery, queue: &QueueName, text: &str, ordinal: u64) -> FollowUp {
    let envelope = ctx.job(text).seal().edit(|job| job.id = JobId::derive(parent.envelope.id.as_bytes(), ordinal));
    FollowUp { queue: queue.clone(), envelope }
}

fn completed(delivery: &Delivery, then: Vec<FollowUp>) -> Settlement {
    Settlement { then, ..Settlement::new(delivery.receipt, Disposition::Complete { result: None }) }
}

/// Exactly these come out of the queue, each once.
async fn exactly(ctx: &Ctx, queue: &QueueName, expected: &[&str]) -> Outcome {
    let consumer = ctx.consumer(queue).await?;
    let got = ctx.take(&consumer, expected.len()).await?;
    let mut found = texts(&got);
    found.sort_unstable();
    check_eq!(found, expected, "the follow-ups that came");
    ctx.nothing(&consumer, "each follow-up comes once").await?;
    ctx.complete_all(&consumer, &got).await
}

async fn published_with_the_settlement(ctx: &Ctx) -> Outcome {
    let Stage { queue, next, consumer, delivery } = stage(ctx).await?;
    let then = follow_up(ctx, &delivery, &next, "then", 0);
    let sent: Envelope = then.envelope.clone();
    let outcome = ctx.settle_with(&consumer, completed(&delivery, vec![then])).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a settlement with a follow-up");
    let next_consumer = ctx.consumer(&next).await?;
    let got = ctx.take_one(&next_consumer).await?;
    check_eq!(got.envelope.id, sent.id, "the follow-up's id");
    check_eq!(text(&got), "then", "the follow-up's payload");
    check_eq!(got.attempt, 1, "the follow-up's attempt");
    ctx.complete(&next_consumer, &got).await?;
    let again = ctx.consumer(&queue).await?;
    ctx.nothing(&again, "the original is completed").await
}

async fn to_its_own_queue(ctx: &Ctx) -> Outcome {
    let Stage { queue, consumer, delivery, .. } = stage(ctx).await?;
    let then = vec![follow_up(ctx, &delivery, &queue, "then", 0)];
    let outcome = ctx.settle_with(&consumer, completed(&delivery, then)).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a settlement with a follow-up");
    exactly(ctx, &queue, &["then"]).await
}

async fn rides_on_a_death(ctx: &Ctx) -> Outcome {
    let Stage { next, consumer, delivery, .. } = stage(ctx).await?;
    let disposition = Disposition::DeadLetter { error: JobError::custom("BAD", "no use") };
    let then = vec![follow_up(ctx, &delivery, &next, "compensate", 0)];
    let outcome = ctx.settle_with(&consumer, Settlement { receipt: delivery.receipt, disposition, then }).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a death with a follow-up");
    exactly(ctx, &next, &["compensate"]).await
}

async fn rides_on_a_retry(ctx: &Ctx) -> Outcome {
    let Stage { next, consumer, delivery, .. } = stage(ctx).await?;
    let disposition = Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") };
    let then = vec![follow_up(ctx, &delivery, &next, "notify", 0)];
    let outcome = ctx.settle_with(&consumer, Settlement { receipt: delivery.receipt, disposition, then }).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a retry with a follow-up");
    exactly(ctx, &next, &["notify"]).await?;
    let second = ctx.take_one(&consumer).await?;
    check_eq!(second.attempt, 2, "the attempt after the retry");
    Ok(())
}

async fn repeated_settlement_publishes_once(ctx: &Ctx) -> Outcome {
    let Stage { next, consumer, delivery, .. } = stage(ctx).await?;
    let then = vec![follow_up(ctx, &delivery, &next, "then", 0)];
    let settlement = completed(&delivery, then);
    let outcome = ctx.settle_with(&consumer, settlement.clone()).await?;
    check_matches!(outcome, SettleOutcome::Settled, "the first time");
    for _ in 0..2 {
        let outcome = ctx.settle_with(&consumer, settlement.clone()).await?;
        check_matches!(outcome, SettleOutcome::AlreadySettled, "the same again");
    }
    exactly(ctx, &next, &["then"]).await
}

async fn stale_workers_are_not_published(ctx: &Ctx) -> Outcome {
    let (queue, next) = (ctx.queue("first"), ctx.queue("next"));
    let theft = steal(ctx, &queue, ctx.job("origin").seal()).await?;
    let stale = completed(&theft.stale, vec![follow_up(ctx, &theft.stale, &next, "from the loser", 0)]);
    let outcome = ctx.settle_with(&theft.old, stale).await?;
    check!(!outcome.is_settled(), "the loser's settlement was answered {outcome:?}");
    let next_consumer = ctx.consumer(&next).await?;
    ctx.nothing(&next_consumer, "a stale worker publishes nothing").await?;
    let fresh = completed(&theft.fresh, vec![follow_up(ctx, &theft.fresh, &next, "from the winner", 0)]);
    let outcome = ctx.settle_with(&theft.new, fresh).await?;
    check_matches!(outcome, SettleOutcome::Settled, "the winner's settlement");
    let got = ctx.take_one(&next_consumer).await?;
    check_eq!(text(&got), "from the winner", "the follow-up");
    ctx.nothing(&next_consumer, "one settlement won").await
}

async fn contradicting_settlement_publishes_nothing(ctx: &Ctx) -> Outcome {
    let Stage { next, consumer, delivery, .. } = stage(ctx).await?;
    ctx.complete(&consumer, &delivery).await?;
    let then = vec![follow_up(ctx, &delivery, &next, "contradiction", 0)];
    let settlement = Settlement { receipt: delivery.receipt, disposition: Disposition::Cancelled, then };
    let outcome = ctx.settle_with(&consumer, settlement).await?;
    check_matches!(outcome, SettleOutcome::Conflict, "another disposition");
    let next_consumer = ctx.consumer(&next).await?;
    ctx.nothing(&next_consumer, "a conflict publishes nothing").await
}

async fn oversize_leaves_the_job_leased(ctx: &Ctx) -> Outcome {
    let limit = 4_096;
    let queue = ctx.queue("first");
    let next = ctx.declared("next", |spec| spec.max_encoded_len = limit).await?;
    ctx.publish_texts(&queue, &["origin"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let fits = follow_up(ctx, &delivery, &next, "fits", 0);
    let huge = follow_up(ctx, &delivery, &next, &"x".repeat(limit), 1);
    let outcome = ctx.settle_with(&consumer, completed(&delivery, vec![fits.clone(), huge])).await?;
    let SettleOutcome::NotSettled { then_index, error } = &outcome else {
        return Err(super::Failed(format!("a follow-up that is too large: {outcome:?}")));
    };
    check_eq!(*then_index, Some(1), "the follow-up that could not be published");
    check_eq!(error.code(), queue_core::ErrorCode::PayloadTooLarge, "why");
    let beats = consumer.heartbeat(&[Beat::extend(delivery.receipt, ctx.long_lease())]).await;
    check_matches!(beats.as_slice(), [BeatOutcome::Held(_)], "the original is still leased here");
    let other = ctx.consumer(&queue).await?;
    ctx.nothing(&other, "the original is still leased").await?;
    let outcome = ctx.settle_with(&consumer, completed(&delivery, vec![fits])).await?;
    check_matches!(outcome, SettleOutcome::Settled, "without the one that is too large");
    exactly(ctx, &next, &["fits"]).await?;
    ctx.nothing(&other, "the original is completed").await
}

async fn known_id_is_not_doubled(ctx: &Ctx) -> Outcome {
    let Stage { next, consumer, delivery, .. } = stage(ctx).await?;
    let then = follow_up(ctx, &delivery, &next, "then", 0);
    ctx.publish(&next, then.envelope.clone()).await?;
    let outcome = ctx.settle_with(&consumer, completed(&delivery, vec![then])).await?;
    check_matches!(outcome, SettleOutcome::Settled, "the follow-up is there already");
    exactly(ctx, &next, &["then"]).await
}

async fn held_unique_key_counts_as_done(ctx: &Ctx) -> Outcome {
    let Stage { next, consumer, delivery, .. } = stage(ctx).await?;
    ctx.publish(&next, ctx.unique("holder", "key", None)).await?;
    let mut then = follow_up(ctx, &delivery, &next, "duplicate", 0);
    then.envelope = ctx.unique("duplicate", "key", None).edit(|job| job.id = then.envelope.id);
    let others = follow_up(ctx, &delivery, &next, "other", 1);
    let outcome = ctx.settle_with(&consumer, completed(&delivery, vec![then, others])).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a follow-up whose unique key is held");
    exactly(ctx, &next, &["holder", "other"]).await
}

/// A job that follows itself, as a tick does, keeps its key: the settlement frees it first.
async fn takes_over_its_parents_unique_key(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("tick");
    ctx.publish(&queue, ctx.unique("first", "tick", None)).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let mut then = follow_up(ctx, &delivery, &queue, "second", 0);
    then.envelope = ctx.unique("second", "tick", None).edit(|job| job.id = then.envelope.id);
    let outcome = ctx.settle_with(&consumer, completed(&delivery, vec![then])).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a follow-up with its parent's unique key");
    let next = ctx.take_one(&consumer).await?;
    check_eq!(text(&next), "second", "the follow-up");
    let outcome = ctx.offer_one(&queue, ctx.unique("third", "tick", None)).await?;
    check_matches!(outcome, queue_core::provider::PublishOutcome::Duplicate { .. }, "the key has a new holder");
    ctx.complete(&consumer, &next).await
}

async fn delay_is_kept(ctx: &Ctx) -> Outcome {
    let Stage { next, consumer, delivery, .. } = stage(ctx).await?;
    // To make the queue takes a broker a while, and is no part of the delay.
    let next_consumer = ctx.consumer(&next).await?;
    let delay = Duration::from_secs(2);
    let mut then = follow_up(ctx, &delivery, &next, "later", 0);
    let due = ctx.now() + delay;
    then.envelope = then.envelope.edit(|job| job.not_before = Some(due));
    let before = Instant::now();
    let outcome = ctx.settle_with(&consumer, completed(&delivery, vec![then])).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a settlement with a delayed follow-up");
    ctx.take_one(&next_consumer).await?;
    check!(ctx.now() >= due, "delivered {:?} early", ctx.now().until(due));
    check!(before.elapsed() <= delay + ctx.lateness(delay), "delivered after {:?}", before.elapsed());
    Ok(())
}

async fn survives_the_workers_crash(ctx: &Ctx) -> Outcome {
    let (queue, next) = (ctx.queue("first"), ctx.queue("next"));
    ctx.publish_texts(&queue, &["origin"]).await?;
    let connection = ctx.connect().await?;
    let consumer = ctx.consumer_on(&connection, &queue, 1, ctx.facts().lease).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let then = vec![follow_up(ctx, &delivery, &next, "then", 0)];
    let outcome = ctx.settle_with(&consumer, completed(&delivery, then.clone())).await?;
    ctx.crash(connection).await;
    check_matches!(outcome, SettleOutcome::Settled, "a settlement with a follow-up");
    if !ctx.caps().settle_confirmed {
        // Sent, not confirmed: the original may come again, and is then settled again.
        let consumer = ctx.consumer(&queue).await?;
        for again in ctx.collect(&consumer, 1, ctx.quiet_time()).await? {
            ctx.settle_with(&consumer, completed(&again, then.clone())).await?;
        }
        let next_consumer = ctx.consumer(&next).await?;
        let got = ctx.take_one(&next_consumer).await?;
        check_eq!(text(&got), "then", "the follow-up");
        return Ok(());
    }
    let again = ctx.consumer(&queue).await?;
    ctx.nothing(&again, "the original is completed").await?;
    exactly(ctx, &next, &["then"]).await
}

async fn many_on_one_settlement(ctx: &Ctx) -> Outcome {
    let Stage { queue, next, consumer, delivery } = stage(ctx).await?;
    let then: Vec<FollowUp> = (0..30_u64)
        .map(|n| follow_up(ctx, &delivery, if n % 2 == 0 { &next } else { &queue }, &format!("{n:02}"), n))
        .collect();
    let outcome = ctx.settle_with(&consumer, completed(&delivery, then)).await?;
    check_matches!(outcome, SettleOutcome::Settled, "a settlement with thirty follow-ups");
    consumer.close(Duration::from_secs(1)).await;
    for (place, rest) in [(&next, 0), (&queue, 1)] {
        let names: Vec<String> = (0..30).filter(|n| n % 2 == rest).map(|n| format!("{n:02}")).collect();
        let reader = ctx.consumer(place).await?;
        let got = ctx.take(&reader, names.len()).await?;
        let mut found: Vec<String> = got.iter().map(text).collect();
        found.sort_unstable();
        check_eq!(found, names, "the follow-ups that came");
        ctx.complete_all(&reader, &got).await?;
    }
    Ok(())
}

async fn each_settlement_of_a_batch_has_its_own(ctx: &Ctx) -> Outcome {
    let (queue, next) = (ctx.queue("first"), ctx.queue("next"));
    ctx.publish_texts(&queue, &["a", "b", "c"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 3).await?;
    let batch: Vec<Settlement> = got
        .iter()
        .map(|delivery| {
            completed(delivery, vec![follow_up(ctx, delivery, &next, &format!("then {}", text(delivery)), 0)])
        })
        .collect();
    let outcomes = consumer.settle(&batch).await;
    check!(outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled)), "the batch: {outcomes:?}");
    exactly(ctx, &next, &["then a", "then b", "then c"]).await
}
