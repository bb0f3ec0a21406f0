//! What a publish waits for: a disk that takes it, room in the queue, and the disk's word.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, ErrorCode, Result,
    job::Envelope,
    provider::{Durability, OnFull, PublishOptions, PublishOutcome, Rejection},
};

use crate::{
    MemoryProvider,
    journal::Ticket,
    queue::{Named, Queue, Taken},
    shared::{SCHEME, Shared},
};

/// A wait beyond it is as good as endless, and cannot overflow the clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

impl MemoryProvider {
    /// Whether what is asked can be promised.
    pub(crate) fn check_durability(&self, asked: Option<Durability>) -> Result<()> {
        let instead = match (asked, self.shared.journal.is_some()) {
            (None | Some(Durability::Relaxed), _) | (Some(Durability::Interval(_) | Durability::Synced), true) => {
                return Ok(());
            }
            (_, true) => "the journal is one file on one disk: ask for `synced`, or use a broker",
            (_, false) => "memory goes with the process: ask for `relaxed`, connect with a journal, or use a broker",
        };
        Err(Error::unsupported(SCHEME, "durability", instead))
    }

    /// Why nothing may be published now, if so. A disk that is slow for a moment, or a full one where the publisher would
    /// rather wait, is waited for.
    pub(crate) async fn admits(&self, options: &PublishOptions, confirming: &Confirming) -> Option<Rejection> {
        const MOMENT: Duration = Duration::from_millis(100);
        const LOOK: Duration = Duration::from_millis(5);
        if let Err(closed) = self.ensure_open("publish") {
            return Some(Rejection::Unavailable(closed));
        }
        if options.durability.is_some()
            && let Err(refusal) = self.check_durability(options.durability)
        {
            return Some(Rejection::Denied(refusal));
        }
        let (journal, deadline) = (self.shared.journal.as_ref()?, confirming.until?);
        let until = match options.on_full {
            OnFull::Wait => deadline,
            OnFull::Reject | OnFull::Exceed => deadline.min(tokio::time::Instant::now() + MOMENT),
        };
        loop {
            let refusal = match self.ensure_open("publish").and_then(|()| journal.ready()) {
                Ok(()) => return None,
                Err(refusal) => refusal,
            };
            if !refusal.is_retryable() || tokio::time::Instant::now() >= until {
                return Some(Rejection::Unavailable(refusal.at("publish")));
            }
            journal.pump();
            Box::pin(tokio::time::sleep(LOOK)).await;
        }
    }

    /// Offers what found no room again, whenever there is some, until the deadline.
    pub(crate) async fn wait_for_room(
        &self,
        mut queue: Arc<Queue>,
        mut waiting: Vec<(usize, Envelope)>,
        named: &Named,
        options: &PublishOptions,
        outcomes: &mut [PublishOutcome],
    ) -> Option<Ticket> {
        let mut last = None;
        let give_up = tokio::time::sleep(options.deadline);
        tokio::pin!(give_up);
        loop {
            let live = {
                let _queuing = Queuing::begin(&queue);
                let room = queue.room.notified();
                tokio::pin!(room);
                room.as_mut().enable();
                if let Err(refused) = self.ensure_open("publish").and_then(|()| self.shared.ready()) {
                    let refusal = Rejection::Unavailable(refused.on(&queue.name));
                    for (index, _) in waiting {
                        outcomes[index] = PublishOutcome::Rejected(refusal.clone());
                    }
                    return last;
                }
                let now = self.shared.now();
                let (live, still, ticket) = self.shared.with_live_kept(&queue.name, |state| {
                    state.rely(options.durability);
                    let mut still = Vec::new();
                    for (index, envelope) in std::mem::take(&mut waiting) {
                        match state.offer(envelope, named.get(index), now) {
                            Taken::Answer(outcome) => outcomes[index] = outcome,
                            Taken::NoRoom(envelope) => still.push((index, envelope)),
                        }
                    }
                    still
                });
                last = last.max(ticket);
                waiting = still;
                if waiting.is_empty() {
                    return last;
                }
                if live.number == queue.number {
                    tokio::select! {
                        biased;
                        () = room => {}
                        () = &mut give_up => return last,
                    }
                }
                live
            };
            // Another one where the queue was dropped meanwhile: wait for room in that.
            queue = live;
        }
    }
}

/// Counts a publisher that waits, also when its future is dropped.
pub(crate) struct Queuing<'a>(&'a Queue);

impl<'a> Queuing<'a> {
    pub(crate) fn begin(queue: &'a Queue) -> Self {
        queue.with(|state| state.queuers += 1);
        Self(queue)
    }
}

impl Drop for Queuing<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.queuers -= 1);
    }
}

/// What a publish promises, until it is kept.
#[derive(Debug)]
pub(crate) struct Confirming {
    /// The deadline, where there is a disk to wait for.
    until: Option<tokio::time::Instant>,
}

impl Confirming {
    pub(crate) fn begin(shared: &Shared, options: &PublishOptions) -> Self {
        let deadline = || tokio::time::Instant::now() + options.deadline.min(LONGEST);
        Self { until: shared.journal.as_ref().map(|_| deadline()) }
    }

    /// Waits for the disk, and makes unknown what is not on it by the deadline.
    pub(crate) async fn end(&self, shared: &Shared, ticket: Option<Ticket>, outcomes: &mut [PublishOutcome]) {
        let (Some(journal), Some(ticket), Some(until)) = (&shared.journal, ticket, self.until) else { return };
        let error = match Box::pin(tokio::time::timeout_at(until, journal.committed(ticket))).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => Error::new(ErrorCode::Timeout, "the journal's disk did not answer in time"),
        };
        let error = error.at("publish").by(SCHEME);
        for outcome in outcomes {
            // What was refused does not depend on the disk. A duplicate does: its holder may not be there tomorrow.
            if !matches!(outcome, PublishOutcome::Rejected(_)) {
                *outcome = PublishOutcome::Unknown(error.clone());
            }
        }
    }
}
