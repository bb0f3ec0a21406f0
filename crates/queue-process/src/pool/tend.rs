//! Looks after the processes that nobody is talking to.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::seats::Seats;

/// How soon it is seen that an idle process has ended, and another one started.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While others are at the seats, it waits at least so long.
const PATIENCE: Duration = Duration::from_millis(20);

/// The task of a pool. Dropping it ends the task, and kills what it saw off.
#[derive(Debug)]
pub(super) struct Attendant {
    task: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<Notify>,
}

impl Attendant {
    pub(super) fn start(seats: &Arc<Seats>) -> Self {
        let stop = Arc::new(Notify::new());
        let task = tokio::spawn(tend(Arc::clone(seats), Arc::clone(&stop)));
        Self { task: Mutex::new(Some(task)), stop }
    }

    /// Lets it see off who is leaving, and ends it.
    pub(super) async fn dismiss(&self) {
        self.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

async fn tend(seats: Arc<Seats>, stop: Arc<Notify>) {
    let grace = seats.program.limits().grace;
    let mut leaving = JoinSet::new();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // What died at hand is seen only in its place.
        seats.clear_hands();
        seats.take_leaving().into_iter().for_each(|child| drop(leaving.spawn(child.leave(grace))));
        seats.take_dead().into_iter().for_each(|child| drop(leaving.spawn(child.leave(Duration::ZERO))));
        while let Ok(_permit) = seats.permits.try_acquire()
            && let Some(mut seat) = seats.take_empty()
        {
            // Why it does not start is for the job to say that needs it.
            let _ = seats.fill(&mut seat);
            seats.put_back(seat);
            tokio::task::yield_now().await;
        }
        let next = seats.next_start().map(|time| time.max(Instant::now() + PATIENCE));
        tokio::select! {
            () = stop.notified() => break,
            () = seats.bell.notified() => {}
            _ = look.tick() => {}
            Some(_) = leaving.join_next() => {}
            () = until(next) => {}
        }
    }
    leaving.join_all().await;
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
