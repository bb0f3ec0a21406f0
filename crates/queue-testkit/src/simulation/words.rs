//! Calls and answers in few words, for traces.

use std::fmt::Debug;

use queue_core::{
    Envelope, Error, JobId, JobRef, Result,
    provider::{Beat, BeatOutcome, Delivery, Disposition, PublishOutcome, Rejection, SettleOutcome, Settlement},
    store::CancelOutcome,
};

const MARK: &[u8; 6] = b"simula";

/// The id of a simulated job: readable in a trace.
pub(super) fn id(number: u64) -> JobId {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(MARK);
    bytes[6] = 0x80;
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    bytes[8] |= 0x80;
    JobId::from_bytes(bytes)
}

/// The number behind a simulated job's id.
pub(super) fn number_of(id: JobId) -> Option<u64> {
    let bytes = id.as_bytes();
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[8..]);
    number[0] &= 0x7F;
    (&bytes[..6] == MARK).then_some(u64::from_be_bytes(number))
}

/// What a job is called. Its follow-ups have its number and a thousand each.
pub(super) fn job(id: JobId) -> String {
    match number_of(id) {
        Some(number) if number >= 1_000 => format!("job-{:02}>{}", number % 1_000, number / 1_000),
        Some(number) => format!("job-{number:02}"),
        None => format!("job {id}"),
    }
}

fn error(error: &Error) -> String {
    format!("{}", error.code())
}

pub(super) fn outcome<T>(answer: &Result<T>, tell: impl FnOnce(&T) -> String) -> String {
    match answer {
        Ok(answer) => tell(answer),
        Err(why) => error(why),
    }
}

pub(super) fn result<T>(answer: &Result<T>) -> String {
    outcome(answer, |_| "done".to_owned())
}

pub(super) fn number<T: Debug>(answer: &Result<T>) -> String {
    outcome(answer, |number| format!("{number:?}"))
}

pub(super) fn items<T: Debug>(ids: impl Iterator<Item = JobId>, answers: &[T]) -> String {
    ids.zip(answers).map(|(id, answer)| format!("{} {}", job(id), brief(answer))).collect::<Vec<_>>().join("; ")
}

/// Debug output to its first detail.
fn brief(answer: &impl Debug) -> String {
    let text = format!("{answer:?}");
    text.chars().take(60).collect()
}

pub(super) fn published(batch: &[Envelope], outcomes: &[PublishOutcome]) -> String {
    let one = |outcome: &PublishOutcome| match outcome {
        PublishOutcome::Accepted { .. } => "accepted".to_owned(),
        PublishOutcome::Duplicate { existing } => format!("duplicate of {}", job(existing.id)),
        PublishOutcome::Rejected(Rejection::Full) => "full".to_owned(),
        PublishOutcome::Rejected(rejection) => format!("rejected ({})", error(&Error::from(rejection.clone()))),
        PublishOutcome::Unknown(why) => format!("unknown ({})", error(why)),
    };
    let pairs = batch.iter().zip(outcomes).map(|(envelope, outcome)| format!("{} {}", job(envelope.id), one(outcome)));
    pairs.collect::<Vec<_>>().join("; ")
}

pub(super) fn fetched(answer: &Result<Vec<Delivery>>) -> String {
    outcome(answer, |deliveries| match deliveries.as_slice() {
        [] => "nothing".to_owned(),
        deliveries => deliveries.iter().map(delivery).collect::<Vec<_>>().join("; "),
    })
}

pub(super) fn delivery(delivery: &Delivery) -> String {
    let flags = [
        (delivery.redelivered, " redelivered".to_owned()),
        (delivery.started_before > 0, format!(" started {} times", delivery.started_before)),
        (delivery.lease.cancel.is_some(), " to be cancelled".to_owned()),
    ];
    let flags: String = flags.into_iter().filter(|(is, _)| *is).map(|(_, flag)| flag).collect();
    format!("{} attempt {}{flags}", job(delivery.envelope.id), delivery.attempt)
}

pub(super) fn disposition(disposition: &Disposition) -> String {
    match disposition {
        Disposition::Complete { .. } => "complete".to_owned(),
        Disposition::Retry { after, .. } => format!("retry in {after:?}"),
        Disposition::Release { after, reason } => format!("release for {after:?} ({reason:?})"),
        Disposition::Park { key, at_most } => format!("park under {} for {at_most:?}", key.0),
        Disposition::DeadLetter { error } => format!("dead ({})", error.code),
        Disposition::Cancelled => "cancelled".to_owned(),
        Disposition::Expired => "expired".to_owned(),
    }
}

pub(super) fn settled(batch: &[Settlement], outcomes: &[SettleOutcome]) -> String {
    let one = |outcome: &SettleOutcome| match outcome {
        SettleOutcome::Settled => "settled".to_owned(),
        SettleOutcome::AlreadySettled => "already settled".to_owned(),
        SettleOutcome::Conflict => "conflict".to_owned(),
        SettleOutcome::LeaseLost => "lease lost".to_owned(),
        SettleOutcome::NotSettled { error: why, .. } => format!("not settled ({})", error(why)),
        SettleOutcome::Unknown(why) => format!("unknown ({})", error(why)),
    };
    let pairs = batch.iter().zip(outcomes).map(|(settlement, outcome)| {
        let what = disposition(&settlement.disposition);
        format!("{} {what} -> {}", job(settlement.receipt.id), one(outcome))
    });
    pairs.collect::<Vec<_>>().join("; ")
}

pub(super) fn beaten(beats: &[Beat], outcomes: &[BeatOutcome]) -> String {
    let one = |beat: &Beat, outcome: &BeatOutcome| {
        let mark = if beat.started { " starts" } else { "" };
        let said = match outcome {
            BeatOutcome::Held(lease) if lease.cancel.is_some() => "held, to be cancelled".to_owned(),
            BeatOutcome::Held(lease) => lease.remaining.map_or("held".to_owned(), |rest| format!("held for {rest:?}")),
            BeatOutcome::Lost => "lost".to_owned(),
            BeatOutcome::Unknown(why) => format!("unknown ({})", error(why)),
        };
        format!("{}{mark} -> {said}", job(beat.receipt.id))
    };
    beats.iter().zip(outcomes).map(|(beat, outcome)| one(beat, outcome)).collect::<Vec<_>>().join("; ")
}

pub(super) fn cancelled(jobs: &[JobRef], answers: &[Result<CancelOutcome>]) -> String {
    let one = |answer: &Result<CancelOutcome>| outcome(answer, |answer| format!("{answer:?}"));
    let pairs = jobs.iter().zip(answers).map(|(reference, answer)| format!("{} {}", job(reference.id), one(answer)));
    pairs.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_readable() {
        assert_eq!([job(id(7)), job(id(2_007))], ["job-07", "job-07>2"]);
        assert_eq!((number_of(id(2_007)), number_of(JobId::derive(b"x", 1))), (Some(2_007), None));
    }
}
