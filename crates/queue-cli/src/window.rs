//! How much of the input is under way at once. Within it, priority and delay act; beyond it, the file waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// So many lines at once,
pub const MAX_LINES: usize = 10_000;
/// or so many bytes of them.
pub const MAX_BYTES: usize = 64 << 20;

/// Room for lines, by number and by bytes.
#[derive(Debug, Clone)]
pub struct Window {
    lines: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: u32,
    was_full: Arc<watch::Sender<bool>>,
}

/// A line's room, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    _line: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
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
        let bytes = Arc::new(Semaphore::new(max_bytes as usize));
        Self { lines: Arc::new(Semaphore::new(max_lines)), bytes, max_bytes, was_full: Arc::default() }
    }

    /// Waits for room; `None` once the window is closed. A line larger than the whole window waits for all of it.
    pub async fn enter(&self, bytes: usize) -> Option<Slot> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max_bytes);
        if self.lines.available_permits() == 0 || self.bytes.available_permits() < bytes as usize {
            self.was_full.send_if_modified(|was_full| !std::mem::replace(was_full, true));
        }
        let line = Arc::clone(&self.lines).acquire_owned().await.ok()?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?;
        Some(Slot { _line: line, _bytes: bytes })
    }

    /// Whether a line ever had to wait.
    #[must_use]
    pub fn was_full(&self) -> bool {
        *self.was_full.borrow()
    }

    /// Resolves when the first line has to wait.
    pub async fn filled(&self) {
        // An error means that the window is gone, and `self` is one.
        let _ = self.was_full.subscribe().wait_for(|was_full| *was_full).await;
    }

    /// Lets nothing in any more; who waits is told so.
    pub fn close(&self) {
        self.lines.close();
        self.bytes.close();
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
