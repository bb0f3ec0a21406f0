//! What Redis can.

use std::time::Duration;

use queue_core::{
    QueueSpec,
    provider::{Capabilities, LeaseModel, Support},
    queue_spec::Tracking,
};

use super::BATCH;

pub(super) const MIN_LEASE: Duration = Duration::from_millis(10);
pub(super) const MAX_LEASE: Duration = Duration::from_secs(7 * 24 * 3_600);

pub(crate) fn capabilities(spec: Option<&QueueSpec>) -> Capabilities {
    let lease = LeaseModel::PerMessage { min: MIN_LEASE, max: MAX_LEASE };
    let mut can = Capabilities::none(lease, "use another provider");
    can.priority_levels = 15;
    can.priority = Support::Native;
    can.delay = Support::Native;
    can.delay_granularity = Duration::from_millis(1);
    can.retry = Support::Native;
    can.dead_letters = Support::Native;
    can.dedup_by_id = Support::Native;
    can.unique_keys = Support::Native;
    can.atomic_then = Support::Native;
    can.settle_confirmed = true;
    can.park = Support::Native;
    can.pause = Support::Native;
    can.purge = Support::Native;
    can.cancel_pending = Support::Native;
    can.cancel_running = Support::Native;
    can.exact_depth = Support::Native;
    can.max_len = Support::Native;
    can.order_by_key = Support::Unsupported { instead: "give each key a queue of its own, or a concurrency key" };
    can.aged_order = Support::Unsupported { instead: "declare `strict`" };
    can.partitions = Support::Unsupported { instead: "give each part a queue of its own" };
    can.shards = Support::Native;
    if spec.and_then(|spec| spec.shards).is_some_and(|shards| shards > 1) {
        can.max_len = Support::Emulated {
            how: "each shard has its share of it",
            caveat: "a job is refused where its own shard is full, though others may have room",
        };
    }
    can.started_count = Support::Native;
    can.max_encoded_len = spec.map_or(512 << 20, |spec| spec.max_encoded_len);
    can.max_batch = BATCH;
    can.broker_clock = true;
    can.durability = &["relaxed", "replicated"];
    if spec.is_some_and(|spec| spec.tracking == Tracking::Off) {
        // What has ended is forgotten with its id.
        can.dedup_by_id = Support::Unsupported { instead: "declare the queue with tracking" };
    }
    can
}
