//! Worlds for the simulator: the tracked layer over each model, with every fault and crash between the layer and its
//! transport, and between the layer and its store.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{QueueName, QueueProvider, Result, store::TrackingStore};
use queue_layers::{Options, Tracked, tracked::Rule};
use queue_memory::MemoryTracking;
use queue_testkit::{
    models::{Broker, LogModel, PushModel, Shape, VisibilityModel},
    simulation::{Backend, Life, Promises, Sim, World},
};

/// Tracked jobs over one of the models.
#[derive(Debug, Clone)]
pub(crate) struct TrackedWorld {
    name: &'static str,
    shape: Shape,
    without: Option<Rule>,
}

impl TrackedWorld {
    pub(crate) fn push() -> Self {
        Self { name: "tracked-push", shape: PushModel::default().into(), without: None }
    }

    pub(crate) fn log() -> Self {
        Self { name: "tracked-log", shape: LogModel::default().into(), without: None }
    }

    pub(crate) fn visibility() -> Self {
        Self { name: "tracked-visibility", shape: VisibilityModel::default().into(), without: None }
    }

    /// The same with a rule of the layer taken away.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn without(self, rule: Rule) -> Self {
        Self { without: Some(rule), ..self }
    }

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
        promises
    }

    async fn open(&self, sim: &Sim) -> Result<Arc<dyn Backend>> {
        Ok(Arc::new(TrackedBackend {
            broker: Broker::new(sim.env().clone(), self.shape.clone()),
            store: MemoryTracking::with_env(sim.env().clone()),
            sim: sim.clone(),
            without: self.without,
        }))
    }
}

#[derive(Debug)]
struct TrackedBackend {
    broker: Arc<Broker>,
    store: MemoryTracking,
    sim: Sim,
    without: Option<Rule>,
}

impl TrackedBackend {
    fn layer(&self, life: Option<&Life>) -> Tracked {
        let connection = self.broker.connect();
        let transport: Arc<dyn QueueProvider> = Arc::clone(&connection) as Arc<dyn QueueProvider>;
        let store: Arc<dyn TrackingStore> = Arc::new(self.store.clone());
        let Some(life) = life else { return Tracked::with_options(transport, store, self.sim.env(), options()) };
        life.on_death(move || connection.crash());
        let tracked =
            Tracked::with_options(life.wired_beneath(transport), life.wired_store(store), life.env(), options());
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
        let tracked: Arc<dyn QueueProvider> = Arc::new(self.layer(Some(life)));
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
}
