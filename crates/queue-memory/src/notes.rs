//! Small notes of the application beside its jobs, and what else has a name instead of a number.

use std::collections::BTreeMap;

use bytes::Bytes;
use queue_core::{Error, ErrorCode, Result, job::QueueName, provider::Durability};

use crate::{
    MemoryProvider,
    journal::{Batch, Table, Urgency},
    rows::{Broken, subscription, subscription_key},
};

const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 64 << 10;
const MAX_NOTES: usize = 1_024;

impl MemoryProvider {
    /// Keeps a small note of the application's, such as how far it has read its input, in place of an earlier one under the
    /// same key.
    ///
    /// **Order**: on disk, a note never comes before anything that this process published, settled or noted earlier (whose
    /// call had changed the queue before this one began): after a crash, whoever finds the note finds that too. A note that
    /// is `relaxed` is not waited for, and is on disk with the next commit, within a second.
    ///
    /// Without a journal it is kept in memory, and only `relaxed`.
    ///
    /// # Errors
    /// `VALIDATION` beyond 256 bytes of key, 64 KiB of value, or 1,024 notes; `UNSUPPORTED` for a durability that the
    /// provider does not have; `UNAVAILABLE` where the disk refuses: the note may be there later; `CLOSED`.
    pub async fn note(&self, key: &str, value: impl Into<Bytes> + Send, durability: Durability) -> Result<()> {
        self.ensure_open("note")?;
        self.check_durability(Some(durability)).map_err(|error| error.at("note"))?;
        let value = value.into();
        if !(1..=MAX_KEY).contains(&key.len()) || value.len() > MAX_VALUE {
            let message = "a note has a key of 1 to 256 bytes and at most 64 KiB";
            return Err(Error::new(ErrorCode::Validation, message).at("note").by("memory"));
        }
        self.shared.ready().map_err(|error| error.at("note"))?;
        let urgency = match durability {
            Durability::Interval(most) => Urgency::Within(most),
            Durability::Synced | Durability::Replicated { .. } => Urgency::Now,
            Durability::Relaxed => Urgency::Within(std::time::Duration::from_secs(1)),
        };
        let ticket = {
            let mut notes = self.shared.notes.lock();
            if notes.len() >= MAX_NOTES && !notes.contains_key(key) {
                let message = "there are 1,024 notes already: use fewer keys";
                return Err(Error::new(ErrorCode::Validation, message).at("note").by("memory"));
            }
            notes.insert(key.to_owned(), value.clone());
            let mut batch = Batch::new();
            batch.put(Table::Notes, &Named::Note(key.to_owned()).key(), &value);
            self.shared.journal.as_ref().map(|journal| journal.append(&batch, urgency))
        };
        self.shared.kept(ticket.filter(|_| urgency == Urgency::Now)).await.map_err(|error| error.at("note"))
    }

    /// The notes, those of earlier processes included.
    #[must_use]
    pub fn notes(&self) -> BTreeMap<String, Bytes> {
        self.shared.notes.lock().clone()
    }
}

/// What a row is named for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// The provider's own id.
    Store,
    Note(String),
    /// A topic, and a queue that is subscribed to it.
    Subscription(QueueName, QueueName),
}

impl Named {
    pub(crate) fn key(&self) -> Vec<u8> {
        match self {
            Self::Store => b"i".to_vec(),
            Self::Note(name) => [b"n", name.as_bytes()].concat(),
            Self::Subscription(topic, queue) => [&b"s"[..], &subscription_key(topic, queue)].concat(),
        }
    }

    #[cfg_attr(not(feature = "journal"), allow(dead_code, reason = "nothing is read back"))]
    pub(crate) fn read(key: &[u8]) -> Result<Self, Broken> {
        match key.split_first() {
            Some((b'i', [])) => Ok(Self::Store),
            Some((b'n', name)) => std::str::from_utf8(name)
                .map(|name| Self::Note(name.to_owned()))
                .map_err(|_| Broken::Record("a note's name")),
            Some((b's', names)) => subscription(names).map(|(topic, queue)| Self::Subscription(topic, queue)),
            _ => Err(Broken::Record("a name")),
        }
    }
}
