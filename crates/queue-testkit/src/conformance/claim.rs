//! Fetch is the claim.

use std::{sync::Arc, time::Duration};

use queue_core::provider::{Disposition, ReleaseReason};
use tokio::time::{Instant, sleep};

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq},
    context::{text, texts},
};

cases! { "claim";
    no_wait_returns_at_once []
    no_wait_gets_what_is_there []
    waits_as_long_as_asked []
    wakes_up_when_something_is_published []
    wakes_up_when_something_is_due [Delay]
    wakes_up_when_something_is_released []
    many_waiting_fetches_share [AnyConsumer]
    fetch_never_returns_more_than_asked []
    outstanding_stays_within_demand []
    what_is_not_out_is_there_for_others [AnyConsumer]
    demand_can_grow []
    demand_zero_stops_and_goes_on []
    what_is_out_is_nobody_elses []
    exact_priorities_in_order [Priority, ExactPriority, StrictPriority]
    higher_bands_first [Priority]
    first_in_first_out [Fifo]
    first_in_first_out_within_a_batch [Fifo]
    first_in_first_out_within_a_priority [Fifo, Priority]
    endless_wait_is_no_overflow []
}

async fn no_wait_returns_at_once(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("zero");
    let consumer = ctx.consumer(&queue).await?;
    let before = Instant::now();
    let got = consumer.fetch(5, Duration::ZERO).await?;
    check!(got.is_empty(), "an empty queue gave {:?}", texts(&got));
    check!(before.elapsed() <= ctx.promptly(), "a fetch without wait took {:?}", before.elapsed());
    Ok(())
}

async fn no_wait_gets_what_is_there(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("zero");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let end = Instant::now() + ctx.patience();
    // A broker that pushes may need a moment; a poll that never waits must see it then.
    while Instant::now() < end {
        if let Some(delivery) = consumer.fetch(1, Duration::ZERO).await?.first() {
            return ctx.complete(&consumer, delivery).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(Failed("fetches without wait never found the job".into()))
}

async fn waits_as_long_as_asked(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("wait");
    let consumer = ctx.consumer(&queue).await?;
    let wait = Duration::from_millis(800);
    let before = Instant::now();
    let got = consumer.fetch(1, wait).await?;
    let took = before.elapsed();
    check!(got.is_empty(), "an empty queue gave {:?}", texts(&got));
    check!(took >= wait * 9 / 10, "a fetch that returns after {took:?} of {wait:?} makes its caller spin");
    check!(took <= wait + ctx.promptly() * 2, "a fetch of {wait:?} took {took:?}");
    Ok(())
}

async fn wakes_up_when_something_is_published(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("wake");
    let consumer = ctx.consumer(&queue).await?;
    let waiting = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move {
            let got = consumer.fetch(5, Duration::from_secs(30)).await;
            (got, Instant::now())
        })
    };
    sleep(Duration::from_millis(700)).await;
    let published = Instant::now();
    ctx.publish_texts(&queue, &["wake up"]).await?;
    let (got, at) = waiting.await.map_err(|error| Failed(format!("the fetch panicked: {error}")))?;
    let got = got?;
    check_eq!(texts(&got), ["wake up"], "what the waiting fetch got");
    let took = at.saturating_duration_since(published);
    check!(took <= ctx.promptly(), "a waiting fetch learnt of a new job after {took:?}");
    ctx.complete_all(&consumer, &got).await
}

async fn wakes_up_when_something_is_due(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("wake");
    let delay = Duration::from_secs(2);
    let consumer = ctx.consumer(&queue).await?;
    ctx.publish(&queue, ctx.delayed("due", delay)).await?;
    let before = Instant::now();
    let got = consumer.fetch(1, Duration::from_secs(60)).await?;
    check_eq!(texts(&got), ["due"], "what the waiting fetch got");
    let took = before.elapsed();
    check!(took <= delay + ctx.lateness(delay), "a waiting fetch learnt of a due job after {took:?}");
    ctx.complete_all(&consumer, &got).await
}

async fn wakes_up_when_something_is_released(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("wake");
    ctx.publish_texts(&queue, &["handed back"]).await?;
    let first = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&first).await?;
    let second = ctx.consumer(&queue).await?;
    let waiting = {
        let second = Arc::clone(&second);
        tokio::spawn(async move { (second.fetch(1, Duration::from_secs(60)).await, Instant::now()) })
    };
    sleep(Duration::from_millis(300)).await;
    let released = Instant::now();
    let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    // The first consumer wants no more, or it might get it back itself.
    first.demand(0).await?;
    ctx.end(&first, &delivery, release).await?;
    let (got, at) = waiting.await.map_err(|error| Failed(format!("the fetch panicked: {error}")))?;
    let got = got?;
    check_eq!(texts(&got), ["handed back"], "what the waiting fetch got");
    let took = at.saturating_duration_since(released);
    check!(took <= ctx.promptly() + ctx.caps().delay_granularity, "a waiting fetch learnt of it after {took:?}");
    ctx.complete_all(&second, &got).await
}

