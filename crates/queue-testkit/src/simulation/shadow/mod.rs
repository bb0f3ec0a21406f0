//! The judge: what the queue must look like, from nothing but the calls that were carried out.
//!
//! It keeps a plain model of every job beside the real thing and compares each answer with it. What it finds is kept as a
//! sentence; one is enough to fail the run.

mod claim;
mod end;
mod publish;
mod runs;
mod settle;
mod steady;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use queue_core::{
    Envelope, JobId, QueueName, Timestamp,
    job::UniqueKey,
    provider::{Disposition, ParkKey, Receipt},
};

use super::{promises::Promises, words};
use crate::checker::End;

pub(super) use end::Truth;

/// When something happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) mono: Duration,
    pub(super) wall: Timestamp,
    /// The latest time that the wall ever showed.
    pub(super) latest: Timestamp,
}

/// What became of the submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Offer {
    /// Not answered (yet): it may be there.
    Unknown,
    Refused,
    Accepted,
}

#[derive(Debug, Clone)]
enum State {
    /// It may be claimed once it is due.
    Waiting,
    Held(Hold),
    Ended(End),
}

#[derive(Debug, Clone)]
struct Hold {
    receipt: Receipt,
    life: u64,
    consumer: u64,
    /// `None`: as long as the session lives.
    until: Option<Duration>,
    /// Its session ended, or may have: it may be given to another.
    shaken: bool,
    /// Its start was to be marked: it may be, whatever was answered.
    starts: bool,
    /// Its start was marked.
    marked: bool,
    /// The broker was killed, and may not have written the claim down.
    forgotten: bool,
    /// It was written down before it was answered.
    noted: bool,
    /// Given out as a redelivery: a mark of its start is written down before it is answered.
    redelivered: bool,
    /// The broker was killed, and may not have written down that it was marked.
    mark_forgotten: bool,
}

#[derive(Debug)]
struct Job {
    queue: QueueName,
    envelope: Envelope,
    offer: Offer,
    /// A former request to publish it was not answered.
    asked_before: bool,
    state: State,
    attempt: u32,
    /// The order of acceptance.
    place: u64,
    /// When it may be claimed, on either clock: where they disagree the later one excuses a delay, and the earlier one a claim.
    due: Due,
    accepted_at: Duration,
    /// When its time to live runs out, as it was offered.
    over_at: Option<Duration>,
    /// Joined the tail once, and was never claimed: its place in line is known.
    fresh: bool,
    parked: Option<ParkKey>,
    cancel: bool,
    /// When that was last answered: what was asked before it need not say so where a call is many steps.
    cancel_since: Duration,
    /// It was asked to stop, and nobody was answered.
    cancel_doubted: bool,
    /// How many wait for the answer to that.
    cancels_under_way: u32,
    /// Started deliveries that ended in a lost lease.
    started_lost: u32,
    /// Of these, so many at least outlive the broker.
    started_kept: u32,
    /// A lease of it was lost since its last settlement.
    orphaned: bool,
    /// Dispositions that were asked for and not answered: each may have taken.
    doubts: Vec<Disposition>,
    claims: u32,
    /// It was there when the broker was killed, and was not claimed since.
    suspect: bool,
    /// Since when it surely has a record: its first claim was answered.
    recorded: Option<Duration>,
    retries: u32,
    releases: u32,
    losses: u32,
    redrives: u32,
    /// How often it was asked for, where a call may fail after it took effect.
    redrives_asked: u32,
    runs: u32,
    /// A time to live that was lifted by a redrive.
    ttl_lifted: bool,
    /// Or was not: where a call is many steps, nobody knows what the wall showed at the one that counts.
    ttl_doubted: bool,
    /// It was asked for twice, at different times, and nobody knows which of them counts.
    blurred: bool,
    /// Another life of it was asked for, and nobody has answered.
    redriving: bool,
    /// That life was seen before its answer.
    reborn: bool,
}

