//! What a case works with.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use queue_core::{
    Consumer, Env, Envelope, JobId, JobRef, Priority, QueueName, QueueProvider, QueueSpec, Timestamp,
    config::defaults,
    job::{EnvelopeBuilder, JobKind, Unique, UniqueKey},
    provider::{
        Capabilities, ConsumeOptions, Delivery, Disposition, LeaseModel, PublishOptions, PublishOutcome, SettleOutcome,
        Settlement,
    },
    stats::QueueStats,
    store::{JobRecord, JobStore, Lookup},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Failed, Outcome, case::check};
use crate::harness::{Facts, Harness};

/// A connection and its maintenance task.
type Upkeep = (Arc<dyn QueueProvider>, JoinHandle<()>);

/// The broker under test, seen from one case. Each queue it names is its own, and is dropped when the case ends.
#[derive(Debug)]
pub struct Ctx {
    harness: Arc<dyn Harness>,
    facts: Facts,
    caps: Capabilities,
    provider: Arc<dyn QueueProvider>,
    env: Env,
    named: AtomicU32,
    queues: Mutex<Vec<QueueName>>,
    upkeep: Mutex<Vec<Upkeep>>,
}

impl Ctx {
    /// Connects.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn open(harness: Arc<dyn Harness>) -> queue_core::Result<Self> {
        let provider = harness.connect().await?;
        let ctx = Self {
            facts: harness.facts(),
            caps: provider.capabilities(None),
            env: harness.env(),
            harness,
            provider: Arc::clone(&provider),
            named: AtomicU32::new(0),
            queues: Mutex::default(),
            upkeep: Mutex::default(),
        };
        ctx.keep_up(provider);
        Ok(ctx)
    }

    /// Drops the case's queues and stops its background tasks.
    pub async fn finish(self) {
        let queues = std::mem::take(&mut *self.queues.lock().unwrap_or_else(PoisonError::into_inner));
        for queue in queues {
            // The case is over: what cannot be dropped any more was dropped or closed by the case itself.
            let _ = timeout(Duration::from_secs(5), self.provider.drop_queue(&queue, false)).await;
        }
        let upkeep = std::mem::take(&mut *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner));
        for (provider, task) in upkeep {
            task.abort();
            let _ = task.await;
            let _ = timeout(Duration::from_secs(5), provider.close()).await;
        }
    }

    /// The case's first connection.
    #[must_use]
    pub fn provider(&self) -> &Arc<dyn QueueProvider> {
        &self.provider
    }

    /// What the provider can do.
    #[must_use]
    pub fn caps(&self) -> &Capabilities {
        &self.caps
    }

    /// What the harness can do.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The harness.
    #[must_use]
    pub fn harness(&self) -> &Arc<dyn Harness> {
        &self.harness
    }

    /// The case's clock and randomness.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Wall-clock time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// The records.
    pub(crate) fn store(&self) -> Outcome<Arc<dyn JobStore>> {
        self.provider.job_store().ok_or_else(|| Failed("the provider has no job store any more".into()))
    }

    // Connections.

    /// Another connection to the same broker, with its own maintenance task.
    pub(crate) async fn connect(&self) -> Outcome<Arc<dyn QueueProvider>> {
        let provider = self.harness.connect().await?;
        self.keep_up(Arc::clone(&provider));
        Ok(provider)
    }

    /// Kills a connection that [`Ctx::connect`] made.
    pub(crate) async fn crash(&self, provider: Arc<dyn QueueProvider>) {
        let task = {
            let mut upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
            let at = upkeep.iter().position(|(kept, _)| Arc::ptr_eq(kept, &provider));
            at.map(|at| upkeep.swap_remove(at))
        };
        if let Some((_, task)) = task {
            task.abort();
            let _ = task.await;
        }
        self.harness.crash(provider).await;
    }

    /// What a scheduler would do: without it nothing is promoted or reclaimed.
    fn keep_up(&self, provider: Arc<dyn QueueProvider>) {
        let kept = Arc::clone(&provider);
        let task = tokio::spawn(async move {
            loop {
                let next = provider.maintain(true).await.unwrap_or(defaults::MAINTENANCE_TICK);
                // Never zero: a provider that always has work must not stop a paused clock.
                sleep(next.clamp(Duration::from_millis(5), defaults::MAINTENANCE_TICK)).await;
            }
        });
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner).push((kept, task));
    }

    // Times.

    /// The longest wait for something that must come.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let patience = Duration::from_secs(if self.facts.virtual_time { 120 } else { 20 });
        match self.caps.lease {
            LeaseModel::PerMessage { .. } => patience,
            // Where a store fences what a dead session held, it comes back when its lease ends.
            LeaseModel::Session { .. } => patience + self.long_lease(),
        }
    }

    /// How long nothing must come, to be believed.
    #[must_use]
    pub fn quiet_time(&self) -> Duration {
        if self.facts.virtual_time { Duration::from_secs(5) } else { Duration::from_millis(700) }
    }

    /// What "at once" may take. Virtual time stands still while anything runs.
    #[must_use]
    pub fn promptly(&self) -> Duration {
        self.facts.at_once
    }

    /// How much later than `delay` something that is due may come, to be on time.
    #[must_use]
    pub fn lateness(&self, delay: Duration) -> Duration {
        self.slack(delay) + self.promptly()
    }

    /// When something that is due after `delay` is there, unless the machine is very busy: for who cannot look until it is.
    #[must_use]
    pub fn by_then(&self, delay: Duration) -> Duration {
        delay + self.slack(delay) + self.promptly().min(Duration::from_secs(2))
    }

    /// The granularity, a maintenance tick, and a quarter for brokers that round long delays up.
    fn slack(&self, delay: Duration) -> Duration {
        self.caps.delay_granularity + defaults::MAINTENANCE_TICK + delay / 4
    }

    /// Times to try a case with whose parts must come within one: the next is for a broker that was too slow for the last.
    #[must_use]
    pub fn stretched(&self, time: Duration) -> Vec<Duration> {
        let factors: &[u32] = if self.facts.virtual_time { &[1] } else { &[1, 4, 16] };
        factors.iter().map(|factor| time * *factor).collect()
    }

    /// A lease that outlasts every case.
    #[must_use]
    pub fn long_lease(&self) -> Duration {
        match self.caps.lease {
            LeaseModel::PerMessage { min, max } => Duration::from_secs(3_600).clamp(min, max.max(min)),
            LeaseModel::Session { .. } => defaults::LEASE,
        }
    }

    // Names and jobs.

    /// A queue that no other case uses.
    pub(crate) fn queue(&self, hint: &str) -> QueueName {
        let number = self.named.fetch_add(1, Ordering::Relaxed);
        let random = self.env.random.next_u64() & 0xFFFF_FFFF;
        self.own(format!("{hint}.{random:08x}.{number}"))
    }

    /// Takes a name as it is; the case answers for its being unique.
    #[allow(clippy::expect_used, reason = "the suite's own names")]
    pub(crate) fn own(&self, name: impl AsRef<str>) -> QueueName {
        let name = QueueName::new(name).expect("the suite's names are valid");
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        name
    }

    /// A declared queue with what `change` makes of the defaults.
    pub(crate) async fn declared(&self, hint: &str, change: impl FnOnce(&mut QueueSpec)) -> Outcome<QueueName> {
        let queue = self.queue(hint);
        let mut spec = QueueSpec::new(queue.clone());
        change(&mut spec);
        self.provider.declare(&spec).await?;
        Ok(queue)
    }

    /// A fresh id.
    pub(crate) fn id(&self) -> JobId {
        JobId::fresh(&self.env)
    }

    /// A job whose payload is the text.
    pub(crate) fn job(&self, text: impl AsRef<str>) -> EnvelopeBuilder {
        let payload = text.as_ref().as_bytes().to_vec();
        Envelope::builder(self.id(), JobKind::from_static("test.job"), payload, self.now())
    }

    /// The same with a priority level.
    #[allow(clippy::expect_used, reason = "the suite's own levels")]
    pub(crate) fn ranked(&self, text: impl AsRef<str>, level: u8) -> Envelope {
        let mut job = self.job(text);
        job.priority = Priority::new(level).expect("1 to 15");
        job.seal()
    }

    /// The same, not before `delay` has passed.
    pub(crate) fn delayed(&self, text: impl AsRef<str>, delay: Duration) -> Envelope {
        let mut job = self.job(text);
        job.not_before = Some(self.now() + delay);
        job.seal()
    }

    /// The same with a unique key.
    #[allow(clippy::expect_used, reason = "the suite's own keys")]
    pub(crate) fn unique(&self, text: impl AsRef<str>, key: &str, window: Option<Duration>) -> Envelope {
        let mut job = self.job(text);
        job.unique = Some(Box::new(Unique { key: UniqueKey::new(key).expect("1 to 256 bytes"), window }));
        job.seal()
    }

    // Putting in.

    /// Publishes and answers what the provider said.
    pub(crate) async fn offer(&self, queue: &QueueName, batch: Vec<Envelope>) -> Outcome<Vec<PublishOutcome>> {
        let sent = batch.len();
        let outcomes = self.provider.publish(queue, batch, &PublishOptions::default()).await;
        check!(outcomes.len() == sent, "{} outcomes for a batch of {sent}", outcomes.len());
        Ok(outcomes)
    }

    /// Publishes one and answers what the provider said.
    pub(crate) async fn offer_one(&self, queue: &QueueName, job: Envelope) -> Outcome<PublishOutcome> {
        let mut outcomes = self.offer(queue, vec![job]).await?;
        outcomes.pop().ok_or_else(|| Failed("no outcome".into()))
    }

    /// Publishes a batch, all of which must be accepted.
    pub(crate) async fn publish_all(&self, queue: &QueueName, batch: Vec<Envelope>) -> Outcome<Vec<JobRef>> {
        let ids: Vec<JobId> = batch.iter().map(|job| job.id).collect();
        let outcomes = self.offer(queue, batch).await?;
        let mut refs = Vec::with_capacity(ids.len());
        for (at, (outcome, id)) in outcomes.into_iter().zip(ids).enumerate() {
            match outcome {
                PublishOutcome::Accepted { place } => refs.push(JobRef { queue: queue.clone(), id, place }),
                other => return Err(Failed(format!("item {at} on {queue} was not accepted: {other:?}"))),
            }
        }
        Ok(refs)
    }

    /// Publishes one, which must be accepted.
    pub(crate) async fn publish(&self, queue: &QueueName, job: Envelope) -> Outcome<JobRef> {
        let mut refs = self.publish_all(queue, vec![job]).await?;
        refs.pop().ok_or_else(|| Failed("no outcome".into()))
    }

    /// Publishes jobs whose payloads are these texts.
    pub(crate) async fn publish_texts(&self, queue: &QueueName, texts: &[&str]) -> Outcome<Vec<JobRef>> {
        self.publish_all(queue, texts.iter().map(|text| self.job(text).seal()).collect()).await
    }

    // Taking out.

    /// A consumer with room for many and a lease that outlasts the case.
    pub(crate) async fn consumer(&self, queue: &QueueName) -> Outcome<Arc<dyn Consumer>> {
        self.consumer_on(&self.provider, queue, 1_000, self.long_lease()).await
    }

    /// A consumer that holds at most `outstanding`.
    pub(crate) async fn narrow_consumer(&self, queue: &QueueName, outstanding: usize) -> Outcome<Arc<dyn Consumer>> {
        self.consumer_on(&self.provider, queue, outstanding, self.long_lease()).await
    }

    /// A consumer as it is asked for.
    pub(crate) async fn consumer_on(
        &self,
        provider: &Arc<dyn QueueProvider>,
        queue: &QueueName,
        outstanding: usize,
        lease: Duration,
    ) -> Outcome<Arc<dyn Consumer>> {
        let mut options = ConsumeOptions::new("suite", outstanding);
        options.lease = lease;
        Ok(provider.consumer(queue, options).await?)
    }

    /// Fetches until `n` have come; fewer within the patience is a failure.
    pub(crate) async fn take(&self, consumer: &Arc<dyn Consumer>, n: usize) -> Outcome<Vec<Delivery>> {
        let got = self.collect(consumer, n, self.patience()).await?;
        check!(got.len() == n, "{} of {n} deliveries came: {:?}", got.len(), texts(&got));
        Ok(got)
    }

    /// Fetches one.
    pub(crate) async fn take_one(&self, consumer: &Arc<dyn Consumer>) -> Outcome<Delivery> {
        let mut got = self.take(consumer, 1).await?;
        got.pop().ok_or_else(|| Failed("nothing came".into()))
    }

    /// Fetches what comes, at most `n`, within the span.
    pub(crate) async fn collect(
        &self,
        consumer: &Arc<dyn Consumer>,
        n: usize,
        span: Duration,
    ) -> Outcome<Vec<Delivery>> {
        let end = Instant::now() + span;
        let mut got = Vec::new();
        while got.len() < n {
            let left = end.saturating_duration_since(Instant::now());
            let before = Instant::now();
            let more = consumer.fetch(n - got.len(), left).await?;
            check!(more.len() <= n - got.len(), "fetch({}) returned {}", n - got.len(), more.len());
            let idle = more.is_empty();
            got.extend(more);
            if left.is_zero() {
                break;
            }
            if idle && before.elapsed() < Duration::from_millis(10) {
                sleep(Duration::from_millis(10)).await; // Closed or broken: do not stop a paused clock.
            }
        }
        Ok(got)
    }

    /// Nothing may come.
    pub(crate) async fn nothing(&self, consumer: &Arc<dyn Consumer>, why: &str) -> Outcome {
        let got = self.collect(consumer, 1, self.quiet_time()).await?;
        check!(got.is_empty(), "{why}: {:?} came", texts(&got));
        Ok(())
    }

    // Ending.

    /// Settles one and answers what the provider said.
    pub(crate) async fn settle(
        &self,
        consumer: &Arc<dyn Consumer>,
        delivery: &Delivery,
        disposition: Disposition,
    ) -> Outcome<SettleOutcome> {
        self.settle_with(consumer, Settlement::new(delivery.receipt, disposition)).await
    }

    /// Settles one, follow-ups and all, and answers what the provider said.
    pub(crate) async fn settle_with(
        &self,
        consumer: &Arc<dyn Consumer>,
        settlement: Settlement,
    ) -> Outcome<SettleOutcome> {
        let mut outcomes = consumer.settle(&[settlement]).await;
        check!(outcomes.len() == 1, "{} outcomes for one settlement", outcomes.len());
        outcomes.pop().ok_or_else(|| Failed("no outcome".into()))
    }

    /// Settles one, which must be `Settled`.
    pub(crate) async fn end(
        &self,
        consumer: &Arc<dyn Consumer>,
        delivery: &Delivery,
        disposition: Disposition,
    ) -> Outcome {
        let asked = format!("{disposition:?}");
        let outcome = self.settle(consumer, delivery, disposition).await?;
        check!(matches!(outcome, SettleOutcome::Settled), "{asked} was answered {outcome:?}");
        Ok(())
    }

    /// Completes one, which must be `Settled`.
    pub(crate) async fn complete(&self, consumer: &Arc<dyn Consumer>, delivery: &Delivery) -> Outcome {
        self.end(consumer, delivery, Disposition::Complete { result: None }).await
    }

    /// Completes all.
    pub(crate) async fn complete_all(&self, consumer: &Arc<dyn Consumer>, deliveries: &[Delivery]) -> Outcome {
        let batch: Vec<Settlement> = deliveries
            .iter()
            .map(|delivery| Settlement::new(delivery.receipt, Disposition::Complete { result: None }))
            .collect();
        let outcomes = consumer.settle(&batch).await;
        check!(outcomes.len() == batch.len(), "{} outcomes for {} settlements", outcomes.len(), batch.len());
        for (at, outcome) in outcomes.iter().enumerate() {
            check!(matches!(outcome, SettleOutcome::Settled), "settlement {at} was answered {outcome:?}");
        }
        Ok(())
    }

    // Looking.

    /// The numbers of one queue.
    pub(crate) async fn stats(&self, queue: &QueueName) -> Outcome<QueueStats> {
        let mut answers = self.provider.admin().stats(std::slice::from_ref(queue)).await;
        check!(answers.len() == 1, "{} answers for the statistics of one queue", answers.len());
        answers.pop().ok_or_else(|| Failed("no answer".into()))?.map_err(Failed::from)
    }

    /// What the store says of a job.
    pub(crate) async fn lookup(&self, job: &JobRef) -> Outcome<Lookup> {
        let mut answers = self.store()?.get(std::slice::from_ref(job)).await;
        check!(answers.len() == 1, "{} answers for one job", answers.len());
        answers.pop().ok_or_else(|| Failed("no answer".into()))?.map_err(Failed::from)
    }

    /// The record of a job, which must have one.
    pub(crate) async fn record(&self, job: &JobRef) -> Outcome<JobRecord> {
        match self.lookup(job).await? {
            Lookup::Found(record) => Ok(*record),
            other => Err(Failed(format!("no record of {job}: {other:?}"))),
        }
    }
}

/// The payload as text.
pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.envelope.payload).into_owned()
}

/// The payloads as texts, at most sixteen of at most forty characters: they are for messages and short comparisons.
pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| text(delivery).chars().take(40).collect()).collect()
}