async fn many_waiting_fetches_share(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("share");
    let (mut waiting, mut consumers) = (tokio::task::JoinSet::new(), Vec::new());
    for _ in 0..8 {
        let consumer = ctx.narrow_consumer(&queue, 1).await?;
        consumers.push(Arc::clone(&consumer)); // Dropping one may end its session, and with it what it holds.
        waiting.spawn(async move { consumer.fetch(1, Duration::from_secs(60)).await });
    }
    sleep(Duration::from_millis(300)).await;
    let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    for name in &names {
        ctx.publish_texts(&queue, &[name]).await?;
    }
    let mut got = Vec::new();
    while let Some(fetched) = waiting.join_next().await {
        let fetched = fetched.map_err(|error| Failed(format!("a fetch panicked: {error}")))??;
        got.extend(texts(&fetched));
    }
    got.sort_unstable();
    check_eq!(got, names, "what eight waiting fetches got of eight jobs");
    Ok(())
}

async fn fetch_never_returns_more_than_asked(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("max");
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let jobs = names.iter().map(|name| ctx.job(name).seal()).collect();
    ctx.publish_all(&queue, jobs).await?;
    let consumer = ctx.consumer(&queue).await?;
    let mut got = Vec::new();
    while got.len() < 10 {
        let some = consumer.fetch(3, ctx.patience()).await?;
        check!((1..=3).contains(&some.len()), "fetch(3) returned {}", some.len());
        got.extend(some);
    }
    let mut found = texts(&got);
    found.sort_unstable();
    check_eq!(found, names, "all of them, each once");
    ctx.complete_all(&consumer, &got).await
}

