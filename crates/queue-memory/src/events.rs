//! Who hears what happens. Nobody listening costs one load.

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
    all: broadcast::Sender<JobEvent>,
    commands: broadcast::Sender<JobEvent>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { all: broadcast::Sender::new(BEHIND), commands: broadcast::Sender::new(BEHIND) }
    }

    pub(crate) fn is_heard(&self, what: JobEventKind) -> bool {
        self.all.receiver_count() > 0 || (what == JobEventKind::CancelRequested && self.commands.receiver_count() > 0)
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
        if what == JobEventKind::CancelRequested {
            // An error means that nobody listens, which is no error here.
            let _ = self.commands.send(event.clone());
        }
        let _ = self.all.send(event);
    }

    pub(crate) fn watch(&self, what: Watch) -> BoxStream<'static, Watched> {
        let channel = if matches!(what, Watch::Commands(_)) { &self.commands } else { &self.all };
        let events = BroadcastStream::new(channel.subscribe());
        let wanted = move |event: &JobEvent| match &what {
            Watch::All => true,
            Watch::Queue(queue) | Watch::Commands(queue) => event.job.queue == *queue,
            Watch::Jobs(jobs) => jobs.contains(&event.job),
        };
        let watched = events.filter_map(move |item| {
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
