//! The rules under the write-order table, each of which can be taken away to prove that it is needed.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! rules {
    ($($(#[doc = $sentence:literal])+ $rule:ident,)*) => {
        /// A rule of the layer. Only tests take one away.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule { $($(#[doc = $sentence])+ $rule,)* }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$rule,)*];

            /// What it says.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$rule => concat!($($sentence),+).trim_ascii(),)* }
            }
        }
    };
}

rules! {
    /// A confirm names the copy that was published: a late one must not hide a newer staged copy from the sweep.
    ConfirmNamesTheCopy,
    /// What the sweep took over is accepted, whatever the transport told its first publisher.
    SweptIsAccepted,
    /// A staged job that the transport refused is taken back, so that a refusal is one.
    RefusedIsUnstaged,
    /// The sweep tries again until the transport has the copy.
    SweepTriesAgain,
    /// What the transport refuses for good, and was promised, is dead.
    RefusedForGoodIsDead,
    /// Follow-ups are checked for size and partition before the store settles.
    FollowUpsAreCheckedFirst,
    /// A job whose staging was not answered is not published, and its caller is told that nothing is known.
    UnstagedIsNotPublished,
    /// A publish that the transport did not answer is not confirmed: the sweep publishes it again.
    UnansweredIsNotConfirmed,
    /// The id of the store is stamped, also while the store is away.
    StoreIsStamped,
    /// A job that has no record is adopted at its claim.
    ClaimAdopts,
    /// A job without a fence is never run.
    NoFenceNoRun,
    /// A copy whose claim was not answered goes back, with a delay.
    UnansweredClaimGoesBack,
    /// While the store is away nothing is fetched.
    AwayStopsFetching,
    /// While the store is away nothing is acknowledged.
    NothingIsAcknowledgedWhileAway,
    /// Settlements that the store did not answer are kept, and carried out when it is back.
    SettlementsWait,
    /// When so many settlements wait for the store as are allowed, nothing is fetched.
    FullBufferStopsFetching,
    /// The transport's leases of what waits for the store are extended.
    WaitingLeasesAreExtended,
    /// While the store is away a job with a unique key is refused.
    KeysNeedTheStore,
    /// While the store is away jobs without a unique key are published, to be adopted.
    PublishingGoesOn,
    /// Dead leases are not swept until the store has answered for a lease.
    DeadLeasesWait,
    /// The store settles before anything is published or acknowledged.
    StoreSettlesFirst,
    /// A repeated settlement goes on with what its first attempt left undone.
    RepeatGoesOn,
    /// The copy of a lost job goes back.
    LostCopyGoesBack,
    /// The copy of a lost job is never acknowledged.
    LostCopyIsKept,
    /// Whether a job was claimed before, and how often it was started, comes from the record.
    RecordCountsStarts,
    /// A lease counts from before the claim was sent, on the local clock.
    LeaseCountsFromTheAsking,
    /// A copy that may not run now is looked at again soon, however long its job may be parked.
    BusyIsShort,
    /// A copy that may not run now is kept until it may.
    BusyIsKept,
    /// A copy that may never run again is acknowledged.
    OutdatedIsDropped,
    /// A job of another store is left alone.
    ForeignIsLeftAlone,
    /// A silent job is published again only where the transport was found empty for an interval.
    SilentOnlyWhenEmpty,
    /// A silent job is published again.
    SilentIsRepublished,
    /// Where the transport only estimates, an empty queue is proven with one job before the others are published again.
    AnEstimateIsProven,
    /// A delay that the transport cannot hold is held by the store.
    LongDelaysAreHeld,
    /// What is promised goes into a full queue.
    PromisesFindRoom,
    /// What the transport did not carry out of a settlement is asked of it again.
    AcknowledgementsAreRepeated,
}

/// Which rules hold: all, unless a test took one away.
#[derive(Debug, Default)]
pub(super) struct Rules(AtomicU64);

impl Rules {
    pub(super) fn without(&self, rule: Rule) {
        self.0.fetch_or(1 << rule as u64, Ordering::Relaxed);
    }

    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << rule as u64) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_bit_and_a_sentence() {
        assert!(Rule::ALL.len() <= 64);
        let rules = Rules::default();
        for (n, rule) in Rule::ALL.iter().enumerate() {
            assert!(rule.sentence().ends_with('.'), "{rule:?}");
            rules.without(*rule);
            assert_eq!(Rule::ALL.iter().filter(|rule| !rules.keeps(**rule)).count(), n + 1);
        }
    }
}
