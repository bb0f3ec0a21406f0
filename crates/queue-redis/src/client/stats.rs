//! What the client tells of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;

use super::{Address, Finding, Severity};

/// Something that happened to the connections.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent {
    /// The primary is this one from now on.
    Primary {
        /// Which.
        server: Address,
    },
    /// A cluster told who has its slots.
    Slots {
        /// Its primaries.
        primaries: Vec<Address>,
    },
    /// A slot of a cluster is elsewhere now.
    SlotMoved {
        /// Which.
        slot: u16,
        /// Where.
        to: Address,
    },
    /// A server broke the connection, does not answer, or is not the primary any more.
    Lost {
        /// Which.
        server: Address,
    },
    /// What is published to a queue is kept in the spool from now on.
    Spooling {
        /// Which queue.
        queue: Box<str>,
    },
    /// It goes to Redis again; what was kept of it follows.
    Connected {
        /// Which queue.
        queue: Box<str>,
    },
    /// The primary is another one, and the mode is manual: somebody has to [`switch`](super::RedisClusterClient::switch). Told at each look
    /// for as long as it is so, whether the old one is dead, hangs or is a replica now.
    SwitchNeeded {
        /// Where the Sentinels, or the server itself, say that it is.
        to: Address,
    },
    /// A primary was looked at, when the client connected or when it took over, and somebody should know of this.
    Found {
        /// Which.
        server: Address,
        /// What was found.
        finding: Finding,
    },
}

/// Numbers since the client was made, and of this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Servers that are connected to, Sentinels apart.
    pub servers: usize,
    /// Connections in the pools of all servers.
    pub pooled: usize,
    /// Of these, how many nobody uses.
    pub idle: usize,
    /// Callers that wait for one.
    pub waiting: usize,
    /// Connections that were opened to the servers that are known now.
    pub opened: u64,
    /// Servers that were lost.
    pub lost: u64,
    /// Commands that were asked.
    pub calls: u64,
    /// Commands that were asked again, at the same server or another.
    pub retries: u64,
    /// Commands that failed in the end.
    pub failures: u64,
}

#[derive(Debug)]
pub(crate) struct Told {
    events: broadcast::Sender<ClientEvent>,
    pub(crate) lost: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) failures: AtomicU64,
}

impl Told {
    /// A subscriber that is further behind misses some, and is told how many.
    const BEHIND: usize = 256;

    pub(crate) fn new() -> Self {
        let zero = AtomicU64::default;
        let events = broadcast::Sender::new(Self::BEHIND);
        Self { events, lost: zero(), calls: zero(), retries: zero(), failures: zero() }
    }

    pub(crate) fn tell(&self, event: ClientEvent) {
        match &event {
            ClientEvent::Lost { server } => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%server, "a Redis server was lost");
            }
            ClientEvent::SwitchNeeded { to } => tracing::warn!(%to, "the primary is another one: switch to it"),
            ClientEvent::Found { finding: Finding { severity: Severity::Note, message }, .. } => {
                tracing::info!("{message}");
            }
            ClientEvent::Found { finding, .. } => tracing::warn!("{}", finding.message),
            ClientEvent::Spooling { queue } => {
                tracing::warn!(%queue, "Redis is away: the spool keeps what is published")
            }
            ClientEvent::Connected { queue } => tracing::info!(%queue, "Redis is there again"),
            event => tracing::debug!(?event, "Redis"),
        }
        // Nobody listens: that is no error.
        let _ = self.events.send(event);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<ClientEvent> {
        self.events.subscribe()
    }
}
