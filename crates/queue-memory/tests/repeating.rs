//! A settlement again, when nothing else is remembered of the job.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bench;

use bench::{consumer, job, provider, publish, queue, run_one};
use queue_core::{
    QueueProvider, QueueSpec,
    provider::{Disposition, Receipt, SettleOutcome, Settlement},
    queue_spec::{Retention, Tracking},
};
use queue_memory::MemoryProvider;

fn done() -> Disposition {
    Disposition::Complete { result: None }
}

async fn forgetful() -> [MemoryProvider; 2] {
    let (untracked, unretained) = (provider(), provider());
    let mut spec = QueueSpec::new(queue());
    spec.retention = Retention::none();
    unretained.declare(&spec).await.unwrap();
    spec.tracking = Tracking::Off;
    untracked.declare(&spec).await.unwrap();
    [untracked, unretained]
}

#[tokio::test(start_paused = true)]
async fn a_repetition_is_known_and_a_contradiction_is_one_though_the_job_is_forgotten() {
    for provider in forgetful().await {
        publish(&provider, [job(1), job(2)]).await;
        let consumer = consumer(&provider, 1).await;
        let (settlement, first) = run_one(&*consumer, done()).await;
        assert!(matches!(first, SettleOutcome::Settled));
        for _ in 0..2 {
            // The second time another job may be where it was.
            let again = consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
            assert!(matches!(again, SettleOutcome::AlreadySettled), "{again:?}");
            publish(&provider, [job(3)]).await;
        }
        let other = Settlement::new(settlement.receipt, Disposition::Cancelled);
        assert!(matches!(consumer.settle(&[other]).await[0], SettleOutcome::Conflict));
        let never = Receipt { epoch: settlement.receipt.epoch + 100, ..settlement.receipt };
        assert!(matches!(consumer.settle(&[Settlement::new(never, done())]).await[0], SettleOutcome::LeaseLost));
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_latest_of_forgotten_settlements_are_known() {
    for provider in forgetful().await {
        publish(&provider, (0..1_025).map(job)).await;
        let consumer = consumer(&provider, 1).await;
        let mut settled = Vec::new();
        for _ in 0..1_025 {
            settled.push(run_one(&*consumer, done()).await.0);
        }
        let again = consumer.settle(&settled[..2]).await;
        assert!(matches!(again[..], [SettleOutcome::LeaseLost, SettleOutcome::AlreadySettled]), "{again:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_names_another_job_holds_nothing() {
    let provider = provider();
    publish(&provider, [job(1)]).await;
    let consumer = consumer(&provider, 1).await;
    let held = consumer.fetch(1, std::time::Duration::ZERO).await.unwrap()[0].receipt;
    let forged = Receipt { id: job(2).id, ..held };
    assert!(matches!(consumer.settle(&[Settlement::new(forged, done())]).await[0], SettleOutcome::LeaseLost));
    assert!(matches!(consumer.settle(&[Settlement::new(held, done())]).await[0], SettleOutcome::Settled));
}
