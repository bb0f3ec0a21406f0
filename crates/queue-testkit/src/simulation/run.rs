//! One seed, from its first call to its verdict.

use std::{fmt, sync::Arc, time::Duration};

use futures_core::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use queue_core::{
    QueueName, QueueProvider, Result,
    provider::{DeadFilter, ParkKey},
    store::{Lookup, Watch, Watched},
};
use tokio::task::JoinHandle;

use super::{
    Sim,
    bias::PARKED_BY_HAND,
    life::Life,
    plan::Plan,
    promises::Promises,
    roles::{Desk, Role, Stop},
    shadow::{Shadow, Truth},
    world::{Backend, World},
};

/// How a seed ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The world.
    pub world: &'static str,
    /// What was found wrong; nothing, if all is well.
    pub wrongs: Vec<String>,
    /// What happened, a line each, where the run was traced.
    pub trace: Vec<String>,
    /// The same for the same run, traced or not.
    pub digest: u64,
    /// In few words.
    pub summary: String,
    /// How long it took, of its own time.
    pub virtual_time: Duration,
}

impl Outcome {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.wrongs.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, world, summary, .. } = self;
        let verdict = if self.is_clean() { "clean" } else { "NOT CLEAN" };
        writeln!(
            f,
            "seed {seed} in the world `{world}`: {verdict} after {:.1} s; {summary}",
            self.virtual_time.as_secs_f64()
        )?;
        self.wrongs.iter().try_for_each(|wrong| writeln!(f, "  WRONG: {wrong}"))
    }
}

/// How long everything may take to come to an end once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A process that was asked to stop has its drain, its grace and its last settlements.
const LAST_WORDS: Duration = Duration::from_secs(90);

/// Runs one seed in one world, on a runtime of its own with a clock of its own. `traced` keeps what happened.
#[must_use]
pub fn simulate(world: &Arc<dyn World>, seed: u64, traced: bool) -> Outcome {
    let built = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => return failed(world, seed, format!("no runtime: {error}")),
    };
    runtime.block_on(async {
        let promises = world.promises();
        let plan = Arc::new(Plan::draw(seed, &promises, world.bias()));
        let shadow = Shadow::new(promises.clone(), plan.weather.is_calm());
        let sim = Sim::new(seed, plan.weather.clone(), shadow, traced);
        let stage = match Stage::set(world, &sim, plan, promises).await {
            Ok(stage) => stage,
            Err(error) => return failed(world, seed, format!("the world did not open: {error}")),
        };
        stage.play().await;
        Outcome {
            seed,
            world: world.name(),
            wrongs: sim.judge(|shadow, _| shadow.wrongs().to_vec()),
            trace: sim.trace().lines(),
            digest: sim.trace().digest(),
            summary: sim.judge(|shadow, _| shadow.summary()),
            virtual_time: sim.env().clock.monotonic(),
        }
    })
}

fn failed(world: &Arc<dyn World>, seed: u64, wrong: String) -> Outcome {
    Outcome {
        seed,
        world: world.name(),
        wrongs: vec![wrong],
        trace: Vec::new(),
        digest: 0,
        summary: String::new(),
        virtual_time: Duration::ZERO,
    }
}

/// Everything that one run has to do with.
struct Stage {
    sim: Sim,
    plan: Arc<Plan>,
    promises: Promises,
    backend: Arc<dyn Backend>,
    truth: Arc<dyn QueueProvider>,
    desks: Vec<Arc<Desk>>,
}

type Events = Option<BoxStream<'static, Watched>>;

impl Stage {
    async fn set(world: &Arc<dyn World>, sim: &Sim, plan: Arc<Plan>, promises: Promises) -> Result<Self> {
        let backend = world.open(sim).await?;
        let truth = backend.truth().await?;
        for spec in &plan.queues {
            truth.declare(spec).await?;
        }
        let desk = |producer| {
            let jobs = plan.jobs.iter().filter(|job| job.producer == producer).cloned().collect();
            Arc::new(Desk::new(jobs))
        };
        let desks = (0..plan.producers).map(desk).collect();
        Ok(Self { sim: sim.clone(), plan, promises, backend, truth, desks })
    }

