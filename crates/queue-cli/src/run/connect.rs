//! From `--provider` to a scheduler.

use std::sync::Arc;

use queue_core::{Env, Error, ErrorCode, JobScheduler, QueueProvider, Result};
use queue_memory::MemoryProvider;

/// The URL schemes that this build knows.
pub const SCHEMES: &[&str] = &["memory"];

/// Opens the provider of a URL.
///
/// # Errors
/// `UNSUPPORTED` for a scheme that was not compiled in, naming those that were; what the provider says.
pub async fn connect(url: &str) -> Result<JobScheduler> {
    let scheme = url.split(':').next().unwrap_or_default();
    if scheme != "memory" {
        let message = format!(
            "no provider of this build answers to {scheme:?}; it has {}",
            SCHEMES.iter().map(|scheme| format!("`{scheme}:`")).collect::<Vec<_>>().join(", ")
        );
        return Err(Error::new(ErrorCode::Unsupported, message));
    }
    let env = Env::system();
    let provider: Arc<dyn QueueProvider> = Arc::new(MemoryProvider::with_env(env.clone()));
    Ok(JobScheduler::with_env(provider, env))
}
