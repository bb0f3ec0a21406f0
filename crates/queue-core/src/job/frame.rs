#![doc = include_str!("../docs/frame.md")]

use std::{num::NonZeroU64, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    ContentType, EnvelopeBuilder, JobId, JobKind, Priority, RawHeaders, StoreId, Timestamp, Unique, UniqueKey,
};

/// The version that this library writes. It reads this one and refuses newer ones by name.
pub const FRAME_VERSION: u8 = 1;

const MAGIC: u8 = b'Q';
const FIXED: usize = 84;
/// The window's eight bytes before a unique key.
const UNIQUE_WINDOW: usize = 8;

/// Why bytes are not an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It does not begin as an envelope does: another client's plain message.
    #[error("these bytes are not an envelope")]
    Foreign,
    /// It was written by a newer version; a newer worker can run it.
    #[error("envelope version {found} is newer than {FRAME_VERSION}, which this worker reads")]
    Newer {
        /// The version found.
        found: u8,
    },
    /// It begins as an envelope and is not one.
    #[error("broken envelope: {0}")]
    Broken(&'static str),
}

pub(super) fn encoded_len(parts: &EnvelopeBuilder) -> usize {
    FIXED
        + parts.kind.as_str().len()
        + parts.content_type.as_str().len()
        + parts.unique.as_ref().map_or(0, |unique| UNIQUE_WINDOW + unique.key.as_str().len())
        + parts.headers.as_bytes().len()
        + parts.payload.len()
}

pub(super) fn encode(parts: &EnvelopeBuilder) -> Bytes {
    let mut out = BytesMut::with_capacity(encoded_len(parts));
    encode_into(parts, &mut out);
    out.freeze()
}

#[allow(clippy::cast_possible_truncation, reason = "every length was bounded when its part was made")]
pub(super) fn encode_into(parts: &EnvelopeBuilder, out: &mut impl BufMut) {
    let kind = parts.kind.as_str().as_bytes();
    let content_type = parts.content_type.as_str().as_bytes();
    let unique_len = parts.unique.as_ref().map_or(0, |unique| UNIQUE_WINDOW + unique.key.as_str().len());
    let headers = parts.headers.as_bytes();

    out.put_u8(MAGIC);
    out.put_u8(FRAME_VERSION);
    out.put_u8(parts.priority.level());
    out.put_u8(0);
    out.put_slice(parts.id.as_bytes());
    out.put_u32_le(parts.attempt);
    out.put_u32_le(parts.generation);
    out.put_u32_le(parts.deliveries);
    out.put_u64_le(parts.created_at.as_millis());
    out.put_u64_le(parts.not_before.map_or(0, Timestamp::as_millis));
    out.put_u64_le(parts.expires_at.map_or(0, Timestamp::as_millis));
    out.put_u64_le(millis(parts.timeout));
    out.put_u64_le(parts.store.map_or(0, |store| store.0.get()));
    out.put_u16_le(kind.len() as u16);
    out.put_u16_le(content_type.len() as u16);
    out.put_u32_le(unique_len as u32);
    out.put_u32_le(headers.len() as u32);
    out.put_slice(kind);
    out.put_slice(content_type);
    if let Some(unique) = &parts.unique {
        out.put_u64_le(unique.window.map_or(0, |window| millis(window).max(1)));
        out.put_slice(unique.key.as_str().as_bytes());
    }
    out.put_slice(headers);
    out.put_slice(&parts.payload);
}

