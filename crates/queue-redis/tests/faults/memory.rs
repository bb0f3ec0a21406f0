//! The server has no memory left.

use std::time::Duration;

use queue_core::provider::{PublishOutcome, Rejection, Settlement};

use crate::rig::{Rig, complete, envelope, publish};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_refuses_clearly_and_goes_on_with_what_it_has() {
    let Some(rig) = Rig::new() else { return };
    let provider = rig.connect().await;
    let consumer = rig.consumer(&provider, Duration::from_secs(30)).await;
    let first = publish(&provider, &rig.queue, (0..100).map(envelope).collect()).await;
    assert!(crate::rig::accepted(&first), "{first:?}");
    let held = consumer.fetch(50, Duration::from_secs(1)).await.unwrap();
    rig.say("CONFIG SET maxmemory 1mb");

    let refused = publish(&provider, &rig.queue, (100..200).map(envelope).collect()).await;
    for outcome in &refused {
        let PublishOutcome::Rejected(Rejection::Unavailable(error)) = outcome else { panic!("{outcome:?}") };
        assert!(error.to_string().contains("maxmemory"), "{error}");
    }
    assert_eq!(rig.stats(&provider).await.submitted_total, 100, "what was refused left nothing behind");

    // What frees memory is not refused for the want of it.
    let settlements: Vec<_> = held.iter().map(|job| Settlement::new(job.receipt, complete())).collect();
    let outcomes = consumer.settle(&settlements).await;
    assert!(
        outcomes.iter().all(|outcome| matches!(outcome, queue_core::provider::SettleOutcome::Settled)),
        "{outcomes:?}"
    );
    let more = consumer.fetch(50, Duration::from_secs(1)).await.unwrap();
    assert_eq!(more.len(), 50);

    rig.say("CONFIG SET maxmemory 0");
    let again = publish(&provider, &rig.queue, (100..200).map(envelope).collect()).await;
    assert!(crate::rig::accepted(&again), "{again:?}");
}
