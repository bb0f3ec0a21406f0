//! Settling what the slots finished, in batches.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use super::{held::Held, pool::Pool, run::panic_text};
use crate::{
    config::defaults,
    error::{Error, ErrorCode},
    event::{JobEvent, JobEventKind},
    job::{Envelope, JobRef},
    provider::{Disposition, SettleOutcome, Settlement},
};

/// A delivery that a slot is done with.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) held: Arc<Held>,
    /// `None`: somebody else has it, so there is nothing to settle.
    pub(super) disposition: Option<Disposition>,
    /// How long the slot had it.
    pub(super) run: Duration,
    /// How often its settlement was not answered.
    pub(super) tries: u32,
}

/// What one run came to, for [`super::WorkerBuilder::observe`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunReport {
    /// Which job.
    pub job: JobRef,
    /// The job as it travelled.
    pub envelope: Envelope,
    /// Which attempt.
    pub attempt: u32,
    /// What was decided; `None` where another worker has the job.
    pub disposition: Option<Disposition>,
    /// What the provider made of it; `None` where nothing was settled.
    pub outcome: Option<SettleOutcome>,
    /// When its slot took it, on the monotonic clock of the scheduler's [`Env`](crate::Env): before it waited for a limiter's
    /// permit, and before its start was marked. `None` where its handler was not called.
    pub begun: Option<Duration>,
    /// How long its slot had it, from then on.
    pub run: Duration,
}

