//! What processes do with their lives.

mod hand;
mod operator;
mod producer;
mod worker;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use queue_core::{JobScheduler, QueueProvider, Result};
use tokio::sync::Notify;

use super::{life::Life, plan::Plan};
pub(super) use producer::Desk;

/// What a process is for.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// Submits jobs; what it has done survives it.
    Producer(Arc<Desk>),
    /// Runs jobs with handlers.
    Worker,
    /// Takes jobs without a worker: late, twice, with follow-ups.
    Hand,
    /// Cancels, pauses, redrives.
    Operator,
}

impl Role {
    /// One life, to its end.
    pub(super) async fn live(self, life: Life, provider: Arc<dyn QueueProvider>, plan: Arc<Plan>, stop: Stop) {
        let scheduler = JobScheduler::with_env(provider, life.env().clone());
        match self {
            Self::Producer(desk) => producer::produce(&life, &scheduler, &plan, &desk, stop).await,
            Self::Worker => worker::work(&life, &scheduler, &plan, stop).await,
            Self::Hand => hand::handle(&life, &scheduler, &plan, stop).await,
            Self::Operator => operator::operate(&life, &scheduler, &plan, stop).await,
        }
        // What it says of a provider that cannot be reached is of no interest here.
        let _ = scheduler.close().await;
    }
}

/// Says when the run ends. Not `tokio::sync::watch`, which wakes those who wait in an order of chance.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<(AtomicBool, Notify)>);

impl Stop {
    pub(super) fn tell(&self) {
        self.0.0.store(true, Ordering::Release);
        self.0.1.notify_waiters();
    }

    pub(super) fn is_told(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    /// Resolves once it is told.
    pub(super) async fn told(&self) {
        let told = self.0.1.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if !self.is_told() {
            told.await;
        }
    }
}

/// Again and again until it works; `None` once the run ends.
async fn persistently<T, F>(stop: &Stop, attempt: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T>>,
{
    loop {
        if let Ok(done) = attempt().await {
            return Some(done);
        }
        tokio::select! {
            biased;
            () = stop.told() => return None,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}
