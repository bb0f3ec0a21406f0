//! Defects of publishing, declaring and closing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Envelope, ErrorCode, JobId, JobRef, Priority, QueueName, QueueProvider, QueueSpec, Result,
    job::{ContentType, RawHeaders},
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Consumer, Disposition, OnFull, PairedStore, ParkKey, PublishOptions,
        PublishOutcome, QueueAdmin, Rejection, ReleaseReason, Settlement, Topics,
    },
    queue_spec::Order,
    store::JobStore,
};

use super::{
    Defect, Shared, admin::SabotagedAdmin, consumer::SabotagedConsumer, store::SabotagedStore, topics::SabotagedTopics,
};

#[derive(Debug)]
pub(super) struct SabotagedProvider {
    pub(super) inner: Arc<dyn QueueProvider>,
    pub(super) shared: Arc<Shared>,
}

impl SabotagedProvider {
    fn is(&self, defect: Defect) -> bool {
        self.shared.is(defect)
    }

    /// What a defect makes of a declaration.
    fn misdeclare(&self, spec: &mut QueueSpec) {
        if matches!(spec.order, Order::Aged { .. }) {
            self.shared.state().aged.insert(spec.name.clone());
        }
        match self.shared.defect {
            Some(Defect::AgedIsStrict) => spec.order = Order::Strict,
            Some(Defect::AgedAtOnce) if matches!(spec.order, Order::Aged { .. }) => {
                spec.order = Order::Aged { bound: Duration::from_nanos(2) };
            }
            Some(Defect::WeightsIgnored) => spec.partitions.values_mut().for_each(|partition| partition.weight = 1),
            Some(Defect::CapForAll) if !spec.partitions.is_empty() => {
                let narrowest = spec.partitions.values().filter_map(|partition| partition.max_concurrency).min();
                spec.partitions.entry(QueueSpec::DEFAULT_PARTITION.into()).or_default();
                spec.partitions.values_mut().for_each(|partition| partition.max_concurrency = narrowest);
            }
            Some(Defect::CapIgnored) => {
                spec.partitions.values_mut().for_each(|partition| partition.max_concurrency = None);
            }
            _ => {}
        }
    }

    /// What a defect makes of a job on its way in.
    fn change(&self, queue: &QueueName, job: Envelope) -> Envelope {
        let mut state = self.shared.state();
        let kept = job.clone();
        let changed = match self.shared.defect {
            Some(Defect::DelayIgnored) => job.edit(|job| job.not_before = None),
            Some(Defect::DelayCutShort) => job.edit(|job| {
                let early = |due| job.created_at + job.created_at.until(due) * 9 / 10;
                job.not_before = job.not_before.map(early);
            }),
            Some(Defect::PriorityIgnored) => job.edit(|job| job.priority = Priority::NORMAL),
            Some(Defect::AgedIgnoresPriority) if state.aged.contains(queue) => {
                job.edit(|job| job.priority = Priority::NORMAL)
            }
            // As old as it can be.
            Some(Defect::AgedSinceSubmission) if state.aged.contains(queue) && job.not_before.is_some() => {
                job.edit(|job| job.priority = Priority::URGENT)
            }
            Some(Defect::PartitionIgnored) if job.partition().is_some() => {
                job.edit(|job| job.headers = without_partition(&job.headers))
            }
            Some(Defect::ExpiredDelivered) => job.edit(|job| job.expires_at = None),
            Some(Defect::UniqueIgnored) => job.edit(|job| job.unique = None),
            Some(Defect::UniqueWindowIgnored) => {
                job.edit(|job| job.unique.iter_mut().for_each(|unique| unique.window = None))
            }
            Some(Defect::DedupOff) => {
                let known = !state.ids.insert((queue.clone(), job.id));
                let n = state.ids.len() as u64;
                return if known { job.edit(|other| other.id = JobId::derive(job.id.as_bytes(), n)) } else { job };
            }
            Some(Defect::PayloadTruncated) => {
                return job.edit(|job| job.payload.truncate(512));
            }
            Some(Defect::HeadersDropped) => return job.edit(|job| job.headers = RawHeaders::default()),
            Some(Defect::ContentTypeReset) => return job.edit(|job| job.content_type = ContentType::Json),
            _ => return job,
        };
        state.originals.insert(kept.id, kept);
        changed
    }

    /// The first holder of a key holds it for ever.
    fn old_holder(&self, queue: &QueueName, job: &Envelope) -> Option<JobRef> {
        let key = job.unique.as_ref().filter(|_| self.is(Defect::UniqueNeverFreed))?.key.clone();
        let mut state = self.shared.state();
        let holder = state.keys.entry((queue.clone(), key)).or_insert_with(|| JobRef::new(queue.clone(), job.id));
        (holder.id != job.id).then(|| holder.clone())
    }

    fn answer(&self, outcome: PublishOutcome, asked: &JobRef) -> PublishOutcome {
        match outcome {
            PublishOutcome::Rejected(Rejection::TooLarge { .. }) if self.is(Defect::OversizeAccepted) => {
                PublishOutcome::Accepted { place: 0 }
            }
            PublishOutcome::Rejected(Rejection::Full) if self.is(Defect::FullNeverReported) => {
                PublishOutcome::Accepted { place: 0 }
            }
            PublishOutcome::Duplicate { .. } if self.is(Defect::DuplicateNamesItself) => {
                PublishOutcome::Duplicate { existing: asked.clone() }
            }
            outcome => outcome,
        }
    }

