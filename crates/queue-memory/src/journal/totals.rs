//! What the newest commit says of the whole file, so that what is missing is missed.

/// Written with every commit; counted anew at opening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// Of the last change.
    pub(super) sequence: u64,
    pub(super) rows: u64,
    /// Of the rows, as they lie in the file.
    pub(super) bytes: u64,
    /// The sum of the rows' checksums: no row is missing, none is older than it should be.
    pub(super) sum: u64,
    /// The journal was closed with this commit.
    pub(super) closed: bool,
}

impl Totals {
    const LEN: usize = 33;

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (slot, number) in bytes.chunks_exact_mut(8).zip([self.sequence, self.rows, self.bytes, self.sum]) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        bytes[Self::LEN - 1] = u8::from(self.closed);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (closed, numbers) = <&[u8; Self::LEN]>::try_from(bytes).ok()?.split_last()?;
        let mut numbers =
            numbers.chunks_exact(8).filter_map(|number| Some(u64::from_le_bytes(number.try_into().ok()?)));
        let [sequence, rows, bytes, sum] = [numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?];
        Some(Self { sequence, rows, bytes, sum, closed: *closed == 1 })
    }

    /// The same commit, with no rows counted yet.
    pub(super) fn uncounted(self) -> Self {
        Self { rows: 0, bytes: 0, sum: 0, ..self }
    }

    /// A row more, of so many bytes with its key.
    pub(super) fn gain(&mut self, len: usize, sum: u64) {
        self.rows = self.rows.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(len as u64);
        self.sum = self.sum.wrapping_add(sum);
    }

    /// A row less.
    pub(super) fn lose(&mut self, len: usize, sum: u64) {
        self.rows = self.rows.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(len as u64);
        self.sum = self.sum.wrapping_sub(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_come_back_and_add_up() {
        let mut totals = Totals { sequence: 9, closed: true, ..Totals::default() };
        totals.gain(100, u64::MAX);
        totals.gain(50, 7);
        assert_eq!(Totals::from_bytes(&totals.to_bytes()), Some(totals));
        totals.lose(100, u64::MAX);
        assert_eq!(totals, Totals { sequence: 9, rows: 1, bytes: 50, sum: 7, closed: true });
        assert_eq!(Totals::from_bytes(b"short"), None);
    }
}
