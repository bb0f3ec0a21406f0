//! Any order of publishes, claims, settlements, parks and cancels against a small reference of who is next.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod rig;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use queue_core::{
    Consumer, JobError, JobId, Priority, QueueProvider,
    clock::{Random as _, SeededRandom},
    job::{Headers, LimitKeys, RawHeaders},
    provider::{Cancel, ConsumeOptions, Delivery, Disposition, ParkKey, ReleaseReason},
    queue_spec::{Order, Partition},
};
use rig::{Rig, job, queue, reference, rig, settle};
use tokio::time::Instant;

const SEEDS: u64 = 30;
const STEPS: usize = 400;
const BOUND: Duration = Duration::from_secs(16);
/// What a job may be taken for older than it is.
const GRAIN: Duration = Duration::from_millis(500);
const LEVELS: [u8; 4] = [1, 5, 9, 15];
const KEYS: [&str; 2] = ["key a", "key b"];

/// What the reference knows of a job that is not over.
struct Known {
    level: u8,
    partition: String,
    /// Rises with each joining of the tail.
    rank: u64,
    since: Instant,
    at: At,
}

enum At {
    Later(Instant),
    Ready,
    Running(Delivery),
    Parked(&'static str),
}

#[derive(Default)]
struct Part {
    weight: u128,
    most: usize,
    pass: u128,
    /// The last claim went below the highest priority.
    owed: bool,
    joined: bool,
}

struct World {
    rig: Rig,
    consumer: Arc<dyn Consumer>,
    random: SeededRandom,
    aged: bool,
    known: BTreeMap<u64, Known>,
    parts: BTreeMap<String, Part>,
    pass: u128,
    ranks: u64,
    published: u64,
    claims: usize,
    /// Claims of something that was not of the highest priority.
    overdue: usize,
}

impl World {
    async fn new(seed: u64, aged: bool, parted: bool) -> Self {
        let partition = |weight, max_concurrency| Partition { weight, max_concurrency };
        let mut parts = BTreeMap::from([("default", partition(1, None))]);
        if parted {
            parts.extend([("a", partition(3, None)), ("b", partition(2, Some(2)))]);
        }
        let rig = rig(|spec| {
            if parted {
                spec.partitions = parts.iter().map(|(name, partition)| (Arc::from(*name), *partition)).collect();
            }
            if aged {
                spec.order = Order::Aged { bound: BOUND };
            }
        })
        .await;
        let reference = |partition: Partition| Part {
            weight: partition.weight.into(),
            most: partition.max_concurrency.map_or(usize::MAX, |most| most as usize),
            ..Part::default()
        };
        let mut options = ConsumeOptions::new("test", 10_000);
        options.lease = Duration::from_secs(600_000);
        Self {
            consumer: rig.provider.consumer(&queue(), options).await.unwrap(),
            rig,
            random: SeededRandom::new(seed),
            aged,
            known: BTreeMap::new(),
            parts: parts.into_iter().map(|(name, partition)| (name.to_owned(), reference(partition))).collect(),
            pass: 0,
            ranks: 0,
            published: 0,
            claims: 0,
            overdue: 0,
        }
    }

    fn below(&self, n: usize) -> usize {
        usize::try_from(self.random.next_u64() % n as u64).unwrap()
    }

    /// A random one of those.
    fn one(&self, which: impl Fn(&Known) -> bool) -> Option<u64> {
        let all: Vec<u64> = self.known.iter().filter(|(_, job)| which(job)).map(|(n, _)| *n).collect();
        (!all.is_empty()).then(|| all[self.below(all.len())])
    }

    fn join_tail(&mut self, n: u64) {
        self.ranks += 1;
        let job = self.known.get_mut(&n).unwrap();
        (job.rank, job.since, job.at) = (self.ranks, Instant::now(), At::Ready);
        self.rejoin();
    }

    fn ready(&self) -> impl Iterator<Item = (&u64, &Known)> {
        self.known.iter().filter(|(_, job)| matches!(job.at, At::Ready))
    }

    fn running(&self, partition: &str) -> usize {
        let runs = |job: &&Known| matches!(job.at, At::Running(_)) && job.partition == partition;
        self.known.values().filter(runs).count()
    }

