//! Which keys have jobs parked under them, and when to look whether there is room.
//!
//! It knows that there is a line, never who stands in it: so a hundred thousand parked jobs are one entry. A line is there from
//! the settlement of a park until an unpark brings fewer jobs than it asked for.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    job::QueueName,
    limit::{Ask, Holder, Need, Room, RunEnd},
    provider::ParkKey,
};

/// So many jobs of a key are unparked at once at most, and are on their way together.
const BATCH: u32 = 256;
/// What is beyond that is given back when its lease ends.
const MOST_OWED: usize = 10_000;
/// So many batches of a key are still known when they are late.
const MOST_LATE: usize = 64;
/// How long an unparked job may take to arrive before its place is given to another; doubled up to the longest while none does.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_PATIENCE: Duration = Duration::from_secs(30);

/// The lines of a scheduler, in this process. The doorkeepers of its workers share them.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    book: Mutex<Book>,
    /// Keys in the book: most often there are none, and nobody takes the lock.
    keys: AtomicUsize,
    /// Doorkeepers sleep here.
    rung: Notify,
    /// Batches that were unparked so far: whoever was fetched before one is none of it.
    batches: AtomicU64,
}

#[derive(Debug, Default)]
struct Book {
    keys: HashMap<ParkKey, Entry>,
    /// When to look at which.
    agenda: BTreeSet<(Duration, ParkKey)>,
    /// How many pools of this process work on a queue.
    attended: HashMap<QueueName, usize>,
    /// Releases that were not answered, [`MOST_OWED`] at most.
    owed: HashMap<Holder, Owed>,
}

/// A release that still has to be told, for as long as the permit stands.
#[derive(Debug)]
struct Owed {
    ask: Ask,
    how: RunEnd,
    until: Duration,
}

#[derive(Debug)]
struct Entry {
    lines: VecDeque<Line>,
    look_at: Option<Duration>,
    /// A doorkeeper looks; `again`: something happened meanwhile.
    looking: bool,
    again: bool,
    /// The last look found no bound at all, as at a closed breaker: nobody has to stand in line.
    open: bool,
    /// There was room for more than one batch.
    more: bool,
    on_their_way: VecDeque<Batch>,
    /// Of these, at the door: they ask, and have no answer yet.
    at_the_door: u32,
    patience: Duration,
}

/// One queue's jobs under a key.
#[derive(Debug)]
struct Line {
    queue: QueueName,
    /// Parks that were settled so far: an unpark that found none says nothing of those that came since.
    parks: u64,
    /// Those that were let go did not arrive in time (its queue is paused, its slots are taken): until then others go first.
    slow_until: Duration,
}

/// What a line gets of some room.
struct Share<'a> {
    line: &'a Line,
    /// Those on their way before.
    out: u32,
    most: u32,
    jobs: u32,
}

/// Jobs that were unparked together and have not arrived.
#[derive(Debug)]
struct Batch {
    queue: QueueName,
    number: u64,
    left: u32,
    /// Then they are late: their room is given to others, but they are still let in.
    until: Duration,
    late: bool,
}

/// Who sees unparked jobs arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrivals {
    /// This process: late ones still stand in their queue, before whoever else of it were let go, so other queues have their
    /// room.
    Here,
    /// This process or another: late ones are taken for gone.
    Anywhere,
    /// Nobody, as no rule makes them ask: none is waited for.
    Unseen,
}

