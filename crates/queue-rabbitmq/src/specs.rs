//! What this process knows of the queues. The broker keeps no declaration but its own arguments.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use queue_core::{QueueName, QueueSpec};

/// A queue, as this process declared it, or with the defaults.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) spec: Arc<QueueSpec>,
    /// Somebody here declared it, and its declaration is to be kept to.
    pub(crate) declared: bool,
    /// It stands on the broker, as far as is known.
    pub(crate) stands: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Specs(Mutex<HashMap<QueueName, Known>>);

impl Specs {
    pub(crate) fn get(&self, queue: &QueueName) -> Option<Known> {
        self.lock().get(queue).cloned()
    }

    pub(crate) fn put(&self, spec: Arc<QueueSpec>, declared: bool) {
        let name = spec.name.clone();
        self.lock().insert(name, Known { spec, declared, stands: true });
    }

    /// It was dropped.
    pub(crate) fn forget(&self, queue: &QueueName) {
        self.lock().remove(queue);
    }

    /// It is not on the broker any more, or was never; the next use creates it as it was declared.
    pub(crate) fn gone(&self, queue: &QueueName) {
        if let Some(known) = self.lock().get_mut(queue) {
            known.stands = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
