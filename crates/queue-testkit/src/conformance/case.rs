//! What a case is, and when it can be asked of a provider.

use std::fmt;

use futures_util::future::BoxFuture;
use queue_core::provider::{Capabilities, LeaseModel, Support};

use super::Ctx;
use crate::harness::Facts;

/// What a case found wrong.
#[derive(Debug, Clone)]
pub struct Failed(pub String);

/// `Ok`, or what was found wrong.
pub type Outcome<T = ()> = Result<T, Failed>;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An operation that the case needed failed.
impl From<queue_core::Error> for Failed {
    fn from(error: queue_core::Error) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

/// Ends the case unless the condition holds.
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failed(format!("{} (line {} of {})", format_args!($($message)+), line!(), file!())));
        }
    };
}

/// Ends the case unless both are equal; the message says what they are.
macro_rules! check_eq {
    ($found:expr, $expected:expr, $($message:tt)+) => {{
        let (found, expected) = (&$found, &$expected);
        check!(found == expected, "{}: found {found:?}, expected {expected:?}", format_args!($($message)+));
    }};
}

/// Ends the case unless the value has the shape.
macro_rules! check_matches {
    ($found:expr, $pattern:pat $(if $guard:expr)?, $($message:tt)+) => {{
        let found = &$found;
        check!(
            matches!(found, $pattern $(if $guard)?),
            "{}: found {found:?}, expected {}", format_args!($($message)+), stringify!($pattern)
        );
    }};
}

/// Names the cases of a theme, each with what it needs.
macro_rules! cases {
    ($theme:literal; $($name:ident [$($need:ident),*])*) => {
        pub(super) const CASES: &[$crate::conformance::Case] = &[$($crate::conformance::Case {
            name: concat!($theme, "::", stringify!($name)),
            needs: &[$($crate::conformance::Need::$need),*],
            run: |ctx| Box::pin($name(ctx)),
        }),*];
    };
}
pub(crate) use {cases, check, check_eq, check_matches};

/// One property of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// `theme::property`.
    pub name: &'static str,
    /// Without these it is ignored, with the reason.
    pub needs: &'static [Need],
    /// The proof.
    pub run: for<'a> fn(&'a Ctx) -> BoxFuture<'a, Outcome>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("needs", &self.needs).finish_non_exhaustive()
    }
}

impl Case {
    /// Why it cannot be asked of this provider; `None`: it can.
    #[must_use]
    pub fn excluded(&self, facts: &Facts, capabilities: &Capabilities, store: bool) -> Option<String> {
        self.needs.iter().find_map(|need| need.missing(facts, capabilities, store))
    }
}

macro_rules! needs {
    ($($(#[$doc:meta])* $need:ident: $field:ident = $words:literal;)*) => {
        /// What a case needs of the provider (a capability) or of its harness.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Need {
            $($(#[$doc])* $need,)*
            /// Each message has its own lease.
            PerMessageLease,
            /// Leases last as long as the session.
            SessionLease,
            /// A job store.
            Store,
            /// No job store.
            NoStore,
            /// Exact priority levels.
            ExactPriority,
            /// Connections can be crashed.
            Crash,
            /// A claim can be taken away from a live worker: by its lease's end, or by crashing it.
            Theft,
            /// The broker can be restarted.
            Restart,
            /// Foreign bytes can be put in.
            Raw,
            /// Publishing a successor can be made to fail.
            SuccessorFaults,
            /// First in, first out.
            Fifo,
            /// Higher bands strictly first.
            StrictPriority,
            /// Released jobs come first.
            ReleaseToHead,
            /// Unparked jobs come before fresher ones.
            UnparkToHead,
            /// What waits for its time can be removed.
            ScheduledInReach,
            /// What waits can go to any consumer.
            AnyConsumer,
            /// Only deliveries that were started are counted.
            ExactStarts,
            /// A settlement and its follow-ups are one step.
            AtomicThen,
            /// Time can be skipped.
            VirtualTime,
        }

        impl Need {
            /// Why it is missing; `None`: it is there.
            #[must_use]
            pub fn missing(self, facts: &Facts, capabilities: &Capabilities, store: bool) -> Option<String> {
                let per_message = matches!(capabilities.lease, LeaseModel::PerMessage { .. });
                let (there, reason) = match self {
                    $(Self::$need => return match capabilities.$field {
                        Support::Unsupported { instead } => Some(format!("no {}: {instead}", $words)),
                        _ => None,
                    },)*
                    Self::PerMessageLease => (per_message, "leases last as long as the session"),
                    Self::SessionLease => (!per_message, "each message has its own lease"),
                    Self::Store => (store, "no job store"),
                    Self::NoStore => (!store, "it has a job store"),
                    Self::ExactPriority => (capabilities.priority_levels >= 15, "priorities are bands"),
                    Self::Crash => (facts.crash, "the harness cannot crash a connection"),
                    Self::Theft => (per_message || facts.crash, "the harness cannot crash a connection"),
                    Self::Restart => (facts.restart, "the harness cannot restart the broker"),
                    Self::Raw => (facts.raw, "the harness cannot put foreign bytes in"),
                    Self::SuccessorFaults => (facts.successor_faults, "the harness cannot make a successor's publish fail"),
                    Self::Fifo => (facts.fifo, "the broker does not keep first in, first out"),
                    Self::StrictPriority => (facts.strict_priority, "bands share the attention"),
                    Self::ReleaseToHead => (facts.release_to_head, "released jobs join the tail"),
                    Self::UnparkToHead => (facts.unpark_to_head, "unparked jobs join the tail"),
                    Self::ScheduledInReach => (facts.scheduled_in_reach, "what waits for its time is out of reach until then"),
                    Self::AnyConsumer => (facts.any_consumer, "what waits is assigned to one consumer"),
                    Self::ExactStarts => (
                        matches!(capabilities.started_count, Support::Native),
                        "deliveries are counted, started or not",
                    ),
                    Self::AtomicThen => (
                        matches!(capabilities.atomic_then, Support::Native),
                        "follow-ups are published before the original is acknowledged",
                    ),
                    Self::VirtualTime => (facts.virtual_time, "it would take too long in real time"),
                };
                (!there).then(|| reason.to_owned())
            }
        }
    };
}

needs! {
    /// Not before a time.
    Delay: delay = "delay";
    /// Higher priorities first.
    Priority: priority = "priority";
    /// Another attempt.
    Retry: retry = "retry";
    /// Dead jobs are kept.
    DeadLetters: dead_letters = "dead letters";
    /// One id, one job.
    DedupById: dedup_by_id = "deduplication by id";
    /// Unique keys.
    UniqueKeys: unique_keys = "unique keys";
    /// Parking.
    Park: park = "park";
    /// Pausing.
    Pause: pause = "pause";
    /// Purging.
    Purge: purge = "purge";
    /// Cancelling what waits.
    CancelPending: cancel_pending = "cancel of a waiting job";
    /// Cancelling what runs.
    CancelRunning: cancel_running = "cancel of a running job";
    /// Exact statistics.
    ExactDepth: exact_depth = "exact depth";
    /// A bound on what waits.
    MaxLen: max_len = "max_len";
    /// Topics.
    Topics: topics = "topics";
    /// Order with a bound on waiting.
    AgedOrder: aged_order = "aged order";
    /// Weighted parts of a queue.
    Partitions: partitions = "partitions";
    /// Crashes are counted.
    StartedCount: started_count = "crash count";
}
