#![doc = include_str!("../docs/worker.md")]

mod buffer;
mod builder;
mod completer;
mod context;
mod doorkeeper;
mod extract;
mod failure;
mod fetch;
mod gate;
mod handler;
mod heartbeat;
mod held;
mod lines;
mod pool;
mod run;
mod shutdown;
mod status;

pub use builder::WorkerBuilder;
pub use completer::RunReport;
pub use context::JobContext;
pub use extract::{FromJob, JobRequest, RawJob, State};
pub use failure::Failure;
pub use handler::{Handler, HandlerService, JobResult};
pub use shutdown::{DrainReport, Worker};
pub use status::{PoolStatus, WorkerStatus};
pub(crate) use {gate::Detours, lines::Lines, pool::Pool, status::Roll};
