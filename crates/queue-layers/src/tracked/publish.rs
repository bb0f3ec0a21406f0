//! Putting jobs in: stage, publish, confirm.

use std::time::Duration;

use queue_core::{
    Envelope, Error, JobRef, QueueName, QueueSpec,
    provider::{OnFull, PublishOptions, PublishOutcome, Rejection},
    queue_spec::Tracking,
    store::{StageOutcome, StagedJob},
};

use super::{
    core::{Core, unavailable},
    rule::Rule,
};

/// How soon a publisher that waits for room asks again, at first and at most.
const ROOM: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));
/// What the store is left of a publisher's time, at most, and which part of it: a transport that refuses at its deadline would leave
/// none to take the record back, and a plain refusal would be an unknown end.
const FOR_THE_STORE: (Duration, u32) = (Duration::from_secs(1), 8);

/// A batch on its way: what is left of it, and what was answered.
struct Post<'a> {
    core: &'a Core,
    queue: &'a QueueName,
    spec: &'a QueueSpec,
    options: &'a PublishOptions,
    /// On the local monotonic clock.
    deadline: Duration,
    outcomes: Vec<Option<PublishOutcome>>,
}

/// A job that may be published, with its place in the batch.
struct Ready {
    at: usize,
    job: JobRef,
    envelope: Envelope,
    /// Staged by this call, so this call may take it back.
    fresh: bool,
}

impl Core {
    pub(super) async fn publish(
        &self,
        queue: &QueueName,
        batch: Vec<Envelope>,
        options: &PublishOptions,
    ) -> Vec<PublishOutcome> {
        let spec = self.spec(queue).await;
        if spec.tracking == Tracking::Off {
            return self.transport.publish(queue, batch, options).await;
        }
        let batch: Vec<Envelope> = batch.into_iter().map(|envelope| self.stamp(envelope)).collect();
        let outcomes = batch.iter().map(|_| None).collect();
        let deadline = self.now().saturating_add(options.deadline);
        let mut post = Post { core: self, queue, spec: &spec, options, deadline, outcomes };
        if self.store_is_still_away().await && self.keeps(Rule::PublishingGoesOn) {
            post.publish_unstaged(batch).await;
        } else {
            post.publish_staged(batch).await;
        }
        let missing = || PublishOutcome::Unknown(unavailable("no answer came", self.scheme()).at("publish"));
        post.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }
}

