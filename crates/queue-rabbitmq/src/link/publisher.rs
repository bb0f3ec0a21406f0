//! Publishes with confirms: one task, one channel, many messages under way.
//!
//! One task alone, because lapin counts a message and queues its frames in two steps: two tasks on one channel could have them
//! the other way round, and a confirm would be given to the wrong message.

mod flights;
mod ledger;
mod lost;
mod pump;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};
use queue_core::{Error, ErrorCode};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::Link;
use crate::{SCHEME, fault};
use ledger::{Call, CancelOnDrop, Ledger};
use pump::Pump;

/// Calls that wait for their turn.
const CALLS: usize = 1_024;

/// A message to be published.
#[derive(Debug)]
pub(crate) struct Letter {
    /// Empty for the default exchange, which knows each queue by its name.
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// What became of a letter.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The broker has it.
    Confirmed,
    /// It came back: no queue is there for it.
    Returned,
    /// Nothing was written.
    NotWritten(Error),
    /// It was written, and the broker does not answer for it. A queue refuses so what comes while it is being made, or looks for its leader.
    Refused(Error),
    /// It was written, and nothing is known.
    Unknown(Error),
}

impl Sent {
    /// How long to wait before each new try of what was refused.
    pub(crate) const PAUSES: [Duration; 4] = [
        Duration::from_millis(50),
        Duration::from_millis(200),
        Duration::from_millis(500),
        Duration::from_millis(1_000),
    ];
}

/// Shared by who publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    calls: Mutex<Option<mpsc::Sender<Call>>>,
    closing: watch::Sender<bool>,
    pump: Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        let (calls, inbox) = mpsc::channel(CALLS);
        let (closing, closed) = watch::channel(false);
        let pump = Pump::new(link.watch(), inbox, closed);
        Self { calls: Mutex::new(Some(calls)), closing, pump: Mutex::new(Some(tokio::spawn(pump.run()))) }
    }

    /// Publishes, and awaits the confirms: one outcome per letter, in order, by the deadline at the latest. The letters of one
    /// call reach the broker in order, and calls do as they came.
    pub(crate) async fn send(&self, letters: Vec<Letter>, until: Instant) -> Vec<Sent> {
        let ledger = Arc::new(Ledger::new(letters.len()));
        let calls = lock(&self.calls).clone();
        let Some(calls) = calls else {
            return letters.iter().map(|_| Sent::NotWritten(fault::closed("publish"))).collect();
        };
        if letters.is_empty() {
            return Vec::new();
        }
        let call = Call { letters: letters.into(), next: 0, ledger: ledger.clone() };
        // A drop of the future cancels what was not yet written.
        let _cancel = CancelOnDrop(&ledger);
        match timeout_at(until, calls.send(call)).await {
            Ok(Ok(())) => {
                let _ = timeout_at(until, ledger.settled()).await;
            }
            Ok(Err(_)) => return ledger.close(&fault::closed("publish")),
            Err(_) => {}
        }
        ledger.close(&blocked())
    }

    /// Takes nothing more, waits a little for what is under way, and ends.
    pub(crate) async fn close(&self) {
        lock(&self.calls).take();
        // Who waits in `send` has the inbox open, and a broker that is away lets nobody go.
        self.closing.send_replace(true);
        let pump = lock(&self.pump).take();
        if let Some(pump) = pump {
            let _ = pump.await;
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(pump) = lock(&self.pump).take() {
            pump.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn blocked() -> Error {
    let message =
        "RabbitMQ took no message before the deadline: it is away, or blocks publishers for want of memory or disk";
    Error::new(ErrorCode::Unavailable, message).at("publish").by(SCHEME)
}

#[cfg(test)]
mod tests;
