//! The unique keys of a whole run, in bounded memory.

use std::collections::HashSet;

use redb::{Database, ReadableDatabase as _, TableDefinition, backends::FileBackend};
use sha2::{Digest as _, Sha256};

/// So many keys in memory take about 20 MB; then they go to disk.
const IN_MEMORY: usize = (1 << 20) / 8 * 7;
/// What the database may keep of its file in memory, in bytes.
const CACHE: usize = 32 << 20;

const SPILLED: TableDefinition<'_, u128, ()> = TableDefinition::new("seen");

/// Remembers keys by 128 bits of their SHA-256: two different keys are taken for one with a chance of 10⁻²⁰ in a run of
/// a billion.
#[derive(Debug)]
pub struct Seen {
    recent: HashSet<u128>,
    limit: usize,
    spilled: Option<Database>,
}

/// The disk failed under the keys, or is full.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the unique keys in a temporary file: {0} (TMPDIR chooses where it is)")]
pub struct SeenError(Box<redb::Error>);

impl Default for Seen {
    fn default() -> Self {
        Self::with_limit(IN_MEMORY)
    }
}

impl Seen {
    /// Keeps so many keys in memory.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { recent: HashSet::new(), limit, spilled: None }
    }

    /// Remembers a key. True where it is new. Blocks on the disk once the keys have outgrown memory.
    ///
    /// # Errors
    /// The disk failed.
    pub fn insert(&mut self, key: &str) -> Result<bool, SeenError> {
        let digest = digest(key);
        if self.recent.contains(&digest) || self.is_spilled(digest)? {
            return Ok(false);
        }
        if self.recent.len() >= self.limit {
            self.spill()?;
        }
        self.recent.insert(digest);
        Ok(true)
    }

    fn is_spilled(&self, digest: u128) -> Result<bool, SeenError> {
        let Some(database) = &self.spilled else { return Ok(false) };
        let table = database.begin_read()?.open_table(SPILLED)?;
        Ok(table.get(digest)?.is_some())
    }

    fn spill(&mut self) -> Result<(), SeenError> {
        if self.spilled.is_none() {
            // Has no name, so nothing is left of it whatever happens.
            let file = tempfile::tempfile().map_err(redb::Error::Io)?;
            self.spilled =
                Some(Database::builder().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?);
        }
        let Some(database) = &self.spilled else { return Ok(()) };
        let mut sorted: Vec<u128> = self.recent.drain().collect();
        sorted.sort_unstable();
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(SPILLED)?;
            for digest in sorted {
                table.insert(digest, ())?;
            }
        }
        write.commit()?;
        Ok(())
    }
}

fn digest(key: &str) -> u128 {
    let mut first = [0; 16];
    first.copy_from_slice(&Sha256::digest(key.as_bytes())[..16]);
    u128::from_le_bytes(first)
}

impl<E: Into<redb::Error>> From<E> for SeenError {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_new_once() {
        let mut seen = Seen::default();
        assert!(seen.insert("a").unwrap());
        assert!(seen.insert("b").unwrap());
        assert!(!seen.insert("a").unwrap());
        assert!(seen.spilled.is_none());
    }

    #[test]
    fn keys_that_went_to_disk_are_still_known() {
        let mut seen = Seen::with_limit(100);
        for round in 0..2 {
            for n in 0..2_500 {
                assert_eq!(seen.insert(&format!("key {n}")).unwrap(), round == 0, "{n}");
                assert!(seen.recent.len() <= 100);
            }
        }
        assert!(seen.spilled.is_some());
        assert!(seen.insert("another").unwrap());
    }
}