/// When something is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    mono: Duration,
    wall: Option<Timestamp>,
    /// What a broker that begins again makes of it.
    kept: Timestamp,
    /// It may be due then already: a broker that began again counts anew, unless it knew that it was due.
    earliest: Duration,
}

impl Due {
    fn now(at: At) -> Self {
        Self { mono: at.mono, wall: None, kept: at.wall, earliest: Duration::MAX }
    }

    fn after(at: At, delay: Duration) -> Self {
        Self { mono: at.mono + delay, wall: None, kept: at.wall + delay, earliest: Duration::MAX }
    }

    /// The broker began again, and counts from what the wall shows now.
    fn restart(&mut self, at: At) {
        if at.mono < self.mono || at.wall < self.kept {
            let anew = at.mono + at.wall.until(self.kept);
            self.earliest = self.earliest.min(self.mono).min(anew);
            self.mono = anew;
        }
    }

    /// Early by every clock there is.
    fn is_early(self, at: At) -> bool {
        at.mono < self.mono.min(self.earliest) && self.wall.is_none_or(|wall| at.wall < wall)
    }
}

#[derive(Debug)]
struct Consumer {
    life: u64,
    queue: QueueName,
    demand: usize,
    /// Since when a fetch waits, with room for so many.
    fetching: Option<Duration>,
    /// When the last fetch began.
    asked: Duration,
    gone: bool,
}

#[derive(Debug, Default)]
struct Line {
    paused: bool,
    /// It was to be paused, or to run again, and nobody was answered.
    doubted: bool,
    paused_since: Duration,
    /// Since when it runs (again).
    running_since: Duration,
}

#[derive(Debug, Clone)]
struct KeyHold {
    job: JobId,
    /// When its holder was answered.
    since: Duration,
    /// The latest that its window may end.
    until: Option<Duration>,
    /// The earliest: the window began no sooner than its holder was asked for.
    surely: Option<Duration>,
    kept: Option<Timestamp>,
    /// It may hold for longer.
    doubted: bool,
}

/// The judge of one run.
#[derive(Debug)]
pub(super) struct Shadow {
    promises: Promises,
    /// Nothing goes wrong in this run.
    calm: bool,
    jobs: BTreeMap<JobId, Job>,
    keys: BTreeMap<(QueueName, UniqueKey), KeyHold>,
    lines: BTreeMap<QueueName, Line>,
    consumers: BTreeMap<u64, Consumer>,
    next_consumer: u64,
    next_place: u64,
    /// What each receipt was settled as.
    settled: BTreeMap<(JobId, u64, u64), Disposition>,
    /// Where a call is many steps: since when each receipt is being settled. It takes effect some time before the answer.
    asked: BTreeMap<(JobId, u64, u64), Duration>,
    dead_lives: BTreeSet<u64>,
    /// By life and job: how long a worker may believe in its lease.
    believed: BTreeMap<(u64, JobId), Vec<runs::Belief>>,
    running: BTreeSet<(u64, JobId)>,
    leads: BTreeMap<String, runs::Lead>,
    /// When the broker was last killed.
    killed_at: Option<Duration>,
    reachable_since: Duration,
    told: end::Told,
    away: steady::Away,
    cut: steady::Cut,
    copied: steady::Copied,
    wrongs: Vec<String>,
    /// Counted for the report.
    pub(super) claims: u64,
    pub(super) settlements: u64,
}

impl Shadow {
    pub(super) fn new(promises: Promises, calm: bool) -> Self {
        Self {
            promises,
            calm,
            jobs: BTreeMap::new(),
            keys: BTreeMap::new(),
            lines: BTreeMap::new(),
            consumers: BTreeMap::new(),
            next_consumer: 0,
            next_place: 0,
            settled: BTreeMap::new(),
            asked: BTreeMap::new(),
            dead_lives: BTreeSet::new(),
            believed: BTreeMap::new(),
            running: BTreeSet::new(),
            leads: BTreeMap::new(),
            killed_at: None,
            reachable_since: Duration::ZERO,
            told: end::Told::default(),
            away: steady::Away::default(),
            cut: steady::Cut::default(),
            copied: steady::Copied::default(),
            wrongs: Vec::new(),
            claims: 0,
            settlements: 0,
        }
    }

