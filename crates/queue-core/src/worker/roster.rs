//! Who is in a pool: its slots, and which of them answer.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::held::Sign;

/// The slots of one pool. Looked at by its crew, by the heartbeat's thread and by who asks how it is doing.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: Mutex<Members>,
    /// Those of them that were replaced: each slot looks at this after every job.
    stuck: AtomicUsize,
}

#[derive(Debug, Default)]
struct Members {
    last: u64,
    slots: HashMap<u64, Member>,
}

#[derive(Debug, Default)]
struct Member {
    /// The poll that the last look found it in, and when a look found it there first.
    seen: Option<(Sign, Duration)>,
    /// It did not come out of that poll, and was replaced.
    stuck: bool,
}

impl Roster {
    /// One more slot. They are numbered from 1, and no number is given twice.
    pub(super) fn enter(&self) -> u64 {
        let mut members = self.lock();
        members.last += 1;
        let number = members.last;
        members.slots.insert(number, Member::default());
        number
    }

    /// It has ended.
    pub(super) fn leave(&self, number: u64) {
        if self.lock().slots.remove(&number).is_some_and(|slot| slot.stuck) {
            self.stuck.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Slots that answer, as far as is known.
    pub(super) fn sound(&self) -> usize {
        self.lock().slots.values().filter(|slot| !slot.stuck).count()
    }

    /// Slots that were replaced and have not ended yet.
    pub(super) fn stuck(&self) -> usize {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Whether another has taken its place, so that it has to leave.
    pub(super) fn is_replaced(&self, number: u64) -> bool {
        self.stuck() > 0 && self.lock().slots.get(&number).is_some_and(|slot| slot.stuck)
    }

    /// Compares what slots do with what they did, and counts out who has been in the same poll for `limit`: their numbers, each
    /// given once.
    pub(super) fn look(&self, signs: &[Sign], now: Duration, limit: Duration) -> Vec<u64> {
        let mut newly_stuck = Vec::new();
        let mut members = self.lock();
        for sign in signs {
            let Some(slot) = members.slots.get_mut(&sign.slot) else { continue };
            match slot.seen {
                Some((seen, since)) if seen == *sign && sign.is_in_a_poll() => {
                    if !slot.stuck && now.saturating_sub(since) >= limit {
                        slot.stuck = true;
                        newly_stuck.push(sign.slot);
                    }
                }
                _ => slot.seen = Some((*sign, now)),
            }
        }
        drop(members);
        self.stuck.fetch_add(newly_stuck.len(), Ordering::Relaxed);
        newly_stuck
    }

    /// The polls that those counted out did not come out of.
    pub(super) fn blocked(&self) -> Vec<Sign> {
        if self.stuck() == 0 {
            return Vec::new();
        }
        let stuck =
            |slot: &Member| slot.seen.filter(|(sign, _)| slot.stuck && sign.is_in_a_poll()).map(|(sign, _)| sign);
        self.lock().slots.values().filter_map(stuck).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn who_stays_in_one_poll_is_counted_out_once_after_the_limit() {
        let roster = Roster::default();
        let (first, second) = (roster.enter(), roster.enter());
        let stays = [Sign::of(first, 7, 3), Sign::of(second, 7, 4)];
        assert!(roster.look(&stays, seconds(100), LIMIT).is_empty(), "seen for the first time");
        assert!(roster.look(&stays, seconds(129), LIMIT).is_empty());
        assert_eq!((roster.sound(), roster.stuck()), (2, 0));
        assert_eq!(roster.look(&stays, seconds(130), LIMIT), [first], "the other one waits for something");
        assert!(roster.look(&stays, seconds(160), LIMIT).is_empty(), "once");
        assert_eq!((roster.sound(), roster.stuck()), (1, 1));
        assert_eq!(roster.blocked(), [stays[0]]);
        assert!(roster.is_replaced(first) && !roster.is_replaced(second));
        roster.leave(first);
        assert_eq!((roster.sound(), roster.stuck()), (1, 0));
        assert!(roster.blocked().is_empty());
        assert_eq!(roster.enter(), 3, "no number is given twice");
    }

    #[test]
    fn who_comes_to_another_poll_or_another_job_is_sound() {
        let roster = Roster::default();
        let slot = roster.enter();
        let signs = [Sign::of(slot, 7, 1), Sign::of(slot, 7, 3), Sign::of(slot, 8, 3), Sign::of(slot, 9, 1)];
        for (look, sign) in (0..).zip(signs) {
            assert!(roster.look(&[sign], seconds(look * 40), LIMIT).is_empty());
        }
        // It counts from the first look that found it there.
        assert!(roster.look(&signs[3..], seconds(149), LIMIT).is_empty());
        assert_eq!(roster.look(&signs[3..], seconds(150), LIMIT), [slot]);
        assert!(roster.look(&[Sign::of(99, 1, 1)], seconds(999), LIMIT).is_empty(), "one that has ended");
    }
}
