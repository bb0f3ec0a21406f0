//! A store whose streams of commands end.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use queue_core::{
    JobStore, Result,
    store::{Watch, Watched},
};
use queue_testkit::front::StoreFront;

use super::Faults;

pub(super) struct FaultyStore {
    pub(super) inner: Arc<dyn JobStore>,
    pub(super) faults: Faults,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl StoreFront for FaultyStore {
    fn behind(&self) -> &dyn JobStore {
        &*self.inner
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        let commands = matches!(what, Watch::Commands(_));
        let stream = self.inner.watch(what).await?;
        let faults = self.faults.clone();
        Ok(match commands {
            true => stream.take_until(Box::pin(async move { faults.0.hang_up.notified().await })).boxed(),
            false => stream,
        })
    }
}
