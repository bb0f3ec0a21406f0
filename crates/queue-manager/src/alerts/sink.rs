//! Who is told.

use std::fmt;

use async_trait::async_trait;
use queue_core::{Error, ErrorCode, Event, Result};
use tokio::sync::mpsc;

/// Takes events somewhere. Each sink has a line and a task of its own, so a slow one delays nobody; while it is at one event
/// the next ones wait, and where too many wait the oldest are dropped.
#[async_trait]
pub trait AlertSink: Send + Sync + 'static {
    /// How it is called in logs and in [`AlertsStatus`](super::AlertsStatus). No secrets.
    fn name(&self) -> &str;

    /// Takes one event. It is called again only when it has returned; when the manager closes it may be dropped unfinished.
    ///
    /// # Errors
    /// Whatever went wrong; it is logged and counted, and the next event comes. A sink that wants another try makes it itself.
    async fn send(&self, event: &Event) -> Result<()>;

    /// At least so many events for this sink were dropped before the next one.
    ///
    /// # Errors
    /// As [`AlertSink::send`].
    async fn missed(&self, count: u64) -> Result<()> {
        let _ = count;
        Ok(())
    }
}

/// Writes events to the log: alerts as warnings, everything else as information.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogSink;

#[async_trait]
impl AlertSink for LogSink {
    fn name(&self) -> &str {
        "log"
    }

    async fn send(&self, event: &Event) -> Result<()> {
        let name = event.wire_name();
        match event {
            Event::Alert(alert) => tracing::warn!(event = name, queue = %alert.queue, "{}", alert.message),
            other => tracing::info!(event = name, detail = %super::to_json(other)),
        }
        Ok(())
    }
}

/// Calls a function with each event. It must not block.
pub struct FnSink<F> {
    name: String,
    function: F,
}

impl<F: Fn(&Event) + Send + Sync + 'static> FnSink<F> {
    /// A sink of this name.
    pub fn new(name: impl Into<String>, function: F) -> Self {
        Self { name: name.into(), function }
    }
}

#[async_trait]
impl<F: Fn(&Event) + Send + Sync + 'static> AlertSink for FnSink<F> {
    fn name(&self) -> &str {
        &self.name
    }

    async fn send(&self, event: &Event) -> Result<()> {
        (self.function)(event);
        Ok(())
    }
}

impl<F> fmt::Debug for FnSink<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnSink").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Sends each event through a channel.
#[derive(Debug, Clone)]
pub struct ChannelSink(mpsc::Sender<Event>);

impl ChannelSink {
    /// A sink and where its events come out. While the channel is full, they wait in the sink's line.
    #[must_use]
    pub fn new(capacity: usize) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (Self(sender), receiver)
    }
}

#[async_trait]
impl AlertSink for ChannelSink {
    fn name(&self) -> &str {
        "channel"
    }

    async fn send(&self, event: &Event) -> Result<()> {
        let gone = |_| Error::new(ErrorCode::Closed, "nobody holds the channel's other end any more").at("alert");
        self.0.send(event.clone()).await.map_err(gone)
    }
}
