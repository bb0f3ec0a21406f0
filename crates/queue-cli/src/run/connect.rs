//! From `--provider` to a scheduler.

use std::{path::Path, sync::Arc, time::Duration};

use queue_core::{Env, Error, ErrorCode, JobScheduler, QueueName, Result};
use queue_manager::QueueManager;
use queue_memory::{JournalOptions, MemoryProvider};
use tokio::time::Instant;

/// Opens a journal that nobody else has open.
///
/// # Errors
/// The provider's, with what to do.
pub(super) async fn open_journal(directory: &Path) -> Result<(JobScheduler, Arc<MemoryProvider>)> {
    let env = Env::system();
    let begun = Instant::now();
    loop {
        let (options, clock) = (JournalOptions::folder(directory), env.clone());
        let opened = tokio::task::spawn_blocking(move || MemoryProvider::open(&options, clock)).await;
        let failed = |_| Error::new(ErrorCode::Internal, "opening the journal broke off; please report this");
        match opened.map_err(failed)? {
            Err(error) if error.code() == ErrorCode::StoreInUse && begun.elapsed() < LAST_BREATH => {
                tokio::time::sleep(LAST_BREATH / 20).await;
            }
            opened => {
                let provider = opened?;
                return Ok((JobScheduler::with_env(Arc::new(provider.clone()), env), Arc::new(provider)));
            }
        }
    }
}

/// A life that was killed while it started a program may hold its lock for a moment longer, in what was to become the program.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Connects to the provider of a URL.
///
/// # Errors
/// `CONFIG` for a scheme that was not compiled in, with how to get it; else what the provider says.
pub(super) async fn connect(url: &str, queue: Option<&QueueName>) -> Result<JobScheduler> {
    let manager = QueueManager::connect(url).await?;
    manager.scheduler(queue.map_or("run", QueueName::as_str)).cloned()
}
