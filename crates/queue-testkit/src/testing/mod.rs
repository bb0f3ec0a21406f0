//! For the tests of applications: what was enqueued, run by hand, in time that the test moves.
//!
//! ```
//! use std::time::Duration;
//!
//! use queue_core::{Failure, Job};
//! use queue_testkit::{assert_enqueued, refute_enqueued, testing::TestQueues};
//! use serde::{Deserialize, Serialize};
//! use validator::Validate;
//!
//! #[derive(Serialize, Deserialize, Validate)]
//! struct SendEmail {
//!     #[validate(email)]
//!     to: String,
//! }
//!
//! impl Job for SendEmail {
//!     const KIND: &'static str = "email.send";
//!     const QUEUE: &'static str = "mail";
//!     type Output = ();
//! }
//!
//! async fn send_email(_: SendEmail) -> Result<(), Failure> {
//!     Ok(())
//! }
//!
//! // In a test of yours: #[tokio::test(start_paused = true)] async fn … { … }
//! # let mut runtime = tokio::runtime::Builder::new_current_thread();
//! # runtime.enable_time().start_paused(true).build().unwrap().block_on(async {
//! let queues = TestQueues::new();
//! let handle = queues.enqueue(SendEmail { to: "ada@example.org".into() }).delay(Duration::from_secs(60)).await.unwrap();
//!
//! assert_enqueued!(queues, SendEmail, |job| job.to == "ada@example.org");
//! refute_enqueued!(queues, SendEmail, |job| job.to == "bob@example.org");
//!
//! assert_eq!(queues.run(send_email).await.unwrap().completed(), 0, "it is not due yet");
//! queues.advance(Duration::from_secs(60)).await;
//! assert_eq!(queues.run(send_email).await.unwrap().completed(), 1);
//! handle.result().await.unwrap();
//! refute_enqueued!(queues, SendEmail);
//! # });
//! ```
//!
//! The models are River's `rivertest` and Oban's `Oban.Testing`.

mod drain;
mod enqueued;

pub use drain::Drained;
pub use enqueued::Enqueued;

use std::{ops::Deref, sync::Arc, time::Duration};

use queue_core::{Env, JobScheduler, Timestamp};
use queue_memory::MemoryProvider;

/// A scheduler over queues of its own, in memory, on a clock that follows `tokio::time` and with random numbers from a seed.
/// It derefs to the [`JobScheduler`], so that the code under test gets what it gets in production.
///
/// Make it inside a runtime, and pause that runtime's time (`#[tokio::test(start_paused = true)]`, tokio's feature
/// `test-util`): then delays cost nothing and a test is the same each time.
#[derive(Debug, Clone)]
pub struct TestQueues {
    scheduler: JobScheduler,
}

impl TestQueues {
    /// When a test begins, unless it says otherwise: 2024-01-01 00:00 UTC.
    pub const START: Timestamp = Timestamp::from_millis(1_704_067_200_000);

    /// Empty queues, at [`TestQueues::START`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_env(Env::seeded(Self::START, 0))
    }

    /// Empty queues on a clock and randomness of the caller's.
    #[must_use]
    pub fn with_env(env: Env) -> Self {
        let provider = Arc::new(MemoryProvider::with_env(env.clone()));
        Self { scheduler: JobScheduler::with_env(provider, env) }
    }

    /// The scheduler, for code that wants its own handle.
    #[must_use]
    pub fn scheduler(&self) -> &JobScheduler {
        &self.scheduler
    }

    /// Lets that much time pass. What happens on the way (delays, heartbeats, time-outs) happens in its order.
    ///
    /// In paused time that takes none; else it waits.
    pub async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

impl Default for TestQueues {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for TestQueues {
    type Target = JobScheduler;

    fn deref(&self) -> &JobScheduler {
        &self.scheduler
    }
}
