//! `--journal`: a run that survives its own death.
//!
//! The jobs of such a run are in a journal on disk, with what became of each. Beside them the run notes how far its input was
//! read and how far its outputs were written ([`notes`]). A later life of the run reads these, finds the lines of the jobs that
//! are left ([`recover`]), writes the rows that are missing, and goes on where the input was left ([`life`]).
//!
//! What makes that exact:
//!
//! - A job's id follows from the input, the number of its line and the line ([`identity`]): a line that is read again is known.
//! - The place in the input is noted behind the jobs of the lines in front of it, so it is never ahead of them.
//! - A row is written when its job's end is on disk, and the job is forgotten when its row is.
//! - Lines that are no jobs are in front of the noted place only once their rows are on disk.

pub mod identity;
pub mod journal;
pub mod notes;

// The past of a run: its outputs, its input, and whether they are still the same.
pub mod tail;

pub mod recover;

pub mod start;

// Its present.
pub mod life;
