//! Lets parked jobs go as soon as there is room for them: one task a worker, which sleeps until there may be.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    lines::{Arrivals, Lines, Plan},
    pool::Pool,
};
use crate::{
    config::defaults,
    error::{Error, ErrorCode, Result},
    job::QueueName,
    limit::{Need, Room, Ruled},
    provider::{ParkKey, QueueAdmin},
    scheduler::JobScheduler,
    store::StoreScope,
};

/// Keys that are looked at together.
const BATCH: usize = 100;
/// Keys of a queue that are adopted at a time: so many are asked for first,
const FIRST_KEYS: usize = 1_000;
/// then eight times as many as long as there are more, but never more than these.
const MOST_KEYS: usize = 64_000;
/// A provider or limiter that does not answer is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
/// Releases that were not answered go out once more at the stop, for so long.
const LAST_RELEASES: Duration = Duration::from_secs(1);

/// The running task. Dropped, it is cut off; the lines it looked after are left to others.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    attended: Vec<(JobScheduler, QueueName)>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Doorkeeper {
    pub(super) fn start(pools: &[Arc<Pool>]) -> Self {
        let mut doors: Vec<Door> = Vec::new();
        let mut attended = Vec::new();
        for pool in pools {
            let (scheduler, queue) = (&pool.setup.scheduler, &pool.setup.spec.name);
            let known = doors.iter().position(|door| std::ptr::eq(door.lines(), scheduler.lines()));
            let index = known.unwrap_or_else(|| {
                doors.push(Door { scheduler: scheduler.clone(), queues: Vec::new() });
                doors.len() - 1
            });
            if pool.parks() {
                doors[index].queues.push(queue.clone());
                scheduler.lines().attend(queue, scheduler.env().clock.monotonic());
                attended.push((scheduler.clone(), queue.clone()));
            }
        }
        let (stop, stopped) = watch::channel(false);
        let keep = join_all(doors.into_iter().map(|door| door.keep(stopped.clone())));
        let task = tokio::spawn(async move {
            keep.await;
        });
        Self { attended, stop, task: Some(task) }
    }

    /// Lets nobody go any more: the worker takes no jobs.
    pub(super) fn leave(&mut self) {
        for (scheduler, queue) in self.attended.drain(..) {
            scheduler.lines().leave(&queue);
        }
    }

    /// Waits for its end.
    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the doorkeeper did not end well");
        }
    }
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        self.leave();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The lines of one scheduler.
struct Door {
    scheduler: JobScheduler,
    /// In which jobs can be parked.
    queues: Vec<QueueName>,
}

impl Door {
    fn lines(&self) -> &Lines {
        self.scheduler.lines()
    }

    fn now(&self) -> Duration {
        self.scheduler.env().clock.monotonic()
    }

    async fn keep(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            // An error means that the worker is gone, which says the same.
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.keep_for_ever() => {}
        }
        // What woke this one may be for another.
        self.lines().ring();
        if tokio::time::timeout(LAST_RELEASES, self.pay()).await.is_err() {
            tracing::warn!(
                "the limiter was not told how the last runs ended: what they hold is free when their leases end"
            );
        }
    }

    async fn keep_for_ever(&mut self) {
        let mut adopt_at = Duration::ZERO;
        loop {
            let now = self.now();
            if adopt_at <= now {
                self.adopt().await;
                adopt_at = self.now().saturating_add(defaults::ADOPTION_TICK);
            }
            let owing = self.pay().await;
            if self.look().await {
                // Others have their turn: unparked jobs must arrive before there is more to do.
                tokio::task::yield_now().await;
                continue;
            }
            let mut until = self.lines().next_look().unwrap_or(Duration::MAX).min(adopt_at);
            if owing {
                until = until.min(self.now().saturating_add(PAUSE));
            }
            tokio::select! {
                biased;
                () = self.lines().rung() => {}
                () = tokio::time::sleep(until.saturating_sub(self.now())) => {}
            }
        }
    }

    /// Looks for jobs that were parked by whom nobody knows here: workers that died, other processes.
    async fn adopt(&mut self) {
        let admin = self.scheduler.admin();
        let parked = join_all(self.queues.iter().map(|queue| all_parked(&*admin, queue))).await;
        let mut refused = Vec::new();
        for (queue, parked) in self.queues.iter().zip(parked) {
            match parked {
                Ok(parked) => {
                    for (key, _) in
                        parked.iter().filter(|(key, jobs)| *jobs > 0 && ruled(&self.scheduler, key).is_some())
                    {
                        self.lines().parked(queue, key, self.now());
                    }
                }
                Err(error) if error.code() == ErrorCode::Unsupported => refused.push(queue.clone()),
                Err(error) => tracing::warn!(%queue, %error, "cannot ask for parked jobs; asking again"),
            }
        }
        self.queues.retain(|queue| !refused.contains(queue));
    }

    /// Tells again of runs whose end was not taken. `true` where something is left to tell.
    async fn pay(&self) -> bool {
        let ended = self.lines().owed(self.now(), BATCH);
        if ended.is_empty() {
            return false;
        }
        match patiently(self.scheduler.limiter().release(&ended)).await {
            Ok(()) => {
                self.lines().paid(&ended);
                for (ask, _) in &ended {
                    self.lines().freed(&ask.needs, || self.now());
                }
                // Where there was more, it is told with the next round.
                ended.len() == BATCH
            }
            Err(error) => {
                tracing::debug!(%error, "the limiter did not take releases; telling it again");
                true
            }
        }
    }

    /// Looks at the keys that are due. `false` where none was.
    async fn look(&self) -> bool {
        let due = self.lines().take_due(self.now(), BATCH);
        let mut looks: Vec<Look<'_>> = due.into_iter().map(|key| Look::new(self, key)).collect();
        let mut needs = Vec::new();
        for look in &mut looks {
            match ruled(&self.scheduler, &look.key) {
                Some(Ruled::Limited(limit)) => {
                    look.asked = Some(needs.len());
                    needs.push(Need { key: look.key.clone(), limit });
                }
                // Nothing holds them any more.
                _ => look.room = Some(Room { free: u32::MAX, next: None, breaker: None }),
            }
        }
        if !needs.is_empty() {
            let rooms = patiently(async { Ok(self.scheduler.limiter().room(&needs).await) }).await;
            let rooms = rooms.unwrap_or_else(|error| needs.iter().map(|_| Err(error.clone())).collect());
            for look in &mut looks {
                let Some(room) = look.asked.and_then(|index| rooms.get(index)) else { continue };
                match room {
                    Ok(room) => look.room = Some(*room),
                    Err(error) => tracing::warn!(key = %look.key.0, %error, "cannot ask for room; asking again"),
                }
            }
        }
        let any = !looks.is_empty();
        join_all(looks.into_iter().map(Look::let_go)).await;
        any
    }
}

