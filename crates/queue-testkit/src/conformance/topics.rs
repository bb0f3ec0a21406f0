//! One publish, many queues.

use queue_core::{
    ErrorCode, QueueName, QueueSpec,
    provider::{PublishOptions, PublishOutcome, Rejection, Topics},
};
use std::sync::Arc;

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::texts,
};

cases! { "topics";
    reach_each_subscribed_queue [Topics]
    end_with_the_subscription [Topics]
    belong_to_the_broker_and_not_to_a_connection [Topics]
    nobody_subscribed_is_unroutable [Topics]
    refused_by_one_reaches_none [Topics, MaxLen]
    unique_keys_are_the_queues_own [Topics, UniqueKeys]
    a_dropped_queue_is_subscribed_no_longer [Topics]
    refused_once_closed [Topics]
}

fn topics(ctx: &Ctx) -> Outcome<Arc<dyn Topics>> {
    ctx.provider().topics().ok_or_else(|| Failed("topics are native and cannot be had".into()))
}

/// A topic with two queues.
async fn subscribed(ctx: &Ctx) -> Outcome<(Arc<dyn Topics>, QueueName, QueueName, QueueName)> {
    let topics = topics(ctx)?;
    let (topic, one, two) = (ctx.queue("topic"), ctx.queue("one"), ctx.queue("two"));
    for queue in [&one, &two, &one] {
        topics.subscribe(&topic, queue).await?;
    }
    Ok((topics, topic, one, two))
}

async fn publish(ctx: &Ctx, topics: &Arc<dyn Topics>, topic: &QueueName, names: &[&str]) -> Vec<PublishOutcome> {
    let jobs = names.iter().map(|name| ctx.job(name).seal()).collect();
    topics.publish(topic, jobs, &PublishOptions::default()).await
}

/// What is in the queue, and comes once.
async fn holds(ctx: &Ctx, queue: &QueueName, expected: &[&str]) -> Outcome {
    let consumer = ctx.consumer(queue).await?;
    let got = ctx.collect(&consumer, expected.len() + 1, ctx.quiet_time()).await?;
    check_eq!(texts(&got), expected, "what came to {queue}");
    ctx.complete_all(&consumer, &got).await
}

async fn reach_each_subscribed_queue(ctx: &Ctx) -> Outcome {
    let (topics, topic, one, two) = subscribed(ctx).await?;
    let outcomes = publish(ctx, &topics, &topic, &["a", "b"]).await;
    check_matches!(
        outcomes.as_slice(),
        [PublishOutcome::Accepted { .. }, PublishOutcome::Accepted { .. }],
        "published"
    );
    for queue in [&one, &two] {
        holds(ctx, queue, &["a", "b"]).await?;
    }
    Ok(())
}

async fn end_with_the_subscription(ctx: &Ctx) -> Outcome {
    let (topics, topic, one, two) = subscribed(ctx).await?;
    topics.unsubscribe(&topic, &two).await?;
    topics.unsubscribe(&topic, &two).await?;
    publish(ctx, &topics, &topic, &["news"]).await;
    holds(ctx, &one, &["news"]).await?;
    holds(ctx, &two, &[]).await
}

async fn belong_to_the_broker_and_not_to_a_connection(ctx: &Ctx) -> Outcome {
    let (topic, queue) = (ctx.queue("topic"), ctx.queue("one"));
    let (first, second) = (ctx.connect().await?, ctx.connect().await?);
    let of = |provider: &Arc<dyn queue_core::QueueProvider>| {
        provider.topics().ok_or_else(|| Failed("topics are native and cannot be had".into()))
    };
    of(&first)?.subscribe(&topic, &queue).await?;
    first.close().await?;
    let outcomes = publish(ctx, &of(&second)?, &topic, &["news"]).await;
    check_matches!(outcomes.as_slice(), [PublishOutcome::Accepted { .. }], "published on another connection");
    holds(ctx, &queue, &["news"]).await
}

