//! Another attempt, and the same attempt again.

use std::time::Duration;

use queue_core::{
    JobError,
    provider::{Disposition, ReleaseReason},
};
use tokio::time::{Instant, sleep};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq},
    context::{text, texts},
};

cases! { "retry";
    raises_the_attempt [Retry]
    at_once [Retry]
    delay_is_kept [Retry, Delay]
    many_attempts [Retry]
    joins_the_tail [Retry, Fifo]
    keeps_the_envelope [Retry]
    release_keeps_the_attempt []
    release_after_a_retry_keeps_its_attempt [Retry]
    delayed_release_is_kept [Delay]
    release_returns_to_the_head [ReleaseToHead, Fifo]
    released_batch_comes_before_the_rest [ReleaseToHead, Fifo]
    settled_in_one_batch_with_others [Retry, DeadLetters]
    retried_job_is_out_of_reach [Retry]
    endless_delay_is_no_overflow [Retry, Delay]
}

fn retry(after: Duration) -> Disposition {
    Disposition::Retry { after, error: JobError::custom("TEMP", "try again") }
}

fn release(after: Duration) -> Disposition {
    let reason = if after.is_zero() { ReleaseReason::Shutdown } else { ReleaseReason::Snooze };
    Disposition::Release { after, reason }
}

async fn raises_the_attempt(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("retry");
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &first, retry(Duration::from_millis(200))).await?;
    let second = ctx.take_one(&consumer).await?;
    check_eq!(second.envelope.id, job.id, "the same job");
    check_eq!(second.attempt, 2, "the attempt after a retry");
    check!(!second.redelivered, "it was settled before, so this is no redelivery");
    check!(second.receipt != first.receipt, "a new claim has a receipt of its own");
    ctx.complete(&consumer, &second).await?;
    ctx.nothing(&consumer, "it is completed").await
}

async fn at_once(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("retry");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.take_one(&consumer).await?;
    let before = Instant::now();
    ctx.end(&consumer, &first, retry(Duration::ZERO)).await?;
    let second = ctx.take_one(&consumer).await?;
    check_eq!(second.attempt, 2, "the attempt after a retry");
    let took = before.elapsed();
    check!(took <= ctx.promptly() + ctx.caps().delay_granularity, "a retry at once took {took:?}");
    ctx.complete(&consumer, &second).await
}

async fn delay_is_kept(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("retry");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    for (attempt, delay) in [(2, Duration::from_secs(2)), (3, Duration::from_millis(700))] {
        let delivery = ctx.take_one(&consumer).await?;
        let before = Instant::now();
        ctx.end(&consumer, &delivery, retry(delay)).await?;
        // In real time the settlement has taken a while, and so may the last look.
        let margin = Duration::from_millis(if ctx.facts().virtual_time { 20 } else { 300 });
        let left = delay.saturating_sub(before.elapsed() + margin);
        let got = ctx.collect(&consumer, 1, left).await?;
        // Who was kept from looking for so long looks too late to tell.
        check!(got.is_empty() || before.elapsed() >= delay, "{:?} before {delay:?} had passed", before.elapsed());
        let again = match got.into_iter().next() {
            Some(again) => again,
            None => ctx.take_one(&consumer).await?,
        };
        let took = before.elapsed();
        check!(took + Duration::from_millis(1) >= delay, "{took:?} is before {delay:?}");
        check!(took <= delay + ctx.lateness(delay), "{took:?} is long after {delay:?}");
        check_eq!(again.attempt, attempt, "the attempt");
        ctx.end(&consumer, &again, release(Duration::ZERO)).await?;
    }
    Ok(())
}

async fn many_attempts(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("retry");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    for attempt in 1..=12 {
        let delivery = ctx.take_one(&consumer).await?;
        check_eq!(delivery.attempt, attempt, "the attempt");
        let after = Duration::from_millis(if attempt % 2 == 0 { 0 } else { 30 });
        ctx.end(&consumer, &delivery, retry(after)).await?;
    }
    Ok(())
}

