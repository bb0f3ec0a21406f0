//! The one maintenance task of a process.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    clock::Env,
    config::defaults,
    job::{JobId, Timestamp},
    provider::QueueProvider,
    store::JobStore,
};

/// Runs [`QueueProvider::maintain`] as often as the provider asks, led by the store where there is one.
#[derive(Debug)]
pub(super) struct Maintenance {
    env: Env,
    /// How this process is called when it asks for the lead.
    candidate: String,
    task: Mutex<Task>,
    /// Milliseconds; zero before the first round.
    last_tick: Arc<AtomicU64>,
    consumers: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Task {
    NotStarted,
    Running { stop: watch::Sender<bool>, task: JoinHandle<()>, since: Timestamp },
    Stopped,
}

const ROLE: &str = "maintenance";
/// Between rounds of a provider that has more to do: let others at it first.
const BREATH: Duration = Duration::from_millis(1);
/// How long the lead is asked for to give it back, and how long that may take.
const SHORTEST_TERM: Duration = Duration::from_millis(1);
const LAST_WORD: Duration = Duration::from_secs(1);

impl Maintenance {
    pub(super) fn new(env: &Env) -> Self {
        Self {
            env: env.clone(),
            candidate: JobId::fresh(env).to_string(),
            task: Mutex::new(Task::NotStarted),
            last_tick: Arc::default(),
            consumers: Arc::default(),
        }
    }

    /// Starts the task if it was not, and if there is a runtime to start it on.
    pub(super) fn start(&self, provider: &Arc<dyn QueueProvider>, store: Option<&Arc<dyn JobStore>>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*task, Task::NotStarted) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (stop, stopped) = watch::channel(false);
        let round = Rounds {
            env: self.env.clone(),
            candidate: self.candidate.clone(),
            provider: Arc::clone(provider),
            store: store.cloned(),
            last_tick: Arc::clone(&self.last_tick),
            consumers: Arc::clone(&self.consumers),
        };
        *task = Task::Running { stop, task: runtime.spawn(round.run(stopped)), since: self.env.now() };
    }

    pub(super) async fn stop(&self) {
        let task = std::mem::replace(&mut *self.task.lock().unwrap_or_else(PoisonError::into_inner), Task::Stopped);
        if let Task::Running { stop, task, .. } = task {
            stop.send_replace(true);
            if let Err(error) = task.await {
                tracing::error!(%error, "the maintenance task did not end well");
            }
        }
    }

    pub(super) fn last_tick(&self) -> Option<Timestamp> {
        match self.last_tick.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Timestamp::from_millis(millis)),
        }
    }

    /// When it began; `None` where it does not run.
    pub(super) fn since(&self) -> Option<Timestamp> {
        match &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            Task::Running { since, .. } => Some(*since),
            Task::NotStarted | Task::Stopped => None,
        }
    }

    pub(super) fn consuming(&self) -> Consuming {
        self.consumers.fetch_add(1, Ordering::Relaxed);
        Consuming(Arc::clone(&self.consumers))
    }
}

/// Dropping the last scheduler ends the task: it has nobody to stop it any more.
impl Drop for Maintenance {
    fn drop(&mut self) {
        if let Task::Running { stop, .. } = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            stop.send_replace(true);
        }
    }
}

/// While it lives this process consumes: without a store such processes lead.
#[derive(Debug)]
pub(crate) struct Consuming(Arc<AtomicUsize>);

impl Drop for Consuming {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Rounds {
    env: Env,
    candidate: String,
    provider: Arc<dyn QueueProvider>,
    store: Option<Arc<dyn JobStore>>,
    last_tick: Arc<AtomicU64>,
    consumers: Arc<AtomicUsize>,
}

impl Rounds {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut leads = false;
        loop {
            // A provider's defect costs a round, not the task.
            let pause = AssertUnwindSafe(self.round(&mut leads)).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("maintenance panicked; it is tried again at the next tick");
                defaults::MAINTENANCE_TICK
            });
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if leads {
            self.step_down().await;
        }
    }

    /// So that nobody has to wait for the end of its term. A term of zero is not every store's.
    async fn step_down(&self) {
        let Some(store) = &self.store else { return };
        let answer = store.lead(ROLE, &self.candidate, SHORTEST_TERM);
        if !matches!(tokio::time::timeout(LAST_WORD, answer).await, Ok(Ok(_))) {
            tracing::debug!("the maintenance lead was not given back; its term ends by itself");
        }
    }

    async fn round(&self, leads: &mut bool) -> Duration {
        *leads = self.leads().await;
        let next = match self.provider.maintain(*leads).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "maintenance failed; it is tried again at the next tick");
                return defaults::MAINTENANCE_TICK;
            }
        };
        self.last_tick.store(self.env.now().as_millis(), Ordering::Relaxed);
        next.clamp(BREATH, defaults::MAINTENANCE_TICK)
    }

    async fn leads(&self) -> bool {
        let Some(store) = &self.store else { return self.consumers.load(Ordering::Relaxed) > 0 };
        match store.lead(ROLE, &self.candidate, defaults::LEADER_TERM).await {
            Ok(lead) => lead.is_some(),
            Err(error) => {
                tracing::warn!(%error, "cannot ask for the maintenance lead");
                false
            }
        }
    }
}
