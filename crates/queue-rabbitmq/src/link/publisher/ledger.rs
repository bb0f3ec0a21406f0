//! What the caller and the pump know of each other's letters.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use queue_core::Error;
use tokio::sync::Notify;

use super::{Letter, Sent, lock};
use crate::fault;

/// Letters on their way to the pump.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) letters: VecDeque<Letter>,
    /// The index of the first of them.
    pub(super) next: usize,
    pub(super) ledger: Arc<Ledger>,
}

/// What the pump lets go of is not written, and its caller need not wait.
impl Drop for Call {
    fn drop(&mut self) {
        for index in self.next..self.next + self.letters.len() {
            self.ledger.settle(index, Sent::NotWritten(fault::closed("publish")));
        }
    }
}

/// What is known of the letters of a call. The pump and the caller agree over it whether a letter was written.
#[derive(Debug)]
pub(super) struct Ledger {
    slots: Mutex<(Vec<Slot>, usize)>,
    done: Notify,
}

#[derive(Debug)]
enum Slot {
    Waiting,
    /// lapin has it: it may be on the wire any time.
    Written,
    /// The caller has gone; it must not be written any more.
    Cancelled,
    Done(Sent),
}

impl Ledger {
    pub(super) fn new(count: usize) -> Self {
        let slots = std::iter::repeat_with(|| Slot::Waiting).take(count).collect();
        Self { slots: Mutex::new((slots, count)), done: Notify::new() }
    }

    pub(super) fn waits(&self, index: usize) -> bool {
        matches!(lock(&self.slots).0.get(index), Some(Slot::Waiting))
    }

    /// Whether the letter may still be written; from now on it is.
    pub(super) fn write(&self, index: usize) -> bool {
        let mut slots = lock(&self.slots);
        let Some(slot @ Slot::Waiting) = slots.0.get_mut(index) else { return false };
        *slot = Slot::Written;
        true
    }

    pub(super) fn settle(&self, index: usize, sent: Sent) {
        let mut slots = lock(&self.slots);
        let Some(slot @ (Slot::Waiting | Slot::Written)) = slots.0.get_mut(index) else { return };
        *slot = Slot::Done(sent);
        slots.1 -= 1;
        if slots.1 == 0 {
            drop(slots);
            self.done.notify_one();
        }
    }

    pub(super) async fn settled(&self) {
        while lock(&self.slots).1 > 0 {
            self.done.notified().await;
        }
    }

    /// The outcomes as they stand. What was not written never will be.
    pub(super) fn close(&self, unwritten: &Error) -> Vec<Sent> {
        let mut slots = lock(&self.slots);
        let close = |slot: &mut Slot| match std::mem::replace(slot, Slot::Cancelled) {
            Slot::Done(sent) => sent,
            Slot::Written => Sent::Unknown(fault::unanswered("publish")),
            Slot::Waiting | Slot::Cancelled => Sent::NotWritten(unwritten.clone()),
        };
        slots.0.iter_mut().map(close).collect()
    }
}

/// What was not written by then never will be.
pub(super) struct CancelOnDrop<'a>(pub(super) &'a Ledger);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        for slot in &mut lock(&self.0.slots).0 {
            if matches!(slot, Slot::Waiting) {
                *slot = Slot::Cancelled;
            }
        }
    }
}

/// Whose message it is. A message that is let go of before its end is known leaves nobody waiting.
pub(super) struct Seat {
    pub(super) ledger: Arc<Ledger>,
    pub(super) index: usize,
}

impl Seat {
    pub(super) fn tell(self, sent: Sent) {
        self.ledger.settle(self.index, sent);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Of one that has been told already nothing else is said.
        self.ledger.settle(self.index, Sent::Unknown(fault::unanswered("publish")));
    }
}
