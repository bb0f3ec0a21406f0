//! Message mode, over memory and every broker's shape: what is sent is received, once by one of many, and never lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../faulty/mod.rs"]
mod faulty;
#[path = "../topicless/mod.rs"]
mod topicless;

mod crowd;
mod delivery;
mod faults;
mod subscribers;
mod topics;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use faulty::{Faults, Faulty};
use futures_util::{StreamExt, future::join_all};
use queue_core::{
    Env, Error, ErrorCode, Failure, Job, JobContext, JobId, JobScheduler, Priority, QueueName, QueueProvider,
    QueueSpec, RetryPolicy, Timestamp,
    job::ContentType,
    lifecycle::JobState,
    message::{Destination, Inbox, Message, Payload, RawMessage, Received},
    provider::{Cancel, DeadFilter, DeadJob, Support},
    scheduler::{Route, Submitted},
    worker::DrainReport,
};
use queue_manager::QueueManager;
use queue_memory::MemoryProvider;
use queue_testkit::{
    front::InFront,
    models::{Broker, LogModel, PushModel, Shape, VisibilityModel},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use topicless::Topicless;
use validator::{Validate, ValidationErrors};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
struct Order {
    #[validate(range(max = 1_000_000))]
    number: u32,
}

impl Message for Order {
    const KIND: &'static str = "order.placed";

    fn check(&self) -> Result<(), ValidationErrors> {
        self.validate()
    }
}

const SECOND: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

fn order(number: u32) -> Order {
    Order { number }
}

fn orders() -> QueueName {
    QueueName::from_static("orders")
}

fn env() -> Env {
    Env::seeded(Timestamp::from_millis(1_700_000_000_000), 5)
}

fn memory() -> JobScheduler {
    let env = env();
    JobScheduler::with_env(Arc::new(MemoryProvider::with_env(env.clone())), env)
}

/// Memory as a broker without topics.
fn topicless() -> JobScheduler {
    let env = env();
    JobScheduler::with_env(Arc::new(InFront(Topicless(MemoryProvider::with_env(env.clone())))), env)
}

fn shapes() -> [Shape; 3] {
    [PushModel::default().into(), LogModel::default().into(), VisibilityModel::default().into()]
}

fn on(shape: Shape) -> (Arc<Broker>, JobScheduler) {
    let env = env();
    let broker = Broker::new(env.clone(), shape);
    let queues = JobScheduler::with_env(broker.connect(), env);
    (broker, queues)
}

/// Memory and the three shapes, each with a queue `orders` whose messages are tried three times, 5 s apart.
async fn everywhere() -> Vec<JobScheduler> {
    let mut all = vec![memory()];
    all.extend(shapes().map(|shape| on(shape).1));
    for queues in &all {
        let mut spec = QueueSpec::new(orders());
        spec.retry = RetryPolicy::fixed(3, 5 * SECOND);
        queues.declare(spec).await.unwrap();
    }
    all
}

/// The same without the log: there a consumer that joins takes partitions from the others, whatever they have in hand, and
/// one that is not read keeps its own.
async fn everywhere_but_on_a_log() -> Vec<JobScheduler> {
    everywhere().await.into_iter().filter(|queues| queues.provider().scheme() != "model-log").collect()
}

async fn inbox(queues: &JobScheduler) -> Inbox<Order> {
    queues.inbox("orders").open().await.unwrap()
}

async fn number<M: Payload>(inbox: &Inbox<M>, wait: Duration) -> Option<Received<M>> {
    inbox.receive(wait).await.unwrap()
}

async fn dead(queues: &JobScheduler) -> Vec<DeadJob> {
    queues.admin().dead(&orders(), &DeadFilter::default(), None, 100).await.unwrap().items
}

fn lost(answer: Result<(), Error>) -> bool {
    answer.is_err_and(|error| error.code() == ErrorCode::LeaseLost)
}

/// What a queue holds, taken out.
async fn drained(queues: &JobScheduler, queue: &str) -> Vec<u32> {
    let inbox: Inbox<Order> = queues.inbox(queue).open().await.unwrap();
    let mut numbers = Vec::new();
    while let Some(message) = number(&inbox, SECOND).await {
        numbers.push(message.body().number);
        message.ack().await.unwrap();
    }
    inbox.close().await;
    numbers
}
