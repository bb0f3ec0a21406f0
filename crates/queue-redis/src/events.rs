//! Following what happens, over all processes: each queue has a bounded stream, which is written while somebody watches.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_core::stream::BoxStream;
use queue_core::{
    JobStore, QueueName, Result,
    event::{JobEvent, JobEventKind},
    job::{JobKind, JobRef, Timestamp},
    store::{Lookup, Watch, Watched},
};
use redis::Value;
use tokio::sync::mpsc;

use crate::{
    fault,
    link::{Waiting, bytes, items, text},
    position::Position,
    provider::Shared,
    record,
};

/// For so long a queue tells events after a watcher said that it listens; it says so twice in that time.
const LISTEN: Duration = Duration::from_secs(30);
/// How soon an event of a queue is heard of that was not there before.
const NEW: Duration = Duration::from_secs(1);
/// How often streams are looked at where one wait is not enough (several queues of a cluster), or none is free (many watch).
const POLL: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_millis(200);
/// Events that a slow watcher may be behind.
const BEHIND: usize = 4_096;
const KINDS: [JobEventKind; 13] = [
    JobEventKind::Submitted,
    JobEventKind::Started,
    JobEventKind::Progress,
    JobEventKind::Completed,
    JobEventKind::Retrying,
    JobEventKind::DeadLettered,
    JobEventKind::Cancelled,
    JobEventKind::CancelRequested,
    JobEventKind::Expired,
    JobEventKind::Released,
    JobEventKind::LeaseLost,
    JobEventKind::Parked,
    JobEventKind::Redriven,
];

/// Events of the queues whose keys `shared` names; `store` has their records.
pub(crate) async fn watch(
    shared: Arc<Shared>,
    store: Arc<dyn JobStore>,
    what: Watch,
) -> Result<BoxStream<'static, Watched>> {
    if let (Watch::Queue(queue) | Watch::Commands(queue), true) = (&what, shared.link.is_cluster()) {
        let known = shared.whole(queue).await?;
        if known.count() > 1 && !known.text.is_empty() {
            // One wait is for one slot: each shard is waited for by itself.
            let mut streams = Vec::with_capacity(known.count());
            for shard in known.parts() {
                streams.push(follow(Arc::clone(&shared), Arc::clone(&store), what.clone(), Some(shard.place)).await?);
            }
            return Ok(Box::pin(futures_util::stream::select_all(streams)));
        }
    }
    follow(shared, store, what, None).await
}

async fn follow(
    shared: Arc<Shared>,
    store: Arc<dyn JobStore>,
    what: Watch,
    only: Option<u16>,
) -> Result<BoxStream<'static, Watched>> {
    let mut watcher = Watcher { shared, store, what, only, last: HashMap::new(), begun: false, declared: false };
    watcher.listen().await?;
    let (sender, receiver) = mpsc::channel(BEHIND);
    // It ends when the stream is dropped.
    let tasks = Arc::clone(&watcher.shared);
    tasks.tasks.begin(watcher.run(sender));
    Ok(Box::pin(futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|event| (event, receiver))
    })))
}

/// A queue, a shard of it, and what its keys begin with.
type Stream = (QueueName, u16, String);

struct Watcher {
    shared: Arc<Shared>,
    store: Arc<dyn JobStore>,
    what: Watch,
    /// Of several shards this one alone.
    only: Option<u16>,
    /// Where it stands in each stream, of which a queue has one for each shard.
    last: HashMap<Stream, Position>,
    begun: bool,
    /// All queues were there; before that it is not known where they tell their events.
    declared: bool,
}

impl Watcher {
    async fn queues(&self) -> Result<Vec<QueueName>> {
        match &self.what {
            Watch::All => self.shared.all_queues("watch").await,
            Watch::Queue(queue) | Watch::Commands(queue) => Ok(vec![queue.clone()]),
            Watch::Jobs(jobs) => {
                let mut queues: Vec<_> = jobs.iter().map(|job| job.queue.clone()).collect();
                queues.sort();
                queues.dedup();
                Ok(queues)
            }
        }
    }

