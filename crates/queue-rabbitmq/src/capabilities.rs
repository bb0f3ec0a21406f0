//! What the provider can do.

use std::time::Duration;

use queue_core::{
    QueueSpec,
    provider::{ADD_STORE, Capabilities, LeaseModel, Support},
};

use crate::delay;

/// The largest message that RabbitMQ takes by default, with room for its headers: 4.x takes 16 MiB.
pub(crate) const MAX_ENCODED_LEN: usize = 16 << 20;

/// At its best, or for a queue.
pub(crate) fn of(max_hold: Duration, spec: Option<&QueueSpec>) -> Capabilities {
    const COPY: Support = Support::Emulated {
        how: "a copy is published and confirmed, then the original acknowledged",
        caveat: "a crash between the two makes it two",
    };
    let mut can = Capabilities::none(LeaseModel::Session { max_hold }, ADD_STORE);
    can.priority_levels = crate::layout::BANDS;
    can.priority = Support::Emulated {
        how: "a quorum queue for each of the bands 1-4, 5-9, 10-14 and 15",
        caveat: "levels within a band are not told apart",
    };
    can.delay = Support::Emulated {
        how: "a ladder of queues in which messages live for 1 s, 2 s, 4 s and so on",
        caveat: "a delayed job is late by up to a second, and cannot be listed, counted or purged",
    };
    can.delay_granularity = Duration::from_secs(1);
    can.delay_max = Some(delay::LONGEST);
    can.retry = Support::Emulated {
        how: "a copy is published and confirmed, then the original acknowledged",
        caveat: "a crash between the two makes it two; delays above 8 s are rounded up to their three highest bits",
    };
    can.dead_letters = COPY;
    can.dedup_by_id = Support::Unsupported { instead: ADD_STORE };
    can.atomic_then = Support::Emulated {
        how: "follow-ups are published and confirmed, then the original acknowledged",
        caveat: "a crash between the two, or a refusal of a later one, publishes them again under the same ids",
    };
    can.park = Support::Emulated {
        how: "released for a second, again and again",
        caveat: "unpark is refused: a parked job looks again by itself",
    };
    // No store gives these.
    can.order_by_key = Support::Unsupported { instead: "give each key a queue of its own, or a concurrency key" };
    can.aged_order = Support::Unsupported { instead: "declare `strict`" };
    can.partitions = Support::Unsupported { instead: "give each part a queue of its own" };
    can.started_count = Support::Emulated {
        how: "the broker's count of deliveries that were not acknowledged",
        caveat: "a job that was buffered and never started is counted too",
    };
    can.purge = Support::Native;
    can.max_encoded_len = MAX_ENCODED_LEN;
    // Each is given what it asks for and more: confirmed by a majority of the nodes, on their disks.
    can.durability = &["synced", "interval", "relaxed"];
    if let Some(spec) = spec {
        can.max_encoded_len = can.max_encoded_len.min(spec.max_encoded_len);
    }
    can
}
