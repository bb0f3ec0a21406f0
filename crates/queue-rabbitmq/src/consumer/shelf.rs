//! Everything that a consumer holds, over all its bands, behind one lock.

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, Timestamp,
    provider::{Delivery, Lease, Receipt, SettleOutcome, Settlement},
};
use tokio::time::Instant;

use super::{
    ending::{End, Sent, send},
    line::{Held, Line, Stage},
    memory::{self, Memory},
    plan::{BANDS, ORDINARY, Out, prefetch},
};
use crate::link::Lane;

/// How long a lower band's job is kept back while a higher band's is probably on its way. A few times what the broker takes
/// from an acknowledgement to the next delivery, and paid once each time that a higher band runs dry.
const GRACE: Duration = Duration::from_millis(10);
/// A band that wants more than its share for so long becomes the favoured one.
const PERSISTENT: Duration = Duration::from_millis(50);

pub(super) struct Shelf {
    lines: [Line; BANDS],
    channels: [Option<Arc<Lane>>; BANDS],
    /// Why a band has no channel; `None` also before the first try.
    troubles: [Option<Error>; BANDS],
    /// Bands that gave back what nobody fetched, until somebody does.
    resting: [bool; BANDS],
    memory: Memory,
    demand: usize,
    favoured: usize,
    suitor: Option<(usize, Instant)>,
    /// What was out or subscribed to when somebody last waited in vain.
    starved_at: usize,
    max_hold: Duration,
    pub(super) closing: bool,
}

/// What a fetch found.
pub(super) struct Found {
    pub(super) jobs: Vec<Delivery>,
    /// Nothing for now, but something urgent may be here by then.
    pub(super) look_again: Option<Instant>,
    /// Acknowledgements of what had expired.
    pub(super) sent: Vec<Sent>,
}

/// How a band's subscriptions stand to what is wanted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beyond {
    /// It is to have none, and nothing that waits.
    Silent,
    /// They may bring more than is wanted.
    TooMany,
    Within,
}

/// Whether a settlement may go on.
pub(super) enum Claim {
    /// It may: the delivery is marked.
    Granted(Granted),
    /// Another settlement of the same delivery is under way.
    Busy,
    /// It may not, and this is its answer.
    Refused(SettleOutcome),
}

/// A delivery that is being settled.
pub(super) struct Granted {
    pub(super) band: usize,
    pub(super) receipt: Receipt,
    pub(super) print: u64,
}

impl Shelf {
    pub(super) fn new(demand: usize, max_hold: Duration) -> Self {
        Self {
            lines: Default::default(),
            channels: Default::default(),
            troubles: Default::default(),
            resting: Default::default(),
            memory: Memory::default(),
            demand,
            favoured: ORDINARY,
            suitor: None,
            starved_at: 0,
            max_hold,
            closing: false,
        }
    }

    // What the broker brings.

    /// A band has a channel. What it held on the last one is the broker's again.
    pub(super) fn begin(&mut self, band: usize, epoch: u64, channel: Arc<Lane>) {
        self.lose(band);
        self.lines[band].begin(epoch);
        self.channels[band] = Some(channel);
    }

    /// A band lost its channel.
    pub(super) fn lose(&mut self, band: usize) {
        self.memory.forget(self.lines[band].epoch);
        self.lines[band].begin(0);
        self.channels[band] = None;
    }

    pub(super) fn has_channel(&self, band: usize) -> bool {
        self.channels[band].is_some()
    }

    /// Whether it still has the one of this epoch.
    pub(super) fn is_on(&self, band: usize, epoch: u64) -> bool {
        self.lines[band].epoch == epoch
    }

    /// A band subscribed to what it had reserved, or has no subscription and wants none.
    pub(super) fn subscribed(&mut self, band: usize) {
        self.troubles[band] = None;
    }

    /// All subscriptions of a band were cancelled, and what they brought was taken in.
    pub(super) fn unsubscribed(&mut self, band: usize) {
        self.lines[band].unsubscribe();
    }

    pub(super) fn trouble(&mut self, band: usize, error: Error) {
        self.troubles[band] = Some(error);
    }

    /// Takes deliveries in. Says whether the bands should be shared out anew.
    pub(super) fn put(&mut self, band: usize, epoch: u64, arrived: Vec<(u64, Held)>) -> bool {
        if self.lines[band].epoch != epoch {
            return false;
        }
        for (tag, held) in arrived {
            self.lines[band].put(tag, held);
        }
        self.court(band, Instant::now())
    }

    /// A band all of whose deliveries are here wants more. It is favoured if it goes on so, where it is more urgent than the
    /// favoured one or where that has nothing.
    fn court(&mut self, band: usize, now: Instant) -> bool {
        let favoured = self.favoured;
        let may = band > favoured || self.lines[favoured].unacked() == 0;
        if band == favoured || !may || !self.lines[band].is_full() {
            return false;
        }
        match self.suitor {
            Some((suitor, since)) if suitor == band => {
                if now.saturating_duration_since(since) < PERSISTENT {
                    return false;
                }
                (self.favoured, self.suitor) = (band, None);
                true
            }
            _ => {
                self.suitor = Some((band, now));
                false
            }
        }
    }

