//! The suite of [`TrackingStore`](queue_core::store::TrackingStore): what the tracking layer's crash safety stands on.

mod admin;
mod claim;
mod context;
mod settle;
mod stage;
mod sweep;

use std::time::Duration;

use futures_util::future::BoxFuture;
use libtest_mimic::Trial;

use super::{Failed, Outcome};
use crate::harness::{Factory, StoreUnderTest};
pub use context::StoreCtx;

/// One rule of the store.
#[derive(Clone, Copy)]
pub struct StoreCase {
    /// `theme::rule`.
    pub name: &'static str,
    /// The proof.
    pub run: for<'a> fn(&'a StoreCtx) -> BoxFuture<'a, Outcome>,
}

impl std::fmt::Debug for StoreCase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreCase").field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! store_cases {
    ($theme:literal; $($name:ident)*) => {
        pub(super) const CASES: &[super::StoreCase] = &[$(super::StoreCase {
            name: concat!($theme, "::", stringify!($name)),
            run: |ctx| Box::pin($name(ctx)),
        }),*];
    };
}
use store_cases;

/// Every rule.
pub fn all_store_cases() -> impl Iterator<Item = &'static StoreCase> {
    [stage::CASES, claim::CASES, settle::CASES, sweep::CASES, admin::CASES].into_iter().flatten()
}

/// Every case for one tracking store. Times are a second or two, so a store on real time runs in about a minute.
#[must_use]
pub fn run_tracking_suite(factory: &Factory<StoreUnderTest>) -> Vec<Trial> {
    let trials = all_store_cases().map(|case| {
        let factory = factory.clone();
        let name = format!("{}::tracking::{}", factory.name, case.name);
        Trial::test(name, move || run_store_case(&factory, case).map_err(|failed| failed.0.into()))
    });
    trials.collect()
}

/// Runs one case on a store of its own. A panic is a failure.
///
/// # Errors
/// What the case found.
pub fn run_store_case(factory: &Factory<StoreUnderTest>, case: &'static StoreCase) -> Outcome {
    let runtime = factory.runtime().map_err(|error| Failed(format!("no runtime: {error}")))?;
    let factory = factory.clone();
    let outcome = runtime.block_on(async move {
        let task = tokio::spawn(async move {
            let ctx = StoreCtx::new(&*factory.make().await?);
            let outcome = tokio::time::timeout(Duration::from_secs(3_600), (case.run)(&ctx)).await;
            outcome.unwrap_or_else(|_| Err(Failed("the case hangs".into())))
        });
        task.await.unwrap_or_else(|error| Err(Failed(format!("panicked: {error}"))))
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}
