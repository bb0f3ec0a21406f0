//! Closing: consumers in order, providers for good.

use std::{sync::Arc, time::Duration};

use queue_core::{
    ErrorCode, QueueSpec,
    provider::{ConsumeOptions, PublishOptions, PublishOutcome, Support},
};
use tokio::time::{Instant, sleep};

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq},
    context::texts,
};

cases! { "shutdown";
    close_ends_a_waiting_fetch []
    fetch_after_close_is_empty []
    receipts_stay_settleable_after_close []
    close_waits_for_what_is_out []
    close_gives_up_at_its_deadline []
    close_returns_what_is_buffered []
    close_twice []
    close_of_one_consumer_leaves_the_others []
    closed_provider_says_so []
    close_of_a_provider_ends_its_fetches []
}

async fn close_ends_a_waiting_fetch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    let consumer = ctx.consumer(&queue).await?;
    let waiting = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move { (consumer.fetch(5, Duration::from_secs(600)).await, Instant::now()) })
    };
    sleep(Duration::from_millis(300)).await;
    let before = Instant::now();
    let report = consumer.close(Duration::from_secs(5)).await;
    let (got, at) = waiting.await.map_err(|error| Failed(format!("the fetch panicked: {error}")))?;
    let got = got?;
    check!(got.is_empty(), "a closed consumer's fetch gave {:?}", texts(&got));
    let took = at.saturating_duration_since(before);
    check!(took <= ctx.promptly(), "the fetch returned {took:?} after the close");
    check_eq!((report.returned, report.still_open), (0, 0), "what close reports of a consumer that held nothing");
    Ok(())
}

async fn fetch_after_close_is_empty(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    let consumer = ctx.consumer(&queue).await?;
    consumer.close(Duration::from_secs(1)).await;
    ctx.publish_texts(&queue, &["a"]).await?;
    let before = Instant::now();
    let got = consumer.fetch(5, Duration::from_secs(5)).await?;
    check!(got.is_empty(), "a closed consumer gave {:?}", texts(&got));
    check!(before.elapsed() <= Duration::from_secs(5) + ctx.promptly(), "it took {:?}", before.elapsed());
    let other = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&other).await?;
    ctx.complete(&other, &delivery).await
}

async fn receipts_stay_settleable_after_close(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 2).await?;
    let got = ctx.take(&consumer, 2).await?;
    let closing = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move { (consumer.close(Duration::from_secs(30)).await, Instant::now()) })
    };
    sleep(Duration::from_millis(300)).await;
    ctx.complete(&consumer, &got[0]).await?;
    sleep(Duration::from_millis(300)).await;
    ctx.complete(&consumer, &got[1]).await?;
    let settled = Instant::now();
    let (report, at) = closing.await.map_err(|error| Failed(format!("the close panicked: {error}")))?;
    check_eq!(report.still_open, 0, "receipts that are still open");
    let took = at.saturating_duration_since(settled);
    check!(took <= ctx.promptly() + Duration::from_secs(1), "close returned {took:?} after the last was settled");
    let other = ctx.consumer(&queue).await?;
    ctx.nothing(&other, "both were completed").await
}

async fn close_waits_for_what_is_out(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let closing = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move { consumer.close(Duration::from_secs(30)).await })
    };
    sleep(Duration::from_millis(500)).await;
    check!(!closing.is_finished(), "close returned while a receipt was out and the deadline far");
    let other = ctx.consumer(&queue).await?;
    let got = ctx.collect(&other, 1, Duration::from_millis(300)).await?;
    check!(got.is_empty(), "{:?} was given to another while its worker was still settling", texts(&got));
    ctx.complete(&consumer, &delivery).await?;
    let report = closing.await.map_err(|error| Failed(format!("the close panicked: {error}")))?;
    check_eq!(report.still_open, 0, "receipts that are still open");
    Ok(())
}

async fn close_gives_up_at_its_deadline(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 2).await?;
    let got = ctx.take(&consumer, 2).await?;
    ctx.complete(&consumer, &got[0]).await?;
    let deadline = Duration::from_millis(1_200);
    let before = Instant::now();
    let report = consumer.close(deadline).await;
    let took = before.elapsed();
    check_eq!(report.still_open, 1, "receipts that are still open");
    check!(took + Duration::from_millis(20) >= deadline, "close gave up after {took:?} of {deadline:?}");
    check!(took <= deadline + ctx.promptly() + Duration::from_secs(1), "close gave up only after {took:?}");
    Ok(())
}

