//! What is kept of a queue beside its jobs.

use bytes::Bytes;
use queue_core::{
    job::{JobId, QueueName, Timestamp},
    queue_spec::QueueSpec,
    store::QueueControl,
};

use super::{Broken, Reader, Writer};
use crate::queue::Settled;

const VERSION: u8 = 1;

/// A queue's declaration and switches.
#[derive(Debug, PartialEq)]
pub(crate) struct QueueRow {
    pub(crate) spec: QueueSpec,
    pub(crate) control: QueueControl,
    /// Tickets up to this one may have been given out.
    pub(crate) tickets: u64,
}

impl QueueRow {
    pub(crate) fn write(spec: &QueueSpec, control: &QueueControl, tickets: u64, out: &mut Vec<u8>) {
        let mut out = Writer(out);
        out.byte(VERSION);
        out.long(tickets);
        // Both are maps with text for keys: writing them cannot fail.
        out.bytes(&serde_json::to_vec(spec).unwrap_or_default());
        out.bytes(&serde_json::to_vec(control).unwrap_or_default());
    }

    pub(crate) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = Reader::new(row);
        version(&mut row)?;
        let tickets = row.long()?;
        let spec = serde_json::from_slice(&row.bytes()?).map_err(|_| Broken::Record("a queue's declaration"))?;
        let control = serde_json::from_slice(&row.bytes()?).map_err(|_| Broken::Record("a queue's switches"))?;
        row.end()?;
        Ok(Self { spec, control, tickets })
    }
}

/// A unique key that is held for a time of its own.
#[derive(Debug, PartialEq)]
pub(crate) struct WindowRow {
    pub(crate) holder: JobId,
    pub(crate) until: Timestamp,
}

impl WindowRow {
    pub(crate) fn write(holder: JobId, until: Timestamp, out: &mut Vec<u8>) {
        let mut out = Writer(out);
        out.byte(VERSION);
        out.raw(holder.as_bytes());
        out.long(until.as_millis());
    }

    pub(crate) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = Reader::new(row);
        version(&mut row)?;
        let holder = id(&mut row)?;
        let until = row.time()?.ok_or(Broken::Record("a window without an end"))?;
        row.end()?;
        Ok(Self { holder, until })
    }
}

/// A job that was finished and forgotten, and how it was settled.
#[derive(Debug, PartialEq)]
pub(crate) struct GoneRow {
    pub(crate) id: JobId,
    pub(crate) settled: Option<Settled>,
}

impl GoneRow {
    pub(crate) fn write(id: JobId, settled: Option<Settled>, out: &mut Vec<u8>) {
        let mut out = Writer(out);
        out.byte(VERSION);
        out.raw(id.as_bytes());
        if let Some(settled) = settled {
            let (ticket, print) = settled.parts();
            out.long(ticket);
            out.long(print);
        }
    }

    pub(crate) fn decode(row: Bytes) -> Result<Self, Broken> {
        let mut row = Reader::new(row);
        version(&mut row)?;
        let id = id(&mut row)?;
        let settled = if row.is_empty() { None } else { Some(Settled::new(row.long()?, row.long()?)) };
        row.end()?;
        Ok(Self { id, settled })
    }
}

/// A topic and a queue that is subscribed to it, as the key of a row.
pub(crate) fn subscription_key(topic: &QueueName, queue: &QueueName) -> Vec<u8> {
    let mut key = Vec::new();
    let mut out = Writer(&mut key);
    out.bytes(topic.as_str().as_bytes());
    out.bytes(queue.as_str().as_bytes());
    key
}

pub(crate) fn subscription(key: &[u8]) -> Result<(QueueName, QueueName), Broken> {
    let mut key = Reader::new(Bytes::copy_from_slice(key));
    let mut name = || QueueName::new(key.text()?).map_err(|_| Broken::Record("a queue's name"));
    let names = (name()?, name()?);
    key.end()?;
    Ok(names)
}

fn version(row: &mut Reader) -> Result<(), Broken> {
    match row.byte()? {
        VERSION => Ok(()),
        newer if newer > VERSION => Err(Broken::Newer(newer)),
        _ => Err(Broken::Record("there is no such version")),
    }
}

fn id(row: &mut Reader) -> Result<JobId, Broken> {
    Ok(JobId::from_bytes(*row.take(16)?.first_chunk().ok_or(Broken::Record("an id"))?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use queue_core::queue_spec::Retention;

    use super::*;

    #[test]
    fn a_row_from_before_retention_was_noted_has_none() {
        let spec = QueueSpec::new(QueueName::from_static("mail"));
        let mut bytes = Vec::new();
        let mut out = Writer(&mut bytes);
        out.byte(1);
        out.long(9);
        out.bytes(&serde_json::to_vec(&spec).unwrap());
        out.bytes(br#"{"version":3,"paused":true}"#);
        let control = QueueControl { version: 3, paused: true, retention: None };
        assert_eq!(QueueRow::decode(Bytes::from(bytes)), Ok(QueueRow { spec, control, tickets: 9 }));
    }

    #[test]
    fn what_is_kept_of_a_queue_comes_back_as_it_was() {
        let name = QueueName::from_static("mail");
        let mut spec = QueueSpec::new(name.clone());
        spec.max_len = Some(7);
        let control = QueueControl { version: 3, paused: true, retention: Some(Retention::none()) };
        let mut bytes = Vec::new();
        QueueRow::write(&spec, &control, 9, &mut bytes);
        assert_eq!(QueueRow::decode(Bytes::from(bytes)), Ok(QueueRow { spec, control, tickets: 9 }));

        let (id, until) = (JobId::derive(b"x", 1), Timestamp::from_millis(5) + Duration::from_secs(1));
        let mut bytes = Vec::new();
        WindowRow::write(id, until, &mut bytes);
        assert_eq!(WindowRow::decode(Bytes::from(bytes)), Ok(WindowRow { holder: id, until }));

        for settled in [None, Some(Settled::new(1, 2))] {
            let mut bytes = Vec::new();
            GoneRow::write(id, settled, &mut bytes);
            assert_eq!(GoneRow::decode(Bytes::from(bytes)), Ok(GoneRow { id, settled }));
        }
        let topic = QueueName::from_static("news");
        assert_eq!(subscription(&subscription_key(&topic, &name)), Ok((topic, name)));
        assert!(subscription(b"\xff\xff\xff\xff").is_err());
    }
}