/// What a look is to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) queue: QueueName,
    pub(super) jobs: usize,
    parks: u64,
    batch: u64,
    /// Nobody waits for them to arrive: those behind them may follow at once.
    unseen: bool,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.lock();
        let before = book.next();
        let answer = act(&mut book);
        self.keys.store(book.keys.len(), Ordering::Release);
        let sooner = book.next().is_some_and(|next| before.is_none_or(|before| next < before));
        drop(book);
        if sooner {
            self.rung.notify_one();
        }
        answer
    }

    fn is_empty(&self) -> bool {
        self.keys.load(Ordering::Acquire) == 0
    }

    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// A doorkeeper that leaves passes on what woke it.
    pub(super) fn ring(&self) {
        self.rung.notify_one();
    }

    /// What a job that was fetched just now is to say when it knocks.
    pub(super) fn fetched(&self) -> u64 {
        self.batches.load(Ordering::Acquire)
    }

    /// A job wants to ask for this. `Err`: others wait for that need longer, and it is not its turn.
    pub(super) fn knock(
        &self,
        needs: &[Need],
        queue: &QueueName,
        fetched: u64,
        now: impl FnOnce() -> Duration,
    ) -> Result<Option<Knock<'_>>, usize> {
        if self.is_empty() {
            return Ok(None);
        }
        let now = now();
        let mut knock = Knock { lines: self, keys: Vec::new(), granted: false, now };
        let mut kept_out = None;
        let mut book = self.lock();
        let Book { keys, attended, .. } = &mut *book;
        for (index, need) in needs.iter().enumerate() {
            let Some(entry) = keys.get_mut(&need.key) else { continue };
            entry.forget_late(now);
            if entry.arrive(queue, fetched) {
                knock.keys.push(need.key.clone());
            } else if !entry.open && entry.keeps_others_out(attended) {
                kept_out = kept_out.or(Some(index));
            }
        }
        drop(book);
        match kept_out {
            // It had its turn at one of its keys: were it kept out by another's line, jobs of two crowded keys would go from
            // line to line for ever.
            Some(index) if knock.keys.is_empty() => Err(index),
            _ => Ok(Some(knock)),
        }
    }

    /// A job was parked, as its settlement says, or was found to be.
    pub(super) fn parked(&self, queue: &QueueName, key: &ParkKey, now: Duration) {
        self.with(|book| {
            // While there is a line, whatever makes room leads to a look. Before there was one nobody may have seen what made
            // room between this job's refusal and its park.
            if book.join(queue, key) {
                book.look_at(key, now);
            }
        });
    }

    /// What was held under these keys is free.
    pub(super) fn freed(&self, needs: &[Need], now: impl FnOnce() -> Duration) {
        if self.is_empty() {
            return;
        }
        let now = now();
        self.with(|book| {
            for need in needs {
                book.look_at(&need.key, now);
            }
        });
    }

    /// The rules changed.
    pub(crate) fn look_everywhere(&self, now: Duration) {
        self.with(|book| {
            let keys: Vec<_> = book.keys.keys().cloned().collect();
            for key in keys {
                book.look_at(&key, now);
            }
        });
    }

    /// A pool begins to work on the queue: its lines are looked at.
    pub(super) fn attend(&self, queue: &QueueName, now: Duration) {
        self.with(|book| {
            *book.attended.entry(queue.clone()).or_default() += 1;
            let of_queue = |entry: &Entry| entry.lines.iter().any(|line| line.queue == *queue);
            let keys: Vec<_> =
                book.keys.iter().filter(|(_, entry)| of_queue(entry)).map(|(key, _)| key.clone()).collect();
            for key in keys {
                book.look_at(&key, now);
            }
        });
    }

    /// A pool leaves the queue. Its lines are left to whoever comes.
    pub(super) fn leave(&self, queue: &QueueName) {
        self.with(|book| {
            if let Some(pools) = book.attended.get_mut(queue) {
                *pools -= 1;
                if *pools == 0 {
                    book.attended.remove(queue);
                }
            }
        });
    }

    /// Keys whose time has come, for the caller to look at: it must tell of each by [`Self::looked`].
    pub(super) fn take_due(&self, now: Duration, most: usize) -> Vec<ParkKey> {
        if self.is_empty() {
            return Vec::new();
        }
        self.with(|book| {
            let mut due = Vec::new();
            while due.len() < most
                && let Some((at, _)) = book.agenda.first()
                && *at <= now
                && let Some((_, key)) = book.agenda.pop_first()
            {
                if let Some(entry) = book.keys.get_mut(&key) {
                    entry.look_at = None;
                    entry.looking = true;
                    due.push(key);
                }
            }
            due
        })
    }

    /// When to look next.
    pub(super) fn next_look(&self) -> Option<Duration> {
        self.lock().next()
    }

    /// How many to unpark from which queues, where there is so much room: these count as on their way from now on.
    pub(super) fn plan(&self, key: &ParkKey, room: Room, arrivals: Arrivals, now: Duration) -> Vec<Plan> {
        self.with(|book| {
            let Book { keys, attended, .. } = book;
            let Some(entry) = keys.get_mut(key) else { return Vec::new() };
            entry.forget_late(now);
            entry.open = room.free == u32::MAX;
            let room = room.free.saturating_sub(entry.under_way());
            let jobs = room.min(BATCH.saturating_sub(entry.under_way()));
            entry.more = room > jobs;
            let plans = entry.share(jobs, attended, arrivals, now, || self.batches.fetch_add(1, Ordering::AcqRel) + 1);
            if arrivals == Arrivals::Unseen {
                return plans;
            }
            let until = now.saturating_add(entry.patience);
            entry.on_their_way.extend(plans.iter().map(|plan| {
                let left = u32::try_from(plan.jobs).unwrap_or(u32::MAX);
                Batch { queue: plan.queue.clone(), number: plan.batch, left, until, late: false }
            }));
            plans
        })
    }

    /// So many of the plan were unparked: fewer than planned means that the line is at its end.
    pub(super) fn unparked(&self, key: &ParkKey, plan: &Plan, jobs: usize) {
        self.with(|book| {
            let Some(entry) = book.keys.get_mut(key) else { return };
            let missing = plan.jobs.saturating_sub(jobs);
            if missing == 0 {
                // Only now: a provider that refuses would be asked without end.
                entry.again |= plan.unseen;
                return;
            }
            entry.lines.retain(|line| line.queue != plan.queue || line.parks != plan.parks);
            // The rest of the room is for others.
            entry.again |= !entry.lines.is_empty();
            if let Some(batch) = entry.on_their_way.iter_mut().find(|batch| batch.number == plan.batch) {
                batch.left = batch.left.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX));
            }
            entry.on_their_way.retain(|batch| batch.left > 0);
        });
    }

    /// A look is over; the next one is due then, unless something happened meanwhile.
    pub(super) fn looked(&self, key: &ParkKey, now: Duration, next: Duration) {
        self.with(|book| {
            let Book { keys, attended, .. } = book;
            let Some(entry) = keys.get_mut(key) else { return };
            entry.looking = false;
            if entry.lines.is_empty() && entry.under_way() == 0 && !entry.again {
                // Late ones find nobody here, and ask like everyone.
                keys.remove(key);
                return;
            }
            let again = std::mem::take(&mut entry.again);
            let overdue = entry.on_their_way.iter().filter(|batch| !batch.late).map(|batch| batch.until).min();
            // Whoever attends a queue looks at its lines first.
            let idle = entry.under_way() == 0 && !entry.is_attended(attended);
            let next = next.min(overdue.unwrap_or(Duration::MAX));
            match (again, idle) {
                (true, _) => book.look_at(key, now),
                (false, true) => {}
                (false, false) => book.look_at(key, next),
            }
        });
    }

    /// A release that was not answered is told again, until the lease of what it holds has ended.
    pub(super) fn owe(&self, ask: Ask, how: RunEnd, until: Duration) {
        let mut book = self.lock();
        if book.owed.len() < MOST_OWED {
            book.owed.insert(ask.holder, Owed { ask, how, until });
            drop(book);
            self.rung.notify_one();
        }
    }

    /// What has to be told still, `most` of it.
    pub(super) fn owed(&self, now: Duration, most: usize) -> Vec<(Ask, RunEnd)> {
        let mut book = self.lock();
        book.owed.retain(|_, owed| owed.until > now);
        book.owed.values().take(most).map(|owed| (owed.ask.clone(), owed.how)).collect()
    }

    pub(super) fn paid(&self, told: &[(Ask, RunEnd)]) {
        let mut book = self.lock();
        for (ask, _) in told {
            book.owed.remove(&ask.holder);
        }
    }
}

