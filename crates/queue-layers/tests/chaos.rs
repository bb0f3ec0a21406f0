//! Random lives and deaths of processes, outages and lost replies, from a seed: nothing is lost, nothing that finished runs
//! again, and no two workers hold one job.
//!
//! A small sibling of the simulator: `CHAOS_SEEDS` and `CHAOS_SEED` choose how many seeds are run, and from which on;
//! `CHAOS_RULE` takes a rule away, by its name.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bed;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bed::{Bed, LEASE, Process, secs};
use queue_core::{
    Consumer, Env, Envelope, JobError, JobId, QueueProvider,
    job::JobKind,
    lifecycle::JobState,
    provider::{
        Beat, BeatOutcome, Delivery, Disposition, FollowUp, ParkKey, PublishOutcome, ReleaseReason, Settlement,
    },
};
use queue_layers::tracked::Rule;
use queue_testkit::{
    faults::StoreCall,
    models::{LogModel, PushModel, Shape, VisibilityModel},
};

#[derive(Default)]
struct Truth {
    /// What must run: accepted, or following from what was settled.
    owed: BTreeSet<JobId>,
    /// Settled for good, as a worker was told.
    over: BTreeSet<JobId>,
    /// Retries that were won.
    retried: BTreeMap<JobId, u32>,
    /// Who believes to hold a job, until when on the clock.
    held: BTreeMap<JobId, (u32, Duration)>,
    starts: BTreeMap<JobId, u32>,
    wrong: Vec<String>,
}

struct World {
    bed: Bed,
    env: Env,
    truth: Mutex<Truth>,
    living: Mutex<BTreeMap<u32, Arc<Process>>>,
}

impl World {
    fn pick(&self, n: u64) -> u64 {
        self.env.random.next_u64() % n.max(1)
    }

    fn now(&self) -> Duration {
        self.env.clock.monotonic()
    }

    fn truth<R>(&self, act: impl FnOnce(&mut Truth) -> R) -> R {
        act(&mut self.truth.lock().unwrap())
    }

    fn some_process(&self) -> Option<Arc<Process>> {
        let living = self.living.lock().unwrap();
        let nth = usize::try_from(self.pick(living.len() as u64)).unwrap();
        living.values().nth(nth).cloned()
    }

    fn starts(&self, life: u32, delivery: &Delivery) {
        let id = delivery.envelope.id;
        let now = self.now();
        let until = now + delivery.lease.remaining.unwrap_or(LEASE);
        self.truth(|truth| {
            if truth.over.contains(&id) {
                truth.wrong.push(format!("{id} was over and runs again in life {life} at {now:?}"));
            }
            if let Some((other, lease)) = truth.held.get(&id)
                && *lease > now
            {
                truth
                    .wrong
                    .push(format!("{id} runs in life {life} while {other} holds it until {lease:?}, at {now:?}"));
            }
            let expected = 1 + truth.retried.get(&id).copied().unwrap_or(0);
            // A retry that was won and whose answer was lost shows only now.
            if delivery.attempt < expected {
                truth.wrong.push(format!("{id} runs in attempt {} after {} retries", delivery.attempt, expected - 1));
            }
            truth.retried.insert(id, delivery.attempt - 1);
            truth.held.insert(id, (life, until));
            *truth.starts.entry(id).or_default() += 1;
        });
    }

    fn lets_go(&self, life: u32, id: JobId) {
        self.truth(|truth| {
            if truth.held.get(&id).is_some_and(|(holder, _)| *holder == life) {
                truth.held.remove(&id);
            }
        });
    }
}

fn error() -> JobError {
    JobError::custom("BAD", "chaos")
}

