//! A channel whose waits end.
//!
//! When a connection ends under them lapin leaves some waits open for ever: that for a channel which was being opened, and that for a
//! message whose body was still to come. Nobody who asks through [`Lane::answer`] waits longer than the connection lasts.

use std::{fmt, future::Future, ops::Deref, time::Duration};

use lapin::Channel;
use queue_core::Result;
use tokio::{sync::watch, time::sleep};

use crate::fault;

/// Until when an answer is awaited.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    gone: watch::Receiver<bool>,
    limit: Duration,
}

impl Bounds {
    pub(super) fn new(gone: watch::Receiver<bool>, limit: Duration) -> Self {
        Self { gone, limit }
    }

    /// As long, but no longer than this.
    pub(crate) fn at_most(mut self, limit: Duration) -> Self {
        self.limit = self.limit.min(limit);
        self
    }

    /// The answer, or `UNAVAILABLE` once the connection has gone, or `TIMEOUT`. It is polled first, before this returns for the
    /// first time: what it queues is queued then.
    pub(crate) async fn answer<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        let mut gone = self.gone.clone();
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|error| fault::of(&error, operation)),
            // Who could say that it is gone went with it.
            _ = gone.wait_for(|gone| *gone) => Err(fault::away(operation)),
            () = sleep(self.limit) => Err(fault::unanswered(operation)),
        }
    }
}

/// A channel. An error on it ends it, and no other.
pub(crate) struct Lane {
    channel: Channel,
    bounds: Bounds,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("id", &self.channel.id()).finish_non_exhaustive()
    }
}

impl Lane {
    pub(super) fn new(channel: Channel, bounds: Bounds) -> Self {
        Self { channel, bounds }
    }

    /// For what the broker may take long over: to make or remove a queue on several nodes.
    pub(crate) fn patient(mut self) -> Self {
        self.bounds.limit *= 3;
        self
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// See [`Bounds::answer`].
    pub(crate) async fn answer<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        self.bounds.answer(operation, answer).await
    }

    /// Closes it, once it did its work; whether the broker hears of that does not matter.
    pub(crate) async fn farewell(&self) {
        let bounds = self.bounds.clone().at_most(Duration::from_secs(2));
        let _ = bounds.answer("close", self.channel.close(200, "done".into())).await;
    }

    pub(super) fn into_channel(self) -> Channel {
        self.channel
    }
}

impl Deref for Lane {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

#[cfg(test)]
impl Bounds {
    /// With what ends them.
    pub(crate) fn of_a_test(limit: Duration) -> (watch::Sender<bool>, Self) {
        let (gone, told) = watch::channel(false);
        (gone, Self::new(told, limit))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use queue_core::ErrorCode;
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_given_up_in_time() {
        let (_gone, bounds) = Bounds::of_a_test(LIMIT);
        let before = Instant::now();
        let answer = bounds.answer("test", pending::<lapin::Result<()>>()).await;
        assert_eq!(answer.map_err(|error| error.code()), Err(ErrorCode::Timeout));
        assert_eq!(before.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_awaited_longer_than_the_connection_lasts() {
        let (gone, bounds) = Bounds::of_a_test(LIMIT);
        let before = Instant::now();
        let cut = async {
            sleep(Duration::from_millis(20)).await;
            gone.send_replace(true);
        };
        let (answer, ()) = tokio::join!(bounds.answer("test", pending::<lapin::Result<()>>()), cut);
        assert_eq!(answer.map_err(|error| error.code()), Err(ErrorCode::Unavailable));
        assert!(before.elapsed() < Duration::from_secs(1));
        // What had come by then is taken all the same.
        assert_eq!(bounds.answer("test", ready(Ok(1))).await.ok(), Some(1));
    }
}
