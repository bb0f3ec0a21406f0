//! A job that two workers have held.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Consumer, Envelope, QueueName,
    provider::{Delivery, LeaseModel},
};

use super::{Ctx, Outcome};

/// One job, claimed by `old`, lost, and claimed again by `new`.
pub(super) struct Theft {
    pub(super) queue: QueueName,
    pub(super) old: Arc<dyn Consumer>,
    pub(super) stale: Delivery,
    pub(super) new: Arc<dyn Consumer>,
    pub(super) fresh: Delivery,
}

/// Lets a worker lose the job to another: its lease ends, or, where leases last as long as the session, it is killed.
pub(super) async fn steal(ctx: &Ctx, queue: &QueueName, job: Envelope) -> Outcome<Theft> {
    ctx.publish(queue, job).await?;
    let per_message = matches!(ctx.caps().lease, LeaseModel::PerMessage { .. });
    let connection = ctx.connect().await?;
    // Where a store fences what a dead session held, that is how long.
    let old = ctx.consumer_on(&connection, queue, 1, ctx.facts().lease).await?;
    let stale = ctx.take_one(&old).await?;
    if !per_message {
        ctx.crash(connection).await;
    }
    let new = ctx.consumer(queue).await?;
    let fresh = ctx.take_one(&new).await?;
    Ok(Theft { queue: queue.clone(), old, stale, new, fresh })
}

/// How much later than the lease's end a job may come back.
pub(super) fn reclaim_slack(ctx: &Ctx) -> Duration {
    ctx.lateness(ctx.facts().lease)
}
