//! Taking jobs out of a model broker.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, Envelope, QueueName, Result,
    config::defaults,
    provider::{Beat, BeatOutcome, CloseReport, ConsumeOptions, Delivery, Lease, Receipt, SettleOutcome, Settlement},
};

use super::{
    connection::{Link, broken},
    line::{Address, Claim, Claimed, MemberId},
    message::Reading,
    queue::{Letter, unreadable},
    state::State,
};

/// How long a message waits that can neither be read nor, for now, be buried.
const BURY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct ModelConsumer {
    pub(super) link: Arc<Link>,
    pub(super) queue: QueueName,
    lease: Duration,
    outstanding: AtomicUsize,
    /// The present session; a new one is opened by the next fetch after a break.
    member: AtomicU64,
    closing: AtomicBool,
}

impl ModelConsumer {
    pub(super) fn new(link: Arc<Link>, queue: QueueName, options: ConsumeOptions, member: MemberId) -> Self {
        let outstanding = AtomicUsize::new(options.outstanding);
        let (member, closing) = (AtomicU64::new(member), AtomicBool::new(false));
        Self { link, queue, lease: options.lease, outstanding, member, closing }
    }

    pub(super) fn member(&self) -> MemberId {
        self.member.load(Ordering::Acquire)
    }

    /// The present session, opened anew where the last one ended.
    fn session(&self, state: &mut State) -> MemberId {
        let member = self.member();
        if state.members.contains_key(&member) || !state.queues.contains_key(&self.queue) {
            return member;
        }
        let member = state.join(self.link.id, &self.queue);
        self.member.store(member, Ordering::Release);
        // Others may have to give up partitions.
        self.link.broker.changed.notify_waiters();
        member
    }

    fn take(&self, state: &mut State, max: usize) -> Vec<Delivery> {
        state.refresh(&self.queue);
        let member = self.session(state);
        let outstanding = self.outstanding.load(Ordering::Acquire);
        let mut out = Vec::new();
        let Some(queue) = state.queues.get_mut(&self.queue) else { return out };
        if queue.paused || outstanding == 0 {
            queue.line.recall(Some(member));
            return out;
        }
        while out.len() < max {
            let Some(queue) = state.queues.get_mut(&self.queue) else { break };
            let claim = Claim { member, max: max - out.len(), outstanding, lease: self.lease };
            let claimed = queue.line.claim(claim);
            if claimed.is_empty() {
                break;
            }
            out.extend(claimed.into_iter().filter_map(|claimed| self.judge(state, member, claimed)));
        }
        out
    }

    /// A delivery for the worker, or what is to be done at once with something that is none.
    fn judge(&self, state: &mut State, member: MemberId, claimed: Claimed) -> Option<Delivery> {
        let now = state.ground.wall();
        let queue = state.queues.get_mut(&self.queue)?;
        match claimed.message.read(&queue.spec) {
            Reading::Job(envelope) if envelope.expires_at.is_some_and(|expiry| expiry < now) => {
                queue.line.finish(member, claimed.address);
                None
            }
            Reading::Job(envelope) => Some(delivery(envelope, &claimed)),
            Reading::Newer => {
                self.postpone(state, member, &claimed, defaults::NEWER_FORMAT_DELAY);
                None
            }
            Reading::Broken(why) => {
                match state.bury(&self.queue, unreadable(&claimed.message, &why.to_string(), now)) {
                    Ok(()) => state.queues.get_mut(&self.queue)?.line.finish(member, claimed.address),
                    Err(_) => self.postpone(state, member, &claimed, BURY_AGAIN),
                }
                None
            }
        }
    }

    /// The same bytes later: in place where the broker can, else a copy. Where the copy is refused the message stays out
    /// until the session ends.
    fn postpone(&self, state: &mut State, member: MemberId, claimed: &Claimed, after: Duration) {
        let Some(queue) = state.queues.get_mut(&self.queue) else { return };
        if queue.line.put_back(member, claimed.address, after) {
            return;
        }
        let (wire, band) = (claimed.message.wire.clone(), claimed.message.band);
        if state.send(&self.queue, Letter { wire, band, retry: false, delay: after }).is_ok()
            && let Some(queue) = state.queues.get_mut(&self.queue)
        {
            queue.line.finish(member, claimed.address);
        }
    }

