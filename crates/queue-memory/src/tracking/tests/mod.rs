//! What is recovered is what was there, whatever happened: every change of a record is in the journal.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod portrait;
mod refusals;
mod walk;

use std::time::Duration;

use queue_core::{
    Env, JobId, QueueName, Timestamp,
    clock::{Random as _, SeededRandom},
    job::{Envelope, JobError, JobKind, JobRef, Unique, UniqueKey},
    provider::{Beat, BeatOutcome, Cancel, Disposition, FollowUp, ParkKey, Receipt, ReleaseReason, Settlement},
    queue_spec::Retention,
    store::{
        Claim, Fence, JobStore, QueueControl, Scope, StageOutcome, StagedJob, TrackedSettle, TrackingStore, Verdict,
    },
};

use super::{MemoryTracking, Told, TrackingLimits};
use crate::{JournalOptions, ModelDisk};
use portrait::{Portrait, compare, portrait};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

impl MemoryTracking {
    /// All that it holds, once all of it is on disk.
    async fn portrait(&self) -> Portrait {
        let (all, mark) = self.noted(|ledger, now| (portrait(ledger, now), Told::OnceKept));
        self.shared.keeper.committed(mark).await.unwrap();
        all
    }

    /// What somebody finds who opens the disk after a power failure.
    async fn check_journal(&self, disk: &ModelDisk, limits: TrackingLimits) {
        let lived = self.portrait().await;
        let (found, _) = {
            let image = JournalOptions::on_disk(&ModelDisk::with(disk.contents()), true);
            let found = Self::open(&image, self.shared.env.clone(), limits).unwrap();
            found.noted(|ledger, now| (portrait(ledger, now), Told::AtOnce))
        };
        compare(&lived, &found);
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
