//! Something in front of a provider, of which a test says only what is different.
//!
//! The contract's traits have no default methods, so that a layer never loses a fast path silently. A test's wrapper wants the
//! opposite: it changes one call, and all others, also those that come to the contract later, are those of what is behind.
//!
//! ```
//! use std::sync::Arc;
//!
//! use queue_core::{QueueProvider, provider::Topics};
//! use queue_memory::MemoryProvider;
//! use queue_testkit::front::{InFront, ProviderFront};
//!
//! /// Memory without topics of its own, as a broker that has none.
//! #[derive(Debug)]
//! struct Topicless(MemoryProvider);
//!
//! impl ProviderFront for Topicless {
//!     fn behind(&self) -> &dyn QueueProvider {
//!         &self.0
//!     }
//!
//!     fn topics(&self) -> Option<Arc<dyn Topics>> {
//!         None
//!     }
//! }
//!
//! assert!(InFront(Topicless(MemoryProvider::new())).topics().is_none());
//! ```
//!
//! What is asynchronous is overridden under `#[async_trait]`, as in the contract.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use queue_core::{
    Consumer, Envelope, JobRef, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::StoreId,
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Cancel, Capabilities, CloseReport, ConsumeOptions, Cursor, DeadFilter, DeadJob, Delivery,
        Page, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin, Redrive, RedriveReport, SettleOutcome,
        Settlement, Topics,
    },
    queue_spec::Retention,
    stats::QueueStats,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};

/// Makes of what says what is different the whole: of a [`ProviderFront`] a [`QueueProvider`], of a [`ConsumerFront`] a
/// [`Consumer`], and so on.
#[derive(Debug, Clone)]
pub struct InFront<F>(pub F);

/// A trait of the contract, with what is behind as the default of each call.
macro_rules! front {
    ($front:ident of $contract:ident {
        $(fn $now:ident(&self $(, $a:ident: $at:ty)*) -> $ar:ty;)*
        async { $(fn $later:ident(&self $(, $b:ident: $bt:ty)*) -> $br:ty;)* }
    }) => {
        #[doc = concat!("What is different about a [`", stringify!($contract), "`] from the one behind it.")]
        #[allow(missing_docs, reason = "each is the contract's method of its name")]
        #[async_trait]
        pub trait $front: Debug + Send + Sync + 'static {
            /// All else is this one's.
            fn behind(&self) -> &dyn $contract;

            $(fn $now(&self $(, $a: $at)*) -> $ar {
                self.behind().$now($($a),*)
            })*

            $(async fn $later(&self $(, $b: $bt)*) -> $br {
                self.behind().$later($($b),*).await
            })*
        }

        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<F: $front> $contract for InFront<F> {
            $(fn $now(&self $(, $a: $at)*) -> $ar {
                self.0.$now($($a),*)
            })*

            $(async fn $later(&self $(, $b: $bt)*) -> $br {
                self.0.$later($($b),*).await
            })*
        }
    };
}

front!(ProviderFront of QueueProvider {
    fn scheme(&self) -> &'static str;
    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities;
    fn admin(&self) -> Arc<dyn QueueAdmin>;
    fn topics(&self) -> Option<Arc<dyn Topics>>;
    fn job_store(&self) -> Option<Arc<dyn JobStore>>;
    fn paired(&self) -> Option<PairedStore>;
    fn limiter(&self) -> Option<Arc<dyn Limiter>>;
    async {
        fn declare(&self, spec: &QueueSpec) -> Result<()>;
        fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()>;
        fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome>;
        fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>>;
        fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize>;
        fn maintain(&self, leading: bool) -> Result<Duration>;
        fn ping(&self) -> Result<()>;
        fn close(&self) -> Result<()>;
    }
});

front!(ConsumerFront of Consumer {
    async {
        fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>>;
        fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome>;
        fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome>;
        fn demand(&self, outstanding: usize) -> Result<()>;
        fn close(&self, deadline: Duration) -> CloseReport;
    }
});

front!(AdminFront of QueueAdmin {
    async {
        fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>>;
        fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>>;
        fn pause(&self, queue: &QueueName, paused: bool) -> Result<()>;
        fn purge(&self, queue: &QueueName) -> Result<u64>;
        fn dead(&self, queue: &QueueName, filter: &DeadFilter, cursor: Option<Cursor>, limit: usize) -> Result<Page<DeadJob>>;
        fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport>;
        fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>>;
        fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>>;
        fn position(&self, job: &JobRef) -> Result<Option<u64>>;
        fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64>;
    }
});

front!(StoreFront of JobStore {
    fn id(&self) -> StoreId;
    fn scope(&self) -> StoreScope;
    async {
        fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>>;
        fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>>;
        fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>>;
        fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>>;
        fn queue_control(&self, queue: &QueueName) -> Result<QueueControl>;
        fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()>;
        fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize>;
        fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>>;
    }
});