    /// Who can be served and could not before begins where the others are.
    fn rejoin(&mut self) {
        let names: Vec<String> = self.parts.keys().cloned().collect();
        for name in names {
            let can =
                self.ready().any(|(_, job)| job.partition == name) && self.running(&name) < self.parts[&name].most;
            let (floor, part) = (self.pass, self.parts.get_mut(&name).unwrap());
            if can && !part.joined {
                part.pass = part.pass.max(floor);
            }
            part.joined = can;
        }
    }

    async fn publish(&mut self) {
        let n = self.published;
        self.published += 1;
        let names: Vec<String> = self.parts.keys().cloned().collect();
        let partition = names[self.below(names.len())].clone();
        let level = LEVELS[self.below(4)];
        let delay = (self.below(4) == 0).then(|| Duration::from_millis(1 + self.below(20_000) as u64));
        let keys = LimitKeys { partition: Some(partition.as_str().into()), ..LimitKeys::default() };
        let headers = RawHeaders::encode(&Headers { keys, ..Headers::default() }).unwrap();
        let now = Instant::now();
        let wall = rig::START + self.rig.now();
        let envelope = job(n).edit(|job| {
            job.priority = Priority::new(level).unwrap();
            job.headers = headers;
            job.not_before = delay.map(|delay| wall + delay);
        });
        assert!(self.rig.publish([envelope]).await[0].is_accepted());
        let at = delay.map_or(At::Ready, |delay| At::Later(now + delay));
        self.known.insert(n, Known { level, partition, rank: 0, since: now, at });
        if delay.is_none() {
            self.join_tail(n);
        }
    }

    async fn pass_time(&mut self) {
        tokio::time::advance(Duration::from_millis(self.below(3_000) as u64)).await;
        self.rig.provider.maintain(true).await.unwrap();
        let now = Instant::now();
        let due = |job: &Known| if let At::Later(due) = job.at { Some(due).filter(|due| *due <= now) } else { None };
        let mut all: Vec<(Instant, u64)> = self.known.iter().filter_map(|(n, job)| Some((due(job)?, *n))).collect();
        all.sort_unstable();
        all.into_iter().for_each(|(_, n)| self.join_tail(n));
    }

    async fn claim(&mut self) {
        let max = 1 + self.below(6);
        let got = self.consumer.fetch(max, Duration::ZERO).await.unwrap();
        let short = got.len() < max;
        for delivery in got {
            let n = (0..self.published).find(|n| JobId::derive(b"job", *n) == delivery.envelope.id).unwrap();
            self.is_next(n);
            self.known.get_mut(&n).unwrap().at = At::Running(delivery);
            self.rejoin();
        }
        if short {
            assert!(self.parts.values().all(|part| !part.joined), "somebody could have run");
        }
    }

    /// The job was claimed: was it its turn?
    fn is_next(&mut self, n: u64) {
        let job = &self.known[&n];
        assert!(matches!(job.at, At::Ready), "job {n} is not ready");
        let chosen = &self.parts[&job.partition];
        assert!(chosen.joined, "job {n}: partition {} is full", job.partition);
        let lowest = self.parts.values().filter(|part| part.joined).map(|part| part.pass).min().unwrap();
        assert_eq!(chosen.pass, lowest, "job {n}: it was not the turn of partition {}", job.partition);

        let own: Vec<&Known> =
            self.ready().map(|(_, job)| job).filter(|other| other.partition == job.partition).collect();
        let first = own.iter().filter(|other| other.level == job.level).map(|other| other.rank).min().unwrap();
        assert_eq!(job.rank, first, "job {n}: another one of its priority was before");
        let top = own.iter().map(|other| other.level).max().unwrap();
        let below = job.level < top;
        let now = Instant::now();
        if below {
            assert!(self.aged && !chosen.owed, "job {n}: it was the turn of priority {top}");
            assert!(now - job.since >= BOUND / 2 - GRAIN, "job {n} is not overdue after {:?}", now - job.since);
            self.overdue += 1;
        } else if self.aged && !chosen.owed {
            // Heads alone count: behind a head that came back to its place others may be older.
            let head = |level| own.iter().filter(|other| other.level == level).min_by_key(|other| other.rank);
            let late = LEVELS.into_iter().filter(|level| *level < top).filter_map(head);
            for late in late {
                assert!(now - late.since < BOUND / 2, "job {n}: one of priority {} is overdue", late.level);
            }
        }
        self.claims += 1;
        let (partition, pass) = (job.partition.clone(), chosen.pass);
        self.pass = self.pass.max(pass);
        let part = self.parts.get_mut(&partition).unwrap();
        part.owed = below;
        part.pass += (1 << 40) / part.weight;
    }

