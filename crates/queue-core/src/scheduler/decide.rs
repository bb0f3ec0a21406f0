//! What becomes of a delivery: pure, and the only retry logic there is.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    clock::Random,
    error::ErrorCode,
    job::{JobError, RetryPolicy, Timestamp},
    provider::{Delivery, Disposition, ReleaseReason},
    queue_spec::QueueSpec,
    worker::Failure,
};

/// Whether a delivery may start.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It may.
    Run,
    /// It may not: settle it so.
    Settle(Disposition),
}

/// Whether a delivery may start: not after its time to live, not when it was asked to stop, and not when it has taken too many
/// workers down with it.
#[must_use]
pub fn decide_start(delivery: &Delivery, spec: &QueueSpec, now: Timestamp) -> Verdict {
    if delivery.lease.cancel.is_some() {
        return Verdict::Settle(Disposition::Cancelled);
    }
    if delivery.envelope.expires_at.is_some_and(|end| end <= now) {
        return Verdict::Settle(Disposition::Expired);
    }
    if delivery.started_before >= spec.max_deliveries {
        let message = format!(
            "started {} times and its worker was lost each time: it may be what takes workers down",
            delivery.started_before
        );
        return Verdict::Settle(Disposition::DeadLetter { error: JobError::new(ErrorCode::Poison, message) });
    }
    Verdict::Run
}

/// What becomes of a job whose handler ended so in attempt number `attempt`.
#[must_use]
pub fn decide_end(
    ended: Result<Option<Bytes>, Failure>,
    attempt: u32,
    policy: &RetryPolicy,
    random: &dyn Random,
) -> Disposition {
    let retry = |after: Option<Duration>, error: JobError| {
        if policy.is_spent(attempt) || !error.retryable {
            return Disposition::DeadLetter { error };
        }
        let after = after.unwrap_or_else(|| policy.delay_after(attempt, random));
        Disposition::Retry { after, error }
    };
    match ended {
        Ok(result) => Disposition::Complete { result },
        Err(Failure::Retry(error)) => retry(None, error),
        Err(Failure::RetryAfter(after, error)) => retry(Some(after), error),
        Err(Failure::Never(error)) => Disposition::DeadLetter { error: error.permanent() },
        // Zero would come back at once and spin.
        Err(Failure::Snooze(after)) => {
            Disposition::Release { after: after.max(MIN_SNOOZE), reason: ReleaseReason::Snooze }
        }
        Err(Failure::Cancel) => Disposition::Cancelled,
    }
}

const MIN_SNOOZE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::SeededRandom,
        job::{Envelope, JobId, JobKind, QueueName},
        provider::{Cancel, Lease, Receipt},
    };

    fn delivery() -> Delivery {
        let id = JobId::derive(b"x", 0);
        let envelope = Envelope::builder(id, JobKind::from_static("k"), &b""[..], Timestamp::from_millis(1)).seal();
        Delivery {
            place: 0,
            envelope,
            receipt: Receipt { id, slot: 0, epoch: 0 },
            lease: Lease { remaining: None, cancel: None },
            attempt: 1,
            started_before: 0,
            redelivered: false,
        }
    }

    #[test]
    fn a_delivery_starts_unless_cancelled_expired_or_poisonous() {
        let spec = QueueSpec::new(QueueName::from_static("q"));
        let now = Timestamp::from_millis(100);
        assert_eq!(decide_start(&delivery(), &spec, now), Verdict::Run);

        let mut cancelled = delivery();
        cancelled.lease.cancel = Some(Cancel::by("me"));
        assert_eq!(decide_start(&cancelled, &spec, now), Verdict::Settle(Disposition::Cancelled));

        for (end, verdict) in [(99, false), (100, false), (101, true)] {
            let mut late = delivery();
            late.envelope = late.envelope.edit(|parts| parts.expires_at = Some(Timestamp::from_millis(end)));
            assert_eq!(decide_start(&late, &spec, now) == Verdict::Run, verdict, "{end}");
        }
        for (started_before, verdict) in [(9, true), (10, false)] {
            let killer = Delivery { started_before, redelivered: true, ..delivery() };
            assert_eq!(decide_start(&killer, &spec, now) == Verdict::Run, verdict, "{started_before}");
        }
    }

    #[test]
    fn failures_are_retried_until_attempts_are_spent() {
        let policy = RetryPolicy::fixed(3, Duration::from_secs(5));
        let random = SeededRandom::new(0);
        let fail = |attempt, failure| decide_end(Err(failure), attempt, &policy, &random);
        let error = JobError::custom("E", "no");
        let five = Duration::from_secs(5);
        for attempt in [1, 2] {
            let retried = Disposition::Retry { after: five, error: error.clone() };
            assert_eq!(fail(attempt, Failure::Retry(error.clone())), retried);
        }
        assert_eq!(fail(3, Failure::Retry(error.clone())), Disposition::DeadLetter { error: error.clone() });
        let minute = Duration::from_secs(60);
        assert_eq!(
            fail(1, Failure::RetryAfter(minute, error.clone())),
            Disposition::Retry { after: minute, error: error.clone() }
        );
        assert_eq!(
            fail(3, Failure::RetryAfter(minute, error.clone())),
            Disposition::DeadLetter { error: error.clone() }
        );
        let permanent = error.clone().permanent();
        assert_eq!(fail(1, Failure::Never(error)), Disposition::DeadLetter { error: permanent.clone() });
        assert_eq!(fail(1, Failure::Retry(permanent.clone())), Disposition::DeadLetter { error: permanent });
    }

    #[test]
    fn a_snooze_spends_nothing_and_never_spins() {
        let random = SeededRandom::new(0);
        let snooze = |after| decide_end(Err(Failure::Snooze(after)), 9, &RetryPolicy::never(), &random);
        let released = |after| Disposition::Release { after, reason: ReleaseReason::Snooze };
        assert_eq!(snooze(Duration::from_secs(7)), released(Duration::from_secs(7)));
        assert_eq!(snooze(Duration::ZERO), released(Duration::from_millis(10)));
        assert_eq!(decide_end(Err(Failure::Cancel), 1, &RetryPolicy::never(), &random), Disposition::Cancelled);
        let result = Some(Bytes::from_static(b"1"));
        let done = decide_end(Ok(result.clone()), 1, &RetryPolicy::never(), &random);
        assert_eq!(done, Disposition::Complete { result });
    }
}
