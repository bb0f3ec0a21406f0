//! Every state × every trigger: what [`queue_core::lifecycle`] allows happens, with its effects, and nothing else does.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use queue_core::{
    Consumer, JobError, JobRef,
    event::JobEventKind,
    lifecycle::{JobState, Trigger, step},
    provider::{Beat, BeatOutcome, Cancel, Delivery, Disposition, ParkKey, PublishOutcome, Redrive, ReleaseReason},
    store::{Watch, Watched},
};
use tokio::time::{sleep, timeout};

use super::{
    Ctx, Outcome,
    case::{cases, check},
};

cases! { "lifecycle";
    every_state_and_trigger [Store, VirtualTime, PerMessageLease, Retry, Delay, DeadLetters, Park, CancelPending, UniqueKeys]
}

/// How long the waiting states wait.
const WAIT: Duration = Duration::from_secs(40);
/// How long a job lives where the trigger is its expiry.
const TTL: Duration = Duration::from_secs(10);
const KEY: &str = "limit";

struct Subject {
    job: JobRef,
    consumer: Arc<dyn Consumer>,
    delivery: Delivery,
}

async fn every_state_and_trigger(ctx: &Ctx) -> Outcome {
    let mut wrong = Vec::new();
    for from in JobState::ALL {
        for trigger in Trigger::ALL {
            if from == JobState::Blocked || trigger == Trigger::Unblock {
                continue; // The scheduler blocks jobs; no provider does yet.
            }
            if trigger == Trigger::LeaseLost && !ctx.facts().lapse_is_seen {
                continue; // It is told at the next claim, which `watch::released_and_lost` looks at.
            }
            if let Err(failed) = one(ctx, from, trigger).await {
                wrong.push(format!("{from} {trigger:?}: {failed}"));
            }
        }
    }
    check!(wrong.is_empty(), "{} of the table:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

async fn one(ctx: &Ctx, from: JobState, trigger: Trigger) -> Outcome {
    let subject = bring(ctx, from, trigger).await?;
    let before = ctx.record(&subject.job).await?;
    check!(before.state == from, "the job was to be brought there and is {}", before.state);
    let mut told = ctx.store()?.watch(Watch::Jobs(vec![subject.job.clone()])).await?;
    apply(ctx, &subject, from, trigger).await?;

    let allowed = step(from, trigger).ok().filter(|_| reachable(from, trigger));
    let record = ctx.record(&subject.job).await?;
    let to = allowed.map_or(from, |row| row.to);
    check!(record.state == to, "it became {} and not {to}", record.state);
    let attempt = match allowed.map(|row| row.effects) {
        Some(effects) if effects.next_attempt => before.attempt + 1,
        Some(effects) if effects.reset_attempts => 1,
        _ => before.attempt,
    };
    check!(record.attempt == attempt, "its attempt is {} and not {attempt}", record.attempt);
    check!(record.finished_at.is_some() == to.is_terminal(), "finished at {:?}, and it is {to}", record.finished_at);

    let events = heard(&mut told).await;
    let expected: Vec<JobEventKind> = allowed.and_then(|row| row.effects.event).into_iter().collect();
    check!(events == expected, "watchers were told {events:?} and not {expected:?}");

    let beats = subject.consumer.heartbeat(&[Beat::extend(subject.delivery.receipt, ctx.long_lease())]).await;
    let held = matches!(beats.as_slice(), [BeatOutcome::Held(_)]);
    let fenced = from != JobState::Running || allowed.is_some_and(|row| row.effects.fence);
    check!(held != fenced, "the old receipt is answered {beats:?}");

    let rival = ctx.offer_one(&subject.job.queue, ctx.unique("rival", "unique", None)).await?;
    let free = matches!(rival, PublishOutcome::Accepted { .. });
    check!(free == to.is_terminal(), "it is {to}, and its unique key answers {rival:?}");
    Ok(())
}

/// Rows that no call reaches: their trigger is a settlement or a claim that the state does not offer to anyone.
fn reachable(from: JobState, trigger: Trigger) -> bool {
    let waits = matches!(from, JobState::Scheduled | JobState::Pending | JobState::Retrying);
    let not_due = matches!(from, JobState::Scheduled | JobState::Retrying);
    !(waits && trigger == Trigger::Bury || not_due && trigger == Trigger::Claim)
}

fn error() -> JobError {
    JobError::custom("BAD", "no use")
}

fn release(after: Duration) -> Disposition {
    let reason = if after.is_zero() { ReleaseReason::Shutdown } else { ReleaseReason::Snooze };
    Disposition::Release { after, reason }
}

/// A job in that state which was claimed once, so that there is a receipt to try.
async fn bring(ctx: &Ctx, state: JobState, trigger: Trigger) -> Outcome<Subject> {
    let queue = ctx.queue("life");
    let mut envelope = ctx.unique("subject", "unique", None);
    if trigger == Trigger::Expire {
        envelope = envelope.edit(|job| job.expires_at = Some(ctx.now() + TTL));
    }
    let job = ctx.publish(&queue, envelope).await?;
    let lease = if trigger == Trigger::LeaseLost { ctx.facts().lease } else { ctx.long_lease() };
    let consumer = ctx.consumer_on(ctx.provider(), &queue, 1, lease).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let disposition = match state {
        JobState::Scheduled => release(WAIT),
        JobState::Pending if trigger == Trigger::Unpark => {
            Disposition::Park { key: ParkKey(KEY.into()), at_most: WAIT * 10 }
        }
        JobState::Pending => release(Duration::ZERO),
        JobState::Retrying => Disposition::Retry { after: WAIT, error: error() },
        JobState::Completed => Disposition::Complete { result: None },
        JobState::Dead => Disposition::DeadLetter { error: error() },
        JobState::Cancelled => Disposition::Cancelled,
        JobState::Expired => Disposition::Expired,
        JobState::Running | JobState::Blocked => return Ok(Subject { job, consumer, delivery }),
    };
    ctx.end(&consumer, &delivery, disposition).await?;
    Ok(Subject { job, consumer, delivery })
}

async fn apply(ctx: &Ctx, subject: &Subject, from: JobState, trigger: Trigger) -> Outcome {
    let running = from == JobState::Running;
    let queue = &subject.job.queue;
    let disposition = match trigger {
        Trigger::Complete => Disposition::Complete { result: Some("other".into()) },
        Trigger::Retry => Disposition::Retry { after: WAIT * 2, error: error() },
        Trigger::RetryNow => Disposition::Retry { after: Duration::ZERO, error: error() },
        Trigger::Release => release(Duration::ZERO),
        Trigger::ReleaseLater => release(WAIT * 2),
        Trigger::Park => Disposition::Park { key: ParkKey(KEY.into()), at_most: WAIT * 10 },
        Trigger::Bury => Disposition::DeadLetter { error: error() },
        Trigger::Cancel if running => Disposition::Cancelled,
        Trigger::Expire if running => Disposition::Expired,
        Trigger::Unblock => return Ok(()),
        Trigger::Due => {
            sleep(ctx.by_then(WAIT)).await;
            return Ok(());
        }
        Trigger::LeaseLost => {
            sleep(ctx.by_then(ctx.facts().lease)).await;
            return Ok(());
        }
        Trigger::Expire => {
            // Some notice when it is due or when somebody fetches, and that is soon enough.
            sleep(ctx.by_then(WAIT)).await;
            return claim(ctx, subject, false).await;
        }
        Trigger::Claim => return claim(ctx, subject, from == JobState::Pending).await,
        Trigger::Cancel => {
            let answers = ctx.store()?.cancel(std::slice::from_ref(&subject.job), &Cancel::by("suite")).await;
            check!(answers.len() == 1 && answers[0].is_ok(), "the cancel was answered {answers:?}");
            return Ok(());
        }
        Trigger::Unpark => {
            ctx.provider().unpark(queue, &ParkKey(KEY.into()), 5).await?;
            return Ok(());
        }
        Trigger::Redrive => {
            ctx.provider().admin().redrive(queue, &Redrive::one(subject.job.id)).await?;
            return Ok(());
        }
    };
    let outcome = ctx.settle(&subject.consumer, &subject.delivery, disposition).await?;
    check!(outcome.is_settled() == running || same_again(from, trigger), "the settlement was answered {outcome:?}");
    Ok(())
}

/// What brought the job there, once more, is `AlreadySettled`.
fn same_again(from: JobState, trigger: Trigger) -> bool {
    matches!(
        (from, trigger),
        (JobState::Completed, Trigger::Complete)
            | (JobState::Dead, Trigger::Bury)
            | (JobState::Retrying, Trigger::Retry | Trigger::RetryNow)
            | (JobState::Scheduled, Trigger::Release | Trigger::ReleaseLater)
            | (JobState::Pending, Trigger::Release | Trigger::ReleaseLater)
    )
}

async fn claim(ctx: &Ctx, subject: &Subject, comes: bool) -> Outcome {
    let consumer = ctx.narrow_consumer(&subject.job.queue, 1).await?;
    let got = ctx.collect(&consumer, 1, Duration::from_millis(100)).await?;
    check!(got.len() == usize::from(comes), "{} deliveries came", got.len());
    Ok(())
}

async fn heard(told: &mut futures_util::stream::BoxStream<'static, Watched>) -> Vec<JobEventKind> {
    let mut events = Vec::new();
    while let Ok(Some(item)) = timeout(Duration::from_millis(50), told.next()).await {
        if let Watched::Event(event) = item {
            events.push(event.what);
        }
    }
    events
}
