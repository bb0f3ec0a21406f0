//! The scheduler's own part: what it makes of options, who keeps house, and what it does about silence.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use queue_core::{
    Env, Error, ErrorCode, Event, Failure, Job, JobScheduler, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    Timestamp,
    event::JobEventKind,
    job::{Envelope, SlaClass},
    lifecycle::JobState,
    limit::SlaCompliance,
    message::RawMessage,
    provider::{Capabilities, ConsumeOptions, PublishOptions, PublishOutcome, Support, Topics},
    queue_spec::Tracking,
    store::Watched,
};
use queue_memory::MemoryProvider;
use queue_testkit::front::{InFront, ProviderFront};
use serde::{Deserialize, Serialize};
use validator::Validate;

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Add {
    a: u32,
}

impl Job for Add {
    const KIND: &'static str = "math.add";
    const QUEUE: &'static str = "math";
    type Output = u32;
}

fn math() -> QueueName {
    QueueName::from_static("math")
}

fn env() -> Env {
    Env::seeded(START, 7)
}

/// The memory provider, watched, and lessened where a test wants it.
#[derive(Debug)]
struct Watchful {
    inner: MemoryProvider,
    bare: bool,
    dedup: bool,
    /// How many publishes are not answered.
    silent: AtomicUsize,
    publishes: AtomicUsize,
    /// With what each round of maintenance was called.
    rounds: Mutex<Vec<bool>>,
}

impl Watchful {
    fn new(bare: bool, dedup: bool, silent: usize) -> Arc<InFront<Self>> {
        Arc::new(InFront(Self {
            inner: MemoryProvider::with_env(env()),
            bare,
            dedup,
            silent: AtomicUsize::new(silent),
            publishes: AtomicUsize::default(),
            rounds: Mutex::default(),
        }))
    }

    /// The rounds of the next five seconds.
    async fn rounds(&self) -> Vec<bool> {
        self.rounds.lock().unwrap().clear();
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.rounds.lock().unwrap().clone()
    }
}

#[async_trait]
impl ProviderFront for Watchful {
    fn behind(&self) -> &dyn QueueProvider {
        &self.inner
    }

    fn scheme(&self) -> &'static str {
        "watchful"
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let mut can = self.inner.capabilities(spec);
        if !self.dedup {
            can.dedup_by_id = Support::Unsupported { instead: "submit once" };
        }
        can
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.publishes.fetch_add(1, Ordering::Relaxed);
        let mut outcomes = self.inner.publish(queue, batch, options).await;
        if self.silent.load(Ordering::Relaxed) > 0 {
            self.silent.fetch_sub(1, Ordering::Relaxed);
            outcomes.fill(PublishOutcome::Unknown(Error::new(ErrorCode::Unavailable, "no answer")));
        }
        outcomes
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.inner.job_store().filter(|_| !self.bare)
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.rounds.lock().unwrap().push(leading);
        self.inner.maintain(leading).await
    }
}

fn scheduler(provider: &Arc<InFront<Watchful>>) -> JobScheduler {
    JobScheduler::with_env(Arc::clone(provider) as Arc<dyn QueueProvider>, env())
}

