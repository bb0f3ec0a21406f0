//! Whose turn it is: a consumer asks the shards one after the other, so that none waits behind a full one.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::select_all;
use tokio::time::Instant;

use crate::{specs::Known, wake::Sleeper};

/// Shards that are asked at once.
const AT_ONCE: usize = 8;
/// How soon a shard is asked again whose server did not answer.
pub(crate) const AWAY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Who is asked first.
    first: AtomicUsize,
    /// Whose server did not answer, and when to look again.
    away: Mutex<HashMap<u16, Instant>>,
}

impl Turns {
    /// The shards in the order in which they are to be asked.
    pub(crate) fn order<'a>(&self, known: &'a Known) -> Vec<&'a Known> {
        let parts = known.parts();
        let first = self.first.load(Ordering::Relaxed) % parts.len();
        parts[first..].iter().chain(&parts[..first]).collect()
    }

    /// Whoever comes behind this one is next.
    pub(crate) fn served(&self, shard: &Known) {
        self.first.store(usize::from(shard.place) + 1, Ordering::Relaxed);
    }

    /// There is something in this one.
    pub(crate) fn begin_at(&self, place: usize) {
        self.first.store(place, Ordering::Relaxed);
    }

    fn away(&self) -> MutexGuard<'_, HashMap<u16, Instant>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its server did not answer; true where it did before.
    pub(crate) fn went(&self, shard: &Known) -> bool {
        self.away().insert(shard.place, Instant::now() + AWAY).is_none()
    }

    pub(crate) fn came_back(&self, shard: &Known) {
        self.away().remove(&shard.place);
    }

    /// Whether it may be away, so that it is worth a look first: where another is, it may be on the same server. False while it is too soon to
    /// look again.
    pub(crate) fn may_be_away(&self, shard: &Known) -> Option<bool> {
        let away = self.away();
        let again = away.get(&shard.place);
        (!away.is_empty()).then(|| again.is_none_or(|again| *again <= Instant::now()))
    }
}

/// How many of so many shards are asked at once, and for how many jobs each, that they take no more than there is room for: at first as few as
/// may fill it, then, where these had nothing, as many as there are places.
pub(crate) fn width(room: usize, left: usize, is_first: bool, batch: usize) -> (usize, usize) {
    let most = if is_first { room.div_ceil(batch) } else { room };
    let width = most.clamp(1, left.max(1)).min(AT_ONCE);
    (width, (room / width).clamp(1, batch))
}

/// Waits for one of them to be woken; which.
pub(crate) async fn woken(sleepers: &mut [Sleeper]) -> usize {
    select_all(sleepers.iter_mut().map(|sleeper| Box::pin(sleeper.woken()))).await.1
}
