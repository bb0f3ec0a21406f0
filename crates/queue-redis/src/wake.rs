//! Sleeping until there is something to do, without asking for it.
//!
//! A queue has a marker, which a script sets when something became ready while somebody said that he would sleep. One connection a process
//! waits for the markers of all queues on which somebody sleeps here; on a cluster, where one wait is for one slot, it is one connection a
//! queue. Whoever it wakes claims, and the claim sets the marker again where it leaves something.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use redis::{RedisResult, Value};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{layout::Layout, link::Link};

/// How long one wait in the server lasts at most: so many seconds apart are the commands of an idle process.
const LONGEST: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(200);
/// Waits on a cluster at once. Whoever sleeps on one queue more is woken this often, to look for himself.
const WAITS: usize = 40;
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Wakes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    /// What interrupts the wait, when somebody falls asleep on a queue that it is not for.
    stir: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    sleepers: HashMap<String, Sleepers>,
    /// By what each waits for: a queue, or all.
    waits: HashMap<String, Wait>,
    /// Queues of which a marker was taken for somebody who has gone: it is to be set again.
    owed: Vec<String>,
    closed: bool,
}

#[derive(Debug)]
struct Wait {
    task: JoinHandle<()>,
    /// Whether it may wait in the server.
    has_place: bool,
}

#[derive(Debug, Default)]
struct Sleepers {
    count: usize,
    wake: Arc<Notify>,
}

impl Wakes {
    pub(crate) fn new(link: Link, layout: &Layout, process: &str) -> Self {
        let stir = layout.stir(process);
        Self { shared: Arc::new(Shared { link, stir, state: Mutex::default(), changed: Notify::new() }) }
    }

    /// Says that somebody will sleep on a queue, before it looks for the last time.
    pub(crate) fn sleeper(&self, base: &str) -> Sleeper {
        let shared = &self.shared;
        let wake = {
            let mut state = shared.lock();
            let entry = state.sleepers.entry(base.to_owned()).or_default();
            entry.count += 1;
            let wake = Arc::clone(&entry.wake);
            let waits_for = if shared.link.is_cluster() { base } else { "" };
            // One whose runtime has ended is finished, and could not say so.
            if !state.closed && state.waits.get(waits_for).is_none_or(|wait| wait.task.is_finished()) {
                state.waits.retain(|_, wait| !wait.task.is_finished());
                let task = tokio::spawn(Arc::clone(shared).listen(waits_for.to_owned()));
                state.waits.insert(waits_for.to_owned(), Wait { task, has_place: false });
            }
            wake
        };
        shared.changed.notify_waiters();
        Sleeper { shared: Arc::clone(shared), base: base.to_owned(), wake }
    }

    /// Ends the waits, and wakes everybody.
    pub(crate) async fn close(&self) {
        /// By then the server has heard that the connections are closed, and gives them nothing.
        const HEARD: Duration = Duration::from_millis(50);
        /// Nobody waits for long for a server that is away.
        const GIVE_UP: Duration = Duration::from_secs(1);
        let (waits, bases) = {
            let mut state = self.shared.lock();
            state.closed = true;
            for entry in state.sleepers.values() {
                entry.wake.notify_waiters();
                entry.wake.notify_one();
            }
            let mut bases = std::mem::take(&mut state.owed);
            bases.extend(state.sleepers.keys().cloned());
            (std::mem::take(&mut state.waits), bases)
        };
        if waits.is_empty() {
            return;
        }
        for wait in waits.values() {
            wait.task.abort();
        }
        for (_, wait) in waits {
            // It was cancelled.
            let _ = wait.task.await;
        }
        // A wait that was cut may have popped a marker: others that sleep on the queue should look.
        let mark_again = async {
            tokio::time::sleep(HEARD).await;
            futures_util::future::join_all(bases.iter().map(|base| self.shared.mark(base))).await;
        };
        let _ = tokio::time::timeout(GIVE_UP, mark_again).await;
    }

