//! A world for the simulator: the memory provider with a journal on a disk in memory, killed as a process or with its
//! machine, and sometimes with a full disk.

#[path = "../../crates/queue-testkit/tests/journal_harness/process.rs"]
mod process;

use std::{
    io::ErrorKind,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{QueueName, QueueProvider, Result, provider::Durability};
use queue_memory::{Amnesia, ModelDisk};
use queue_testkit::simulation::{Backend, Dice, Graft, Life, Plant, Promises, Sim, World};
use tokio::task::JoinHandle;

use process::Process;

/// Jobs that outlive their broker.
#[derive(Debug, Clone, Default)]
pub(crate) struct JournalWorld {
    /// In the broker: the judge sees what comes out of it.
    plant: Option<Arc<dyn Plant>>,
    relaxed: bool,
    forgets: Option<Amnesia>,
    stale: bool,
}

impl JournalWorld {
    /// With something planted in the broker.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn planted(plant: impl Plant) -> Self {
        Self { plant: Some(Arc::new(plant)), ..Self::default() }
    }

    /// Nobody waits for a commit before he answers.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn relaxed() -> Self {
        Self { relaxed: true, ..Self::default() }
    }

    /// The broker forgets something each time it begins.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn forgetting(what: Amnesia) -> Self {
        Self { forgets: Some(what), ..Self::default() }
    }

    /// The broker begins again without its last commits: on what its disk held up to two moments before.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn stale() -> Self {
        Self { stale: true, ..Self::default() }
    }
}

#[async_trait]
impl World for JournalWorld {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn promises(&self) -> Promises {
        let mut promises = Promises::strict();
        promises.restarts = true;
        promises.restart_ends_leases = true;
        promises
    }

    async fn open(&self, sim: &Sim) -> Result<Arc<dyn Backend>> {
        let durability = if self.relaxed { Durability::Relaxed } else { Durability::Synced };
        let process = Process::forgetting(sim.env().clone(), Some(durability), self.forgets)?;
        let past = self.stale.then(|| Past::of(&process));
        Ok(Arc::new(JournalBackend {
            process,
            dice: sim.dice("disk", 0),
            graft: self.plant.as_ref().map(|plant| plant.sow()),
            relief: Mutex::default(),
            past,
        }))
    }
}

#[derive(Debug)]
struct JournalBackend {
    process: Arc<Process>,
    dice: Dice,
    graft: Option<Arc<dyn Graft>>,
    /// Makes room on a full disk.
    relief: Mutex<Option<JoinHandle<()>>>,
    past: Option<Past>,
}

/// What a disk held a moment ago.
#[derive(Debug)]
struct Past {
    image: Arc<Mutex<Vec<u8>>>,
    looking: JoinHandle<()>,
}

impl Past {
    const MOMENT: Duration = Duration::from_millis(100);

    fn of(process: &Arc<Process>) -> Self {
        let image = Arc::new(Mutex::new(process.image()));
        let (kept, process) = (Arc::clone(&image), Arc::clone(process));
        let looking = tokio::spawn(async move {
            loop {
                let now = process.image();
                tokio::time::sleep(Self::MOMENT).await;
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
        });
        Self { image, looking }
    }

    fn disk(&self) -> ModelDisk {
        ModelDisk::with(self.image.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Past {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl JournalBackend {
    fn connection(&self) -> Arc<dyn QueueProvider> {
        let connection = self.process.connect();
        match &self.graft {
            Some(graft) => graft.around(connection),
            None => connection,
        }
    }

    fn expect_relief(&self, relief: Option<JoinHandle<()>>) {
        let before = std::mem::replace(&mut *self.relief.lock().unwrap_or_else(PoisonError::into_inner), relief);
        if let Some(before) = before {
            before.abort();
        }
    }
}

#[async_trait]
impl Backend for JournalBackend {
    async fn connect(&self, life: &Life) -> Result<Arc<dyn QueueProvider>> {
        Ok(life.wired(life.witnessed(self.connection())))
    }

    async fn truth(&self) -> Result<Arc<dyn QueueProvider>> {
        Ok(self.connection())
    }

    /// Half of the kills take the machine with them. The disk has room again afterwards.
    async fn restart(&self) {
        let power = self.dice.chance(0.5);
        let left = |disk: &ModelDisk| match power {
            _ if self.past.is_some() => self.past.as_ref().map_or_else(ModelDisk::new, Past::disk),
            true => disk.after_power_loss(|| self.dice.bits()),
            false => ModelDisk::with(disk.contents()),
        };
        // Should it not begin again, nothing comes to an end, which is told.
        let _ = self.process.kill(left);
    }

    fn refuse(&self, _: &QueueName, publishes: usize, dead_letters: usize) {
        if publishes + dead_letters == 0 {
            self.expect_relief(None);
            return self.process.refuse_writes(None);
        }
        self.process.refuse_writes(Some(ErrorKind::StorageFull));
        let (process, time) = (Arc::clone(&self.process), Duration::from_millis(self.dice.between(50, 4_000)));
        self.expect_relief(Some(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            process.refuse_writes(None);
        })));
    }
}
