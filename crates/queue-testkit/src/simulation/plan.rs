//! What happens in a run: which processes there are, which jobs they submit, and when.

use std::time::Duration;

use queue_core::{
    JobId, Priority, QueueName, QueueSpec, RetryPolicy,
    job::{JobKind, Unique, UniqueKey},
    provider::{OnFull, PublishOptions},
    scheduler::{JobOptions, NewJob, Start},
};

use super::{bias::Bias, dice::Dice, promises::Promises, weather::Weather, words};

/// The whole of a run, as its seed wants it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) weather: Weather,
    pub(super) lease: Duration,
    pub(super) queues: Vec<QueueSpec>,
    pub(super) jobs: Vec<PlannedJob>,
    pub(super) producers: u64,
    pub(super) workers: u64,
    pub(super) hands: u64,
    pub(super) operators: u64,
    /// How long faults may strike.
    pub(super) storm: Duration,
    pub(super) bias: Bias,
}

#[derive(Debug, Clone)]
pub(super) struct PlannedJob {
    pub(super) id: JobId,
    pub(super) queue: QueueName,
    pub(super) producer: u64,
    /// When it is submitted.
    pub(super) at: Duration,
    pub(super) job: NewJob,
    pub(super) publish: PublishOptions,
}

impl Plan {
    pub(super) fn draw(seed: u64, promises: &Promises, bias: Bias) -> Self {
        let dice = Dice::of(seed, "plan", 0);
        let lease = dice.millis(2_000, 6_000);
        let weather = Weather::draw(&dice, lease);
        let storm = dice.millis(3_000, 12_000);
        let queues: Vec<QueueSpec> =
            ["work", "side"].iter().take(1 + usize::from(dice.chance(0.4))).map(|name| spec(&dice, name)).collect();
        let producers = dice.between(1, 2);
        let mut plan = Self {
            lease,
            storm,
            producers,
            workers: dice.between(1, 3),
            hands: u64::from(dice.chance(0.35)),
            operators: u64::from(dice.chance(0.6)),
            weather,
            queues,
            jobs: Vec::new(),
            bias: Bias::default(),
        };
        let jobs = dice.between(3, 14);
        let names: Vec<QueueName> = plan.queues.iter().map(|spec| spec.name.clone()).collect();
        for number in 0..jobs {
            let dice = Dice::of(seed, "job", number);
            let queue = names[usize::try_from(dice.below(names.len() as u64)).unwrap_or(0)].clone();
            let at = if dice.chance(0.5) { Duration::ZERO } else { dice.millis(0, 3_000) };
            let producer = dice.below(producers);
            let job = job(&dice, number, promises);
            let mut publish = PublishOptions { deadline: Duration::from_secs(5), ..PublishOptions::default() };
            publish.on_full = if dice.chance(0.5) { OnFull::Wait } else { OnFull::Reject };
            plan.jobs.push(PlannedJob { id: words::id(number), queue, producer, at, job, publish });
        }
        bias.bend(seed, &mut plan);
        plan.bias = bias;
        plan.jobs.sort_by_key(|job| (job.producer, job.at, job.id));
        plan
    }
}

fn spec(dice: &Dice, name: &'static str) -> QueueSpec {
    let mut spec = QueueSpec::new(QueueName::from_static(name));
    spec.timeout = dice.millis(2_000, 8_000);
    spec.max_deliveries = u32::try_from(dice.between(2, 10)).unwrap_or(2);
    spec.retry = retry(dice);
    spec.max_len = dice.chance(0.15).then(|| dice.between(2, 6));
    spec
}

fn retry(dice: &Dice) -> RetryPolicy {
    let attempts = u32::try_from(dice.between(1, 5)).unwrap_or(1);
    match dice.below(3) {
        0 => RetryPolicy::immediate(attempts),
        _ => RetryPolicy::fixed(attempts, dice.millis(10, 1_500)),
    }
}

fn job(dice: &Dice, number: u64, promises: &Promises) -> NewJob {
    let payload: Vec<u8> = number.to_be_bytes().into_iter().chain((0..dice.below(700)).map(|_| b'x')).collect();
    let mut options = JobOptions::default();
    options.id = Some(words::id(number));
    if dice.chance(0.4) {
        options.priority = Priority::new(u8::try_from(dice.between(1, 15)).unwrap_or(1)).ok();
    }
    if dice.chance(0.25) {
        options.start = Start::After(dice.millis(1, 4_000));
    }
    if dice.chance(0.15) {
        options.ttl = Some(dice.millis(500, 8_000));
    }
    if dice.chance(0.3) {
        options.retry = Some(retry(dice));
    }
    if dice.chance(0.2) {
        options.timeout = Some(dice.millis(300, 4_000));
    }
    if promises.records && dice.chance(0.3) {
        let window = dice.chance(0.3).then(|| dice.millis(500, 5_000));
        options.unique = unique(dice.below(3), window);
    }
    if dice.chance(0.2) {
        options.headers.tags.push(format!("tag-{}", dice.below(3)));
    }
    NewJob { options, ..NewJob::new(JobKind::from_static("simulated"), payload) }
}

fn unique(number: u64, window: Option<Duration>) -> Option<Unique> {
    Some(Unique { key: UniqueKey::new(format!("key-{number}")).ok()?, window })
}