    async fn play(&self) {
        let mut events = match self.truth.job_store() {
            Some(store) => store.watch(Watch::All).await.ok(),
            None => None,
        };
        let stop = Stop::default();
        let processes = self.begin(&stop);
        let troubles = tokio::spawn(trouble(
            self.sim.clone(),
            Arc::clone(&self.plan),
            self.promises.clone(),
            Arc::clone(&self.backend),
        ));
        let end = self.plan.storm;
        while self.sim.env().clock.monotonic() < end && self.look(&mut events) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        troubles.abort();
        let _ = troubles.await;
        self.calm_down().await;
        if self.look(&mut events) && self.drain(&mut events).await {
            stop.tell();
            self.farewell(processes).await;
            self.look(&mut events);
            let truth = self.read_truth().await;
            self.sim.judge(|shadow, at| shadow.finish(at, &truth));
        } else {
            processes.iter().for_each(JoinHandle::abort);
            join_all(processes).await;
        }
    }

    fn begin(&self, stopped: &Stop) -> Vec<JoinHandle<()>> {
        let producers =
            self.desks.iter().enumerate().map(|(n, desk)| (format!("producer-{n}"), Role::Producer(Arc::clone(desk))));
        let workers = (0..self.plan.workers).map(|n| (format!("worker-{n}"), Role::Worker));
        let hands = (0..self.plan.hands).map(|n| (format!("hand-{n}"), Role::Hand));
        let operators = (0..self.plan.operators).map(|n| (format!("operator-{n}"), Role::Operator));
        let all = producers.chain(workers).chain(hands).chain(operators);
        let tend = |(name, role)| {
            let (sim, plan, backend) = (self.sim.clone(), Arc::clone(&self.plan), Arc::clone(&self.backend));
            tokio::spawn(tend(sim, plan, backend, name, role, stopped.clone()))
        };
        all.map(tend).collect()
    }

    /// Hears what was told and looks at what is. `false` once something is wrong: the rest would only blur it.
    fn look(&self, events: &mut Events) -> bool {
        self.sim.judge(|shadow, at| {
            while let Some(Some(Some(watched))) = events.as_mut().map(|events| events.next().now_or_never()) {
                shadow.told(&watched);
            }
            if !self.sim.is_away() {
                shadow.look(at);
            }
            shadow.wrongs().is_empty()
        })
    }

    /// Nothing goes wrong any more.
    async fn calm_down(&self) {
        self.sim.end_storm();
        self.sim.set_away(false);
        self.sim.set_store_away(false);
        self.sim.note("STAGE", 3, || "nothing goes wrong any more".to_owned());
        self.sim.judge(|shadow, at| shadow.reachable_again(at));
        for spec in &self.plan.queues {
            self.backend.refuse(&spec.name, 0, 0);
            self.resume(&spec.name).await;
        }
    }

    async fn resume(&self, queue: &QueueName) {
        if self.truth.admin().pause(queue, false).await.is_ok() {
            self.sim.judge(|shadow, at| shadow.paused(at, queue, false));
        }
    }

    /// Where jobs are parked for longer than anybody waits.
    async fn let_go(&self, queue: &QueueName) {
        if self.plan.bias.parks.is_none() {
            return;
        }
        let key = ParkKey(PARKED_BY_HAND.into());
        if let Ok(n) = self.truth.unpark(queue, &key, 100).await {
            self.sim.judge(|shadow, _| shadow.unparked(queue, &key, n));
        }
    }

