//! Everything that can be asked of a store, at random.

use super::*;

const STAGE: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(10);
const QUEUES: [&str; 2] = ["one", "two"];
const LIMITS: TrackingLimits =
    TrackingLimits { max_waiting: 60, tombstone_age: Duration::from_secs(300), max_tombstones: 12 };

struct Walk {
    random: SeededRandom,
    env: Env,
    disk: ModelDisk,
    store: MemoryTracking,
    /// Every copy that somebody may publish, deliver or ask for.
    copies: Vec<(QueueName, Envelope)>,
    fences: Vec<(Fence, Envelope)>,
    done: [usize; 20],
}

impl Walk {
    async fn new(seed: u64) -> Self {
        let (env, disk) = (Env::seeded(START, seed), ModelDisk::new());
        let store = MemoryTracking::open(&JournalOptions::on_disk(&disk, true), env.clone(), LIMITS).unwrap();
        let random = SeededRandom::new(seed);
        Self { random, env, disk, store, copies: Vec::new(), fences: Vec::new(), done: [0; 20] }
    }

    fn below(&self, n: usize) -> usize {
        usize::try_from(self.random.next_u64() % n as u64).unwrap()
    }

    fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn queue(&self) -> QueueName {
        QueueName::from_static(QUEUES[self.below(2)])
    }

    fn scope(&self) -> Scope {
        let queues = self.one_in(3).then(|| vec![self.queue()]);
        Scope { provider: ["rabbit", "kafka"][self.below(2)].into(), queues }
    }