    fn beat(&self, state: &mut State, beat: &Beat) -> BeatOutcome {
        if self.link.is_crashed() {
            return BeatOutcome::Lost;
        }
        if !state.shape.has_sessions()
            && let Err(error) = self.link.usable(state, "heartbeat")
        {
            return BeatOutcome::Unknown(error);
        }
        let member = self.member();
        let Some(queue) = state.refresh(&self.queue) else { return BeatOutcome::Lost };
        match queue.line.beat(member, address(&beat.receipt), beat.started, beat.extend) {
            Some(remaining) => BeatOutcome::Held(Lease { remaining, cancel: None }),
            None => BeatOutcome::Lost,
        }
    }
}

pub(super) fn address(receipt: &Receipt) -> Address {
    Address { slot: receipt.slot, epoch: receipt.epoch }
}

fn delivery(envelope: Envelope, claimed: &Claimed) -> Delivery {
    let Address { slot, epoch } = claimed.address;
    Delivery {
        place: 0,
        receipt: Receipt { id: envelope.id, slot, epoch },
        lease: Lease { remaining: claimed.remaining, cancel: None },
        attempt: envelope.attempt,
        started_before: envelope.deliveries.saturating_add(claimed.starts),
        redelivered: claimed.redelivered,
        envelope,
    }
}

#[async_trait]
impl Consumer for ModelConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let broker = &self.link.broker;
        let deadline = broker.ground.now().saturating_add(wait);
        let era = {
            let state = broker.lock();
            self.link.usable(&state, "fetch")?;
            state.era
        };
        let fetched = broker.watch(deadline, |state| {
            if max == 0 || self.closing.load(Ordering::Acquire) || !self.link.is_open() {
                return ControlFlow::Break(Ok(Vec::new()));
            }
            if state.era != era {
                return ControlFlow::Break(Err(broken("fetch", self.link.scheme())));
            }
            let taken = self.take(state, max);
            match taken.is_empty() {
                false => ControlFlow::Break(Ok(taken)),
                true => ControlFlow::Continue(state.queues.get(&self.queue).and_then(|queue| queue.next())),
            }
        });
        fetched.await.unwrap_or_else(|| Ok(Vec::new()))
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        self.link.broker.change(|state| batch.iter().map(|settlement| self.settle_one(state, settlement)).collect())
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        self.link.broker.change(|state| beats.iter().map(|beat| self.beat(state, beat)).collect())
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        self.link.broker.change(|state| {
            self.link.usable(state, "demand")?;
            self.outstanding.store(outstanding, Ordering::Release);
            if outstanding == 0
                && let Some(queue) = state.queues.get_mut(&self.queue)
            {
                queue.line.recall(Some(self.member()));
            }
            Ok(())
        })
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        let broker = &self.link.broker;
        let deadline = broker.ground.now().saturating_add(deadline);
        let (member, returned) = broker.change(|state| {
            // From here on no fetch opens another session.
            let first = !self.closing.swap(true, Ordering::AcqRel);
            let member = self.member();
            let queue = state.queues.get_mut(&self.queue).filter(|_| first);
            (member, queue.map_or(0, |queue| queue.line.recall(Some(member))))
        });
        let settled = broker.watch(deadline, |state| {
            let next = state.refresh(&self.queue).filter(|queue| queue.line.held(member) > 0).map(|queue| queue.next());
            next.map_or(ControlFlow::Break(()), ControlFlow::Continue)
        });
        settled.await;
        let still_open = broker.change(|state| {
            let open = state.queues.get(&self.queue).map_or(0, |queue| queue.line.held(member));
            state.leave(member, true);
            open
        });
        CloseReport { returned, still_open }
    }
}

/// A consumer that is dropped says nothing to the broker, but its channel is gone.
impl Drop for ModelConsumer {
    fn drop(&mut self) {
        let member = self.member();
        self.link.broker.change(|state| state.leave(member, false));
    }
}
