//! Topics: one publish into several queues, in one step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use queue_core::{
    Result,
    job::{Envelope, QueueName},
    provider::{Durability, OnFull, PublishOptions, PublishOutcome, Rejection, Topics},
};

use crate::{
    MemoryProvider,
    journal::{Batch, Table, Ticket},
    notes::Named,
    publishing::{Confirming, Queuing},
    queue::{Named as Partitions, Now, Queue, State, Taken, Verdict, keep_together},
};

/// Which queues are subscribed to which topics. It lives as long as the provider's queues do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscriptions(BTreeMap<QueueName, BTreeSet<QueueName>>);

impl Subscriptions {
    pub(crate) fn of(&self, topic: &QueueName) -> &BTreeSet<QueueName> {
        const NONE: &BTreeSet<QueueName> = &BTreeSet::new();
        self.0.get(topic).unwrap_or(NONE)
    }

    pub(crate) fn is_subscribed(&self, queue: &QueueName) -> bool {
        self.0.values().any(|queues| queues.contains(queue))
    }

    /// The queue is dropped.
    pub(crate) fn forget(&mut self, queue: &QueueName, rows: &mut Batch) {
        self.0.retain(|topic, queues| {
            if queues.remove(queue) {
                rows.delete(Table::Notes, &Named::Subscription(topic.clone(), queue.clone()).key());
            }
            !queues.is_empty()
        });
    }

    /// One that was kept.
    pub(crate) fn restore(&mut self, topic: &QueueName, queue: &QueueName) {
        self.0.entry(topic.clone()).or_default().insert(queue.clone());
    }

    fn add(&mut self, topic: &QueueName, queue: &QueueName, rows: &mut Batch) {
        self.restore(topic, queue);
        rows.put(Table::Notes, &Named::Subscription(topic.clone(), queue.clone()).key(), &[]);
    }

    fn remove(&mut self, topic: &QueueName, queue: &QueueName, rows: &mut Batch) {
        rows.delete(Table::Notes, &Named::Subscription(topic.clone(), queue.clone()).key());
        let Some(queues) = self.0.get_mut(topic) else { return };
        queues.remove(queue);
        if queues.is_empty() {
            self.0.remove(topic);
        }
    }
}

#[derive(Debug)]
pub(crate) struct MemoryTopics {
    provider: MemoryProvider,
}

/// A batch on its way into a topic's queues.
struct Spread<'a> {
    topic: &'a QueueName,
    named: Partitions,
    /// What found no room yet, with its place in the batch.
    waiting: Vec<(usize, Envelope)>,
    outcomes: Vec<PublishOutcome>,
    durability: Option<Durability>,
    /// What the outcomes wait for.
    ticket: Option<Ticket>,
}

impl MemoryTopics {
    pub(crate) fn new(provider: MemoryProvider) -> Self {
        Self { provider }
    }

    /// Publishes what has room in all queues, and answers with a queue that is full, if one is.
    fn spread(&self, batch: &mut Spread<'_>) -> Option<Arc<Queue>> {
        let shared = &self.provider.shared;
        loop {
            let queues = shared.subscribed(batch.topic);
            if queues.is_empty() {
                batch.refuse(&Rejection::Unroutable);
                return None;
            }
            let mut locked: Vec<_> = queues.iter().map(|queue| queue.lock()).collect();
            let live = locked.iter().all(|state| !state.dissolved);
            let full = if live { batch.offer(&mut locked, shared.now()) } else { None };
            // One row a queue, and all of them or none.
            batch.ticket = batch.ticket.max(keep_together(&mut locked));
            for (queue, state) in queues.iter().zip(locked) {
                queue.unlock(state);
            }
            if live {
                return full.map(|full| Arc::clone(&queues[full]));
            }
            shared.settle_down();
        }
    }

    async fn wait_for_room(&self, batch: &mut Spread<'_>, mut full: Arc<Queue>, options: &PublishOptions) {
        let give_up = tokio::time::sleep(options.deadline);
        tokio::pin!(give_up);
        loop {
            let next = {
                let _queuing = Queuing::begin(&full);
                let room = full.room.notified();
                tokio::pin!(room);
                room.as_mut().enable();
                if let Err(refused) = self.provider.ensure_open("publish").and_then(|()| self.provider.shared.ready()) {
                    batch.refuse(&Rejection::Unavailable(refused.on(batch.topic)));
                    return;
                }
                let Some(next) = self.spread(batch) else { return };
                if next.number == full.number {
                    tokio::select! {
                        biased;
                        () = room => {}
                        () = &mut give_up => return,
                    }
                }
                next
            };
            full = next;
        }
    }
}

