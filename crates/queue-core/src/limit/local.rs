//! Counts for one process.

use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;

use super::{Ask, Grant, Holder, Limiter, Need, Room, RunEnd};
use crate::{
    clock::Env,
    error::Result,
    event::BreakerEvent,
    store::{StoreScope, Watched},
};

/// Counts for one process, on its clock.
#[derive(Debug)]
pub struct LocalLimiter {
    _env: Env,
}

impl LocalLimiter {
    /// A limiter that has counted nothing yet.
    #[must_use]
    pub fn new(env: &Env) -> Self {
        Self { _env: env.clone() }
    }
}

#[async_trait]
impl Limiter for LocalLimiter {
    fn scope(&self) -> StoreScope {
        StoreScope::Process
    }

    async fn acquire(&self, asks: &[Ask], _lease: Duration) -> Vec<Grant> {
        asks.iter().map(|_| Grant::Granted).collect()
    }

    async fn renew(&self, _holders: &[Holder], _lease: Duration) -> Result<()> {
        Ok(())
    }

    async fn release(&self, _ended: &[(Ask, RunEnd)]) -> Result<()> {
        Ok(())
    }

    async fn room(&self, needs: &[Need]) -> Vec<Result<Room>> {
        needs.iter().map(|_| Ok(Room { free: u32::MAX, next: None, breaker: None })).collect()
    }

    fn watch(&self) -> BoxStream<'static, Watched<BreakerEvent>> {
        futures_util::stream::pending().boxed()
    }
}
