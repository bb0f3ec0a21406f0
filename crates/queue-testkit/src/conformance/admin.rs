//! Queues and their numbers.

use std::time::Duration;

use queue_core::{
    ErrorCode, JobError, Priority, QueueName, QueueSpec, RetryPolicy,
    job::JobKind,
    provider::{Disposition, LeaseModel},
    queue_spec::Retention,
};
use tokio::time::{Instant, sleep};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq},
    context::texts,
};

cases! { "admin";
    declared_again_is_the_same []
    another_declaration_is_a_conflict_by_name []
    first_use_gives_the_default_spec []
    nonsense_declaration_is_refused []
    dropped_queue_is_gone []
    fetch_of_a_dropped_queue_waits_or_fails []
    drop_only_if_empty []
    drop_of_nothing []
    queues_listed_by_prefix []
    queues_listed_page_by_page []
    stats_through_a_life [ExactDepth]
    stats_of_the_dead [ExactDepth, DeadLetters]
    stats_in_the_order_asked [ExactDepth]
    nothing_is_lost_in_the_sum [ExactDepth, Retry, DeadLetters, Delay]
    oldest_pending [ExactDepth]
    capabilities_make_sense []
    ping []
    maintenance_says_when_to_come_again []
}

fn code<T>(answer: queue_core::Result<T>) -> Option<ErrorCode> {
    answer.err().map(|error| error.code())
}

