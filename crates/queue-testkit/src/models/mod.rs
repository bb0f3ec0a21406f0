//! Model transports: three in-process providers, each with the shape of a broker family.
//!
//! They are models, never brokers. They exist so that the contract, and every layer on top of it, can be proved against
//! the ways in which brokers differ, in paused time, from a seed, with faults on demand:
//!
//! | model | shape | lease | where it hurts |
//! |---|---|---|---|
//! | [`PushModel`] | push and acknowledge | session | an acknowledgement is sent, never confirmed |
//! | [`LogModel`] | a log with offsets | session | nothing can be taken out of the middle |
//! | [`VisibilityModel`] | visibility timeout | per message | receives are counted, duplicates happen |
//!
//! A [`Broker`] is what survives its clients. [`Broker::connect`] gives a [`Connection`], which is a
//! [`QueueProvider`](queue_core::QueueProvider); several may be open. [`Connection::crash`] is `kill -9` of a client,
//! [`Broker::restart`] breaks every connection once, and [`Broker::faults`] holds what else may go wrong.
//!
//! [`Broker::register`] makes one reachable by URL: `model-push:`, `model-log:`, `model-visibility:`.
//!
//! All three are bare: [`job_store`](queue_core::QueueProvider::job_store) is `None`, so there are no unique keys, no
//! cancelling, no progress and no results, whatever a spec says about tracking. A spec with `Tracking::Full`, the default,
//! is accepted: the records are the business of the layer that brings the store. A unique key is refused unless a store has
//! stamped the envelope, because nobody would look at it.
//!
//! ```
//! use queue_core::{Env, QueueProvider, Timestamp};
//! use queue_testkit::models::{Broker, LogModel};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(async {
//! let broker = Broker::new(Env::seeded(Timestamp::from_millis(1), 7), LogModel::default());
//! let provider: std::sync::Arc<dyn QueueProvider> = broker.connect();
//! provider.ping().await.unwrap();
//! # });
//! ```

mod admin;
mod broker;
mod connection;
mod consumer;
mod factory;
mod faults;
mod line;
mod log;
mod message;
mod push;
mod queue;
mod settle;
mod shape;
mod state;
#[cfg(test)]
mod tests;
mod visibility;

pub use broker::Broker;
pub use connection::Connection;
pub use faults::Faults;
pub use log::LogModel;
pub use push::PushModel;
pub use shape::Shape;
pub use visibility::VisibilityModel;
