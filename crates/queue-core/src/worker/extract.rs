//! What a handler may ask for in its arguments.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use super::{Failure, JobContext};
use crate::{
    error::ErrorCode,
    job::{Envelope, JobError},
};

/// One run of a job, as it passes through layers to its handler.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// The job.
    pub context: JobContext,
}

/// Shared values by type.
#[derive(Clone, Default)]
pub(super) struct States(Arc<HashMap<TypeId, Box<dyn Any + Send + Sync>>>);

impl States {
    pub(super) fn new(states: HashMap<TypeId, Box<dyn Any + Send + Sync>>) -> Self {
        Self(Arc::new(states))
    }

    fn get<T: Clone + 'static>(&self) -> Option<T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref::<T>().cloned()
    }
}

impl std::fmt::Debug for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "States({})", self.0.len())
    }
}

/// An argument of a handler, behind the job itself.
pub trait FromJob: Sized + Send {
    /// Takes it from the run.
    ///
    /// # Errors
    /// What becomes of the job where it cannot be had.
    fn from_job(request: &JobRequest) -> Result<Self, Failure>;
}

impl FromJob for JobContext {
    fn from_job(request: &JobRequest) -> Result<Self, Failure> {
        Ok(request.context.clone())
    }
}

/// The job as it travelled, for handlers that read other payloads than JSON.
#[derive(Debug, Clone)]
pub struct RawJob(pub Envelope);

impl FromJob for RawJob {
    fn from_job(request: &JobRequest) -> Result<Self, Failure> {
        Ok(Self(request.context.envelope().clone()))
    }
}

/// A value that was given to the worker with [`super::WorkerBuilder::state`]; each handler gets a clone.
#[derive(Debug, Clone, Copy)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromJob for State<T> {
    fn from_job(request: &JobRequest) -> Result<Self, Failure> {
        request.context.0.common.states.get::<T>().map(State).ok_or_else(|| {
            let message =
                format!("the worker has no state of type {}: add it with `.state(…)`", std::any::type_name::<T>());
            Failure::Retry(JobError::new(ErrorCode::Config, message))
        })
    }
}