impl Book {
    fn next(&self) -> Option<Duration> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// `true` where the line was not known.
    fn join(&mut self, queue: &QueueName, key: &ParkKey) -> bool {
        let entry = self.keys.entry(key.clone()).or_insert_with(Entry::new);
        match entry.lines.iter_mut().find(|line| line.queue == *queue) {
            Some(line) => {
                line.parks += 1;
                false
            }
            None => {
                entry.lines.push_back(Line { queue: queue.clone(), parks: 1, slow_until: Duration::ZERO });
                true
            }
        }
    }

    /// Not later than it is due anyway.
    fn look_at(&mut self, key: &ParkKey, at: Duration) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        if entry.looking {
            entry.again = true;
            return;
        }
        if let Some(earlier) = entry.look_at {
            if earlier <= at {
                return;
            }
            self.agenda.remove(&(earlier, key.clone()));
        }
        entry.look_at = Some(at);
        self.agenda.insert((at, key.clone()));
    }
}

impl Entry {
    const fn new() -> Self {
        Self {
            lines: VecDeque::new(),
            look_at: None,
            looking: false,
            again: false,
            open: false,
            more: false,
            on_their_way: VecDeque::new(),
            at_the_door: 0,
            patience: FIRST_PATIENCE,
        }
    }

    /// Whose room is kept.
    fn under_way(&self) -> u32 {
        self.at_the_door + self.on_their_way.iter().filter(|batch| !batch.late).map(|batch| batch.left).sum::<u32>()
    }

    fn is_attended(&self, attended: &HashMap<QueueName, usize>) -> bool {
        self.lines.iter().any(|line| attended.contains_key(&line.queue))
    }