    /// What was found wrong.
    pub(super) fn wrongs(&self) -> &[String] {
        &self.wrongs
    }

    /// More sentences about the same run help nobody.
    const MOST: usize = 12;

    pub(super) fn wrong(&mut self, what: impl Into<String>) {
        if self.wrongs.len() < Self::MOST {
            self.wrongs.push(what.into());
        }
    }

    fn wrong_with(&mut self, job: JobId, what: impl AsRef<str>) {
        let text = format!("{}: {}", words::job(job), what.as_ref());
        self.wrong(text);
    }

    fn line(&mut self, queue: &QueueName) -> &mut Line {
        self.lines.entry(queue.clone()).or_default()
    }

    /// A process is dead: what it holds ends with its session, or with its lease.
    pub(super) fn life_ended(&mut self, _: At, life: u64) {
        self.dead_lives.insert(life);
        for consumer in self.consumers.values_mut().filter(|consumer| consumer.life == life) {
            consumer.gone = true;
            consumer.fetching = None;
        }
        self.running.retain(|(runner, _)| *runner != life);
        self.believed.retain(|(believer, _), _| *believer != life);
        self.shake(|hold| hold.until.is_none() && hold.life == life);
        if self.promises.rebalances {
            self.shake(|hold| hold.until.is_none());
        }
    }

    /// The broker was restarted.
    pub(super) fn restarted(&mut self, at: At) {
        if self.promises.restart_ends_leases {
            return self.killed(at);
        }
        self.shake(|hold| hold.until.is_none());
    }

    /// The broker lost its memory: leases, leaders, watchers, and claims that nobody waited for. What it had answered it
    /// still knows, epochs rise, and waits go on by the wall clock. The first claim since of a job that was there may be of what
    /// killed it: that one it writes down before it hands the job out.
    fn killed(&mut self, at: At) {
        self.killed_at = Some(at.mono);
        self.told.lose();
        self.leads.values_mut().for_each(|lead| lead.end(at));
        for job in self.jobs.values_mut() {
            job.due.restart(at);
            if let State::Held(hold) = &mut job.state {
                hold.shaken = true;
                hold.forgotten |= !hold.noted;
                // A first delivery pays nothing, not even where its claim was written down: nobody waits for its mark.
                hold.mark_forgotten |= !hold.redelivered;
            }
            job.suspect = job.offer == Offer::Accepted;
        }
        for hold in self.keys.values_mut() {
            if let Some((until, kept)) = hold.until.as_mut().zip(hold.kept) {
                // Where it had ended by then, the broker may know or not.
                *until = (*until).min(at.mono + at.wall.until(kept));
                hold.surely = hold.surely.min(Some(*until));
                hold.doubted = true;
            }
        }
    }

    /// The broker's disk refuses: what is asked for then may be done and not answered, and told of later or twice.
    pub(super) fn hindered(&mut self) {
        if self.promises.restart_ends_leases {
            self.told.lose();
        }
    }

    fn shake(&mut self, struck: impl Fn(&Hold) -> bool) {
        for job in self.jobs.values_mut() {
            if let State::Held(hold) = &mut job.state
                && struck(hold)
            {
                hold.shaken = true;
            }
        }
    }

    /// A consumer is open.
    pub(super) fn opened(&mut self, life: u64, queue: &QueueName, demand: usize) -> u64 {
        self.next_consumer += 1;
        let consumer =
            Consumer { life, queue: queue.clone(), demand, fetching: None, asked: Duration::ZERO, gone: false };
        self.consumers.insert(self.next_consumer, consumer);
        if self.promises.rebalances {
            self.shake(|hold| hold.until.is_none());
        }
        self.next_consumer
    }

