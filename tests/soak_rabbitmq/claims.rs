//! What the bare provider claims of each publish, held against what is in its queues in the end.
//!
//! Half of the jobs is handed on to a second queue, by a consumer whose settlements carry a follow-up: the original may be acknowledged
//! only when the follow-up is confirmed.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use queue_core::{
    Env, Envelope, JobId, QueueName, QueueProvider as _, QueueSpec,
    job::JobKind,
    provider::{
        ConsumeOptions, Delivery, Disposition, FollowUp, ProviderUrl, PublishOptions, PublishOutcome, Rejection,
        ReleaseReason, Settlement,
    },
};
use queue_rabbitmq::{RabbitOptions, RabbitProvider};
use tokio::{task::JoinHandle, time::Instant};

const DEADLINE: Duration = Duration::from_secs(1);
/// What a busy machine adds to a deadline.
const SLACK: Duration = Duration::from_secs(3);
const BATCH: usize = 5;
const PAUSE: Duration = Duration::from_millis(30);
/// A queue from which nothing came for so long is empty.
const EMPTY: Duration = Duration::from_secs(3);
const DRAIN: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Ledger {
    accepted: HashSet<JobId>,
    /// Nothing of them was written, it was said.
    refused: HashSet<JobId>,
    unknown: HashSet<JobId>,
    /// Why they are unknown, and how often.
    reasons: BTreeMap<String, u64>,
    /// The longest time in which nothing was accepted.
    silence: Duration,
    complaints: Vec<String>,
}

/// A provider without a store that publishes as long as the phase lasts.
#[derive(Debug)]
pub(crate) struct Claims {
    provider: Arc<RabbitProvider>,
    over: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    publishing: JoinHandle<Ledger>,
    handing_on: JoinHandle<u64>,
}

/// Where jobs are published, from where they are handed on, and where they go.
fn queues() -> [QueueName; 3] {
    ["claims", "claims-first", "claims-second"].map(QueueName::from_static)
}