impl Post<'_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.core.now())
    }

    fn answer(&mut self, at: usize, outcome: PublishOutcome) {
        self.outcomes[at] = Some(outcome);
    }

    async fn publish_staged(&mut self, batch: Vec<Envelope>) {
        let mut waiting: Vec<(usize, Envelope)> = batch.into_iter().enumerate().collect();
        let mut pause = ROOM.0;
        loop {
            let begun = self.core.now();
            let (ready, full) = self.stage(waiting).await;
            let asking = self.core.now().saturating_sub(begun);
            self.carry(ready).await;
            if full.is_empty() || self.options.on_full != OnFull::Wait || self.left().is_zero() {
                return;
            }
            waiting = full;
            tokio::time::sleep(pause.min(self.left())).await;
            if !self.is_answered_in_time(asking, pause).await {
                return;
            }
            pause = (pause * 2).min(ROOM.1);
        }
    }

    /// Another try that is not answered in time would make a plain refusal an unknown one. Where the last answer took too long
    /// for one more like it, questions that change nothing tell when the store is quick again. `false`: it was not before the
    /// deadline.
    async fn is_answered_in_time(&self, mut asking: Duration, pause: Duration) -> bool {
        while self.left() < 2 * asking {
            // However quick its answers are: there is no time left for one.
            if self.left().is_zero() {
                return false;
            }
            let begun = self.core.now();
            let question = self.core.ask(self.core.store.queue_control(self.queue));
            let answer = tokio::time::timeout(self.left(), question).await;
            if matches!(answer, Ok(Ok(_))) {
                asking = self.core.now().saturating_sub(begun);
                continue;
            }
            tokio::time::sleep(pause.min(self.left())).await;
        }
        true
    }

    /// Step 1. What is to be published now, and what found no room.
    async fn stage(&mut self, batch: Vec<(usize, Envelope)>) -> (Vec<Ready>, Vec<(usize, Envelope)>) {
        let core = self.core;
        let max_len = self.spec.max_len.filter(|_| self.options.on_full != OnFull::Exceed);
        let staged: Vec<StagedJob> = batch
            .iter()
            .map(|(_, envelope)| {
                let job = JobRef::new(self.queue.clone(), envelope.id);
                let mut staged = StagedJob::new(core.name.clone(), job, envelope.clone()).bounded(max_len);
                staged.hold = core.beyond_cap(self.spec, envelope);
                staged
            })
            .collect();
        let call = core.store.stage(&staged, core.options.stage_lease);
        let outcomes = core.ask_within(self.left(), staged.len(), call, StageOutcome::Unknown, unstaged).await;

        let (mut ready, mut full) = (Vec::new(), Vec::new());
        for (((at, envelope), staged), outcome) in batch.into_iter().zip(staged).zip(outcomes) {
            let goes = |fresh| Ready { at, job: staged.job.clone(), envelope: envelope.clone(), fresh };
            match outcome {
                StageOutcome::Staged | StageOutcome::Again if staged.hold.is_some() => {
                    self.answer(at, PublishOutcome::Accepted { place: 0 });
                }
                StageOutcome::Staged => ready.push(goes(true)),
                StageOutcome::Again => ready.push(goes(false)),
                StageOutcome::Known => self.answer(at, PublishOutcome::Accepted { place: 0 }),
                StageOutcome::Duplicate { existing } => self.answer(at, PublishOutcome::Duplicate { existing }),
                StageOutcome::Rejected(rejection) => {
                    if matches!(rejection, Rejection::Full) {
                        full.push((at, envelope));
                    }
                    self.answer(at, PublishOutcome::Rejected(rejection));
                }
                StageOutcome::Unknown(_) if !core.keeps(Rule::UnstagedIsNotPublished) => ready.push(goes(true)),
                StageOutcome::Unknown(error) => self.answer(at, PublishOutcome::Unknown(error.at("publish"))),
            }
        }
        (ready, full)
    }

    /// Steps 2 and 3.
    async fn carry(&mut self, ready: Vec<Ready>) {
        if ready.is_empty() {
            return;
        }
        let batch = ready.iter().map(|item| item.envelope.clone()).collect();
        let outcomes = self.core.transport.publish(self.queue, batch, &self.bounded_by_the_store()).await;
        let copies: Vec<_> = ready.iter().map(|item| (item.job.clone(), item.envelope.clone())).collect();
        let outcomes: Vec<Option<PublishOutcome>> = outcomes.into_iter().map(Some).collect();
        // Late is as good as lost: the sweep publishes a second copy then.
        let _ = tokio::time::timeout(self.left(), self.core.confirm(&copies, &outcomes)).await;
        let mut refused = Vec::new();
        for (item, outcome) in ready.into_iter().zip(outcomes) {
            let at = item.at;
            match outcome {
                Some(PublishOutcome::Rejected(rejection)) => refused.push((item, rejection)),
                Some(PublishOutcome::Accepted { place }) => self.answer(at, PublishOutcome::Accepted { place }),
                // It is staged: should the transport not have it, the sweep publishes it.
                Some(PublishOutcome::Unknown(_) | PublishOutcome::Duplicate { .. }) | None => {
                    self.answer(at, PublishOutcome::Accepted { place: 0 });
                }
            }
        }
        self.take_back(refused).await;
    }

    /// A refusal is one only if the record goes too, and only its first publisher may take it back.
    async fn take_back(&mut self, refused: Vec<(Ready, Rejection)>) {
        let core = self.core;
        let (fresh, promised): (Vec<_>, Vec<_>) = refused.into_iter().partition(|(item, _)| item.fresh);
        for (item, rejection) in promised {
            self.answer(item.at, accepted_unless(!core.keeps(Rule::SweptIsAccepted), rejection));
        }
        if fresh.is_empty() {
            return;
        }
        if !core.keeps(Rule::RefusedIsUnstaged) {
            fresh.into_iter().for_each(|(item, rejection)| self.answer(item.at, PublishOutcome::Rejected(rejection)));
            return;
        }
        let jobs: Vec<(JobRef, u32)> =
            fresh.iter().map(|(item, _)| (item.job.clone(), item.envelope.generation)).collect();
        let answers = core.ask_within(self.left(), jobs.len(), core.store.unstage(&jobs), Err, unsaid).await;
        for ((item, rejection), answer) in fresh.into_iter().zip(answers) {
            let outcome = match answer {
                Ok(taken_back) => accepted_unless(taken_back || !core.keeps(Rule::SweptIsAccepted), rejection),
                // Whether it was taken back nobody knows; if not, the sweep publishes it.
                Err(error) => PublishOutcome::Unknown(error.at("publish")),
            };
            self.answer(item.at, outcome);
        }
    }

    fn in_time(&self) -> PublishOptions {
        PublishOptions { deadline: self.left(), ..self.options.clone() }
    }

    /// The store has kept the bound; the transport would count copies that are to be dropped. And it is asked once more afterwards.
    fn bounded_by_the_store(&self) -> PublishOptions {
        let left = self.left();
        let deadline = left - (left / FOR_THE_STORE.1).min(FOR_THE_STORE.0);
        PublishOptions { on_full: OnFull::Exceed, deadline, ..self.options.clone() }
    }

    /// The store is away: the stamped envelope is enough to run the job, and its record begins at its claim. What only the
    /// store can promise is refused.
    async fn publish_unstaged(&mut self, batch: Vec<Envelope>) {
        let core = self.core;
        let mut going = Vec::new();
        for (at, envelope) in batch.into_iter().enumerate() {
            let needs_store = if envelope.unique.is_some() && core.keeps(Rule::KeysNeedTheStore) {
                Some("unique keys are the store's, which does not answer: try again later")
            } else if core.beyond_cap(self.spec, &envelope).is_some() {
                Some("so long a delay is held by the store, which does not answer: try again later")
            } else {
                None
            };
            match needs_store {
                Some(why) => {
                    let error = unavailable(why, core.scheme()).at("publish").on(self.queue);
                    self.answer(at, PublishOutcome::Rejected(Rejection::Unavailable(error)));
                }
                None => going.push((at, envelope)),
            }
        }
        if going.is_empty() {
            return;
        }
        let batch = going.iter().map(|(_, envelope)| envelope.clone()).collect();
        let outcomes = core.transport.publish(self.queue, batch, &self.in_time()).await;
        for ((at, _), outcome) in going.into_iter().zip(outcomes) {
            self.answer(at, outcome);
        }
    }
}

fn unstaged(outcome: &StageOutcome) -> Option<&Error> {
    match outcome {
        StageOutcome::Unknown(error) => Some(error),
        _ => None,
    }
}

fn unsaid(answer: &Result<bool, Error>) -> Option<&Error> {
    answer.as_ref().err().filter(|error| error.code().is_retryable())
}

fn accepted_unless(refused: bool, rejection: Rejection) -> PublishOutcome {
    if refused { PublishOutcome::Rejected(rejection) } else { PublishOutcome::Accepted { place: 0 } }
}

/// What is checked before a settlement is written: a follow-up that can never be published must leave nothing behind.
pub(super) fn check(core: &Core, spec: &QueueSpec, envelope: &Envelope) -> Result<(), Error> {
    let can = core.transport.capabilities(Some(spec));
    let limit = can.max_encoded_len.min(spec.max_encoded_len);
    let actual = envelope.encoded_len();
    if actual > limit {
        return Err(Rejection::TooLarge { limit, actual }.into());
    }
    if let queue_core::provider::LeaseModel::Session { max_hold: max } = can.lease
        && envelope.timeout > max
    {
        return Err(Rejection::ExceedsMaxHold { max }.into());
    }
    spec.check_partition(envelope.partition().as_deref())
}
