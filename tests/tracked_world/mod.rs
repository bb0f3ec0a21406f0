//! Worlds for the simulator: the tracked layer over each model, with every fault and crash between the layer and its
//! transport, and between the layer and its store.

mod scene;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{QueueName, QueueProvider, Result, store::TrackingStore};
use queue_layers::{Options, Tracked, tracked::Rule};
use queue_memory::MemoryTracking;
use queue_testkit::{
    models::{Broker, LogModel, PushModel, Shape, VisibilityModel},
    simulation::{Backend, Bias, Life, Promises, Sim, World},
};

pub(crate) use scene::Scene;

/// Tracked jobs over one of the models.
#[derive(Debug, Clone)]
pub(crate) struct TrackedWorld {
    name: &'static str,
    shape: Shape,
    without: Option<Rule>,
    scene: Scene,
}

impl TrackedWorld {
    fn of(name: &'static str, shape: impl Into<Shape>) -> Self {
        Self { name, shape: shape.into(), without: None, scene: Scene::Any }
    }

    pub(crate) fn push() -> Self {
        Self::of("tracked-push", PushModel::default())
    }

    pub(crate) fn log() -> Self {
        Self::of("tracked-log", LogModel::default())
    }

    pub(crate) fn visibility() -> Self {
        Self::of("tracked-visibility", VisibilityModel::default())
    }

    /// The same under other circumstances.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn scene(self, scene: Scene) -> Self {
        let shape = match self.shape {
            Shape::Visibility(model) if scene == Scene::ShortDelays => {
                VisibilityModel { max_delay: Duration::from_millis(500), ..model }.into()
            }
            shape => shape,
        };
        Self { scene, shape, ..self }
    }

    /// The same with a rule of the layer taken away.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn without(self, rule: Rule) -> Self {
        Self { without: Some(rule), ..self }
    }

    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn all() -> [Self; 3] {
        [Self::push(), Self::log(), Self::visibility()]
    }
}

#[async_trait]
impl World for TrackedWorld {
    fn name(&self) -> &'static str {
        self.name
    }

    fn promises(&self) -> Promises {
        let mut promises = Promises::layered();
        promises.rebalances = matches!(self.shape, Shape::Log(_));
        self.scene.promise(&mut promises);
        promises
    }

    fn bias(&self) -> Bias {
        self.scene.bias()
    }

    async fn open(&self, sim: &Sim) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(TrackedBackend {
            broker: Broker::new(sim.env().clone(), self.shape.clone()),
            store: MemoryTracking::with_env(sim.env().clone()),
            other: (self.scene == Scene::Strangers).then(|| MemoryTracking::with_env(sim.env().clone())),
            sim: sim.clone(),
            without: self.without,
            scene: self.scene,
        }))
    }
}

#[derive(Debug)]
struct TrackedBackend {
    broker: Arc<Broker>,
    store: MemoryTracking,
    /// Of a process that was started with another one.
    other: Option<MemoryTracking>,
    sim: Sim,
    without: Option<Rule>,
    scene: Scene,
}

impl TrackedBackend {
    fn layer(&self, life: Option<&Life>) -> Tracked {
        let connection = self.broker.connect();
        let transport: Arc<dyn QueueProvider> = Arc::clone(&connection) as Arc<dyn QueueProvider>;
        let strange = life.is_some_and(|life| life.name().starts_with(scene::STRANGER));
        let store = self.other.as_ref().filter(|_| strange).unwrap_or(&self.store);
        let store: Arc<dyn TrackingStore> = Arc::new(store.clone());
        let mut options = options();
        self.scene.set(&mut options);
        let Some(life) = life else { return Tracked::with_options(transport, store, self.sim.env(), options) };
        life.on_death(move || connection.crash());
        let tracked =
            Tracked::with_options(life.wired_beneath(transport), life.wired_store(store), life.env(), options);
        match self.without {
            Some(rule) => tracked.without(rule),
            None => tracked,
        }
    }
}

/// Shorter than by default, as the leases of a simulation are.
fn options() -> Options {
    let mut options = Options::default();
    options.stage_lease = Duration::from_secs(4);
    options.store_timeout = Duration::from_secs(2);
    options.probe_every = Duration::from_millis(300);
    options.longest_lease = Duration::from_secs(6);
    options.busy_at_most = Duration::from_secs(5);
    options.release_delay = Duration::from_millis(300);
    options.reconcile_after = Duration::from_secs(20);
    options
}

#[async_trait]
impl Backend for TrackedBackend {
    async fn connect(&self, life: &Life) -> Result<Arc<dyn QueueProvider>> {
        let tracked = Arc::new(self.layer(Some(life)));
        if let Some(room) = self.scene.room() {
            let layer = Arc::downgrade(&tracked);
            life.full_when(move || layer.upgrade().is_some_and(|layer| layer.settlements_waiting() >= room));
        }
        Ok(life.mortal(life.witnessed(tracked)))
    }

    async fn truth(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(Arc::new(self.layer(None)))
    }

    async fn restart(&self) {
        self.broker.restart();
    }

    fn refuse(&self, queue: &QueueName, publishes: usize, dead_letters: usize) {
        self.broker.faults(|faults| {
            faults.refuse_publishes(queue, publishes);
            faults.refuse_dead_letters(queue, dead_letters);
        });
    }

    async fn lose(&self, queue: &QueueName) {
        // A model that cannot be purged loses nothing.
        let _ = self.broker.connect().admin().purge(queue).await;
    }

    fn cut(&self, queue: &QueueName) {
        self.broker.faults(|faults| faults.unroutable(queue, true));
    }
}