    async fn settle(&mut self) {
        let Some(n) = self.one(|job| matches!(job.at, At::Running(_))) else { return };
        let At::Running(delivery) = &self.known[&n].at else { unreachable!() };
        let key = KEYS[self.below(2)];
        let how = self.below(6);
        let disposition = match how {
            0 => Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown },
            1 => Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") },
            2 => Disposition::Park { key: ParkKey(key.into()), at_most: Duration::from_secs(1_000_000) },
            _ => rig::done(),
        };
        assert!(settle(&*self.consumer, delivery, disposition).await.is_settled());
        match how {
            0 => self.known.get_mut(&n).unwrap().at = At::Ready,
            1 => self.join_tail(n),
            2 => self.known.get_mut(&n).unwrap().at = At::Parked(key),
            _ => drop(self.known.remove(&n)),
        }
        self.rejoin();
    }

    fn parked(&self, key: &str) -> Vec<(u64, u64)> {
        let under = |job: &Known| matches!(job.at, At::Parked(at) if at == key);
        let mut parked: Vec<_> =
            self.known.iter().filter(|(_, job)| under(job)).map(|(n, job)| (job.rank, *n)).collect();
        parked.sort_unstable();
        parked
    }

    async fn unpark(&mut self) {
        let (key, most) = (KEYS[self.below(2)], 1 + self.below(4));
        let parked = self.parked(key);
        let expected = parked.len().min(most);
        assert_eq!(self.rig.provider.unpark(&queue(), &ParkKey(key.into()), most).await.unwrap(), expected);
        for (_, n) in &parked[..expected] {
            self.known.get_mut(n).unwrap().at = At::Ready;
        }
        self.rejoin();
    }

    async fn cancel(&mut self) {
        let Some(n) = self.one(|job| !matches!(job.at, At::Running(_))) else { return };
        self.rig.store.cancel(&[reference(n)], &Cancel::by("me")).await[0].as_ref().unwrap();
        self.known.remove(&n);
        self.rejoin();
    }

    async fn look(&self) {
        let admin = self.rig.provider.admin();
        let mut expected: Vec<(ParkKey, u64)> =
            KEYS.map(|key| (ParkKey(key.into()), self.parked(key).len() as u64)).into();
        expected.retain(|(_, jobs)| *jobs > 0);
        expected.sort_by_key(|(key, jobs)| (std::cmp::Reverse(*jobs), key.clone()));
        assert_eq!(admin.parked(&queue(), 9).await.unwrap(), expected);
        let Some(n) = self.one(|_| true) else { return };
        let job = &self.known[&n];
        let position = admin.position(&reference(n)).await.unwrap();
        assert_eq!(position.is_some(), matches!(job.at, At::Ready), "job {n}");
        if let Some(position) = position {
            let before = |other: &Known| (other.level, job.rank) > (job.level, other.rank);
            let own =
                self.ready().filter(|(_, other)| other.partition == job.partition && before(other)).count() as u64;
            let all = self.ready().count() as u64;
            assert!((own..all).contains(&position), "job {n}: {position}, of its own {own}, of all {all}");
            if self.parts.len() == 1 {
                assert_eq!(position, own, "job {n}");
            }
        }
    }

    async fn step(&mut self) {
        match self.below(16) {
            0..5 => self.publish().await,
            5..7 => self.pass_time().await,
            7..10 => self.claim().await,
            10..13 => self.settle().await,
            13 => self.unpark().await,
            14 => self.cancel().await,
            _ => self.look().await,
        }
    }
}

async fn walk(aged: bool, parted: bool) {
    let (mut claims, mut overdue) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed, aged, parted).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        claims += world.claims;
        overdue += world.overdue;
    }
    assert!(claims > 2_000, "{claims} claims prove little");
    assert_eq!(overdue > 100, aged, "{overdue} of {claims} claims of what was overdue");
}

#[tokio::test(start_paused = true)]
async fn strict() {
    walk(false, false).await;
}

#[tokio::test(start_paused = true)]
async fn aged() {
    walk(true, false).await;
}

#[tokio::test(start_paused = true)]
async fn strict_in_partitions() {
    walk(false, true).await;
}

#[tokio::test(start_paused = true)]
async fn aged_in_partitions() {
    walk(true, true).await;
}
