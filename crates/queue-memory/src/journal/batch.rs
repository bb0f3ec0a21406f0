//! What is written: changes of rows, in order, all of a batch or nothing.

/// What a row belongs to. Rows are recovered table by table in this order, and by key within a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Table {
    /// Queues: their specification and switches.
    Queues = 1,
    /// Jobs as they were published; never changed, only deleted.
    Jobs = 2,
    /// What became of a job since; absent while it is as published.
    States = 3,
    /// Keys that jobs hold and ids that are remembered.
    Keys = 4,
    /// Records of a tracking store.
    Records = 5,
    /// What a tracking store remembers beside its records.
    Stages = 6,
    /// Small notes of whoever owns the journal, such as an input's offset.
    Notes = 7,
}

impl Table {
    pub(crate) const ALL: [Self; 7] =
        [Self::Queues, Self::Jobs, Self::States, Self::Keys, Self::Records, Self::Stages, Self::Notes];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == number)
    }
}

/// The key of what a queue's n-th job keeps: big-endian, so that rows lie in the order in which jobs came and a new one is
/// appended to the tree.
#[must_use]
pub(crate) fn key(queue: u32, sequence: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&queue.to_be_bytes());
    key[4..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The queue and the sequence of a [`key`].
#[must_use]
pub(crate) fn parts(key: &[u8]) -> Option<(u32, u64)> {
    let (queue, sequence) = key.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*queue), u64::from_be_bytes(sequence.try_into().ok()?)))
}

/// Changes of rows that are committed together or not at all.
///
/// They are encoded one after the other into a single buffer: a batch of a hundred jobs is one allocation.
#[derive(Debug, Default, Clone)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    ops: usize,
}

/// One change of a row, as it lies in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Op<'a> {
    pub(super) table: Table,
    pub(super) key: &'a [u8],
    /// None deletes the row.
    pub(super) value: Option<&'a [u8]>,
}

/// Table, length of the key, length of the value: what precedes an op's bytes.
const HEAD: usize = 1 + 2 + 4;
/// In place of a value's length.
const DELETED: u32 = u32::MAX;

impl Batch {
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// How many changes.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.ops
    }

    /// What it takes of the journal's buffer, in bytes.
    #[must_use]
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Writes a row anew. Keys hold at most 64 KiB, values less than 4 GiB.
    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.put_with(table, key, |bytes| bytes.extend_from_slice(value));
    }

    /// Writes a row anew, encoded in place: `write` appends to what it is given, and only that.
    pub(crate) fn put_with(&mut self, table: Table, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let head = self.bytes.len();
        self.head(table, key, 0);
        let start = self.bytes.len();
        write(&mut self.bytes);
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(DELETED - 1);
        self.bytes[head + 3..head + HEAD].copy_from_slice(&len.to_le_bytes());
    }

    /// Deletes a row; nothing happens where there is none.
    pub(crate) fn delete(&mut self, table: Table, key: &[u8]) {
        self.head(table, key, DELETED);
    }

    fn head(&mut self, table: Table, key: &[u8], len: u32) {
        debug_assert!(key.len() <= usize::from(u16::MAX), "keys are short");
        let key_len = u16::try_from(key.len()).unwrap_or(u16::MAX);
        self.bytes.push(table as u8);
        self.bytes.extend_from_slice(&key_len.to_le_bytes());
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&key[..usize::from(key_len)]);
        self.ops += 1;
    }

    /// Appends another's changes to this one's.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.ops += other.ops;
    }

    /// The changes in order.
    pub(super) fn ops(&self) -> Ops<'_> {
        Ops(&self.bytes)
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ops = 0;
    }

    /// Gives back what one large batch took.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        self.bytes.shrink_to(bytes);
    }
}

#[derive(Debug)]
pub(super) struct Ops<'a>(&'a [u8]);

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        let (head, rest) = self.0.split_first_chunk::<HEAD>()?;
        let [table, k0, k1, value @ ..] = *head;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([k0, k1])))?;
        let len = u32::from_le_bytes(value);
        let (value, rest) = match len {
            DELETED => (None, rest),
            len => rest.split_at_checked(len as usize).map(|(value, rest)| (Some(value), rest))?,
        };
        self.0 = rest;
        Some(Op { table: Table::from_number(table)?, key, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_what_it_was_given_in_order() {
        let mut batch = Batch::new();
        batch.put(Table::Jobs, &key(7, 9), b"payload");
        batch.delete(Table::States, b"");
        let mut more = Batch::new();
        more.put_with(Table::Notes, b"offset", |_| ());
        batch.extend(&more);
        let expected = [
            Op { table: Table::Jobs, key: &key(7, 9), value: Some(b"payload") },
            Op { table: Table::States, key: b"", value: None },
            Op { table: Table::Notes, key: b"offset", value: Some(b"") },
        ];
        assert_eq!(batch.ops().collect::<Vec<_>>(), expected);
        assert_eq!((batch.len(), batch.is_empty()), (3, false));
        assert_eq!(parts(&key(7, 9)), Some((7, 9)));
        assert_eq!(parts(b"short"), None);
    }
}
