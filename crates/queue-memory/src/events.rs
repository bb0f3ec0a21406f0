//! Who hears what happens. Nobody listening costs one load.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use queue_core::{
    event::{JobEvent, JobEventKind},
    job::{JobRef, QueueName, Timestamp},
    store::{Watch, Watched},
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use crate::queue::Entry;

/// Events a slow watcher may be behind before it is told that it missed some.
const BEHIND: usize = 4_096;

/// Requests to stop go through a channel of their own: every worker listens to them, and must not make the provider tell
/// all the rest.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    all: Channel,
    commands: Channel,
}

#[derive(Debug, Clone)]
struct Channel {
    sender: broadcast::Sender<JobEvent>,
    /// The channel's own count takes a lock; this is asked for every transition.
    listeners: Arc<AtomicUsize>,
}

/// Counts a listener while its stream lives.
struct Listening(Arc<AtomicUsize>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Channel {
    fn new() -> Self {
        Self { sender: broadcast::Sender::new(BEHIND), listeners: Arc::default() }
    }

    fn is_heard(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    fn listen(&self) -> (broadcast::Receiver<JobEvent>, Listening) {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        (self.sender.subscribe(), Listening(Arc::clone(&self.listeners)))
    }
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { all: Channel::new(), commands: Channel::new() }
    }

    pub(crate) fn is_heard(&self, what: JobEventKind) -> bool {
        self.all.is_heard() || (what == JobEventKind::CancelRequested && self.commands.is_heard())
    }

    pub(crate) fn send(
        &self,
        at: Timestamp,
        queue: &QueueName,
        entry: &Entry,
        what: JobEventKind,
        progress: Option<Bytes>,
    ) {
        let job = JobRef::new(queue.clone(), entry.envelope.id);
        let mut event = JobEvent::new(at, job, entry.envelope.kind.clone(), what, entry.attempt);
        event.progress = progress;
        if what == JobEventKind::Completed
            && let Some(class) = entry.envelope.sla()
        {
            event.sla = Some(class.compliance(entry.changed_at - entry.submitted_at));
            event.sla_class = Some(class);
        }
        if what == JobEventKind::CancelRequested {
            // An error means that nobody listens, which is no error here.
            let _ = self.commands.sender.send(event.clone());
        }
        let _ = self.all.sender.send(event);
    }

    pub(crate) fn watch(&self, what: Watch) -> BoxStream<'static, Watched> {
        let channel = if matches!(what, Watch::Commands(_)) { &self.commands } else { &self.all };
        let (events, listening) = channel.listen();
        let events = BroadcastStream::new(events);
        let wanted = move |event: &JobEvent| match &what {
            Watch::All => true,
            Watch::Queue(queue) | Watch::Commands(queue) => event.job.queue == *queue,
            Watch::Jobs(jobs) => jobs.contains(&event.job),
        };
        let watched = events.filter_map(move |item| {
            // The count goes with the stream.
            let _ = &listening;
            let item = match item {
                Ok(event) if wanted(&event) => Some(Watched::Event(event)),
                Ok(_) => None,
                Err(BroadcastStreamRecvError::Lagged(_)) => Some(Watched::Missed),
            };
            std::future::ready(item)
        });
        watched.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_made_only_for_those_who_listen_to_them() {
        use JobEventKind::{CancelRequested, Started};
        let hub = Hub::new();
        let heard = || (hub.is_heard(Started), hub.is_heard(CancelRequested));
        assert_eq!(heard(), (false, false));
        let commands = hub.watch(Watch::Commands(QueueName::from_static("q")));
        assert_eq!(heard(), (false, true));
        let all = hub.watch(Watch::All);
        assert_eq!(heard(), (true, true));
        drop(commands);
        drop(all);
        assert_eq!(heard(), (false, false));
    }
}