async fn declared_again_is_the_same(ctx: &Ctx) -> Outcome {
    let mut spec = QueueSpec::new(ctx.queue("declare"));
    spec.max_deliveries = 3;
    spec.default_priority = Priority::HIGH;
    for _ in 0..3 {
        ctx.provider().declare(&spec).await?;
    }
    ctx.connect().await?.declare(&spec).await?;
    ctx.publish_texts(&spec.name, &["a"]).await?;
    ctx.provider().declare(&spec).await?;
    let consumer = ctx.consumer(&spec.name).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

type Change = fn(&mut QueueSpec);

async fn another_declaration_is_a_conflict_by_name(ctx: &Ctx) -> Outcome {
    let changes: [(&str, Change); 8] = [
        ("default_priority", |spec| spec.default_priority = Priority::LOW),
        ("default_kind", |spec| spec.default_kind = JobKind::from_static("other")),
        ("timeout", |spec| spec.timeout = Duration::from_secs(7)),
        ("ttl", |spec| spec.ttl = Some(Duration::from_secs(7_000))),
        ("retry", |spec| spec.retry = RetryPolicy::never()),
        ("max_deliveries", |spec| spec.max_deliveries = 2),
        ("max_encoded_len", |spec| spec.max_encoded_len = 9_999),
        ("retention", |spec| spec.retention = Retention { count: 3, ..Retention::default() }),
    ];
    let queue = ctx.declared("declare", |_| {}).await?;
    for (field, change) in changes {
        let mut spec = QueueSpec::new(queue.clone());
        change(&mut spec);
        let Err(error) = ctx.provider().declare(&spec).await else {
            return Err(super::Failed(format!("declared with another {field}, and it was taken")));
        };
        check_eq!(error.code(), ErrorCode::Conflict, "declared with another {field}");
        check!(error.message().contains(field), "the conflict does not name {field}: {error}");
    }
    ctx.provider().declare(&QueueSpec::new(queue)).await?;
    Ok(())
}

async fn first_use_gives_the_default_spec(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("default");
    ctx.publish_texts(&queue, &["a"]).await?;
    ctx.provider().declare(&QueueSpec::new(queue.clone())).await?;
    let mut other = QueueSpec::new(queue);
    other.max_deliveries = 1;
    check_eq!(code(ctx.provider().declare(&other).await), Some(ErrorCode::Conflict), "another spec than the default");
    Ok(())
}

async fn nonsense_declaration_is_refused(ctx: &Ctx) -> Outcome {
    let mut spec = QueueSpec::new(ctx.queue("nonsense"));
    spec.timeout = Duration::ZERO;
    check_eq!(code(ctx.provider().declare(&spec).await), Some(ErrorCode::Validation), "a timeout of zero");
    Ok(())
}

async fn dropped_queue_is_gone(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("drop");
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    if ctx.caps().delay.is_supported() && ctx.facts().scheduled_in_reach {
        ctx.publish(&queue, ctx.delayed("c", Duration::from_secs(1))).await?;
    }
    ctx.provider().drop_queue(&queue, false).await?;
    // The name is free: also for another declaration.
    let mut spec = QueueSpec::new(queue.clone());
    spec.max_deliveries = 4;
    ctx.provider().declare(&spec).await?;
    let consumer = ctx.consumer(&queue).await?;
    ctx.nothing(&consumer, "the queue was dropped with everything in it").await?;
    ctx.publish_texts(&queue, &["new"]).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

/// A worker fetches in a loop: an empty answer at once would make it spin.
async fn fetch_of_a_dropped_queue_waits_or_fails(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("drop");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    ctx.provider().drop_queue(&queue, false).await?;
    let (before, wait) = (Instant::now(), Duration::from_millis(300));
    match consumer.fetch(1, wait).await {
        Ok(got) => {
            check!(got.is_empty(), "a dropped queue's fetch gave {:?}", texts(&got));
            let took = before.elapsed();
            check!(took + Duration::from_millis(2) >= wait, "empty after {took:?}, though it was to wait {wait:?}");
        }
        Err(error) => {
            let known = matches!(error.code(), ErrorCode::NotFound | ErrorCode::Unavailable);
            check!(known, "a dropped queue's fetch failed with {error}");
        }
    }
    Ok(())
}

async fn drop_only_if_empty(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("drop");
    ctx.publish_texts(&queue, &["a"]).await?;
    let provider = ctx.provider();
    check_eq!(code(provider.drop_queue(&queue, true).await), Some(ErrorCode::Conflict), "a job waits");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    if ctx.caps().exact_depth.is_supported() {
        check_eq!(code(provider.drop_queue(&queue, true).await), Some(ErrorCode::Conflict), "a job runs");
    }
    ctx.complete(&consumer, &delivery).await?;
    consumer.close(Duration::from_secs(1)).await;
    provider.drop_queue(&queue, true).await?;
    Ok(())
}

async fn drop_of_nothing(ctx: &Ctx) -> Outcome {
    for only_if_empty in [true, false] {
        ctx.provider().drop_queue(&ctx.queue("nothing"), only_if_empty).await?;
    }
    Ok(())
}

async fn queues_listed_by_prefix(ctx: &Ctx) -> Outcome {
    let stem = ctx.queue("list").to_string();
    let mut names: Vec<QueueName> =
        ["-b", "-a", "-ü/*", "", "-ab"].iter().map(|end| ctx.own(format!("{stem}{end}"))).collect();
    for name in &names {
        ctx.provider().declare(&QueueSpec::new(name.clone())).await?;
    }
    ctx.declared("unlisted", |_| {}).await?;
    names.sort();
    let Some(found) = listed(ctx, &stem, 100).await? else { return Ok(()) };
    check_eq!(found, names, "queues whose name begins with {stem}, by name");
    let Some(found) = listed(ctx, &format!("{stem}-a"), 100).await? else { return Ok(()) };
    let expected: Vec<_> =
        names.iter().filter(|name| name.as_str().starts_with(&format!("{stem}-a"))).cloned().collect();
    check_eq!(found, expected, "queues whose name begins with {stem}-a, by name");
    Ok(())
}

async fn queues_listed_page_by_page(ctx: &Ctx) -> Outcome {
    let stem = ctx.queue("list").to_string();
    let names: Vec<QueueName> = (0..7).map(|n| ctx.own(format!("{stem}.{n}"))).collect();
    for name in &names {
        ctx.provider().declare(&QueueSpec::new(name.clone())).await?;
    }
    let Some(found) = listed(ctx, &format!("{stem}."), 2).await? else { return Ok(()) };
    check_eq!(found, names, "queues, page by page");
    Ok(())
}

/// `None` where the broker cannot list, and says so.
async fn listed(ctx: &Ctx, prefix: &str, limit: usize) -> Outcome<Option<Vec<QueueName>>> {
    let admin = ctx.provider().admin();
    let (mut found, mut cursor) = (Vec::new(), None);
    for _ in 0..50 {
        let page = match admin.queues(prefix, cursor.take(), limit).await {
            Err(error) if error.code() == ErrorCode::Unsupported => return Ok(None),
            page => page?,
        };
        check!(page.items.len() <= limit, "a page of {} for a limit of {limit}", page.items.len());
        found.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(Some(found));
        }
    }
    Err(super::Failed("the listing has no end".into()))
}

async fn stats_through_a_life(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("stats");
    let consumer = ctx.narrow_consumer(&queue, 2).await?;
    let numbers = async || {
        let stats = ctx.stats(&queue).await?;
        check!(stats.exact, "the statistics are not exact, though the capability says so");
        check_eq!(stats.queue, queue, "whose statistics");
        Ok((stats.pending, stats.scheduled, stats.retrying, stats.running, stats.completed_total))
    };
    ctx.publish_texts(&queue, &["a", "b", "c"]).await?;
    check_eq!(numbers().await?, (3, 0, 0, 0, 0), "pending, scheduled, retrying, running, completed: three waiting");
    if ctx.caps().delay.is_supported() {
        ctx.publish(&queue, ctx.delayed("later", Duration::from_secs(2))).await?;
        check_eq!(numbers().await?, (3, 1, 0, 0, 0), "pending, scheduled, retrying, running, completed: one scheduled");
        sleep(ctx.by_then(Duration::from_secs(2))).await;
    } else {
        ctx.publish_texts(&queue, &["d"]).await?;
    }
    check_eq!(numbers().await?, (4, 0, 0, 0, 0), "pending, scheduled, retrying, running, completed: all due");
    let got = ctx.take(&consumer, 2).await?;
    check_eq!(numbers().await?, (2, 0, 0, 2, 0), "pending, scheduled, retrying, running, completed: two running");
    ctx.complete(&consumer, &got[0]).await?;
    check_eq!(numbers().await?, (2, 0, 0, 1, 1), "pending, scheduled, retrying, running, completed: one completed");
    if ctx.caps().retry.is_supported() {
        let after = Duration::from_secs(600);
        let retry = Disposition::Retry { after, error: JobError::custom("TEMP", "again") };
        ctx.end(&consumer, &got[1], retry.clone()).await?;
        check_eq!(numbers().await?, (2, 0, 1, 0, 1), "pending, scheduled, retrying, running, completed: one retrying");
        ctx.settle(&consumer, &got[1], retry).await?;
        check_eq!(ctx.stats(&queue).await?.failed_total, 1, "failed attempts, one of them settled twice");
    }
    check_eq!(ctx.stats(&queue).await?.submitted_total, 4, "submitted");
    Ok(())
}

async fn stats_of_the_dead(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("stats");
    ctx.publish_texts(&queue, &["a", "b", "c"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 3).await?;
    for delivery in &got[..2] {
        ctx.end(&consumer, delivery, Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }).await?;
    }
    ctx.end(&consumer, &got[2], Disposition::Cancelled).await?;
    let stats = ctx.stats(&queue).await?;
    check_eq!((stats.dead, stats.running, stats.failed_total), (2, 0, 2), "dead, running, and failed attempts");
    Ok(())
}

async fn stats_in_the_order_asked(ctx: &Ctx) -> Outcome {
    let queues = [ctx.queue("stats"), ctx.queue("stats"), ctx.queue("stats")];
    for (n, queue) in queues.iter().enumerate() {
        ctx.publish_all(queue, (0..=n).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    }
    let asked = [queues[2].clone(), queues[0].clone(), queues[1].clone(), queues[2].clone()];
    let mut found = Vec::new();
    for answer in ctx.provider().admin().stats(&asked).await {
        let stats = answer?;
        found.push((stats.queue, stats.pending));
    }
    let expected: Vec<_> = asked.into_iter().zip([3, 1, 2, 3]).collect();
    check_eq!(found, expected, "one answer a queue, in order");
    Ok(())
}

/// Accepted = completed + dead + cancelled + expired + what is still visible.
async fn nothing_is_lost_in_the_sum(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("sum");
    ctx.publish_all(&queue, (0..30).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    let consumer = ctx.narrow_consumer(&queue, 20).await?;
    let error = JobError::custom("BAD", "no use");
    for (n, delivery) in ctx.take(&consumer, 20).await?.iter().enumerate() {
        let disposition = match n % 5 {
            0 => Disposition::Retry { after: Duration::from_secs(900), error: error.clone() },
            1 => Disposition::DeadLetter { error: error.clone() },
            2 => Disposition::Cancelled,
            3 => continue, // Stays running.
            _ => Disposition::Complete { result: None },
        };
        ctx.end(&consumer, delivery, disposition).await?;
    }
    ctx.publish(&queue, ctx.delayed("later", Duration::from_secs(900))).await?;
    let stats = ctx.stats(&queue).await?;
    check_eq!(
        (stats.pending, stats.scheduled, stats.retrying, stats.running),
        (10, 1, 4, 4),
        "pending, scheduled, retrying, running"
    );
    let cancelled = 4;
    let visible = stats.waiting() + stats.running;
    check_eq!(
        stats.submitted_total,
        stats.completed_total + stats.dead + cancelled + visible,
        "submitted, and where they are"
    );
    let remembered = if ctx.provider().job_store().is_some() { 8 } else { 0 };
    check_eq!(stats.finished, remembered, "finished and still remembered: four completed, four cancelled");
    Ok(())
}

async fn oldest_pending(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("oldest");
    ctx.provider().declare(&QueueSpec::new(queue.clone())).await?;
    check_eq!(ctx.stats(&queue).await?.oldest_pending, None, "in an empty queue");
    let before = ctx.now();
    ctx.publish_texts(&queue, &["a"]).await?;
    sleep(Duration::from_millis(400)).await;
    ctx.publish_texts(&queue, &["b"]).await?;
    let Some(oldest) = ctx.stats(&queue).await?.oldest_pending else {
        return Ok(()); // The broker may not know.
    };
    check!(oldest >= before && before.until(oldest) < Duration::from_millis(400), "the oldest waits since {oldest:?}");
    Ok(())
}

async fn capabilities_make_sense(ctx: &Ctx) -> Outcome {
    let provider = ctx.provider();
    check!(!provider.scheme().is_empty(), "a provider without a scheme");
    let queue = ctx.declared("capable", |_| {}).await?;
    for caps in [provider.capabilities(None), provider.capabilities(Some(&QueueSpec::new(queue)))] {
        check!(caps.priority_levels >= 1, "no priority level at all");
        check!(caps.max_batch >= 1 && caps.max_encoded_len >= 1_024, "limits that let nothing through");
        check!(!caps.durability.is_empty(), "no durability on offer, not even a relaxed one");
        match caps.lease {
            LeaseModel::PerMessage { min, max } => check!(min <= max && !max.is_zero(), "leases of {min:?} to {max:?}"),
            LeaseModel::Session { max_hold } => check!(!max_hold.is_zero(), "sessions that hold nothing"),
        }
        check_eq!(provider.topics().is_some(), caps.topics.is_supported(), "native topics, as the capability says");
        let named = caps.features().iter().all(|(_, support)| match support {
            queue_core::provider::Support::Unsupported { instead } => !instead.is_empty(),
            queue_core::provider::Support::Emulated { how, .. } => !how.is_empty(),
            queue_core::provider::Support::Native => true,
        });
        check!(named, "a capability that is not native does not say how, or what to do instead");
    }
    Ok(())
}

async fn ping(ctx: &Ctx) -> Outcome {
    ctx.provider().ping().await?;
    Ok(())
}

async fn maintenance_says_when_to_come_again(ctx: &Ctx) -> Outcome {
    for leading in [true, false, true] {
        let next = ctx.provider().maintain(leading).await?;
        check!(next <= Duration::from_secs(86_400), "maintenance wants to be called in {next:?}");
    }
    Ok(())
}