#[tokio::test(start_paused = true)]
async fn the_house_is_kept_from_the_first_call_to_the_close() {
    let provider = Watchful::new(false, true, 0);
    let queues = scheduler(&provider);
    assert_eq!(queues.env().now(), START);
    assert_eq!((queues.last_maintenance(), provider.0.rounds().await), (None, vec![]));
    queues.enqueue(Add { a: 1 }).await.unwrap();
    let rounds = provider.0.rounds().await;
    assert!((5..=7).contains(&rounds.len()), "{rounds:?}");
    let last = queues.last_maintenance().unwrap();
    assert!(last >= START + Duration::from_secs(9), "{last:?}");
    queues.close().await.unwrap();
    assert!(provider.0.rounds().await.is_empty());
    assert_eq!(provider.ping().await.unwrap_err().code(), ErrorCode::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_scheduler_stops_keeping_house() {
    let provider = Watchful::new(false, true, 0);
    let queues = scheduler(&provider);
    queues.enqueue(Add { a: 1 }).await.unwrap();
    assert!(!provider.0.rounds().await.is_empty());
    drop(queues);
    assert!(provider.0.rounds().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_of_two_leads_where_there_is_a_store() {
    let provider = Watchful::new(false, true, 0);
    let (one, two) = (scheduler(&provider), JobScheduler::with_env(Arc::clone(&provider) as _, Env::seeded(START, 8)));
    one.enqueue(Add { a: 1 }).await.unwrap();
    two.enqueue(Add { a: 2 }).await.unwrap();
    let rounds = provider.0.rounds().await;
    let leading = rounds.iter().filter(|leading| **leading).count();
    assert!(leading > 0 && leading < rounds.len(), "{rounds:?}");
}

#[tokio::test(start_paused = true)]
async fn who_consumes_leads_where_there_is_none() {
    let provider = Watchful::new(true, true, 0);
    let queues = scheduler(&provider);
    queues.enqueue(Add { a: 1 }).await.unwrap();
    let all = |rounds: Vec<bool>, leading| !rounds.is_empty() && rounds.iter().all(|round| *round == leading);
    assert!(all(provider.0.rounds().await, false));
    let handler = async |job: Add| Ok::<_, Failure>(job.a);
    let running = queues.worker().queue("math", 1).heartbeat_on_runtime().register(handler).start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(all(provider.0.rounds().await, true));
    running.stop().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(all(provider.0.rounds().await, false));
}

#[tokio::test(start_paused = true)]
async fn without_a_store_the_process_tells_its_own_events() {
    let queues = scheduler(&Watchful::new(true, true, 0));
    let mut events = queues.events().await.unwrap();
    let handle = queues.enqueue(Add { a: 1 }).await.unwrap();
    let told = events.next().now_or_never().flatten();
    let Some(Watched::Event(Event::Job(event))) = told else { panic!("{told:?}") };
    assert_eq!((event.what, event.job.id), (JobEventKind::Submitted, handle.id()));
}

#[tokio::test(start_paused = true)]
async fn without_a_store_events_say_whether_a_class_was_kept_to() {
    let queues = scheduler(&Watchful::new(true, true, 0));
    let urgent = queues.enqueue(Add { a: 2 }).sla(SlaClass::Urgent).await.unwrap();
    let high = queues.enqueue(Add { a: 2 }).sla(SlaClass::High).await.unwrap();
    queues.enqueue(Add { a: 2 }).await.unwrap();
    queues.enqueue(Add { a: 0 }).sla(SlaClass::Low).await.unwrap();
    let mut events = queues.events().await.unwrap();
    let handler = async |job: Add| {
        tokio::time::sleep(Duration::from_secs(2 * u64::from(job.a))).await;
        if job.a == 0 { Err(Failure::never("no good")) } else { Ok(job.a) }
    };
    let running = queues.worker().queue("math", 4).heartbeat_on_runtime().register(handler).start().await.unwrap();
    let mut told = Vec::new();
    while told.len() < 4 {
        let Some(Watched::Event(Event::Job(event))) = events.next().await else { panic!("an event is missing") };
        assert!(event.sla.is_none() || event.what == JobEventKind::Completed, "{event:?}");
        told.push((event.job.id, event.sla_class.zip(event.sla)));
    }
    let kept = |class: SlaClass, met| Some((class, SlaCompliance { met, actual_ms: 4_000 }));
    for (job, expected) in [(&urgent, kept(SlaClass::Urgent, false)), (&high, kept(SlaClass::High, true))] {
        assert!(told.contains(&(job.id(), expected)), "{told:?}");
    }
    assert_eq!(told.iter().filter(|(_, sla)| sla.is_none()).count(), 2, "{told:?}");
    running.stop().await;

    let late = queues.enqueue(Add { a: 2 }).sla(SlaClass::Urgent).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let inbox = queues.inbox::<RawMessage>("math").open().await.unwrap();
    inbox.receive(Duration::from_secs(1)).await.unwrap().unwrap().ack().await.unwrap();
    let of_it = async {
        loop {
            let Some(Watched::Event(Event::Job(event))) = events.next().await else { panic!("an event is missing") };
            if event.what == JobEventKind::Completed {
                return event;
            }
        }
    };
    let event = of_it.await;
    assert_eq!((event.job.id, event.sla_class), (late.id(), Some(SlaClass::Urgent)));
    assert_eq!(event.sla, Some(SlaCompliance { met: false, actual_ms: 5_000 }));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_answered_is_repeated_only_where_it_stays_one_job() {
    for (dedup, silent, publishes, accepted) in
        [(true, 0, 1, true), (true, 1, 2, true), (true, 2, 2, false), (false, 0, 1, true), (false, 1, 1, false)]
    {
        let provider = Watchful::new(false, dedup, silent);
        let submitted = scheduler(&provider).enqueue(Add { a: 1 }).await;
        assert_eq!(submitted.is_ok(), accepted, "{dedup} {silent}");
        assert_eq!(provider.0.publishes.load(Ordering::Relaxed), publishes, "{dedup} {silent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_has_come_is_no_start() {
    let queues = scheduler(&Watchful::new(false, true, 0));
    let minute = Duration::from_secs(60);
    let starts = [
        (queues.enqueue(Add { a: 0 }).delay(Duration::ZERO), None),
        (queues.enqueue(Add { a: 0 }).delay(minute), Some(START + minute)),
        (queues.enqueue(Add { a: 0 }).run_at(START), None),
        (queues.enqueue(Add { a: 0 }).run_at(START + minute), Some(START + minute)),
        (queues.enqueue(Add { a: 0 }).run_at(Timestamp::from_millis(5)), None),
    ];
    for (enqueue, not_before) in starts {
        let record = enqueue.await.unwrap().record().await.unwrap();
        assert_eq!(record.envelope.not_before, not_before);
        let state = if not_before.is_some() { JobState::Scheduled } else { JobState::Pending };
        assert_eq!(record.state, state);
    }
}

#[tokio::test(start_paused = true)]
async fn only_envelopes_of_tracked_queues_name_the_store() {
    for tracking in [Tracking::Full, Tracking::Off] {
        let queues = scheduler(&Watchful::new(false, true, 0));
        let mut spec = QueueSpec::new(math());
        spec.tracking = tracking;
        queues.declare(spec).await.unwrap();
        queues.enqueue(Add { a: 1 }).await.unwrap();
        let consumer = queues.provider().consumer(&math(), ConsumeOptions::new("test", 1)).await.unwrap();
        let envelope = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0).envelope;
        let expected = (tracking == Tracking::Full).then(|| queues.store().unwrap().id());
        assert_eq!(envelope.store, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_will_not_come_says_why() {
    let queues = scheduler(&Watchful::new(false, true, 0));
    let cancelled = queues.enqueue(Add { a: 1 }).await.unwrap();
    cancelled.cancel().await.unwrap();
    assert_eq!(cancelled.result().await.unwrap_err().code(), ErrorCode::Cancelled);
    let expired = queues.enqueue(Add { a: 2 }).ttl(Duration::from_secs(1)).await.unwrap();
    assert_eq!(expired.result().await.unwrap_err().code(), ErrorCode::Expired);
}
