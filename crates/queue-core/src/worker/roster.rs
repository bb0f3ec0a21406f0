//! Who is in a pool: its slots, and which of them answer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::pulse::Pulse;

/// The slots of one pool. Looked at by its crew, by the heartbeat's thread and by who asks how it is doing; a slot itself never
/// does.
#[derive(Debug, Default)]
pub(super) struct Roster(Mutex<Members>);

#[derive(Debug, Default)]
struct Members {
    last: u64,
    slots: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    number: u64,
    pulse: Arc<Pulse>,
    /// What the last look saw, and since when it sees just that.
    seen: u64,
    since: Duration,
    /// It did not answer, and was replaced.
    stuck: bool,
}

/// What a slot knows of itself.
#[derive(Debug)]
pub(super) struct Post {
    /// From 1; no number is given twice.
    pub(super) number: u64,
    pub(super) pulse: Arc<Pulse>,
}

impl Roster {
    /// One more slot.
    pub(super) fn enter(&self) -> Post {
        let mut members = self.lock();
        members.last += 1;
        let (number, pulse) = (members.last, Arc::<Pulse>::default());
        let member = Member { number, pulse: Arc::clone(&pulse), seen: 0, since: Duration::ZERO, stuck: false };
        members.slots.push(member);
        Post { number, pulse }
    }

    /// It has ended.
    pub(super) fn leave(&self, number: u64) {
        self.lock().slots.retain(|slot| slot.number != number);
    }

    /// Slots that answer, as far as is known.
    pub(super) fn sound(&self) -> usize {
        self.lock().slots.iter().filter(|slot| !slot.stuck).count()
    }

    /// Slots that were replaced and have not ended yet.
    pub(super) fn stuck(&self) -> usize {
        self.lock().slots.iter().filter(|slot| slot.stuck).count()
    }

    /// Slots that answer, but have not begun to work yet.
    pub(super) fn fresh(&self) -> usize {
        self.lock().slots.iter().filter(|slot| slot.pulse.count() == 0).count()
    }

    /// Feels every pulse, and counts out who has been in the same poll for `limit`: their numbers, each given once.
    pub(super) fn feel(&self, now: Duration, limit: Duration) -> Vec<u64> {
        let mut newly_stuck = Vec::new();
        for slot in &mut self.lock().slots {
            let count = slot.pulse.count();
            if count != slot.seen || count % 2 == 0 {
                (slot.seen, slot.since) = (count, now);
            } else if !slot.stuck && now.saturating_sub(slot.since) >= limit {
                slot.stuck = true;
                slot.pulse.replace();
                newly_stuck.push(slot.number);
            }
        }
        newly_stuck
    }

    /// Those counted out that are in that very poll still.
    pub(super) fn blocked(&self) -> Vec<u64> {
        let members = self.lock();
        let blocked = members.slots.iter().filter(|slot| slot.stuck && slot.pulse.count() == slot.seen);
        blocked.map(|slot| slot.number).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Waker},
    };

    use super::{super::pulse::Pulsing, *};

    const LIMIT: Duration = Duration::from_secs(30);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn poll_once(work: impl Future) {
        let _ = pin!(work).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Looks at a roster from within a poll of its only slot.
    fn within_a_poll(look: impl Fn(&Roster, &Pulse)) -> Roster {
        let roster = Roster::default();
        let Post { pulse, .. } = roster.enter();
        poll_once(Pulsing::new(Arc::clone(&pulse), async { look(&roster, &pulse) }));
        roster
    }

    #[test]
    fn who_stays_in_one_poll_is_counted_out_once_after_the_limit() {
        let roster = within_a_poll(|roster, _| {
            assert!(roster.feel(seconds(100), LIMIT).is_empty(), "seen for the first time");
            assert!(roster.feel(seconds(129), LIMIT).is_empty());
            assert_eq!((roster.sound(), roster.stuck()), (1, 0));
            assert_eq!(roster.feel(seconds(130), LIMIT), [1]);
            assert!(roster.feel(seconds(160), LIMIT).is_empty(), "once");
            assert_eq!((roster.sound(), roster.stuck(), roster.blocked()), (0, 1, vec![1]));
        });
        // It came back: not blocked any more, and it leaves.
        assert_eq!((roster.stuck(), roster.blocked()), (1, vec![]));
        roster.leave(1);
        assert_eq!((roster.sound(), roster.stuck()), (0, 0));
        assert_eq!(roster.enter().number, 2, "no number is given twice");
    }

    #[test]
    fn who_takes_job_after_job_in_one_poll_or_sleeps_is_sound() {
        let roster = within_a_poll(|roster, pulse| {
            for now in 0..10 {
                assert!(roster.feel(seconds(now * 30), LIMIT).is_empty());
                pulse.step();
            }
        });
        for now in 10..20 {
            assert!(roster.feel(seconds(now * 30), LIMIT).is_empty());
        }
    }

    #[test]
    fn the_limit_counts_from_the_first_look_at_that_poll() {
        within_a_poll(|roster, pulse| {
            roster.feel(seconds(0), LIMIT);
            pulse.step();
            assert!(roster.feel(seconds(29), LIMIT).is_empty());
            assert!(roster.feel(seconds(58), LIMIT).is_empty());
            assert_eq!(roster.feel(seconds(59), LIMIT), [1]);
        });
    }
}
