//! A message between its fetch and its settlement.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    error::{Error, ErrorCode, Result},
    provider::{Beat, Delivery, Lease},
};

#[derive(Debug)]
pub(super) struct Hand {
    pub(super) delivery: Delivery,
    /// Its place in the desk's register.
    pub(super) key: usize,
    /// When it came, on the local monotonic clock, as all times here.
    pub(super) fetched: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None`: a session's.
    lease_until: Option<Duration>,
    /// Since it was given out: until when it may be in hand.
    out_until: Option<Duration>,
    /// Somebody wants it stopped: until when it may be in hand.
    cancelled: Option<Duration>,
    /// Somebody settled it, took it back or lost it: the first one decides.
    decided: bool,
}

/// Why a message is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    TimedOut,
    Cancelled,
}

impl Hand {
    pub(super) fn new(delivery: Delivery, key: usize, fetched: Duration) -> Self {
        let lease_until = end_of(&delivery.lease, fetched);
        let state = State { lease_until, out_until: None, cancelled: None, decided: false };
        Self { delivery, key, fetched, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the lease stands at that time.
    pub(super) fn lease_stands(&self, now: Duration) -> bool {
        self.lock().lease_until.is_none_or(|until| now < until)
    }

    /// It is given out: its time in hand begins.
    pub(super) fn give_out(&self, now: Duration) {
        self.lock().out_until = Some(now.saturating_add(self.delivery.envelope.timeout));
    }

    pub(super) fn is_decided(&self) -> bool {
        self.lock().decided
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.lock().cancelled.is_some()
    }

    /// The right to say what becomes of it, once.
    pub(super) fn decide(&self) -> Result<()> {
        if std::mem::replace(&mut self.lock().decided, true) {
            return Err(taken_back(
                "it was in hand longer than its timeout, or its lease was lost, or its inbox closed",
            ));
        }
        Ok(())
    }

    pub(super) fn overdue(&self, now: Duration) -> Option<Overdue> {
        let state = self.lock();
        let passed = |until: Option<Duration>| until.is_some_and(|until| until <= now);
        match state.decided {
            true => None,
            false if passed(state.cancelled) => Some(Overdue::Cancelled),
            false => passed(state.out_until).then_some(Overdue::TimedOut),
        }
    }

    pub(super) fn beat(&self, extend: Duration) -> Beat {
        let state = self.lock();
        let session = state.lease_until.is_none();
        let started = state.out_until.is_some();
        Beat {
            receipt: self.delivery.receipt,
            started,
            extend: (!session).then_some(extend),
            progress: None,
            logs: Vec::new(),
        }
    }

    /// What a beat answered. The lease is counted from before the beat was sent, so that it never seems longer than it is.
    pub(super) fn renewed(&self, lease: &Lease, sent: Duration) {
        let mut state = self.lock();
        state.lease_until = end_of(lease, sent);
        if let Some(cancel) = &lease.cancel
            && state.cancelled.is_none()
        {
            state.cancelled = Some(sent.saturating_add(cancel.grace));
        }
    }
}

fn end_of(lease: &Lease, from: Duration) -> Option<Duration> {
    lease.remaining.map(|remaining| from.saturating_add(remaining))
}

pub(super) fn taken_back(why: &'static str) -> Error {
    Error::new(ErrorCode::LeaseLost, format!("the message is not held here any more: {why}")).at("settle")
}
