//! Requests to stop running jobs, as they are heard.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;

use super::{
    heartbeat::{BATCH, beat_for},
    held::Held,
    pool::Pool,
};
use crate::{
    event::JobEventKind,
    job::JobId,
    store::{Watch, Watched},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Jobs that were asked to stop lately. A request may come after the claim and before its answer has: who it concerns is not in
/// hand yet, and would hear of it with a heartbeat only.
#[derive(Debug, Default)]
pub(super) struct Cancels {
    lately: Mutex<VecDeque<(JobId, Duration)>>,
    /// Looked at with every fetch: mostly there are none.
    any: AtomicBool,
}

/// More are not remembered; their jobs hear of it with their first heartbeat.
const MOST: usize = 1_024;

impl Cancels {
    fn remember(&self, job: JobId, now: Duration) {
        let mut lately = self.lately();
        if lately.len() == MOST {
            lately.pop_front();
        }
        lately.push_back((job, now));
        self.any.store(true, Ordering::Release);
    }

    /// Whose claim was not answered until then has had a heartbeat of its own.
    pub(super) fn forget(&self, before: Duration) {
        if self.any.load(Ordering::Acquire) {
            let mut lately = self.lately();
            lately.retain(|(_, heard)| *heard >= before);
            self.any.store(!lately.is_empty(), Ordering::Release);
        }
    }

    /// Those of these that were asked to stop.
    pub(super) fn among<'a>(&self, taken: &'a [Arc<Held>]) -> Vec<&'a Arc<Held>> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let lately = self.lately();
        let asked = |held: &&Arc<Held>| lately.iter().any(|(job, _)| *job == held.delivery.envelope.id);
        taken.iter().filter(asked).collect()
    }

    fn lately(&self) -> MutexGuard<'_, VecDeque<(JobId, Duration)>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for as long as the worker lives. What is heard only says when to look; the answer of the beat says what to do.
pub(super) async fn listen(pool: &Pool) {
    let Ok(store) = pool.setup.scheduler.store() else { return };
    let queue = &pool.setup.spec.name;
    let mut pause = FIRST_PAUSE;
    let mut deaf = false;
    loop {
        match store.watch(Watch::Commands(queue.clone())).await {
            Ok(commands) => {
                if deaf {
                    // Nobody knows what was asked in the meantime.
                    beat_for(pool, pool.in_hand()).await;
                }
                let mut commands = commands.ready_chunks(BATCH);
                while let Some(heard) = commands.next().await {
                    pause = FIRST_PAUSE;
                    beat_for(pool, addressed(pool, heard)).await;
                }
                tracing::warn!(%queue, "the stream of cancels ended; it is opened again");
            }
            Err(error) => tracing::warn!(%queue, %error, "cancels are seen with heartbeats only; trying again"),
        }
        deaf = true;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn addressed(pool: &Pool, heard: Vec<Watched>) -> Vec<Arc<Held>> {
    if heard.contains(&Watched::Missed) {
        return pool.in_hand();
    }
    let now = pool.env().clock.monotonic();
    let mut addressed = Vec::new();
    for watched in heard {
        let Watched::Event(event) = watched else { continue };
        if event.what == JobEventKind::CancelRequested {
            // Remembered first: who is taken in from now on is found by one or the other.
            pool.cancels.remember(event.job.id, now);
            addressed.extend(pool.find(event.job.id));
        }
    }
    addressed
}
