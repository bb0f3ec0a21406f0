//! One slot: it runs one job at a time.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    Failure, JobContext, JobRequest,
    completer::Finished,
    gate::{Permit, admit},
    handler::{BoxFuture, JobResult},
    held::{Held, Order, Why},
    pool::Pool,
};
use crate::{
    error::ErrorCode,
    job::{JobError, Timestamp},
    provider::{Beat, BeatOutcome, Disposition, ReleaseReason},
    scheduler::{Verdict, decide_end, decide_start},
};

/// How an attempt ended.
enum End {
    Returned(JobResult),
    /// Asked to stop, and dropped after its grace.
    Stopped(Why),
    /// Somebody else has the job.
    Lost,
}

/// A start that could not be marked is left to someone who can.
const UNMARKED_DELAY: Duration = Duration::from_secs(1);

/// What waited longer than this for a slot may belong to a queue that was paused since.
const FRESH: Duration = Duration::from_secs(1);

/// Runs what the buffer holds until it is closed and empty, there are too many slots, or another has taken this one's place.
pub(super) async fn slot(pool: Arc<Pool>, number: u64) {
    let clock = &*pool.env().clock;
    let mut finished = None;
    let mut last_end = None;
    while !pool.roster.is_replaced(number) {
        let Some((held, waited)) = pool.buffer.exchange(finished.take()).await else { return };
        held.sit(number);
        let mut permit = None;
        // Under load the end of one run is the begin of the next, so that a job costs one look at the clock.
        let begun = last_end.filter(|_| !waited).unwrap_or_else(|| clock.read());
        held.begin(begun.1);
        let disposition = watched(&pool, &held, begun, &mut permit).await.unwrap_or_else(|panic| {
            let reason =
                format!("a panic outside the handler: {}; the job's lease ends by itself", panic_text(&*panic));
            pool.report(number, Some(held.delivery.envelope.id), reason);
            None
        });
        if let Some(permit) = permit {
            Box::pin(permit.give_back(&held)).await;
        }
        let ended = clock.read();
        let run = ended.1.saturating_sub(begun.1);
        held.rise(run);
        finished = Some(Finished { held, disposition, run, tries: 0 });
        last_end = Some(ended);
        pool.unclog().await;
    }
    if let Some(finished) = finished {
        pool.buffer.put(finished);
    }
}

/// Runs one delivery, each poll of it counted. Whatever panics in there (a provider's call, say) costs this delivery its run,
/// but no slot.
async fn watched<'p>(
    pool: &'p Pool,
    held: &Arc<Held>,
    begun: (Timestamp, Duration),
    permit: &mut Option<Box<Permit<'p>>>,
) -> Result<Option<Disposition>, Box<dyn Any + Send>> {
    let mut run = pin!(take(pool, held, begun, permit));
    let counted = poll_fn(|cx| held.counted(|| run.as_mut().poll(cx)));
    AssertUnwindSafe(counted).catch_unwind().await
}

/// Runs one delivery and says what becomes of it; `None` where it is not ours any more.
async fn take<'p>(
    pool: &'p Pool,
    held: &Arc<Held>,
    (now, monotonic): (Timestamp, Duration),
    permit: &mut Option<Box<Permit<'p>>>,
) -> Option<Disposition> {
    if pool.is_stopping() {
        // What was not started before the stop goes back.
        pool.drained.released.fetch_add(1, Ordering::Relaxed);
        return Some(release(Duration::ZERO, ReleaseReason::Shutdown));
    }
    if !held.lease_stands(monotonic) {
        return None;
    }
    if let Verdict::Settle(disposition) = decide_start(&held.delivery, &pool.setup.spec, now) {
        return Some(disposition);
    }
    if monotonic.saturating_sub(held.fetched) >= FRESH && pool.is_paused(monotonic).await {
        return Some(release(Duration::ZERO, ReleaseReason::Busy));
    }
    // Most schedulers limit nothing, and that costs one look at a flag.
    if let Some(rules) = pool.setup.scheduler.limits() {
        match Box::pin(admit(&rules, pool, held)).await {
            Ok(admitted) => *permit = admitted,
            Err(instead) => return Some(instead),
        }
    }
    held.set_running();
    if held.delivery.redelivered
        && let Some(instead) = mark_start(pool, held).await
    {
        return instead;
    }
    let context = JobContext(Arc::clone(held));
    // While it waited, or with the beat that marked its start, it may have been told not to start.
    let ended = match held.order() {
        Order::GoOn => {
            permit.iter_mut().for_each(|permit| permit.begun());
            attempt(pool, &context).await
        }
        Order::Stop { why, .. } => End::Stopped(why),
        Order::Lost => End::Lost,
    };
    if let (Some(permit), End::Returned(result)) = (permit, &ended)
        && (result.is_ok() || context.0.order() == Order::GoOn)
    {
        permit.returned(result);
    }
    match ended {
        End::Lost => None,
        End::Stopped(Why::Cancelled) => Some(Disposition::Cancelled),
        End::Stopped(Why::Shutdown) => {
            pool.drained.aborted.fetch_add(1, Ordering::Relaxed);
            Some(release(Duration::ZERO, ReleaseReason::Shutdown))
        }
        End::Returned(result) => returned(pool, &context, result),
    }
}

