//! Taking jobs out: to be filled.

use std::sync::Arc;

use queue_core::{Consumer, Error, QueueSpec, Result, provider::ConsumeOptions};

use crate::{SCHEME, provider::Shared};

pub(crate) async fn open(
    shared: Arc<Shared>,
    spec: Arc<QueueSpec>,
    options: ConsumeOptions,
) -> Result<Arc<dyn Consumer>> {
    let _ = (shared, options);
    Err(Error::unsupported(SCHEME, "consumer", "wait for it").on(&spec.name))
}
