//! A slab in chunks: it grows without copying what is there, and an index stays where it is.

const CHUNK: usize = 1 << 10;

#[derive(Debug)]
pub(crate) struct Slots<T> {
    chunks: Vec<Box<[Option<T>]>>,
    free: Vec<u32>,
    /// Slots at and after this one were never used.
    untouched: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), untouched: 0 }
    }
}

impl<T> Slots<T> {
    /// Where the next [`Slots::insert`] puts its item; `None` at four billion items.
    pub(crate) fn vacant(&self) -> Option<u32> {
        self.free.last().copied().or((self.untouched < u32::MAX).then_some(self.untouched))
    }

    pub(crate) fn insert(&mut self, item: T) -> Option<u32> {
        let slot = self.vacant()?;
        if self.free.pop().is_none() {
            if self.untouched as usize == self.chunks.len() * CHUNK {
                self.chunks.push(std::iter::repeat_with(|| None).take(CHUNK).collect());
            }
            self.untouched += 1;
        }
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(item);
        Some(slot)
    }

    /// Drops the item where it lies, if there is one.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(chunk) = self.chunks.get_mut(slot as usize / CHUNK) else { return };
        let place = &mut chunk[slot as usize % CHUNK];
        if place.is_some() {
            *place = None;
            self.free.push(slot);
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.chunks.get(slot as usize / CHUNK)?[slot as usize % CHUNK].as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.chunks.get_mut(slot as usize / CHUNK)?[slot as usize % CHUNK].as_mut()
    }

    /// Occupied slots from `start` on, in order.
    pub(crate) fn iter_from(&self, start: u32) -> impl Iterator<Item = (u32, &T)> {
        self.range(start, self.untouched)
    }

    /// Occupied slots from `start` on and before `end`, in order.
    pub(crate) fn range(&self, start: u32, end: u32) -> impl Iterator<Item = (u32, &T)> {
        (start..end.min(self.untouched)).filter_map(|slot| Some((slot, self.get(slot)?)))
    }

    /// Slots at and after this one were never used.
    pub(crate) fn end(&self) -> u32 {
        self.untouched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_stable_reused_and_listed_in_order() {
        let mut slots = Slots::default();
        for value in 0..3_000u32 {
            assert_eq!(slots.vacant(), Some(value));
            assert_eq!(slots.insert(value), Some(value));
        }
        slots.remove(1_500);
        slots.remove(1_500);
        assert_eq!(slots.get(1_500), None);
        assert_eq!(slots.iter_from(0).count(), 2_999);
        assert_eq!(slots.insert(9), Some(1_500));
        assert_eq!(slots.iter_from(1_499).take(3).map(|(slot, _)| slot).collect::<Vec<_>>(), [1_499, 1_500, 1_501]);
        assert_eq!(slots.get(4_000_000), None);
        slots.remove(4_000_000);
    }
}