async fn close_returns_what_is_buffered(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    let names: Vec<String> = (10..20).map(|n| n.to_string()).collect();
    ctx.publish_all(&queue, names.iter().map(|name| ctx.job(name).seal()).collect()).await?;
    let consumer = ctx.narrow_consumer(&queue, 10).await?;
    let first = ctx.take_one(&consumer).await?;
    sleep(Duration::from_millis(300)).await;
    ctx.complete(&consumer, &first).await?;
    let report = consumer.close(Duration::from_secs(5)).await;
    check!(report.returned <= 9, "close returned {} of nine", report.returned);
    check_eq!(report.still_open, 0, "receipts that are still open");
    // At once, not when their leases end.
    let other = ctx.consumer(&queue).await?;
    let before = Instant::now();
    let got = ctx.take(&other, 9).await?;
    check!(before.elapsed() <= ctx.promptly() * 2, "what was buffered came after {:?}", before.elapsed());
    check!(got.iter().all(|delivery| delivery.attempt == 1), "giving back a buffer spends no attempt");
    if matches!(ctx.caps().started_count, Support::Native) {
        check!(got.iter().all(|delivery| delivery.started_before == 0), "what was buffered was never started");
    }
    ctx.complete_all(&other, &got).await
}

async fn close_twice(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    let consumer = ctx.consumer(&queue).await?;
    for _ in 0..2 {
        let report = consumer.close(Duration::from_secs(1)).await;
        check_eq!((report.returned, report.still_open), (0, 0), "what close reports");
    }
    Ok(())
}

async fn close_of_one_consumer_leaves_the_others(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    let (one, two) = (ctx.consumer(&queue).await?, ctx.consumer(&queue).await?);
    ctx.publish_texts(&queue, &["a"]).await?;
    let mut delivery = ctx.collect(&two, 1, ctx.quiet_time()).await?;
    one.close(Duration::from_secs(1)).await;
    if delivery.is_empty() {
        delivery = ctx.take(&two, 1).await?; // It was buffered at the other one.
    }
    ctx.complete_all(&two, &delivery).await?;
    ctx.publish_texts(&queue, &["b"]).await?;
    let delivery = ctx.take_one(&two).await?;
    ctx.complete(&two, &delivery).await
}

async fn closed_provider_says_so(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    let provider = ctx.connect().await?;
    provider.ping().await?;
    provider.close().await?;
    let closed = Some(ErrorCode::Closed);
    let code = |error: Option<queue_core::Error>| error.map(|error| error.code());
    check_eq!(code(provider.ping().await.err()), closed, "ping after close");
    check_eq!(code(provider.declare(&QueueSpec::new(queue.clone())).await.err()), closed, "declare after close");
    check_eq!(code(provider.drop_queue(&queue, false).await.err()), closed, "drop_queue after close");
    let options = ConsumeOptions::new("suite", 1);
    check_eq!(code(provider.consumer(&queue, options).await.err()), closed, "consumer after close");
    let outcomes = provider.publish(&queue, vec![ctx.job("late").seal()], &PublishOptions::default()).await;
    let [PublishOutcome::Rejected(rejection)] = outcomes.as_slice() else {
        return Err(Failed(format!("publish after close was answered {outcomes:?}")));
    };
    check_eq!(queue_core::Error::from(rejection.clone()).code(), ErrorCode::Closed, "publish after close");
    // Closing again is no error.
    provider.close().await?;
    Ok(())
}

async fn close_of_a_provider_ends_its_fetches(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("close");
    let provider = ctx.connect().await?;
    let consumer = ctx.consumer_on(&provider, &queue, 1, ctx.long_lease()).await?;
    let fetching = Arc::clone(&consumer);
    let waiting = tokio::spawn(async move { fetching.fetch(1, Duration::from_secs(3_000)).await });
    sleep(Duration::from_millis(200)).await;
    provider.close().await?;
    let ended = tokio::time::timeout(ctx.patience(), waiting).await;
    check!(ended.is_ok(), "a fetch still waits on a provider that was closed");
    let got = ended.ok().and_then(Result::ok);
    match got {
        Some(Ok(got)) => check!(got.is_empty(), "a closed provider's fetch gave {:?}", texts(&got)),
        Some(Err(error)) => check_eq!(error.code(), ErrorCode::Closed, "a closed provider's fetch"),
        None => return Err(Failed("the fetch panicked".into())),
    }
    // A worker fetches in a loop: an empty answer at once would make it spin.
    match consumer.fetch(1, Duration::from_secs(3_000)).await {
        Ok(_) => return Err(Failed("a fetch on a closed provider was answered".into())),
        Err(error) => check_eq!(error.code(), ErrorCode::Closed, "a fetch on a closed provider"),
    }
    check!(consumer.close(Duration::ZERO).await.returned == 0, "nothing was buffered");
    Ok(())
}