/// What becomes of a job whose handler returned by itself.
fn returned(pool: &Pool, context: &JobContext, result: JobResult) -> Option<Disposition> {
    // Told to stop, a handler may call that a failure or a cancel: it cannot know which of the two was meant.
    let gives_up = matches!(result, Err(Failure::Retry(_) | Failure::RetryAfter(..) | Failure::Cancel));
    match context.0.order() {
        Order::Lost => return None,
        // It failed because it was stopped, as far as anyone can tell.
        Order::Stop { why: Why::Cancelled, .. } if result.is_err() => return Some(Disposition::Cancelled),
        Order::Stop { why: Why::Shutdown, .. } if gives_up => {
            pool.drained.aborted.fetch_add(1, Ordering::Relaxed);
            return Some(release(Duration::ZERO, ReleaseReason::Shutdown));
        }
        Order::GoOn | Order::Stop { .. } => {}
    }
    if pool.is_stopping() {
        pool.drained.done.fetch_add(1, Ordering::Relaxed);
    }
    let policy = context.retry_policy();
    Some(decide_end(result, context.attempt(), &policy, &*pool.env().random))
}

fn release(after: Duration, reason: ReleaseReason) -> Disposition {
    Disposition::Release { after, reason }
}

/// A job that lost a worker before is counted, durably, before it may take this one down. `Some` where it must not run.
async fn mark_start(pool: &Pool, held: &Held) -> Option<Option<Disposition>> {
    let beat = Beat { started: true, ..Beat::extend(held.delivery.receipt, pool.lease()) };
    let sent = pool.env().clock.monotonic();
    match pool.heartbeat(&[beat]).await.pop() {
        Some(BeatOutcome::Held(lease)) => {
            held.renewed(&lease, sent);
            None
        }
        Some(BeatOutcome::Lost) => Some(None),
        Some(BeatOutcome::Unknown(_)) | None => Some(Some(release(UNMARKED_DELAY, ReleaseReason::Busy))),
    }
}

/// Runs the handler: to its end, to its timeout, or until it is told to stop.
async fn attempt(pool: &Pool, context: &JobContext) -> End {
    let kind = &context.envelope().kind;
    let Some(handler) = pool.setup.routes.find(kind) else {
        let message = format!("this worker has no handler for `{kind}`: register one, or route the queue elsewhere");
        return End::Returned(Err(Failure::Retry(JobError::new(ErrorCode::NoHandler, message))));
    };
    context.0.set_called();
    let request = JobRequest { context: context.clone() };
    let work = match std::panic::catch_unwind(AssertUnwindSafe(|| handler.run(request))) {
        Ok(work) => CatchPanic(Some(work)),
        Err(panic) => return End::Returned(Err(panicked(&*panic))),
    };
    let timeout = context.timeout();
    // In an async block the timer is made at its first poll: a handler that returns at once pays nothing for it.
    let timer = async { tokio::time::sleep(timeout).await };
    tokio::select! {
        biased;
        ended = work => End::Returned(ended),
        end = told_to_stop(&context.0) => end,
        // Self-fencing: whatever became of the heartbeat, nobody runs a job beyond its lease.
        () = context.0.lease_ended(&*pool.env().clock) => End::Lost,
        () = timer => {
            let message = format!("the handler did not return within {timeout:?}");
            End::Returned(Err(Failure::Retry(JobError::new(ErrorCode::Timeout, message))))
        }
    }
}

/// Resolves when the handler has to be dropped: at once where the job is lost, else after the grace.
async fn told_to_stop(held: &Held) -> End {
    let mut order = held.order_other_than(Order::GoOn).await;
    let mut until = None;
    while let Order::Stop { why, grace } = order {
        // A second order does not begin the grace of the first one anew.
        let this = tokio::time::sleep(grace).deadline();
        let soonest = until.map_or(this, |until: Instant| this.min(until));
        until = Some(soonest);
        tokio::select! {
            biased;
            changed = held.order_other_than(order) => order = changed,
            () = tokio::time::sleep_until(soonest) => return End::Stopped(why),
        }
    }
    End::Lost
}

/// A panic of the handler is the job's failure, not the slot's; also one that comes when the handler is dropped half-way.
struct CatchPanic<'a>(Option<BoxFuture<'a, JobResult>>);

impl Future for CatchPanic<'_> {
    type Output = JobResult;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<JobResult> {
        let Some(handler) = self.0.as_mut() else { return Poll::Pending };
        let poll = || handler.as_mut().poll(cx);
        std::panic::catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|panic| Poll::Ready(Err(panicked(&*panic))))
    }
}

impl Drop for CatchPanic<'_> {
    fn drop(&mut self) {
        let handler = self.0.take();
        if std::panic::catch_unwind(AssertUnwindSafe(|| drop(handler))).is_err() {
            tracing::error!("the handler panicked while it was dropped");
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let message = format!("the handler panicked: {}", panic_text(panic));
    Failure::Retry(JobError::new(ErrorCode::HandlerPanicked, message))
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