    async fn forward(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let accepted = PublishOutcome::Accepted { place: 0 };
        if self.is(Defect::PublishLost) {
            return vec![accepted; batch.len()];
        }
        let asked: Vec<JobRef> = batch.iter().map(|job| JobRef::new(queue.clone(), job.id)).collect();
        let holders: Vec<Option<JobRef>> = batch.iter().map(|job| self.old_holder(queue, job)).collect();
        let mut sent: Vec<Envelope> = batch
            .into_iter()
            .zip(&holders)
            .filter(|(_, holder)| holder.is_none())
            .map(|(job, _)| self.change(queue, job))
            .collect();
        let lost = (self.is(Defect::BatchItemLost) && sent.len() > 1).then(|| sent.pop()).is_some();
        if self.is(Defect::PublishDoubled) {
            let copies = sent.iter().map(|job| job.edit(|copy| copy.id = JobId::derive(job.id.as_bytes(), 77)));
            let copies: Vec<Envelope> = copies.collect();
            self.inner.publish(queue, copies, options).await;
        }
        let mut outcomes = self.inner.publish(queue, sent, options).await;
        if lost {
            outcomes.push(accepted);
        }
        let mut outcomes = outcomes.into_iter();
        let all = asked.iter().zip(holders).filter_map(|(asked, holder)| match holder {
            Some(existing) => Some(PublishOutcome::Duplicate { existing }),
            None => Some(self.answer(outcomes.next()?, asked)),
        });
        all.collect()
    }
}

#[async_trait]
impl QueueProvider for SabotagedProvider {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        // The defect leaves the promises as they are.
        self.inner.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        if let Some(max_len) = spec.max_len {
            self.shared.state().max_len.insert(spec.name.clone(), max_len);
        }
        let mut spec = spec.clone();
        self.misdeclare(&mut spec);
        let answer = self.inner.declare(&spec).await;
        match answer.as_ref().err().map(queue_core::Error::code) {
            Some(ErrorCode::Conflict) if self.is(Defect::ConflictAccepted) => Ok(()),
            Some(ErrorCode::Unsupported) if self.is(Defect::UnsupportedSilently) => Ok(()),
            _ => answer,
        }
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.inner.drop_queue(queue, only_if_empty && !self.is(Defect::OnlyIfEmptyIgnored)).await?;
        if self.is(Defect::DroppedStaysSubscribed)
            && let Some(topics) = self.inner.topics()
        {
            let subscribed = self.shared.state().subscribed.clone();
            for (topic, queue) in subscribed.iter().filter(|(_, known)| known == queue) {
                topics.subscribe(topic, queue).await?;
            }
        }
        Ok(())
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let mut options = options.clone();
        if self.is(Defect::FullNeverWaits) {
            options.on_full = OnFull::Reject;
        }
        let queue = self.shared.queue(queue);
        if self.is(Defect::OversizeFailsBatch) && batch.iter().any(|job| job.payload.len() >= 4_096) {
            let rejection = Rejection::TooLarge { limit: 4_096, actual: 4_097 };
            return vec![PublishOutcome::Rejected(rejection); batch.len()];
        }
        let mut outcomes = self.forward(&queue, batch, &options).await;
        if self.is(Defect::OutcomesSwapped) {
            outcomes.reverse();
        }
        outcomes
    }

    async fn consumer(&self, queue: &QueueName, mut options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        match self.shared.defect {
            Some(Defect::LeaseHalved) => options.lease /= 2,
            Some(Defect::LeaseNeverEnds) => options.lease = Duration::from_secs(86_400),
            Some(Defect::DemandIgnored) => options.outstanding = 10_000,
            _ => {}
        }
        let lease = options.lease;
        let inner = self.inner.consumer(&self.shared.queue(queue), options).await?;
        let provider = Arc::clone(&self.inner);
        Ok(Arc::new(SabotagedConsumer::new(inner, provider, queue.clone(), lease, Arc::clone(&self.shared))))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(SabotagedAdmin { inner: self.inner.admin(), shared: Arc::clone(&self.shared) })
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        let inner = self.inner.topics()?;
        let (provider, shared) = (Arc::clone(&self.inner), Arc::clone(&self.shared));
        Some(Arc::new(SabotagedTopics { inner, provider, shared }))
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        let inner = self.inner.job_store()?;
        Some(Arc::new(SabotagedStore { inner, shared: Arc::clone(&self.shared) }))
    }

    fn paired(&self) -> Option<PairedStore> {
        self.inner.paired()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        let n = if self.is(Defect::UnparksAll) { usize::MAX } else { n };
        let unparked = self.inner.unpark(queue, key, n).await?;
        if self.is(Defect::UnparkedToTail) && unparked > 0 {
            let consumer = self.inner.consumer(queue, ConsumeOptions::new("saboteur", unparked)).await?;
            let later = Disposition::Release { after: Duration::from_millis(1), reason: ReleaseReason::Snooze };
            let taken = consumer.fetch(unparked, Duration::ZERO).await?;
            let batch: Vec<_> = taken.iter().map(|taken| Settlement::new(taken.receipt, later.clone())).collect();
            consumer.settle(&batch).await;
        }
        Ok(unparked)
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.inner.maintain(leading).await
    }

    async fn ping(&self) -> Result<()> {
        match self.inner.ping().await {
            Err(error) if error.code() == ErrorCode::Closed && self.is(Defect::ClosedProviderAnswers) => Ok(()),
            answer => answer,
        }
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

fn without_partition(headers: &RawHeaders) -> RawHeaders {
    let Ok(mut parsed) = headers.parse() else { return headers.clone() };
    parsed.keys.partition = None;
    RawHeaders::encode(&parsed).unwrap_or_default()
}