    // What it wants of the broker.

    fn is_silent(&self, band: usize) -> bool {
        self.closing || self.resting[band] || self.demand == 0
    }

    /// Whether a band is to have no subscription at all, or fewer deliveries than those that it has may bring.
    pub(super) fn is_beyond(&self, band: usize) -> Beyond {
        let wanted = if self.is_silent(band) { 0 } else { usize::from(prefetch(self.demand, self.favoured)[band]) };
        match self.lines[band].prefetch() {
            _ if wanted == 0 => Beyond::Silent,
            has if has > wanted => Beyond::TooMany,
            _ => Beyond::Within,
        }
    }

    /// How many more a band may subscribe to.
    pub(super) fn room(&self, band: usize) -> u16 {
        if self.is_silent(band) {
            return 0;
        }
        self.out().room(self.demand, self.favoured, band)
    }

    fn out(&self) -> Out {
        Out {
            carried: std::array::from_fn(|band| self.lines[band].carried()),
            live: std::array::from_fn(|band| self.lines[band].prefetch()),
        }
    }

    /// Whether somebody waits for jobs and a band may subscribe to more than it has: told once for each time that something ended.
    pub(super) fn starves(&mut self) -> bool {
        let reserved = self.lines.iter().map(Line::reserved).sum();
        let changed = std::mem::replace(&mut self.starved_at, reserved) != reserved;
        changed && (0..BANDS).any(|band| self.room(band) > 0)
    }

    /// Reserves what a band is about to subscribe to; none where it has all that it may have.
    pub(super) fn reserve(&mut self, band: usize) -> u16 {
        let room = self.room(band);
        if room > 0 {
            self.lines[band].subscribe(usize::from(room));
        }
        room
    }

    /// Whether more will be free for a band as deliveries end that no subscription brings again.
    pub(super) fn is_short(&self, band: usize) -> bool {
        let wanted = usize::from(prefetch(self.demand, self.favoured)[band]);
        !self.is_silent(band) && self.lines[band].prefetch() < wanted
    }

    pub(super) fn demand(&mut self, outstanding: usize) {
        self.demand = outstanding;
    }

    /// Gives back what waits in a band.
    pub(super) fn give_back(&mut self, band: usize) -> (usize, Vec<Sent>) {
        let tags = self.lines[band].recall();
        (tags.len(), self.end(band, &tags, End::Requeue))
    }

    /// When the oldest that waits in a band has waited too long.
    pub(super) fn stale_at(&self, band: usize, age: Duration) -> Option<Instant> {
        self.lines[band].stale_at(age, self.max_hold / 2)
    }

    /// Gives back what nobody fetches, and takes no more of this band before somebody does.
    pub(super) fn rest(&mut self, band: usize) -> Vec<Sent> {
        self.resting[band] = true;
        self.give_back(band).1
    }

    // What a worker asks.

    /// Why nothing can come. Of one band's trouble the others know nothing.
    pub(super) fn in_trouble(&self) -> Option<&Error> {
        let gone = self.troubles.iter().flatten().find(|error| error.code() == queue_core::ErrorCode::NotFound);
        let all = self.troubles.iter().all(Option::is_some);
        gone.or_else(|| self.troubles[0].as_ref().filter(|_| all))
    }

    /// With workers.
    pub(super) fn handed(&self) -> usize {
        self.lines.iter().map(Line::handed).sum()
    }

    /// Somebody fetches again: bands at rest may begin. Says whether any does.
    pub(super) fn wake(&mut self) -> bool {
        let woken = self.resting.contains(&true) && self.handed() < self.demand;
        if woken {
            self.resting = Default::default();
        }
        woken
    }

    /// Hands out what waits, the highest band first.
    pub(super) fn hand(&mut self, max: usize, now: Timestamp, may_wait: bool) -> Found {
        let mut found = Found { jobs: Vec::new(), look_again: None, sent: Vec::new() };
        let room = max.min(self.demand.saturating_sub(self.handed()));
        for band in (0..BANDS).rev() {
            if found.jobs.len() == room {
                break;
            }
            let mut expired = Vec::new();
            while found.jobs.len() < room
                && let Some((tag, held)) = self.lines[band].hand()
            {
                if held.job.expires_at.is_some_and(|expiry| expiry < now) {
                    expired.push(tag);
                    continue;
                }
                let held = held.clone();
                found.jobs.push(self.delivery(band, tag, held));
            }
            found.sent.extend(self.end(band, &expired, End::Acknowledge));
            let owed = self.lines[band].owed_until(GRACE).filter(|until| *until > Instant::now());
            if found.jobs.is_empty() && may_wait && band > 0 && owed.is_some() {
                found.look_again = owed;
                break;
            }
        }
        found
    }

