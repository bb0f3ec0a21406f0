#![doc = include_str!("../docs/worker.md")]

mod autoscale;
mod buffer;
mod builder;
mod cancels;
mod completer;
mod context;
mod crew;
mod extract;
mod failure;
mod fetch;
mod handler;
mod health;
mod heartbeat;
mod held;
mod pool;
mod roster;
mod run;
mod scaler;
mod shutdown;
mod status;

pub use autoscale::Scaling;
pub use builder::WorkerBuilder;
pub use completer::RunReport;
pub use context::JobContext;
pub use extract::{FromJob, JobRequest, RawJob, State};
pub use failure::Failure;
pub use handler::{Handler, HandlerService, JobResult};
pub use shutdown::{DrainReport, Worker};
pub use status::{PoolStatus, WorkerStatus};
pub(crate) use {pool::Pool, status::Roll};
