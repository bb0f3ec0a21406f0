//! Looking at the servers now and then, so that one that says nothing any more is found out before somebody needs it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{ClientEvent, FailoverMode, Inner, Servers};

/// Where another server may have taken over, whoever waits in one that says nothing should not wait for long.
const HASTE: Duration = Duration::from_secs(2);

pub(super) async fn watch(inner: Arc<Inner>) {
    let options = &inner.topology.options;
    let often = if inner.topology.has_others() { HASTE.min(options.health_interval) } else { options.health_interval };
    let mut looked = Instant::now();
    loop {
        for node in inner.topology.nodes() {
            node.keep_pool(&options.pool).await;
        }
        tokio::time::sleep(often).await;
        if matches!(options.servers, Servers::Sentinel { .. }) {
            ask_sentinels(&inner).await;
        }
        let is_due = looked.elapsed() >= options.health_interval;
        // Sentinels look after their servers themselves.
        if is_due || matches!(options.servers, Servers::Cluster(_) | Servers::Nodes(_)) {
            looked = Instant::now();
            look(&inner).await;
        }
    }
}

async fn look(inner: &Inner) {
    for node in inner.topology.nodes() {
        if node.ping(inner.topology.options.connect_timeout).await.is_err() {
            inner.topology.lost(&node);
        }
    }
}

/// Sentinels are asked, for they cost Redis nothing: a primary that hangs breaks no connection.
async fn ask_sentinels(inner: &Inner) {
    let Ok(primary) = inner.topology.ask_sentinels().await else { return };
    let Some(current) = inner.topology.current().filter(|current| current.address != primary) else { return };
    match inner.topology.options.failover {
        FailoverMode::Manual => inner.topology.told.tell(ClientEvent::SwitchNeeded { to: primary }),
        _ => inner.topology.lost(&current),
    }
}