async fn nobody_subscribed_is_unroutable(ctx: &Ctx) -> Outcome {
    let (topics, topic, one, two) = subscribed(ctx).await?;
    let unroutable = |outcomes: &[PublishOutcome]| {
        check_matches!(outcomes, [PublishOutcome::Rejected(Rejection::Unroutable)], "published to nobody");
        Outcome::Ok(())
    };
    unroutable(&publish(ctx, &topics, &ctx.queue("topic"), &["lost"]).await)?;
    unroutable(&publish(ctx, &topics, &one, &["a queue's name is no topic"]).await)?;
    for queue in [&one, &two] {
        topics.unsubscribe(&topic, queue).await?;
    }
    unroutable(&publish(ctx, &topics, &topic, &["lost"]).await)
}

async fn refused_by_one_reaches_none(ctx: &Ctx) -> Outcome {
    let topics = topics(ctx)?;
    let (topic, wide) = (ctx.queue("topic"), ctx.queue("wide"));
    let narrow = ctx.declared("narrow", |spec| spec.max_len = Some(1)).await?;
    for queue in [&wide, &narrow] {
        topics.subscribe(&topic, queue).await?;
    }
    let outcomes = publish(ctx, &topics, &topic, &["a", "b"]).await;
    let full = PublishOutcome::Rejected(Rejection::Full);
    check_matches!(
        outcomes.as_slice(),
        [PublishOutcome::Accepted { .. }, PublishOutcome::Rejected(Rejection::Full)],
        "published where one queue has room for one; the second expected {full:?}"
    );
    holds(ctx, &wide, &["a"]).await?;
    holds(ctx, &narrow, &["a"]).await
}

async fn unique_keys_are_the_queues_own(ctx: &Ctx) -> Outcome {
    let (topics, topic, one, two) = subscribed(ctx).await?;
    let holder = ctx.publish(&one, ctx.unique("holder", "key", None)).await?;
    let outcomes = topics.publish(&topic, vec![ctx.unique("news", "key", None)], &PublishOptions::default()).await;
    let [PublishOutcome::Duplicate { existing }] = outcomes.as_slice() else {
        return Err(Failed(format!("a key that one of two queues holds was answered {outcomes:?}")));
    };
    check_eq!((&existing.queue, existing.id), (&holder.queue, holder.id), "the holder");
    holds(ctx, &one, &["holder"]).await?;
    holds(ctx, &two, &["news"]).await
}

async fn a_dropped_queue_is_subscribed_no_longer(ctx: &Ctx) -> Outcome {
    let (topics, topic, one, two) = subscribed(ctx).await?;
    publish(ctx, &topics, &topic, &["a"]).await;
    ctx.provider().drop_queue(&two, false).await?;
    let outcomes = publish(ctx, &topics, &topic, &["b"]).await;
    check_matches!(outcomes.as_slice(), [PublishOutcome::Accepted { .. }], "published after one of two was dropped");
    ctx.provider().declare(&QueueSpec::new(two.clone())).await?;
    holds(ctx, &one, &["a", "b"]).await?;
    holds(ctx, &two, &[]).await
}

async fn refused_once_closed(ctx: &Ctx) -> Outcome {
    let closed = ctx.connect().await?;
    let topics = closed.topics().ok_or_else(|| Failed("topics are native and cannot be had".into()))?;
    let (topic, queue) = (ctx.queue("topic"), ctx.queue("one"));
    topics.subscribe(&topic, &queue).await?;
    closed.close().await?;
    for answer in [topics.subscribe(&topic, &queue).await, topics.unsubscribe(&topic, &queue).await] {
        check_eq!(answer.err().map(|error| error.code()), Some(ErrorCode::Closed), "asked of a closed connection");
    }
    let outcomes = publish(ctx, &topics, &topic, &["news"]).await;
    check_matches!(outcomes.as_slice(), [PublishOutcome::Rejected(Rejection::Unavailable(_))], "published when closed");
    check!(outcomes.len() == 1, "{} outcomes for one job", outcomes.len());
    Ok(())
}
