//! Many who watch, and those who go just as something comes, take nothing from the others.

use std::time::Duration;

use futures_util::StreamExt as _;
use queue_core::{
    QueueProvider as _,
    event::JobEventKind,
    provider::{Durability, PublishOptions},
    store::{Watch, Watched},
};
use tokio::time::{Instant, timeout};

use crate::{
    rig::{Rig, accepted, envelope, publish},
    server::{Server, await_that, free_port},
};

#[tokio::test(flavor = "multi_thread")]
async fn many_who_watch_take_no_connection_from_those_who_work() {
    let Some(rig) = Rig::new() else { return };
    let primary = rig.server.port().to_string();
    let settings = ["--replicaof", "127.0.0.1", &primary, "--repl-diskless-sync-delay", "0"];
    let _replica = Server::start_with(free_port().unwrap(), &settings).unwrap();
    rig.server.await_replicas(1);
    let provider = rig.connect().await;
    let store = provider.job_store().unwrap();
    // Some more than there are places for.
    let mut watchers = Vec::new();
    for _ in 0..55 {
        watchers.push(store.watch(Watch::Queue(rig.queue.clone())).await.unwrap());
    }
    let full = || {
        let stats = provider.client().stats();
        stats.pooled - stats.idle >= 50
    };
    await_that("as many watchers as may", Duration::from_secs(10), full);

    let consumer = rig.consumer(&provider, Duration::from_secs(5)).await;
    let sleeping = tokio::spawn(async move { consumer.fetch(1, Duration::from_secs(20)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    let durability = Some(Durability::Replicated { replicas: 1, timeout: Duration::from_secs(2) });
    let options = PublishOptions { durability, ..PublishOptions::default() };
    let published = provider.publish(&rig.queue, vec![envelope(1)], &options).await;
    assert!(accepted(&published), "{published:?}");
    let woken = timeout(Duration::from_secs(3), sleeping).await.expect("it sleeps on").unwrap().unwrap();
    assert_eq!(woken.len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    for watcher in &mut watchers {
        let heard = timeout(Duration::from_secs(1), watcher.next()).await.expect("it hears nothing");
        assert!(matches!(&heard, Some(Watched::Event(event)) if event.what == JobEventKind::Submitted), "{heard:?}");
    }
    assert_eq!(provider.client().stats().lost, 0, "the server was blamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_closes_as_a_job_comes_leaves_it_to_the_others() {
    let Some(rig) = Rig::new() else { return };
    let (producer, stays) = (rig.connect().await, rig.connect().await);
    let consumer = rig.consumer(&stays, Duration::from_secs(30)).await;
    for round in 0..20 {
        let goes = rig.connect().await;
        let going = rig.consumer(&goes, Duration::from_secs(30)).await;
        // First in line for the marker.
        let going = tokio::spawn(async move { going.fetch(1, Duration::from_secs(20)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let consumer = consumer.clone();
        let staying = tokio::spawn(async move { consumer.fetch(1, Duration::from_secs(20)).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let job = vec![envelope(round)];
        let close = async {
            tokio::time::sleep(Duration::from_micros(50 * round)).await;
            goes.close().await.unwrap();
        };
        let (published, ()) = tokio::join!(publish(&producer, &rig.queue, job), close);
        assert!(accepted(&published), "{published:?}");
        let gone = timeout(Duration::from_secs(3), going).await.expect("it sleeps on though it is closed").unwrap();
        if gone.is_ok_and(|jobs| jobs.len() == 1) {
            // So that the other ends its round, too.
            assert!(accepted(&publish(&producer, &rig.queue, vec![envelope(1_000 + round)]).await));
        }
        let woken = timeout(Duration::from_secs(4), staying).await;
        assert_eq!(woken.expect("nobody told it").unwrap().unwrap().len(), 1, "round {round}");
    }
}