/// A look at one key. However it ends, the lines hear of it.
struct Look<'a> {
    door: &'a Door,
    key: ParkKey,
    asked: Option<usize>,
    room: Option<Room>,
    /// When to look again.
    next: Duration,
}

impl<'a> Look<'a> {
    fn new(door: &'a Door, key: ParkKey) -> Self {
        Self { door, key, asked: None, room: None, next: PAUSE }
    }

    /// Unparks as many as there is room for.
    async fn let_go(mut self) {
        let Some(room) = self.room else { return };
        let shared = self.door.scheduler.limiter().scope() == StoreScope::Shared;
        let tick = if shared { defaults::SHARED_LIMIT_TICK } else { defaults::ADOPTION_TICK };
        let arrivals = match (self.asked, shared) {
            (None, _) => Arrivals::Unseen,
            (_, true) => Arrivals::Anywhere,
            (_, false) => Arrivals::Here,
        };
        self.next = room.next.unwrap_or(tick);
        for plan in self.door.lines().plan(&self.key, room, arrivals, self.door.now()) {
            self.unpark(&plan).await;
        }
    }

    async fn unpark(&mut self, plan: &Plan) {
        let provider = self.door.scheduler.provider();
        match patiently(provider.unpark(&plan.queue, &self.key, plan.jobs)).await {
            Ok(jobs) => self.door.lines().unparked(&self.key, plan, jobs),
            // The line may be there still. Those that were let go after all are not expected too long.
            Err(error) => {
                tracing::warn!(queue = %plan.queue, key = %self.key.0, %error, "cannot unpark; trying again");
                self.next = PAUSE;
            }
        }
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let now = self.door.now();
        self.door.lines().looked(&self.key, now, now.saturating_add(self.next));
    }
}

/// The keys under which jobs are parked. The fullest come first, and they may be full for long: a key with few jobs and room for
/// them must not wait until those are gone.
async fn all_parked(admin: &dyn QueueAdmin, queue: &QueueName) -> Result<Vec<(ParkKey, u64)>> {
    let mut limit = FIRST_KEYS;
    loop {
        let keys = patiently(admin.parked(queue, limit)).await?;
        if keys.len() < limit || limit == MOST_KEYS {
            return Ok(keys);
        }
        limit = (limit * 8).min(MOST_KEYS);
    }
}

/// What a key is of; `None` where no rule gives such keys, so that its jobs wait for something else.
fn ruled(scheduler: &JobScheduler, key: &ParkKey) -> Option<Ruled> {
    let rules = scheduler.limits().unwrap_or_default();
    Some(rules.limit_of(key)).filter(|ruled| *ruled != Ruled::Foreign)
}

async fn patiently<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::new(ErrorCode::Timeout, "no answer in time"));
    tokio::time::timeout(PATIENCE, call).await.unwrap_or_else(late)
}
