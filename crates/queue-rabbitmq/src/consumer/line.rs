//! One band's deliveries: what its channel has not acknowledged yet, and which of it waits for a worker.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use queue_core::Envelope;
use tokio::time::Instant;

/// A delivery that its channel has not acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) job: Envelope,
    /// Deliveries before this one that were not settled, as the broker counts them.
    pub(super) returns: u32,
    pub(super) redelivered: bool,
    pub(super) since: Instant,
    pub(super) stage: Stage,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for a worker.
    Buffered,
    /// A worker has it.
    Handed,
    /// It is being settled, by the disposition of this print; what follows from it is under way.
    Ending(u64),
}

/// Which frames end so many deliveries: everything up to the first tag, then each of the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    pub(super) up_to: Option<u64>,
    pub(super) singly: Vec<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Line {
    /// Which channel: zero while there is none.
    pub(super) epoch: u64,
    unacked: BTreeMap<u64, Held>,
    /// How many came, the highest tag of them, and the last one up to which all had come: the broker numbers from 1.
    came: u64,
    highest: u64,
    complete_to: u64,
    buffered: VecDeque<u64>,
    /// So many are with workers.
    handed: usize,
    /// How many the broker sends without an acknowledgement, over the subscriptions that go on.
    prefetch: usize,
    /// Brought by subscriptions that were cancelled: no prefetch counts them any more, and they are out all the same.
    carried: usize,
    /// The last tag of those.
    carried_to: u64,
    /// Since when the broker may be about to send more: all that it might send had been sent, and then some of it was ended.
    owed_since: Option<Instant>,
}

impl Line {
    /// A new channel, whose tags begin anew. What the old one held is the broker's again.
    pub(super) fn begin(&mut self, epoch: u64) {
        *self = Self { epoch, ..Self::default() };
    }

    /// Subscribed once more: what waits there comes at once.
    pub(super) fn subscribe(&mut self, prefetch: usize) {
        self.prefetch += prefetch;
        self.owed_since = Some(Instant::now());
    }

    /// All subscriptions were cancelled, and what they brought is here.
    pub(super) fn unsubscribe(&mut self) {
        self.prefetch = 0;
        self.owed_since = None;
        self.carried = self.unacked.len();
        self.carried_to = self.unacked.last_key_value().map_or(0, |(tag, _)| *tag);
    }

    /// How many its subscriptions may have out.
    pub(super) fn prefetch(&self) -> usize {
        self.prefetch
    }

    /// How many are out that cancelled subscriptions brought.
    pub(super) fn carried(&self) -> usize {
        self.carried
    }

    /// How many may be out.
    pub(super) fn reserved(&self) -> usize {
        self.carried + self.prefetch
    }

