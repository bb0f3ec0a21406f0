//! Lines in, jobs out.

mod job;
mod lines;
mod object;

pub use job::{Invalid, JobLine, JobText, parse};
pub use lines::{Line, LineReader, Text};
pub use object::Object;
