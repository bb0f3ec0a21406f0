//! What is kept of a settlement, so that a repetition is told from a contradiction.

use bytes::BufMut;
use queue_core::provider::{Disposition, ReleaseReason};
use sha2::{Digest, Sha256};

use crate::record;

/// What a script needs of a disposition: its number, how long after in milliseconds, and what goes with it.
pub(crate) fn written(disposition: &Disposition) -> (u8, u64, Vec<u8>) {
    match disposition {
        Disposition::Complete { result } => {
            // A result may be empty and still be one.
            (1, 0, result.as_ref().map(|result| [b"x", result.as_ref()].concat()).unwrap_or_default())
        }
        Disposition::Retry { after, error } => (2, record::millis_up(*after), record::write_error(error)),
        Disposition::Release { after, .. } => (3, record::millis_up(*after), Vec::new()),
        Disposition::Park { key, at_most } => (4, record::millis_up(*at_most), key.0.as_bytes().to_vec()),
        Disposition::DeadLetter { error } => (5, 0, record::write_error(error)),
        Disposition::Cancelled => (6, 0, Vec::new()),
        Disposition::Expired => (7, 0, Vec::new()),
    }
}

/// Tells settlements apart without keeping them. It is kept in Redis, so it is the same in every version of this library.
pub(crate) fn print(code: u8, after: u64, value: &[u8], disposition: &Disposition) -> [u8; 8] {
    let mut head = Vec::with_capacity(10);
    head.put_u8(code);
    head.put_u64_le(after);
    head.put_u8(match disposition {
        Disposition::Release { reason, .. } => reason_code(*reason),
        _ => 0,
    });
    let whole = Sha256::new().chain_update(head).chain_update(value).finalize();
    let mut print = [0; 8];
    print.copy_from_slice(&whole[..8]);
    print
}

fn reason_code(reason: ReleaseReason) -> u8 {
    match reason {
        ReleaseReason::Shutdown => 1,
        ReleaseReason::Snooze => 2,
        ReleaseReason::Busy => 3,
        ReleaseReason::Limited => 4,
        ReleaseReason::NewerFormat => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use queue_core::{JobError, provider::ParkKey};

    use super::*;

    fn print_of(disposition: &Disposition) -> String {
        let (code, after, value) = written(disposition);
        print(code, after, &value, disposition).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// They stand in Redis: a settlement that this version repeats may have been made by another.
    #[test]
    fn prints_are_those_of_every_version() {
        let (error, after) = (JobError::custom("TEMP", "again"), Duration::from_millis(1_500));
        let release = |reason| Disposition::Release { after, reason };
        let golden = [
            (Disposition::Complete { result: None }, "96eeff563b3135e3"),
            (Disposition::Complete { result: Some("7".into()) }, "68cec4545d92e9bc"),
            (Disposition::Complete { result: Some("".into()) }, "1dc9b6f42d86253b"),
            (Disposition::Retry { after, error: error.clone() }, "3e5e8620d525c53f"),
            (release(ReleaseReason::Shutdown), "a2f71c906460fd14"),
            (release(ReleaseReason::Snooze), "c2c020f9fd8e46cf"),
            (release(ReleaseReason::Busy), "ffc3222a6151afad"),
            (release(ReleaseReason::Limited), "61a4d87fd9b68aa8"),
            (release(ReleaseReason::NewerFormat), "1d92e398e3f761cf"),
            (Disposition::Park { key: ParkKey("rate:a".into()), at_most: after }, "537b0d155a7d6389"),
            (Disposition::DeadLetter { error }, "51754dd6164627d1"),
            (Disposition::Cancelled, "cc6e13fdbc51f8e2"),
            (Disposition::Expired, "960469fe52008c3b"),
        ];
        for (disposition, expected) in &golden {
            assert_eq!(print_of(disposition), *expected, "{disposition:?}");
        }
        let mut prints: Vec<_> = golden.iter().map(|(disposition, _)| print_of(disposition)).collect();
        prints.sort();
        prints.dedup();
        assert_eq!(prints.len(), golden.len(), "two settlements have one print");
    }
}