fn away(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

impl Claims {
    pub(crate) async fn begin(url: &str) -> io::Result<Self> {
        let url = ProviderUrl::parse(url).map_err(away)?;
        let options = RabbitOptions::read(&url).map_err(away)?;
        let provider = Arc::new(RabbitProvider::connect(options, &Env::system()).await.map_err(away)?);
        for queue in queues() {
            let mut spec = QueueSpec::new(queue);
            // What is given back again and again while nothing can be published is no poison.
            spec.max_deliveries = 10_000;
            provider.declare(&spec).await.map_err(away)?;
        }
        let (over, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let publishing = tokio::spawn(publish(Arc::clone(&provider), Arc::clone(&over), Arc::clone(&refused)));
        let handing_on = tokio::spawn(hand_on(Arc::clone(&provider), Arc::clone(&over)));
        Ok(Self { provider, over, refused, publishing, handing_on })
    }

    /// How many were told so far that nothing of them was written.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Ends publishing, empties the queue, and tells which claims were false.
    pub(crate) async fn check(self, silence: Option<Duration>) -> io::Result<Vec<String>> {
        self.over.store(true, Ordering::Relaxed);
        let mut ledger = self.publishing.await.map_err(away)?;
        let handed_on = self.handing_on.await.map_err(away)?;
        let mut found = HashSet::new();
        for queue in queues() {
            found.extend(drain(&self.provider, &queue).await.map_err(away)?);
        }
        self.provider.close().await.map_err(away)?;
        let mut complaints = std::mem::take(&mut ledger.complaints);
        if silence.is_some_and(|limit| ledger.silence > limit) {
            complaints.push(format!("no bare publish was accepted for {:?}", ledger.silence));
        }
        let mut complain = |what: &str, jobs: Vec<&JobId>| {
            if let Some(first) = jobs.first() {
                complaints.push(format!("{} {what}, such as {first}", jobs.len()));
            }
        };
        complain("claimed to be accepted, and not there", ledger.accepted.difference(&found).collect());
        complain("claimed not to be written, and there", ledger.refused.intersection(&found).collect());
        let known = |id: &&JobId| ledger.accepted.contains(id) || ledger.unknown.contains(id);
        complain(
            "there and never published",
            found.iter().filter(|id| !known(id) && !ledger.refused.contains(id)).collect(),
        );
        eprintln!(
            "bare: {} accepted, {} refused, {} unknown {:?}, {handed_on} handed on, {} found; none accepted for {:?} at most",
            ledger.accepted.len(),
            ledger.refused.len(),
            ledger.unknown.len(),
            ledger.reasons,
            found.len(),
            ledger.silence,
        );
        Ok(complaints)
    }
}

async fn publish(provider: Arc<RabbitProvider>, over: Arc<AtomicBool>, refused: Arc<AtomicU64>) -> Ledger {
    let env = Env::system();
    let options = PublishOptions { deadline: DEADLINE, ..PublishOptions::default() };
    let mut ledger = Ledger::default();
    let (queues, mut last) = (queues(), Instant::now());
    for queue in queues[..2].iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let kind = JobKind::from_static("claim");
        let job = |_| Envelope::builder(JobId::fresh(&env), kind.clone(), &b"{}"[..], env.now()).seal();
        let batch: Vec<Envelope> = (0..BATCH).map(job).collect();
        let ids: Vec<JobId> = batch.iter().map(|job| job.id).collect();
        let asked = Instant::now();
        let answers = provider.publish(queue, batch, &options).await;
        if asked.elapsed() > DEADLINE + SLACK {
            ledger.complaints.push(format!("a bare publish of {DEADLINE:?} took {:?}", asked.elapsed()));
        }
        ledger.silence = ledger.silence.max(last.elapsed());
        if answers.iter().any(PublishOutcome::is_accepted) {
            last = Instant::now();
        }
        for (id, answer) in ids.into_iter().zip(answers) {
            match answer {
                PublishOutcome::Accepted { .. } => drop(ledger.accepted.insert(id)),
                PublishOutcome::Unknown(error) => {
                    ledger.unknown.insert(id);
                    *ledger.reasons.entry(error.to_string()).or_default() += 1;
                }
                PublishOutcome::Rejected(Rejection::Unavailable(_)) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    ledger.refused.insert(id);
                }
                other => ledger.complaints.push(format!("a bare publish was answered {other:?}")),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    ledger
}

/// Says how many went on.
async fn hand_on(provider: Arc<RabbitProvider>, over: Arc<AtomicBool>) -> u64 {
    let [_, first, second] = queues();
    let mut handed_on = 0;
    while !over.load(Ordering::Relaxed) {
        let Ok(consumer) = provider.consumer(&first, ConsumeOptions::new("claims", 20)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while !over.load(Ordering::Relaxed) {
            // Slower than they come: some always wait to be handed on, also when nothing can be published.
            tokio::time::sleep(PAUSE).await;
            let Ok(got) = consumer.fetch(1, PAUSE).await else { continue };
            let next = |job: &Delivery| FollowUp { queue: second.clone(), envelope: job.envelope.clone() };
            let done: Vec<Settlement> =
                got.iter().map(|job| Settlement { then: vec![next(job)], ..complete(job) }).collect();
            let outcomes = consumer.settle(&done).await;
            handed_on += outcomes.iter().filter(|outcome| outcome.is_settled()).count() as u64;
            // What could not be handed on is tried again later; what is not ours any more comes back by itself.
            let reason = ReleaseReason::Shutdown;
            let again = got.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.is_settled());
            let again: Vec<Settlement> = again
                .map(|(job, _)| Settlement::new(job.receipt, Disposition::Release { after: Duration::ZERO, reason }))
                .collect();
            consumer.settle(&again).await;
        }
        consumer.close(Duration::from_secs(1)).await;
    }
    handed_on
}

fn complete(job: &Delivery) -> Settlement {
    Settlement::new(job.receipt, Disposition::Complete { result: None })
}

async fn drain(provider: &RabbitProvider, queue: &QueueName) -> queue_core::Result<HashSet<JobId>> {
    let consumer = provider.consumer(queue, ConsumeOptions::new("claims", 200)).await?;
    let (mut found, start, mut last) = (HashSet::new(), Instant::now(), Instant::now());
    while last.elapsed() < EMPTY && start.elapsed() < DRAIN {
        let got = match consumer.fetch(100, Duration::from_secs(1)).await {
            Ok(got) => got,
            Err(error) if error.is_retryable() => Vec::new(),
            Err(error) => return Err(error),
        };
        if !got.is_empty() {
            last = Instant::now();
        }
        let done: Vec<Settlement> = got.iter().map(complete).collect();
        found.extend(got.iter().map(|job| job.envelope.id));
        consumer.settle(&done).await;
    }
    consumer.close(Duration::from_secs(1)).await;
    Ok(found)
}
