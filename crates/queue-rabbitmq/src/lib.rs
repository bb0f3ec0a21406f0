//! The RabbitMQ provider: quorum queues, confirmed publishes, delays without plugins.
//!
//! It is a bare transport: it keeps no records. The tracking layer pairs it with a store that does. What stands on the broker
//! is in `layout.rs`, what a message looks like in `wire.rs`. Needs RabbitMQ 3.10 or later.

mod admin;
mod capabilities;
mod consumer;
mod delay;
mod factory;
mod fault;
mod layout;
mod link;
mod options;
mod provider;
mod publish;
mod specs;
mod topology;
mod wire;

pub use factory::register;
pub use options::{Broker, RabbitOptions, Tls};
pub use provider::RabbitProvider;

pub(crate) const SCHEME: &str = "amqp";
