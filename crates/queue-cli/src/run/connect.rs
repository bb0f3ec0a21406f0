//! From `--provider` to a scheduler.

use std::{path::Path, sync::Arc};

use queue_core::{Env, Error, ErrorCode, JobScheduler, QueueName, Result};
use queue_manager::QueueManager;
use queue_memory::{JournalOptions, MemoryProvider};

/// Opens a journal that nobody else has open.
///
/// # Errors
/// The provider's, with what to do.
pub(super) async fn open_journal(directory: &Path) -> Result<(JobScheduler, Arc<MemoryProvider>)> {
    let (options, env) = (JournalOptions::folder(directory), Env::system());
    let opened = tokio::task::spawn_blocking({
        let env = env.clone();
        move || MemoryProvider::open(&options, env)
    });
    let failed = |_| Error::new(ErrorCode::Internal, "opening the journal broke off; please report this");
    let provider = opened.await.map_err(failed)??;
    Ok((JobScheduler::with_env(Arc::new(provider.clone()), env), Arc::new(provider)))
}

/// Connects to the provider of a URL.
///
/// # Errors
/// `CONFIG` for a scheme that was not compiled in, with how to get it; else what the provider says.
pub(super) async fn connect(url: &str, queue: Option<&QueueName>) -> Result<JobScheduler> {
    let manager = QueueManager::connect(url).await?;
    manager.scheduler(queue.map_or("run", QueueName::as_str)).cloned()
}
