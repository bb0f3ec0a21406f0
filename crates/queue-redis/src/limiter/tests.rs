//! The limiter on a real server whose scripts go by a clock that is set by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../tests/server/mod.rs"]
mod server;

use std::sync::Mutex;

use futures_util::StreamExt;
use proptest::prelude::*;
use queue_core::{
    Env,
    clock::{Clock, SeededRandom},
    job::{JobId, Timestamp},
    limit::{BreakerPolicy, LocalLimiter},
    provider::{ParkKey, QueueProvider},
};
use server::Server;

use super::*;
use crate::{RedisOptions, RedisProvider, link};

const LEASE: Duration = Duration::from_secs(30);
const S: fn(u64) -> Duration = Duration::from_secs;
/// A microsecond of the epoch to begin with.
const BEGIN: u64 = 1_700_000_000_000_000;

#[derive(Debug, Default)]
struct Hand(Mutex<Duration>);

impl Clock for Hand {
    fn read(&self) -> (Timestamp, Duration) {
        (Timestamp::from_millis(BEGIN / 1_000) + self.monotonic(), self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// A server with its provider, and the time there.
struct Rig {
    provider: RedisProvider,
    limiter: Arc<dyn Limiter>,
    clock: Arc<Hand>,
    _server: Server,
}

impl Rig {
    async fn new() -> Self {
        let server = Server::start().unwrap();
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
        let limiter = provider.limiter().unwrap();
        let rig = Self { provider, limiter, clock: Arc::default(), _server: server };
        rig.forward(Duration::ZERO).await;
        rig
    }

    async fn forward(&self, by: Duration) {
        let now = {
            let mut now = self.clock.0.lock().unwrap();
            *now += by;
            BEGIN + u64::try_from(now.as_micros()).unwrap()
        };
        self.ask(redis::cmd("SET").arg("test:clock").arg(now)).await;
    }

    async fn ask(&self, command: &redis::Cmd) -> redis::Value {
        self.provider.shared.link.ask(command).await.unwrap()
    }

    async fn acquire(&self, ask: &Ask) -> Grant {
        self.limiter.acquire(std::slice::from_ref(ask), LEASE).await.pop().unwrap()
    }

    async fn granted(&self, ask: &Ask) -> bool {
        matches!(self.acquire(ask).await, Grant::Granted)
    }

    async fn release(&self, ask: &Ask, how: RunEnd) {
        self.limiter.release(&[(ask.clone(), how)]).await.unwrap();
    }

    async fn free(&self, need: &Need) -> u32 {
        self.limiter.room(std::slice::from_ref(need)).await.pop().unwrap().unwrap().free
    }

    /// Keys of the limiter besides its stream.
    async fn keys(&self) -> Vec<String> {
        let keys = items(self.ask(redis::cmd("KEYS").arg("queue:limits:*")).await).unwrap();
        let mut keys: Vec<_> = keys.into_iter().map(|key| link::text(key).unwrap()).collect();
        keys.retain(|key| !key.ends_with(":e"));
        keys.sort();
        keys
    }
}

fn need(key: &str, limit: Limit) -> Need {
    Need { key: ParkKey(key.into()), limit }
}

fn ask(number: u64, needs: &[Need]) -> Ask {
    Ask { holder: Holder { job: JobId::derive(b"job", number), epoch: number }, needs: needs.to_vec() }
}

const ONE: Limit = Limit::Concurrency { max: 1 };
const TWO_A_SECOND: Limit = Limit::SlidingWindow { max: 2, per: Duration::from_secs(1) };

#[tokio::test]
async fn all_or_nothing() {
    let rig = Rig::new().await;
    let (rate, one) = (need("rate:a", TWO_A_SECOND), need("concurrency:b", ONE));
    assert!(rig.granted(&ask(1, std::slice::from_ref(&one))).await);
    let both = ask(2, &[rate.clone(), one.clone()]);
    assert!(matches!(rig.acquire(&both).await, Grant::Refused { need: 1, retry_after: None }));
    assert_eq!(rig.free(&rate).await, 2, "what it was refused for another key it has not taken");
    rig.release(&ask(1, &[]), RunEnd::Succeeded).await;
    assert!(rig.granted(&both).await);
    assert_eq!((rig.free(&rate).await, rig.free(&one).await), (1, 0));
}

#[tokio::test]
async fn asking_and_releasing_again_changes_nothing() {
    let rig = Rig::new().await;
    let needs = [need("rate:a", TWO_A_SECOND), need("concurrency:b", Limit::Concurrency { max: 3 })];
    let mine = ask(1, &needs);
    assert!(rig.granted(&mine).await && rig.granted(&mine).await);
    assert_eq!((rig.free(&needs[0]).await, rig.free(&needs[1]).await), (1, 2));
    for _ in 0..2 {
        rig.release(&mine, RunEnd::Unused).await;
        assert_eq!((rig.free(&needs[0]).await, rig.free(&needs[1]).await), (2, 3));
    }
    // Another delivery of the same job is another holder.
    let next = Ask { holder: Holder { epoch: 9, ..mine.holder }, ..mine.clone() };
    assert!(rig.granted(&mine).await && rig.granted(&next).await);
    assert_eq!((rig.free(&needs[0]).await, rig.free(&needs[1]).await), (0, 1));
}

#[tokio::test]
async fn what_is_not_renewed_is_given_back_when_its_lease_ends() {
    let rig = Rig::new().await;
    let two = need("concurrency:a", Limit::Concurrency { max: 2 });
    let (kept, lost) = (ask(1, std::slice::from_ref(&two)), ask(2, std::slice::from_ref(&two)));
    assert!(rig.granted(&kept).await && rig.granted(&lost).await);
    for _ in 0..3 {
        rig.forward(LEASE / 3).await;
        rig.limiter.renew(&[kept.holder, ask(7, &[]).holder], LEASE).await.unwrap();
    }
    assert_eq!(rig.free(&two).await, 1);
    rig.release(&lost, RunEnd::Failed).await;
    assert_eq!(rig.free(&two).await, 1);
    rig.forward(LEASE).await;
    assert_eq!(rig.free(&two).await, 2);
    assert_eq!(rig.keys().await, [""; 0], "nothing is left of it");
}

#[tokio::test]
async fn all_processes_are_counted_together() {
    let rig = Rig::new().await;
    let url = rig._server.url();
    let other = RedisProvider::connect(&RedisOptions::new(url), &Env::system()).await.unwrap().limiter().unwrap();
    assert_eq!((rig.limiter.scope(), other.scope()), (StoreScope::Shared, StoreScope::Shared));
    let one = need("concurrency:a", ONE);
    let (mine, theirs) = (ask(1, std::slice::from_ref(&one)), ask(2, std::slice::from_ref(&one)));
    assert!(rig.granted(&mine).await);
    let refused = other.acquire(std::slice::from_ref(&theirs), LEASE).await;
    assert!(matches!(refused[..], [Grant::Refused { need: 0, retry_after: None }]));
    // The first process dies: what it held is free when its lease ends.
    rig.forward(LEASE).await;
    assert!(matches!(other.acquire(&[theirs], LEASE).await[..], [Grant::Granted]));
}

#[tokio::test]
async fn a_key_named_twice_is_taken_once() {
    let rig = Rig::new().await;
    let one = need("concurrency:a", ONE);
    let twice = ask(1, &[one.clone(), one.clone()]);
    assert!(rig.granted(&twice).await);
    rig.release(&twice, RunEnd::Succeeded).await;
    assert_eq!(rig.free(&one).await, 1);
}

#[tokio::test]
async fn a_changed_rule_counts_what_was_counted() {
    let rig = Rig::new().await;
    let with = |limit| need("k", limit);
    assert!(rig.granted(&ask(1, &[with(ONE)])).await);
    assert_eq!(rig.free(&with(Limit::Concurrency { max: 5 })).await, 4);
    assert_eq!(rig.free(&with(ONE)).await, 0);
    let window = |max, per| need("w", Limit::SlidingWindow { max, per: S(per) });
    assert!(rig.granted(&ask(2, &[window(9, 10)])).await);
    rig.forward(S(5)).await;
    assert_eq!((rig.free(&window(3, 10)).await, rig.free(&window(3, 5)).await), (2, 3));
    let bucket = |rate, burst| need("b", Limit::TokenBucket { rate, per: S(1), burst });
    for job in 10..14 {
        assert!(rig.granted(&ask(job, &[bucket(1, 10)])).await);
    }
    assert_eq!((rig.free(&bucket(1, 20)).await, rig.free(&bucket(1, 3)).await), (6, 3));
    // Of another sort: it begins anew.
    assert_eq!(rig.free(&need("b", TWO_A_SECOND)).await, 2);
    // From starts one by one to slices.
    let grown = |max| need("g", Limit::SlidingWindow { max, per: S(10) });
    assert!(rig.granted(&ask(20, &[grown(5)])).await);
    assert_eq!(rig.free(&grown(2_000)).await, 1_999);
}

#[tokio::test]
async fn each_change_of_a_breaker_is_told_once() {
    let rig = Rig::new().await;
    let policy = BreakerPolicy { failures: 2, open_for: S(30), ..BreakerPolicy::default() };
    let breaker = need("breaker:a", Limit::Breaker(policy));
    let mut told = rig.limiter.watch();
    // It says nothing until it listens.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let run = async |number, how| {
        let ask = ask(number, std::slice::from_ref(&breaker));
        assert!(rig.granted(&ask).await);
        for _ in 0..2 {
            rig.release(&ask, how).await;
        }
    };
    run(1, RunEnd::Failed).await;
    run(2, RunEnd::Failed).await;
    let refused = rig.acquire(&ask(3, std::slice::from_ref(&breaker))).await;
    assert!(matches!(refused, Grant::Refused { need: 0, retry_after: Some(wait) } if wait == S(30)), "{refused:?}");
    rig.forward(S(30)).await;
    for _ in 0..2 {
        assert_eq!(rig.free(&breaker).await, 1);
    }
    run(4, RunEnd::Succeeded).await;
    use BreakerState::{Closed, HalfOpen, Open};
    let begin = BEGIN / 1_000;
    for expected in [(Closed, Open, begin), (Open, HalfOpen, begin + 30_000), (HalfOpen, Closed, begin + 30_000)] {
        let next = tokio::time::timeout(S(10), told.next()).await.unwrap();
        let Some(Watched::Event(event)) = next else { panic!("{next:?}") };
        assert_eq!(&*event.key.0, "breaker:a");
        assert_eq!((event.from, event.to, event.at.as_millis()), expected);
    }
}

#[tokio::test]
async fn a_start_given_back_after_its_window_leaves_that_of_another() {
    let rig = Rig::new().await;
    let window = [need("k", Limit::SlidingWindow { max: 2, per: S(10) })];
    let [first, second] = [ask(1, &window), ask(2, &window)];
    assert!(rig.granted(&first).await);
    rig.forward(S(11)).await;
    // Nothing is left to remember, so the key is forgotten while the first still runs.
    assert!(rig.granted(&second).await);
    rig.release(&second, RunEnd::Unused).await;
    assert!(rig.granted(&second).await);
    rig.release(&first, RunEnd::Unused).await;
    assert_eq!(rig.free(&window[0]).await, 1);
}

#[tokio::test]
async fn a_large_window_is_small_in_memory_and_never_exceeded() {
    let rig = Rig::new().await;
    let large = need("rate:a", Limit::SlidingWindow { max: 3_000, per: S(10) });
    let mut begun: Vec<(Duration, u64)> = Vec::new();
    let mut number = 0;
    for _ in 0..60 {
        let asks: Vec<Ask> = (0..170).map(|n| ask(number + n, std::slice::from_ref(&large))).collect();
        number += 170;
        let grants = rig.limiter.acquire(&asks, LEASE).await;
        let granted = grants.iter().filter(|grant| matches!(grant, Grant::Granted)).count();
        begun.push((rig.clock.monotonic(), granted as u64));
        rig.forward(Duration::from_millis(331)).await;
    }
    for (first, (from, _)) in begun.iter().enumerate() {
        let stretch = begun[first..].iter().take_while(|(at, _)| *at - *from < S(10));
        assert!(stretch.map(|(_, count)| count).sum::<u64>() <= 3_000);
    }
    let all: u64 = begun.iter().map(|(_, count)| count).sum();
    assert!(all >= 5_800, "{all} in nearly 20 s of 3,000 in 10 s");
    let slices = rig.ask(redis::cmd("ZCARD").arg("queue:limits:{all}:w:rate:a")).await;
    assert!(number_of(&slices) <= 1_002, "{slices:?}");
}

fn number_of(value: &redis::Value) -> i64 {
    number(value).unwrap()
}

#[tokio::test]
async fn a_key_that_says_nothing_new_is_not_kept() {
    let rig = Rig::new().await;
    for limit in [ONE, Limit::TokenBucket { rate: 1, per: S(1), burst: 3 }, TWO_A_SECOND] {
        let run = ask(1, &[need("k", limit)]);
        assert!(rig.granted(&run).await);
        assert!(!rig.keys().await.is_empty());
        rig.release(&run, RunEnd::Unused).await;
        assert_eq!(rig.keys().await, [""; 0], "{limit:?}");
    }
    // What does say something goes when its time has passed, though nobody comes by.
    assert!(rig.granted(&ask(2, &[need("rate:b", TWO_A_SECOND)])).await);
    for key in ["m:rate:b", "w:rate:b"] {
        let left = rig.ask(redis::cmd("PTTL").arg(format!("queue:limits:{{all}}:{key}"))).await;
        assert!((1..=1_000).contains(&number_of(&left)), "{key}: {left:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask { job: u64, keys: Vec<usize> },
    End { job: u64, how: u8 },
    Renew { job: u64 },
    Room,
    Wait { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0u64..12, prop::collection::vec(0usize..5, 1..4)).prop_map(|(job, keys)| Step::Ask { job, keys }),
        4 => (0u64..12, 0u8..4).prop_map(|(job, how)| Step::End { job, how }),
        1 => (0u64..12).prop_map(|job| Step::Renew { job }),
        1 => Just(Step::Room),
        2 => (0u64..900 * SLOWER).prop_map(|millis| Step::Wait { millis }),
    ]
}

/// The rig's clock moves by the steps alone, but Redis expires keys by its own: no test is to be so slow that it sees that.
const SLOWER: u64 = 100;

fn limits() -> [Limit; 5] {
    let slow = |millis| Duration::from_millis(millis * SLOWER);
    let window = |max, per| Limit::SlidingWindow { max, per: slow(per) };
    let policy = BreakerPolicy { failures: 2, within: slow(3_000), share: 0.4, open_for: slow(1_000), probes: 2 };
    let bucket = Limit::TokenBucket { rate: 3, per: slow(2_000), burst: 4 };
    [window(3, 1_000), window(2, 700), Limit::Concurrency { max: 2 }, bucket, Limit::Breaker(policy)]
}

/// The same steps on the limiter that counts for one process, which is tested against its definition.
async fn compare(steps: Vec<Step>) -> Result<(), TestCaseError> {
    const LEASE: Duration = Duration::from_secs(2 * SLOWER);
    let rig = Rig::new().await;
    let env = Env { clock: Arc::clone(&rig.clock) as Arc<dyn Clock>, random: Arc::new(SeededRandom::new(1)) };
    let model = LocalLimiter::new(&env);
    let needs_of =
        |keys: &[usize]| keys.iter().map(|key| need(&format!("k{key}"), limits()[*key])).collect::<Vec<Need>>();
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Wait { millis } => rig.forward(Duration::from_millis(millis)).await,
            Step::Renew { job } => {
                for limiter in [&*rig.limiter, &model as &dyn Limiter] {
                    limiter.renew(&[ask(job, &[]).holder], LEASE).await.unwrap();
                }
            }
            Step::End { job, how } => {
                let how = [RunEnd::Succeeded, RunEnd::Failed, RunEnd::Undecided, RunEnd::Unused][usize::from(how)];
                for limiter in [&*rig.limiter, &model as &dyn Limiter] {
                    limiter.release(&[(ask(job, &[]), how)]).await.unwrap();
                }
            }
            Step::Room => {
                let needs = needs_of(&[0, 1, 2, 3, 4]);
                let (found, expected) = (rig.limiter.room(&needs).await, model.room(&needs).await);
                for (found, expected) in found.into_iter().zip(expected) {
                    let (found, expected) = (found.unwrap(), expected.unwrap());
                    prop_assert_eq!((found.free, found.breaker), (expected.free, expected.breaker), "step {}", at);
                    same_wait(found.next, expected.next)?;
                }
            }
            Step::Ask { job, keys } => {
                let asked = [ask(job, &needs_of(&keys))];
                let found = rig.limiter.acquire(&asked, LEASE).await.pop().unwrap();
                let expected = model.acquire(&asked, LEASE).await.pop().unwrap();
                match (&found, &expected) {
                    (Grant::Granted, Grant::Granted) => {}
                    (
                        Grant::Refused { need: one, retry_after: wait },
                        Grant::Refused { need: other, retry_after: expected },
                    ) => {
                        prop_assert_eq!(one, other, "step {}", at);
                        same_wait(*wait, *expected)?;
                    }
                    _ => prop_assert!(false, "step {}: {:?} instead of {:?}", at, found, expected),
                }
            }
        }
    }
    Ok(())
}

/// To the microsecond, rounded up.
fn same_wait(found: Option<Duration>, expected: Option<Duration>) -> Result<(), TestCaseError> {
    let close = match (found, expected) {
        (Some(found), Some(expected)) => found.abs_diff(expected) <= Duration::from_micros(1),
        (found, expected) => found == expected,
    };
    prop_assert!(close, "{:?} instead of {:?}", found, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn it_grants_what_the_limiter_of_one_process_grants(steps in prop::collection::vec(step(), 1..250)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare(steps))?;
    }
}
