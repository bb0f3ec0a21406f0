//! Leases: held, extended, lost, and what the loser may still do.

use std::time::Duration;

use queue_core::{
    JobError,
    provider::{
        Beat, BeatOutcome, ConsumeOptions, DeadFilter, Disposition, LeaseModel, ParkKey, ReleaseReason, SettleOutcome,
    },
};
use tokio::time::{Instant, sleep};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::{text, texts},
    settle::dispositions,
    theft::{Theft, reclaim_slack, steal},
};

cases! { "lease";
    killed_workers_job_comes_again [Crash]
    everything_a_killed_worker_held_comes_again [Crash]
    silent_workers_job_comes_again [PerMessageLease]
    loser_can_settle_nothing [PerMessageLease]
    loser_can_settle_nothing_after_a_kill [SessionLease, Crash]
    loser_cannot_bury_or_double [PerMessageLease, DeadLetters]
    loser_cannot_extend [PerMessageLease]
    late_settlement_is_whole_or_nothing [PerMessageLease]
    heartbeats_hold_beyond_the_first_lease [PerMessageLease]
    heartbeat_says_what_remains [PerMessageLease]
    beat_without_extension_extends_nothing [PerMessageLease]
    session_holds_without_heartbeats [SessionLease]
    session_beats_are_held [SessionLease]
    lease_out_of_range_is_refused [PerMessageLease]
    lost_job_returns_to_the_head [PerMessageLease, ReleaseToHead, Fifo]
    lost_attempt_is_not_spent [Theft, Retry]
    started_runs_are_counted [PerMessageLease, StartedCount]
    started_mark_counts_once_a_delivery [PerMessageLease, StartedCount]
    unstarted_deliveries_are_not_counted [PerMessageLease, StartedCount, ExactStarts]
    started_runs_are_counted_across_a_kill [Crash, StartedCount]
    settled_runs_are_not_counted [Retry, StartedCount]
    a_settled_run_keeps_the_count_of_the_lost [PerMessageLease, Retry, StartedCount]
    released_unstarted_stays_redelivered [PerMessageLease, StartedCount, ExactStarts]
    parked_unstarted_stays_redelivered [PerMessageLease, StartedCount, ExactStarts, Park]
}

async fn killed_workers_job_comes_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("killed");
    ctx.publish_texts(&queue, &["a"]).await?;
    let connection = ctx.connect().await?;
    let victim = ctx.consumer_on(&connection, &queue, 1, ctx.facts().lease).await?;
    let first = ctx.take_one(&victim).await?;
    let before = Instant::now();
    ctx.crash(connection).await;
    let consumer = ctx.consumer(&queue).await?;
    let second = ctx.take_one(&consumer).await?;
    check_eq!(second.envelope.id, first.envelope.id, "the same job");
    check_eq!(second.attempt, 1, "a lost worker spends no attempt");
    check!(second.redelivered, "it was claimed before and not settled: it must be marked as redelivered");
    let took = before.elapsed();
    let limit = ctx.facts().lease + reclaim_slack(ctx);
    check!(took <= limit, "a killed worker's job came again after {took:?}; {limit:?} are allowed");
    ctx.complete(&consumer, &second).await?;
    ctx.nothing(&consumer, "it is completed").await
}

async fn everything_a_killed_worker_held_comes_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("killed");
    let names: Vec<String> = (10..30).map(|n| n.to_string()).collect();
    ctx.publish_all(&queue, names.iter().map(|name| ctx.job(name).seal()).collect()).await?;
    let connection = ctx.connect().await?;
    let victim = ctx.consumer_on(&connection, &queue, 20, ctx.facts().lease).await?;
    // Some are out, some may be buffered; one is done.
    let out = ctx.take(&victim, 5).await?;
    ctx.complete(&victim, &out[0]).await?;
    let done = text(&out[0]);
    ctx.crash(connection).await;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 19).await?;
    let mut found: Vec<String> = got.iter().map(text).collect();
    found.sort_unstable();
    let rest: Vec<String> = names.into_iter().filter(|name| *name != done).collect();
    check_eq!(found, rest, "what the killed worker held");
    ctx.complete_all(&consumer, &got).await?;
    ctx.nothing(&consumer, "all are completed").await
}

