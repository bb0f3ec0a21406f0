//! What the rooms of the layer share.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use queue_core::{
    Env, Envelope, Error, ErrorCode, JobRef, QueueName, QueueProvider, QueueSpec,
    job::StoreId,
    provider::{LeaseModel, OnFull, PublishOptions, PublishOutcome, Rejection, StoreShare},
    queue_spec::Tracking,
    store::{QueueControl, Scope, TrackingStore},
};

use super::{
    away::Backlog,
    health::Health,
    options::Options,
    reconcile::Emptiness,
    retention::Unnoted,
    rule::{Rule, Rules},
};

#[derive(Debug)]
pub(super) struct Core {
    pub(super) env: Env,
    pub(super) transport: Arc<dyn QueueProvider>,
    pub(super) store: Arc<dyn TrackingStore>,
    /// Where the layer owns a part of the store.
    pub(super) share: Option<StoreShare>,
    pub(super) options: Options,
    pub(super) name: Arc<str>,
    pub(super) rules: Rules,
    pub(super) health: Health,
    pub(super) backlog: Backlog,
    pub(super) emptiness: Emptiness,
    pub(super) unnoted: Unnoted,
    /// In milliseconds, of the consumers of this process.
    longest_lease: AtomicU64,
    specs: Mutex<BTreeMap<QueueName, Known>>,
    controls: Mutex<BTreeMap<QueueName, (Duration, QueueControl)>>,
}

/// What is known of a queue's declaration.
#[derive(Debug, Clone)]
struct Known {
    spec: Arc<QueueSpec>,
    /// Declared here, or read from the broker. What is only supposed is looked up again after a while.
    until: Option<Duration>,
}

/// How long a queue that nobody seems to have declared is taken to have the defaults.
const SUPPOSED_FOR: Duration = Duration::from_secs(30);
/// How many queues' specs and switches are remembered.
pub(super) const MAX_KNOWN: usize = 10_000;
/// Others may be changing a queue's switches at the same time.
pub(super) const CONTROL_TRIES: usize = 10;
/// How long a step of a settlement or of the sweep waits for the transport.
pub(super) const STEP_DEADLINE: Duration = Duration::from_secs(10);

