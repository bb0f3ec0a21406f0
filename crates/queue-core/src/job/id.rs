//! Identities that every copy of a job shares.

use std::{fmt, num::NonZeroU64, str::FromStr};

use serde::{Deserialize, Serialize, de, ser};
use sha2::{Digest, Sha256};

use super::{QueueName, Timestamp};
use crate::{
    clock::{Env, Random},
    error::{Error, ErrorCode},
};

/// Sixteen bytes that every copy of a job shares, whatever its attempt.
///
/// A fresh id is a UUIDv7, so ids sort by the time they were made. A derived one ([`JobId::derive`]) is a UUIDv8, and so is one
/// that is numbered in a run ([`JobId::numbered`]).
///
/// Numbered ids trade randomness for being found by their numbers. Two runs whose ids were made in the same millisecond differ
/// in 34 random bits alone: where they do not, which is one chance in 2³⁴ for each such pair, their jobs are taken for each
/// other's. Who knows one of a run's ids knows all of them: they are names, and no secrets. Like derived ones they have no
/// [`JobId::created_at`], and so tell nothing to what goes by it, be it a watermark of what is too old to be new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId([u8; 16]);

impl JobId {
    /// A fresh id (UUIDv7, RFC 9562): 48 bits of time, 74 random bits.
    #[must_use]
    pub fn fresh(env: &Env) -> Self {
        Self::fresh_at(env.now(), &*env.random)
    }

    /// A fresh id made at a time that was read before: for batches, which read the clock once.
    #[must_use]
    pub fn fresh_at(now: Timestamp, random: &dyn Random) -> Self {
        Self::from_time_and_bits(now, random.next_u64(), random.next_u64())
    }

    fn from_time_and_bits(at: Timestamp, high: u64, low: u64) -> Self {
        let top = (u128::from(at.as_millis()) << 80) | (0x7u128 << 76) | (u128::from(high & 0x0FFF) << 64);
        let bottom = (0b10u128 << 62) | u128::from(low >> 2);
        Self((top | bottom).to_be_bytes())
    }

    /// An id that follows from its parent and an ordinal (UUIDv8 over SHA-256): publishing it twice is one job.
    /// Never derive one from an attempt.
    #[must_use]
    pub fn derive(parent: &[u8], ordinal: u64) -> Self {
        let digest =
            Sha256::new().chain_update(b"queue-job-v1").chain_update(parent).chain_update(ordinal.to_be_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.finalize()[..16]);
        bytes[6] = (bytes[6] & 0x0F) | 0x80;
        bytes[8] = (bytes[8] & 0x3F) | 0x80;
        Self(bytes)
    }

    /// The id of the `number`-th job of a run, from the run's own id (UUIDv8: its 48 bits of time and 34 random bits, then 40 of
    /// the number), for who has many and wants to find each by its id: [`JobId::number_in`] reads it. `None` from 2⁴⁰ on, and
    /// where this is not a fresh id: the number would take the place of what tells it from others. See [`JobId`] for how sure
    /// such ids are.
    #[must_use]
    pub fn numbered(self, number: u64) -> Option<Self> {
        let [0, 0, 0, number @ ..] = number.to_be_bytes() else { return None };
        if self.0[6] >> 4 != 7 {
            return None;
        }
        let mut bytes = self.0;
        bytes[6] = (bytes[6] & 0x0F) | 0x80;
        bytes[11..].copy_from_slice(&number);
        Some(Self(bytes))
    }

    /// The number of this job in that run; `None` where it is none of its.
    #[must_use]
    pub fn number_in(self, run: Self) -> Option<u64> {
        let mut number = [0; 8];
        number[3..].copy_from_slice(&self.0[11..]);
        let number = u64::from_be_bytes(number);
        (run.numbered(number) == Some(self)).then_some(number)
    }

    /// From the bytes on the wire.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// When a fresh (v7) id was made; `None` for a derived one.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        let millis = u128::from_be_bytes(self.0) >> 80;
        (self.0[6] >> 4 == 7).then(|| Timestamp::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        uuid::Uuid::parse_str(text).map(|uuid| Self(uuid.into_bytes())).map_err(|_| {
            Error::new(ErrorCode::Validation, format!("{text:?} is not a job id; give 32 hexadecimal digits"))
        })
    }
}

