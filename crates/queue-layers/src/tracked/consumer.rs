//! One consumer of one queue: the transport's, with the store between it and the worker.

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
    Consumer, Error, QueueName, Result,
    provider::{Beat, BeatOutcome, CloseReport, ConsumeOptions, Delivery, ReleaseReason, SettleOutcome, Settlement},
    queue_spec::Tracking,
    store::Fence,
};
use tokio::sync::Notify;

use super::{
    core::Core,
    desk::{Desk, Told, fence_of, give_back, key_of},
    rule::Rule,
};

#[derive(Debug)]
pub(super) struct TrackedConsumer(Arc<Desk>);

/// How often a close looks whether what waits for the store is done.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Core {
    pub(super) async fn consumer(
        self: &Arc<Self>,
        queue: &QueueName,
        options: ConsumeOptions,
    ) -> Result<Arc<dyn Consumer>> {
        let untracked = self.spec(queue).await.tracking == Tracking::Off;
        let (worker, lease, outstanding) = (options.worker.clone(), options.lease, options.outstanding);
        let transport = self.transport.consumer(queue, options).await?;
        self.note_lease(lease);
        Ok(Arc::new(TrackedConsumer(Arc::new(Desk {
            core: Arc::clone(self),
            queue: queue.clone(),
            transport,
            worker,
            lease,
            untracked,
            held: Mutex::new(HashMap::new()),
            owed: Mutex::default(),
            demand: AtomicUsize::new(outstanding),
            paused: AtomicBool::new(false),
            told: Mutex::new(Told::new(outstanding)),
            closing: AtomicBool::new(false),
            closed: Notify::new(),
            foreign: Mutex::default(),
        }))))
    }
}

struct Asking<'a> {
    desk: &'a Desk,
    answered: Option<usize>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.desk.told().end(self.answered);
    }
}

impl Desk {
    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Reads the queue's switches, if they may have changed, and tells the transport.
    async fn obey_pause(&self) {
        if self.untracked {
            return;
        }
        let paused = self.core.control(&self.queue).await.paused;
        self.paused.store(paused, Ordering::Release);
        if let Err(error) = self.tell_demand().await {
            // Tried again at the next look.
            tracing::debug!(queue = %self.queue, %error, "the transport's demand could not be changed");
        }
    }

    /// Tells the transport how much it may give out, unless it surely knows.
    async fn tell_demand(&self) -> Result<()> {
        let paused = self.paused.load(Ordering::Acquire);
        let wanted = if paused { 0 } else { self.demand.load(Ordering::Acquire) };
        if !self.told().begin(wanted) {
            return Ok(());
        }
        // Dropped half-way it is as good as unanswered.
        let mut asking = Asking { desk: self, answered: None };
        self.transport.demand(wanted).await?;
        asking.answered = Some(wanted);
        Ok(())
    }

    /// Why nothing may be fetched now.
    async fn may_fetch(&self) -> Result<()> {
        if let Some(error) = self.foreign.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        if self.untracked {
            return Ok(());
        }
        let core = &self.core;
        if core.backlog_is_full() && core.keeps(Rule::FullBufferStopsFetching) {
            let message = "too many settlements wait for the store: nothing is fetched until it is back";
            return Err(super::core::unavailable(message, core.scheme()).at("fetch").on(&self.queue));
        }
        if core.keeps(Rule::AwayStopsFetching) {
            core.require_store().await.map_err(|error| error.at("fetch").on(&self.queue))?;
        }
        Ok(())
    }

    /// The transport's fetch, which is never dropped, beside a look at the switches now and then.
    async fn fetch_copies(self: &Arc<Self>, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut fetch = std::pin::pin!(self.transport.fetch(max, wait));
        loop {
            tokio::select! {
                biased;
                got = &mut fetch => return got,
                () = tokio::time::sleep(self.core.options.control_every) => {
                    self.obey_pause().await;
                    self.lose(self.given_up()).await;
                }
            }
        }
    }

    /// A closed provider says so; a closed consumer of an open one is merely empty. What the transport hands out while it does
    /// not know yet that it is closed has no fence, and goes back.
    async fn fetch_nothing(self: &Arc<Self>, max: usize) -> Result<Vec<Delivery>> {
        let got = self.transport.fetch(max, Duration::ZERO).await?;
        let back = |delivery: Delivery| give_back(delivery.receipt, Duration::ZERO, ReleaseReason::Shutdown);
        self.settle_copies(got.into_iter().map(back).collect()).await;
        Ok(Vec::new())
    }

