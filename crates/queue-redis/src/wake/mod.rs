//! Sleeping until there is something to do, without asking for it.
//!
//! A queue has a marker, which a script sets when something became ready while somebody said that he would sleep. Who sleeps on one may bring
//! the claim that he would make next: it is sent behind the wait, on the same connection, so that the server makes it the moment the marker
//! is set, and who sleeps hears at once of his jobs and not of a marker. Each of the first queues that claims are brought for has a
//! connection of its own; one more waits for the markers of all others, and who sleeps there claims when he is woken. On a cluster, where
//! one wait is for one slot, each has its own. A claim sets the marker again where it leaves something.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use redis::{Cmd, Value};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::Instant,
};

use crate::{layout::Layout, link::Link};

mod listen;

/// Waits on a cluster at once. Whoever sleeps on one queue more is woken this often, to look for himself.
const WAITS: usize = 40;
/// Elsewhere so many queues have a wait of their own.
const OWN_WAITS: usize = 4;

#[derive(Debug)]
pub(crate) struct Wakes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    /// What interrupts the wait for all markers, when somebody falls asleep whom it is not for.
    stir: String,
    process: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By the marker that they wait for.
    sleepers: HashMap<String, Sleepers>,
    /// By what each waits for: one marker, or all that have no wait of their own.
    waits: HashMap<String, Wait>,
    /// Markers that were taken for somebody who has gone: they are to be set again.
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
    /// Of these, how many brought no claim.
    plain: usize,
    wake: Arc<Notify>,
    waits_for: String,
    /// Not sent yet.
    claims: VecDeque<Claim>,
}

/// What is to be done in the server as soon as the marker is set, and in any case when its time has come.
#[derive(Debug)]
struct Claim {
    command: Cmd,
    until: Instant,
    withdrawn: Arc<AtomicBool>,
    answer: oneshot::Sender<Value>,
}

