//! One consumer of one queue.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::MutexGuard;
use queue_core::{
    Error, ErrorCode, Result,
    job::QueueName,
    provider::{
        Beat, BeatOutcome, CloseReport, ConsumeOptions, Consumer, Delivery, Rejection, SettleOutcome, Settlement,
    },
};

use tokio::sync::futures::Notified;

use crate::{
    MemoryProvider,
    journal::Ticket,
    queue::{Claimed, Now, Queue, State, keep_together},
};

/// A wait beyond it is as good as endless, and cannot overflow the clock.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Fetch leases straight from the queue, so that nothing is buffered here. Dropped without being closed it leaves its leases
/// to end by themselves, as a killed worker does.
#[derive(Debug)]
pub(crate) struct MemoryConsumer {
    provider: MemoryProvider,
    queue: Arc<Queue>,
    holder: u32,
    lease: Duration,
}

impl MemoryConsumer {
    pub(crate) fn open(provider: MemoryProvider, queue: &QueueName, options: &ConsumeOptions) -> Result<Self> {
        let open = |state: &mut State| state.open_consumer(Arc::clone(&options.worker), options.outstanding);
        let (queue, holder) = provider.shared.with_live(queue, open);
        let holder = holder.ok_or_else(|| Error::new(ErrorCode::Unavailable, "too many consumers").by("memory"))?;
        Ok(Self { provider, queue, holder, lease: options.lease })
    }

