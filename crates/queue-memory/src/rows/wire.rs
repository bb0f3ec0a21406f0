//! Little-endian numbers and texts behind their lengths.

use bytes::{BufMut, Bytes};
use queue_core::job::Timestamp;

/// Why bytes are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// A newer version wrote it.
    #[error("version {0} of a record is newer than what this program reads")]
    Newer(u8),
    /// It is not a record.
    #[error("a broken record: {0}")]
    Record(&'static str),
}

/// Appends to what it is given.
#[derive(Debug)]
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn byte(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub(crate) fn word(&mut self, value: u32) {
        self.0.put_u32_le(value);
    }

    pub(crate) fn long(&mut self, value: u64) {
        self.0.put_u64_le(value);
    }

    /// Zero is not a time.
    pub(crate) fn time(&mut self, value: Option<Timestamp>) {
        self.long(value.map_or(0, Timestamp::as_millis));
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.put_slice(bytes);
    }

    /// Behind its length. Nothing that is kept comes near four gibibytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.word(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    pub(crate) fn maybe(&mut self, bytes: Option<&[u8]>) {
        self.byte(u8::from(bytes.is_some()));
        if let Some(bytes) = bytes {
            self.bytes(bytes);
        }
    }
}

/// Takes apart what [`Writer`] put together. What it gives out are slices.
#[derive(Debug)]
pub(crate) struct Reader(Bytes);

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<Bytes, Broken> {
        if len > self.0.len() {
            return Err(Broken::Record("it ends too early"));
        }
        Ok(self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let found = *self.0.first_chunk().ok_or(Broken::Record("it ends too early"))?;
        bytes::Buf::advance(&mut self.0, N);
        Ok(found)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Broken> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Broken> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Broken::Record("neither yes nor no")),
        }
    }

    pub(crate) fn word(&mut self) -> Result<u32, Broken> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn long(&mut self) -> Result<u64, Broken> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn time(&mut self) -> Result<Option<Timestamp>, Broken> {
        Ok(Some(self.long()?).filter(|millis| *millis != 0).map(Timestamp::from_millis))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, Broken> {
        let len = self.word()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    pub(crate) fn maybe(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.flag()? { self.bytes().map(Some) } else { Ok(None) }
    }

    pub(crate) fn text(&mut self) -> Result<String, Broken> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| Broken::Record("a text is not UTF-8"))
    }

    /// How many follow, which are at most so many.
    pub(crate) fn count(&mut self, most: usize) -> Result<usize, Broken> {
        let count = usize::try_from(self.word()?).unwrap_or(usize::MAX);
        if count > most { Err(Broken::Record("more than are ever kept")) } else { Ok(count) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> Bytes {
        self.0
    }

    pub(crate) fn end(&self) -> Result<(), Broken> {
        if self.0.is_empty() { Ok(()) } else { Err(Broken::Record("it goes on too long")) }
    }
}
