#![doc = include_str!("../docs/provider.md")]

mod admin;
mod capability;
mod consume;
mod pairing;
mod publish;
mod registry;
mod stores;

pub use admin::{
    Cursor, DeadBody, DeadFilter, DeadJob, Page, QueueAdmin, Redrive, RedriveReport, RedriveSelection, StoppedRedrive,
    Topics,
};
pub use capability::{Capabilities, LeaseModel, Support};
pub use consume::{
    Beat, BeatOutcome, Cancel, CloseReport, ConsumeOptions, Consumer, Delivery, Disposition, FollowUp, Lease, ParkKey,
    Receipt, ReleaseReason, SettleOutcome, Settlement,
};
pub use pairing::{ADD_STORE, PairedStore, Pairing, StoreAway, StoreShare};
pub use publish::{Durability, OnFull, PublishOptions, PublishOutcome, Rejection};
pub use registry::{ProviderFactory, ProviderInfo, ProviderUrl, Registry};
pub use stores::{StoreFactory, StoreInfo};

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    error::Result,
    job::{Envelope, QueueName},
    limit::Limiter,
    queue_spec::QueueSpec,
    store::JobStore,
};

/// A broker, or a layer around one. What an implementor must guarantee stands in the [module's documentation](self);
/// the conformance suite of `queue-testkit` checks it.
#[async_trait]
pub trait QueueProvider: Debug + Send + Sync + 'static {
    /// The URL scheme it answers to, which also names it in errors and metrics.
    fn scheme(&self) -> &'static str;

    /// What it can do: for this queue, whose spec may narrow it, or at its best.
    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities;

    /// Creates the queue, or confirms that it is as declared. Idempotent.
    ///
    /// # Errors
    /// `CONFLICT` naming the field in which it differs; `UNSUPPORTED` for what the broker cannot give (an order, a
    /// durability, a tracking); `EXCEEDS_MAX_HOLD` where the default timeout outlasts the broker's session.
    async fn declare(&self, spec: &QueueSpec) -> Result<()>;

    /// Removes the queue with everything in it. A queue that does not exist is no error.
    ///
    /// # Errors
    /// `CONFLICT` where `only_if_empty` and a job waits or runs.
    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()>;

    /// Publishes a batch: one outcome per item, in order; there is no outer error. An item that is refused does not
    /// touch its neighbours. Sizes, delays and hold times are checked before anything is written. A queue that was not
    /// declared gets the default spec.
    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome>;

    /// Opens a consumer. A queue that was not declared gets the default spec.
    ///
    /// # Errors
    /// `UNAVAILABLE`, `DENIED`; `VALIDATION` for a lease outside the lease model's range.
    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>>;

    /// What may be asked of its queues.
    fn admin(&self) -> Arc<dyn QueueAdmin>;

    /// Native topics. `None`: the manager publishes once per subscribed queue and says so.
    fn topics(&self) -> Option<Arc<dyn Topics>>;

    /// The records of its jobs. `None` on a bare transport.
    fn job_store(&self) -> Option<Arc<dyn JobStore>>;

    /// How the store is that a layer keeps those records in, as far as was noticed; asks nothing. `None` where the provider
    /// keeps them itself, or nobody does.
    fn paired(&self) -> Option<PairedStore>;

    /// Who counts runs against limits for every process that uses this broker. `None`: the scheduler counts for its own.
    fn limiter(&self) -> Option<Arc<dyn Limiter>>;

    /// Lets up to `n` jobs that are parked under the key run; returns how many. Idempotent once they run.
    ///
    /// # Errors
    /// `UNSUPPORTED` on a bare transport.
    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize>;

    /// What it owes in the background, and when it wants to be called next. Every process calls it to flush what is
    /// buffered here; only the leader does so with `leading` (promote what is due, reclaim expired leases, sweep staged
    /// jobs, retention). Without a store each consuming process leads. Cheap when there is nothing to do.
    ///
    /// # Errors
    /// `UNAVAILABLE`; the caller tries again at the next tick.
    async fn maintain(&self, leading: bool) -> Result<Duration>;

    /// One round trip to the broker. Where records are kept in a store beside it, that is asked too, and
    /// [`QueueProvider::paired`] says what came of it.
    ///
    /// # Errors
    /// What stands in the way of the broker, with what to do about it.
    async fn ping(&self) -> Result<()>;

    /// Releases connections and background tasks, and waits for these to end. Further calls answer `CLOSED`.
    ///
    /// # Errors
    /// What could not be flushed.
    async fn close(&self) -> Result<()>;
}

#[cfg(test)]
fn _dyn_compatible(
    _: &dyn QueueProvider,
    _: &dyn Consumer,
    _: &dyn JobStore,
    _: &dyn crate::store::TrackingStore,
    _: &dyn QueueAdmin,
    _: &dyn Topics,
) {
}