    async fn streams(&mut self) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        self.declared = true;
        for queue in self.queues().await? {
            let known = self.shared.whole(&queue).await?;
            self.declared &= !known.text.is_empty();
            let shards = known.parts().iter().filter(|shard| self.only.is_none_or(|only| only == shard.place));
            streams.extend(shards.map(|shard| (queue.clone(), shard.place, shard.base.clone())));
        }
        Ok(streams)
    }

    /// Says that somebody listens, and finds out where a stream that is new here stands.
    async fn listen(&mut self) -> Result<()> {
        let fail = |error: redis::RedisError| fault::of(&error, "watch");
        let broken = |what| fault::broken(what, "watch");
        // Requests to stop are told in any case: who listens for them alone says nothing.
        if matches!(self.what, Watch::Commands(_)) && self.declared {
            return Ok(());
        }
        let clock = items(self.shared.link.ask(&redis::cmd("TIME")).await.map_err(fail)?).map_err(broken)?;
        let seconds = text(clock.into_iter().next().unwrap_or_default()).map_err(broken)?;
        let seconds: u64 = seconds.parse().map_err(|_| broken("not a time"))?;
        let until = (seconds + LISTEN.as_secs()) * 1_000;
        if matches!(self.what, Watch::All) {
            let say =
                redis::cmd("SET").arg(self.shared.layout.watched()).arg(until).arg("EX").arg(LISTEN.as_secs()).take();
            self.shared.link.ask(&say).await.map_err(fail)?;
        }
        for stream in self.streams().await? {
            let base = &stream.2;
            // Requests to stop are told in any case.
            if !matches!(self.what, Watch::Commands(_)) {
                let say = redis::cmd("HSET").arg(format!("{base}n")).arg("watched").arg(until).take();
                self.shared.link.ask(&say).await.map_err(fail)?;
            }
            if self.begun && !self.last.contains_key(&stream) {
                // It is new: whatever it told is news.
                self.last.insert(stream, Position::default());
            } else if !self.last.contains_key(&stream) {
                let end = Position::at_end(&self.shared.link, &key(&stream)).await.map_err(fail)?;
                self.last.insert(stream, end);
            }
        }
        self.begun = true;
        Ok(())
    }

    async fn run(mut self, sender: mpsc::Sender<Watched>) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.closing() => {}
            () = sender.closed() => {}
            () = self.follow(&sender) => {}
        }
    }

    /// Until nobody wants to hear it.
    async fn follow(&mut self, sender: &mpsc::Sender<Watched>) {
        let mut missed = false;
        loop {
            let mut connection = None;
            loop {
                if std::mem::take(&mut missed) && sender.send(Watched::Missed).await.is_err() {
                    return;
                }
                if self.listen().await.is_err() {
                    break;
                }
                let Ok(events) = self.read(&mut connection).await else { break };
                for event in events {
                    let is_wanted = match &event {
                        Watched::Event(event) => self.is_wanted(event),
                        Watched::Missed => true,
                    };
                    if is_wanted && sender.send(event).await.is_err() {
                        return;
                    }
                }
            }
            missed = true;
            tokio::time::sleep(RETRY).await;
        }
    }

    fn is_wanted(&self, event: &JobEvent) -> bool {
        match &self.what {
            Watch::All | Watch::Queue(_) => true,
            Watch::Commands(_) => event.what == JobEventKind::CancelRequested,
            // Who named a job by its queue and id alone need not know its shard.
            Watch::Jobs(jobs) => jobs.iter().any(|job| (&job.queue, job.id) == (&event.job.queue, event.job.id)),
        }
    }

    /// What comes within a while.
    async fn read(&mut self, connection: &mut Option<Waiting>) -> Result<Vec<Watched>, redis::RedisError> {
        let last = self.last.iter().map(|(stream, position)| (stream.clone(), position.last().to_owned()));
        let mut queues: Vec<(Stream, String)> = last.collect();
        queues.sort();
        if queues.is_empty() {
            tokio::time::sleep(NEW).await;
            return Ok(Vec::new());
        }
        // One wait is for one slot.
        let is_one = queues.len() == 1 || !self.shared.link.is_cluster();
        let waiting = match connection.take() {
            Some(waiting) if is_one => Some(waiting),
            None if is_one => self.shared.link.watching(&key(&queues[0].0)).await?,
            _ => None,
        };
        let Some(mut waiting) = waiting else {
            tokio::time::sleep(POLL).await;
            let mut events = Vec::new();
            for queue in &queues {
                let answer = self.shared.link.ask(&self.command(std::slice::from_ref(queue), None)).await?;
                events.extend(self.events(answer, std::slice::from_ref(queue)).await);
            }
            return Ok(events);
        };
        let waits = match self.what {
            // New queues join within that time.
            Watch::All => NEW,
            // It need not say again that it listens.
            Watch::Commands(_) if self.declared => 2 * LISTEN,
            _ => LISTEN / 3,
        };
        let answer = waiting.ask(&self.command(&queues, Some(waits)), waits).await?;
        *connection = Some(waiting);
        Ok(self.events(answer, &queues).await)
    }

    fn command(&self, queues: &[(Stream, String)], waits: Option<Duration>) -> redis::Cmd {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(500);
        if let Some(waits) = waits {
            command.arg("BLOCK").arg(record::millis(waits));
        }
        command.arg("STREAMS");
        for (queue, _) in queues {
            command.arg(key(queue));
        }
        for (_, last) in queues {
            command.arg(last);
        }
        command
    }

    /// What was read, and before it that something is missing there.
    async fn events(&mut self, answer: Value, queues: &[(Stream, String)]) -> Vec<Watched> {
        let mut told = Vec::new();
        for stream in items(answer).unwrap_or_default() {
            let mut stream = items(stream).unwrap_or_default().into_iter();
            let name = text(stream.next().unwrap_or_default()).unwrap_or_default();
            let Some((queue, _)) = queues.iter().find(|(queue, _)| key(queue) == name) else { continue };
            let (mut ids, mut events) = (Vec::new(), Vec::new());
            for entry in items(stream.next().unwrap_or_default()).unwrap_or_default() {
                let mut entry = items(entry).unwrap_or_default().into_iter();
                ids.extend(text(entry.next().unwrap_or_default()));
                let fields = items(entry.next().unwrap_or_default()).unwrap_or_default();
                events.extend(event(queue, fields));
            }
            let position = self.last.entry(queue.clone()).or_default();
            if position.read(&self.shared.link, &name, ids).await {
                told.push(Watched::Missed);
            }
            for mut event in events {
                self.complete(&mut event).await;
                told.push(Watched::Event(event));
            }
        }
        told
    }

    /// Adds what the record says: how far it is, and whether it kept to its class.
    async fn complete(&self, event: &mut JobEvent) {
        if !matches!(event.what, JobEventKind::Completed | JobEventKind::Progress) {
            return;
        }
        let found = self.store.get(std::slice::from_ref(&event.job)).await;
        let Some(Ok(Lookup::Found(record))) = found.into_iter().next() else { return };
        if event.what == JobEventKind::Progress {
            event.progress = record.progress;
        } else if let Some(class) = record.envelope.sla() {
            event.sla = record.sla();
            event.sla_class = Some(class);
        }
    }
}

fn key((_, _, base): &Stream) -> String {
    format!("{base}e")
}

fn event((queue, place, _): &Stream, fields: Vec<Value>) -> Option<JobEvent> {
    let mut fields = fields.into_iter();
    let (mut id, mut what, mut attempt, mut kind, mut at) = (None, None, 1, None, 0);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        match text(name).ok()?.as_str() {
            "j" => id = record::read_id(&bytes(value).ok()?).ok(),
            "w" => {
                let word = text(value).ok()?;
                what = KINDS.into_iter().find(|kind| kind.as_str() == word);
            }
            "a" => attempt = text(value).ok()?.parse().ok()?,
            "k" => kind = JobKind::new(text(value).ok()?).ok(),
            "t" => at = text(value).ok()?.parse().ok()?,
            _ => {}
        }
    }
    let job = JobRef { queue: queue.clone(), id: id?, place: *place };
    Some(JobEvent::new(Timestamp::from_millis(at), job, kind?, what?, attempt))
}
