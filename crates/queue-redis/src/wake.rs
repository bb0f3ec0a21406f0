//! Sleeping until there is something to do, without asking for it.
//!
//! A queue has a marker, which a script sets when something became ready while somebody said that he would sleep. One connection a process
//! waits for the markers of all queues on which somebody sleeps here; whoever it wakes claims, and the claim sets the marker again where it
//! leaves something.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redis::Value;
use tokio::{sync::Notify, task::JoinHandle};

use crate::{layout::Layout, link::Link};

/// How long one wait in the server lasts at most: so many seconds apart are the commands of an idle process.
const LONGEST: u32 = 60;
const RETRY: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Wakes {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    link: Link,
    /// What interrupts the wait, when somebody falls asleep on a queue that it is not for.
    stir: String,
    sleepers: Mutex<HashMap<String, Sleepers>>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Sleepers {
    count: usize,
    wake: Arc<Notify>,
}

impl Wakes {
    pub(crate) fn new(link: Link, layout: &Layout, process: &str) -> Self {
        let shared =
            Arc::new(Shared { link, stir: layout.stir(process), sleepers: Mutex::default(), changed: Notify::new() });
        let task = tokio::spawn(Arc::clone(&shared).listen());
        Self { shared, task }
    }

    /// Says that somebody will sleep on a queue, before it looks for the last time.
    pub(crate) fn sleeper(&self, base: &str) -> Sleeper {
        let wake = {
            let mut sleepers = self.shared.lock();
            let entry = sleepers.entry(base.to_owned()).or_default();
            entry.count += 1;
            Arc::clone(&entry.wake)
        };
        self.shared.changed.notify_one();
        Sleeper { shared: Arc::clone(&self.shared), base: base.to_owned(), wake }
    }

    /// Ends the wait, and wakes everybody.
    pub(crate) fn close(&self) {
        self.task.abort();
        for entry in self.shared.lock().values() {
            entry.wake.notify_waiters();
            entry.wake.notify_one();
        }
    }

    /// Wakes all who sleep here on a queue.
    pub(crate) fn wake_all(&self, base: &str) {
        if let Some(entry) = self.shared.lock().get(base) {
            entry.wake.notify_waiters();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.task.abort();
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
        let mut sleepers = self.shared.lock();
        if let Some(entry) = sleepers.get_mut(&self.base) {
            entry.count -= 1;
            if entry.count == 0 {
                sleepers.remove(&self.base);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Sleepers>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bases(&self) -> Vec<String> {
        let mut bases: Vec<_> = self.lock().keys().cloned().collect();
        bases.sort();
        bases
    }

    async fn listen(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            if self.bases().is_empty() {
                changed.await;
                continue;
            }
            if let Err(error) = self.wait().await {
                tracing::debug!(%error, "the wait for jobs broke; looking again");
                // Whoever sleeps looks for himself meanwhile.
                for entry in self.lock().values() {
                    entry.wake.notify_waiters();
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Waits on one connection until it breaks, or nobody sleeps any more.
    async fn wait(&self) -> redis::RedisResult<()> {
        let mut connection = self.link.waiting(&self.stir).await?;
        loop {
            let bases = self.bases();
            if bases.is_empty() {
                return Ok(());
            }
            let mut command = redis::cmd("BZPOPMIN");
            for base in &bases {
                command.arg(format!("{base}m"));
            }
            command.arg(&self.stir).arg(LONGEST);
            let popped = command.query_async(&mut connection);
            tokio::pin!(popped);
            let popped: Value = loop {
                tokio::select! {
                    biased;
                    popped = &mut popped => break popped?,
                    () = self.changed.notified() => {
                        if self.bases().iter().any(|base| !bases.contains(base)) {
                            let stir = redis::cmd("ZADD").arg(&self.stir).arg(0).arg("0").take();
                            self.link.ask(&stir).await?;
                        }
                    }
                }
            };
            let Value::Array(popped) = popped else { continue };
            let Some(Value::BulkString(key)) = popped.into_iter().next() else { continue };
            self.wake(&String::from_utf8_lossy(&key)).await?;
        }
    }

    async fn wake(&self, key: &str) -> redis::RedisResult<()> {
        let Some(base) = key.strip_suffix('m').filter(|_| key != self.stir) else { return Ok(()) };
        let wake = self.lock().get(base).map(|entry| Arc::clone(&entry.wake));
        match wake {
            Some(wake) => wake.notify_one(),
            // Nobody sleeps here any more: the marker was for somebody else.
            None => {
                self.link.ask(redis::cmd("ZADD").arg(key).arg(0).arg("0")).await?;
            }
        }
        Ok(())
    }
}