#[derive(Clone)]
pub(super) struct Observer(pub(super) Arc<dyn Fn(RunReport) + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

const PAUSE: Duration = Duration::from_millis(100);
/// Thirty seconds of asking; then the job is left to its lease, so that a settlement which never succeeds holds it not for ever.
const TRIES: u32 = 300;

/// So many batches are settled at the same time: the provider has another while the answer to one is on its way.
const AT_ONCE: usize = 3;
/// What ended beside calls that are under way waits so long for a full batch, or for one of them to be answered.
const COMPANY: Duration = Duration::from_millis(2);

/// Settles until every slot is gone and everything is settled. At low load a batch is what came while the last one was under way, and
/// one that finds none goes alone. At high load full ones follow each other: the next begins as soon as one is answered, whatever becomes
/// of the others.
pub(super) async fn complete(pool: Arc<Pool>) {
    let mut under_way = FuturesUnordered::new();
    let (mut open, mut again): (Vec<Finished>, Vec<Finished>) = Default::default();
    let mut is_late = false;
    loop {
        if !again.is_empty() {
            // Something must be settled again: a little later, together with what comes. Until then nothing else is tried.
            while let Some(more) = under_way.next().await {
                again.extend(more);
            }
            tokio::time::sleep(PAUSE).await;
            open = std::mem::take(&mut again);
        }
        let mut ended = false;
        while under_way.len() < AT_ONCE {
            let rest = open.split_off(open.len().min(defaults::SETTLE_BATCH));
            let mut batch = std::mem::replace(&mut open, rest);
            // Beside others only a full one pays.
            let goes = under_way.is_empty() || !batch.is_empty() || std::mem::take(&mut is_late);
            let least = if goes { 1 } else { defaults::SETTLE_BATCH };
            ended = pool.buffer.drain(&mut batch, least, defaults::SETTLE_BATCH);
            if batch.is_empty() {
                break;
            }
            under_way.push(settle(&pool, batch));
        }
        if under_way.is_empty() {
            if ended {
                return;
            }
            pool.buffer.has_finished().await;
            continue;
        }
        is_late = false;
        let has_room = under_way.len() < AT_ONCE;
        tokio::select! {
            biased;
            Some(more) = under_way.next() => again.extend(more),
            () = pool.buffer.has_finished(), if has_room => {}
            () = tokio::time::sleep(COMPANY), if has_room && pool.buffer.is_anything_finished() => is_late = true,
        }
    }
}

/// Settles a batch and returns what has to be settled again.
async fn settle(pool: &Pool, batch: Vec<Finished>) -> Vec<Finished> {
    let (mut to_settle, lost): (Vec<_>, Vec<_>) = batch.into_iter().partition(|item| item.disposition.is_some());
    // Lent, not cloned: what was decided is told afterwards.
    let lend = |item: &mut Finished| Some(Settlement::new(item.held.delivery.receipt, item.disposition.take()?));
    let settlements: Vec<Settlement> = to_settle.iter_mut().filter_map(lend).collect();
    let mut outcomes = if settlements.is_empty() { Vec::new() } else { ask(pool, &to_settle, &settlements).await };
    let missing = || Error::new(ErrorCode::Internal, "the provider answered fewer settlements than it was given");
    outcomes.resize_with(settlements.len(), || SettleOutcome::Unknown(missing()));
    for (item, settlement) in to_settle.iter_mut().zip(settlements) {
        item.disposition = Some(settlement.disposition);
    }

    count(pool, &lost, &to_settle);
    let mut again = Vec::new();
    let mut done: Vec<(Finished, Option<SettleOutcome>)> = lost.into_iter().map(|item| (item, None)).collect();
    for (item, outcome) in to_settle.into_iter().zip(outcomes) {
        let may_repeat = matches!(outcome, SettleOutcome::Unknown(_) | SettleOutcome::NotSettled { .. });
        if may_repeat && item.tries < TRIES && item.held.lease_stands(pool.env().clock.monotonic()) {
            tracing::debug!(job = %item.held.delivery.envelope.id, ?outcome, "not settled yet");
            again.push(Finished { tries: item.tries + 1, ..item });
        } else {
            done.push((item, Some(outcome)));
        }
    }
    let observed = pool.setup.observer.is_some();
    if observed {
        pool.is_telling(done.iter().map(|(item, _)| Arc::clone(&item.held)).collect());
    }
    pool.let_go(done.iter().map(|(item, _)| &item.held));
    for (item, outcome) in done {
        report(pool, item, outcome);
    }
    if observed {
        pool.is_telling(Vec::new());
    }
    again
}

/// A provider's defect must not stop what settles: no answer is what that comes to.
async fn ask(pool: &Pool, to_settle: &[Finished], settlements: &[Settlement]) -> Vec<SettleOutcome> {
    let asked = AssertUnwindSafe(async {
        tell_the_last(pool, to_settle).await;
        pool.consumer().settle(settlements).await
    });
    asked.catch_unwind().await.unwrap_or_else(|panic| {
        pool.report(0, None, format!("a panic while jobs were settled: {}", panic_text(&*panic)));
        let unanswered =
            || SettleOutcome::Unknown(Error::new(ErrorCode::Internal, "the provider panicked").at("settle"));
        settlements.iter().map(|_| unanswered()).collect()
    })
}

/// Counts runs, each when its settlement is tried for the first time.
fn count(pool: &Pool, lost: &[Finished], to_settle: &[Finished]) {
    let runs = lost.iter().chain(to_settle).filter(|item| item.tries == 0 && item.held.was_running());
    let (count, time) = runs.fold((0, Duration::ZERO), |(count, time), item| (count + 1, time + item.run));
    pool.ran(count, time);
}

/// What handlers said last is told before their jobs are settled, while the receipts are good.
async fn tell_the_last(pool: &Pool, to_settle: &[Finished]) {
    let news = to_settle.iter().filter(|item| item.held.has_news());
    let beats: Vec<_> = news.map(|item| item.held.beat(pool.lease())).collect();
    if !beats.is_empty() {
        pool.heartbeat(&beats).await;
    }
}

fn report(pool: &Pool, item: Finished, outcome: Option<SettleOutcome>) {
    let delivery = &item.held.delivery;
    if outcome.as_ref().is_none_or(|outcome| !outcome.is_settled()) {
        tracing::warn!(
            queue = %pool.setup.spec.name, job = %delivery.envelope.id, ?outcome,
            "the run was not settled: another worker has the job, or will"
        );
    }
    let job = || JobRef { queue: pool.setup.spec.name.clone(), id: delivery.envelope.id, place: delivery.place };
    if let (Some(Disposition::Park { key, .. }), Some(outcome)) = (&item.disposition, &outcome)
        && outcome.is_settled()
    {
        pool.setup.scheduler.lines().parked(&pool.setup.spec.name, key, pool.env().clock.monotonic());
    }
    if let (Some(disposition), Some(SettleOutcome::Settled)) = (&item.disposition, &outcome) {
        let what = event_of(disposition);
        pool.setup
            .scheduler
            .tell(|| JobEvent::of_envelope(pool.env().now(), job(), &delivery.envelope, what, delivery.attempt));
    }
    if let Some(observer) = &pool.setup.observer {
        let report = RunReport {
            job: job(),
            envelope: delivery.envelope.clone(),
            attempt: delivery.attempt,
            disposition: item.disposition,
            outcome,
            begun: item.held.begun(),
            run: item.run,
        };
        // What observes must not stop what settles.
        if std::panic::catch_unwind(AssertUnwindSafe(|| (observer.0)(report))).is_err() {
            tracing::error!(queue = %pool.setup.spec.name, "the worker's observer panicked");
        }
        item.held.set_told();
    }
}

pub(crate) const fn event_of(disposition: &Disposition) -> JobEventKind {
    match disposition {
        Disposition::Complete { .. } => JobEventKind::Completed,
        Disposition::Retry { .. } => JobEventKind::Retrying,
        Disposition::Release { .. } => JobEventKind::Released,
        Disposition::Park { .. } => JobEventKind::Parked,
        Disposition::DeadLetter { .. } => JobEventKind::DeadLettered,
        Disposition::Cancelled => JobEventKind::Cancelled,
        Disposition::Expired => JobEventKind::Expired,
    }
}