async fn silent_workers_job_comes_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("silent");
    let lease = ctx.facts().lease;
    ctx.publish_texts(&queue, &["a"]).await?;
    let silent = ctx.consumer_on(ctx.provider(), &queue, 1, lease).await?;
    let before = Instant::now();
    let first = ctx.take_one(&silent).await?;
    let remaining = first.lease.remaining.unwrap_or_default();
    check!(!remaining.is_zero() && remaining <= lease, "a lease of {lease:?} has {remaining:?} left at its start");
    let consumer = ctx.consumer(&queue).await?;
    let second = ctx.take_one(&consumer).await?;
    let took = before.elapsed();
    check!(took + Duration::from_millis(2) >= lease, "a lease of {lease:?} was over after {took:?}");
    check!(took <= lease + reclaim_slack(ctx), "a lease of {lease:?} was over only after {took:?}");
    check!(second.redelivered, "it was claimed before and not settled: it must be marked as redelivered");
    check_eq!(second.attempt, 1, "a lost lease spends no attempt");
    ctx.complete(&consumer, &second).await
}

async fn loser_can_settle_nothing(ctx: &Ctx) -> Outcome {
    for disposition in dispositions(ctx) {
        let queue = ctx.queue("stale");
        let theft = steal(ctx, &queue, ctx.job("a").seal()).await?;
        let outcome = ctx.settle(&theft.old, &theft.stale, disposition.clone()).await?;
        check_matches!(outcome, SettleOutcome::LeaseLost, "the loser's {disposition:?}");
        still_the_winners(ctx, &theft).await?;
    }
    Ok(())
}

async fn loser_can_settle_nothing_after_a_kill(ctx: &Ctx) -> Outcome {
    for disposition in dispositions(ctx) {
        let queue = ctx.queue("stale");
        let theft = steal(ctx, &queue, ctx.job("a").seal()).await?;
        let outcome = ctx.settle(&theft.old, &theft.stale, disposition.clone()).await?;
        check!(!outcome.is_settled(), "the killed worker's {disposition:?} was answered {outcome:?}");
        still_the_winners(ctx, &theft).await?;
    }
    Ok(())
}

async fn still_the_winners(ctx: &Ctx, theft: &Theft) -> Outcome {
    let beats = theft.new.heartbeat(&[Beat::extend(theft.fresh.receipt, ctx.long_lease())]).await;
    check_matches!(beats.as_slice(), [BeatOutcome::Held(_)], "the winner's heartbeat");
    ctx.complete(&theft.new, &theft.fresh).await?;
    ctx.nothing(&theft.new, "the winner completed it").await
}

async fn loser_cannot_bury_or_double(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("stale");
    let theft = steal(ctx, &queue, ctx.job("a").seal()).await?;
    let error = JobError::custom("BAD", "from the loser");
    ctx.settle(&theft.old, &theft.stale, Disposition::DeadLetter { error }).await?;
    ctx.complete(&theft.new, &theft.fresh).await?;
    // Also when the job is over: the loser's answer stays the same, and nothing follows from it.
    let outcome = ctx.settle(&theft.old, &theft.stale, Disposition::Complete { result: None }).await?;
    check_matches!(outcome, SettleOutcome::LeaseLost, "the loser's settlement after the winner's");
    let dead = ctx.provider().admin().dead(&theft.queue, &DeadFilter::default(), None, 10).await?;
    check_eq!(dead.items.len(), 0, "dead letters of the loser");
    Ok(())
}

async fn loser_cannot_extend(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("stale");
    let theft = steal(ctx, &queue, ctx.job("a").seal()).await?;
    let beats = theft.old.heartbeat(&[Beat::extend(theft.stale.receipt, ctx.long_lease())]).await;
    check_matches!(beats.as_slice(), [BeatOutcome::Lost], "the loser's heartbeat");
    still_the_winners(ctx, &theft).await
}