impl Wakes {
    pub(crate) fn new(link: Link, layout: &Layout, process: &str) -> Self {
        let stir = layout.stir(process);
        let process = process.to_owned();
        let shared = Shared { link, stir, process, state: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Somebody sleeps until a marker is set. It is not lost where that was before: it stands until it is taken.
    pub(crate) fn sleeper(&self, marker: String) -> Sleeper {
        let (wake, _) = self.shared.enter(&marker, None);
        Sleeper { shared: Arc::clone(&self.shared), marker, wake, is_plain: true, claim: None }
    }

    /// The same, and brings a claim, which is made then or after so long.
    pub(crate) fn sleeper_that_claims(&self, marker: String, command: Cmd, within: Duration) -> Sleeper {
        let (answer, answered) = oneshot::channel();
        let withdrawn = Arc::<AtomicBool>::default();
        let claim = Claim { command, until: Instant::now() + within, withdrawn: Arc::clone(&withdrawn), answer };
        let (wake, is_plain) = self.shared.enter(&marker, Some(claim));
        let claim = (!is_plain).then_some((withdrawn, answered));
        Sleeper { shared: Arc::clone(&self.shared), marker, wake, is_plain, claim }
    }

    /// Ends the waits, and wakes everybody.
    pub(crate) async fn close(&self) {
        /// By then the server has heard that the connections are closed, and gives them nothing.
        const HEARD: Duration = Duration::from_millis(50);
        /// Nobody waits for long for a server that is away.
        const GIVE_UP: Duration = Duration::from_secs(1);
        let (mut waits, markers) = {
            let mut state = self.shared.lock();
            state.closed = true;
            for entry in state.sleepers.values_mut() {
                entry.claims.clear();
                entry.wake.notify_waiters();
                entry.wake.notify_one();
            }
            let mut markers = std::mem::take(&mut state.owed);
            markers.extend(state.sleepers.keys().cloned());
            (std::mem::take(&mut state.waits), markers)
        };
        if waits.is_empty() {
            return;
        }
        // What was sent is waited for, as it may bring jobs.
        self.shared.changed.notify_waiters();
        let ended = futures_util::future::join_all(waits.values_mut().map(|wait| &mut wait.task));
        if tokio::time::timeout(GIVE_UP, ended).await.is_err() {
            for wait in waits.values_mut().filter(|wait| !wait.task.is_finished()) {
                wait.task.abort();
                // It was cancelled.
                let _ = (&mut wait.task).await;
            }
        }
        // A wait that was cut may have popped a marker: others that sleep on the queue should look.
        let mark_again = async {
            tokio::time::sleep(HEARD).await;
            futures_util::future::join_all(markers.iter().map(|marker| self.shared.mark(marker))).await;
        };
        let _ = tokio::time::timeout(GIVE_UP, mark_again).await;
    }

    /// Wakes all who sleep here on a marker.
    pub(crate) fn wake_all(&self, marker: &str) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.sleepers.get_mut(marker) {
            entry.claims.clear();
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
    marker: String,
    wake: Arc<Notify>,
    is_plain: bool,
    claim: Option<(Arc<AtomicBool>, oneshot::Receiver<Value>)>,
}

impl Sleeper {
    /// Waits to be woken: with the answer to his claim, or with nothing: then he has to look for himself.
    pub(crate) async fn woken(&mut self) -> Option<Value> {
        match &mut self.claim {
            None => {
                self.wake.notified().await;
                None
            }
            Some((_, answered)) => {
                let answer = tokio::select! {
                    biased;
                    answer = answered => answer.ok(),
                    () = self.wake.notified() => return None,
                };
                self.claim = None;
                answer
            }
        }
    }

    /// Whether it was woken since it was asked last, or has begun to sleep.
    pub(crate) fn was_woken(&self) -> bool {
        self.wake.notified().now_or_never().is_some()
    }

    /// Takes the claim back. Where it was made already, its answer comes; who does not wait for it loses what was claimed.
    pub(crate) async fn withdraw(&mut self) -> Option<Value> {
        let (withdrawn, answered) = self.claim.take()?;
        withdrawn.store(true, Ordering::Release);
        if let Some(entry) = self.shared.lock().sleepers.get_mut(&self.marker) {
            entry.claims.retain(|claim| !claim.withdrawn.load(Ordering::Acquire));
        }
        self.shared.changed.notify_waiters();
        answered.await.ok()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // So that nobody makes it any more.
        let claimed = self.claim.take().map(drop).is_some();
        let mut state = self.shared.lock();
        if let Some(entry) = state.sleepers.get_mut(&self.marker) {
            entry.count -= 1;
            entry.plain -= usize::from(self.is_plain);
            entry.claims.retain(|claim| !claim.answer.is_closed());
            if entry.count == 0 {
                state.sleepers.remove(&self.marker);
                // Nobody heard of the last marker.
                let is_owed = self.was_woken();
                if is_owed && !state.closed && !state.owed.contains(&self.marker) {
                    state.owed.push(self.marker.clone());
                    self.shared.changed.notify_waiters();
                }
            }
        }
        drop(state);
        if claimed {
            self.shared.changed.notify_waiters();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What wakes him, and whether he is only woken: the wait for all makes no claims.
    fn enter(self: &Arc<Self>, marker: &str, claim: Option<Claim>) -> (Arc<Notify>, bool) {
        let entered = {
            let mut state = self.lock();
            let waits_for = self.place(&state, marker, claim.is_some());
            let entry = state.sleepers.entry(marker.to_owned()).or_default();
            entry.count += 1;
            entry.waits_for.clone_from(&waits_for);
            let wake = Arc::clone(&entry.wake);
            let claim = claim.filter(|_| !waits_for.is_empty());
            let is_plain = claim.is_none();
            entry.plain += usize::from(is_plain);
            entry.claims.extend(claim);
            // One whose runtime has ended is finished, and could not say so.
            if !state.closed && state.waits.get(&waits_for).is_none_or(|wait| wait.task.is_finished()) {
                state.waits.retain(|_, wait| !wait.task.is_finished());
                let task = tokio::spawn(Arc::clone(self).listen(waits_for.clone()));
                state.waits.insert(waits_for, Wait { task, has_place: false });
            }
            (wake, is_plain)
        };
        self.changed.notify_waiters();
        entered
    }

    /// Which wait is for a marker: its own, or the one for all.
    fn place(&self, state: &State, marker: &str, claims: bool) -> String {
        if let Some(entry) = state.sleepers.get(marker) {
            return entry.waits_for.clone();
        }
        let own = || state.waits.keys().filter(|waits_for| !waits_for.is_empty());
        let has_own = self.link.is_cluster() || claims && (own().any(|own| own == marker) || own().count() < OWN_WAITS);
        if has_own { marker.to_owned() } else { String::new() }
    }
}
