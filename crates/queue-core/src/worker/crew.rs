//! The tasks of one queue: who fetches, who runs, who settles, and who replaces them when they fail.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

use super::{
    completer::complete,
    fetch::fetch,
    held::{Order, Why},
    pool::Pool,
    run::slot,
    scaler::scale,
};
use crate::config::defaults;

/// Owns every task of a pool: dropped, it cuts them off.
#[derive(Debug)]
pub(super) struct Crew {
    pool: Arc<Pool>,
    tasks: JoinSet<()>,
    roles: HashMap<Id, Role>,
    /// Deaths in a row: the more there were, the longer the next successor waits before it begins.
    deaths: u32,
    last_death: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Fetcher,
    Slot(u64),
    Completer,
    Scaler,
}

/// The first successor waits so long, each further one twice as long,
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// but never longer than this: a provider that panics at every call must not make this a busy loop.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Deaths further apart are none in a row.
const ROW: Duration = Duration::from_secs(60);

impl Crew {
    /// A crew that has begun. Must be called inside the runtime it is to work on.
    pub(super) fn begin(pool: Arc<Pool>) -> Self {
        let mut crew = Self { pool, tasks: JoinSet::new(), roles: HashMap::new(), deaths: 0, last_death: None };
        crew.fill_up();
        crew.start(Role::Fetcher, Duration::ZERO);
        crew.start(Role::Completer, Duration::ZERO);
        if !crew.pool.setup.scaling.is_fixed() {
            crew.start(Role::Scaler, Duration::ZERO);
        }
        crew
    }

    /// Works until the pool stops, then ends in order: fetcher → slots → completer, each when the one before it has.
    pub(super) async fn work(mut self, drain: Duration) {
        while !self.pool.is_stopping() {
            self.fill_up();
            self.pool.call.answer();
            let pool = Arc::clone(&self.pool);
            tokio::select! {
                biased;
                () = pool.stopped() => {}
                () = self.one_ends() => {}
                () = pool.muster.notified() => {}
            }
        }
        self.wind_up(drain).await;
    }

    async fn wind_up(&mut self, drain: Duration) {
        self.ended(Role::Fetcher).await;
        if tokio::time::timeout(drain, self.slots_end()).await.is_err() {
            let stop = Order::Stop { why: Why::Shutdown, grace: defaults::CANCEL_GRACE };
            for held in self.pool.in_hand() {
                held.command(stop);
            }
            self.slots_end().await;
        }
        self.pool.buffer.close_finished();
        self.ended(Role::Completer).await;
        self.tasks.shutdown().await;
    }

    /// As many slots as there should be.
    fn fill_up(&mut self) {
        for _ in self.pool.roster.sound()..self.pool.target() {
            self.add_slot(Duration::ZERO);
        }
    }

    fn add_slot(&mut self, pause: Duration) {
        let number = self.pool.roster.enter();
        self.spawn(Role::Slot(number), pause, slot(Arc::clone(&self.pool), number));
    }

    fn start(&mut self, role: Role, pause: Duration) {
        let pool = Arc::clone(&self.pool);
        match role {
            Role::Fetcher => self.spawn(role, pause, fetch(pool)),
            Role::Completer => self.spawn(role, pause, complete(pool)),
            Role::Scaler => self.spawn(role, pause, scale(pool)),
            Role::Slot(_) if pool.roster.sound() < pool.target() && !pool.is_stopping() => self.add_slot(pause),
            Role::Slot(_) => {}
        }
    }

    fn spawn(&mut self, role: Role, pause: Duration, work: impl Future<Output = ()> + Send + 'static) {
        let pool = Arc::clone(&self.pool);
        let task = match pause.is_zero() {
            true => self.tasks.spawn(work),
            false => self.tasks.spawn(async move {
                pool.pause_unless_stopped(pause).await;
                work.await;
            }),
        };
        self.roles.insert(task.id(), role);
    }

    /// How long the successor of one that dies now has to wait.
    fn next_pause(&mut self) -> Duration {
        let now = Instant::now();
        let in_a_row = self.last_death.replace(now).is_some_and(|last| now - last < ROW);
        self.deaths = if in_a_row { self.deaths.saturating_add(1) } else { 0 };
        (FIRST_PAUSE * (1 << self.deaths.min(6))).min(LONGEST_PAUSE)
    }

    /// Waits for a task to end, and sees to what it leaves. Never resolves while there is none.
    async fn one_ends(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => {
                if let Some(Role::Slot(number)) = self.roles.remove(&id) {
                    self.pool.roster.leave(number);
                }
            }
            Some(Err(error)) => self.one_died(&error),
            None => std::future::pending().await,
        }
    }

    fn one_died(&mut self, error: &JoinError) {
        let Some(role) = self.roles.remove(&error.id()) else { return };
        let pool = Arc::clone(&self.pool);
        let pause = self.next_pause();
        match role {
            Role::Slot(number) => {
                pool.roster.leave(number);
                let job = pool.in_slot(number);
                pool.report(
                    number,
                    job.as_ref().map(|held| held.delivery.envelope.id),
                    format!("the slot died: {error}"),
                );
                // Nobody renews its lease any more, so that it runs elsewhere.
                pool.let_go(job.iter());
            }
            Role::Completer => {
                pool.report(0, None, format!("the task that settles died: {error}"));
                let waiting = pool.buffer.keys();
                let in_hand = pool.in_hand();
                let orphans = in_hand.iter().filter(|held| held.is_done_with() && !waiting.contains(&held.key));
                pool.let_go(orphans);
            }
            Role::Fetcher => {
                pool.intake.dies();
                pool.report(0, None, format!("the task that fetches died: {error}"));
            }
            Role::Scaler => pool.report(0, None, format!("the task that scales died: {error}")),
        }
        self.start(role, pause);
    }

    async fn ended(&mut self, role: Role) {
        while self.roles.values().any(|other| *other == role) {
            self.one_ends().await;
        }
    }

    async fn slots_end(&mut self) {
        while self.roles.values().any(|role| matches!(role, Role::Slot(_))) {
            self.one_ends().await;
        }
    }
}
