//! The places of a pool: some with a process, some waiting for one.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use super::{child::Child, near};
use crate::{error::StartError, program::Program};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A place for a process. Dropping it kills the process.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) child: Option<Box<Child>>,
    /// How many processes of this seat broke in a row, and until when the next one waits for it.
    broken: u32,
    not_before: Option<Instant>,
}

/// Each on a line of its own, or a processor that takes its seat would take the next one's from its cache.
#[derive(Debug, Default)]
#[repr(align(128))]
struct AtHand(Mutex<Option<Seat>>);

impl AtHand {
    fn seat(&self) -> MutexGuard<'_, Option<Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for a permit.
#[derive(Debug)]
pub(super) struct Seeking<'a>(&'a Seats);

impl Drop for Seeking<'_> {
    fn drop(&mut self) {
        self.0.seekers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
pub(super) struct Seats {
    pub(super) program: Program,
    /// Whoever holds a permit finds a seat.
    pub(super) permits: Semaphore,
    idle: Mutex<Vec<Seat>>,
    /// Seats that are kept with their permits where they were used last, one for each processor.
    at_hand: Box<[AtHand]>,
    /// How many wait for a permit: while there are any, nothing is kept from them.
    seekers: AtomicUsize,
    /// Processes that have had their jobs and are to leave.
    leaving: Mutex<Vec<Child>>,
    /// Rung when there is something to tend.
    pub(super) bell: Notify,
    started: AtomicU64,
    broke: AtomicU64,
    /// Once it could not be started, for a reason that does not pass.
    unstartable: AtomicBool,
}

impl Seats {
    pub(super) fn new(program: Program, size: usize) -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self {
            program,
            permits: Semaphore::new(size),
            at_hand: (0..processors).map(|_| AtHand::default()).collect(),
            seekers: AtomicUsize::new(0),
            idle: Mutex::new((0..size).map(|_| Seat::default()).collect()),
            leaving: Mutex::default(),
            bell: Notify::new(),
            started: AtomicU64::new(0),
            broke: AtomicU64::new(0),
            unstartable: AtomicBool::new(false),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Seat>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat with a process, and its permit: the one that is at hand here, else one that nobody uses. `None` where every one
    /// is in use or has no process.
    pub(super) fn take_ready(&self) -> Option<Seat> {
        if let Some(seat) = self.here().seat().take() {
            return Some(seat);
        }
        let elsewhere = || self.at_hand.iter().find_map(|at_hand| at_hand.seat().take());
        let Ok(permit) = self.permits.try_acquire() else { return elsewhere() };
        match self.take_idle() {
            Some(seat) => {
                permit.forget();
                Some(seat)
            }
            None => {
                drop(permit);
                elsewhere()
            }
        }
    }

    fn here(&self) -> &AtHand {
        &self.at_hand[near::here() % self.at_hand.len()]
    }

    /// Keeps a seat and its permit for the next job of this processor. Were they given to all, each job would pay for taking
    /// them from other processors' caches.
    pub(super) fn keep_at_hand(&self, seat: Seat) {
        if seat.child.is_none() || self.seekers.load(Ordering::SeqCst) > 0 {
            return self.give_back(seat);
        }
        let here = self.here();
        let other = here.seat().replace(seat);
        other.into_iter().for_each(|other| self.give_back(other));
        // Whoever began to wait meanwhile may have looked before it was here.
        if self.seekers.load(Ordering::SeqCst) > 0 {
            self.clear_hands();
        }
    }

    /// A seat and its permit, for anybody.
    pub(super) fn give_back(&self, seat: Seat) {
        self.put_back(seat);
        self.permits.add_permits(1);
    }

    /// Whoever is to wait for a permit says so first, until it has it.
    pub(super) fn seek(&self) -> Seeking<'_> {
        self.seekers.fetch_add(1, Ordering::SeqCst);
        self.clear_hands();
        Seeking(self)
    }

    /// Keeps none at hand.
    pub(super) fn clear_hands(&self) {
        for at_hand in &self.at_hand {
            let seat = at_hand.seat().take();
            seat.into_iter().for_each(|seat| self.give_back(seat));
        }
    }

    /// A seat with a process that is kept on this processor, else the one that was used last.
    fn take_idle(&self) -> Option<Seat> {
        let here = near::here();
        let mut idle = self.idle();
        let is_here = |seat: &Seat| seat.child.as_ref().is_some_and(|child| child.is_at(here));
        let last = idle.len().checked_sub(1)?;
        let at = match is_here(&idle[last]) {
            true => last,
            false => idle.iter().rposition(is_here).or_else(|| idle.iter().rposition(|seat| seat.child.is_some()))?,
        };
        Some(idle.remove(at))
    }

    /// The seat with a process that was used last, else the one that has waited longest for a new one. For whoever holds a
    /// permit.
    pub(super) fn take(&self) -> Option<Seat> {
        let mut idle = self.idle();
        match idle.last() {
            Some(last) if last.child.is_some() => idle.pop(),
            Some(_) => {
                let with_child = idle.iter().rposition(|seat| seat.child.is_some());
                let soonest = || (0..idle.len()).min_by_key(|at| idle[*at].not_before);
                let at = with_child.or_else(soonest)?;
                Some(idle.remove(at))
            }
            None => None,
        }
    }

    /// A seat that is to get a process now. For whoever holds a permit.
    pub(super) fn take_empty(&self) -> Option<Seat> {
        let now = Instant::now();
        let mut idle = self.idle();
        let at = idle.iter().position(|seat| seat.child.is_none() && seat.not_before.is_none_or(|time| time <= now))?;
        Some(idle.remove(at))
    }

    pub(super) fn put_back(&self, seat: Seat) {
        self.idle().push(seat);
    }

    /// When the next empty seat may get a process.
    pub(super) fn next_start(&self) -> Option<Instant> {
        let idle = self.idle();
        let empty = idle.iter().filter(|seat| seat.child.is_none());
        empty.map(|seat| seat.not_before.unwrap_or_else(Instant::now)).min()
    }

    /// Takes out the processes that ended while nobody asked them anything.
    pub(super) fn take_dead(&self) -> Vec<Child> {
        let mut idle = self.idle();
        let mut dead = Vec::new();
        for seat in idle.iter_mut() {
            if seat.child.as_mut().is_some_and(|child| child.is_dead()) {
                self.broke.fetch_add(1, Ordering::Relaxed);
                seat.has_broken();
                dead.extend(seat.child.take().map(|child| *child));
            }
        }
        dead
    }

    /// Everything there is, for the end.
    pub(super) fn take_all(&self) -> Vec<Child> {
        self.clear_hands();
        let idle = std::mem::take(&mut *self.idle());
        idle.into_iter().filter_map(|seat| seat.child.map(|child| *child)).chain(self.take_leaving()).collect()
    }

    pub(super) fn take_leaving(&self) -> Vec<Child> {
        std::mem::take(&mut *self.leaving.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets a process leave in its own time.
    pub(super) fn retire(&self, child: Child) {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        self.bell.notify_one();
    }

    /// Starts a process for a seat that has none.
    pub(super) fn fill(&self, seat: &mut Seat) -> Result<(), StartError> {
        self.started.fetch_add(1, Ordering::Relaxed);
        let child = Child::start(&self.program);
        if let Err(error) = &child {
            self.unstartable.fetch_or(!error.is_transient(), Ordering::Relaxed);
            self.empty(seat, true);
        }
        seat.child = Some(Box::new(child?));
        Ok(())
    }

    /// Takes a seat's process away, which kills it.
    pub(super) fn empty(&self, seat: &mut Seat, broken: bool) {
        seat.child = None;
        if broken {
            self.broke.fetch_add(1, Ordering::Relaxed);
            seat.has_broken();
        }
        self.bell.notify_one();
    }

    pub(super) fn was_unstartable(&self) -> bool {
        self.unstartable.load(Ordering::Relaxed)
    }

    /// How many processes were started, and how many of them broke.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.started.load(Ordering::Relaxed), self.broke.load(Ordering::Relaxed))
    }
}

impl Seat {
    /// When its next process may start.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    pub(super) fn has_answered(&mut self) {
        (self.broken, self.not_before) = (0, None);
    }

    /// The first time it gets another process at once: one job's crash is to hold up no other.
    fn has_broken(&mut self) {
        let pause = match self.broken {
            0 => Duration::ZERO,
            before => FIRST_PAUSE.saturating_mul(1 << (before - 1).min(10)).min(LONGEST_PAUSE),
        };
        self.broken = self.broken.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seat_whose_processes_break_waits_longer_each_time() {
        let mut seat = Seat::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            seat.has_broken();
            pauses.push(seat.not_before().unwrap().saturating_duration_since(Instant::now()).as_millis());
        }
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        seat.has_answered();
        assert_eq!((seat.broken, seat.not_before), (0, None));
    }

    #[tokio::test]
    async fn a_seat_with_a_process_comes_first_then_the_one_that_waited_longest() {
        let seats = Seats::new(Program::new("cat"), 3);
        let mut all: Vec<Seat> = (0..3).map(|_| seats.take().unwrap()).collect();
        assert!(seats.take().is_none());
        all[0].has_broken();
        all[0].has_broken();
        all[1].has_broken();
        seats.fill(&mut all[2]).unwrap();
        let [slow, soon, ready]: [Seat; 3] = all.try_into().unwrap();
        [ready, slow, soon].into_iter().for_each(|seat| seats.put_back(seat));
        assert!(seats.take().unwrap().child.is_some());
        assert_eq!(seats.take().unwrap().broken, 1);
        assert_eq!(seats.take().unwrap().broken, 2);
        assert_eq!(seats.counts(), (1, 0));
    }

    #[tokio::test]
    async fn a_seat_is_kept_at_hand_until_somebody_waits_for_one() {
        let seats = Seats::new(Program::new("cat"), 1);
        let free = || seats.permits.available_permits();
        let mut seat = seats.take().unwrap();
        seats.permits.try_acquire().unwrap().forget();
        assert!(seats.take_ready().is_none());
        seats.fill(&mut seat).unwrap();
        for _ in 0..3 {
            seats.keep_at_hand(seat);
            assert_eq!(free(), 0);
            seat = seats.take_ready().unwrap();
        }
        seats.keep_at_hand(seat);
        let seeking = seats.seek();
        assert_eq!(free(), 1);
        let mut seat = seats.take_ready().unwrap();
        assert_eq!(free(), 0);
        seats.keep_at_hand(seat);
        assert_eq!(free(), 1, "somebody waits");
        drop(seeking);
        seat = seats.take_ready().unwrap();
        seats.empty(&mut seat, false);
        seats.keep_at_hand(seat);
        assert_eq!((seats.take_ready().is_some(), free()), (false, 1), "without a process it is nobody's");
    }
}