    /// Waits until everything came to an end.
    async fn drain(&self, events: &mut Events) -> bool {
        let until = self.sim.env().clock.monotonic() + PATIENCE;
        loop {
            if !self.look(events) {
                return false;
            }
            let submitted = self.desks.iter().all(|desk| desk.is_clear());
            let open = self.sim.judge(|shadow, at| shadow.open(at));
            if submitted && open.is_empty() && self.is_empty().await {
                return true;
            }
            if self.sim.env().clock.monotonic() > until {
                let truth = self.read_truth().await;
                self.sim.judge(|shadow, _| {
                    if !submitted {
                        shadow.wrong("a producer has not submitted all it was to");
                    }
                    for stats in truth.stats.iter().filter(|stats| stats.waiting() + stats.running > 0) {
                        let (queue, waiting, running) = (&stats.queue, stats.waiting(), stats.running);
                        shadow.wrong(format!("{queue} still shows {waiting} waiting and {running} running"));
                    }
                    for (id, found) in &truth.records {
                        if let Lookup::Found(record) = found
                            && !record.state.is_terminal()
                        {
                            let (state, known) = (record.state, shadow.describe(*id));
                            shadow.wrong(format!("its record still says {state}: {known}"));
                        }
                    }
                    for id in open.iter().take(4) {
                        let text = format!("not at an end after {PATIENCE:?} of calm: {}", shadow.describe(*id));
                        shadow.wrong(text);
                    }
                    shadow.wrong(format!("{PATIENCE:?} of calm were not enough"));
                });
                return false;
            }
            // Somebody may have paused a queue with the last call of his life.
            for spec in &self.plan.queues {
                self.resume(&spec.name).await;
                self.let_go(&spec.name).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn is_empty(&self) -> bool {
        let names: Vec<QueueName> = self.plan.queues.iter().map(|spec| spec.name.clone()).collect();
        let stats = self.truth.admin().stats(&names).await;
        stats.iter().flatten().all(|stats| stats.waiting() + stats.running == 0)
    }

    /// Every process stops when it is asked to.
    async fn farewell(&self, processes: Vec<JoinHandle<()>>) {
        let aborts: Vec<_> = processes.iter().map(JoinHandle::abort_handle).collect();
        if tokio::time::timeout(LAST_WORDS, join_all(processes)).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
            self.sim.judge(|shadow, _| shadow.wrong(format!("a process did not stop within {LAST_WORDS:?}")));
        }
    }

    async fn read_truth(&self) -> Truth {
        let mut truth = Truth::default();
        let known = self.sim.judge(|shadow, _| shadow.known());
        if let Some(store) = self.truth.job_store() {
            for (job, found) in known.iter().zip(store.get(&known).await) {
                truth.records.insert(job.id, found.unwrap_or(Lookup::Unknown));
            }
        }
        let admin = self.truth.admin();
        let names: Vec<QueueName> = self.plan.queues.iter().map(|spec| spec.name.clone()).collect();
        truth.stats = admin.stats(&names).await.into_iter().flatten().collect();
        for name in &names {
            if let Ok(page) = admin.dead(name, &DeadFilter::default(), None, 1_000).await {
                truth.dead.extend(page.items.iter().map(|dead| dead.id));
            }
        }
        truth
    }
}

/// Lets a process live, die, and live again.
async fn tend(sim: Sim, plan: Arc<Plan>, backend: Arc<dyn Backend>, name: String, role: Role, stop: Stop) {
    for generation in 0.. {
        let life = Life::begin(&sim, &name, generation);
        let Ok(provider) = backend.connect(&life).await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        let (role, plan) = (role.clone(), Arc::clone(&plan));
        let mut living = tokio::spawn(role.live(life.clone(), provider, plan, stop.clone()));
        let killed = life.dice().chance(sim.weather().doomed / 4.0);
        let moment = life.dice().millis(200, 9_000);
        let ended = tokio::select! {
            biased;
            () = life.death() => false,
            ended = &mut living => {
                if let Err(error) = ended {
                    sim.judge(|shadow, _| shadow.wrong(format!("{name} panicked: {error}")));
                }
                true
            }
            () = tokio::time::sleep(moment), if killed => {
                let strikes = sim.is_stormy();
                if strikes {
                    life.die("at a moment of its own");
                } else {
                    let _ = (&mut living).await;
                }
                !strikes
            }
        };
        if ended {
            life.exit();
        } else {
            living.abort();
            // Its tasks are dropped before another life begins.
            let _ = living.await;
        }
        tokio::task::yield_now().await;
        if stop.is_told() {
            return;
        }
        tokio::time::sleep(life.dice().millis(20, 2_000)).await;
    }
}

/// What befalls all at once: the broker is away, or breaks every connection; the wall clock is set.
async fn trouble(sim: Sim, plan: Arc<Plan>, promises: Promises, backend: Arc<dyn Backend>) {
    let dice = sim.dice("trouble", 0);
    let weather = &plan.weather;
    let mut kinds = Vec::new();
    let mut add = |count: u64, kind: Kind| (0..count).for_each(|_| kinds.push((dice.millis(100, 10_000), kind)));
    add(weather.outages, Kind::Outage(dice.millis(100, 5_000)));
    if promises.restarts {
        add(weather.restarts, Kind::Restart);
    }
    add(weather.refusals, Kind::Refusal);
    add(weather.jumps, Kind::Jump);
    add(weather.losses, Kind::Loss);
    add(u64::from(weather.cut), Kind::Cut);
    for _ in 0..weather.store_outages {
        kinds.push((dice.millis(100, 5_000), Kind::StoreOutage(dice.millis(500, 8_000))));
    }
    kinds.sort_by_key(|(at, _)| *at);
    for (at, kind) in kinds {
        tokio::time::sleep(at.saturating_sub(sim.env().clock.monotonic())).await;
        match kind {
            Kind::Outage(time) => {
                sim.note("STAGE", 4, || format!("nothing can be reached for {time:?}"));
                sim.set_away(true);
                tokio::time::sleep(time).await;
                sim.set_away(false);
                sim.note("STAGE", 5, || "everything can be reached again".to_owned());
                sim.judge(|shadow, at| shadow.reachable_again(at));
            }
            Kind::Restart => {
                sim.note("STAGE", 6, || "the broker restarts".to_owned());
                backend.restart().await;
                sim.judge(|shadow, at| shadow.restarted(at));
            }
            Kind::Refusal => {
                let (publishes, dead_letters) = (dice.between(0, 3), dice.between(0, 2));
                let count = |n: u64| usize::try_from(n).unwrap_or(0);
                for spec in &plan.queues {
                    backend.refuse(&spec.name, count(publishes), count(dead_letters));
                }
                sim.judge(|shadow, _| shadow.hindered());
                sim.note("STAGE", 10, || format!("{publishes} publishes and {dead_letters} dead letters are refused"));
            }
            Kind::StoreOutage(time) => {
                sim.note("STAGE", 11, || format!("the store cannot be reached for {time:?}"));
                sim.set_store_away(true);
                tokio::time::sleep(time).await;
                sim.set_store_away(false);
                sim.note("STAGE", 12, || "the store can be reached again".to_owned());
            }
            Kind::Loss => {
                sim.note("STAGE", 13, || "the transport loses what waits".to_owned());
                for spec in &plan.queues {
                    backend.lose(&spec.name).await;
                }
            }
            Kind::Cut => {
                let Some(spec) = plan.queues.last() else { continue };
                sim.note("STAGE", 14, || format!("nothing reaches {} any more", spec.name));
                backend.cut(&spec.name);
                sim.judge(|shadow, _| shadow.cut_off(&spec.name));
            }
            Kind::Jump => {
                // What was to start at a time of the wall clock waits for it: no longer than patience lasts.
                let by = i64::try_from(dice.between(0, 180_000)).unwrap_or(0) - 90_000;
                sim.note("STAGE", 7, || format!("the wall clock is set by {by} ms"));
                sim.clock().jump(by);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Outage(Duration),
    Restart,
    Refusal,
    Jump,
    StoreOutage(Duration),
    Loss,
    Cut,
}
