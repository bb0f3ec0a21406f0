//! The tasks that follow something for as long as somebody listens. They end with the connection.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::task::JoinSet;

/// They are told by then; one that does not hear is cut off.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Begins one, which must end by itself when the connection is closed.
    pub(crate) fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Waits until all have ended.
    pub(crate) async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tasks.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    struct Ends(Arc<AtomicUsize>);

    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_have_ended_also_those_that_do_not_hear() {
        let (tasks, ended) = (Tasks::default(), Arc::<AtomicUsize>::default());
        for pause in [Duration::from_millis(10), Duration::from_secs(3_600)] {
            let ends = Ends(Arc::clone(&ended));
            tasks.begin(async move {
                tokio::time::sleep(pause).await;
                drop(ends);
            });
        }
        let begun = tokio::time::Instant::now();
        tasks.end().await;
        assert_eq!((ended.load(Ordering::Relaxed), begun.elapsed()), (2, PATIENCE));
    }
}
