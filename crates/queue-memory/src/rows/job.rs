//! What does not change of a job: one row from its publication until it is forgotten.

use bytes::Bytes;
use queue_core::job::{Envelope, FrameError, Timestamp};

use super::{Broken, Reader, Writer};

const VERSION: u8 = 1;

/// A job as it was published. It holds until a [`super::StateRow`] says more.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobRow {
    pub(crate) submitted_at: Timestamp,
    pub(crate) partition: u8,
    pub(crate) envelope: Envelope,
}

impl JobRow {
    pub(crate) fn write(submitted_at: Timestamp, partition: u8, envelope: &Envelope, out: &mut Vec<u8>) {
        let mut row = Writer(out);
        row.byte(VERSION);
        row.byte(partition);
        row.long(submitted_at.as_millis());
        envelope.encode_into(out);
    }

    pub(crate) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = Reader::new(row);
        match row.byte()? {
            VERSION => {}
            newer if newer > VERSION => return Err(Broken::Newer(newer)),
            _ => return Err(Broken::Record("there is no such version")),
        }
        let partition = row.byte()?;
        let submitted_at = row.time()?.ok_or(Broken::Record("a job without a date"))?;
        let envelope = Envelope::decode(row.rest()).map_err(|error| match error {
            FrameError::Newer { found } => Broken::Newer(found),
            _ => Broken::Record("its envelope"),
        })?;
        Ok(Self { submitted_at, partition, envelope })
    }
}
