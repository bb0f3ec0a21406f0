//! How much of the input is under way at once. Within it, priority and delay act; beyond it, the file waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

/// So many lines at once,
pub const MAX_LINES: usize = 10_000;
/// or so many bytes of them.
pub const MAX_BYTES: usize = 64 << 20;

/// Room is given back for so many lines, or bytes, at once: a part of the window, so that the reader is not woken for every
/// line that ends.
const PARTS: usize = 64;

/// Room for lines, by number and by bytes.
#[derive(Debug, Clone)]
pub struct Window(Arc<Room>);

#[derive(Debug)]
struct Room {
    lines: Semaphore,
    bytes: Semaphore,
    max_lines: usize,
    max_bytes: u32,
    was_full: watch::Sender<bool>,
    left: Mutex<Left>,
}

/// Lines that have left, and whose room was not given back yet.
#[derive(Debug, Default)]
struct Left {
    inside: usize,
    lines: usize,
    bytes: usize,
}

/// A line's room, given back soon after it is dropped.
#[derive(Debug)]
pub struct Slot {
    room: Arc<Room>,
    bytes: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self::new(MAX_LINES, MAX_BYTES as u32)
    }
}

impl Window {
    /// Room for so many lines, of so many bytes together.
    #[must_use]
    pub fn new(max_lines: usize, max_bytes: u32) -> Self {
        Self(Arc::new(Room {
            lines: Semaphore::new(max_lines),
            bytes: Semaphore::new(max_bytes as usize),
            max_lines,
            max_bytes,
            was_full: watch::Sender::new(false),
            left: Mutex::default(),
        }))
    }

    /// Lets a line in that need not wait. `None` where it must, or the window is closed.
    pub fn try_enter(&self, bytes: usize) -> Option<Slot> {
        let room = &self.0;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(room.max_bytes);
        let line = room.lines.try_acquire().ok()?;
        room.bytes.try_acquire_many(bytes).ok()?.forget();
        line.forget();
        room.left().inside += 1;
        Some(Slot { room: Arc::clone(room), bytes })
    }

    /// Waits for room; `None` once the window is closed. A line larger than the whole window waits for all of it.
    pub async fn enter(&self, bytes: usize) -> Option<Slot> {
        let room = &self.0;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(room.max_bytes);
        if room.lines.available_permits() == 0 || room.bytes.available_permits() < bytes as usize {
            self.give_back();
        }
        if room.lines.available_permits() == 0 || room.bytes.available_permits() < bytes as usize {
            room.was_full.send_if_modified(|was_full| !std::mem::replace(was_full, true));
        }
        room.lines.acquire().await.ok()?.forget();
        // From here on it is inside, though it may wait for its bytes: whoever drops this gives back what it has.
        room.left().inside += 1;
        let mut slot = Slot { room: Arc::clone(room), bytes: 0 };
        room.bytes.acquire_many(bytes).await.ok()?.forget();
        slot.bytes = bytes;
        Some(slot)
    }

    /// Lets a line in that was inside before. Where there is no room, it is inside without any.
    #[must_use]
    pub fn admit(&self, bytes: usize) -> Slot {
        let room = &self.0;
        room.lines.forget_permits(1);
        let bytes = room.bytes.forget_permits(bytes.min(room.max_bytes as usize));
        room.left().inside += 1;
        Slot { room: Arc::clone(room), bytes: u32::try_from(bytes).unwrap_or(room.max_bytes) }
    }

    /// Gives back the room of lines that have left, where it is less than is given back at once. Call it now and then.
    pub fn give_back(&self) {
        let mut left = self.0.left();
        self.0.give_back(&mut left);
    }

    /// Whether a line ever had to wait.
    #[must_use]
    pub fn was_full(&self) -> bool {
        *self.0.was_full.borrow()
    }

    /// Resolves when the first line has to wait.
    pub async fn filled(&self) {
        // An error means that the window is gone, and `self` is one.
        let _ = self.0.was_full.subscribe().wait_for(|was_full| *was_full).await;
    }

    /// Lets nothing in any more; who waits is told so.
    pub fn close(&self) {
        self.0.lines.close();
        self.0.bytes.close();
    }
}

impl Room {
    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, left: &mut Left) {
        self.lines.add_permits(std::mem::take(&mut left.lines));
        self.bytes.add_permits(std::mem::take(&mut left.bytes));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut left = self.room.left();
        left.inside -= 1;
        left.lines += 1;
        left.bytes += self.bytes as usize;
        let enough = left.lines >= self.room.max_lines / PARTS || left.bytes >= self.room.max_bytes as usize / PARTS;
        // The last one out may leave somebody who waits for the whole window; one who waits for bytes is inside.
        if enough || left.inside <= 1 {
            self.room.give_back(&mut left);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn enters(window: &Window, bytes: usize) -> Option<Slot> {
        tokio::time::timeout(Duration::from_secs(1), window.enter(bytes)).await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn who_need_not_wait_enters_at_once_and_leaves_nothing_behind_otherwise() {
        let window = Window::new(2, 100);
        let first = window.try_enter(60).unwrap();
        assert!(window.try_enter(60).is_none(), "bytes");
        let second = window.try_enter(40).unwrap();
        assert!(window.try_enter(0).is_none() && !window.was_full(), "lines; and nobody waited");
        drop((first, second));
        window.give_back();
        assert!(window.try_enter(1_000).is_some(), "all of it is there again");
        window.close();
        assert!(window.try_enter(0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn lines_and_bytes_are_bounded_and_given_back() {
        let window = Window::new(2, 100);
        let first = enters(&window, 60).await.unwrap();
        assert!(!window.was_full());
        assert!(enters(&window, 60).await.is_none(), "bytes");
        assert!(window.was_full());
        window.filled().await;
        let _second = enters(&window, 40).await.unwrap();
        assert!(enters(&window, 0).await.is_none(), "lines");
        drop(first);
        assert!(enters(&window, 60).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_giant_takes_the_whole_window() {
        let window = Window::new(2, 100);
        let giant = enters(&window, usize::MAX).await.unwrap();
        assert!(enters(&window, 1).await.is_none());
        drop(giant);
        assert!(enters(&window, 1).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_back_by_parts_on_demand_and_by_the_last() {
        let window = Window::new(PARTS * 10, u32::MAX >> 3);
        let mut inside = Vec::new();
        for _ in 0..PARTS * 10 {
            inside.push(enters(&window, 1).await.unwrap());
        }
        let free = || window.0.lines.available_permits();
        inside.truncate(inside.len() - 9);
        assert_eq!(free(), 0);
        inside.pop();
        assert_eq!(free(), 10);
        inside.truncate(inside.len() - 3);
        window.give_back();
        assert_eq!(free(), 13);
        inside.truncate(inside.len() - 2);
        inside.extend([enters(&window, 1).await.unwrap(), enters(&window, 1).await.unwrap()]);
        assert_eq!(free(), 11, "there is room: nobody asks for more");
        inside.clear();
        assert_eq!(free(), PARTS * 10);
        assert_eq!(window.0.bytes.available_permits(), (u32::MAX >> 3) as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_window_tells_who_waits() {
        let window = Window::new(1, 100);
        let _full = enters(&window, 1).await.unwrap();
        let waiting = tokio::spawn({
            let window = window.clone();
            async move { window.enter(1).await.is_none() }
        });
        tokio::task::yield_now().await;
        window.close();
        assert!(waiting.await.unwrap());
    }
}
