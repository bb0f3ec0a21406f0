//! The tasks that wait in the server for who sleeps.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{Cmd, RedisResult, Value};
use tokio::time::Instant;

use super::{Claim, Shared, Sleepers, WAITS};
use crate::link::Waiting;

/// How long one wait in the server lasts at most, and how long a connection is kept for the next who sleeps.
const LONGEST: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_secs(1);
/// A wait without end is none.
const SHORTEST: Duration = Duration::from_millis(1);

/// How a wait for one marker, or for several, has ended.
enum Ended {
    /// With the key that was popped, if one was, and what was claimed.
    Answered { popped: RedisResult<Value>, claimed: Option<Value> },
    /// Who brought the claim has gone: nobody would hear of it.
    Deserted,
}

impl Shared {
    /// Markers of `waits_for` for which somebody sleeps.
    fn markers(&self, waits_for: &str) -> Vec<String> {
        let state = self.lock();
        let wanted = state.sleepers.iter().filter(|(_, entry)| entry.waits_for == waits_for);
        let mut markers: Vec<_> = wanted.map(|(marker, _)| marker.clone()).collect();
        markers.sort();
        markers
    }

    /// Those to wait for. Who brought a claim that was sent has been answered, or is about to be.
    fn awaited(&self, waits_for: &str) -> Vec<String> {
        let state = self.lock();
        let is_awaited = |entry: &Sleepers| entry.plain > 0 || !entry.claims.is_empty();
        let awaited = state.sleepers.iter().filter(|(_, entry)| entry.waits_for == waits_for && is_awaited(entry));
        let mut markers: Vec<_> = awaited.map(|(marker, _)| marker.clone()).collect();
        markers.sort();
        markers
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn wake_for(&self, markers: &[String]) {
        let mut state = self.lock();
        for marker in markers {
            if let Some(entry) = state.sleepers.get_mut(marker) {
                // Whoever brought these looks now, and brings others.
                entry.claims.clear();
                entry.wake.notify_waiters();
                if entry.plain > 0 {
                    // Also who asks only now and then whether he was woken.
                    entry.wake.notify_one();
                }
            }
        }
    }

    /// Whether there is nothing more to wait for. Said and done in one step, so that whoever falls asleep next finds no listener.
    fn leaves(&self, waits_for: &str) -> bool {
        let mut state = self.lock();
        let is_over = !state.sleepers.contains_key(waits_for) && !state.owed.iter().any(|marker| marker == waits_for);
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

    /// Sets a marker, for whoever sleeps on it anywhere.
    pub(super) async fn mark(&self, marker: &str) -> RedisResult<()> {
        self.link.ask(redis::cmd("ZADD").arg(marker).arg(0).arg("0")).await.map(drop)
    }

    /// Sets what interrupts a wait of this process. It goes by itself should the process die before it has taken it.
    async fn interrupt(&self, stir: &str) -> RedisResult<()> {
        let expire = redis::cmd("EXPIRE").arg(stir).arg(LONGEST.as_secs()).take();
        tokio::try_join!(self.mark(stir), self.link.ask(&expire)).map(drop)
    }

    /// Sets the markers that were taken for somebody who has gone.
    async fn pay(&self, waits_for: &str) -> RedisResult<()> {
        loop {
            let owed = {
                let mut state = self.lock();
                let at = state.owed.iter().position(|marker| waits_for.is_empty() || marker == waits_for);
                at.map(|at| state.owed.swap_remove(at))
            };
            let Some(marker) = owed else { return Ok(()) };
            if let Err(error) = self.mark(&marker).await {
                self.lock().owed.push(marker);
                return Err(error);
            }
        }
    }

    pub(super) async fn listen(self: Arc<Self>, waits_for: String) {
        while !self.is_closed() {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_closed() {
                return;
            }
            if self.pay(&waits_for).await.is_err() {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            if self.markers(&waits_for).is_empty() {
                // There may be another queue to wait for instead.
                let rest = tokio::time::timeout(LONGEST, changed).await;
                if rest.is_err() && !waits_for.is_empty() && self.leaves(&waits_for) {
                    return;
                }
                continue;
            }
            if !self.has_place(&waits_for) {
                // Nor does anybody make claims for them.
                let _ = tokio::time::timeout(LOOK, self.closing()).await;
                self.wake_for(&self.markers(&waits_for));
                if self.leaves(&waits_for) {
                    return;
                }
                continue;
            }
            if let Err(error) = self.wait(&waits_for).await {
                tracing::debug!(%error, "the wait for jobs broke; looking again");
                // Whoever sleeps looks for himself meanwhile.
                self.wake_for(&self.markers(&waits_for));
                let _ = tokio::time::timeout(RETRY, self.closing()).await;
            }
        }
    }

    async fn closing(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_closed() {
                return;
            }
            changed.await;
        }
    }

    /// Waits on one connection until it breaks, or nobody has slept for long.
    async fn wait(&self, waits_for: &str) -> RedisResult<()> {
        let stir = if waits_for.is_empty() { self.stir.clone() } else { format!("{waits_for}:{}", self.process) };
        let mut connection = self.link.waiting(&stir).await?;
        while !self.is_closed() {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let markers = self.awaited(waits_for);
            if markers.is_empty() {
                self.pay(waits_for).await?;
                if self.is_closed() || tokio::time::timeout(LONGEST, changed).await.is_err() {
                    break;
                }
                continue;
            }
            let claim = self.next_claim(waits_for);
            match self.wait_once(&mut connection, waits_for, &stir, &markers, claim.as_ref()).await? {
                Ended::Deserted => {
                    drop(connection);
                    connection = self.link.waiting(&stir).await?;
                }
                Ended::Answered { popped, claimed } => {
                    let made = claim.zip(claimed).is_some_and(|(claim, claimed)| claim.answer.send(claimed).is_ok());
                    let Value::Array(popped) = popped? else { continue };
                    let Some(Value::BulkString(key)) = popped.into_iter().next() else { continue };
                    let key = String::from_utf8_lossy(&key);
                    if !made && *key != *stir {
                        self.wake(&key).await?;
                    }
                }
            }
        }
        connection.give_back();
        Ok(())
    }

    /// The first claim for this marker of which somebody wants to hear.
    fn next_claim(&self, marker: &str) -> Option<Claim> {
        let mut state = self.lock();
        let claims = &mut state.sleepers.get_mut(marker)?.claims;
        loop {
            let claim = claims.pop_front()?;
            if !claim.answer.is_closed() && !claim.withdrawn.load(Ordering::Acquire) {
                return Some(claim);
            }
        }
    }

    async fn wait_once(
        &self,
        connection: &mut Waiting,
        waits_for: &str,
        stir: &str,
        markers: &[String],
        claim: Option<&Claim>,
    ) -> RedisResult<Ended> {
        let most = claim.map_or(LONGEST, |claim| claim.until.saturating_duration_since(Instant::now()));
        let most = most.clamp(SHORTEST, LONGEST);
        let mut wait = redis::cmd("BZPOPMIN");
        wait.arg(markers).arg(stir).arg(most.as_secs_f64());
        let asked = ask(connection, wait, claim, most);
        tokio::pin!(asked);
        let mut is_stirred = false;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.pay(waits_for).await?;
            if claim.is_some_and(|claim| claim.answer.is_closed()) {
                return Ok(Ended::Deserted);
            }
            if !is_stirred && self.is_to_be_stirred(waits_for, markers, claim) {
                is_stirred = true;
                // Boxed, as this happens seldom.
                Box::pin(self.interrupt(stir)).await?;
            }
            tokio::select! {
                biased;
                answered = &mut asked => return Ok(answered),
                () = &mut changed => {}
            }
        }
    }

    /// Whether a wait that has begun is not what is wanted any more.
    fn is_to_be_stirred(&self, waits_for: &str, markers: &[String], claim: Option<&Claim>) -> bool {
        match claim {
            Some(claim) => claim.withdrawn.load(Ordering::Acquire) || self.is_closed(),
            None if self.is_closed() => true,
            None if waits_for.is_empty() => self.awaited("").iter().any(|marker| !markers.contains(marker)),
            // Somebody has brought one since.
            None => self.lock().sleepers.get(waits_for).is_some_and(|entry| !entry.claims.is_empty()),
        }
    }

    async fn wake(&self, marker: &str) -> RedisResult<()> {
        {
            let mut state = self.lock();
            match state.sleepers.get(marker) {
                // Under the lock: who goes without having heard of it says so.
                Some(entry) => {
                    entry.wake.notify_one();
                    return Ok(());
                }
                // Nobody sleeps here any more: the marker was for somebody else.
                None if !state.owed.iter().any(|owed| owed == marker) => state.owed.push(marker.to_owned()),
                None => {}
            }
        }
        self.pay(marker).await
    }
}

async fn ask(connection: &mut Waiting, wait: Cmd, claim: Option<&Claim>, most: Duration) -> Ended {
    let (popped, claimed) = match claim {
        None => (connection.ask(&wait, most).await, None),
        Some(claim) => connection.ask_then(wait, claim.command.clone(), most).await,
    };
    Ended::Answered { popped, claimed }
}