pub(super) fn decode(wire: Bytes) -> Result<EnvelopeBuilder, FrameError> {
    let fixed: &[u8; FIXED] = match wire.first_chunk() {
        Some(fixed) if fixed[0] == MAGIC => fixed,
        // A newer version may be shorter, so the version is looked at before the length.
        _ if wire.len() >= 2 && wire[0] == MAGIC && wire[1] > FRAME_VERSION => {
            return Err(FrameError::Newer { found: wire[1] });
        }
        Some(_) => return Err(FrameError::Foreign),
        None => return Err(if wire.first() == Some(&MAGIC) { broken("too short") } else { FrameError::Foreign }),
    };
    match fixed[1] {
        FRAME_VERSION => {}
        found if found > FRAME_VERSION => return Err(FrameError::Newer { found }),
        _ => return Err(FrameError::Foreign),
    }

    let priority = Priority::new(fixed[2]).map_err(|_| broken("priority out of range"))?;
    if fixed[3] != 0 {
        return Err(broken("reserved byte is not zero"));
    }
    let mut id = [0; 16];
    id.copy_from_slice(&fixed[4..20]);
    let attempt = u32_at(fixed, 20);
    if attempt == 0 {
        return Err(broken("attempt counts from 1"));
    }

    let mut rest = Sections { wire: &wire, at: FIXED };
    let kind = rest.text(usize::from(u16_at(fixed, 72)))?;
    let content_type = rest.text(usize::from(u16_at(fixed, 74)))?;
    let unique = match u32_at(fixed, 76) as usize {
        0 => None,
        len => Some(Box::new(unique(rest.bytes(len)?)?)),
    };
    let headers = rest.slice(u32_at(fixed, 80) as usize)?;
    let payload = wire.slice(rest.at..);

    Ok(EnvelopeBuilder {
        id: JobId::from_bytes(id),
        kind: JobKind::new(kind).map_err(|_| broken("kind"))?,
        content_type: ContentType::parse(content_type).map_err(|_| broken("content type"))?,
        payload,
        attempt,
        generation: u32_at(fixed, 24),
        deliveries: u32_at(fixed, 28),
        store: NonZeroU64::new(u64_at(fixed, 64)).map(StoreId),
        priority,
        created_at: Timestamp::from_millis(u64_at(fixed, 32)),
        not_before: optional_time(u64_at(fixed, 40)),
        expires_at: optional_time(u64_at(fixed, 48)),
        timeout: Duration::from_millis(u64_at(fixed, 56)),
        unique,
        headers: RawHeaders::from_wire(headers).map_err(|_| broken("headers too large"))?,
    })
}

fn unique(section: &[u8]) -> Result<Unique, FrameError> {
    let (window, key) = section.split_first_chunk().ok_or_else(|| broken("unique key too short"))?;
    let window = u64::from_le_bytes(*window);
    let key = std::str::from_utf8(key).map_err(|_| broken("unique key is not UTF-8"))?;
    Ok(Unique {
        key: UniqueKey::new(key).map_err(|_| broken("unique key length"))?,
        window: (window != 0).then(|| Duration::from_millis(window)),
    })
}

/// Walks the variable sections; every length comes from the wire and is checked against what is there.
struct Sections<'a> {
    wire: &'a Bytes,
    at: usize,
}

impl<'a> Sections<'a> {
    fn range(&mut self, len: usize) -> Result<std::ops::Range<usize>, FrameError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.wire.len());
        let end = end.ok_or_else(|| broken("a section ends beyond the message"))?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let range = self.range(len)?;
        Ok(&self.wire[range])
    }

    fn slice(&mut self, len: usize) -> Result<Bytes, FrameError> {
        let range = self.range(len)?;
        Ok(self.wire.slice(range))
    }

    fn text(&mut self, len: usize) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.bytes(len)?).map_err(|_| broken("a name is not UTF-8"))
    }
}

const fn broken(what: &'static str) -> FrameError {
    FrameError::Broken(what)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn optional_time(millis: u64) -> Option<Timestamp> {
    (millis != 0).then(|| Timestamp::from_millis(millis))
}

fn u16_at(fixed: &[u8; FIXED], at: usize) -> u16 {
    u16::from_le_bytes([fixed[at], fixed[at + 1]])
}

fn u32_at(fixed: &[u8; FIXED], at: usize) -> u32 {
    u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
}

fn u64_at(fixed: &[u8; FIXED], at: usize) -> u64 {
    u64::from(u32_at(fixed, at)) | (u64::from(u32_at(fixed, at + 4)) << 32)
}
