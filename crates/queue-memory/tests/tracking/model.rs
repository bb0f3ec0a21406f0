//! A transport that repeats and forgets its acknowledgements, workers and publishers that die between any two steps, and a
//! small reference of what must hold: nothing lost, nothing run by two, nothing ended twice, attempts as they were settled;
//! in memory, and on a disk that the store is closed on, or dies on, every now and then.

use std::collections::BTreeMap;

use queue_core::{clock::Random as _, clock::SeededRandom, provider::Cancel, store::CancelOutcome};

use super::*;

const STEPS: usize = 4_000;
const SEEDS: u64 = 12;
const PARK: Duration = Duration::from_secs(500);

/// What the reference knows of a job.
#[derive(Debug, Default)]
struct Known {
    retries: u32,
    ended: Option<JobState>,
    /// The newest claim, and until when its worker may believe in it.
    holder: Option<(Fence, Timestamp)>,
    stop: bool,
    /// The newest copy that somebody was given to publish.
    newest: u32,
    /// Somebody besides its first publisher has been given it.
    shared: bool,
    /// Until when it waits for its key.
    parked: Option<Timestamp>,
    /// The process died while it was held: whether the claim was on disk is not known.
    orphaned: bool,
    /// A claim of it was lost, and all who had it since gave it back unstarted.
    lost: bool,
    /// Whether that is so is not known.
    unsure: bool,
}

#[derive(Debug)]
struct Worker {
    fence: Fence,
    copy: Envelope,
}

struct World {
    bed: Bed,
    random: SeededRandom,
    known: BTreeMap<JobId, Known>,
    /// Copies that the transport will deliver, again and again until one is acknowledged.
    travelling: Vec<Envelope>,
    workers: Vec<Worker>,
    /// Staged by publishers that take their time.
    slow: Vec<Envelope>,
    runs: usize,
}

impl World {
    fn new(seed: u64, bed: Bed) -> Self {
        Self {
            bed,
            random: SeededRandom::new(seed),
            known: BTreeMap::new(),
            travelling: Vec::new(),
            workers: Vec::new(),
            slow: Vec::new(),
            runs: 0,
        }
    }

    fn below(&self, n: usize) -> usize {
        usize::try_from(self.random.next_u64() % n as u64).unwrap()
    }

    /// Somebody dies here.
    fn dies(&self) -> bool {
        self.below(8) == 0
    }

    fn now(&self) -> Timestamp {
        self.bed.env.now()
    }

    async fn submit(&mut self) {
        let delay = [None, None, Some(seconds(20)), Some(seconds(200))][self.below(4)];
        let key = (self.below(3) == 0).then(|| format!("key {}", self.below(4)));
        let job = self.bed.job_with(|job| {
            job.not_before = delay.map(|delay| job.created_at + delay);
            job.unique = key.as_deref().and_then(|key| unique(key, None));
        });
        let outcome = if delay.is_some() && self.below(2) == 0 {
            self.bed.hold(&job, seconds(15)).await
        } else {
            self.bed.stage(&job).await
        };
        match outcome {
            StageOutcome::Staged => {}
            StageOutcome::Duplicate { existing } => {
                assert!(self.known[&existing.id].ended.is_none(), "a finished job holds no key");
                return;
            }
            other => panic!("{other:?}"),
        }
        self.known.insert(job.id, Known::default());
        if self.below(4) == 0 {
            self.slow.push(job);
        } else {
            self.publish(job).await;
        }
    }

    /// A slow publisher goes on, or is refused by the transport.
    async fn go_on(&mut self) {
        if self.slow.is_empty() {
            return;
        }
        let job = self.slow.swap_remove(self.below(self.slow.len()));
        if self.below(2) == 0 {
            self.publish(job).await;
        } else if self.bed.unstage(&job).await {
            let known = self.known.remove(&job.id).unwrap();
            assert!(!known.shared && known.ended.is_none(), "taken back from under others");
        }
    }

    /// A copy was given out for publication.
    fn given(&mut self, copy: &Envelope) {
        let job = self.known.get_mut(&copy.id).unwrap();
        assert!(copy.generation > job.newest || job.parked.is_none(), "the copy from before the park may still travel");
        assert!(copy.generation >= job.newest);
        job.newest = copy.generation;
        job.shared = true;
        job.parked = None;
    }

    /// Publishes what is staged, and may die before or after, or publish twice.
    async fn publish(&mut self, copy: Envelope) {
        if self.dies() {
            return;
        }
        self.travelling.push(copy.clone());
        if self.dies() {
            self.travelling.push(copy.clone());
        }
        if !self.dies() {
            self.bed.confirm(&copy).await;
        }
    }

