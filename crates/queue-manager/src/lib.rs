#![doc = include_str!("docs/crate.md")]

pub mod alerts;
mod builder;
pub mod capabilities;
pub mod config;
mod connect;
mod dead;
mod health;
mod listing;
mod manager;
mod messages;
mod providers;
mod routes;
mod several;
mod statistics;
mod stores;

pub use builder::ManagerBuilder;
pub use config::Config;
pub use dead::{DeadLetter, DeadLetters, RedrivePlan, RedriveProgress};
pub use health::{HealthFault, HealthReport, HealthStatus, ProviderHealth, QueueHealth, StoreHealth, WorkerHealth};
pub use manager::{CancelReport, QueueManager};
pub use providers::registry;
pub use statistics::{ProviderStatistics, QueueStatistics, Statistics, Throughput, Totals, WorkerTotals};
