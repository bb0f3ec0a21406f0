//! What a provider cannot do it refuses, by name; it never does nothing in silence.

use std::time::Duration;

use queue_core::{
    Error, ErrorCode, JobError, QueueSpec,
    provider::{
        Capabilities, DeadFilter, Disposition, Durability, ParkKey, PublishOptions, PublishOutcome, Redrive, Rejection,
        ReleaseReason, SettleOutcome, Support,
    },
    queue_spec::{Order, Partition, Tracking},
    store::{CancelOutcome, JobQuery},
};

use super::{
    Ctx, Failed, Outcome,
    case::{cases, check, check_eq, check_matches},
};

cases! { "refusal";
    durability_not_on_offer []
    durability_not_on_offer_for_a_batch []
    declarations_are_kept_or_refused []
    unsupported_admin []
    unsupported_publish []
    unsupported_settlement []
    unsupported_cancel [Store]
}

/// The refusal names itself, so that a person knows what refused what.
pub(super) fn typed(ctx: &Ctx, what: &str, error: &Error) -> Outcome {
    check_eq!(error.code(), ErrorCode::Unsupported, "{what}: {error}");
    check_eq!(error.provider(), Some(ctx.provider().scheme()), "{what}: the provider that refuses ({error})");
    check!(error.operation().is_some(), "{what}: the refusal names no operation ({error})");
    check!(error.message().len() > 10, "{what}: the refusal does not say what to do instead ({error})");
    Ok(())
}

fn refused<T>(ctx: &Ctx, what: &str, answer: queue_core::Result<T>) -> Outcome {
    match answer {
        Ok(_) => Err(Failed(format!("{what} is unsupported and was answered as if it were done"))),
        Err(error) => typed(ctx, what, &error),
    }
}

fn unoffered(caps: &Capabilities) -> Option<Durability> {
    let all = [
        Durability::Replicated { replicas: 3, timeout: Duration::from_secs(1) },
        Durability::Synced,
        Durability::Interval(Duration::from_secs(1)),
    ];
    all.into_iter().find(|durability| !caps.durability.contains(&durability.as_str()))
}

async fn durability_not_on_offer(ctx: &Ctx) -> Outcome {
    let Some(durability) = unoffered(ctx.caps()) else { return Ok(()) };
    let mut spec = QueueSpec::new(ctx.queue("durable"));
    spec.durability = Some(durability);
    refused(ctx, &format!("declaring {durability:?}"), ctx.provider().declare(&spec).await)
}

async fn durability_not_on_offer_for_a_batch(ctx: &Ctx) -> Outcome {
    let Some(durability) = unoffered(ctx.caps()) else { return Ok(()) };
    let queue = ctx.queue("durable");
    let options = PublishOptions { durability: Some(durability), ..PublishOptions::default() };
    let outcomes = ctx.provider().publish(&queue, vec![ctx.job("a").seal()], &options).await;
    let [PublishOutcome::Rejected(Rejection::Denied(error))] = outcomes.as_slice() else {
        return Err(Failed(format!(
            "publishing with {durability:?}, which is not on offer, was answered {outcomes:?}"
        )));
    };
    typed(ctx, "publishing with a durability that is not on offer", error)
}

type Change = fn(&mut QueueSpec);

async fn declarations_are_kept_or_refused(ctx: &Ctx) -> Outcome {
    let changes: [(&str, Change); 4] = [
        ("order", |spec| spec.order = Order::Aged { bound: Duration::from_secs(5) }),
        ("partitions", |spec| spec.partitions = [("bulk".into(), Partition::default())].into()),
        ("tracking off", |spec| spec.tracking = Tracking::Off),
        ("max_len", |spec| spec.max_len = Some(2)),
    ];
    for (what, change) in changes {
        let mut spec = QueueSpec::new(ctx.queue("kept"));
        change(&mut spec);
        match ctx.provider().declare(&spec).await {
            Err(error) => typed(ctx, &format!("declaring {what}"), &error)?,
            Ok(()) => {
                // What was taken is kept: the default is another declaration now.
                let again = ctx.provider().declare(&QueueSpec::new(spec.name.clone())).await;
                let code = again.err().map(|error| error.code());
                check_eq!(code, Some(ErrorCode::Conflict), "declaring the default over {what}");
                let consumer = ctx.consumer(&spec.name).await?;
                ctx.publish_texts(&spec.name, &["a"]).await?;
                let delivery = ctx.take_one(&consumer).await?;
                ctx.complete(&consumer, &delivery).await?;
            }
        }
    }
    Ok(())
}

fn lacks(support: Support) -> bool {
    !support.is_supported()
}

