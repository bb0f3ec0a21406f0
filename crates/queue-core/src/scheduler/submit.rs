//! Getting jobs to the provider.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    error::{Error, ErrorCode, Result},
    event::{JobEvent, JobEventKind},
    job::{Envelope, JobId, JobKind, JobRef, QueueName, RawHeaders, Timestamp},
    provider::{PublishOptions, PublishOutcome, Topics},
    queue_spec::QueueSpec,
};

use super::{
    JobScheduler, NewJob,
    options::{JobOptions, Start},
};

/// What became of a submitted job.
#[derive(Debug, Clone)]
pub enum Submitted {
    /// It will run.
    Accepted(JobRef),
    /// Its unique key is held by this job.
    Duplicate(JobRef),
    /// It will not run, and why.
    Rejected(Error),
    /// No answer came: it may run. Submit it again under the same id where the provider deduplicates by id.
    Unknown(JobRef, Error),
}

impl JobScheduler {
    /// Submits a batch: one answer per job, in order. A refused job does not touch its neighbours.
    pub async fn submit(&self, queue: &QueueName, jobs: Vec<NewJob>, options: &PublishOptions) -> Vec<Submitted> {
        self.submit_by(None, queue, jobs, options).await
    }

    /// Submits jobs that are [drafted](Self::draft) and sealed: one answer per job, in order. They may be submitted again, as
    /// they are. Nothing is filled in here: what their envelopes leave out, the queue's SLA class say, they do not have.
    ///
    /// A job whose timeout is zero is [`Submitted::Rejected`] with `VALIDATION`, and all of them are with the reason where
    /// the queue cannot be asked for. A batch may be as large as one of [`Self::submit`].
    pub async fn submit_sealed(
        &self,
        queue: &QueueName,
        jobs: &[Envelope],
        options: &PublishOptions,
    ) -> Vec<Submitted> {
        self.keep_house();
        // Asked for once, and known from then on: what is repeated below depends on it.
        if let Err(error) = self.declared(queue).await {
            return jobs.iter().map(|_| Submitted::Rejected(error.clone())).collect();
        }
        if !jobs.iter().any(|job| job.timeout.is_zero()) {
            let outcomes = self.publish_surely(queue, jobs, options).await;
            return jobs.iter().zip(outcomes).map(|(job, outcome)| self.answer(queue, job, outcome)).collect();
        }
        let good: Vec<Envelope> = jobs.iter().filter(|job| !job.timeout.is_zero()).cloned().collect();
        let mut outcomes = self.publish_surely(queue, &good, options).await.into_iter();
        let answer = |job: &Envelope| match job.timeout.is_zero() {
            true => Some(Submitted::Rejected(no_timeout().at("submit").on(queue))),
            false => outcomes.next().map(|outcome| self.answer(queue, job, outcome)),
        };
        jobs.iter().filter_map(answer).collect()
    }

    /// The same to a topic of the provider's own.
    pub(crate) async fn submit_to_topic(
        &self,
        topics: &Arc<dyn Topics>,
        topic: &QueueName,
        jobs: Vec<NewJob>,
        options: &PublishOptions,
    ) -> Vec<Submitted> {
        self.submit_by(Some(topics), topic, jobs, options).await
    }

    async fn submit_by(
        &self,
        topics: Option<&Arc<dyn Topics>>,
        queue: &QueueName,
        jobs: Vec<NewJob>,
        options: &PublishOptions,
    ) -> Vec<Submitted> {
        self.keep_house();
        let spec = match self.declared(queue).await {
            Ok(spec) => spec,
            // The defaults of a queue that cannot be asked for would be a guess.
            Err(error) => return jobs.iter().map(|_| Submitted::Rejected(error.clone())).collect(),
        };
        let mut answers: Vec<Option<Submitted>> = Vec::with_capacity(jobs.len());
        let mut batch = Vec::with_capacity(jobs.len());
        let now = self.env().now();
        for job in jobs {
            match self.envelope(&spec, job, now) {
                Ok(envelope) => {
                    batch.push(envelope);
                    answers.push(None);
                }
                Err(error) => answers.push(Some(Submitted::Rejected(error.at("submit").on(queue)))),
            }
        }
        let outcomes = match topics {
            // An answer that stays out is the caller's: the queues behind a topic may differ in what they deduplicate.
            Some(topics) => answer_all(&batch, topics.publish(queue, batch.clone(), options).await),
            None => self.publish_surely(queue, &batch, options).await,
        };
        let mut outcomes = batch.iter().zip(outcomes);
        let answer = |answer: Option<Submitted>| {
            answer.or_else(|| outcomes.next().map(|(envelope, outcome)| self.answer(queue, envelope, outcome)))
        };
        answers.into_iter().filter_map(answer).collect()
    }

