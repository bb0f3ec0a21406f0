//! One consumer of one queue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Result,
    job::JobId,
    provider::{
        Beat, BeatOutcome, CloseReport, ConsumeOptions, Consumer, Delivery, Receipt, SettleOutcome, Settlement,
    },
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    fault,
    provider::Shared,
    shards::{self, Turns},
    specs::Known,
};

use self::doze::Looked;

mod beat;
mod claim;
mod doze;
mod settle;

/// A wait beyond it is as good as endless, and cannot overflow the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Fetch leases straight from the queue, so that nothing is buffered here. Dropped without being closed it leaves its leases to end by
/// themselves, as a killed worker does.
#[derive(Debug)]
pub(crate) struct RedisConsumer {
    shared: Arc<Shared>,
    known: Known,
    worker: Arc<str>,
    lease: Duration,
    demand: AtomicUsize,
    closed: AtomicBool,
    /// Whether the last claim found as much as it asked for, so that there is more.
    plenty: AtomicBool,
    /// Which shard is asked first.
    turns: Turns,
    looked: Looked,
    /// Demand, room or closing changed.
    changed: Notify,
    out: Mutex<HashMap<(JobId, u64), Out>>,
}

/// What was given out.
#[derive(Debug)]
struct Out {
    /// The end of its lease as it is known here.
    end: Instant,
    /// Bytes of its record.
    size: u32,
    /// The epoch under which it was claimed together with others; 0 where it was not.
    together: u64,
}

/// What a claim found.
enum Claimed {
    Jobs(Vec<Delivery>),
    Nothing { next: Option<Duration> },
}

impl RedisConsumer {
    pub(crate) fn new(shared: Arc<Shared>, known: Known, options: ConsumeOptions) -> Self {
        Self {
            shared,
            known,
            worker: options.worker,
            lease: options.lease,
            demand: AtomicUsize::new(options.outstanding),
            closed: AtomicBool::new(false),
            plenty: AtomicBool::new(false),
            turns: Turns::default(),
            looked: Looked::default(),
            changed: Notify::new(),
            out: Mutex::default(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    fn out(&self) -> std::sync::MutexGuard<'_, HashMap<(JobId, u64), Out>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deliveries that are out and whose lease may stand.
    fn outstanding(&self) -> usize {
        let now = Instant::now();
        let mut out = self.out();
        out.retain(|_, out| out.end > now);
        out.len()
    }

    fn ended(&self, receipt: Receipt) {
        self.out().remove(&(receipt.id, receipt.epoch));
        self.changed.notify_waiters();
    }

    fn all_ended(&self, receipts: impl Iterator<Item = Receipt>) {
        {
            let mut out = self.out();
            for receipt in receipts {
                out.remove(&(receipt.id, receipt.epoch));
            }
        }
        self.changed.notify_waiters();
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let give_up = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.closed.load(Ordering::Acquire) || max == 0 {
                return Ok(Vec::new());
            }
            self.shared.open("fetch").map_err(|error| error.on(&self.known.spec.name))?;
            let left = give_up.saturating_duration_since(Instant::now());
            let room = self.room(max);
            if room == 0 {
                if left.is_zero() {
                    return Ok(Vec::new());
                }
                // What was lost without a word frees its room by time alone.
                tokio::select! {
                    biased;
                    () = &mut changed => {}
                    () = tokio::time::sleep(left.min(Duration::from_millis(500))) => {}
                }
                continue;
            }
            let due = match self.looked.stands() {
                Some(due) if !left.is_zero() => due,
                _ => match self.look(room, left).await? {
                    Claimed::Jobs(jobs) => return Ok(jobs),
                    Claimed::Nothing { .. } if left.is_zero() => return Ok(Vec::new()),
                    Claimed::Nothing { next } => next.map(|next| Instant::now() + next),
                },
            };
            match self.doze(room, due, give_up).await? {
                Some(Claimed::Jobs(jobs)) => return Ok(jobs),
                Some(Claimed::Nothing { .. }) if Instant::now() >= give_up => return Ok(Vec::new()),
                _ => {}
            }
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        if self.known.count() > 1 {
            let missing = || SettleOutcome::Unknown(fault::broken("an answer is missing", "settle"));
            let run = async |shard, items: Vec<Settlement>| self.settle_all(shard, &items).await;
            return shards::in_order(&self.known, batch.to_vec(), |one| one.receipt.slot as u16, run, missing).await;
        }
        self.settle_all(&self.known, batch).await
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        if self.known.count() > 1 {
            let missing = || BeatOutcome::Unknown(fault::broken("an answer is missing", "heartbeat"));
            let run = async |shard, items: Vec<Beat>| self.beat_all(shard, &items).await;
            return shards::in_order(&self.known, beats.to_vec(), |one| one.receipt.slot as u16, run, missing).await;
        }
        self.beat_all(&self.known, beats).await
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.demand.store(outstanding, Ordering::Release);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
        let give_up = Instant::now() + deadline.min(LONGEST_WAIT);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let still_open = self.outstanding();
            let left = give_up.saturating_duration_since(Instant::now());
            if still_open == 0 || left.is_zero() {
                return CloseReport { returned: 0, still_open };
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                () = tokio::time::sleep(left.min(Duration::from_millis(100))) => {}
            }
        }
    }
}