    fn provider(&self) -> &'static str {
        ["rabbit", "kafka"][self.below(2)]
    }

    fn job(&self) -> Envelope {
        let now = self.env.now();
        let payload = vec![7; self.below(40)];
        let mut job = Envelope::builder(JobId::fresh(&self.env), JobKind::from_static("k"), payload, now);
        job.not_before = self.one_in(4).then(|| now + seconds(1 + self.below(60) as u64));
        job.expires_at = self.one_in(4).then(|| now + seconds(1 + self.below(120) as u64));
        job.unique = self.one_in(2).then(|| {
            let key = UniqueKey::new(format!("key {}", self.below(5))).unwrap();
            Box::new(Unique { key, window: self.one_in(2).then(|| seconds(1 + self.below(50) as u64)) })
        });
        job.seal()
    }

    fn error(&self) -> JobError {
        JobError::custom("FAILED", format!("the {}th time", self.below(100)))
    }

    /// A copy that is known, or the next generation of one.
    fn copy(&self) -> Option<(JobRef, Envelope)> {
        if self.copies.is_empty() {
            return None;
        }
        let newest = self.copies.len().saturating_sub(20);
        let at = if self.one_in(3) {
            self.below(self.copies.len())
        } else {
            newest + self.below(self.copies.len() - newest)
        };
        let (queue, copy) = &self.copies[at];
        let job = JobRef { place: u16::try_from(self.below(3)).unwrap(), ..JobRef::new(queue.clone(), copy.id) };
        let copy = if self.one_in(8) { copy.edit(|copy| copy.generation += 1) } else { copy.clone() };
        Some((job, copy))
    }

    fn keep(&mut self, copies: Vec<StagedJob>) {
        self.copies.extend(copies.into_iter().map(|staged| (staged.job.queue, staged.envelope)));
    }

    async fn stage(&mut self) {
        let jobs: Vec<StagedJob> = (0..=self.below(3))
            .map(|_| match self.copy().filter(|_| self.one_in(5)) {
                Some((job, copy)) => StagedJob::new(self.provider(), job, copy),
                None => {
                    let (queue, job) = (self.queue(), self.job());
                    StagedJob::new(self.provider(), JobRef::new(queue, job.id), job)
                }
            })
            .map(|mut job| {
                job.hold = self.one_in(6).then(|| seconds(1 + self.below(60) as u64));
                job
            })
            .collect();
        let outcomes = self.store.stage(&jobs, STAGE).await;
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            // Also what was refused may turn up: published by one who did not hear of it.
            assert!(!matches!(outcome, StageOutcome::Unknown(_)), "{outcome:?}");
            self.keep(vec![job]);
        }
    }

    async fn claim(&mut self) {
        let claims: Vec<Claim> = (0..=self.below(2))
            .filter_map(|_| {
                let fresh = self.one_in(12).then(|| {
                    let (queue, job) = (self.queue(), self.job());
                    (JobRef::new(queue, job.id), job)
                });
                let (job, envelope) = fresh.or_else(|| self.copy())?;
                let lease = LEASE * u32::try_from(1 + self.below(3)).unwrap();
                let worker = ["ann", "bob"][self.below(2)].into();
                Some(Claim { provider: self.provider().into(), job, envelope, worker, lease })
            })
            .collect();
        let verdicts = self.store.claim(&claims).await;
        for (claim, verdict) in claims.into_iter().zip(verdicts) {
            if let Verdict::Run { fence, .. } = verdict {
                self.fences.push((fence, claim.envelope));
            }
        }
    }

    fn fence(&self) -> Option<(Fence, Envelope)> {
        let newest = self.fences.len().saturating_sub(5);
        (!self.fences.is_empty()).then(|| self.fences[newest + self.below(self.fences.len() - newest)].clone())
    }

    async fn beat(&mut self) {
        let Some((fence, _)) = self.fence() else { return };
        let mut beat = Beat::extend(receipt(fence), LEASE * u32::try_from(1 + self.below(3)).unwrap());
        beat.started = self.one_in(3);
        beat.progress = self.one_in(3).then(|| vec![1; self.below(9)].into());
        beat.logs = vec!["line".into(); self.below(3)];
        if self.one_in(4) {
            beat.extend = None;
        }
        let outcome = self.store.heartbeat(&[(fence, beat)]).await.remove(0);
        assert!(!matches!(outcome, BeatOutcome::Unknown(_)), "{outcome:?}");
    }

    async fn settle(&mut self) {
        let Some((fence, copy)) = self.fence() else { return };
        let after = seconds([0, 5, 50][self.below(3)]);
        let error = self.error();
        let disposition = match self.below(9) {
            0 | 1 => Disposition::Retry { after, error },
            2 => Disposition::Release { after, reason: ReleaseReason::Busy },
            3 | 4 => Disposition::Park { key: park(self.below(2)), at_most: seconds(1 + self.below(90) as u64) },
            5 => Disposition::DeadLetter { error },
            6 => Disposition::Cancelled,
            7 => Disposition::Expired,
            _ => Disposition::Complete { result: Some(vec![3; self.below(30)].into()) },
        };
        let successor = self.one_in(2).then(|| {
            copy.edit(|copy| {
                copy.generation += 1;
                copy.attempt += 1;
            })
        });
        let mut settlement = Settlement::new(receipt(fence), disposition);
        for _ in 0..self.below(3) {
            settlement.then.push(FollowUp { queue: self.queue(), envelope: self.job() });
        }
        let follow_ups: Vec<_> =
            settlement.then.iter().map(|next| (next.queue.clone(), next.envelope.clone())).collect();
        self.copies.extend(follow_ups);
        let queue = self.copies.iter().find(|(_, known)| known.id == copy.id).map(|(queue, _)| queue.clone());
        if let Some((queue, successor)) = queue.zip(successor.clone()) {
            self.copies.push((queue, successor));
        }
        self.store.settle(&[TrackedSettle { fence, settlement, successor }], STAGE).await;
    }

    async fn maintain(&mut self) {
        let (scope, limit) = (self.scope(), 1 + self.below(6));
        let copies = match self.below(5) {
            0 | 1 => self.store.due(&scope, true, limit, STAGE).await,
            2 => self.store.due(&scope, false, limit, STAGE).await,
            3 => self.store.silent(&scope, seconds(20), limit, STAGE).await,
            _ => self.store.unpark(&scope, &park(self.below(2)), limit, STAGE).await,
        };
        self.keep(copies.unwrap());
    }

    async fn command(&mut self) {
        let queue = self.queue();
        match self.below(40) {
            0 => drop(self.store.purge(&queue).await.unwrap()),
            1 => self.store.drop_queue(&queue).await.unwrap(),
            2..=5 => {
                let control = self.store.queue_control(&queue).await.unwrap();
                let control = QueueControl { paused: !control.paused, ..control };
                self.store.set_queue_control(&queue, &control).await.unwrap();
            }
            6..=15 => {
                let retention = if self.one_in(2) { Retention::none() } else { Retention::default() };
                let retention = Retention { dead: seconds(60), ..retention };
                self.store.evict(&queue, &retention, 1 + self.below(9)).await.unwrap();
            }
            16..=25 => self.bury().await,
            _ => {
                let Some((job, _)) = self.copy() else { return };
                self.store.cancel(&[job], &Cancel::by("walk")).await.remove(0).unwrap();
            }
        }
    }

    /// What is done with the dead.
    async fn bury(&mut self) {
        let jobs: Vec<JobRef> = (0..12).filter_map(|_| self.copy()).map(|(job, _)| job).collect();
        if self.one_in(3) {
            self.store.forget_dead(&jobs).await;
            return;
        }
        let jobs: Vec<_> = jobs.into_iter().map(|job| (job, self.one_in(2).then(|| "other".into()))).collect();
        for outcome in self.store.redrive(&jobs, STAGE).await {
            if let queue_core::store::RedriveOutcome::Staged(staged) = outcome.unwrap() {
                self.keep(vec![staged]);
            }
        }
    }

    async fn step(&mut self) {
        let what = self.below(20);
        self.done[what] += 1;
        match what {
            0..=3 => self.stage().await,
            4..=7 => self.claim().await,
            8 => self.beat().await,
            9..=11 => self.settle().await,
            12 | 13 => self.maintain().await,
            14 => self.command().await,
            15..=17 => {
                let Some((job, copy)) = self.copy() else { return };
                let (error, unit) = (self.error(), (job, copy.generation));
                match what {
                    15 => drop(self.store.confirm(&[unit]).await),
                    16 => drop(self.store.unstage(&[unit]).await),
                    _ => drop(self.store.refuse(&[(unit.0, unit.1, error)]).await),
                }
            }
            _ => tokio::time::advance(Duration::from_millis(self.below(9_000) as u64)).await,
        }
    }

    /// Ends the process in one way or another, and begins the next.
    async fn restart(&mut self) {
        match self.below(3) {
            0 => self.store.close().await.unwrap(),
            1 => self.store.abandon(),
            _ => {}
        }
        self.store.abandon();
        self.store =
            MemoryTracking::open(&JournalOptions::on_disk(&self.disk, true), self.env.clone(), LIMITS).unwrap();
    }
}

fn park(n: usize) -> ParkKey {
    ParkKey(["red", "blue"][n].into())
}

fn receipt(fence: Fence) -> Receipt {
    Receipt { id: fence.id, slot: 0, epoch: fence.epoch }
}

#[tokio::test(start_paused = true)]
async fn what_is_recovered_is_what_was_there() {
    let seeds = std::env::var("TRACKING_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(3);
    let mut restarts = 0;
    for seed in 0..seeds {
        let mut walk = Walk::new(seed).await;
        for step in 0..400 {
            walk.step().await;
            // Several calls share a batch as often as not.
            if walk.one_in(4) {
                eprintln!("seed {seed}, step {step}");
                walk.store.check_journal(&walk.disk, LIMITS).await;
            }
            if walk.one_in(40) {
                walk.restart().await;
                restarts += 1;
            }
        }
        assert!(walk.fences.len() > 30, "{} claims prove little", walk.fences.len());
    }
    assert!(restarts > 0);
}
