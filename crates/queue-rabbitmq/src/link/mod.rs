//! Connections that are kept: each link has one at a time, and gets itself another when that ends.
//!
//! A provider has two: one publishes, one does everything else. A broker that is short of memory or disk stops reading from
//! connections that publish, and acknowledgements must not wait behind that.

mod connection;
mod kit;
mod lane;
mod publisher;
mod socket;

pub(crate) use connection::Connection;
pub(crate) use lane::{Bounds, Lane};
pub(crate) use publisher::{Letter, Publisher, Sent};

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use queue_core::{Env, Error, Result};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

use crate::{RabbitOptions, fault};
use socket::Encryption;

/// The first wait before connecting again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How a link stands.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// Connected.
    Up(Arc<Connection>),
    /// Not now; why the last attempt failed, if there was one.
    Down(Option<Error>),
    /// For good.
    Closed,
}

/// One kept connection.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Receiver<State>,
    stop: watch::Sender<Stop>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    WithGoodbye,
    /// As a process that is killed: see [`Link::sever`].
    Silently,
}

impl Link {
    /// Connects, and keeps connected. The role shows beside the connection in the broker's own tools.
    pub(crate) async fn open(options: &Arc<RabbitOptions>, env: &Env, role: &'static str) -> Result<Self> {
        let encryption = options.tls.as_ref().map(Encryption::new).transpose()?;
        let dialer = Dialer { options: options.clone(), encryption, env: env.clone(), role, next: 0 };
        let mut dialer = dialer;
        let first = Arc::new(dialer.dial_any().await?);
        let (states, state) = watch::channel(State::Up(first.clone()));
        let (stop, stopped) = watch::channel(Stop::No);
        let supervisor = tokio::spawn(supervise(dialer, first, states, stopped));
        Ok(Self { state, stop, supervisor: Mutex::new(Some(supervisor)) })
    }

    /// The present connection.
    pub(crate) fn connection(&self, operation: &'static str) -> Result<Arc<Connection>> {
        match &*self.state.borrow() {
            State::Up(connection) if connection.is_up() => Ok(connection.clone()),
            State::Up(_) | State::Down(None) => Err(fault::away(operation)),
            State::Down(Some(error)) => Err(fault::away(operation).caused_by(error.clone())),
            State::Closed => Err(fault::closed(operation)),
        }
    }

    /// The present connection, or the next one if that comes in time.
    pub(crate) async fn connected(&self, until: Instant, operation: &'static str) -> Result<Arc<Connection>> {
        let mut state = self.state.clone();
        loop {
            match self.connection(operation) {
                Err(error) if error.is_retryable() => {
                    let changed = timeout_at(until, state.changed()).await;
                    if !matches!(changed, Ok(Ok(()))) {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Told of each change, so that who consumes over it can begin again.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ends it as a killed process would: nothing is said, nothing is flushed. For tests.
    pub(crate) async fn sever(&self) {
        self.end(Stop::Silently).await;
    }

    /// Ends it, and waits until it has ended.
    pub(crate) async fn close(&self) {
        self.end(Stop::WithGoodbye).await;
    }

    async fn end(&self, how: Stop) {
        self.stop.send_replace(how);
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            // It cannot panic, and if it did there is nothing left to end.
            let _ = supervisor.await;
        }
    }

    /// Cuts the present connection off; the link gets itself another. For tests.
    pub(crate) fn cut(&self) {
        if let State::Up(connection) = &*self.state.borrow() {
            connection.cut();
        }
    }
}

/// Who is dropped without a close leaves no task behind.
impl Drop for Link {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.cut();
            supervisor.abort();
        }
    }
}

async fn supervise(
    mut dialer: Dialer,
    mut connection: Arc<Connection>,
    states: watch::Sender<State>,
    mut stopped: watch::Receiver<Stop>,
) {
    loop {
        let stop = tokio::select! {
            () = connection.ended() => None,
            stop = stopped.wait_for(|stop| *stop != Stop::No) => Some(stop.map_or(Stop::Silently, |stop| *stop)),
        };
        // Whoever sees the state change finds that the old connection is gone.
        match stop {
            Some(Stop::WithGoodbye) => {
                states.send_replace(State::Closed);
                connection.close().await;
                return;
            }
            Some(_) => {
                states.send_replace(State::Closed);
                connection.cut();
                connection.close().await;
                return;
            }
            None => {}
        }
        tracing::warn!(role = dialer.role, incarnation = connection.incarnation(), "the connection to RabbitMQ ended");
        connection.cut();
        states.send_replace(State::Down(None));
        connection.close().await;
        connection = tokio::select! {
            next = dialer.dial_until(&states) => Arc::new(next),
            _ = stopped.wait_for(|stop| *stop != Stop::No) => {
                states.send_replace(State::Closed);
                return;
            }
        };
        tracing::info!(role = dialer.role, incarnation = connection.incarnation(), "connected to RabbitMQ again");
        states.send_replace(State::Up(connection.clone()));
    }
}

/// Makes connections.
struct Dialer {
    options: Arc<RabbitOptions>,
    encryption: Option<Encryption>,
    env: Env,
    role: &'static str,
    /// Which broker is tried next.
    next: usize,
}

impl Dialer {
    async fn dial(&mut self) -> Result<Connection> {
        let broker = &self.options.brokers[self.next % self.options.brokers.len()];
        self.next = self.next.wrapping_add(1);
        Connection::open(&self.options, self.encryption.as_ref(), broker, self.role).await
    }

    /// Each broker once.
    async fn dial_any(&mut self) -> Result<Connection> {
        let mut last = fault::away("connect");
        for _ in 0..self.options.brokers.len() {
            match self.dial().await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Until one lets us in. A refusal for good (a password that was changed) is tried again as well: it may be changed back.
    async fn dial_until(&mut self, states: &watch::Sender<State>) -> Connection {
        let (mut wait, longest) = BACKOFF;
        loop {
            // Between half and all of it, so that a broker that comes back is not met by everybody at once.
            sleep(wait.mul_f64(0.5 + self.env.random.fraction() / 2.0)).await;
            match self.dial().await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::debug!(role = self.role, %error, "RabbitMQ is away");
                    states.send_replace(State::Down(Some(error)));
                }
            }
            wait = (wait * 2).min(longest);
        }
    }
}
