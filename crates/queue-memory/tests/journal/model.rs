//! Anything may happen, then a crash: what comes back is a moment of what was, and none before the last acknowledgement.

use std::collections::BTreeMap;

use queue_core::{
    Priority,
    clock::{Random, SeededRandom},
    job::{JobError, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{Beat, Cancel, DeadFilter, FollowUp, ParkKey, Redrive, ReleaseReason},
    queue_spec::{Retention, Tracking},
    store::JobQuery,
};

use super::*;

/// Everything that may be known of the queues, as it would be after a crash.
type Moment = Vec<(String, Option<u64>)>;

struct Run {
    rig: Rig,
    random: SeededRandom,
    consumers: BTreeMap<QueueName, Arc<dyn Consumer>>,
    held: Vec<(QueueName, Delivery)>,
    next: u64,
}

fn names() -> [QueueName; 2] {
    [QueueName::from_static("a"), QueueName::from_static("b")]
}

impl Run {
    async fn new(seed: u64) -> Self {
        let rig = Rig::new();
        let tracking = if seed.is_multiple_of(5) { Tracking::Off } else { Tracking::Full };
        for name in names() {
            let mut spec = QueueSpec::new(name);
            spec.tracking = tracking;
            if seed.is_multiple_of(3) {
                spec.retention = Retention { count: 3, age: seconds(40), ..Retention::default() };
            }
            spec.durability = seed.is_multiple_of(2).then_some(Durability::Relaxed);
            rig.provider.declare(&spec).await.unwrap();
        }
        let mut run =
            Self { rig, random: SeededRandom::new(seed), consumers: BTreeMap::new(), held: Vec::new(), next: 0 };
        run.connect().await;
        run
    }

    async fn connect(&mut self) {
        self.held.clear();
        for name in names() {
            let options = ConsumeOptions { lease: seconds(30), ..ConsumeOptions::new("w", 100) };
            let consumer = self.rig.provider.consumer(&name, options).await.unwrap();
            self.consumers.insert(name, consumer);
        }
    }

    fn draw(&self, below: u64) -> u64 {
        self.random.next_u64() % below
    }

    fn queue(&self) -> QueueName {
        names()[self.draw(2) as usize].clone()
    }

    fn job(&mut self) -> Envelope {
        self.next += 1;
        let (level, what, n) = (self.draw(3) as u8 * 5 + 1, self.draw(8), self.next);
        let now = self.rig.env.now();
        let (soon, key, window) = (now + seconds(self.draw(20)), self.draw(3), self.draw(2));
        job(n).edit(|parts| {
            parts.priority = Priority::new(level).unwrap();
            match what {
                0 => parts.not_before = Some(soon),
                1 => parts.expires_at = Some(soon + seconds(10)),
                2 => {
                    let key = UniqueKey::new(format!("key {key}")).unwrap();
                    let window = (window == 0).then_some(seconds(15));
                    parts.unique = Some(Box::new(Unique { key, window }));
                }
                _ => {}
            }
        })
    }

    /// Does something; whether all up to it is on disk.
    async fn step(&mut self) -> bool {
        match self.draw(16) {
            0..=4 => self.publish().await,
            5..=7 => {
                let name = self.queue();
                let deliveries = self.consumers[&name].fetch(self.draw(4) as usize + 1, Duration::ZERO).await.unwrap();
                self.held.extend(deliveries.into_iter().map(|delivery| (name.clone(), delivery)));
                false
            }
            8..=11 => self.settle().await,
            12 => self.beat().await,
            13 => self.command().await,
            14 => {
                tokio::time::advance(Duration::from_millis(500 * self.draw(30))).await;
                false
            }
            _ => {
                self.rig.provider.maintain(true).await.unwrap();
                // The second writes what the first changed.
                self.rig.provider.maintain(false).await.unwrap();
                true
            }
        }
    }

    async fn publish(&mut self) -> bool {
        let jobs: Vec<_> = (0..=self.draw(3)).map(|_| self.job()).collect();
        let synced = self.draw(3) == 0;
        let options = PublishOptions { durability: synced.then_some(Durability::Synced), ..PublishOptions::default() };
        self.rig.provider.publish(&self.queue(), jobs, &options).await;
        synced
    }

    async fn settle(&mut self) -> bool {
        if self.held.is_empty() {
            return false;
        }
        let (name, delivery) = self.held.swap_remove(self.draw(self.held.len() as u64) as usize);
        let after = seconds(self.draw(3) * 7);
        let error = JobError::custom("E", "why").with_detail("more");
        let disposition = match self.draw(8) {
            0 => Disposition::Retry { after, error },
            1 => Disposition::Release { after, reason: ReleaseReason::Busy },
            2 => Disposition::Park { key: ParkKey("limit".into()), at_most: seconds(20) },
            3 => Disposition::DeadLetter { error },
            4 => Disposition::Cancelled,
            _ => Disposition::Complete { result: Some("yes".into()) },
        };
        let mut settlement = Settlement::new(delivery.receipt, disposition);
        if self.draw(3) == 0 {
            let follow_ups = [self.queue(), self.queue()].map(|queue| FollowUp { queue, envelope: self.job() });
            settlement.then = follow_ups.into();
        }
        self.consumers[&name].settle(&[settlement]).await;
        false
    }

    async fn beat(&self) -> bool {
        let Some((name, delivery)) = self.held.first() else { return false };
        let mut beat = Beat::extend(delivery.receipt, seconds(30));
        beat.started = self.draw(2) == 0;
        beat.progress = Some(format!("{{\"percent\":{}}}", self.draw(100)).into());
        beat.logs = vec!["line".into()];
        self.consumers[name].heartbeat(&[beat]).await;
        false
    }

    async fn command(&self) -> bool {
        let (name, admin, store) = (self.queue(), self.rig.provider.admin(), self.rig.provider.job_store().unwrap());
        match self.draw(7) {
            0 | 1 => {
                let job = JobRef::new(name, id(self.draw(self.next + 1)));
                drop(store.cancel(&[job], &Cancel::by("me")).await);
            }
            2 => drop(self.rig.provider.unpark(&name, &ParkKey("limit".into()), 1).await.unwrap()),
            3 => drop(admin.redrive(&name, &Redrive::all()).await.unwrap()),
            4 => drop(admin.drop_dead(&name, &DeadFilter::default()).await.unwrap()),
            5 if self.draw(4) == 0 => drop(admin.purge(&name).await.unwrap()),
            _ => {
                admin.pause(&name, true).await.unwrap();
                admin.pause(&name, false).await.unwrap();
            }
        }
        false
    }

    /// What a crash now would leave, were all of it on disk.
    async fn moment(&self) -> Moment {
        let store = self.rig.provider.job_store().unwrap();
        let admin = self.rig.provider.admin();
        let mut lines = Vec::new();
        for name in names() {
            let records = store.list(&JobQuery::queue(name.clone()), None, 10_000).await.unwrap().items;
            for mut record in records {
                if record.state == JobState::Running {
                    let cancelled = record.cancel_requested;
                    record.state = if cancelled { JobState::Cancelled } else { JobState::Pending };
                    record.finished_at = None;
                } else if record.cancel_requested {
                    record.finished_at = None;
                }
                // Parts of a second come and go with the rounding of delays.
                let due = record.due_at.map(|due| (due.as_millis() + 250) / 500 * 500);
                record.due_at = None;
                let details = (&record.error, &record.history, &record.logs, &record.progress, &record.result);
                let line = format!(
                    "{name} {:?} {} attempt {} started {} {:?} {:?} parked {:?} cancel {} {:?} {:?} {details:?}",
                    record.job.id,
                    record.state,
                    record.attempt,
                    record.started_count,
                    record.submitted_at,
                    (record.started_at, record.finished_at),
                    record.parked,
                    record.cancel_requested,
                    record.worker,
                    record.envelope,
                );
                lines.push((line, due));
            }
            let control = store.queue_control(&name).await.unwrap();
            lines.push((format!("{name} control {control:?}"), None));
            let spec = admin.spec(&name).await.unwrap();
            lines.push((format!("{name} {:?}", spec.map(|spec| (spec.tracking, spec.durability))), None));
        }
        lines.sort();
        lines
    }

    /// Whom a worker would get, in order, once nothing runs.
    async fn order(&mut self) -> Vec<u64> {
        let mut order = Vec::new();
        for name in names() {
            let deliveries = self.consumers[&name].fetch(1_000, Duration::ZERO).await.unwrap();
            order.extend(numbers(&deliveries));
            self.held.extend(deliveries.into_iter().map(|delivery| (name.clone(), delivery)));
        }
        order
    }
}

async fn survive(seed: u64) {
    let mut run = Run::new(seed).await;
    for generation in 0..4 {
        let mut history = vec![run.moment().await];
        let mut certain = 0;
        for _ in 0..30 + run.draw(60) {
            if run.step().await {
                certain = history.len();
            }
            history.push(run.moment().await);
        }
        let ahead = (run.draw(3) == 0).then_some(());
        if ahead.is_some() {
            // A twin that goes on shows the order that the crash must keep.
            run.rig.provider.maintain(false).await.unwrap();
            certain = history.len() - 1;
        }
        run.rig = run.rig.crash();
        let mut found = run.moment().await;
        // Of what is overdue it is not told since when.
        let now = run.rig.env.now().as_millis();
        let overdue = |moment: &mut Moment| {
            moment.iter_mut().for_each(|(_, due)| *due = due.filter(|due| *due > now));
            // Who ends with the process may push others out.
            let stays = |line: &str| ["completed", "cancelled", "expired"].iter().all(|ended| !line.contains(ended));
            moment.retain(|(line, _)| !seed.is_multiple_of(3) || stays(line));
            moment.sort();
        };
        history.iter_mut().for_each(overdue);
        overdue(&mut found);
        let matches = history.iter().rposition(|moment| *moment == found);
        assert!(
            matches.is_some_and(|at| at >= certain),
            "seed {seed}, generation {generation}: {matches:?}, and up to {certain} of {} was acknowledged\n{:#?}",
            history.len(),
            history.iter().map(|moment| difference(moment, &found)).min_by_key(Vec::len),
        );
        run.connect().await;
        // What comes after is the same for the queue as it was and as it is once more.
        let again = run.rig.disk.contents();
        let first = run.order().await;
        let mut other = Run {
            rig: Rig::on(ModelDisk::with(again), Env::seeded(run.rig.env.now(), 3)),
            random: SeededRandom::new(0),
            consumers: BTreeMap::new(),
            held: Vec::new(),
            next: run.next,
        };
        other.connect().await;
        assert_eq!(other.order().await, first, "seed {seed}, generation {generation}");
    }
}

fn difference(one: &Moment, other: &Moment) -> Vec<String> {
    let gone = one.iter().filter(|line| !other.contains(line)).map(|(line, due)| format!("- {line} due {due:?}"));
    let new = other.iter().filter(|line| !one.contains(line)).map(|(line, due)| format!("+ {line} due {due:?}"));
    gone.chain(new).collect()
}

#[test]
fn a_crash_leaves_a_moment_of_what_was() {
    let runs = std::env::var("QUEUE_MODEL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(15);
    for seed in 0..runs {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(survive(seed));
    }
}