    /// Wakes all who sleep here on a queue.
    pub(crate) fn wake_all(&self, base: &str) {
        if let Some(entry) = self.shared.lock().sleepers.get(base) {
            entry.wake.notify_waiters();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        for (_, wait) in self.shared.lock().waits.drain() {
            wait.task.abort();
        }
    }
}

/// Somebody who sleeps, or is about to.
#[derive(Debug)]
pub(crate) struct Sleeper {
    shared: Arc<Shared>,
    base: String,
    pub(crate) wake: Arc<Notify>,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.sleepers.get_mut(&self.base) {
            entry.count -= 1;
            if entry.count == 0 {
                state.sleepers.remove(&self.base);
                // Nobody heard of the last marker.
                let is_owed = self.wake.notified().now_or_never().is_some();
                if is_owed && !state.closed && !state.owed.contains(&self.base) {
                    state.owed.push(self.base.clone());
                    self.shared.changed.notify_waiters();
                }
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of `waits_for` on which somebody sleeps.
    fn bases(&self, waits_for: &str) -> Vec<String> {
        let state = self.lock();
        let wanted = |base: &&String| waits_for.is_empty() || *base == waits_for;
        let mut bases: Vec<_> = state.sleepers.keys().filter(wanted).cloned().collect();
        bases.sort();
        bases
    }

    fn wake_for(&self, bases: &[String]) {
        let state = self.lock();
        for entry in bases.iter().filter_map(|base| state.sleepers.get(base)) {
            entry.wake.notify_waiters();
        }
    }

    /// Whether there is nothing more to wait for. Said and done in one step, so that whoever falls asleep next finds no listener.
    fn leaves(&self, waits_for: &str) -> bool {
        let mut state = self.lock();
        let is_over = !state.sleepers.contains_key(waits_for) && !state.owed.iter().any(|base| base == waits_for);
        if is_over {
            state.waits.remove(waits_for);
        }
        is_over
    }

    /// Whether it may wait in the server; then it may as long as it lives.
    fn has_place(&self, waits_for: &str) -> bool {
        let mut state = self.lock();
        let taken = state.waits.iter().filter(|(name, wait)| wait.has_place && *name != waits_for).count();
        let Some(wait) = state.waits.get_mut(waits_for) else { return false };
        wait.has_place = wait.has_place || taken < WAITS;
        wait.has_place
    }

    /// Sets the marker of a queue, for whoever sleeps on it anywhere.
    async fn mark(&self, base: &str) -> RedisResult<()> {
        self.link.ask(redis::cmd("ZADD").arg(format!("{base}m")).arg(0).arg("0")).await.map(drop)
    }

    /// Sets the markers that were taken for somebody who has gone.
    async fn pay(&self, waits_for: &str) -> RedisResult<()> {
        loop {
            let owed = {
                let mut state = self.lock();
                let at = state.owed.iter().position(|base| waits_for.is_empty() || base == waits_for);
                at.map(|at| state.owed.swap_remove(at))
            };
            let Some(base) = owed else { return Ok(()) };
            if let Err(error) = self.mark(&base).await {
                self.lock().owed.push(base);
                return Err(error);
            }
        }
    }

    async fn listen(self: Arc<Self>, waits_for: String) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.pay(&waits_for).await.is_err() {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            if self.bases(&waits_for).is_empty() {
                // On a cluster there may be another queue to wait for instead.
                let rest = tokio::time::timeout(LONGEST, changed).await;
                if rest.is_err() && !waits_for.is_empty() && self.leaves(&waits_for) {
                    return;
                }
                continue;
            }
            if !self.has_place(&waits_for) {
                tokio::time::sleep(LOOK).await;
                self.wake_for(&self.bases(&waits_for));
                if self.leaves(&waits_for) {
                    return;
                }
                continue;
            }
            if let Err(error) = self.wait(&waits_for).await {
                tracing::debug!(%error, "the wait for jobs broke; looking again");
                // Whoever sleeps looks for himself meanwhile.
                self.wake_for(&self.bases(&waits_for));
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Waits on one connection until it breaks, or nobody sleeps any more.
    async fn wait(&self, waits_for: &str) -> RedisResult<()> {
        let stirs = waits_for.is_empty();
        let mut connection = self.link.waiting(if stirs { &self.stir } else { waits_for }).await?;
        loop {
            let bases = self.bases(waits_for);
            if bases.is_empty() {
                connection.give_back();
                return Ok(());
            }
            let mut command = redis::cmd("BZPOPMIN");
            for base in &bases {
                command.arg(format!("{base}m"));
            }
            if stirs {
                command.arg(&self.stir);
            }
            command.arg(LONGEST.as_secs());
            let popped = connection.ask(&command, LONGEST);
            tokio::pin!(popped);
            let popped: Value = loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                self.pay(waits_for).await?;
                if stirs && self.bases("").iter().any(|base| !bases.contains(base)) {
                    let stir = redis::cmd("ZADD").arg(&self.stir).arg(0).arg("0").take();
                    self.link.ask(&stir).await?;
                    break popped.await?;
                }
                tokio::select! {
                    biased;
                    popped = &mut popped => break popped?,
                    () = &mut changed => {}
                }
            };
            let Value::Array(popped) = popped else { continue };
            let Some(Value::BulkString(key)) = popped.into_iter().next() else { continue };
            self.wake(&String::from_utf8_lossy(&key)).await?;
        }
    }

    async fn wake(&self, key: &str) -> RedisResult<()> {
        let Some(base) = key.strip_suffix('m').filter(|_| key != self.stir) else { return Ok(()) };
        {
            let mut state = self.lock();
            match state.sleepers.get(base) {
                // Under the lock: who goes without having heard of it says so.
                Some(entry) => {
                    entry.wake.notify_one();
                    return Ok(());
                }
                // Nobody sleeps here any more: the marker was for somebody else.
                None if !state.owed.iter().any(|owed| owed == base) => state.owed.push(base.to_owned()),
                None => {}
            }
        }
        self.pay(base).await
    }
}