async fn unsupported_admin(ctx: &Ctx) -> Outcome {
    let (caps, admin) = (ctx.caps(), ctx.provider().admin());
    let queue = ctx.declared("refuse", |_| {}).await?;
    if lacks(caps.pause) {
        refused(ctx, "pause", admin.pause(&queue, true).await)?;
    }
    if lacks(caps.purge) {
        refused(ctx, "purge", admin.purge(&queue).await)?;
    }
    if lacks(caps.dead_letters) {
        refused(ctx, "dead", admin.dead(&queue, &DeadFilter::default(), None, 1).await)?;
        refused(ctx, "redrive", admin.redrive(&queue, &Redrive::all()).await)?;
        refused(ctx, "drop_dead", admin.drop_dead(&queue, &DeadFilter::default()).await)?;
    }
    if lacks(caps.park) {
        refused(ctx, "unpark", ctx.provider().unpark(&queue, &ParkKey("key".into()), 1).await)?;
    }
    if lacks(caps.aged_order) {
        let mut spec = QueueSpec::new(ctx.queue("refuse"));
        spec.order = Order::Aged { bound: Duration::from_secs(5) };
        refused(ctx, "declaring an aged order", ctx.provider().declare(&spec).await)?;
    }
    if lacks(caps.partitions) {
        let mut spec = QueueSpec::new(ctx.queue("refuse"));
        spec.partitions = [("bulk".into(), Partition::default())].into();
        refused(ctx, "declaring partitions", ctx.provider().declare(&spec).await)?;
    }
    if lacks(caps.shards) {
        let mut spec = QueueSpec::new(ctx.queue("refuse"));
        spec.shards = Some(2);
        refused(ctx, "declaring shards", ctx.provider().declare(&spec).await)?;
    }
    if lacks(caps.max_len) {
        let mut spec = QueueSpec::new(ctx.queue("refuse"));
        spec.max_len = Some(2);
        refused(ctx, "declaring max_len", ctx.provider().declare(&spec).await)?;
    }
    Ok(())
}

async fn unsupported_publish(ctx: &Ctx) -> Outcome {
    let caps = ctx.caps();
    let queue = ctx.queue("refuse");
    let mut wrong = Vec::new();
    if lacks(caps.delay) {
        wrong.push(("a delay", ctx.delayed("a", Duration::from_secs(5))));
    }
    if lacks(caps.unique_keys) {
        wrong.push(("a unique key", ctx.unique("b", "key", None)));
    }
    for (what, job) in wrong {
        match ctx.offer_one(&queue, job).await? {
            PublishOutcome::Rejected(Rejection::Denied(error)) => typed(ctx, what, &error)?,
            PublishOutcome::Rejected(Rejection::DelayTooLong { .. }) => {}
            other => return Err(Failed(format!("{what} is unsupported and was answered {other:?}"))),
        }
    }
    Ok(())
}

async fn unsupported_settlement(ctx: &Ctx) -> Outcome {
    let caps = ctx.caps();
    let error = JobError::custom("TEMP", "again");
    let after = Duration::from_secs(5);
    let mut wrong = Vec::new();
    if lacks(caps.retry) {
        wrong.push(Disposition::Retry { after: Duration::ZERO, error: error.clone() });
    } else if lacks(caps.delay) {
        wrong.push(Disposition::Retry { after, error: error.clone() });
    }
    if lacks(caps.dead_letters) {
        wrong.push(Disposition::DeadLetter { error });
    }
    if lacks(caps.delay) {
        wrong.push(Disposition::Release { after, reason: ReleaseReason::Snooze });
    }
    if lacks(caps.park) {
        wrong.push(Disposition::Park { key: ParkKey("key".into()), at_most: after });
    }
    for disposition in wrong {
        let queue = ctx.queue("refuse");
        ctx.publish_texts(&queue, &["a"]).await?;
        let consumer = ctx.consumer(&queue).await?;
        let delivery = ctx.take_one(&consumer).await?;
        match ctx.settle(&consumer, &delivery, disposition.clone()).await? {
            SettleOutcome::NotSettled { then_index: None, error } => typed(ctx, &format!("{disposition:?}"), &error)?,
            other => return Err(Failed(format!("{disposition:?} is unsupported and was answered {other:?}"))),
        }
        // The job is still this worker's.
        ctx.complete(&consumer, &delivery).await?;
    }
    Ok(())
}

async fn unsupported_cancel(ctx: &Ctx) -> Outcome {
    let caps = ctx.caps();
    let store = ctx.store()?;
    let queue = ctx.queue("refuse");
    let job = ctx.publish(&queue, ctx.job("a").seal()).await?;
    store.list(&JobQuery::queue(queue.clone()), None, 1).await?;
    let cancel = queue_core::provider::Cancel::by("suite");
    if lacks(caps.cancel_pending) {
        let answer = store.cancel(std::slice::from_ref(&job), &cancel).await.pop();
        refused(ctx, "cancelling what waits", answer.unwrap_or(Ok(CancelOutcome::Cancelled)))?;
    }
    if lacks(caps.cancel_running) {
        let consumer = ctx.consumer(&queue).await?;
        let delivery = ctx.take_one(&consumer).await?;
        let answer = store.cancel(&[job], &cancel).await.pop();
        refused(ctx, "cancelling what runs", answer.unwrap_or(Ok(CancelOutcome::Requested)))?;
        let outcome = ctx.settle(&consumer, &delivery, Disposition::Complete { result: None }).await?;
        check_matches!(outcome, SettleOutcome::Settled, "completing after a refused cancel");
    }
    Ok(())
}
