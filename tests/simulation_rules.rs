//! Each rule of the tracked layer, taken away: the simulator says what is lost. With it, the same seeds are clean.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod tracked_world;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use queue_layers::tracked::Rule;
use queue_testkit::simulation::{World, simulate};
use tracked_world::{Scene, TrackedWorld};

/// Where a rule is missed.
struct Find {
    rule: Rule,
    scene: Scene,
    world: fn() -> TrackedWorld,
    /// What the judge says there, in part.
    says: &'static str,
    /// Where it said so last. `cargo xtask simulate --rules` looks for others.
    seeds: &'static [u64],
}

macro_rules! finds {
    ($($rule:ident $scene:ident $world:ident $says:literal [$($seed:literal),*];)*) => {
        const FINDS: &[Find] = &[$(Find {
            rule: Rule::$rule,
            scene: Scene::$scene,
            world: TrackedWorld::$world,
            says: $says,
            seeds: &[$($seed),*],
        }),*];
    };
}

finds! {
    ConfirmNamesTheCopy Overtaken push "its record still says" [21];
    SweptIsAccepted Overtaken push "given out although it was refused" [42, 54];
    RefusedIsUnstaged Overtaken push "given out although it was refused" [0];
    SweepTriesAgain Overtaken push "its record still says" [0];
    RefusedForGoodIsDead Cut push "its record still says" [0];
    FollowUpsAreCheckedFirst Oversized push "not at an end" [0];
    UnstagedIsNotPublished Blind push "holds its unique key" [0];
    UnansweredIsNotConfirmed Blind visibility "its record still says" [0];
    StoreIsStamped Strangers push "its record still says" [0];
    ClaimAdopts StoreAway push "not at an end" [0];
    NoFenceNoRun StoreAway push "a beat says lost, and its lease stands" [0];
    UnansweredClaimGoesBack Any push "600s of calm were not enough" [23];
    AwayStopsFetching StoreAway push "fetches of a process brought jobs" [1];
    NothingIsAcknowledgedWhileAway StoreAway push "while its lease stood" [10];
    SettlementsWait StoreAway push "while its lease stood" [10];
    FullBufferStopsFetching Full push "no room for their settlements" [2, 10];
    WaitingLeasesAreExtended StoreAway visibility "while its lease stood" [10];
    KeysNeedTheStore StoreAway push "holds its unique key" [1];
    PublishingGoesOn StoreAway push "publishes of a process are not known" [0];
    DeadLeasesWait StoreAway push "while its lease stood" [39, 54];
    StoreSettlesFirst Full push "its record still says" [164, 180];
    RepeatGoesOn Any push "600s of calm were not enough" [8];
    LostCopyGoesBack Lapsing push "600s of calm were not enough" [3];
    LostCopyIsKept Full visibility "its record still says" [16, 45];
    RecordCountsStarts Any push "nothing says that it was given out before" [7];
    LeaseCountsFromTheAsking Lapsing visibility "runs while another of its handlers runs" [17, 35];
    BusyIsShort Parks push "600s of calm were not enough" [14];
    BusyIsKept Blind push "its record still says" [1];
    OutdatedIsDropped Any push "600s of calm were not enough" [7];
    ForeignIsLeftAlone Strangers log "its record still says" [0];
    SilentOnlyWhenEmpty Backlog push "was published twice" [3];
    SilentIsRepublished Losses push "its record still says" [0];
    LongDelaysAreHeld ShortDelays visibility "DelayTooLong" [0];
    PromisesFindRoom NoRoom push "has slept over it" [0];
    AcknowledgementsAreRepeated Any push "600s of calm were not enough" [7];
}

/// The simulator's transports count exactly, so that none of its worlds has an estimate. Shown by the rules' own tests alone.
const UNSEEN: Rule = Rule::AnEstimateIsProven;

/// Where none of its seeds shows a rule any more, so many are looked through, so that a change elsewhere breaks nothing here.
const LOOKED_THROUGH: u64 = 600;

/// So many seeds a rule are enough.
const ENOUGH: usize = 2;

/// What the judge said where the rule was missed, and all is well with it.
enum Seen {
    Missed(String),
    /// Another reason, or none.
    Nothing,
    /// Not clean with the rule either.
    Dirty(String),
}

impl Find {
    fn look(&self, seed: u64) -> Seen {
        let world = || (self.world)().scene(self.scene);
        let without: Arc<dyn World> = Arc::new(world().without(self.rule));
        let wrongs = simulate(&without, seed, false).wrongs;
        let Some(wrong) = wrongs.into_iter().find(|wrong| wrong.contains(self.says)) else { return Seen::Nothing };
        let with: Arc<dyn World> = Arc::new(world());
        match simulate(&with, seed, false).wrongs.into_iter().next() {
            None => Seen::Missed(wrong),
            Some(wrong) => Seen::Dirty(wrong),
        }
    }

    /// The first seed that shows what the rule is for, of those that did and then of others.
    ///
    /// # Errors
    /// What is wrong: no seed shows it, or one that is met on the way is not clean with the rule either.
    fn first(&self) -> Result<(u64, String), String> {
        let known = self.seeds.iter().copied();
        for seed in known.chain(0..LOOKED_THROUGH) {
            match self.look(seed) {
                Seen::Missed(wrong) => return Ok((seed, wrong)),
                Seen::Dirty(wrong) => return Err(format!("{self}: seed {seed} is not clean with the rule: {wrong}")),
                Seen::Nothing => {}
            }
        }
        Err(format!("{self}: nothing is lost without it, as far as {LOOKED_THROUGH} seeds tell"))
    }

    fn name(&self) -> String {
        format!("{:?} {:?} {}", self.rule, self.scene, (self.world)().name().trim_start_matches("tracked-"))
    }
}

impl fmt::Display for Find {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name(), self.says)
    }
}

/// On every core, in the order of the table.
fn of_each<T: Send>(finds: &[Find], work: impl Fn(&Find) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((number, find)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    finds.get(number).map(|find| (number, find))
                } {
                    let result = work(find);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn every_rule_is_here() {
    let mut rules = Rule::ALL.to_vec();
    rules.retain(|rule| *rule != UNSEEN);
    assert_eq!(FINDS.iter().map(|find| find.rule).collect::<Vec<_>>(), rules);
}

#[test]
fn without_a_rule_the_simulator_objects_and_with_it_the_same_seed_is_clean() {
    let mut missed = Vec::new();
    for (find, first) in FINDS.iter().zip(of_each(FINDS, Find::first)) {
        match first {
            Ok((seed, wrong)) => println!("{:<60} seed {seed:>3}: {wrong}", find.name()),
            Err(wrong) => missed.push(wrong),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Prints the table anew: `cargo xtask simulate --rules`.
#[test]
#[ignore = "looks for seeds, which takes minutes"]
fn look_for_seeds() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let (from, seeds) = (number("QUEUE_SEED", 0), number("QUEUE_SEEDS", 60));
    let wanted = std::env::var("QUEUE_RULE").unwrap_or_default();
    of_each(FINDS, |find| {
        if !find.name().contains(&wanted) {
            return;
        }
        let (mut found, mut dirty) = (Vec::new(), Vec::new());
        for seed in from..from + seeds {
            if found.len() >= ENOUGH {
                break;
            }
            match find.look(seed) {
                Seen::Missed(_) => found.push(seed),
                Seen::Nothing => {}
                Seen::Dirty(wrong) => dirty.push(format!("    // {seed} is not clean with it: {wrong}\n")),
            }
        }
        println!("{}    {find} {found:?};", dirty.concat());
    });
}