/// One job in a worker's hands.
async fn run(world: Arc<World>, life: u32, consumer: Arc<dyn Consumer>, delivery: Delivery) {
    let id = delivery.envelope.id;
    world.starts(life, &delivery);
    let mut work = Duration::from_millis(world.pick(8_000));
    if world.pick(6) == 0 {
        work += secs(40);
    }
    let end = world.now() + work;
    if delivery.redelivered {
        consumer.heartbeat(&[Beat { started: true, ..Beat::extend(delivery.receipt, LEASE) }]).await;
    }
    while world.now() < end {
        tokio::time::sleep(secs(8).min(end - world.now())).await;
        let asked = world.now();
        match consumer.heartbeat(&[Beat::extend(delivery.receipt, LEASE)]).await.remove(0) {
            BeatOutcome::Held(_) => world.truth(|truth| {
                if let Some(held) = truth.held.get_mut(&id).filter(|held| held.0 == life) {
                    held.1 = asked + LEASE;
                }
            }),
            BeatOutcome::Lost => return world.lets_go(life, id),
            BeatOutcome::Unknown(_) => {}
        }
        // Self-fencing: on its own clock.
        let stands =
            world.truth(|truth| truth.held.get(&id).is_some_and(|held| held.0 == life && held.1 > world.now()));
        if !stands {
            return world.lets_go(life, id);
        }
    }
    let disposition = match world.pick(10) {
        0 => Disposition::Retry { after: Duration::ZERO, error: error() },
        1 => Disposition::Retry { after: secs(world.pick(40)), error: error() },
        2 => Disposition::Release { after: secs(1 + world.pick(10)), reason: ReleaseReason::Snooze },
        3 => Disposition::Park { key: ParkKey("key".into()), at_most: secs(20 + world.pick(60)) },
        4 => Disposition::DeadLetter { error: error() },
        _ => Disposition::Complete { result: Some("done".into()) },
    };
    let mut settlement = Settlement::new(delivery.receipt, disposition.clone());
    if world.pick(4) == 0 && delivery.envelope.payload != "child" {
        let child = JobId::derive(id.as_bytes(), u64::from(delivery.attempt));
        let envelope = Envelope::builder(child, JobKind::from_static("test"), &b"child"[..], world.env.now()).seal();
        settlement.then.push(FollowUp { queue: world.bed.queue.clone(), envelope });
    }
    // The handler has ended: should the settlement be carried out without its worker hearing of it, another may begin.
    let lease = world.truth(|truth| truth.held.get(&id).map_or(Duration::ZERO, |held| held.1));
    world.lets_go(life, id);
    for _ in 0..200 {
        let outcome = consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
        if outcome.is_settled() {
            world.truth(|truth| match &disposition {
                Disposition::Retry { .. } => {
                    truth.retried.insert(id, delivery.attempt);
                }
                Disposition::Release { .. } | Disposition::Park { .. } => {}
                _ => {
                    truth.over.insert(id);
                }
            });
            world.truth(|truth| truth.owed.extend(settlement.then.iter().map(|then| then.envelope.id)));
        } else if matches!(outcome, queue_core::provider::SettleOutcome::Unknown(_)) && lease > world.now() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        return;
    }
}