    fn keeps_others_out(&self, attended: &HashMap<QueueName, usize>) -> bool {
        self.on_their_way.iter().any(|batch| !batch.late) || self.is_attended(attended)
    }

    /// The room of those that did not arrive in time is for others: someone else may have run them, or cancelled them, or they
    /// wait behind something else.
    fn forget_late(&mut self, now: Duration) {
        let mut any = false;
        for batch in self.on_their_way.iter_mut().filter(|batch| !batch.late && batch.until <= now) {
            batch.late = true;
            any = true;
            if let Some(line) = self.lines.iter_mut().find(|line| line.queue == batch.queue) {
                line.slow_until = now.saturating_add(self.patience);
            }
        }
        if any {
            self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
            let late = self.on_their_way.iter().filter(|batch| batch.late).count();
            for _ in MOST_LATE..late {
                if let Some(oldest) = self.on_their_way.iter().position(|batch| batch.late) {
                    self.on_their_way.remove(oldest);
                }
            }
        }
    }

    /// Whether it is one of those that were unparked.
    fn arrive(&mut self, queue: &QueueName, fetched: u64) -> bool {
        if let Some(line) = self.lines.iter_mut().find(|line| line.queue == *queue) {
            line.slow_until = Duration::ZERO;
        }
        let is_it = |batch: &Batch| batch.number <= fetched && batch.queue == *queue;
        let Some(index) = self.on_their_way.iter().position(is_it) else { return false };
        let Some(batch) = self.on_their_way.get_mut(index) else { return false };
        batch.left -= 1;
        if batch.left == 0 {
            self.on_their_way.remove(index);
        }
        self.at_the_door += 1;
        self.patience = FIRST_PATIENCE;
        true
    }

    /// Shares the room among the queues that somebody works on: each next job from the one of which the fewest are on their way,
    /// and in turn.
    fn share(
        &mut self,
        jobs: u32,
        attended: &HashMap<QueueName, usize>,
        arrivals: Arrivals,
        now: Duration,
        mut number: impl FnMut() -> u64,
    ) -> Vec<Plan> {
        let batches = &self.on_their_way;
        let count = |queue: &QueueName, which: &dyn Fn(&Batch) -> bool| {
            let batches = batches.iter().filter(|batch| batch.queue == *queue && which(batch));
            batches.map(|batch| batch.left).sum::<u32>()
        };
        let stands = |batch: &Batch| {
            batch.late && arrivals == Arrivals::Here && now < batch.until.saturating_add(LONGEST_PATIENCE)
        };
        let mut shares: Vec<Share<'_>> = Vec::new();
        for line in self.lines.iter().filter(|line| attended.contains_key(&line.queue)) {
            let most = jobs.saturating_sub(count(&line.queue, &stands));
            shares.push(Share { line, out: count(&line.queue, &|batch| !batch.late), most, jobs: 0 });
        }
        if shares.iter().any(|share| share.line.slow_until <= now) {
            shares.retain(|share| share.line.slow_until <= now);
        }
        for _ in 0..jobs {
            let open = shares.iter_mut().filter(|share| share.jobs < share.most);
            let Some(share) = open.min_by_key(|share| share.out) else { break };
            share.out += 1;
            share.jobs += 1;
        }
        let mut plan = |share: &Share<'_>| {
            let Line { queue, parks, .. } = share.line;
            let unseen = arrivals == Arrivals::Unseen;
            Plan { queue: queue.clone(), jobs: share.jobs as usize, parks: *parks, batch: number(), unseen }
        };
        let plans: Vec<Plan> = shares.iter().filter(|share| share.jobs > 0).map(&mut plan).collect();
        // Who got the least is the first the next time.
        let got = |line: &Line| plans.iter().find(|plan| plan.queue == line.queue).map_or(0, |plan| plan.jobs);
        self.lines.make_contiguous().sort_by_key(got);
        plans
    }
}

/// A job at the door. Dropped when its ask was answered, however.
#[derive(Debug)]
pub(super) struct Knock<'a> {
    lines: &'a Lines,
    /// Under which it was expected.
    keys: Vec<ParkKey>,
    /// What it was expected for it took.
    pub(super) granted: bool,
    now: Duration,
}

impl Drop for Knock<'_> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        self.lines.with(|book| {
            for key in &self.keys {
                let Some(entry) = book.keys.get_mut(key) else { continue };
                entry.at_the_door = entry.at_the_door.saturating_sub(1);
                let left = entry.under_way();
                // Nobody else is coming, or its room is left over, or there is room for more than were on their way.
                if left == 0 || !self.granted || (entry.more && left <= BATCH / 2) {
                    book.look_at(key, self.now);
                }
            }
        });
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
