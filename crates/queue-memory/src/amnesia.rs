//! What an opening could forget, planted by tests of whoever must notice.

use std::time::Duration;

use queue_core::{lifecycle::JobState, store::QueueControl};

use crate::rows::{QueueRow, StateRow};

/// Forgotten at every opening of a journal.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amnesia {
    /// Jobs that were settled for good come back.
    Ends,
    /// Attempts and starts are counted anew.
    Attempts,
    /// What waits for a time may be claimed at once.
    Delays,
    /// Unique keys that are held for a time of their own are free.
    Windows,
    /// Paused queues run.
    Switches,
    /// That a job was claimed when the process ended.
    Claims,
    /// How often the journal was opened: epochs are given out again.
    Openings,
}

impl Amnesia {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Ends, Self::Attempts, Self::Delays, Self::Windows, Self::Switches, Self::Claims, Self::Openings];

    /// What is left of a job's state; `None`: it is as it was published.
    pub(crate) fn of_state(self, mut row: StateRow) -> Option<StateRow> {
        match self {
            Self::Ends if row.state.is_terminal() => return None,
            Self::Claims if row.state == JobState::Running => return None,
            Self::Attempts => (row.attempt, row.started_count) = (1, 0),
            Self::Delays if row.turn_at.is_some() && row.state != JobState::Running => {
                row.turn_at = Some(row.changed_at + Duration::from_millis(1));
            }
            _ => {}
        }
        Some(row)
    }

    pub(crate) fn of_queue(self, row: QueueRow) -> QueueRow {
        if self == Self::Switches { QueueRow { control: QueueControl::default(), ..row } } else { row }
    }
}
