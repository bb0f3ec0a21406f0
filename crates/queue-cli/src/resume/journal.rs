//! What a run needs of a journal beside the queue in it.

use std::{collections::HashSet, fmt::Debug};

use queue_core::{JobId, QueueName};

/// A journal, as far as it holds more than jobs. Everything is written in the order in which it is asked for, together with
/// what happens to jobs; nothing here waits for the disk.
pub trait Journal: Debug + Send + Sync + 'static {
    /// Keeps a value in the place of the last one under the key.
    fn note(&self, key: &'static str, value: Vec<u8>);

    /// What was noted in earlier lives.
    fn notes(&self) -> Vec<(String, Vec<u8>)>;

    /// Forgets finished jobs. Others stay.
    fn forget(&self, queue: &QueueName, jobs: &HashSet<JobId>);

    /// Why nothing can be written now, for people. It goes on by itself when that is mended.
    fn trouble(&self) -> Option<String>;
}
