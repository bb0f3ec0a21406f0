//! The rooms of the `queue` command. Read downwards: each uses only those above it.
//!
//! The command is the interface; this library is there for its own binary and tests, and may change at any time.

// What was asked for.
pub mod args;
pub mod values;

// What comes in.
pub mod input;
pub mod seen;
pub mod window;

// The three together: lines, checked, as fast as they are worked off.
pub mod feed;

// What goes out.
pub mod dead;
pub mod exit;
pub mod output;
pub mod progress;
pub mod results;
pub mod summary;

// Every line that came in goes out, once.
pub mod ledger;

// What a run that was cut off has left, and what it leaves for its next life.
pub mod resume;

// All of `queue run` that can be checked before a job runs.
pub mod plan;

// The run itself.
pub mod run;

// Looks at the rest.
pub mod doctor;
pub mod inspect;