    async fn deliver(&mut self) {
        if self.travelling.is_empty() {
            return;
        }
        let at = self.below(self.travelling.len());
        let copy = self.travelling[at].clone();
        match self.bed.claim(&copy).await {
            Verdict::Run { fence, attempt, redelivered, .. } => {
                let now = self.now();
                let job = self.known.get_mut(&copy.id).expect("only what was accepted runs");
                assert_eq!(job.ended, None, "it is over");
                assert_eq!(attempt, 1 + job.retries);
                assert_eq!(copy.generation, job.newest, "an outdated copy runs");
                assert!(job.parked.take().is_none_or(|until| until <= now), "it waits for its key");
                job.shared = true;
                job.unsure |= std::mem::take(&mut job.orphaned);
                job.lost |= job.holder.is_some();
                assert!(job.unsure || redelivered == job.lost, "claimed before and never settled");
                if let Some((_, until)) = job.holder {
                    assert!(until <= now, "two live fences for one job");
                }
                job.holder = Some((fence, now + LEASE));
                self.workers.push(Worker { fence, copy });
                self.runs += 1;
            }
            Verdict::Drop => {
                let stops = self.known.get(&copy.id).is_some_and(|job| job.stop && job.ended.is_none());
                if stops {
                    let state = self.bed.state(&copy).await;
                    if state == JobState::Cancelled {
                        self.end(copy.id, state);
                    }
                }
                self.travelling.remove(at);
            }
            Verdict::Busy { remaining } => assert!(!remaining.is_zero()),
            Verdict::Unknown(error) => panic!("{error}"),
        }
    }

    fn end(&mut self, id: JobId, state: JobState) {
        let job = self.known.get_mut(&id).unwrap();
        assert_eq!(job.ended, None, "ended twice");
        job.ended = Some(state);
        job.holder = None;
    }

    fn pick_worker(&self) -> Option<usize> {
        (!self.workers.is_empty()).then(|| self.below(self.workers.len()))
    }

    async fn beat(&mut self) {
        let Some(at) = self.pick_worker() else { return };
        let fence = self.workers[at].fence;
        let now = self.now();
        let outcome = self.bed.beat(fence, |_| ()).await;
        let job = self.known.get_mut(&fence.id).unwrap();
        let holds = job.holder.is_some_and(|(holder, _)| holder == fence);
        assert_eq!(matches!(outcome, BeatOutcome::Held(_)), holds, "{outcome:?}");
        if holds {
            job.holder = Some((fence, now + LEASE));
        } else {
            self.workers.remove(at);
        }
    }

    async fn finish(&mut self) {
        let Some(at) = self.pick_worker() else { return };
        let Worker { fence, copy } = self.workers.remove(at);
        if self.dies() {
            return;
        }
        let after = [Duration::ZERO, seconds(5), seconds(90)][self.below(3)];
        let (disposition, by_copy) = match self.below(7) {
            0 => (retry(after), true),
            1 => (retry(after), false),
            2 => (release(after), false),
            3 => (park("key", PARK), false),
            4 => (Disposition::DeadLetter { error: failed() }, false),
            _ => (done(), false),
        };
        let next = by_copy.then(|| successor(&copy));
        let then = FollowUp {
            queue: queue(),
            envelope: self.bed.job_with(|job| job.id = JobId::derive(&copy.id.as_bytes()[..], 0)),
        };
        let then: Vec<FollowUp> = Some(then).filter(|_| copy.id.created_at().is_some()).into_iter().collect();
        let now = self.now();
        let outcome = self.bed.settle_with(fence, disposition.clone(), next.clone(), then.clone()).await;
        let job = self.known.get_mut(&fence.id).unwrap();
        let holds = job.holder.is_some_and(|(holder, _)| holder == fence);
        assert_eq!(matches!(outcome, SettleOutcome::Settled), holds, "{outcome:?}");
        if !holds {
            return;
        }
        job.holder = None;
        // Nobody here marks a start.
        if !matches!(disposition, Disposition::Release { .. } | Disposition::Park { .. }) {
            (job.lost, job.unsure) = (false, false);
        }
        let repeated = self.bed.settle_with(fence, disposition.clone(), next.clone(), then.clone()).await;
        assert!(matches!(repeated, SettleOutcome::AlreadySettled), "{repeated:?}");
        let ended = match &disposition {
            Disposition::Complete { .. } => Some(JobState::Completed),
            Disposition::DeadLetter { .. } => Some(JobState::Dead),
            _ if job.stop => Some(JobState::Cancelled),
            Disposition::Retry { .. } => {
                job.retries += 1;
                None
            }
            Disposition::Park { .. } => {
                job.parked = Some(now + PARK);
                None
            }
            _ => None,
        };
        if let Some(next) = next.as_ref().filter(|_| ended.is_none()) {
            job.newest = next.generation;
        }
        let copy_ends = ended.is_some() || by_copy || matches!(disposition, Disposition::Park { .. });
        if let Some(state) = ended {
            self.end(fence.id, state);
        }
        for follow_up in then {
            self.known.entry(follow_up.envelope.id).or_default();
            self.publish(follow_up.envelope).await;
        }
        if let Some(next) = next {
            self.publish(next).await;
        }
        if copy_ends && !self.dies() {
            self.acknowledge(&copy);
        }
    }

