//! Looks into the journal of a run that was killed, without touching it.

use std::{collections::HashSet, fs, path::Path};

use queue_core::{Env, QueueName, QueueProvider as _, lifecycle::JobState, store::JobQuery};
use queue_memory::{JournalOptions, MemoryProvider};

/// Lines whose jobs have ended, as far as the disk knows. It is a copy that is opened.
pub(crate) fn ended(journal: &Path, copy: &Path) -> HashSet<u64> {
    let _ = fs::remove_dir_all(copy);
    fs::create_dir(copy).unwrap();
    // It may have been killed before it made one.
    for entry in fs::read_dir(journal).into_iter().flatten().flatten() {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let provider = MemoryProvider::open(&JournalOptions::folder(copy), Env::system()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let query = JobQuery::queue(QueueName::from_static("run"));
    let page = runtime.block_on(provider.job_store().unwrap().list(&query, None, 1_000_000)).unwrap();
    let over = |state| matches!(state, JobState::Completed | JobState::Dead | JobState::Cancelled | JobState::Expired);
    let ended = page.items.into_iter().filter(|record| over(record.state));
    ended.map(|record| std::str::from_utf8(&record.envelope.payload).unwrap().parse().unwrap()).collect()
}