    fn delivery(&self, band: usize, tag: u64, held: Held) -> Delivery {
        Delivery {
            place: 0,
            receipt: Receipt { id: held.job.id, slot: tag, epoch: self.lines[band].epoch },
            lease: Lease { remaining: Some(self.remaining(&held)), cancel: None },
            attempt: held.job.attempt,
            started_before: held.job.deliveries.saturating_add(held.returns),
            redelivered: held.redelivered,
            envelope: held.job,
        }
    }

    /// From its delivery on the broker counts how long it is held.
    fn remaining(&self, held: &Held) -> Duration {
        self.max_hold.saturating_sub(held.since.elapsed())
    }

    fn find(&self, receipt: &Receipt) -> Option<(usize, &Held)> {
        let band = self.lines.iter().position(|line| line.epoch == receipt.epoch && receipt.epoch != 0)?;
        let held = self.lines[band].get(receipt.slot).filter(|held| held.job.id == receipt.id)?;
        Some((band, held))
    }

    /// What a heartbeat finds: how long it may still be held.
    pub(super) fn beat(&self, receipt: &Receipt) -> Option<Lease> {
        let (_, held) = self.find(receipt).filter(|(_, held)| held.stage == Stage::Handed)?;
        Some(Lease { remaining: Some(self.remaining(held)), cancel: None })
    }

    // How deliveries end.

    /// Marks a delivery as being settled.
    pub(super) fn claim(&mut self, settlement: &Settlement) -> Claim {
        let receipt = settlement.receipt;
        let print = memory::print(&settlement.disposition);
        if let Some(past) = self.memory.recall((receipt.epoch, receipt.slot), receipt.id) {
            let same = past == print;
            return Claim::Refused(if same { SettleOutcome::AlreadySettled } else { SettleOutcome::Conflict });
        }
        let Some((band, held)) = self.find(&receipt) else { return Claim::Refused(SettleOutcome::LeaseLost) };
        match held.stage {
            Stage::Handed => {
                self.lines[band].stage(receipt.slot, Stage::Ending(print));
                Claim::Granted(Granted { band, receipt, print })
            }
            Stage::Ending(1..) => Claim::Busy,
            Stage::Buffered | Stage::Ending(_) => Claim::Refused(SettleOutcome::LeaseLost),
        }
    }

    /// Whether a settlement of this delivery is under way.
    pub(super) fn is_ending(&self, receipt: &Receipt) -> bool {
        self.find(receipt).is_some_and(|(_, held)| matches!(held.stage, Stage::Ending(1..)))
    }

    /// The job of a delivery that is being settled, while its channel lives.
    pub(super) fn held(&self, granted: &Granted) -> Option<Held> {
        self.find(&granted.receipt).map(|(_, held)| held.clone())
    }

    /// What was to follow from it failed: it is the worker's again.
    pub(super) fn keep(&mut self, granted: &Granted) {
        if self.find(&granted.receipt).is_some() {
            self.lines[granted.band].stage(granted.receipt.slot, Stage::Handed);
        }
    }

    /// Ends deliveries that were claimed, as far as their channels live; each answer tells what ended so.
    pub(super) fn finish(&mut self, all: &[Granted], how: End) -> (Vec<bool>, Vec<Sent>) {
        let alive: Vec<bool> = all.iter().map(|one| self.find(&one.receipt).is_some()).collect();
        let mut sent = Vec::new();
        for band in 0..BANDS {
            let meant = || all.iter().zip(&alive).filter(|(one, alive)| one.band == band && **alive);
            let mut tags: Vec<u64> = meant().map(|(one, _)| one.receipt.slot).collect();
            tags.sort_unstable();
            sent.extend(self.end(band, &tags, how));
            for (one, _) in meant() {
                self.memory.note((one.receipt.epoch, one.receipt.slot), one.receipt.id, one.print);
            }
        }
        (alive, sent)
    }

    /// Ends what this side dealt with by itself.
    pub(super) fn drop_tag(&mut self, band: usize, epoch: u64, tag: u64, how: End) -> Vec<Sent> {
        if self.lines[band].epoch == epoch { self.end(band, &[tag], how) } else { Vec::new() }
    }

    /// The frames leave in the order of these calls, since the lock is held: a frame for several must not overtake one of those.
    fn end(&mut self, band: usize, tags: &[u64], how: End) -> Vec<Sent> {
        let Some(channel) = self.channels[band].as_ref().filter(|_| !tags.is_empty()) else { return Vec::new() };
        send(channel, band, self.lines[band].epoch, &self.lines[band].end(tags), how)
    }

    /// An acknowledgement did not leave: its channel is lost.
    pub(super) fn failed(&mut self, band: usize, epoch: u64) {
        if self.lines[band].epoch == epoch {
            self.lose(band);
        }
    }

    /// Nothing is held any more; the channels close with their last users.
    pub(super) fn clear(&mut self) {
        (0..BANDS).for_each(|band| self.lose(band));
    }
}
