//! What a transport and a store can do together.

use queue_core::{
    QueueSpec,
    provider::{Capabilities, Support},
    queue_spec::Tracking,
};

use super::core::Core;

const fn emulated(how: &'static str, caveat: &'static str) -> Support {
    Support::Emulated { how, caveat }
}

impl Core {
    pub(super) fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let bare = self.transport.capabilities(spec);
        if spec.is_some_and(|spec| spec.tracking == Tracking::Off) { bare } else { paired(bare) }
    }
}

pub(super) fn paired(mut can: Capabilities) -> Capabilities {
    if !can.delay.is_supported() || can.delay_max.is_some() {
        can.delay = emulated(
            "what the transport cannot hold the store keeps until it can",
            "a held job is published by the sweep, up to a tick after it is due",
        );
    }
    can.delay_max = None;
    can.retry = emulated(
        "the store stages the next copy, or the same one comes back where each message has its own lease",
        "a copy of an earlier attempt may be delivered and is dropped",
    );
    can.dead_letters = emulated(
        "records in state dead",
        "bytes that could not be read are in the transport's own dead letters, which are listed after the others",
    );
    can.dedup_by_id = emulated(
        "the store knows the id",
        "for as long as its record and tombstone are kept; not of a job that is published while the store is away",
    );
    can.unique_keys = emulated("the store holds the key", "a job with a key is refused while the store is away");
    can.atomic_then = emulated(
        "follow-ups are staged in the write that settles, then published",
        "one that the transport refuses for good becomes a dead letter of its own",
    );
    can.settle_confirmed = true;
    can.park = emulated(
        "the store keeps the job, the transport's copy is acknowledged",
        "an unparked job is a new copy at the tail",
    );
    can.pause = emulated("a control flag in the store", "obeyed within a second");
    can.purge = emulated(
        "records are cancelled, and the transport purged where it can be",
        "elsewhere the copies are dropped when they are delivered",
    );
    can.cancel_pending = emulated("the record is cancelled", "its copy stays in the transport until it is delivered");
    can.cancel_running =
        emulated("the next heartbeat says so", "a worker that cannot reach the store hears of it later");
    can.exact_depth = emulated(
        "records are counted",
        "a job that was published while the store was away is counted from its first claim",
    );
    can.max_len = emulated("the store counts what waits", "not while the store is away");
    // The record counts marked starts, exactly.
    can.started_count = Support::Native;
    can
}
