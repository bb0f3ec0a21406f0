//! How long finished jobs are remembered: the store keeps it, so that whoever leads knows it.
//!
//! Some transports cannot tell how a queue was declared. A process that leads there and never declared a queue would forget its
//! jobs by the defaults, whatever was declared elsewhere.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{
    Error, ErrorCode, QueueName, QueueSpec, Result,
    queue_spec::{Retention, Tracking},
    store::QueueControl,
};

use super::core::{CONTROL_TRIES, Core, MAX_KNOWN};

/// What was declared here and the store has not noted yet.
#[derive(Debug, Default)]
pub(super) struct Unnoted(Mutex<BTreeMap<QueueName, Retention>>);

impl Unnoted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<QueueName, Retention>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owe(&self, queue: &QueueName, retention: Retention) {
        let mut owed = self.lock();
        if owed.len() >= MAX_KNOWN && !owed.contains_key(queue) {
            owed.pop_first();
        }
        owed.insert(queue.clone(), retention);
    }

    /// Unless it was declared otherwise meanwhile.
    fn noted(&self, queue: &QueueName, retention: &Retention) {
        let mut owed = self.lock();
        if owed.get(queue) == Some(retention) {
            owed.remove(queue);
        }
    }

    pub(super) fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }
}

impl Core {
    /// A store that is away is no reason to refuse a declaration: then it is owed, and maintenance notes it.
    pub(super) async fn note_retention(&self, spec: &QueueSpec) {
        if spec.tracking == Tracking::Off {
            self.unnoted.forget(&spec.name);
            return;
        }
        let retention = in_millis(&spec.retention);
        self.unnoted.owe(&spec.name, retention);
        if !self.store_is_still_away().await {
            self.pay(&spec.name, &retention).await;
        }
    }

    /// Notes what is owed, as far as the store lets it.
    pub(super) async fn note_owed(&self) {
        let owed = self.unnoted.lock().clone();
        for (queue, retention) in owed {
            if self.store_is_away().await {
                return;
            }
            self.pay(&queue, &retention).await;
        }
    }

    async fn pay(&self, queue: &QueueName, retention: &Retention) {
        match self.note_one(queue, retention).await {
            Ok(()) => self.unnoted.noted(queue, retention),
            Err(error) => tracing::debug!(%queue, %error, "the queue's retention is not noted yet"),
        }
    }

    async fn note_one(&self, queue: &QueueName, retention: &Retention) -> Result<()> {
        for _ in 0..CONTROL_TRIES {
            let control = self.ask(self.store.queue_control(queue)).await?;
            if control.retention.as_ref() == Some(retention) {
                return Ok(());
            }
            let control = QueueControl { retention: Some(*retention), ..control };
            match self.ask(self.store.set_queue_control(queue, &control)).await {
                Err(error) if error.code() == ErrorCode::Conflict => {}
                answer => return answer,
            }
        }
        Err(Error::new(ErrorCode::Conflict, "others keep changing the queue's switches").by(self.scheme()))
    }

    /// By what finished jobs are forgotten. What was declared elsewhere is asked of the store: while it does not answer, nobody
    /// knows, and the defaults would forget what is to be kept.
    pub(super) async fn retention(&self, spec: &QueueSpec) -> Result<Retention> {
        if self.declared(&spec.name).is_some() {
            return Ok(spec.retention);
        }
        let control = self.ask(self.store.queue_control(&spec.name)).await?;
        Ok(control.retention.unwrap_or(spec.retention))
    }
}

/// As stores keep it: what is finer would differ from what they tell with every declaration.
fn in_millis(retention: &Retention) -> Retention {
    let whole = |duration: Duration| Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    Retention { age: whole(retention.age), dead: whole(retention.dead), ..*retention }
}
