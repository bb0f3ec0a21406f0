#![doc = include_str!("../docs/worker.md")]

mod autoscale;
mod buffer;
mod builder;
mod cancels;
mod completer;
mod context;
mod crew;
mod doorkeeper;
mod extract;
mod failure;
mod fetch;
mod gate;
mod handler;
mod health;
mod heartbeat;
mod held;
mod lines;
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
pub use handler::{Handler, HandlerService, JobResult, RunAny};
pub use shutdown::{DrainReport, Worker};
pub use status::{AtWork, PoolStatus, WorkerStatus};
pub(crate) use {completer::event_of, gate::Detours, lines::Lines, pool::Pool, status::Roll};
