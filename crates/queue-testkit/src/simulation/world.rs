//! What is simulated: a world makes a broker, and a broker gives each process its provider.

use std::{fmt, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use queue_core::{QueueName, QueueProvider, Result};
use queue_memory::MemoryProvider;

use super::{Sim, bias::Bias, life::Life, promises::Promises};
use crate::models::{Broker, Connection, LogModel, PushModel, Shape, VisibilityModel};

/// A kind of broker, with whatever is stacked on it.
#[async_trait]
pub trait World: Debug + Send + Sync + 'static {
    /// What it is called on the command line.
    fn name(&self) -> &'static str;

    /// What the judge may demand.
    fn promises(&self) -> Promises;

    /// What it wants more of than its seeds bring.
    fn bias(&self) -> Bias {
        Bias::default()
    }

    /// A fresh broker, on the time and randomness of the run.
    ///
    /// # Errors
    /// Why there is none.
    async fn open(&self, sim: &Sim) -> Result<Arc<dyn Backend>>;
}

/// A broker of one run: what survives its clients.
#[async_trait]
pub trait Backend: Debug + Send + Sync {
    /// What a process calls. Whatever it does to the world must go through the wires of its life, and be seen by its witness:
    /// [`Life::wired`] around [`Life::witnessed`] where each call is one step; [`Life::mortal`] around [`Life::witnessed`]
    /// around a layer over [`Life::wired_beneath`] and [`Life::wired_store`] where it is many.
    ///
    /// # Errors
    /// Why there is none; the process tries again.
    async fn connect(&self, life: &Life) -> Result<Arc<dyn QueueProvider>>;

    /// The same for the judge: no wire, no fault.
    ///
    /// # Errors
    /// Why there is none.
    async fn truth(&self) -> Result<Arc<dyn QueueProvider>>;

    /// Breaks every connection, once. Called only where the world promises restarts.
    async fn restart(&self) {}

    /// Refuses so many of the next publishes to a queue, those beside a settlement included, and of its dead letters. Zero
    /// ends it. A broker that cannot be told so ignores it.
    fn refuse(&self, _queue: &QueueName, _publishes: usize, _dead_letters: usize) {}

    /// Loses what waits in a queue. Called only where the world is bent so.
    async fn lose(&self, _queue: &QueueName) {}

    /// Nothing finds its way to the queue any more. Called only where the world is bent so.
    fn cut(&self, _queue: &QueueName) {}
}

/// Something planted between what is simulated and what looks at it: a defect, in tests of the simulator itself.
pub trait Plant: Debug + Send + Sync + 'static {
    /// What is put around every provider of one run.
    fn sow(&self) -> Arc<dyn Graft>;
}

/// See [`Plant`].
pub trait Graft: Debug + Send + Sync {
    /// The provider, with the defect.
    fn around(&self, provider: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider>;
}

/// Where something is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Soil {
    /// In the broker: the judge sees what comes out of it.
    Broker,
    /// In the process: between its scheduler or worker and the wire.
    Process,
}

/// A world with something planted in it.
#[derive(Debug, Clone)]
struct Planted {
    plant: Option<(Soil, Arc<dyn Plant>)>,
}

#[derive(Debug, Clone)]
struct Grafts {
    graft: Option<(Soil, Arc<dyn Graft>)>,
}

impl Planted {
    fn sow(&self) -> Grafts {
        Grafts { graft: self.plant.as_ref().map(|(soil, plant)| (*soil, plant.sow())) }
    }
}

impl Grafts {
    fn at(&self, soil: Soil, provider: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        match &self.graft {
            Some((here, graft)) if *here == soil => graft.around(provider),
            _ => provider,
        }
    }

    /// The usual way to a provider each of whose calls is one step.
    fn wired(&self, life: &Life, bare: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        let broker = life.witnessed(self.at(Soil::Broker, bare));
        self.at(Soil::Process, life.wired(broker))
    }
}

/// The memory provider.
#[derive(Debug, Clone)]
pub struct MemoryWorld(Planted);

impl MemoryWorld {
    /// As it is.
    #[must_use]
    pub fn new() -> Self {
        Self(Planted { plant: None })
    }

    /// With something planted.
    #[must_use]
    pub fn planted(soil: Soil, plant: Arc<dyn Plant>) -> Self {
        Self(Planted { plant: Some((soil, plant)) })
    }
}

impl Default for MemoryWorld {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl World for MemoryWorld {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn promises(&self) -> Promises {
        Promises::strict()
    }

    async fn open(&self, sim: &Sim) -> Result<Arc<dyn Backend>> {
        let provider = MemoryProvider::with_env(sim.env().clone());
        Ok(Arc::new(MemoryBackend { provider, grafts: self.0.sow() }))
    }
}

#[derive(Debug)]
struct MemoryBackend {
    provider: MemoryProvider,
    grafts: Grafts,
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn connect(&self, life: &Life) -> Result<Arc<dyn QueueProvider>> {
        Ok(self.grafts.wired(life, Arc::new(self.provider.connect())))
    }

    async fn truth(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(self.grafts.at(Soil::Broker, Arc::new(self.provider.connect())))
    }
}

/// A model transport, bare.
#[derive(Clone)]
pub struct ModelWorld {
    name: &'static str,
    shape: fn() -> Shape,
    planted: Planted,
}

impl fmt::Debug for ModelWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelWorld").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ModelWorld {
    const fn of(name: &'static str, shape: fn() -> Shape) -> Self {
        Self { name, shape, planted: Planted { plant: None } }
    }

    /// Push and acknowledge.
    #[must_use]
    pub const fn push() -> Self {
        Self::of("push", || PushModel::default().into())
    }

    /// A log with offsets.
    #[must_use]
    pub const fn log() -> Self {
        Self::of("log", || LogModel::default().into())
    }

    /// Visibility timeouts.
    #[must_use]
    pub const fn visibility() -> Self {
        Self::of("visibility", || VisibilityModel::default().into())
    }

    /// The same with something planted.
    #[must_use]
    pub fn planted(self, soil: Soil, plant: Arc<dyn Plant>) -> Self {
        Self { planted: Planted { plant: Some((soil, plant)) }, ..self }
    }
}

#[async_trait]
impl World for ModelWorld {
    fn name(&self) -> &'static str {
        self.name
    }

    fn promises(&self) -> Promises {
        let rebalances = matches!((self.shape)(), Shape::Log(_));
        let mut promises = Promises::bare();
        promises.rebalances = rebalances;
        promises
    }

    async fn open(&self, sim: &Sim) -> Result<Arc<dyn Backend>> {
        let broker = Broker::new(sim.env().clone(), (self.shape)());
        Ok(Arc::new(ModelBackend { broker, grafts: self.planted.sow() }))
    }
}

#[derive(Debug)]
struct ModelBackend {
    broker: Arc<Broker>,
    grafts: Grafts,
}

#[async_trait]
impl Backend for ModelBackend {
    async fn connect(&self, life: &Life) -> Result<Arc<dyn QueueProvider>> {
        let connection: Arc<Connection> = self.broker.connect();
        let severed = Arc::clone(&connection);
        life.on_death(move || severed.crash());
        Ok(self.grafts.wired(life, connection))
    }

    async fn truth(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(self.grafts.at(Soil::Broker, self.broker.connect()))
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

/// The worlds that are simulated here, by name.
#[must_use]
pub fn worlds() -> Vec<Arc<dyn World>> {
    vec![
        Arc::new(MemoryWorld::new()),
        Arc::new(ModelWorld::push()),
        Arc::new(ModelWorld::log()),
        Arc::new(ModelWorld::visibility()),
    ]
}
