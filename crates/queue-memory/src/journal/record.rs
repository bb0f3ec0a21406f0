//! How a row lies in the file: its value, the sequence of the change that wrote it, and a checksum over all of it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::batch::Table;

/// Appends the row's bytes to `out` and answers their checksum.
pub(super) fn seal(table: Table, key: &[u8], value: &[u8], sequence: u64, out: &mut Vec<u8>) -> u64 {
    let start = out.len();
    out.extend_from_slice(value);
    out.extend_from_slice(&sequence.to_le_bytes());
    let sum = checksum(table, key, &out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
    sum
}

/// A row that was read and is what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sealed<'a> {
    pub(super) value: &'a [u8],
    pub(super) sequence: u64,
    pub(super) sum: u64,
}

/// None where the bytes are not what [`seal`] wrote for this table and key.
pub(super) fn unseal<'a>(table: Table, key: &[u8], bytes: &'a [u8]) -> Option<Sealed<'a>> {
    let (content, sum) = bytes.split_last_chunk::<8>()?;
    let sum = u64::from_le_bytes(*sum);
    if checksum(table, key, content) != sum {
        return None;
    }
    let (value, sequence) = content.split_last_chunk::<8>()?;
    Some(Sealed { value, sequence: u64::from_le_bytes(*sequence), sum })
}

/// The checksum that a row carries, unverified.
pub(super) fn sum_of(bytes: &[u8]) -> u64 {
    bytes.split_last_chunk::<8>().map_or(0, |(_, sum)| u64::from_le_bytes(*sum))
}

/// Where a row lies is part of it: one that turns up under another key is damage.
fn checksum(table: Table, key: &[u8], content: &[u8]) -> u64 {
    xxh3_64_with_seed(content, xxh3_64_with_seed(key, table as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_flipped_bit_and_any_other_place_is_noticed() {
        let mut bytes = Vec::new();
        let sum = seal(Table::Jobs, b"key", b"value", 7, &mut bytes);
        let whole = Sealed { value: b"value", sequence: 7, sum };
        assert_eq!(unseal(Table::Jobs, b"key", &bytes), Some(whole));
        assert_eq!((bytes.len(), sum_of(&bytes)), (5 + 8 + 8, sum));
        assert_eq!(unseal(Table::Jobs, b"kez", &bytes), None);
        assert_eq!(unseal(Table::States, b"key", &bytes), None);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(Table::Jobs, b"key", &bad), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(unseal(Table::Jobs, b"key", &bytes[..len]), None, "{len} bytes");
        }
    }
}