async fn late_settlement_is_whole_or_nothing(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("late");
    ctx.publish_texts(&queue, &["a"]).await?;
    let slow = ctx.consumer_on(ctx.provider(), &queue, 1, ctx.facts().lease).await?;
    let delivery = ctx.take_one(&slow).await?;
    slow.demand(0).await?;
    sleep(ctx.by_then(ctx.facts().lease)).await;
    let outcome = ctx.settle(&slow, &delivery, Disposition::Complete { result: None }).await?;
    let consumer = ctx.consumer(&queue).await?;
    match outcome {
        SettleOutcome::Settled => ctx.nothing(&consumer, "the late settlement was honoured").await,
        SettleOutcome::LeaseLost => {
            let again = ctx.take_one(&consumer).await?;
            check_eq!(again.attempt, 1, "the attempt");
            ctx.complete(&consumer, &again).await
        }
        other => Err(super::Failed(format!("a late settlement was answered {other:?}"))),
    }
}

async fn heartbeats_hold_beyond_the_first_lease(ctx: &Ctx) -> Outcome {
    // A machine that stands still for most of a lease beats late, and what becomes of the jobs then tells nothing.
    for lease in [1, 3, 9].map(|times| ctx.facts().lease * times) {
        if held_by_beats(ctx, lease).await? {
            return Ok(());
        }
    }
    Err(super::Failed("this machine is too slow to beat in time".to_owned()))
}

/// Whether all heartbeats were in time.
async fn held_by_beats(ctx: &Ctx, lease: Duration) -> Outcome<bool> {
    let queue = ctx.queue(&format!("held-{}", lease.as_millis()));
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    let worker = ctx.consumer_on(ctx.provider(), &queue, 2, lease).await?;
    let mut beat = Instant::now();
    let held = ctx.take(&worker, 2).await?;
    let other = ctx.consumer(&queue).await?;
    let end = Instant::now() + lease * 4 + reclaim_slack(ctx);
    while Instant::now() < end {
        let beats: Vec<Beat> = held.iter().map(|delivery| Beat::extend(delivery.receipt, lease)).collect();
        let asked = Instant::now();
        let outcomes = worker.heartbeat(&beats).await;
        if beat.elapsed() >= lease {
            return Ok(false);
        }
        let all_held = outcomes.len() == 2 && outcomes.iter().all(|outcome| matches!(outcome, BeatOutcome::Held(_)));
        check!(all_held, "heartbeats in time were answered {outcomes:?}");
        beat = asked;
        let got = ctx.collect(&other, 1, lease / 3).await?;
        if beat.elapsed() >= lease {
            return Ok(false);
        }
        check!(got.is_empty(), "{:?} was taken from a worker that beats", texts(&got));
    }
    ctx.complete_all(&worker, &held).await.map(|()| true)
}

async fn heartbeat_says_what_remains(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("held");
    let lease = ctx.facts().lease;
    ctx.publish_texts(&queue, &["a"]).await?;
    let worker = ctx.consumer_on(ctx.provider(), &queue, 1, lease).await?;
    let held = ctx.take_one(&worker).await?;
    sleep(lease / 2).await;
    let beats = worker.heartbeat(&[Beat::extend(held.receipt, lease)]).await;
    let [BeatOutcome::Held(now)] = beats.as_slice() else {
        return Err(super::Failed(format!("a heartbeat in time was answered {beats:?}")));
    };
    let remaining = now.remaining.unwrap_or_default();
    check!(remaining > lease / 2 && remaining <= lease, "extended by {lease:?}, {remaining:?} remain");
    check!(now.cancel.is_none(), "nobody asked to cancel it");
    Ok(())
}

async fn beat_without_extension_extends_nothing(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("held");
    let lease = ctx.facts().lease * 3;
    ctx.publish_texts(&queue, &["a"]).await?;
    let worker = ctx.consumer_on(ctx.provider(), &queue, 1, lease).await?;
    let before = Instant::now();
    let held = ctx.take_one(&worker).await?;
    sleep(lease * 5 / 6).await;
    let beat = Beat { extend: None, ..Beat::extend(held.receipt, lease) };
    let beats = worker.heartbeat(&[beat]).await;
    check_matches!(beats.as_slice(), [BeatOutcome::Held(_)], "a heartbeat in time");
    let other = ctx.consumer(&queue).await?;
    ctx.take_one(&other).await?;
    let took = before.elapsed();
    check!(took <= lease + ctx.lateness(lease), "the lease ended after {took:?}, though nobody extended it");
    Ok(())
}

