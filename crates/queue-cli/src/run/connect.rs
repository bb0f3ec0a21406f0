//! From `--provider` to a scheduler.

use std::{path::Path, sync::Arc};

use queue_core::{JobScheduler, QueueName, Result};
use queue_manager::QueueManager;

use crate::resume::journal::Journal;

/// Opens a journal that nobody else has open.
///
/// # Errors
/// The provider's, with what to do.
pub(super) async fn open_journal(directory: &Path) -> Result<(JobScheduler, Arc<dyn Journal>)> {
    let _ = directory;
    todo!()
}

/// Connects to the provider of a URL.
///
/// # Errors
/// `CONFIG` for a scheme that was not compiled in, with how to get it; else what the provider says.
pub(super) async fn connect(url: &str, queue: Option<&QueueName>) -> Result<JobScheduler> {
    let manager = QueueManager::connect(url).await?;
    manager.scheduler(queue.map_or("run", QueueName::as_str)).cloned()
}
