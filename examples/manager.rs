//! The manager: connect by URL, enqueue with options, watch events, bring dead letters back, read the numbers.
//!
//! `cargo run --example manager` uses the memory provider; `MESSAGE_QUEUE_PROVIDER` and its variables name another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use queue_core::{Failure, Job, JobContext, Priority, RetryPolicy, State, provider::DeadFilter, store::Watched};
use queue_manager::QueueManager;
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct Charge {
    #[validate(length(min = 1))]
    customer: String,
    #[validate(range(min = 1))]
    cents: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Receipt {
    text: String,
    attempt: u32,
}

impl Job for Charge {
    const KIND: &'static str = "billing.charge";
    const QUEUE: &'static str = "billing";
    type Output = Receipt;
}

/// Whether the bank answers today; shared with every handler that asks for it.
type Bank = Arc<AtomicBool>;

async fn charge(charge: Charge, job: JobContext, State(bank): State<Bank>) -> Result<Receipt, Failure> {
    if charge.customer == "bob" && !bank.load(Ordering::Relaxed) {
        return Err(Failure::retry("the bank does not answer"));
    }
    job.progress(50.0);
    Ok(Receipt { text: format!("{} paid {} cents", charge.customer, charge.cents), attempt: job.attempt() })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queues = QueueManager::from_env().await?;

    // What happens, as it happens. Ended by the stop below.
    let mut events = queues.events().await?;
    let listener = tokio::spawn(async move {
        let mut names = Vec::new();
        while let Some(Watched::Event(event)) = events.next().await {
            names.push(event.wire_name());
            if names.iter().filter(|name| **name == "job:completed").count() == 3 {
                break;
            }
        }
        names
    });

    let bank = Bank::default();
    let worker =
        queues.worker().queue("billing", 4).state(Arc::clone(&bank)).register(charge).name("cashier").start().await?;

    // Options ride on the submission; awaiting it sends it.
    let ann = Charge { customer: "ann".into(), cents: 1_200 };
    let ann = queues
        .enqueue(ann)
        .priority(Priority::HIGH)
        .delay(Duration::from_millis(50))
        .timeout(Duration::from_secs(10))
        .correlation_id("order-17")
        .tag("first-order")
        .unique("charge-order-17")?
        .await?;
    println!("{:?}", ann.result().await?);

    // A job that breaks its own rules is refused before it is sent.
    let refused = queues.enqueue(Charge { customer: "eve".into(), cents: 0 }).await;
    println!("refused: {}", refused.err().ok_or("a charge of nothing was taken")?);

    // The bank is away: after its attempts the job is a dead letter, with its error.
    let bob = Charge { customer: "bob".into(), cents: 300 };
    let bob = queues.enqueue(bob).retry(RetryPolicy::fixed(2, Duration::from_millis(20))).await?;
    println!("dead: {}", bob.result().await.err().ok_or("the bank answered")?);
    let letters = queues.dead_letters("billing")?;
    for dead in letters.list(&DeadFilter::default(), None, 10).await?.items {
        println!("dead letter {} after attempt {}: {}", dead.id, dead.attempt, dead.error);
    }

    // The bank is back: another life, from attempt 1.
    bank.store(true, Ordering::Relaxed);
    println!("{:?}", letters.redrive_all().await?);
    let receipt = bob.result().await?;
    println!("{receipt:?}");
    assert_eq!(receipt.attempt, 1);

    // Many at once.
    let batch = queues.enqueue_all([Charge { customer: "cat".into(), cents: 5 }]).await;
    for handle in batch {
        println!("{:?}", handle?.result().await?);
    }

    let stats = queues.stats("billing").await?;
    println!("{} submitted, {} completed, {} dead", stats.submitted_total, stats.completed_total, stats.dead);
    assert_eq!((stats.completed_total, stats.dead), (3, 0));
    println!("health: {:?}", queues.health().await.status);
    println!("events: {}", listener.await?.join(" "));
    println!("{:?}", worker.stop().await);
    queues.close().await?;
    Ok(())
}
