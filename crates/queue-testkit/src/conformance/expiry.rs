//! A time to live, for the start.

use std::{sync::Arc, time::Duration};

use queue_core::{Envelope, Timestamp, lifecycle::JobState, provider::Disposition};
use tokio::time::sleep;

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq},
    context::texts,
};

cases! { "expiry";
    expired_job_is_never_delivered []
    fetch_waits_on_past_expired_jobs []
    scheduled_job_that_expires_first [Delay]
    running_job_is_not_expired []
    expired_settlement_is_the_end []
    expired_job_has_that_state [Store]
    queues_time_to_live []
}

fn mortal(ctx: &Ctx, text: &str, lives: Duration) -> Envelope {
    let mut job = ctx.job(text);
    job.expires_at = Some(ctx.now() + lives);
    job.seal()
}

async fn expired_job_is_never_delivered(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("ttl");
    let live = Duration::from_millis(500);
    ctx.publish_all(&queue, vec![mortal(ctx, "late", live), mortal(ctx, "in time", Duration::from_secs(3_600))])
        .await?;
    sleep(live + Duration::from_millis(200)).await;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 1).await?;
    check_eq!(texts(&got), ["in time"], "what came");
    ctx.nothing(&consumer, "it has expired").await?;
    ctx.complete_all(&consumer, &got).await
}

async fn fetch_waits_on_past_expired_jobs(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("ttl");
    ctx.publish_all(&queue, (0..5).map(|_| mortal(ctx, "late", Duration::from_millis(200))).collect()).await?;
    sleep(Duration::from_millis(500)).await;
    let consumer = ctx.consumer(&queue).await?;
    let waiting = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move { consumer.fetch(5, Duration::from_secs(30)).await })
    };
    sleep(Duration::from_secs(1)).await;
    check!(!waiting.is_finished(), "the fetch returned because of jobs that were to be dropped");
    ctx.publish_texts(&queue, &["alive"]).await?;
    let got = waiting.await.map_err(|error| Failed(format!("the fetch panicked: {error}")))??;
    check_eq!(texts(&got), ["alive"], "what the fetch waited for");
    Ok(())
}

async fn scheduled_job_that_expires_first(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("ttl");
    let job = mortal(ctx, "never", Duration::from_secs(1)).edit(|job| {
        job.not_before = Some(ctx.now() + Duration::from_secs(2));
    });
    // Whether it is refused or accepted and dropped is the provider's choice.
    ctx.offer_one(&queue, job).await?;
    let consumer = ctx.consumer(&queue).await?;
    let span = ctx.by_then(Duration::from_secs(2));
    let got = ctx.collect(&consumer, 1, span).await?;
    check!(got.is_empty(), "{:?} came after it had expired", texts(&got));
    Ok(())
}

async fn running_job_is_not_expired(ctx: &Ctx) -> Outcome {
    let queue = ctx.declared("ttl", |_| {}).await?;
    let consumer = ctx.consumer(&queue).await?;
    for lives in ctx.stretched(Duration::from_secs(1)) {
        let job = mortal(ctx, "started", lives);
        let expires_at = job.expires_at.unwrap_or(Timestamp::MAX);
        ctx.publish(&queue, job).await?;
        let got = ctx.collect(&consumer, 1, ctx.now().until(expires_at) + Duration::from_secs(1)).await?;
        if let Some(delivery) = got.first() {
            sleep(ctx.now().until(expires_at) + Duration::from_secs(2)).await;
            return ctx.complete(&consumer, delivery).await;
        }
    }
    Err(Failed("it expired before it came, however long it lived".into()))
}

async fn expired_settlement_is_the_end(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("ttl");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, Disposition::Expired).await?;
    ctx.nothing(&consumer, "it was settled as expired").await
}

async fn expired_job_has_that_state(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("ttl");
    let job = ctx.publish(&queue, mortal(ctx, "late", Duration::from_millis(300))).await?;
    sleep(Duration::from_millis(600)).await;
    let consumer = ctx.consumer(&queue).await?;
    ctx.nothing(&consumer, "it has expired").await?;
    check_eq!(ctx.record(&job).await?.state, JobState::Expired, "the state");
    Ok(())
}

async fn queues_time_to_live(ctx: &Ctx) -> Outcome {
    // The spec's ttl is stamped by the scheduler; a provider may enforce it too, but never on a job that has its own.
    let queue = ctx.declared("ttl", |spec| spec.ttl = Some(Duration::from_millis(500))).await?;
    ctx.publish(&queue, mortal(ctx, "its own", Duration::from_secs(3_600))).await?;
    sleep(Duration::from_secs(1)).await;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}