    async fn wait_and_fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let give_up = tokio::time::Instant::now() + wait.min(LONGEST_WAIT);
        let (mut last, mut armed) = (false, false);
        loop {
            let wake = self.queue.wake.notified();
            let unbarred = self.queue.unbarred.notified();
            tokio::pin!(wake, unbarred);
            if self.provider.is_closed() {
                return self.refuse_on_closed();
            }
            self.provider.shared.ready().map_err(|error| self.away(error))?;
            let now = self.now();
            let mut waiting = None;
            let (claimed, ticket) = self.queue.with_kept(|state| {
                let claimed = state.claim(self.holder, max, self.lease, now);
                // Registered under the lock, so that nobody who changes something can miss it.
                match claimed {
                    Claimed::Nothing { .. } if !last => {
                        wake.as_mut().enable();
                        waiting = Some(Waiting::begin(&self.queue, state, |state| &mut state.sleepers));
                    }
                    Claimed::Barred if !last => {
                        unbarred.as_mut().enable();
                        waiting = Some(Waiting::begin(&self.queue, state, |state| &mut state.barred));
                    }
                    // Somebody else must sleep until the next timer now.
                    Claimed::Jobs(_) if armed && state.next_moment().is_some() => state.wake_one(),
                    _ => {}
                }
                claimed
            });
            let (event, until): (Pin<&mut Notified<'_>>, _) = match claimed {
                Claimed::Jobs(jobs) => return self.hand_out(jobs, ticket).await,
                Claimed::Dissolved => return Err(self.dropped()),
                Claimed::Nothing { until: Some(until) } if last && until <= now.mono => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Claimed::Closed => return Ok(Vec::new()),
                _ if last => return Ok(Vec::new()),
                Claimed::Barred => (unbarred, None),
                Claimed::Nothing { until } => (wake, until),
            };
            let turn =
                until.map(|until| tokio::time::Instant::now() + Duration::from_nanos(until.saturating_sub(now.mono)));
            armed = turn.is_some();
            let next = turn.map_or(give_up, |turn| turn.min(give_up));
            tokio::select! {
                biased;
                () = event => {}
                // What comes due at this very moment is still taken.
                () = tokio::time::sleep_until(next) => last = next == give_up,
            }
            if let Some(waiting) = &mut waiting {
                waiting.goes_on = !last;
            }
        }
    }

    /// An error, not an empty answer: whoever fetches in a loop would spin on that.
    fn refuse_on_closed(&self) -> Result<Vec<Delivery>> {
        if self.queue.with(|state| state.is_closed(self.holder)) {
            return Ok(Vec::new());
        }
        self.provider.ensure_open("fetch").map(|()| Vec::new()).map_err(|error| error.on(&self.queue.name))
    }

    /// Hands jobs out, suspects not before the disk knows of it.
    async fn hand_out(&self, jobs: Vec<Delivery>, ticket: Option<Ticket>) -> Result<Vec<Delivery>> {
        if ticket.is_none() {
            return Ok(jobs);
        }
        let handing = HandingOut { consumer: self, jobs };
        // Dropped or refused here, they go back.
        self.provider.shared.kept(ticket).await.map_err(|error| self.away(error))?;
        Ok(handing.done())
    }

    fn away(&self, error: Error) -> Error {
        error.at("fetch").on(&self.queue.name)
    }

    fn dropped(&self) -> Error {
        Error::new(ErrorCode::NotFound, "the queue was dropped").at("fetch").by("memory").on(&self.queue.name)
    }

    fn settle_all(&self, batch: &[Settlement]) -> (Vec<SettleOutcome>, Option<Ticket>) {
        let now = self.now();
        let settle = |state: &mut State, item: &Settlement| {
            state.rely(None);
            state.settle(item.receipt, &item.disposition, now)
        };
        if batch.iter().all(|settlement| settlement.then.is_empty()) {
            return self.queue.with_kept(|state| batch.iter().map(|item| settle(state, item)).collect());
        }
        let mut last = None;
        let outcomes = batch.iter().map(|item| {
            let (outcome, ticket) = match item.then.is_empty() {
                true => self.queue.with_kept(|state| settle(state, item)),
                false => self.settle_and_follow(item),
            };
            last = last.max(ticket);
            outcome
        });
        (outcomes.collect(), last)
    }

    fn now(&self) -> Now {
        self.provider.shared.now()
    }

    /// Settles with follow-ups: all queues concerned are locked together, in one order, so that it is one step.
    fn settle_and_follow(&self, settlement: &Settlement) -> (SettleOutcome, Option<Ticket>) {
        let shared = &self.provider.shared;
        let mut targets: Vec<Arc<Queue>> =
            settlement.then.iter().map(|follow_up| shared.queue(&follow_up.queue)).collect();
        let named: Vec<_> = settlement.then.iter().map(|follow_up| follow_up.envelope.partition()).collect();
        loop {
            let mut involved: Vec<&Arc<Queue>> = targets.iter().chain([&self.queue]).collect();
            involved.sort_by_key(|queue| queue.number);
            involved.dedup_by_key(|queue| queue.number);
            let mut locked: Locked<'_> = involved.iter().map(|queue| (queue.number, queue.lock())).collect();
            let dropped = targets.iter().any(|target| locked[position(&locked, target)].1.dissolved);
            let outcome = (!dropped).then(|| self.settle_under_locks(settlement, &targets, &named, &mut locked));
            let ticket = keep_together(&mut locked.iter_mut().map(|(_, state)| &mut **state).collect::<Vec<_>>());
            for (queue, (_, state)) in involved.iter().zip(locked) {
                queue.unlock(state);
            }
            if let Some(outcome) = outcome {
                return (outcome, ticket);
            }
            for target in &mut targets {
                if target.with(|state| state.dissolved) {
                    *target = shared.successor(&target.name);
                }
            }
        }
    }

    fn settle_under_locks(
        &self,
        settlement: &Settlement,
        targets: &[Arc<Queue>],
        named: &[Option<Arc<str>>],
        locked: &mut Locked<'_>,
    ) -> SettleOutcome {
        let now = self.now();
        let own = position(locked, &self.queue);
        locked.iter_mut().for_each(|(_, state)| state.rely(None));
        if let Some(refusal) = locked[own].1.refuse_stale(settlement.receipt, &settlement.disposition) {
            return refusal;
        }
        for (index, ((follow_up, target), named)) in settlement.then.iter().zip(targets).zip(named).enumerate() {
            let target = &locked[position(locked, target)].1;
            if let Err(rejection) = target.place_for(&follow_up.envelope, named.as_deref()) {
                return SettleOutcome::NotSettled { then_index: Some(index), error: Rejection::into(rejection) };
            }
        }
        // First, so that a follow-up may have the unique key that its parent has now freed. No step in between can fail.
        let outcome = locked[own].1.settle(settlement.receipt, &settlement.disposition, now);
        for ((follow_up, target), named) in settlement.then.iter().zip(targets).zip(named) {
            let target = position(locked, target);
            locked[target].1.follow(follow_up.envelope.clone(), named.as_deref(), now);
        }
        outcome
    }
}

/// Queues under lock, by number.
type Locked<'a> = Vec<(u64, MutexGuard<'a, State>)>;

