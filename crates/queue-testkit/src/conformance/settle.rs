//! Ending deliveries: once, in any order, and never twice.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    JobError,
    provider::{
        Beat, BeatOutcome, DeadFilter, Disposition, ParkKey, Receipt, ReleaseReason, SettleOutcome, Settlement,
    },
};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::texts,
};

cases! { "settle";
    repeated_is_already_settled []
    repeated_with_a_result_is_already_settled []
    contradicted_is_a_conflict []
    contradicted_death_stays_dead [DeadLetters]
    repeated_within_one_batch []
    out_of_order []
    unknown_receipts_touch_nothing []
    good_and_bad_in_one_batch []
    many_in_one_batch []
    heartbeat_of_a_finished_job_is_lost []
    cancelled_is_the_end []
    forged_receipt_of_a_running_job []
}

/// The ways a job can leave a worker, that this provider has; each waits long where it waits.
pub(super) fn dispositions(ctx: &Ctx) -> Vec<Disposition> {
    let hour = Duration::from_secs(3_600);
    let after = ctx.caps().delay_max.map_or(hour, |max| max.min(hour));
    let mut all = vec![Disposition::Complete { result: None }, Disposition::Cancelled, Disposition::Expired];
    if ctx.caps().retry.is_supported() {
        all.push(Disposition::Retry { after, error: JobError::custom("TEMP", "again later") });
    }
    if ctx.caps().delay.is_supported() {
        all.push(Disposition::Release { after, reason: ReleaseReason::Snooze });
    }
    if ctx.caps().dead_letters.is_supported() {
        all.push(Disposition::DeadLetter { error: JobError::custom("BAD", "no use") });
    }
    if ctx.caps().park.is_supported() {
        all.push(Disposition::Park { key: ParkKey("limit".into()), at_most: after });
    }
    all
}

async fn repeated_is_already_settled(ctx: &Ctx) -> Outcome {
    for disposition in dispositions(ctx) {
        let queue = ctx.queue("repeat");
        ctx.publish_texts(&queue, &["a"]).await?;
        let consumer = ctx.consumer(&queue).await?;
        let delivery = ctx.take_one(&consumer).await?;
        ctx.end(&consumer, &delivery, disposition.clone()).await?;
        for _ in 0..2 {
            let again = ctx.settle(&consumer, &delivery, disposition.clone()).await?;
            check_matches!(again, SettleOutcome::AlreadySettled, "{disposition:?} again");
        }
        let looks_again = matches!(disposition, Disposition::Park { .. }) && ctx.provider().job_store().is_none();
        if !looks_again {
            ctx.nothing(&consumer, "it was settled").await?;
        }
    }
    Ok(())
}

async fn repeated_with_a_result_is_already_settled(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("repeat");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let done = Disposition::Complete { result: Some(Bytes::from_static(b"{\"sum\":7}")) };
    ctx.end(&consumer, &delivery, done.clone()).await?;
    let again = ctx.settle(&consumer, &delivery, done).await?;
    check_matches!(again, SettleOutcome::AlreadySettled, "the same result again");
    Ok(())
}

async fn contradicted_is_a_conflict(ctx: &Ctx) -> Outcome {
    let all = dispositions(ctx);
    for (at, first) in all.iter().enumerate() {
        for second in all.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, second)| second) {
            let queue = ctx.queue("conflict");
            ctx.publish_texts(&queue, &["a"]).await?;
            let consumer = ctx.consumer(&queue).await?;
            let delivery = ctx.take_one(&consumer).await?;
            ctx.end(&consumer, &delivery, first.clone()).await?;
            let outcome = ctx.settle(&consumer, &delivery, second.clone()).await?;
            check_matches!(outcome, SettleOutcome::Conflict, "{second:?} after {first:?}");
            let again = ctx.settle(&consumer, &delivery, first.clone()).await?;
            check_matches!(again, SettleOutcome::AlreadySettled, "{first:?} stands after the contradiction");
            let got = ctx.collect(&consumer, 1, Duration::from_millis(50)).await?;
            check!(got.is_empty(), "{first:?} stands, but {:?} came", texts(&got));
        }
    }
    Ok(())
}

async fn contradicted_death_stays_dead(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("conflict");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let error = JobError::custom("BAD", "no use");
    ctx.end(&consumer, &delivery, Disposition::DeadLetter { error }).await?;
    let outcome = ctx.settle(&consumer, &delivery, Disposition::Complete { result: None }).await?;
    check_matches!(outcome, SettleOutcome::Conflict, "completing the dead");
    let dead = ctx.provider().admin().dead(&queue, &DeadFilter::default(), None, 10).await?;
    check_eq!(dead.items.len(), 1, "dead jobs");
    Ok(())
}

async fn repeated_within_one_batch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("repeat");
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 2).await?;
    let done = |at: usize| Settlement::new(got[at].receipt, Disposition::Complete { result: None });
    let outcomes = consumer.settle(&[done(0), done(1), done(0)]).await;
    check_eq!(outcomes.len(), 3, "outcomes");
    check_matches!(outcomes[0], SettleOutcome::Settled, "the first of the batch");
    check_matches!(outcomes[1], SettleOutcome::Settled, "the second of the batch");
    check_matches!(outcomes[2], SettleOutcome::AlreadySettled, "the first again");
    Ok(())
}