impl Spread<'_> {
    /// Each item into all queues or none; the number of a queue that had no room for one.
    fn offer(&mut self, queues: &mut [impl std::ops::DerefMut<Target = State>], now: Now) -> Option<usize> {
        queues.iter_mut().for_each(|state| state.rely(self.durability));
        let mut full = None;
        let mut still = Vec::new();
        for (index, envelope) in std::mem::take(&mut self.waiting) {
            let named = self.named.get(index);
            let mut refused = None;
            for (number, state) in queues.iter().enumerate() {
                match state.judge(&envelope, named, now) {
                    // Waiting would not help: this one is final.
                    Verdict::Refused(rejection) => {
                        refused = Some(Some(rejection));
                        break;
                    }
                    Verdict::Full => {
                        full.get_or_insert(number);
                        refused = Some(None);
                    }
                    Verdict::Fits(_) | Verdict::Known | Verdict::Held(_) => {}
                }
            }
            match refused {
                Some(Some(rejection)) => self.outcomes[index] = PublishOutcome::Rejected(rejection),
                Some(None) => still.push((index, envelope)),
                None => self.outcomes[index] = put(queues, &envelope, named, now),
            }
        }
        self.waiting = still;
        full
    }

    /// Refuses everything that waits.
    fn refuse(&mut self, rejection: &Rejection) {
        for (index, _) in self.waiting.drain(..) {
            self.outcomes[index] = PublishOutcome::Rejected(rejection.clone());
        }
    }
}

/// Puts a copy into each queue; all of them take it, or hold its unique key.
fn put(
    queues: &mut [impl std::ops::DerefMut<Target = State>],
    envelope: &Envelope,
    named: Option<&str>,
    now: Now,
) -> PublishOutcome {
    let mut worst = PublishOutcome::Accepted { place: 0 };
    for state in queues {
        match state.offer(envelope.clone(), named, now) {
            Taken::Answer(PublishOutcome::Accepted { .. }) => {}
            Taken::Answer(outcome) if worst.is_accepted() => worst = outcome,
            Taken::Answer(outcome @ PublishOutcome::Rejected(_)) => worst = outcome,
            Taken::Answer(_) => {}
            Taken::NoRoom(_) => worst = PublishOutcome::Rejected(Rejection::Full),
        }
    }
    worst
}

#[async_trait]
impl Topics for MemoryTopics {
    async fn subscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        self.provider.ensure_open("subscribe")?;
        self.provider.shared.change_subscriptions(|all, rows| all.add(topic, queue, rows)).await
    }

    async fn unsubscribe(&self, topic: &QueueName, queue: &QueueName) -> Result<()> {
        self.provider.ensure_open("unsubscribe")?;
        self.provider.shared.change_subscriptions(|all, rows| all.remove(topic, queue, rows)).await
    }

    async fn publish(&self, topic: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let confirming = Confirming::begin(&self.provider.shared, options);
        if let Some(refusal) = self.provider.admits(options, &confirming).await {
            return batch.iter().map(|_| PublishOutcome::Rejected(refusal.clone())).collect();
        }
        let mut batch = Spread {
            topic,
            named: Partitions::by(&batch),
            outcomes: batch.iter().map(|_| PublishOutcome::Rejected(Rejection::Full)).collect(),
            waiting: batch.into_iter().enumerate().collect(),
            durability: options.durability,
            ticket: None,
        };
        if let Some(full) = self.spread(&mut batch)
            && options.on_full == OnFull::Wait
        {
            self.wait_for_room(&mut batch, full, options).await;
        }
        confirming.end(&self.provider.shared, batch.ticket, &mut batch.outcomes).await;
        batch.outcomes
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use queue_core::{
        Env, QueueProvider,
        job::{JobId, JobKind, Timestamp},
    };

    use super::*;

    /// What goes into a queue that is being dropped would be accepted and lost.
    #[test]
    fn a_publish_that_meets_a_drop_waits_for_its_end() {
        let start = Timestamp::from_millis(1_700_000_000_000);
        let provider = MemoryProvider::with_env(Env::seeded(start, 1));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (topic, queue) = (QueueName::from_static("topic"), QueueName::from_static("q"));
        let topics = provider.topics().unwrap();
        runtime.block_on(topics.subscribe(&topic, &queue)).unwrap();
        provider.shared.queue(&queue);
        let (answer, answered) = mpsc::channel();
        let mut publisher = None;
        let dropped = provider.shared.remove(&queue, |queue| {
            let ticket = queue.with_kept(State::dissolve).1;
            publisher = Some(std::thread::spawn(move || {
                let job =
                    Envelope::builder(JobId::derive(b"job", 1), JobKind::from_static("k"), &b""[..], start).seal();
                let outcomes = runtime.block_on(topics.publish(&topic, vec![job], &PublishOptions::default()));
                answer.send(outcomes).unwrap();
            }));
            assert!(answered.recv_timeout(Duration::from_millis(200)).is_err(), "it did not wait");
            (true, ticket)
        });
        assert!(dropped.is_ok());
        let outcomes = answered.recv().unwrap();
        assert!(matches!(&outcomes[..], [PublishOutcome::Rejected(Rejection::Unroutable)]), "{outcomes:?}");
        publisher.unwrap().join().unwrap();
    }
}