async fn session_holds_without_heartbeats(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("session");
    ctx.publish_texts(&queue, &["a"]).await?;
    let worker = ctx.consumer(&queue).await?;
    let held = ctx.take_one(&worker).await?;
    let other = ctx.consumer(&queue).await?;
    ctx.nothing(&other, "the session lives").await?;
    ctx.complete(&worker, &held).await
}

async fn session_beats_are_held(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("session");
    ctx.publish_texts(&queue, &["a"]).await?;
    let worker = ctx.consumer(&queue).await?;
    let held = ctx.take_one(&worker).await?;
    let beats = worker.heartbeat(&[Beat::extend(held.receipt, Duration::from_secs(30))]).await;
    check_matches!(beats.as_slice(), [BeatOutcome::Held(_)], "a heartbeat within the session");
    ctx.complete(&worker, &held).await
}

async fn lease_out_of_range_is_refused(ctx: &Ctx) -> Outcome {
    let LeaseModel::PerMessage { min, max } = ctx.caps().lease else { return Ok(()) };
    let queue = ctx.queue("range");
    let mut wrong = Vec::new();
    if !min.is_zero() {
        wrong.push(min / 2);
    }
    if max < Duration::from_secs(u64::from(u32::MAX)) {
        wrong.push(max + Duration::from_secs(1));
    }
    for lease in wrong {
        let mut options = ConsumeOptions::new("suite", 1);
        options.lease = lease;
        let error = ctx.provider().consumer(&queue, options).await.err();
        let code = error.as_ref().map(queue_core::Error::code);
        check_eq!(
            code,
            Some(queue_core::ErrorCode::Validation),
            "a lease of {lease:?}, {min:?} to {max:?} are allowed"
        );
    }
    Ok(())
}

async fn lost_job_returns_to_the_head(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("head");
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    let silent = ctx.consumer_on(ctx.provider(), &queue, 1, ctx.facts().lease).await?;
    ctx.take_one(&silent).await?;
    silent.demand(0).await?;
    sleep(ctx.by_then(ctx.facts().lease)).await;
    let consumer = ctx.narrow_consumer(&queue, 1).await?;
    let first = ctx.take_one(&consumer).await?;
    check_eq!(text(&first), "a", "the job that was there first");
    ctx.complete(&consumer, &first).await
}

async fn lost_attempt_is_not_spent(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("stale");
    let theft = steal(ctx, &queue, ctx.job("a").seal()).await?;
    check_eq!(theft.fresh.attempt, 1, "the attempt after a lost lease");
    let retry = Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") };
    ctx.end(&theft.new, &theft.fresh, retry).await?;
    let next = ctx.take_one(&theft.new).await?;
    check_eq!(next.attempt, 2, "the attempt after a lost lease and a retry");
    ctx.complete(&theft.new, &next).await
}

fn started(delivery: &queue_core::provider::Delivery) -> Beat {
    Beat { started: true, extend: None, ..Beat::extend(delivery.receipt, Duration::ZERO) }
}

/// Three workers in a row; each marks its start as often as it is told and falls silent.
async fn started_before(ctx: &Ctx, marks: [usize; 2]) -> Outcome<Vec<u32>> {
    let queue = ctx.queue("started");
    ctx.publish_texts(&queue, &["a"]).await?;
    let mut counts = Vec::new();
    for marks in marks {
        let worker = ctx.consumer_on(ctx.provider(), &queue, 1, ctx.facts().lease).await?;
        let delivery = ctx.take_one(&worker).await?;
        counts.push(delivery.started_before);
        for _ in 0..marks {
            let beats = worker.heartbeat(&[started(&delivery)]).await;
            check_matches!(beats.as_slice(), [BeatOutcome::Held(_)], "marking a start");
        }
    }
    let last = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&last).await?;
    check!(delivery.redelivered, "it was claimed before and not settled: it must be marked as redelivered");
    counts.push(delivery.started_before);
    ctx.complete(&last, &delivery).await?;
    Ok(counts)
}

async fn started_runs_are_counted(ctx: &Ctx) -> Outcome {
    check_eq!(started_before(ctx, [1, 1]).await?, [0, 1, 2], "started deliveries before the first, second, third");
    Ok(())
}