impl Serialize for JobId {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Enough to find a job again: a sharded provider keeps its shard in `place`.
///
/// Prints and parses as one token, `ID@QUEUE` or `ID.PLACE@QUEUE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JobRef {
    /// The queue the job was published to.
    pub queue: QueueName,
    /// The job.
    pub id: JobId,
    /// The provider's own address within the queue; zero where it has none.
    pub place: u16,
}

impl JobRef {
    /// A job of a queue that has one place.
    #[must_use]
    pub fn new(queue: QueueName, id: JobId) -> Self {
        Self { queue, id, place: 0 }
    }
}

impl fmt::Display for JobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            0 => write!(f, "{}@{}", self.id, self.queue),
            place => write!(f, "{}.{place}@{}", self.id, self.queue),
        }
    }
}

impl FromStr for JobRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            let message = format!("{text:?} is not a job reference; it looks like ID@QUEUE, as `enqueue` prints it");
            Error::new(ErrorCode::Validation, message)
        };
        let (job, queue) = text.split_once('@').ok_or_else(bad)?;
        let (id, place) = match job.split_once('.') {
            Some((id, place)) => (id, place.parse().map_err(|_| bad())?),
            None => (job, 0),
        };
        Ok(Self { queue: QueueName::new(queue)?, id: id.parse()?, place })
    }
}

/// Which job store holds, or will adopt, a job's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub NonZeroU64);

impl StoreId {
    /// A store that nobody has seen before.
    #[must_use]
    pub fn fresh(env: &Env) -> Self {
        Self(NonZeroU64::new(env.random.next_u64()).unwrap_or(NonZeroU64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_are_uuid_v7_and_sort_by_time() {
        let early = JobId::from_time_and_bits(Timestamp::from_millis(1_700_000_000_000), u64::MAX, u64::MAX);
        let late = JobId::from_time_and_bits(Timestamp::from_millis(1_700_000_000_001), 0, 0);
        assert!(early < late);
        for id in [early, late] {
            let uuid = uuid::Uuid::from_bytes(*id.as_bytes());
            assert_eq!(uuid.get_version_num(), 7);
            assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        }
        assert_eq!(early.created_at(), Some(Timestamp::from_millis(1_700_000_000_000)));
    }

    #[test]
    fn derived_ids_are_stable_and_distinct() {
        let id = JobId::derive(b"parent", 1);
        // Pinned: a follow-up published by an older version must have the same id.
        assert_eq!(id.to_string(), "0fdc146b-3e1f-8672-a731-d84c40c3b560");
        assert_eq!(uuid::Uuid::from_bytes(*id.as_bytes()).get_version_num(), 8);
        assert_ne!(id, JobId::derive(b"parent", 2));
        assert_ne!(id, JobId::derive(b"parents", 1));
        assert_eq!(id.created_at(), None);
    }

    #[test]
    fn numbered_ids_give_their_numbers_back_to_their_run_alone() {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let run = JobId::from_time_and_bits(at, u64::MAX, u64::MAX);
        let others = [JobId::from_time_and_bits(at, u64::MAX, 1 << 63), JobId::from_time_and_bits(at, 1, u64::MAX)];
        for number in [0, 1, 200_000, (1 << 40) - 1] {
            let id = run.numbered(number).unwrap();
            let uuid = uuid::Uuid::from_bytes(*id.as_bytes());
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
            assert_eq!((id.number_in(run), id.created_at()), (Some(number), None));
            for other in others {
                assert_eq!(id.number_in(other), None);
            }
        }
        assert_eq!(run.numbered(1 << 40), None);
        // Numbered twice, two of the same run would be one.
        assert_eq!(run.numbered(1).unwrap().numbered(2), None);
        assert_eq!((JobId::derive(b"run", 1).numbered(2), JobId::from_bytes([0; 16]).numbered(2)), (None, None));
        assert_eq!((run.number_in(run), JobId::derive(run.as_bytes(), 1).number_in(run)), (None, None));
    }

    #[test]
    fn references_print_and_parse_as_one_token() {
        for (queue, place) in [("mail", 0), ("ünïcode", 7), ("a@b.c", 65_535)] {
            let reference = JobRef { queue: QueueName::new(queue).unwrap(), id: JobId::derive(b"x", 0), place };
            let text = reference.to_string();
            assert!(!text.contains(char::is_whitespace));
            assert_eq!(text.parse::<JobRef>().unwrap(), reference);
        }
        for bad in ["", "@", "x@mail", "0192@mail", "00000000-0000-8000-8000-000000000000.70000@mail"] {
            assert!(bad.parse::<JobRef>().is_err(), "{bad}");
        }
    }
}
