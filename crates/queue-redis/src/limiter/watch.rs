//! Following breakers, over all processes.

use std::{sync::Arc, time::Duration};

use futures_core::stream::BoxStream;
use queue_core::{event::BreakerEvent, job::Timestamp, provider::ParkKey, store::Watched};
use redis::Value;
use tokio::sync::mpsc;

use super::state;
use crate::{
    link::{Waiting, items, text},
    position::Position,
    provider::Shared,
    record::millis,
};

/// A listener may be so many events behind.
const BEHIND: usize = 1_024;
/// How long one wait in the server lasts.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is looked at where no connection is free to wait on, for many watch.
const POLL: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_millis(200);

pub(super) fn watch(shared: Arc<Shared>, stream: String) -> BoxStream<'static, Watched<BreakerEvent>> {
    let (sender, receiver) = mpsc::channel(BEHIND);
    // It ends when the stream is dropped.
    let tasks = Arc::clone(&shared);
    tasks.tasks.begin(Follower { shared, stream, last: None }.run(sender));
    Box::pin(futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|event| (event, receiver))
    }))
}

struct Follower {
    shared: Arc<Shared>,
    stream: String,
    /// Where it stands, once that is known.
    last: Option<Position>,
}

impl Follower {
    async fn run(mut self, sender: mpsc::Sender<Watched<BreakerEvent>>) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.closing() => {}
            () = sender.closed() => {}
            () = self.follow(&sender) => {}
        }
    }

    /// Until nobody wants to hear it.
    async fn follow(&mut self, sender: &mpsc::Sender<Watched<BreakerEvent>>) {
        loop {
            if let Err(error) = self.follow_once(sender).await {
                tracing::debug!(%error, "the wait for breakers broke; looking again");
            }
            if sender.send(Watched::Missed).await.is_err() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// On one connection, until it breaks.
    async fn follow_once(&mut self, sender: &mpsc::Sender<Watched<BreakerEvent>>) -> redis::RedisResult<()> {
        let mut connection = None;
        loop {
            if connection.is_none() {
                connection = self.shared.link.watching(&self.stream).await?;
            }
            for event in self.read(connection.as_mut()).await? {
                if sender.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    async fn read(&mut self, connection: Option<&mut Waiting>) -> redis::RedisResult<Vec<Watched<BreakerEvent>>> {
        let position = match &mut self.last {
            Some(position) => position,
            last => last.insert(Position::at_end(&self.shared.link, &self.stream).await?),
        };
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(500);
        if connection.is_some() {
            read.arg("BLOCK").arg(millis(LONGEST));
        }
        read.arg("STREAMS").arg(&self.stream).arg(position.last());
        let answer = match connection {
            Some(connection) => connection.ask(&read, LONGEST).await?,
            None => {
                tokio::time::sleep(POLL).await;
                self.shared.link.ask(&read).await?
            }
        };
        let (mut ids, mut events) = (Vec::new(), Vec::new());
        for stream in items(answer).unwrap_or_default() {
            for entry in
                items(stream).ok().and_then(|stream| items(stream.into_iter().nth(1)?).ok()).unwrap_or_default()
            {
                let mut entry = items(entry).unwrap_or_default().into_iter();
                ids.extend(text(entry.next().unwrap_or_default()));
                let event = event(items(entry.next().unwrap_or_default()).unwrap_or_default());
                events.extend(event.map(Watched::Event));
            }
        }
        if !ids.is_empty() && position.read(&self.shared.link, &self.stream, ids).await {
            events.insert(0, Watched::Missed);
        }
        Ok(events)
    }
}

fn event(fields: Vec<Value>) -> Option<BreakerEvent> {
    let mut fields = fields.into_iter();
    let (mut key, mut from, mut to, mut at) = (None, None, None, 0);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let value = text(value).ok()?;
        match text(name).ok()?.as_str() {
            "k" => key = Some(ParkKey(value.into())),
            "f" => from = state(value.parse().ok()?),
            "t" => to = state(value.parse().ok()?),
            "a" => at = value.parse().ok()?,
            _ => {}
        }
    }
    Some(BreakerEvent::new(Timestamp::from_millis(at), key?, from?, to?))
}