async fn started_mark_counts_once_a_delivery(ctx: &Ctx) -> Outcome {
    check_eq!(started_before(ctx, [3, 2]).await?, [0, 1, 2], "started deliveries before the first, second, third");
    Ok(())
}

async fn unstarted_deliveries_are_not_counted(ctx: &Ctx) -> Outcome {
    check_eq!(started_before(ctx, [0, 0]).await?, [0, 0, 0], "started deliveries before the first, second, third");
    Ok(())
}

async fn started_runs_are_counted_across_a_kill(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("started");
    ctx.publish_texts(&queue, &["a"]).await?;
    for expected in 0..3 {
        let connection = ctx.connect().await?;
        let worker = ctx.consumer_on(&connection, &queue, 1, ctx.facts().lease).await?;
        let delivery = ctx.take_one(&worker).await?;
        // A bare session broker cannot know whether the first one was started.
        if expected < 2 || matches!(ctx.caps().lease, LeaseModel::PerMessage { .. }) {
            check_eq!(delivery.started_before, expected, "started deliveries before this one");
        }
        worker.heartbeat(&[started(&delivery)]).await;
        ctx.crash(connection).await;
    }
    Ok(())
}

/// A job that is retried or snoozed often is healthy: only runs that ended in a lost lease speak for poison.
async fn settled_runs_are_not_counted(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("healthy");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let snooze = ctx.caps().delay.is_supported();
    for run in 0..12 {
        let delivery = ctx.take_one(&consumer).await?;
        check_eq!(delivery.started_before, 0, "lost runs before this one; all before it were settled");
        let beats = consumer.heartbeat(&[started(&delivery)]).await;
        check_matches!(beats.as_slice(), [BeatOutcome::Held(_)], "marking a start");
        let disposition = match run % 2 {
            1 if snooze => Disposition::Release { after: Duration::from_millis(30), reason: ReleaseReason::Snooze },
            _ => Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") },
        };
        ctx.end(&consumer, &delivery, disposition).await?;
    }
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn a_settled_run_keeps_the_count_of_the_lost(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("started");
    ctx.publish_texts(&queue, &["a"]).await?;
    let silent = ctx.consumer_on(ctx.provider(), &queue, 1, ctx.facts().lease).await?;
    let lost = ctx.take_one(&silent).await?;
    silent.heartbeat(&[started(&lost)]).await;
    let consumer = ctx.consumer(&queue).await?;
    for _ in 0..3 {
        let delivery = ctx.take_one(&consumer).await?;
        check_eq!(delivery.started_before, 1, "lost runs before this one");
        consumer.heartbeat(&[started(&delivery)]).await;
        let retry = Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") };
        ctx.end(&consumer, &delivery, retry).await?;
    }
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn released_unstarted_stays_redelivered(ctx: &Ctx) -> Outcome {
    let release = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    given_back_unstarted(ctx, release).await
}

async fn parked_unstarted_stays_redelivered(ctx: &Ctx) -> Outcome {
    given_back_unstarted(ctx, Disposition::Park { key: ParkKey("limit".into()), at_most: Duration::from_secs(1) }).await
}

/// Who gives a lost job back without having started it says nothing of whether it ends whoever starts it.
async fn given_back_unstarted(ctx: &Ctx, back: Disposition) -> Outcome {
    let queue = ctx.queue("unstarted");
    ctx.publish_texts(&queue, &["a"]).await?;
    let silent = ctx.consumer_on(ctx.provider(), &queue, 1, ctx.facts().lease).await?;
    ctx.take_one(&silent).await?;
    let consumer = ctx.consumer(&queue).await?;
    let unstarted = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &unstarted, back.clone()).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check!(delivery.redelivered, "nobody knows yet that it lets its worker live: it must be marked as redelivered");
    let beats = consumer.heartbeat(&[started(&delivery)]).await;
    check_matches!(beats.as_slice(), [BeatOutcome::Held(_)], "marking a start");
    ctx.end(&consumer, &delivery, back).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check!(!delivery.redelivered, "it was started and given back, so this is no redelivery");
    check_eq!(delivery.started_before, 0, "lost runs before this one");
    ctx.complete(&consumer, &delivery).await
}