fn position(locked: &Locked<'_>, queue: &Queue) -> usize {
    locked.partition_point(|(number, _)| *number < queue.number)
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        if self.provider.is_closed() {
            return self.refuse_on_closed();
        }
        if max == 0 {
            return Ok(Vec::new());
        }
        if let Err(error) = self.provider.shared.ready() {
            // Closed, it has nothing more to wait for.
            let closed = self.queue.with(|state| state.is_closed(self.holder));
            return if closed { Ok(Vec::new()) } else { Err(self.away(error)) };
        }
        // The common case under load: there is something, and nothing has to be set up for waiting.
        let now = self.now();
        let (claimed, ticket) = self.queue.with_kept(|state| state.claim(self.holder, max, self.lease, now));
        match claimed {
            Claimed::Jobs(jobs) => return self.hand_out(jobs, ticket).await,
            Claimed::Dissolved => return Err(self.dropped()),
            // So much was due that it is done in parts.
            Claimed::Nothing { until: Some(until) } if until <= now.mono => {}
            _ if wait.is_zero() => return Ok(Vec::new()),
            _ => {}
        }
        self.wait_and_fetch(max, wait).await
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        if let Err(error) = self.provider.shared.ready() {
            let error = error.at("settle").on(&self.queue.name);
            return batch.iter().map(|_| SettleOutcome::Unknown(error.clone())).collect();
        }
        let (mut outcomes, ticket) = self.settle_all(batch);
        if let Err(error) = self.provider.shared.kept(ticket).await {
            let error = error.at("settle").on(&self.queue.name);
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_settled()) {
                *outcome = SettleOutcome::Unknown(error.clone());
            }
        }
        outcomes
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let now = self.now();
        let ready = self.provider.shared.ready();
        let all = |state: &mut State| beats.iter().map(|beat| state.beat(beat, ready.is_ok(), now)).collect::<Vec<_>>();
        let (mut outcomes, ticket) = self.queue.with_kept(all);
        if ready.is_ok() && ticket.is_none() {
            return outcomes;
        }
        let kept = match ready {
            Ok(()) => self.provider.shared.kept(ticket).await,
            Err(away) => Err(away),
        };
        // A start that is not on disk is none: whoever waits for it must not run the job. A lease is extended all the same.
        self.queue.with(|state| {
            for (outcome, beat) in outcomes.iter_mut().zip(beats) {
                if state.unsure_of(beat, kept.is_ok())
                    && let (BeatOutcome::Held(_), Err(error)) = (&*outcome, &kept)
                {
                    *outcome = BeatOutcome::Unknown(error.clone().at("heartbeat").on(&self.queue.name));
                }
            }
        });
        outcomes
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.queue.with(|state| {
            if let Some(consumer) = state.consumer_mut(self.holder) {
                consumer.demand = outstanding;
            }
            state.stir();
        });
        Ok(())
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        self.queue.with(|state| {
            if let Some(consumer) = state.consumer_mut(self.holder) {
                consumer.closed = true;
            }
            state.stir();
        });
        let give_up = tokio::time::sleep(deadline);
        tokio::pin!(give_up);
        loop {
            let settled = self.queue.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let still_open = self.queue.with(|state| state.outstanding(self.holder));
            if still_open == 0 {
                return CloseReport::default();
            }
            tokio::select! {
                biased;
                () = settled => {}
                () = &mut give_up => return CloseReport { returned: 0, still_open },
            }
        }
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.queue.with(|state| state.abandon_consumer(self.holder));
    }
}

/// Claimed, and not handed out yet.
struct HandingOut<'a> {
    consumer: &'a MemoryConsumer,
    jobs: Vec<Delivery>,
}

impl HandingOut<'_> {
    fn done(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.jobs)
    }
}

impl Drop for HandingOut<'_> {
    fn drop(&mut self) {
        let now = self.consumer.now();
        self.consumer.queue.with(|state| self.jobs.iter().for_each(|job| state.take_back(job.receipt, now)));
    }
}

/// Counts a consumer that waits, also when its future is dropped.
struct Waiting<'a> {
    queue: &'a Queue,
    counter: fn(&mut State) -> &mut usize,
    /// It looks again by itself.
    goes_on: bool,
}

impl<'a> Waiting<'a> {
    fn begin(queue: &'a Queue, state: &mut State, counter: fn(&mut State) -> &mut usize) -> Self {
        *counter(state) += 1;
        Self { queue, counter, goes_on: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.with(|state| {
            *(self.counter)(state) -= 1;
            if !self.goes_on && state.next_moment().is_some() {
                // It may have been the one that sleeps until the next timer: another one must know of that.
                state.wake_one();
            }
        });
    }
}