async fn joins_the_tail(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("tail");
    ctx.publish_texts(&queue, &["a", "b", "c"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let first = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &first, retry(Duration::ZERO)).await?;
    let mut order = Vec::new();
    for _ in 0..3 {
        let delivery = ctx.take_one(&consumer).await?;
        order.push(text(&delivery));
        ctx.complete(&consumer, &delivery).await?;
    }
    check_eq!(order, ["b", "c", "a"], "the retried job joins the tail");
    Ok(())
}

async fn keeps_the_envelope(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("retry");
    let mut job = ctx.ranked("payload", 5).edit(|job| job.timeout = Duration::from_millis(4_321));
    job = job.edit(|job| job.content_type = queue_core::job::ContentType::Text);
    ctx.publish(&queue, job.clone()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &first, retry(Duration::from_millis(100))).await?;
    let second = ctx.take_one(&consumer).await?;
    let (found, sent) = (&second.envelope, &job);
    check_eq!(found.payload, sent.payload, "the payload");
    check_eq!(found.kind, sent.kind, "the kind");
    check_eq!(found.content_type, sent.content_type, "the content type");
    check_eq!(found.timeout, sent.timeout, "the timeout");
    check_eq!(found.created_at, sent.created_at, "the time of submission");
    check_eq!(found.priority, sent.priority, "the priority");
    ctx.complete(&consumer, &second).await
}

async fn release_keeps_the_attempt(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("release");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    for _ in 0..4 {
        let delivery = ctx.take_one(&consumer).await?;
        check_eq!(delivery.attempt, 1, "a release spends no attempt");
        let after = if ctx.caps().delay.is_supported() { Duration::from_millis(150) } else { Duration::ZERO };
        ctx.end(&consumer, &delivery, release(after)).await?;
    }
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn release_after_a_retry_keeps_its_attempt(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("release");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, retry(Duration::ZERO)).await?;
    for _ in 0..2 {
        let delivery = ctx.take_one(&consumer).await?;
        check_eq!(delivery.attempt, 2, "a release spends no attempt");
        ctx.end(&consumer, &delivery, release(Duration::ZERO)).await?;
    }
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, retry(Duration::ZERO)).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(delivery.attempt, 3, "a retry after releases");
    ctx.complete(&consumer, &delivery).await
}

async fn delayed_release_is_kept(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("release");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let delay = Duration::from_secs(2);
    let before = Instant::now();
    ctx.end(&consumer, &delivery, release(delay)).await?;
    let again = ctx.take_one(&consumer).await?;
    let took = before.elapsed();
    check!(took + Duration::from_millis(1) >= delay, "{took:?} is before {delay:?}");
    check!(took <= delay + ctx.lateness(delay), "{took:?} is long after {delay:?}");
    check_eq!(again.attempt, 1, "the attempt");
    check!(!again.redelivered, "it was settled before, so this is no redelivery");
    ctx.complete(&consumer, &again).await
}

async fn release_returns_to_the_head(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("head");
    ctx.publish_texts(&queue, &["a", "b", "c"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let first = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &first, release(Duration::ZERO)).await?;
    let again = ctx.take_one(&consumer).await?;
    check_eq!(text(&again), "a", "the released job returns to the head");
    ctx.complete(&consumer, &again).await
}

async fn released_batch_comes_before_the_rest(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("head");
    ctx.publish_texts(&queue, &["a", "b", "c", "d"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 2).await?;
    let got = ctx.take(&consumer, 2).await?;
    let batch: Vec<_> = got
        .iter()
        .map(|delivery| queue_core::provider::Settlement::new(delivery.receipt, release(Duration::ZERO)))
        .collect();
    let outcomes = consumer.settle(&batch).await;
    check!(outcomes.iter().all(queue_core::provider::SettleOutcome::is_settled), "releasing two: {outcomes:?}");
    let found = texts(&ctx.take(&consumer, 2).await?);
    check_eq!(found, ["a", "b"], "the released jobs come before the rest, in their order");
    Ok(())
}

async fn settled_in_one_batch_with_others(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("mixed");
    ctx.publish_texts(&queue, &["done", "again", "dead", "back", "gone"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 5).await?;
    let batch: Vec<_> = got
        .iter()
        .map(|delivery| {
            let disposition = match text(delivery).as_str() {
                "again" => retry(Duration::ZERO),
                "dead" => Disposition::DeadLetter { error: JobError::custom("BAD", "no use") },
                "back" => release(Duration::ZERO),
                "gone" => Disposition::Cancelled,
                _ => Disposition::Complete { result: None },
            };
            queue_core::provider::Settlement::new(delivery.receipt, disposition)
        })
        .collect();
    let outcomes = consumer.settle(&batch).await;
    check!(outcomes.iter().all(queue_core::provider::SettleOutcome::is_settled), "a mixed batch: {outcomes:?}");
    let mut found: Vec<_> =
        ctx.take(&consumer, 2).await?.iter().map(|delivery| (text(delivery), delivery.attempt)).collect();
    found.sort_unstable();
    check_eq!(found, [("again".to_owned(), 2), ("back".to_owned(), 1)], "what comes again, in which attempt");
    ctx.nothing(&consumer, "the others are over").await
}

async fn retried_job_is_out_of_reach(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("retry");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let first = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &first, retry(Duration::ZERO)).await?;
    let second = ctx.take_one(&consumer).await?;
    // The first claim's receipt must not end the second attempt.
    let outcome = ctx.settle(&consumer, &first, Disposition::Complete { result: None }).await?;
    check!(!outcome.is_settled(), "the first attempt's receipt ended the second: {outcome:?}");
    ctx.complete(&consumer, &second).await
}

async fn endless_delay_is_no_overflow(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("endless");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let outcome = ctx.settle(&consumer, &delivery, retry(Duration::MAX)).await?;
    if outcome.is_settled() {
        ctx.nothing(&consumer, "an endless delay").await?;
        sleep(Duration::from_millis(10)).await;
        return Ok(());
    }
    // Refusing it is as good; then the job is still this worker's.
    ctx.complete(&consumer, &delivery).await
}
