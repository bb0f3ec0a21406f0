//! At most one job of a unique key.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Envelope, JobError, QueueName,
    provider::{Disposition, PublishOptions, PublishOutcome},
};

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq, check_matches},
};

cases! { "unique";
    held_while_waiting_and_running [UniqueKeys]
    freed_by_completion [UniqueKeys]
    freed_by_death [UniqueKeys, DeadLetters]
    freed_by_cancelled_settlement [UniqueKeys]
    held_through_retries [UniqueKeys, Retry]
    held_for_a_window_beyond_completion [UniqueKeys]
    window_ends_while_it_waits [UniqueKeys]
    own_id_is_no_duplicate [UniqueKeys, DedupById]
    scope_is_the_queue [UniqueKeys]
    two_in_one_batch [UniqueKeys]
    racing_producers [UniqueKeys]
}

const KEY: &str = "order-7/ünïque {key}";

fn existing(outcome: &PublishOutcome, first: &Envelope, queue: &QueueName) -> Outcome {
    match outcome {
        PublishOutcome::Duplicate { existing } if existing.id == first.id && existing.queue == *queue => Ok(()),
        other => Err(Failed(format!("the key is held by {}: answered {other:?}", first.id))),
    }
}

async fn held_while_waiting_and_running(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("unique");
    let first = ctx.unique("first", KEY, None);
    ctx.publish(&queue, first.clone()).await?;
    existing(&ctx.offer_one(&queue, ctx.unique("second", KEY, None)).await?, &first, &queue)?;
    ctx.publish(&queue, ctx.unique("other key", "other", None)).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 2).await?;
    existing(&ctx.offer_one(&queue, ctx.unique("third", KEY, None)).await?, &first, &queue)?;
    ctx.nothing(&consumer, "duplicates are not jobs").await?;
    ctx.complete_all(&consumer, &got).await
}

async fn freed_by(ctx: &Ctx, disposition: Disposition) -> Outcome {
    let queue = ctx.queue("unique");
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.unique("first", KEY, None);
    ctx.publish(&queue, first.clone()).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, disposition).await?;
    let second = ctx.unique("second", KEY, None);
    let outcome = ctx.offer_one(&queue, second.clone()).await?;
    check_matches!(outcome, PublishOutcome::Accepted { .. }, "the key's holder is finished");
    existing(&ctx.offer_one(&queue, ctx.unique("third", KEY, None)).await?, &second, &queue)?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn freed_by_completion(ctx: &Ctx) -> Outcome {
    freed_by(ctx, Disposition::Complete { result: None }).await
}

async fn freed_by_death(ctx: &Ctx) -> Outcome {
    freed_by(ctx, Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }).await
}

async fn freed_by_cancelled_settlement(ctx: &Ctx) -> Outcome {
    freed_by(ctx, Disposition::Cancelled).await
}

async fn held_through_retries(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("unique");
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.unique("first", KEY, None);
    ctx.publish(&queue, first.clone()).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let retry = Disposition::Retry { after: Duration::from_millis(300), error: JobError::custom("TEMP", "again") };
    ctx.end(&consumer, &delivery, retry).await?;
    existing(&ctx.offer_one(&queue, ctx.unique("second", KEY, None)).await?, &first, &queue)?;
    let delivery = ctx.take_one(&consumer).await?;
    existing(&ctx.offer_one(&queue, ctx.unique("third", KEY, None)).await?, &first, &queue)?;
    ctx.complete(&consumer, &delivery).await
}

async fn held_for_a_window_beyond_completion(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("window");
    let window = Duration::from_secs(3);
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.unique("first", KEY, Some(window));
    ctx.publish(&queue, first.clone()).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    existing(&ctx.offer_one(&queue, ctx.unique("second", KEY, Some(window))).await?, &first, &queue)?;
    tokio::time::sleep(ctx.by_then(window)).await;
    let outcome = ctx.offer_one(&queue, ctx.unique("third", KEY, Some(window))).await?;
    check_matches!(outcome, PublishOutcome::Accepted { .. }, "the window is over");
    Ok(())
}

async fn window_ends_while_it_waits(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("window");
    let window = Duration::from_secs(2);
    ctx.publish(&queue, ctx.unique("first", KEY, Some(window))).await?;
    tokio::time::sleep(ctx.by_then(window)).await;
    let outcome = ctx.offer_one(&queue, ctx.unique("second", KEY, Some(window))).await?;
    check_matches!(outcome, PublishOutcome::Accepted { .. }, "a window holds from publication, finished or not");
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 2).await?;
    ctx.complete_all(&consumer, &got).await
}

async fn own_id_is_no_duplicate(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("unique");
    let job = ctx.unique("once", KEY, None);
    ctx.publish(&queue, job.clone()).await?;
    ctx.publish(&queue, job).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.nothing(&consumer, "its own id is one job").await?;
    ctx.complete(&consumer, &delivery).await
}

async fn scope_is_the_queue(ctx: &Ctx) -> Outcome {
    let (one, two) = (ctx.queue("unique"), ctx.queue("unique"));
    ctx.publish(&one, ctx.unique("one", KEY, None)).await?;
    ctx.publish(&two, ctx.unique("two", KEY, None)).await.map(drop)
}

async fn two_in_one_batch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("unique");
    let first = ctx.unique("first", KEY, None);
    let batch = vec![first.clone(), ctx.job("plain").seal(), ctx.unique("second", KEY, None)];
    let outcomes = ctx.offer(&queue, batch).await?;
    check_matches!(outcomes[0], PublishOutcome::Accepted { .. }, "the first of the key");
    check_matches!(outcomes[1], PublishOutcome::Accepted { .. }, "the one without a key");
    existing(&outcomes[2], &first, &queue)
}

async fn racing_producers(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("race");
    let mut racers = tokio::task::JoinSet::new();
    for connection in 0..2 {
        let provider = if connection == 0 { Arc::clone(ctx.provider()) } else { ctx.connect().await? };
        for _ in 0..20 {
            let (provider, queue, job) = (Arc::clone(&provider), queue.clone(), ctx.unique("racer", KEY, None));
            racers.spawn(async move { provider.publish(&queue, vec![job], &PublishOptions::default()).await });
        }
    }
    let mut accepted = 0;
    while let Some(outcomes) = racers.join_next().await {
        let outcomes = outcomes.map_err(|error| Failed(format!("a producer panicked: {error}")))?;
        accepted += outcomes.iter().filter(|outcome| outcome.is_accepted()).count();
        check!(
            outcomes.iter().all(|outcome| outcome.is_accepted() || matches!(outcome, PublishOutcome::Duplicate { .. })),
            "a racer was answered {outcomes:?}"
        );
    }
    check_eq!(accepted, 1, "producers that won");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.nothing(&consumer, "one job of the key").await?;
    ctx.complete(&consumer, &delivery).await
}
