#![doc = include_str!("docs/crate.md")]

pub mod alerts;
mod builder;
pub mod capabilities;
pub mod config;
mod dead;
mod health;
mod manager;
mod messages;
mod providers;
mod route;

pub use builder::ManagerBuilder;
pub use config::Config;
pub use dead::{DeadLetter, DeadLetters, RedrivePlan, RedriveProgress};
pub use health::{HealthFault, HealthReport, HealthStatus, ProviderHealth, QueueHealth};
pub use manager::QueueManager;
pub use providers::registry;