    /// Repeats what was not answered, where the provider makes sure that this is still one job.
    async fn publish_surely(
        &self,
        queue: &QueueName,
        batch: &[Envelope],
        options: &PublishOptions,
    ) -> Vec<PublishOutcome> {
        let (provider, clock) = (&self.inner.provider, &self.env().clock);
        let until = clock.monotonic().saturating_add(options.deadline);
        let mut outcomes = answer_all(batch, provider.publish(queue, batch.to_vec(), options).await);
        let unknown = |outcome: &PublishOutcome| matches!(outcome, PublishOutcome::Unknown(_));
        let again: Vec<usize> = (0..outcomes.len()).filter(|index| unknown(&outcomes[*index])).collect();
        // One deadline for both tries.
        let options = PublishOptions { deadline: until.saturating_sub(clock.monotonic()), ..options.clone() };
        if !again.is_empty()
            && !options.deadline.is_zero()
            && provider.capabilities(Some(&self.spec(queue))).dedup_by_id.is_supported()
        {
            let batch = again.iter().map(|index| batch[*index].clone()).collect();
            for (index, outcome) in again.into_iter().zip(provider.publish(queue, batch, &options).await) {
                // A refusal of the repetition says nothing of the first, which may have been written.
                if matches!(outcome, PublishOutcome::Accepted { .. } | PublishOutcome::Duplicate { .. }) {
                    outcomes[index] = outcome;
                }
            }
        }
        outcomes
    }

    fn answer(&self, queue: &QueueName, envelope: &Envelope, outcome: PublishOutcome) -> Submitted {
        let reference = |place| JobRef { queue: queue.clone(), id: envelope.id, place };
        match outcome {
            PublishOutcome::Accepted { place } => {
                let job = reference(place);
                let told = || (self.env().now(), job.clone(), envelope.kind.clone());
                self.tell(|| {
                    let (at, job, kind) = told();
                    JobEvent::new(at, job, kind, JobEventKind::Submitted, envelope.attempt)
                });
                Submitted::Accepted(job)
            }
            PublishOutcome::Duplicate { existing } => Submitted::Duplicate(existing),
            PublishOutcome::Rejected(rejection) => Submitted::Rejected(Error::from(rejection)),
            PublishOutcome::Unknown(error) => Submitted::Unknown(reference(0), error),
        }
    }

    /// The envelope of a new job: its options, else the queue's defaults.
    #[inline]
    fn envelope(&self, spec: &QueueSpec, job: NewJob, now: Timestamp) -> Result<Envelope> {
        let JobOptions { id, content_type, priority, start, ttl, timeout, retry, unique, mut headers } = job.options;
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(no_timeout());
        }
        headers.retry = retry;
        headers.sla = headers.sla.or(spec.sla);
        let id = id.unwrap_or_else(|| JobId::fresh_at(now, &*self.env().random));
        let mut parts = self.draft(spec, id, job.kind, job.payload, now);
        parts.content_type = content_type;
        parts.priority = priority.unwrap_or(parts.priority);
        parts.timeout = timeout.unwrap_or(parts.timeout);
        parts.not_before = match start {
            Start::Now => None,
            Start::After(delay) => (!delay.is_zero()).then(|| now + delay),
            Start::At(at) => (at > now).then_some(at),
        };
        parts.expires_at = ttl.map(|ttl| now + ttl).or(parts.expires_at);
        parts.unique = unique.map(Box::new);
        parts.headers = RawHeaders::encode(&headers)?;
        Ok(parts.seal())
    }

    /// An envelope with the defaults of the queue but for its headers, to be changed and sealed by who submits many
    /// ([`Self::submit_sealed`]). Whoever wants a retry policy of its own, or the SLA class of the queue ([`Headers::sla`]),
    /// encodes them into the headers. The spec is that of the queue it goes to, as [`Self::declared`] gives it.
    ///
    /// [`Headers::sla`]: crate::job::Headers::sla
    pub fn draft(
        &self,
        spec: &QueueSpec,
        id: JobId,
        kind: JobKind,
        payload: Bytes,
        now: Timestamp,
    ) -> crate::job::EnvelopeBuilder {
        let mut parts = Envelope::builder(id, kind, payload, now);
        parts.priority = spec.default_priority;
        parts.timeout = spec.timeout;
        parts.expires_at = spec.ttl.map(|ttl| now + ttl);
        parts.store = self.store_id(spec);
        parts
    }
}

fn no_timeout() -> Error {
    Error::new(ErrorCode::Validation, "a job's timeout is longer than zero")
}

/// An answer for every job, whatever the provider gave.
fn answer_all(batch: &[Envelope], mut outcomes: Vec<PublishOutcome>) -> Vec<PublishOutcome> {
    let missing = || Error::new(ErrorCode::Internal, "the provider answered for fewer jobs than it was given");
    outcomes.resize_with(batch.len(), || PublishOutcome::Unknown(missing()));
    outcomes
}