impl Core {
    pub(super) fn new(
        transport: Arc<dyn QueueProvider>,
        store: Arc<dyn TrackingStore>,
        share: Option<StoreShare>,
        env: Env,
        options: Options,
    ) -> Self {
        let now = env.clock.monotonic();
        Self {
            name: options.name.clone().unwrap_or_else(|| transport.scheme().into()),
            env,
            transport,
            store,
            share,
            options,
            rules: Rules::default(),
            health: Health::new(now),
            backlog: Backlog::default(),
            emptiness: Emptiness::default(),
            unnoted: Unnoted::default(),
            longest_lease: AtomicU64::new(0),
            specs: Mutex::default(),
            controls: Mutex::default(),
        }
    }

    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.rules.keeps(rule)
    }

    pub(super) fn now(&self) -> Duration {
        self.env.clock.monotonic()
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.transport.scheme()
    }

    pub(super) fn store_id(&self) -> StoreId {
        self.store.id()
    }

    pub(super) fn scope(&self, queues: Option<Vec<QueueName>>) -> Scope {
        Scope { provider: Arc::clone(&self.name), queues }
    }

    pub(super) fn note_lease(&self, lease: Duration) {
        self.longest_lease.fetch_max(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the store must have answered before a dead lease is one: its holder had to have the time to say that he lives.
    pub(super) fn longest_lease(&self) -> Duration {
        self.options.longest_lease.max(Duration::from_millis(self.longest_lease.load(Ordering::Relaxed)))
    }

    // Queues.

    fn specs(&self) -> MutexGuard<'_, BTreeMap<QueueName, Known>> {
        self.specs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learn(&self, spec: &QueueSpec) {
        self.remember(spec.clone(), None);
    }

    /// As it is known for good, which a queue that was only used is not.
    pub(super) fn declared(&self, queue: &QueueName) -> Option<Arc<QueueSpec>> {
        self.specs().get(queue).filter(|known| known.until.is_none()).map(|known| Arc::clone(&known.spec))
    }

    fn remember(&self, spec: QueueSpec, until: Option<Duration>) -> Arc<QueueSpec> {
        let spec = Arc::new(spec);
        let mut specs = self.specs();
        if until.is_some()
            && let Some(known) = specs.get(&spec.name).filter(|known| known.until.is_none())
        {
            // It was declared while the broker was asked.
            return Arc::clone(&known.spec);
        }
        if specs.len() >= MAX_KNOWN && !specs.contains_key(&spec.name) {
            specs.pop_first();
        }
        specs.insert(spec.name.clone(), Known { spec: Arc::clone(&spec), until });
        spec
    }

    pub(super) fn forget_queue(&self, queue: &QueueName) {
        self.specs().remove(queue);
        self.controls.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
        self.emptiness.forget(queue);
        self.unnoted.forget(queue);
    }

    /// Queues that this process declared or used.
    pub(super) fn known_queues(&self) -> Vec<Arc<QueueSpec>> {
        self.specs().values().map(|known| Arc::clone(&known.spec)).collect()
    }

    /// Of these, the ones of which that is certain.
    pub(super) fn declared_queues(&self) -> Vec<QueueName> {
        let specs = self.specs();
        specs.iter().filter(|(_, known)| known.until.is_none()).map(|(queue, _)| queue.clone()).collect()
    }

    /// The queue as it was declared, by whichever process, as far as the broker tells; else with the defaults.
    pub(super) async fn spec(&self, queue: &QueueName) -> Arc<QueueSpec> {
        let now = self.now();
        let known = self.specs().get(queue).cloned();
        if let Some(known) = known.filter(|known| known.until.is_none_or(|until| now < until)) {
            return known.spec;
        }
        match self.transport.admin().spec(queue).await {
            Ok(Some(spec)) => self.remember(spec, None),
            Ok(None) => self.remember(QueueSpec::new(queue.clone()), Some(now + SUPPOSED_FOR)),
            Err(error) if error.code() == ErrorCode::Unsupported => {
                self.remember(QueueSpec::new(queue.clone()), Some(now + SUPPOSED_FOR))
            }
            Err(_) => Arc::new(QueueSpec::new(queue.clone())),
        }
    }

    pub(super) async fn is_tracked(&self, queue: &QueueName) -> bool {
        self.spec(queue).await.tracking == Tracking::Full
    }

    /// The switches of a queue, at most a little old. While the store is away: as they were.
    pub(super) async fn control(&self, queue: &QueueName) -> QueueControl {
        let now = self.now();
        let known = self.controls.lock().unwrap_or_else(PoisonError::into_inner).get(queue).cloned();
        if let Some((read, control)) = &known
            && now < *read + self.options.control_every
        {
            return control.clone();
        }
        let last = known.map(|(_, control)| control).unwrap_or_default();
        let control = match self.store_is_away().await {
            true => last,
            false => self.ask(self.store.queue_control(queue)).await.unwrap_or(last),
        };
        let mut controls = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        if controls.len() >= MAX_KNOWN && !controls.contains_key(queue) {
            controls.pop_first();
        }
        controls.insert(queue.clone(), (now, control.clone()));
        control
    }

    // Copies.

    /// With the store's id, so that whoever consumes it knows where its record is, or will be.
    pub(super) fn stamp(&self, envelope: Envelope) -> Envelope {
        let id = Some(self.store_id());
        if envelope.store == id || !self.keeps(Rule::StoreIsStamped) {
            return envelope;
        }
        envelope.edit(|parts| parts.store = id)
    }

    pub(super) fn leases_are_per_message(&self) -> bool {
        matches!(self.transport.capabilities(None).lease, LeaseModel::PerMessage { .. })
    }

    /// How much of a copy's delay the transport cannot hold: that long the store keeps it.
    pub(super) fn beyond_cap(&self, spec: &QueueSpec, envelope: &Envelope) -> Option<Duration> {
        let delay = self.env.now().until(envelope.not_before?);
        let can = self.transport.capabilities(Some(spec));
        let cap = match (can.delay.is_supported(), can.delay_max) {
            (false, _) => Duration::ZERO,
            (true, None) => return None,
            (true, Some(cap)) => cap,
        };
        (delay > cap && self.keeps(Rule::LongDelaysAreHeld)).then(|| delay - cap)
    }

    /// Publishes copies of accepted jobs: one outcome each, in order. What the transport cannot hold yet is not sent.
    pub(super) async fn post(&self, copies: &[(JobRef, Envelope)]) -> Vec<Option<PublishOutcome>> {
        let mut by_queue: BTreeMap<&QueueName, Vec<usize>> = BTreeMap::new();
        for (at, (job, _)) in copies.iter().enumerate() {
            by_queue.entry(&job.queue).or_default().push(at);
        }
        let mut outcomes: Vec<Option<PublishOutcome>> = copies.iter().map(|_| None).collect();
        for (queue, places) in by_queue {
            let spec = self.spec(queue).await;
            let places: Vec<usize> =
                places.into_iter().filter(|at| self.beyond_cap(&spec, &copies[*at].1).is_none()).collect();
            let batch: Vec<Envelope> = places.iter().map(|at| copies[*at].1.clone()).collect();
            if batch.is_empty() {
                continue;
            }
            let on_full = if self.keeps(Rule::PromisesFindRoom) { OnFull::Exceed } else { OnFull::Reject };
            let options = PublishOptions { deadline: STEP_DEADLINE, on_full, ..PublishOptions::default() };
            for (at, outcome) in places.into_iter().zip(self.transport.publish(queue, batch, &options).await) {
                outcomes[at] = Some(outcome);
            }
        }
        outcomes
    }

    /// Tells the store what the transport has. A confirm that is lost costs a second copy, which is dropped at its claim.
    pub(super) async fn confirm(&self, copies: &[(JobRef, Envelope)], outcomes: &[Option<PublishOutcome>]) {
        let mut sent = Vec::new();
        for ((job, copy), outcome) in copies.iter().zip(outcomes) {
            let place = match outcome {
                Some(PublishOutcome::Accepted { place }) => *place,
                Some(PublishOutcome::Unknown(_)) if !self.keeps(Rule::UnansweredIsNotConfirmed) => 0,
                _ => continue,
            };
            let mut generation = copy.generation;
            if !self.keeps(Rule::ConfirmNamesTheCopy)
                && let Some(Ok(queue_core::store::Lookup::Found(record))) =
                    self.store.get(std::slice::from_ref(job)).await.pop()
            {
                generation = record.envelope.generation;
            }
            sent.push((JobRef { place, ..job.clone() }, generation));
        }
        if !sent.is_empty() {
            self.ask_all(sent.len(), self.store.confirm(&sent)).await;
        }
    }
}

/// Whether the transport will never take the copy.
pub(super) fn is_for_good(rejection: &Rejection) -> bool {
    match rejection {
        Rejection::Full | Rejection::Unavailable(_) | Rejection::DelayTooLong { .. } => false,
        Rejection::Denied(error) => !error.code().is_retryable(),
        _ => true,
    }
}

pub(super) fn unavailable(message: &'static str, provider: &'static str) -> Error {
    Error::new(ErrorCode::Unavailable, message).by(provider)
}
