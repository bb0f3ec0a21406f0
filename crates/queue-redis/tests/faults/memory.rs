//! The server has no memory left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use queue_core::provider::{PublishOutcome, Rejection, Settlement};

use crate::rig::{Pair, Rig, complete, envelope, load, publish};

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

/// Each refusal comes before a script has written anything, so that what is tried again is done once.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_full_or_read_only_again_and_again_loses_nothing_and_does_nothing_by_half() {
    for (refuse, take) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ] {
        let Some(rig) = Rig::new() else { return };
        let rig = Arc::new(rig);
        let pair = Pair::of(&rig).await;
        let (hand, over) = (Arc::clone(&rig), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&over);
        let hand = tokio::spawn(async move {
            let mut times = 0;
            while !is_over.load(Ordering::Acquire) {
                hand.say(refuse);
                tokio::time::sleep(Duration::from_millis(100)).await;
                hand.say(take);
                tokio::time::sleep(Duration::from_millis(150)).await;
                times += 1;
            }
            times
        });
        let load = load(&rig, pair, 1_000).await;
        over.store(true, Ordering::Release);
        let times = hand.await.unwrap();
        eprintln!("{refuse}: {times} times, {} calls made again, {:?} without jobs", load.troubles, load.longest_gap);
        assert!(times > 2);
        assert!(load.longest_gap < Duration::from_secs(8), "{refuse}: {:?}", load.longest_gap);
    }
}
