//! One connection, from its log-in to its end. It never recovers: the next one is another incarnation.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_rs::Runtime;
use futures_util::StreamExt;
use lapin::{
    AsyncTcpStream, ConnectionProperties, Event,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism},
};
use queue_core::{Error, ErrorCode, Result};
use tokio::{sync::watch, time::timeout};

use super::{
    kit::Kit,
    lane::{Bounds, Lane},
    socket::{Cord, Encryption, Socket},
};
use crate::{Broker, RabbitOptions, SCHEME, fault};

/// How often a connection is looked at that says nothing: lapin tells of most ends, and of all within a heartbeat.
const LOOK: Duration = Duration::from_millis(500);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// One incarnation. What was received over it is settled over it, or never.
pub(crate) struct Connection {
    incarnation: u64,
    inner: lapin::Connection,
    cord: Cord,
    /// Why the broker takes no publishes now.
    blocked: watch::Sender<Option<Arc<str>>>,
    /// Nothing comes over it any more: who waits for something gives up.
    gone: watch::Sender<bool>,
    answer_timeout: Duration,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) async fn open(
        options: &RabbitOptions,
        encryption: Option<&Encryption>,
        broker: &Broker,
        role: &str,
    ) -> Result<Self> {
        static INCARNATION: AtomicU64 = AtomicU64::new(1);
        let cord = Cord::default();
        let (socket_cord, broker, encryption) = (cord.clone(), broker.clone(), encryption.cloned());
        let limit = options.connect_timeout;
        let connect = async move |_: AMQPUri, _: Runtime<Kit>| {
            let connecting = Socket::connect(&broker, encryption.as_ref(), socket_cord.clone());
            let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
            let socket = timeout(limit, connecting).await.unwrap_or_else(|_| Err(late()))?;
            Ok(AsyncTcpStream::Plain(socket))
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("{}: {role}", options.prefix).into())
            .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = Runtime::new(Kit::current());
        let opening = lapin::Connection::connector(uri(options), runtime, connect, properties);
        let inner = match timeout(limit, opening).await {
            Ok(Ok(inner)) => inner,
            Ok(Err(error)) => {
                cord.cut();
                return Err(refused(&error));
            }
            Err(_) => {
                cord.cut();
                let message = "RabbitMQ did not let us in in time: is this its AMQP port?";
                return Err(Error::new(ErrorCode::Unavailable, message).at("connect").by(SCHEME));
            }
        };
        let incarnation = INCARNATION.fetch_add(1, Ordering::Relaxed);
        let (blocked, gone) = (watch::Sender::new(None), watch::Sender::new(false));
        Ok(Self { incarnation, inner, cord, blocked, gone, answer_timeout: options.answer_timeout })
    }

    /// No other connection of this process has this number.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether it has not ended.
    pub(crate) fn is_up(&self) -> bool {
        self.inner.status().connected()
    }

    /// Opens a channel. An error on it ends it, and no other.
    pub(crate) async fn channel(&self, operation: &'static str) -> Result<Lane> {
        let bounds = Bounds::new(self.gone.subscribe(), self.answer_timeout);
        let channel = bounds.answer(operation, self.inner.create_channel()).await?;
        Ok(Lane::new(channel, bounds))
    }

    /// Why the broker takes no publishes over this connection, while it takes none. It says so only to who has published.
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.blocked.subscribe()
    }

    /// Follows what the broker says until the connection has ended.
    pub(super) async fn ended(&self) {
        // lapin gives each event to one listener only: there is no other.
        let mut events = std::pin::pin!(self.inner.events_listener());
        while self.is_up() {
            match timeout(LOOK, events.next()).await {
                Ok(Some(Event::ConnectionBlocked(reason))) => {
                    tracing::warn!(incarnation = self.incarnation, %reason, "RabbitMQ takes no publishes");
                    self.blocked.send_replace(Some(reason.into()));
                }
                Ok(Some(Event::ConnectionUnblocked)) => {
                    tracing::info!(incarnation = self.incarnation, "RabbitMQ takes publishes again");
                    self.blocked.send_replace(None);
                }
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => return,
            }
        }
    }

    /// Ends it without a word.
    pub(super) fn cut(&self) {
        self.cord.cut();
        self.gone.send_replace(true);
    }

    /// Ends it with a goodbye, and waits for its thread where nobody else has the connection any more.
    pub(super) async fn close(self: Arc<Self>) {
        if self.is_up() && timeout(GOODBYE, self.inner.close(200, "closed".into())).await.is_err() {
            tracing::debug!(incarnation = self.incarnation, "RabbitMQ did not say goodbye");
        }
        self.cut();
        if let Ok(last) = Arc::try_unwrap(self) {
            let thread = tokio::task::spawn_blocking(move || last.inner.run());
            // Its errors were told to who waited for answers.
            let _ = timeout(GOODBYE, thread).await;
        }
    }
}

/// RabbitMQ hangs up on who is refused before the log-in is over, where it cannot say so.
fn refused(error: &lapin::Error) -> Error {
    fault::of(error, "connect")
}

fn uri(options: &RabbitOptions) -> AMQPUri {
    let broker = options.brokers.first().cloned().unwrap_or_else(|| Broker { host: String::new(), port: 0 });
    let heartbeat = u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX);
    AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: options.user.clone(), password: options.password.clone() },
            host: broker.host,
            port: broker.port,
        },
        vhost: options.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(heartbeat),
            auth_mechanism: Some(SASLMechanism::Plain),
            ..AMQPQueryString::default()
        },
    }
}
