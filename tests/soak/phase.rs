//! One phase: servers, workers and producers, and the same fault again and again under load.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use anyhow::Result;
use queue_core::{Env, JobScheduler, QueueName, provider::Durability};

use super::{
    blow::{Blow, World as _},
    fleet::{Fleet, SLOTS, WORKERS},
    judge::{self, Fault, Verdict},
    load::{self, LEASE, Load, dice},
    now,
    producers::Producers,
    scene::Scene,
    show::Bar,
    stop,
    worker::connect,
};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase<B> {
    pub(crate) name: &'static str,
    pub(crate) blow: B,
    /// At scale 1.
    pub(crate) jobs: u64,
    pub(crate) faults: u64,
    /// The time from fault to fault.
    pub(crate) cycle: Duration,
    pub(crate) durability: Option<Durability>,
    /// Whether a loss is a failure, or what is to be measured.
    pub(crate) judged: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Figures<B> {
    pub(crate) phase: Phase<B>,
    pub(crate) seed: u64,
    pub(crate) jobs: u64,
    pub(crate) planned: u64,
    pub(crate) faults: Vec<Fault>,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
    /// Somebody asked it to stop: what waits is not lost.
    pub(crate) interrupted: bool,
    /// Why it did not come to its end.
    pub(crate) trouble: Option<String>,
    /// What was seen beside the jobs and must not be.
    pub(crate) complaints: Vec<String>,
}

impl<B: Blow> Figures<B> {
    /// The longest time until a worker consumed again; `None` where one did not.
    pub(crate) fn longest(&self) -> Option<Duration> {
        let times = self.faults.iter().flat_map(|fault| &fault.recovery).map(|(_, time)| *time);
        times.collect::<Option<Vec<_>>>().map(|times| times.into_iter().max().unwrap_or_default())
    }

    pub(crate) fn is_good(&self) -> bool {
        !self.interrupted
            && self.trouble.is_none()
            && self.complaints.is_empty()
            && self.verdict.is_clean()
            && self.longest().is_some_and(|longest| longest <= self.phase.blow.limit())
    }
}

/// A worker that is deaf for so long stays deaf.
const DEAF: Duration = Duration::from_secs(60);
/// What is left when the producers have stopped takes no longer.
const DRAIN: Duration = Duration::from_secs(120);

impl<B: Blow> Phase<B> {
    fn scaled(&self, scale: f64) -> (u64, u64) {
        let jobs = (self.jobs as f64 * scale).ceil() as u64;
        let faults = (self.faults as f64 * scale).round() as u64;
        (jobs, faults.clamp(1, self.faults))
    }

    pub(crate) async fn perform(&self, scale: f64, seed: u64, home: &Path, bar: &Bar) -> Result<Figures<B>> {
        let start = tokio::time::Instant::now();
        let (jobs, planned) = self.scaled(scale);
        let home = home.join(self.name);
        std::fs::create_dir_all(&home)?;
        bar.begin(self.name, jobs, planned);
        let mut world = self.blow.world(&home).await?;
        let queue = QueueName::new(self.name)?;
        let scheduler = JobScheduler::with_env(connect(&world.url()).await?, Env::system());
        scheduler.declare(load::spec(queue.clone(), self.durability)).await?;
        // As long as the faults take, at the rate at which so many slots run them.
        let run = self.cycle * u32::try_from(planned * (WORKERS * SLOTS) as u64).unwrap_or(u32::MAX)
            / u32::try_from(jobs).unwrap_or(u32::MAX);
        let load = Load { seed, queue: queue.clone(), run };
        let mut fleet = Fleet::start(&home, &world.url(), &queue, self.blow.lease(), WORKERS)?;
        let producers = Producers::start(&scheduler, &load, fleet.ended.clone());
        let mut faults = Vec::new();
        let mut scene = Scene {
            fleet: &mut fleet,
            producers: &producers,
            scheduler: &scheduler,
            load: &load,
            bar,
            scale,
            planned,
            number: 0,
            dice: 0,
            complaints: Vec::new(),
        };
        let done = self.blows(&mut world, &mut scene, &mut faults, jobs).await;
        let mut complaints = scene.complaints;
        complaints.extend(producers.late());
        let published = producers.stop().await;
        let done = match done {
            Ok(()) => drain(&mut fleet, &scheduler, &queue).await,
            failed => failed,
        };
        fleet.stop(if stop::asked() { Duration::ZERO } else { LEASE }).await?;
        let left = visible(&scheduler, &queue).await;
        // What went wrong is told with the figures, not instead of them.
        let trouble = done.and(left.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error}")));
        let trouble = trouble.err().map(|error| format!("{error:#}"));
        let left = left.unwrap_or(0);
        let mut verdict = judge::judge(&load, &published, &fleet, &faults, &scheduler, left).await?;
        if stop::asked() {
            verdict.stuck.clear();
        }
        scheduler.close().await?;
        if !stop::asked() {
            complaints.extend(world.finish().await?);
        }
        let jobs = published.len() as u64;
        let (took, interrupted) = (start.elapsed(), stop::asked());
        Ok(Figures { phase: *self, seed, jobs, planned, faults, verdict, took, interrupted, trouble, complaints })
    }

    async fn blows(
        &self,
        world: &mut B::World,
        scene: &mut Scene<'_>,
        faults: &mut Vec<Fault>,
        jobs: u64,
    ) -> Result<()> {
        let (seed, planned) = (scene.load.seed, scene.planned);
        let first = scene.fleet.recovery(0, 0, DEAF).await?;
        anyhow::ensure!(first.iter().all(|(_, time)| time.is_some()), "a worker never began: {first:?}");
        for number in 0..planned {
            (scene.number, scene.dice) = (number, dice(seed, number, 8));
            let pause = self.cycle.mul_f64(0.2 + dice(seed, number, 7) as f64 / u64::MAX as f64 * 0.6);
            let due = tokio::time::Instant::now() + pause;
            let share = jobs * (number + 1) / (planned + 1);
            let mut watch = Watch::new(scene);
            while tokio::time::Instant::now() < due || scene.producers.begun() < share {
                if stop::asked() {
                    return Ok(());
                }
                watch.look(scene).await?;
            }
            world.heal().await?;
            let began = now();
            let strike = self.blow.strike(world, scene).await?;
            let recovery = scene.fleet.recovery(strike.counts_from, strike.over, DEAF).await?;
            let deaf = recovery.iter().any(|(_, time)| time.is_none());
            faults.push(Fault { what: strike.what, began, at: strike.over, struck: strike.struck, recovery });
            anyhow::ensure!(!deaf, "a worker consumes nothing any more");
        }
        scene.number = planned;
        let mut watch = Watch::new(scene);
        while scene.producers.begun() < jobs && !stop::asked() {
            watch.look(scene).await?;
        }
        Ok(())
    }
}

/// Sees to it that jobs end as time goes on.
#[derive(Debug)]
struct Watch {
    ended: u64,
    since: tokio::time::Instant,
}

impl Watch {
    fn new(scene: &Scene<'_>) -> Self {
        Self { ended: scene.fleet.ended.load(Ordering::Relaxed), since: tokio::time::Instant::now() }
    }

    async fn look(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        scene.look()?;
        let ended = scene.fleet.ended.load(Ordering::Relaxed);
        if ended != self.ended {
            (self.ended, self.since) = (ended, tokio::time::Instant::now());
        }
        anyhow::ensure!(self.since.elapsed() < DEAF, "no job ended for {DEAF:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }
}

/// Waits until nothing is left to be done: at the end, and after a Ctrl-C for two leases at most.
async fn drain(fleet: &mut Fleet, scheduler: &JobScheduler, queue: &QueueName) -> Result<()> {
    let start = tokio::time::Instant::now();
    loop {
        fleet.look()?;
        let limit = if stop::asked() { Duration::ZERO } else { DRAIN + 2 * LEASE };
        let stats = scheduler.stats(queue).await?;
        if stats.pending + stats.scheduled + stats.retrying + stats.running == 0 || start.elapsed() > limit {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the queue still shows, the dead included.
async fn visible(scheduler: &JobScheduler, queue: &QueueName) -> queue_core::Result<u64> {
    let stats = scheduler.stats(queue).await?;
    Ok(stats.pending + stats.scheduled + stats.retrying + stats.running + stats.dead)
}
