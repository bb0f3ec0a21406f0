//! What a run needs of a journal beside the queue in it.

use std::{collections::HashSet, fmt::Debug};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use queue_core::{Error, ErrorCode, JobId, QueueName, Result, provider::Durability};
use queue_memory::MemoryProvider;

/// What [`Journal::settled`] writes down to wait for.
const BARRIER: &str = "run/barrier";

/// A journal, as far as it holds more than jobs. Everything is written in the order in which it is asked for, together with
/// what happens to jobs; only [`Journal::settled`] waits for the disk.
#[async_trait]
pub trait Journal: Debug + Send + Sync + 'static {
    /// Keeps a value in the place of the last one under the key.
    ///
    /// # Errors
    /// Nothing can be written now, and this was not: see [`Journal::trouble`].
    fn note(&self, key: &'static str, value: Vec<u8>) -> Result<()>;

    /// What was noted in earlier lives.
    fn notes(&self) -> Vec<(String, Vec<u8>)>;

    /// Forgets finished jobs. Others stay.
    fn forget(&self, queue: &QueueName, jobs: &HashSet<JobId>);

    /// Waits until all that has happened so far is on disk. False where that cannot be said: ask again.
    async fn settled(&self) -> bool;

    /// Why nothing can be written now, for people. It goes on by itself when that is mended.
    fn trouble(&self) -> Option<String>;
}

#[async_trait]
impl Journal for MemoryProvider {
    fn note(&self, key: &'static str, value: Vec<u8>) -> Result<()> {
        // A relaxed note waits for nothing.
        let noted = Self::note(self, key, value, Durability::Relaxed).now_or_never();
        noted.unwrap_or_else(|| Err(Error::new(ErrorCode::Internal, "a relaxed note waited").at("note")))
    }

    fn notes(&self) -> Vec<(String, Vec<u8>)> {
        Self::notes(self).into_iter().map(|(key, value)| (key, value.to_vec())).collect()
    }

    fn forget(&self, queue: &QueueName, jobs: &HashSet<JobId>) {
        Self::forget(self, queue, jobs);
    }

    async fn settled(&self) -> bool {
        Self::note(self, BARRIER, Vec::new(), Durability::Synced).await.is_ok()
    }

    fn trouble(&self) -> Option<String> {
        self.ready().err().map(|error| error.message().to_owned())
    }
}
