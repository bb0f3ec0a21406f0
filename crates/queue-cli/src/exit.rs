//! The exit status, by one rule.

use crate::{results::Status, summary::Counts};

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The input was read to its end (or, with `--strict`, to its first invalid line) and every job ended.
    Finished,
    /// Ctrl-C came first.
    Interrupted,
    /// The arguments, the input, the provider or an output failed.
    Failed,
}

/// All lines completed, or were duplicates of some that did.
pub const OK: u8 = 0;
/// Some did not.
pub const INCOMPLETE: u8 = 1;
/// Nothing more could be done.
pub const UNUSABLE: u8 = 2;
/// Stopped by the user: 128 + SIGINT, as shells count.
pub const INTERRUPTED: u8 = 130;

/// The exit status of `queue run`. What was left undone because something failed is reported as that failure.
#[must_use]
pub fn exit_status(counts: &Counts, ending: Ending) -> u8 {
    let unfinished = [Status::Dead, Status::Invalid, Status::Cancelled, Status::Expired];
    match ending {
        Ending::Failed => UNUSABLE,
        Ending::Interrupted => INTERRUPTED,
        Ending::Finished if counts[Status::Aborted] > 0 => INTERRUPTED,
        Ending::Finished if unfinished.iter().any(|status| counts[*status] > 0) => INCOMPLETE,
        Ending::Finished => OK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let cases: [(&[Status], Ending, u8); 11] = [
            (&[], Ending::Finished, 0),
            (&[Status::Completed, Status::Duplicate], Ending::Finished, 0),
            (&[Status::Completed, Status::Dead], Ending::Finished, 1),
            (&[Status::Invalid], Ending::Finished, 1),
            (&[Status::Cancelled], Ending::Finished, 1),
            (&[Status::Expired], Ending::Finished, 1),
            (&[Status::Dead, Status::Aborted], Ending::Finished, 130),
            (&[Status::Completed], Ending::Interrupted, 130),
            (&[Status::Dead], Ending::Interrupted, 130),
            (&[Status::Completed], Ending::Failed, 2),
            (&[Status::Aborted], Ending::Failed, 2),
        ];
        for (statuses, ending, expected) in cases {
            let mut counts = Counts::default();
            statuses.iter().for_each(|status| counts.add(*status));
            assert_eq!(exit_status(&counts, ending), expected, "{statuses:?} {ending:?}");
        }
    }
}