/// A process, until somebody kills it.
async fn live(world: Arc<World>, life: u32, process: Arc<Process>) {
    let keeper = {
        let process = Arc::clone(&process);
        async move {
            loop {
                let _ = process.tracked.maintain(true).await;
                let _ = process.tracked.unpark(&process_queue(), &ParkKey("key".into()), 1).await;
                tokio::time::sleep(secs(1)).await;
            }
        }
    };
    let worker = {
        let (world, process) = (Arc::clone(&world), Arc::clone(&process));
        async move {
            let consumer = loop {
                let options = queue_core::provider::ConsumeOptions {
                    lease: LEASE,
                    ..queue_core::provider::ConsumeOptions::new("w", 4)
                };
                if let Ok(consumer) = process.tracked.consumer(&world.bed.queue, options).await {
                    break consumer;
                }
                tokio::time::sleep(secs(1)).await;
            };
            // Tasks of a killed process end with this set.
            let mut running = tokio::task::JoinSet::new();
            loop {
                while running.try_join_next().is_some() {}
                let room = 4 - running.len();
                if room == 0 {
                    running.join_next().await;
                    continue;
                }
                match consumer.fetch(room, secs(2)).await {
                    Ok(got) => {
                        for delivery in got {
                            running.spawn(run(Arc::clone(&world), life, Arc::clone(&consumer), delivery));
                        }
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = process.fuse.burnt() => {}
        () = keeper => {}
        () = worker => {}
    }
}

fn process_queue() -> queue_core::QueueName {
    queue_core::QueueName::from_static("work")
}

async fn produce(world: Arc<World>, jobs: u64) {
    for n in 0..jobs {
        tokio::time::sleep(Duration::from_millis(world.pick(3_000))).await;
        let mut job = world.bed.job(&format!("job {n}"));
        if world.pick(5) == 0 {
            job = job.edit(|job| job.not_before = Some(world.env.now() + secs(world.pick(1_500))));
        }
        // Unknown is asked again under the same id, as the scheduler does.
        for _ in 0..5 {
            let Some(process) = world.some_process() else { break };
            let outcome = tokio::select! {
                biased;
                () = process.fuse.burnt() => None,
                outcome = process.publish(&job) => Some(outcome),
            };
            match outcome {
                Some(PublishOutcome::Accepted { .. }) => {
                    world.truth(|truth| truth.owed.insert(job.id));
                    break;
                }
                Some(PublishOutcome::Unknown(_)) | None => tokio::time::sleep(secs(1)).await,
                Some(_) => break,
            }
        }
    }
}

async fn disturb(world: Arc<World>) {
    loop {
        tokio::time::sleep(Duration::from_millis(500 + world.pick(8_000))).await;
        let Some(process) = world.some_process() else { continue };
        match world.pick(8) {
            0 | 1 => process.fuse.burn_after(usize::try_from(world.pick(12)).unwrap()),
            2 => process.faults.lose_replies(usize::try_from(1 + world.pick(3)).unwrap()),
            3 => {
                let calls = [StoreCall::Stage, StoreCall::Claim, StoreCall::Settle, StoreCall::Confirm, StoreCall::Due];
                let call = calls[usize::try_from(world.pick(calls.len() as u64)).unwrap()];
                process.faults.lose_replies_to(call, 1);
            }
            4 => {
                // The store itself: for everyone.
                let all: Vec<_> = world.living.lock().unwrap().values().cloned().collect();
                all.iter().for_each(|process| process.faults.outage(true));
                tokio::time::sleep(secs(1 + world.pick(70))).await;
                let all: Vec<_> = world.living.lock().unwrap().values().cloned().collect();
                all.iter().for_each(|process| process.faults.outage(false));
            }
            5 => world.bed.broker.restart(),
            6 => world.bed.broker.faults(|faults| faults.lose_publish_replies(1)),
            _ => world.bed.broker.faults(|faults| faults.lose_settle_replies(1)),
        }
    }
}

fn broken() -> Option<Rule> {
    let name = std::env::var("CHAOS_RULE").ok()?;
    Some(*Rule::ALL.iter().find(|rule| format!("{rule:?}") == name).expect("a rule's name"))
}

fn shape(seed: u64) -> Shape {
    match seed % 4 {
        0 => PushModel::default().into(),
        1 => LogModel::default().into(),
        2 => VisibilityModel::default().into(),
        _ => VisibilityModel { duplicates: 0.2, ..VisibilityModel::default() }.into(),
    }
}

async fn seed(seed: u64) -> Result<(), String> {
    let mut bed = Bed::new(shape(seed));
    bed.env.random = Arc::new(queue_core::clock::SeededRandom::new(seed.wrapping_mul(7_919) + 1));
    let env = bed.env.clone();
    let world = Arc::new(World { bed, env, truth: Mutex::default(), living: Mutex::default() });
    let producing = tokio::spawn(produce(Arc::clone(&world), 40));
    let disturbing = tokio::spawn(disturb(Arc::clone(&world)));
    let mut lives = tokio::task::JoinSet::new();
    let mut next = 0;
    while !producing.is_finished() || next < 6 {
        while lives.len() < 3 {
            next += 1;
            let process = Arc::new(world.bed.without(broken()));
            world.living.lock().unwrap().insert(next, Arc::clone(&process));
            let (world, life) = (Arc::clone(&world), next);
            lives.spawn(async move {
                live(Arc::clone(&world), life, Arc::clone(&process)).await;
                process.crash();
                world.living.lock().unwrap().remove(&life);
                world.truth(|truth| truth.held.retain(|_, held| held.0 != life));
            });
        }
        let _ = tokio::time::timeout(secs(5), lives.join_next()).await;
        if next > 40 {
            break;
        }
    }
    producing.await.unwrap();
    disturbing.abort();
    let _ = disturbing.await;
    lives.shutdown().await;
    for (_, process) in std::mem::take(&mut *world.living.lock().unwrap()) {
        process.crash();
    }
    world.truth(|truth| truth.held.clear());
    world.bed.broker.faults(|faults| *faults = Default::default());

    // A quiet world: one process finishes everything.
    let last = world.bed.without(broken());
    let consumer = last.consumer_of(32).await;
    let end = world.now() + secs(2_500);
    while world.now() < end {
        let _ = last.tracked.maintain(true).await;
        for delivery in consumer.fetch(32, secs(1)).await.unwrap_or_default() {
            world.starts(u32::MAX, &delivery);
            let outcome = bed::settle(&consumer, &delivery, bed::complete()).await;
            if !outcome.is_settled() {
                return Err(format!("a settlement in a quiet world was answered {outcome:?}"));
            }
            world.truth(|truth| truth.over.insert(delivery.envelope.id));
            world.lets_go(u32::MAX, delivery.envelope.id);
        }
    }
    let owed = world.truth(|truth| truth.owed.clone());
    for id in owed {
        let state = world.bed.state(id).await;
        if !matches!(state, JobState::Completed | JobState::Dead) {
            world.truth(|truth| truth.wrong.push(format!("{id} was accepted and is {state}")));
        }
    }
    let copies = world.bed.copies().await;
    if copies > 0 {
        world.truth(|truth| truth.wrong.push(format!("{copies} copies are left in the broker")));
    }
    let wrong = world.truth(|truth| std::mem::take(&mut truth.wrong));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

#[test]
fn nothing_is_lost_and_nothing_that_finished_runs_again() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, count) = (number("CHAOS_SEED", 0), number("CHAOS_SEEDS", 40));
    let mut failed = Vec::new();
    for n in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        if let Err(why) = runtime.block_on(seed(n)) {
            failed.push(format!("seed {n}:\n{why}"));
        }
    }
    assert!(failed.is_empty(), "{} of {count}:\n{}", failed.len(), failed.join("\n"));
}