async fn outstanding_stays_within_demand(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("demand");
    ctx.publish_all(&queue, (0..10).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    let consumer = ctx.narrow_consumer(&queue, 3).await?;
    let mut out = ctx.take(&consumer, 3).await?;
    ctx.nothing(&consumer, "three are out and three were asked for").await?;
    let Some(done) = out.pop() else { return Ok(()) };
    ctx.complete(&consumer, &done).await?;
    out.push(ctx.take_one(&consumer).await?);
    ctx.nothing(&consumer, "three are out again").await?;
    ctx.complete_all(&consumer, &out).await
}

async fn what_is_not_out_is_there_for_others(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("demand");
    ctx.publish_all(&queue, (0..10).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    let consumer = ctx.narrow_consumer(&queue, 3).await?;
    let out = ctx.take(&consumer, 3).await?;
    let other = ctx.consumer(&queue).await?;
    let rest = ctx.take(&other, 7).await?;
    ctx.complete_all(&other, &rest).await?;
    ctx.complete_all(&consumer, &out).await
}

async fn demand_can_grow(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("demand");
    ctx.publish_all(&queue, (0..6).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let mut out = ctx.take(&consumer, 1).await?;
    consumer.demand(4).await?;
    out.extend(ctx.take(&consumer, 3).await?);
    ctx.nothing(&consumer, "four are out and four were asked for").await?;
    ctx.complete_all(&consumer, &out).await
}

async fn demand_zero_stops_and_goes_on(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("demand");
    ctx.publish_texts(&queue, &["running"]).await?;
    let consumer = ctx.narrow_consumer(&queue, 5).await?;
    let running = ctx.take_one(&consumer).await?;
    consumer.demand(0).await?;
    ctx.publish_texts(&queue, &["held"]).await?;
    ctx.nothing(&consumer, "no demand").await?;
    ctx.complete(&consumer, &running).await?;
    ctx.nothing(&consumer, "still no demand").await?;
    consumer.demand(5).await?;
    let held = ctx.take_one(&consumer).await?;
    check_eq!(text(&held), "held", "what was held back");
    check_eq!(held.attempt, 1, "holding back spends no attempt");
    ctx.complete(&consumer, &held).await
}

async fn what_is_out_is_nobody_elses(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("out");
    ctx.publish_texts(&queue, &["mine"]).await?;
    let other_connection = ctx.connect().await?;
    let mine = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&mine).await?;
    let neighbour = ctx.consumer(&queue).await?;
    ctx.nothing(&neighbour, "another consumer holds it").await?;
    let stranger = ctx.consumer_on(&other_connection, &queue, 5, ctx.long_lease()).await?;
    ctx.nothing(&stranger, "another connection's consumer holds it").await?;
    ctx.complete(&mine, &delivery).await
}

async fn exact_priorities_in_order(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("levels");
    // Fifteen levels twice, in an order that is neither up nor down.
    let jobs = (0..30_u8).map(|n| (n * 7) % 15 + 1).enumerate().map(|(n, level)| ctx.ranked(format!("{n}"), level));
    ctx.publish_all(&queue, jobs.collect()).await?;
    let consumer = ctx.narrow_consumer(&queue, 30).await?;
    let mut levels = Vec::new();
    for max in [1, 1, 1, 5, 22] {
        let got = ctx.take(&consumer, max).await?;
        levels.extend(got.iter().map(|delivery| delivery.envelope.priority.level()));
        ctx.complete_all(&consumer, &got).await?;
    }
    let mut sorted = levels.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    check_eq!(levels, sorted, "levels in the order of their claim");
    Ok(())
}

async fn higher_bands_first(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("bands");
    let jobs = (0..40_u8).map(|n| ctx.ranked(n.to_string(), [2, 15, 6, 11][usize::from(n) % 4]));
    ctx.publish_all(&queue, jobs.collect()).await?;
    let consumer = ctx.narrow_consumer(&queue, 4).await?;
    let mut bands = Vec::new();
    while bands.len() < 40 {
        let delivery = ctx.take_one(&consumer).await?;
        bands.push(delivery.envelope.priority.band());
        ctx.complete(&consumer, &delivery).await?;
    }
    if ctx.facts().strict_priority {
        let mut sorted = bands.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        check_eq!(bands, sorted, "bands in the order of their claim");
    } else {
        let mean = |band| {
            let places = bands.iter().enumerate().filter(|(_, found)| **found == band).map(|(place, _)| place);
            places.sum::<usize>() / 10
        };
        check!(mean(3) < mean(0), "the highest band came later than the lowest: {bands:?}");
    }
    Ok(())
}

async fn one_by_one(ctx: &Ctx, queue: &queue_core::QueueName, n: usize) -> Outcome<Vec<String>> {
    let consumer = ctx.consumer(queue).await?;
    let mut order = Vec::new();
    for _ in 0..n {
        let delivery = ctx.take_one(&consumer).await?;
        order.push(text(&delivery));
        ctx.complete(&consumer, &delivery).await?;
    }
    Ok(order)
}

async fn first_in_first_out(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("fifo");
    let names: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    for pair in names.chunks(2) {
        ctx.publish_all(&queue, pair.iter().map(|name| ctx.job(name).seal()).collect()).await?;
    }
    check_eq!(one_by_one(ctx, &queue, 40).await?, names, "first in, first out");
    Ok(())
}

async fn first_in_first_out_within_a_batch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("fifo");
    let names: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    ctx.publish_all(&queue, names.iter().map(|name| ctx.job(name).seal()).collect()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 40).await?;
    let found: Vec<String> = got.iter().map(text).collect();
    check_eq!(found, names, "first in, first out");
    ctx.complete_all(&consumer, &got).await
}

async fn first_in_first_out_within_a_priority(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("fifo");
    let jobs = (0..24_u8).map(|n| ctx.ranked(n.to_string(), if n % 3 == 0 { 10 } else { 5 }));
    ctx.publish_all(&queue, jobs.collect()).await?;
    let order: Vec<u8> = one_by_one(ctx, &queue, 24).await?.iter().filter_map(|name| name.parse().ok()).collect();
    let of = |high: bool| order.iter().copied().filter(|n| (n % 3 == 0) == high).collect::<Vec<_>>();
    for class in [of(true), of(false)] {
        check!(class.is_sorted(), "within one priority: {class:?}");
    }
    Ok(())
}

async fn endless_wait_is_no_overflow(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("endless");
    let consumer = ctx.consumer(&queue).await?;
    let waiting = {
        let consumer = Arc::clone(&consumer);
        tokio::spawn(async move { consumer.fetch(usize::MAX, Duration::MAX).await })
    };
    sleep(Duration::from_millis(100)).await;
    ctx.publish_texts(&queue, &["at last"]).await?;
    let got = waiting.await.map_err(|error| Failed(format!("the fetch panicked: {error}")))??;
    check_eq!(texts(&got), ["at last"], "what the endless fetch got");
    ctx.complete_all(&consumer, &got).await
}