    /// Whether all that the broker sends without an acknowledgement is here: there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.prefetch > 0 && self.unacked.len() >= self.reserved()
    }

    /// Until when something may well be on its way to an empty buffer.
    pub(super) fn owed_until(&self, grace: Duration) -> Option<Instant> {
        self.owed_since.filter(|_| self.buffered.is_empty()).map(|since| since + grace)
    }

    pub(super) fn put(&mut self, tag: u64, held: Held) {
        self.owed_since = None;
        (self.came, self.highest) = (self.came + 1, self.highest.max(tag));
        if self.came == self.highest {
            self.complete_to = self.highest;
        }
        if held.stage == Stage::Buffered {
            // In the order in which the broker sent them, of whichever subscription each is.
            let place = self.buffered.partition_point(|before| *before < tag);
            self.buffered.insert(place, tag);
        }
        self.unacked.insert(tag, held);
    }

    pub(super) fn get(&self, tag: u64) -> Option<&Held> {
        self.unacked.get(&tag)
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.buffered.len()
    }

    pub(super) fn handed(&self) -> usize {
        self.handed
    }

    pub(super) fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// When the one that waits longest has waited too long: each time that it comes back it may wait twice as long.
    ///
    /// Up to 4.2 the broker counts what is given back as if it had been started. A job that is behind more urgent ones for long
    /// would else be given back, and come back, until it were taken for one that kills its workers.
    pub(super) fn stale_at(&self, age: Duration, most: Duration) -> Option<Instant> {
        let held = self.buffered.front().and_then(|tag| self.unacked.get(tag))?;
        let doubled = age.saturating_mul(1_u32.checked_shl(held.returns).unwrap_or(u32::MAX));
        Some(held.since + doubled.min(most.max(age)))
    }

    /// The next that waits, to be handed to a worker.
    pub(super) fn hand(&mut self) -> Option<(u64, &Held)> {
        let tag = self.buffered.pop_front()?;
        let held = self.unacked.get_mut(&tag)?;
        held.stage = Stage::Handed;
        self.handed += 1;
        Some((tag, held))
    }

    /// Everything that waits: it is not handed out any more.
    pub(super) fn recall(&mut self) -> Vec<u64> {
        let tags: Vec<u64> = self.buffered.drain(..).collect();
        for tag in &tags {
            self.stage(*tag, Stage::Ending(0));
        }
        tags
    }

    pub(super) fn stage(&mut self, tag: u64, stage: Stage) {
        let Some(held) = self.unacked.get_mut(&tag) else { return };
        let counts = |stage| usize::from(matches!(stage, Stage::Handed | Stage::Ending(1..)));
        self.handed = self.handed + counts(stage) - counts(held.stage);
        held.stage = stage;
    }

    /// Takes these off, and says how to tell the broker. The tags ascend.
    ///
    /// A tag that the broker does not know as unacknowledged ends the channel, also as the bound of a frame for several: so
    /// each is named once, and the bound is one of these. Nor may there be anything below that bound which was delivered and is not
    /// here yet, as where one of several subscriptions is behind: it would be acknowledged without having run.
    pub(super) fn end(&mut self, tags: &[u64]) -> Frames {
        let mut frames = Frames::default();
        let mut asked = tags.iter().copied().filter(|tag| self.unacked.contains_key(tag)).peekable();
        let mut first = self.unacked.keys().copied();
        let mut run = 0_usize;
        let mut last = 0;
        while let Some(tag) = asked.peek().copied()
            && tag <= self.complete_to
            && first.next() == Some(tag)
        {
            (last, run) = (tag, run + 1);
            asked.next();
        }
        if run > 1 {
            frames.up_to = Some(last);
        } else if run == 1 {
            frames.singly.push(last);
        }
        frames.singly.extend(asked);
        if self.is_full() {
            self.owed_since = Some(Instant::now());
        }
        for tag in tags {
            let Some(held) = self.unacked.remove(tag) else { continue };
            self.handed -= usize::from(matches!(held.stage, Stage::Handed | Stage::Ending(1..)));
            self.carried -= usize::from(*tag <= self.carried_to);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::{
        Timestamp,
        job::{JobId, JobKind},
    };

    fn held(stage: Stage) -> Held {
        let job =
            Envelope::builder(JobId::derive(b"x", 0), JobKind::from_static("k"), &b""[..], Timestamp::from_millis(1));
        Held { job: job.seal(), returns: 0, redelivered: false, since: Instant::now(), stage }
    }

    fn line(tags: std::ops::RangeInclusive<u64>) -> Line {
        let mut line = Line::default();
        line.begin(1);
        for tag in tags {
            line.put(tag, held(Stage::Buffered));
        }
        line
    }

    fn frames(up_to: Option<u64>, singly: &[u64]) -> Frames {
        Frames { up_to, singly: singly.to_vec() }
    }

    #[test]
    fn a_run_from_the_oldest_on_is_one_frame_and_stragglers_are_their_own() {
        let mut line = line(1..=10);
        assert_eq!(line.end(&[1, 2, 3, 5, 8]), frames(Some(3), &[5, 8]));
        // Five is not the broker's any more: the run goes on over it.
        assert_eq!(line.end(&[4, 6, 7, 10]), frames(Some(7), &[10]));
        assert_eq!(line.end(&[9]), frames(None, &[9]));
        assert_eq!((line.unacked(), line.handed()), (0, 0));
    }

    #[test]
    fn what_is_not_there_is_never_named() {
        let mut line = line(1..=6);
        line.end(&[1, 2]);
        assert_eq!(line.end(&[1, 2, 4, 9]), frames(None, &[4]));
        assert_eq!(line.end(&[4]), Frames::default());
        assert_eq!(line.end(&[3, 4, 5]), frames(Some(5), &[]));
    }

    #[test]
    fn no_frame_reaches_over_what_another_subscription_has_not_brought_yet() {
        let mut line = Line::default();
        line.begin(1);
        for tag in [1, 2, 4, 5] {
            line.put(tag, held(Stage::Buffered));
        }
        assert_eq!(line.end(&[1, 2, 4]), frames(Some(2), &[4]));
        assert_eq!(line.end(&[5]), frames(None, &[5]));
        for tag in [3, 6, 7] {
            line.put(tag, held(Stage::Buffered));
        }
        assert_eq!(line.end(&[3, 6]), frames(Some(6), &[]));
    }

    #[test]
    fn one_settled_alone_needs_no_bound() {
        let mut line = line(1..=2);
        assert_eq!(line.end(&[1]), frames(None, &[1]));
        assert_eq!(line.end(&[2]), frames(None, &[2]));
    }

    #[test]
    fn those_with_workers_are_counted_until_they_end() {
        let mut line = line(1..=3);
        assert_eq!(line.hand().map(|(tag, _)| tag), Some(1));
        assert_eq!((line.buffered(), line.handed()), (2, 1));
        line.stage(1, Stage::Ending(7));
        assert_eq!(line.handed(), 1);
        line.stage(1, Stage::Handed);
        assert_eq!(line.handed(), 1);
        assert_eq!(line.recall(), [2, 3]);
        assert!(line.hand().is_none());
        line.end(&[2, 3]);
        assert_eq!((line.handed(), line.unacked()), (1, 1));
        line.end(&[1]);
        assert_eq!((line.handed(), line.unacked()), (0, 0));
    }

    #[test]
    fn more_is_awaited_only_where_all_had_been_sent() {
        let mut line = line(1..=2);
        line.subscribe(2);
        assert!(line.owed_until(Duration::ZERO).is_none(), "two wait here");
        line.hand();
        line.hand();
        line.end(&[1]);
        assert!(line.owed_until(Duration::ZERO).is_some());
        line.put(3, held(Stage::Buffered));
        line.hand();
        line.end(&[2, 3]);
        assert!(line.owed_until(Duration::ZERO).is_some());
        line.put(4, held(Stage::Buffered));
        line.hand();
        line.end(&[4]);
        assert!(line.owed_until(Duration::ZERO).is_none(), "it had room for two and sent one: there was no more");
    }

    #[test]
    fn what_cancelled_subscriptions_brought_counts_until_it_ends() {
        let mut line = line(1..=3);
        line.subscribe(3);
        line.unsubscribe();
        assert_eq!((line.carried(), line.prefetch(), line.reserved(), line.is_full()), (3, 0, 3, false));
        line.subscribe(2);
        line.put(4, held(Stage::Buffered));
        assert_eq!((line.reserved(), line.is_full()), (5, false));
        line.put(5, held(Stage::Buffered));
        assert!(line.is_full());
        line.end(&[2, 5]);
        assert_eq!((line.carried(), line.reserved(), line.is_full()), (2, 4, false));
        line.unsubscribe();
        assert_eq!((line.carried(), line.unacked()), (3, 3));
        line.end(&[1, 3, 4]);
        assert_eq!(line.reserved(), 0);
    }

    #[test]
    fn several_subscriptions_are_handed_out_in_the_order_of_the_broker() {
        let mut line = Line::default();
        line.begin(1);
        for tag in [1, 3, 5, 2, 4] {
            line.put(tag, held(Stage::Buffered));
        }
        let order: Vec<u64> = std::iter::from_fn(|| line.hand().map(|(tag, _)| tag)).collect();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_comes_back_again_and_again_waits_longer_each_time() {
        let (age, most) = (Duration::from_secs(10), Duration::from_secs(900));
        let patience = |returns| {
            let mut line = Line::default();
            let held = Held { returns, ..held(Stage::Buffered) };
            let since = held.since;
            line.put(1, held);
            line.stale_at(age, most).map(|at| at - since)
        };
        for (returns, seconds) in [(0, 10), (1, 20), (3, 80), (6, 640), (7, 900), (32, 900), (u32::MAX, 900)] {
            assert_eq!(patience(returns), Some(Duration::from_secs(seconds)), "{returns}");
        }
        // Where the broker lets nobody hold anything for long it is as it was.
        assert_eq!(Line::default().stale_at(age, most), None);
    }

    #[test]
    fn another_channel_knows_nothing_of_the_last() {
        let mut line = line(1..=3);
        line.hand();
        line.begin(2);
        assert_eq!((line.epoch, line.buffered(), line.handed(), line.unacked()), (2, 0, 0, 0));
        assert_eq!(line.end(&[1]), Frames::default());
    }
}
