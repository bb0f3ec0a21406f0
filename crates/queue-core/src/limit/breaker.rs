//! A circuit breaker.

use std::time::Duration;

use super::{BreakerPolicy, RunEnd, recent::Recent};
use crate::event::BreakerState;

/// Runs are counted in slices of a 30th of the policy's time.
const SLICES: u32 = 30;

#[derive(Debug)]
pub(super) struct Breaker {
    policy: BreakerPolicy,
    state: State,
    /// Moves on with every change: a run that began before it says nothing of the time after.
    turn: u32,
}

#[derive(Debug)]
enum State {
    Closed(Recent),
    Open { until: Duration },
    HalfOpen { probing: u32, well: u32 },
}

/// What it was and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: BreakerState,
    pub(super) to: BreakerState,
}

impl Breaker {
    pub(super) fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: closed(&policy), turn: 0 }
    }

    /// Another policy from now on; its state stays.
    pub(super) fn change(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
        if let State::Closed(recent) = &mut self.state {
            recent.change(policy.within, policy.within / SLICES);
        }
    }

    pub(super) const fn state(&self) -> BreakerState {
        match self.state {
            State::Closed(_) => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// What time alone brings about.
    pub(super) fn advance(&mut self, now: Duration) -> Option<Change> {
        match self.state {
            State::Open { until } if until <= now => Some(self.turn_to(State::HalfOpen { probing: 0, well: 0 })),
            _ => None,
        }
    }

    pub(super) fn free(&self) -> u32 {
        match self.state {
            State::Closed(_) => u32::MAX,
            State::Open { .. } => 0,
            State::HalfOpen { probing, .. } => self.policy.probes.saturating_sub(probing),
        }
    }

    /// How long it stays open; `None` where that depends on probes.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        match self.state {
            State::Open { until } => Some(until.saturating_sub(now)),
            _ => None,
        }
    }

    /// Only where one is free. Returns the turn, for [`Self::end`].
    pub(super) fn take(&mut self) -> u32 {
        if let State::HalfOpen { probing, .. } = &mut self.state {
            *probing += 1;
        }
        self.turn
    }

    /// A run that began in that turn ended.
    pub(super) fn end(&mut self, turn: u32, how: RunEnd, now: Duration) -> Option<Change> {
        if turn != self.turn {
            return None;
        }
        let policy = self.policy;
        match (&mut self.state, how) {
            (State::Closed(recent), RunEnd::Succeeded | RunEnd::Failed) => {
                recent.add(now, how == RunEnd::Failed);
                let count = recent.count(now);
                let enough = count.bad >= u64::from(policy.failures);
                let opens = enough && count.bad as f64 >= policy.share * count.all as f64;
                (how == RunEnd::Failed && opens).then(|| self.open(now))
            }
            (State::HalfOpen { probing, well }, how) => {
                *probing = probing.saturating_sub(1);
                *well += u32::from(how == RunEnd::Succeeded);
                match how {
                    RunEnd::Failed => Some(self.open(now)),
                    RunEnd::Succeeded if *well >= policy.probes => Some(self.turn_to(closed(&policy))),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn open(&mut self, now: Duration) -> Change {
        self.turn_to(State::Open { until: now.saturating_add(self.policy.open_for) })
    }

    fn turn_to(&mut self, state: State) -> Change {
        let from = self.state();
        self.state = state;
        self.turn = self.turn.wrapping_add(1);
        Change { from, to: self.state() }
    }

    /// Closed, with nothing to remember.
    pub(super) fn is_idle(&mut self, now: Duration) -> bool {
        match &mut self.state {
            State::Closed(recent) => recent.count(now).all == 0,
            _ => false,
        }
    }

    /// What nobody asked for in so long need not be remembered as broken.
    pub(super) fn give_up(&mut self) -> Option<Change> {
        match self.state {
            State::Closed(_) => None,
            _ => Some(self.turn_to(closed(&self.policy))),
        }
    }
}

fn closed(policy: &BreakerPolicy) -> State {
    State::Closed(Recent::new(policy.within, policy.within / SLICES))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use BreakerState::{Closed, HalfOpen, Open};

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn policy() -> BreakerPolicy {
        BreakerPolicy { failures: 3, within: S(60), share: 0.5, open_for: S(30), probes: 2 }
    }

    fn run(breaker: &mut Breaker, how: RunEnd, now: Duration) -> Option<Change> {
        assert!(breaker.free() > 0);
        let turn = breaker.take();
        breaker.end(turn, how, now)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(policy());
        for _ in 0..2 {
            assert_eq!(run(&mut breaker, RunEnd::Failed, S(0)), None);
        }
        assert_eq!(run(&mut breaker, RunEnd::Failed, S(0)), Some(Change { from: Closed, to: Open }));
        breaker
    }

    #[test]
    fn it_opens_probes_and_closes() {
        let mut breaker = opened();
        assert_eq!((breaker.free(), breaker.next(S(10))), (0, Some(S(20))));
        assert_eq!(breaker.advance(S(29)), None);
        assert_eq!(breaker.advance(S(30)), Some(Change { from: Open, to: HalfOpen }));
        assert_eq!(breaker.advance(S(30)), None);
        let (one, two) = (breaker.take(), breaker.take());
        assert_eq!((breaker.free(), breaker.next(S(30))), (0, None));
        assert_eq!(breaker.end(one, RunEnd::Succeeded, S(31)), None);
        assert_eq!(breaker.free(), 1);
        assert_eq!(breaker.end(two, RunEnd::Succeeded, S(31)), Some(Change { from: HalfOpen, to: Closed }));
        assert!(breaker.is_idle(S(31)) && breaker.free() == u32::MAX);
    }

    #[test]
    fn one_failed_probe_opens_it_again_and_the_other_probe_says_nothing_more() {
        let mut breaker = opened();
        breaker.advance(S(30));
        let (one, two) = (breaker.take(), breaker.take());
        assert_eq!(breaker.end(one, RunEnd::Failed, S(31)), Some(Change { from: HalfOpen, to: Open }));
        assert_eq!(breaker.end(two, RunEnd::Failed, S(32)), None);
        assert_eq!(breaker.next(S(31)), Some(S(30)));
    }

    #[test]
    fn a_probe_that_says_nothing_gives_its_place_back() {
        for how in [RunEnd::Undecided, RunEnd::Unused] {
            let mut breaker = opened();
            breaker.advance(S(30));
            assert_eq!(run(&mut breaker, how, S(31)), None);
            assert_eq!((breaker.free(), breaker.state()), (2, HalfOpen));
        }
    }

    #[test]
    fn runs_from_before_it_opened_say_nothing() {
        let mut breaker = Breaker::new(policy());
        let old = breaker.take();
        for _ in 0..3 {
            run(&mut breaker, RunEnd::Failed, S(0));
        }
        breaker.advance(S(30));
        assert_eq!(breaker.end(old, RunEnd::Succeeded, S(30)), None);
        assert_eq!(breaker.end(old, RunEnd::Failed, S(30)), None);
        assert_eq!((breaker.state(), breaker.free()), (HalfOpen, 2));
    }

    #[test]
    fn failures_below_the_share_or_too_far_apart_do_not_open_it() {
        let mut breaker = Breaker::new(policy());
        for _ in 0..10 {
            for how in [RunEnd::Failed, RunEnd::Succeeded, RunEnd::Succeeded] {
                assert_eq!(run(&mut breaker, how, S(0)), None);
            }
        }
        let mut breaker = Breaker::new(policy());
        for minute in 0..10 {
            assert_eq!(run(&mut breaker, RunEnd::Failed, S(60 * minute)), None);
            assert_eq!(run(&mut breaker, RunEnd::Failed, S(60 * minute)), None);
        }
    }

    proptest! {
        /// Against its rule, told over again with every run kept: it opens exactly then, lets nothing run while it is open,
        /// never more probes than it may, and changes only along its arrows.
        #[test]
        fn it_keeps_its_rule(
            failures in 1u32..5, share in 0.0f64..=1.0, probes in 1u32..4,
            steps in prop::collection::vec((0u64..4_000, 0u8..6), 1..300),
        ) {
            // A slice is 31.25 ms; times in whole slices make the counter as exact as the model.
            let slice = Duration::from_micros(31_250);
            let policy = BreakerPolicy { failures, within: slice * 30, share, open_for: S(2), probes };
            let mut breaker = Breaker::new(policy);
            let mut now = Duration::ZERO;
            let (mut ended, mut under_way): (Vec<(Duration, bool)>, Vec<u32>) = (Vec::new(), Vec::new());
            let (mut opened_at, mut well) = (Duration::ZERO, 0);
            for (wait, what) in steps {
                now += slice * u32::try_from(wait / 100).unwrap() * 2;
                let before = breaker.state();
                if let Some(change) = breaker.advance(now) {
                    prop_assert_eq!(change, Change { from: Open, to: HalfOpen });
                    prop_assert!(now >= opened_at + policy.open_for);
                    well = 0;
                } else if before == Open {
                    prop_assert!(now < opened_at + policy.open_for);
                }
                if breaker.free() > 0 && what < 3 {
                    under_way.push(breaker.take());
                    continue;
                }
                let Some(turn) = under_way.pop() else { continue };
                let how = match what {
                    0 | 3 => RunEnd::Failed,
                    4 => RunEnd::Undecided,
                    _ => RunEnd::Succeeded,
                };
                let (current, before) = (turn == breaker.turn, breaker.state());
                let change = breaker.end(turn, how, now);
                let expected = match (current, before, how) {
                    (true, Closed, RunEnd::Succeeded | RunEnd::Failed) => {
                        ended.push((now, how == RunEnd::Failed));
                        let recent = ended.iter().filter(|(at, _)| now - *at < policy.within);
                        let (all, bad) = recent.fold((0u32, 0u32), |(all, bad), run| (all + 1, bad + u32::from(run.1)));
                        let opens = how == RunEnd::Failed && bad >= failures && f64::from(bad) >= share * f64::from(all);
                        opens.then_some(Change { from: Closed, to: Open })
                    }
                    (true, HalfOpen, RunEnd::Failed) => Some(Change { from: HalfOpen, to: Open }),
                    (true, HalfOpen, RunEnd::Succeeded) => {
                        well += 1;
                        (well >= probes).then_some(Change { from: HalfOpen, to: Closed })
                    }
                    _ => None,
                };
                prop_assert_eq!(change, expected);
                match change.map(|change| change.to) {
                    Some(Open) => opened_at = now,
                    Some(Closed) => ended.clear(),
                    _ => {}
                }
                prop_assert!(breaker.state() != HalfOpen || breaker.free() <= probes);
            }
        }
    }
}
