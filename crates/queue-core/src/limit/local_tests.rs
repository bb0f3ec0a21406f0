//! The limiter against a model that knows every run.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::{
    clock::{Clock, SeededRandom},
    event::BreakerState,
    job::{JobId, Timestamp},
    limit::{BreakerPolicy, Limit},
};

/// A clock that is set by hand.
#[derive(Debug, Default)]
struct Hand(Mutex<Duration>);

impl Clock for Hand {
    fn read(&self) -> (Timestamp, Duration) {
        (Timestamp::from_millis(1_000) + self.monotonic(), self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

impl Hand {
    fn forward(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

const LEASE: Duration = Duration::from_secs(30);
const S: fn(u64) -> Duration = Duration::from_secs;

fn limiter() -> (LocalLimiter, Arc<Hand>) {
    let clock = Arc::new(Hand::default());
    let env = Env { clock: Arc::clone(&clock) as Arc<dyn Clock>, random: Arc::new(SeededRandom::new(1)) };
    (LocalLimiter::new(&env), clock)
}

fn need(key: &str, limit: Limit) -> Need {
    Need { key: ParkKey(key.into()), limit }
}

fn ask(number: u64, needs: &[Need]) -> Ask {
    Ask { holder: Holder { job: JobId::derive(b"job", number), epoch: number }, needs: needs.to_vec() }
}

/// Nothing here ever waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().unwrap()
}

fn acquire(limiter: &LocalLimiter, ask: &Ask) -> Grant {
    now(limiter.acquire(std::slice::from_ref(ask), LEASE)).pop().unwrap()
}

fn granted(limiter: &LocalLimiter, ask: &Ask) -> bool {
    matches!(acquire(limiter, ask), Grant::Granted)
}

fn release(limiter: &LocalLimiter, ask: &Ask, how: RunEnd) {
    now(limiter.release(&[(ask.clone(), how)])).unwrap();
}

fn free(limiter: &LocalLimiter, need: &Need) -> u32 {
    now(limiter.room(std::slice::from_ref(need))).pop().unwrap().unwrap().free
}

const ONE: Limit = Limit::Concurrency { max: 1 };
const TWO_A_SECOND: Limit = Limit::SlidingWindow { max: 2, per: Duration::from_secs(1) };

#[test]
fn all_or_nothing() {
    let (limiter, _) = limiter();
    let (rate, one) = (need("rate:a", TWO_A_SECOND), need("concurrency:b", ONE));
    assert!(granted(&limiter, &ask(1, std::slice::from_ref(&one))));
    let both = ask(2, &[rate.clone(), one.clone()]);
    assert!(matches!(acquire(&limiter, &both), Grant::Refused { need: 1, retry_after: None }));
    assert_eq!(free(&limiter, &rate), 2, "what it was refused for another key it has not taken");
    release(&limiter, &ask(1, &[]), RunEnd::Succeeded);
    assert!(granted(&limiter, &both));
    assert_eq!((free(&limiter, &rate), free(&limiter, &one)), (1, 0));
}

#[test]
fn asking_and_releasing_again_changes_nothing() {
    let (limiter, _) = limiter();
    let needs = [need("rate:a", TWO_A_SECOND), need("concurrency:b", Limit::Concurrency { max: 3 })];
    let mine = ask(1, &needs);
    assert!(granted(&limiter, &mine) && granted(&limiter, &mine));
    assert_eq!((free(&limiter, &needs[0]), free(&limiter, &needs[1])), (1, 2));
    for _ in 0..2 {
        release(&limiter, &mine, RunEnd::Unused);
        assert_eq!((free(&limiter, &needs[0]), free(&limiter, &needs[1])), (2, 3));
    }
    // Another delivery of the same job is another holder.
    let next = Ask { holder: Holder { epoch: 9, ..mine.holder }, ..mine.clone() };
    assert!(granted(&limiter, &mine) && granted(&limiter, &next));
    assert_eq!((free(&limiter, &needs[0]), free(&limiter, &needs[1])), (0, 1));
}

#[test]
fn what_is_not_renewed_is_given_back_when_its_lease_ends() {
    let (limiter, clock) = limiter();
    let two = need("concurrency:a", Limit::Concurrency { max: 2 });
    let (kept, lost) = (ask(1, std::slice::from_ref(&two)), ask(2, std::slice::from_ref(&two)));
    assert!(granted(&limiter, &kept) && granted(&limiter, &lost));
    for _ in 0..3 {
        clock.forward(LEASE / 3);
        now(limiter.renew(&[kept.holder, ask(7, &[]).holder], LEASE)).unwrap();
    }
    assert_eq!(free(&limiter, &two), 1);
    release(&limiter, &lost, RunEnd::Failed);
    assert_eq!((free(&limiter, &two), limiter.lock().permits.len()), (1, 1));
    clock.forward(LEASE);
    assert_eq!((free(&limiter, &two), limiter.lock().permits.len()), (2, 0));
}

#[test]
fn a_key_named_twice_is_taken_once() {
    let (limiter, _) = limiter();
    let one = need("concurrency:a", ONE);
    let twice = ask(1, &[one.clone(), one.clone()]);
    assert!(granted(&limiter, &twice));
    release(&limiter, &twice, RunEnd::Succeeded);
    assert_eq!(free(&limiter, &one), 1);
}

#[test]
fn a_changed_rule_counts_what_was_counted() {
    let (limiter, clock) = limiter();
    let with = |limit| need("k", limit);
    assert!(granted(&limiter, &ask(1, &[with(ONE)])));
    assert_eq!(free(&limiter, &with(Limit::Concurrency { max: 5 })), 4);
    assert_eq!(free(&limiter, &with(ONE)), 0);
    let window = |max, per| need("w", Limit::SlidingWindow { max, per: S(per) });
    assert!(granted(&limiter, &ask(2, &[window(9, 10)])));
    clock.forward(S(5));
    assert_eq!((free(&limiter, &window(3, 10)), free(&limiter, &window(3, 5))), (2, 3));
    let bucket = |rate, burst| need("b", Limit::TokenBucket { rate, per: S(1), burst });
    (10..14).for_each(|job| assert!(granted(&limiter, &ask(job, &[bucket(1, 10)]))));
    assert_eq!((free(&limiter, &bucket(1, 20)), free(&limiter, &bucket(1, 3))), (6, 3));
    // Of another sort: it begins anew.
    assert_eq!(free(&limiter, &need("b", TWO_A_SECOND)), 2);
}

#[test]
fn each_change_of_a_breaker_is_told_once() {
    let (limiter, clock) = limiter();
    let policy = BreakerPolicy { failures: 2, open_for: S(30), ..BreakerPolicy::default() };
    let breaker = need("breaker:a", Limit::Breaker(policy));
    let mut told = limiter.watch();
    let run = |number, how| {
        let ask = ask(number, std::slice::from_ref(&breaker));
        assert!(granted(&limiter, &ask));
        (0..2).for_each(|_| release(&limiter, &ask, how));
    };
    run(1, RunEnd::Failed);
    run(2, RunEnd::Failed);
    assert!(matches!(
        acquire(&limiter, &ask(3, std::slice::from_ref(&breaker))),
        Grant::Refused { need: 0, retry_after: Some(wait) } if wait == S(30)
    ));
    clock.forward(S(30));
    (0..2).for_each(|_| assert_eq!(free(&limiter, &breaker), 1));
    run(4, RunEnd::Succeeded);
    let mut changes = Vec::new();
    while let Some(Some(Watched::Event(event))) = told.next().now_or_never() {
        assert_eq!(&*event.key.0, "breaker:a");
        changes.push((event.from, event.to, event.at.as_millis()));
    }
    use BreakerState::{Closed, HalfOpen, Open};
    assert_eq!(changes, [(Closed, Open, 1_000), (Open, HalfOpen, 31_000), (HalfOpen, Closed, 31_000)]);
}

#[test]
fn idle_keys_are_forgotten_and_busy_ones_are_not() {
    let (limiter, clock) = limiter();
    let tenant = |number: u64| {
        let key = format!("tenant:{number}");
        [need(&key, TWO_A_SECOND), need(&format!("{key}#running"), ONE)]
    };
    let kept = ask(0, &tenant(0));
    assert!(granted(&limiter, &kept));
    for number in 1..100_000 {
        let ask = ask(number, &tenant(number));
        assert!(granted(&limiter, &ask));
        release(&limiter, &ask, RunEnd::Succeeded);
        clock.forward(Duration::from_millis(10));
        now(limiter.renew(&[kept.holder], LEASE)).unwrap();
        assert!(limiter.lock().keys.len() < 1_000, "{}", limiter.lock().keys.len());
    }
    assert_eq!(free(&limiter, &tenant(0)[1]), 0);
}

#[test]
fn a_key_that_a_run_holds_is_not_forgotten_for_another() {
    let (limiter, clock) = limiter();
    let bucket = |key: &str| need(key, Limit::TokenBucket { rate: 1, per: S(10), burst: 1 });
    let held = ask(0, &[bucket("held")]);
    assert!(granted(&limiter, &held));
    // It is full again, and many others come.
    clock.forward(S(20));
    let others: Vec<Ask> = (1..1_000).map(|number| ask(number, &[bucket(&format!("other:{number}"))])).collect();
    others.iter().for_each(|other| assert!(granted(&limiter, other)));
    release(&limiter, &held, RunEnd::Unused);
    assert!(others.iter().all(|other| free(&limiter, &other.needs[0]) == 0), "nobody else got its token back");
}

#[test]
fn a_breaker_that_nobody_asks_for_is_not_kept_for_ever() {
    let (limiter, clock) = limiter();
    let policy = BreakerPolicy { failures: 1, ..BreakerPolicy::default() };
    for number in 0..200 {
        let ask = ask(number, &[need(&format!("breaker:{number}"), Limit::Breaker(policy))]);
        assert!(granted(&limiter, &ask));
        release(&limiter, &ask, RunEnd::Failed);
    }
    let other = need("concurrency:x", Limit::Concurrency { max: 1_000_000 });
    let use_it =
        |from| (from..from + 400).for_each(|number| _ = granted(&limiter, &ask(number, std::slice::from_ref(&other))));
    use_it(1_000);
    assert_eq!(limiter.lock().keys.len(), 201);
    let mut told = limiter.watch();
    clock.forward(S(3_600));
    use_it(2_000);
    assert!(limiter.lock().keys.len() <= 129, "{}", limiter.lock().keys.len());
    let Some(Some(Watched::Event(event))) = told.next().now_or_never() else { panic!("not told") };
    assert_eq!((event.from, event.to), (BreakerState::Open, BreakerState::Closed));
}

#[derive(Debug, Clone)]
enum Step {
    Ask { job: u64, keys: Vec<usize> },
    End { job: u64, how: u8 },
    Renew { job: u64 },
    Wait { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..12, prop::collection::vec(0usize..4, 1..4)).prop_map(|(job, keys)| Step::Ask { job, keys }),
        3 => (0u64..12, 0u8..4).prop_map(|(job, how)| Step::End { job, how }),
        1 => (0u64..12).prop_map(|job| Step::Renew { job }),
        2 => (0u64..900).prop_map(|millis| Step::Wait { millis }),
    ]
}

/// The definition, told over again with every run kept.
#[derive(Default)]
struct Model {
    now: Duration,
    /// When it ends, since when it runs, and its keys.
    held: BTreeMap<u64, (Duration, Duration, Vec<usize>)>,
    /// Which key began when.
    begun: Vec<(usize, Duration)>,
}

impl Model {
    const LEASE: Duration = Duration::from_secs(2);

    fn limits() -> [Limit; 4] {
        let window = |max, per| Limit::SlidingWindow { max, per: Duration::from_millis(per) };
        [window(3, 1_000), window(2, 700), Limit::Concurrency { max: 2 }, Limit::Concurrency { max: 3 }]
    }

    fn lapse(&mut self) {
        let now = self.now;
        self.held.retain(|_, (until, ..)| *until > now);
    }

    fn has_room(&self, key: usize) -> bool {
        match Self::limits()[key] {
            Limit::SlidingWindow { max, per } => {
                let counted = |(other, at): &&(usize, Duration)| *other == key && self.now - *at < per;
                self.begun.iter().filter(counted).count() < max as usize
            }
            Limit::Concurrency { max } => {
                self.held.values().filter(|(_, _, keys)| keys.contains(&key)).count() < max as usize
            }
            _ => true,
        }
    }
}

proptest! {
    /// It grants exactly what the definition does, and names the first key that has no room.
    #[test]
    fn it_grants_what_its_definition_grants(steps in prop::collection::vec(step(), 1..250)) {
        let (limiter, clock) = limiter();
        let mut model = Model::default();
        let needs_of = |keys: &[usize]| -> Vec<Need> {
            keys.iter().map(|key| need(&format!("k{key}"), Model::limits()[*key])).collect()
        };
        for step in steps {
            match step {
                Step::Wait { millis } => {
                    clock.forward(Duration::from_millis(millis));
                    model.now += Duration::from_millis(millis);
                    model.lapse();
                }
                Step::Renew { job } => {
                    now(limiter.renew(&[ask(job, &[]).holder], Model::LEASE)).unwrap();
                    if let Some((until, ..)) = model.held.get_mut(&job) {
                        *until = model.now + Model::LEASE;
                    }
                }
                Step::End { job, how } => {
                    let how = [RunEnd::Succeeded, RunEnd::Failed, RunEnd::Undecided, RunEnd::Unused][usize::from(how)];
                    release(&limiter, &ask(job, &[]), how);
                    if let Some((_, began, keys)) = model.held.remove(&job) && how == RunEnd::Unused {
                        for key in keys {
                            let start = model.begun.iter().position(|start| *start == (key, began));
                            model.begun.swap_remove(start.unwrap());
                        }
                    }
                }
                Step::Ask { job, keys } => {
                    let asked = ask(job, &needs_of(&keys));
                    let grant = now(limiter.acquire(&[asked], Model::LEASE)).pop().unwrap();
                    if let Some((until, ..)) = model.held.get_mut(&job) {
                        *until = model.now + Model::LEASE;
                        prop_assert!(matches!(grant, Grant::Granted));
                        continue;
                    }
                    match keys.iter().position(|key| !model.has_room(*key)) {
                        Some(first) => {
                            let named = matches!(grant, Grant::Refused { need, .. } if need == first);
                            prop_assert!(named, "{:?} instead of a refusal by {}", grant, first);
                        }
                        None => {
                            prop_assert!(matches!(grant, Grant::Granted), "{:?}", grant);
                            let mut keys = keys.clone();
                            keys.sort_unstable();
                            keys.dedup();
                            // Concurrency has no start to remember.
                            model.begun.extend(keys.iter().map(|key| (*key, model.now)));
                            model.held.insert(job, (model.now + Model::LEASE, model.now, keys));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_key_is_as_small_as_it_is_said_to_be() {
    use std::mem::size_of;
    // Beside its name: the key itself, its place in the table and in the slab.
    let key = size_of::<crate::limit::keys::Key>() + 2 * (size_of::<ParkKey>() + size_of::<usize>());
    assert!(key <= 300, "{key}");
    assert!(size_of::<Holder>() + size_of::<Permit>() + 2 * size_of::<(usize, u32)>() <= 120);
    const { assert!(crate::limit::recent::SLICE <= 48) };
}