    pub(super) fn demanded(&mut self, consumer: u64, demand: usize) {
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.demand = demand;
        }
    }

    /// A consumer was closed, or dropped.
    pub(super) fn closed(&mut self, consumer: u64) {
        if let Some(closed) = self.consumers.get_mut(&consumer) {
            closed.gone = true;
            closed.fetching = None;
        }
        if self.promises.rebalances {
            self.shake(|hold| hold.until.is_none());
        }
        self.shake(|hold| hold.until.is_none() && hold.consumer == consumer);
    }

    pub(super) fn fetching(&mut self, consumer: u64, since: Option<Duration>) {
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.fetching = since;
            consumer.asked = since.unwrap_or(consumer.asked);
        }
    }

    pub(super) fn paused(&mut self, at: At, queue: &QueueName, paused: bool) {
        let line = self.line(queue);
        if line.paused && !paused {
            line.running_since = at.mono;
        } else if paused && !line.paused {
            line.paused_since = at.mono;
        }
        (line.paused, line.doubted) = (paused, false);
    }

    pub(super) fn pause_in_doubt(&mut self, queue: &QueueName) {
        self.line(queue).doubted = true;
    }

    /// Nothing could be reached until now, or the broker has only now come up.
    pub(super) fn reachable_again(&mut self, at: At) {
        self.reachable_since = at.mono;
        for consumer in self.consumers.values_mut() {
            if consumer.fetching.is_some() {
                consumer.fetching = Some(at.mono);
            }
        }
    }

    fn holds_of(&self, consumer: u64, counts: impl Fn(&Hold) -> bool) -> usize {
        let held = |job: &&Job| matches!(&job.state, State::Held(hold) if hold.consumer == consumer && counts(hold));
        self.jobs.values().filter(held).count()
    }
}

impl Hold {
    /// Nobody else may have it.
    fn stands(&self, at: At) -> bool {
        !self.shaken && self.until.is_none_or(|until| at.mono < until)
    }
}

impl Job {
    /// Whether an answer to what was asked then must tell of a cancel.
    fn must_tell(&self, asked: Duration, atomic: bool) -> bool {
        self.cancel && (atomic || self.cancel_since < asked)
    }

    /// A redrive gives it more time to live if that was over.
    fn lift_ttl(&mut self, at: At) {
        self.ttl_lifted |= self.envelope.expires_at.is_some_and(|end| end <= at.wall);
    }

    /// What a redrive resets.
    fn begin_again(&mut self, at: At) {
        self.lift_ttl(at);
        (self.started_lost, self.started_kept) = (0, 0);
        self.orphaned = false;
        self.cancel = false;
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// It may be over: as far as anybody was told, or because its time ran out.
    fn may_be_over(&self, at: At) -> bool {
        let doubted = self.cancel_doubted || self.doubts.iter().any(|doubt| End::of(doubt).is_final());
        let cancelled = self.cancels_under_way > 0 || self.cancel && (self.orphaned || !self.stands(at));
        self.is_over() || self.offer != Offer::Accepted || doubted || cancelled || self.may_have_expired(at)
    }

    fn stands(&self, at: At) -> bool {
        matches!(&self.state, State::Held(hold) if hold.stands(at))
    }

    /// By either clock.
    fn may_have_expired(&self, at: At) -> bool {
        let lifted = self.ttl_lifted && !self.ttl_doubted;
        let Some(end) = self.envelope.expires_at.filter(|_| !lifted) else { return false };
        let ttl = self.envelope.created_at.until(end);
        let soon = at.mono + Duration::from_millis(1);
        end <= at.latest
            || self.over_at.is_some_and(|over| over <= soon)
            || self.accepted_at + ttl <= at.mono + Duration::from_millis(1)
    }
}