    fn acknowledge(&mut self, copy: &Envelope) {
        if let Some(at) = self.travelling.iter().position(|other| other == copy) {
            self.travelling.remove(at);
        }
    }

    async fn sweep(&mut self) {
        let copies = self.bed.store.due(&everything(), true, 1 + self.below(5), STAGE).await.unwrap();
        for copy in copies {
            self.given(&copy.envelope);
            self.publish(copy.envelope).await;
        }
    }

    async fn unpark(&mut self) {
        let key = ParkKey("key".into());
        for copy in self.bed.store.unpark(&everything(), &key, 2, STAGE).await.unwrap() {
            self.given(&copy.envelope);
            self.publish(copy.envelope).await;
        }
    }

    async fn cancel(&mut self) {
        let at = self.below(self.known.len().max(1));
        let Some(id) = self.known.keys().nth(at).copied() else { return };
        let job = JobRef::new(queue(), id);
        match self.bed.store.cancel(&[job], &Cancel::by("model")).await.remove(0).unwrap() {
            CancelOutcome::Cancelled => self.end(id, JobState::Cancelled),
            CancelOutcome::Requested => self.known.get_mut(&id).unwrap().stop = true,
            CancelOutcome::AlreadyTerminal => assert!(self.known[&id].ended.is_some()),
            CancelOutcome::NotFound => panic!("it was accepted"),
        }
    }

    async fn step(&mut self) {
        match self.below(20) {
            0..=2 => self.submit().await,
            3..=8 => self.deliver().await,
            9 | 10 => self.beat().await,
            11..=14 => self.finish().await,
            15 | 16 => self.sweep().await,
            17 if self.below(2) == 0 => self.unpark().await,
            17 => self.go_on().await,
            18 if self.below(4) == 0 => self.cancel().await,
            _ => pass(Duration::from_millis(self.below(5_000) as u64)).await,
        }
    }

    /// The store is closed and opened again, or all of the process dies.
    #[cfg(feature = "journal")]
    async fn restart(&mut self) {
        let dies = self.below(3) > 0;
        self.bed.reopen(dies).await;
        let now = self.now();
        for job in self.known.values_mut() {
            match &mut job.holder {
                Some((_, until)) if dies => (job.orphaned, *until) = (true, now),
                Some((_, until)) if !job.orphaned => *until = now + LEASE,
                // Its worker is gone.
                Some(_) | None => {}
            }
        }
        if dies {
            self.workers.clear();
            self.slow.clear();
        }
    }

    /// Everybody lives from here on: what was accepted must come to its end.
    async fn drain(&mut self) {
        self.slow.clear();
        for _ in 0..200 {
            pass(seconds(40)).await;
            for copy in self.bed.due_and_dead().await {
                self.travelling.push(copy.envelope.clone());
                self.bed.confirm(&copy.envelope).await;
            }
            for copy in std::mem::take(&mut self.travelling) {
                match self.bed.claim(&copy).await {
                    Verdict::Run { fence, attempt, .. } => {
                        assert_eq!(attempt, 1 + self.known[&copy.id].retries);
                        assert!(matches!(self.bed.settle(fence, done()).await, SettleOutcome::Settled));
                        self.end(copy.id, JobState::Completed);
                    }
                    Verdict::Drop => {}
                    Verdict::Busy { .. } => self.travelling.push(copy),
                    Verdict::Unknown(error) => panic!("{error}"),
                }
            }
        }
    }

    async fn check(&mut self) {
        assert!(self.travelling.is_empty());
        for (id, job) in &self.known {
            let lookup = self.bed.store.get(&[JobRef::new(queue(), *id)]).await.remove(0).unwrap();
            let Lookup::Found(record) = lookup else { panic!("{id} is lost") };
            let ended = job.ended.unwrap_or(if job.stop { JobState::Cancelled } else { JobState::Completed });
            assert_eq!(record.state, ended, "{id}: {job:?}");
            assert_eq!(record.attempt, 1 + job.retries, "{id}: {job:?}");
        }
    }
}

#[cfg(feature = "journal")]
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_doubled_or_held_by_two_across_restarts() {
    let (mut runs, mut restarts) = (0, 0);
    for seed in 0..4 {
        let mut world = World::new(seed, Bed::on_disk().await);
        for _ in 0..1_500 {
            world.step().await;
            if world.below(60) == 0 {
                world.restart().await;
                restarts += 1;
            }
        }
        world.drain().await;
        world.check().await;
        runs += world.runs;
    }
    assert!(runs > 300 && restarts > 40, "{runs} runs and {restarts} restarts prove little");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_doubled_or_held_by_two() {
    let mut runs = 0;
    for seed in 0..SEEDS {
        let mut world = World::new(seed, Bed::new());
        for _ in 0..STEPS {
            world.step().await;
        }
        world.drain().await;
        world.check().await;
        runs += world.runs;
    }
    assert!(runs > 1_000, "{runs} runs prove little");
}
