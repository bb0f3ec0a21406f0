//! What may go wrong on demand.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::{Error, ErrorCode, QueueName, provider::Rejection};

/// Faults that are armed and not yet spent. Each `next` count falls with use; what is set by queue stays until it is unset.
#[derive(Debug, Default)]
pub struct Faults {
    pub(super) lost_publish_replies: usize,
    pub(super) lost_settle_replies: usize,
    pub(super) crashes_before_ack: usize,
    refused: BTreeMap<QueueName, usize>,
    refused_dead: BTreeMap<QueueName, usize>,
    unroutable: BTreeSet<QueueName>,
}

impl Faults {
    /// The next `n` published items are stored and answered with `Unknown`. Items that are refused do not count.
    pub fn lose_publish_replies(&mut self, n: usize) {
        self.lost_publish_replies = n;
    }

    /// The replies to the next `n` settlements that the broker carries out are lost: `Unknown`. Where settlements are only
    /// sent (`settle_confirmed` is false) the acknowledgement itself is lost: the answer is `Settled`, and the message comes
    /// back when the session ends.
    pub fn lose_settle_replies(&mut self, n: usize) {
        self.lost_settle_replies = n;
    }

    /// The next `n` settlements crash their connection when all that follows from them is published and nothing is
    /// acknowledged yet.
    pub fn crash_before_ack(&mut self, n: usize) {
        self.crashes_before_ack = n;
    }

    /// The next `n` messages to the queue are refused: publishes, follow-ups, and copies for retries and releases.
    pub fn refuse_publishes(&mut self, queue: &QueueName, n: usize) {
        self.refused.insert(queue.clone(), n);
    }

    /// The next `n` dead letters of the queue are refused.
    pub fn refuse_dead_letters(&mut self, queue: &QueueName, n: usize) {
        self.refused_dead.insert(queue.clone(), n);
    }

    /// Whether no message finds its way to the queue, until it is set to `false`.
    pub fn unroutable(&mut self, queue: &QueueName, unroutable: bool) {
        if unroutable {
            self.unroutable.insert(queue.clone());
        } else {
            self.unroutable.remove(queue);
        }
    }

    pub(super) fn meet_publish(&mut self, queue: &QueueName) -> Result<(), Rejection> {
        if self.unroutable.contains(queue) {
            return Err(Rejection::Unroutable);
        }
        if spend_in(&mut self.refused, queue) { Err(Rejection::Unavailable(refusal(queue))) } else { Ok(()) }
    }

    pub(super) fn meet_dead_letter(&mut self, queue: &QueueName) -> Result<(), Error> {
        if spend_in(&mut self.refused_dead, queue) { Err(refusal(queue)) } else { Ok(()) }
    }
}

/// Uses up one fault of a count, if one is left.
pub(super) fn spend(left: &mut usize) -> bool {
    let hit = *left > 0;
    *left = left.saturating_sub(1);
    hit
}

fn spend_in(faults: &mut BTreeMap<QueueName, usize>, queue: &QueueName) -> bool {
    let Some(left) = faults.get_mut(queue) else { return false };
    let hit = spend(left);
    if *left == 0 {
        faults.remove(queue);
    }
    hit
}

fn refusal(queue: &QueueName) -> Error {
    Error::new(ErrorCode::Unavailable, "the model was told to refuse this").at("publish").on(queue)
}