    async fn fetch(self: &Arc<Self>, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let end = self.core.now().saturating_add(wait);
        loop {
            if self.is_closing() {
                return self.fetch_nothing(max).await;
            }
            self.obey_pause().await;
            self.lose(self.given_up()).await;
            self.may_fetch().await?;
            let left = end.saturating_sub(self.core.now());
            let got = self.fetch_copies(max, left).await?;
            let nothing = got.is_empty();
            let run = self.judge(got).await;
            if self.is_closing() && !run.is_empty() {
                self.return_unstarted(run).await;
                return Ok(Vec::new());
            }
            let ended = self.core.now() >= end || self.is_closing() || max == 0;
            if !run.is_empty() || ended {
                return Ok(run);
            }
            if nothing {
                // The transport answered early, so this must not become a busy loop.
                let closed = self.closed.notified();
                let pause = Duration::from_millis(10).min(end.saturating_sub(self.core.now()));
                let _ = tokio::time::timeout(pause, closed).await;
            }
        }
    }

    /// The store's fence decides; the transport's lease is kept alive beside it.
    async fn heartbeat(self: &Arc<Self>, beats: &[Beat]) -> Vec<BeatOutcome> {
        let mut outcomes: Vec<Option<BeatOutcome>> = beats.iter().map(|_| None).collect();
        let (mut fences, mut places, mut copies) = (Vec::<(Fence, Beat)>::new(), Vec::new(), Vec::new());
        let (mut plain, mut plain_places) = (Vec::new(), Vec::new());
        for (at, beat) in beats.iter().enumerate() {
            if !self.is_tracked(&beat.receipt) {
                plain_places.push(at);
                plain.push(beat.clone());
                continue;
            }
            if let (Some(held), Some(extend)) = (self.held().get(&key_of(&beat.receipt)), beat.extend) {
                copies.push(Beat::extend(held.receipt, extend));
            }
            places.push(at);
            fences.push((fence_of(&beat.receipt), beat.clone()));
        }
        if !plain.is_empty() {
            for (at, outcome) in plain_places.into_iter().zip(self.transport.heartbeat(&plain).await) {
                outcomes[at] = Some(outcome);
            }
        }
        let extended = async {
            if !copies.is_empty() {
                self.transport.heartbeat(&copies).await;
            }
        };
        let (answers, ()) = tokio::join!(self.beat_store(&fences), extended);
        self.note_renewed(&fences, &answers);
        let lost = answers.iter().zip(&fences).filter(|(answer, _)| matches!(answer, BeatOutcome::Lost));
        self.lose(lost.map(|(_, (_, beat))| key_of(&beat.receipt)).collect()).await;
        for (at, answer) in places.into_iter().zip(answers) {
            outcomes[at] = Some(answer);
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(BeatOutcome::Lost)).collect()
    }

    async fn beat_store(&self, beats: &[(Fence, Beat)]) -> Vec<BeatOutcome> {
        if beats.is_empty() {
            return Vec::new();
        }
        let before = self.core.now();
        fn unanswered(outcome: &BeatOutcome) -> Option<&Error> {
            match outcome {
                BeatOutcome::Unknown(error) => Some(error),
                _ => None,
            }
        }
        let call = self.core.store.heartbeat(beats);
        let mut answers = self.core.ask_each(beats.len(), call, BeatOutcome::Unknown, unanswered).await;
        let spent = self.core.now().saturating_sub(before);
        for answer in &mut answers {
            if let BeatOutcome::Held(lease) = answer {
                lease.remaining = lease.remaining.map(|remaining| remaining.saturating_sub(spent));
            }
        }
        answers
    }

    fn note_renewed(&self, beats: &[(Fence, Beat)], answers: &[BeatOutcome]) {
        let mut held = self.held();
        for ((_, beat), answer) in beats.iter().zip(answers) {
            if let (BeatOutcome::Held(lease), Some(held)) = (answer, held.get_mut(&key_of(&beat.receipt))) {
                held.until = self.lease_end(lease);
            }
        }
    }

    /// Others have these jobs, or may have them: their copies go back.
    async fn lose(self: &Arc<Self>, keys: Vec<super::away::Key>) {
        let lost: Vec<_> = {
            let mut held = self.held();
            keys.into_iter().filter_map(|key| held.remove(&key)).collect()
        };
        self.settle_copies(lost.iter().filter_map(|held| self.lost_copy(held.receipt)).collect()).await;
    }

    async fn close(self: &Arc<Self>, deadline: Duration) -> CloseReport {
        let end = self.core.now().saturating_add(deadline);
        self.closing.store(true, Ordering::Release);
        self.closed.notify_waiters();
        // What waits for the store is done meanwhile, while the transport honours its receipts.
        let flushing = async {
            loop {
                if self.core.now() >= end || self.owes_nothing() {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN.min(end.saturating_sub(self.core.now()))).await;
                if !self.core.store_is_away().await {
                    self.settle_waiting().await;
                }
                self.repeat_chores().await;
            }
        };
        let (report, ()) = tokio::join!(self.transport.close(deadline), flushing);
        report
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Consumer for TrackedConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.0.fetch(max, wait).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        self.0.settle(batch).await
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        self.0.heartbeat(beats).await
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.0.demand.store(outstanding, Ordering::Release);
        self.0.tell_demand().await
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.0.close(deadline).await
    }
}