async fn out_of_order(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("disorder");
    ctx.publish_texts(&queue, &["0", "1", "2", "3", "4"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 5).await?;
    for at in [4, 0, 2, 1, 3] {
        ctx.complete(&consumer, &got[at]).await?;
    }
    ctx.nothing(&consumer, "all are completed").await
}

fn unknown(receipt: Receipt) -> Receipt {
    Receipt { slot: receipt.slot.wrapping_add(0x00DE_AD00), epoch: receipt.epoch.wrapping_add(0x00DE_AD00), ..receipt }
}

async fn unknown_receipts_touch_nothing(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("forged");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let forged = [
        Receipt { id: ctx.id(), slot: 0, epoch: 0 },
        Receipt { id: ctx.id(), slot: u64::MAX, epoch: u64::MAX },
        unknown(delivery.receipt),
    ];
    for receipt in forged {
        for disposition in dispositions(ctx) {
            let outcome = ctx.settle_with(&consumer, Settlement::new(receipt, disposition)).await?;
            check_matches!(outcome, SettleOutcome::LeaseLost, "a receipt that nobody gave out");
        }
        let beats = consumer.heartbeat(&[Beat::extend(receipt, Duration::from_secs(1))]).await;
        check_matches!(beats.as_slice(), [BeatOutcome::Lost], "a beat for a receipt that nobody gave out");
    }
    ctx.complete(&consumer, &delivery).await
}

async fn forged_receipt_of_a_running_job(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("forged");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    for epoch in [delivery.receipt.epoch.wrapping_add(1), delivery.receipt.epoch.wrapping_sub(1)] {
        let forged = Receipt { epoch, ..delivery.receipt };
        let outcome =
            ctx.settle_with(&consumer, Settlement::new(forged, Disposition::Complete { result: None })).await?;
        check_matches!(outcome, SettleOutcome::LeaseLost, "the next or the last claim's receipt");
    }
    ctx.complete(&consumer, &delivery).await
}

async fn good_and_bad_in_one_batch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("mixed");
    ctx.publish_texts(&queue, &["a", "b", "c", "d"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 4).await?;
    let done = |receipt| Settlement::new(receipt, Disposition::Complete { result: None });
    ctx.complete(&consumer, &got[1]).await?;
    let batch = [
        done(unknown(got[0].receipt)),
        done(got[0].receipt),
        done(got[1].receipt),
        Settlement::new(got[1].receipt, Disposition::Cancelled),
        done(got[2].receipt),
        done(unknown(got[3].receipt)),
        done(got[3].receipt),
    ];
    let outcomes = consumer.settle(&batch).await;
    let words: Vec<&str> = outcomes
        .iter()
        .map(|outcome| match outcome {
            SettleOutcome::Settled => "settled",
            SettleOutcome::AlreadySettled => "already",
            SettleOutcome::Conflict => "conflict",
            SettleOutcome::LeaseLost => "lost",
            SettleOutcome::NotSettled { .. } => "not settled",
            SettleOutcome::Unknown(_) => "unknown",
        })
        .collect();
    let expected = ["lost", "settled", "already", "conflict", "settled", "lost", "settled"];
    check_eq!(words, expected, "outcomes in the order of the batch");
    ctx.nothing(&consumer, "all four are completed").await
}

async fn many_in_one_batch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("many");
    let n = ctx.caps().max_batch.min(300) + 7;
    ctx.publish_all(&queue, (0..n).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    let connection = ctx.connect().await?;
    let consumer = ctx.consumer_on(&connection, &queue, n, ctx.long_lease()).await?;
    let got = ctx.take(&consumer, n).await?;
    ctx.complete_all(&consumer, &got).await?;
    // Settled, not merely said to be: a session's end gives nothing back.
    consumer.close(Duration::from_secs(1)).await;
    let other = ctx.consumer(&queue).await?;
    ctx.nothing(&other, "all are completed").await?;
    if ctx.caps().exact_depth.is_supported() {
        let stats = ctx.stats(&queue).await?;
        check_eq!((stats.waiting(), stats.running), (0, 0), "waiting and running after all were completed");
    }
    Ok(())
}

async fn heartbeat_of_a_finished_job_is_lost(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("beat");
    ctx.publish_texts(&queue, &["a", "b"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 2).await?;
    ctx.complete(&consumer, &got[0]).await?;
    let beats: Vec<Beat> = got.iter().map(|delivery| Beat::extend(delivery.receipt, ctx.long_lease())).collect();
    let outcomes = consumer.heartbeat(&beats).await;
    check_eq!(outcomes.len(), 2, "outcomes of two beats");
    check_matches!(outcomes[0], BeatOutcome::Lost, "the completed one");
    check_matches!(outcomes[1], BeatOutcome::Held(_), "the running one");
    ctx.complete(&consumer, &got[1]).await
}

async fn cancelled_is_the_end(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("cancelled");
    ctx.publish_texts(&queue, &["a"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.end(&consumer, &delivery, Disposition::Cancelled).await?;
    ctx.nothing(&consumer, "it was cancelled").await?;
    let other: Arc<_> = ctx.consumer(&queue).await?;
    ctx.nothing(&other, "it was cancelled").await
}
