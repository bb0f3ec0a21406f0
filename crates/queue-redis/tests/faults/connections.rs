//! Connections, scripts and the server go away for a while, under load.

use std::time::Duration;

use queue_core::Env;
use queue_redis::{ClientEvent, ClientOptions, RedisClusterClient};

use crate::rig::{Pair, Rig, accepted, envelope, load, publish};

/// Does something again and again until the load has gone through.
async fn under_load(rig: &Rig, jobs: u64, mut blow: impl FnMut(&Rig)) -> (crate::rig::Load, usize) {
    let loading = load(rig, Pair::of(rig).await, jobs);
    tokio::pin!(loading);
    let mut blows = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            load = &mut loading => return (load, blows),
            _ = tick.tick() => {
                blow(rig);
                blows += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_scripts_are_loaded_again_and_nobody_notices() {
    let Some(rig) = Rig::new() else { return };
    let (load, blows) = under_load(&rig, 1_000, |rig| drop(rig.say("SCRIPT FLUSH"))).await;
    assert!(blows > 5, "{blows}");
    assert_eq!(load.troubles, 0, "{load:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_come_back_and_lose_nothing() {
    let Some(rig) = Rig::new() else { return };
    let (load, blows) = under_load(&rig, 1_000, |rig| drop(rig.say("CLIENT KILL TYPE normal SKIPME yes"))).await;
    assert!(blows > 5, "{blows}");
    assert!(load.longest_gap < Duration::from_secs(5), "{load:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sleeps_when_connections_are_cut_is_woken_all_the_same() {
    let Some(rig) = Rig::new() else { return };
    let (producer, worker) = (rig.connect().await, rig.connect().await);
    let consumer = rig.consumer(&worker, Duration::from_secs(5)).await;
    for round in 0..5 {
        let sleeping = tokio::spawn({
            let consumer = consumer.clone();
            async move {
                loop {
                    match consumer.fetch(1, Duration::from_secs(20)).await {
                        Ok(jobs) => return jobs.len(),
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        rig.say("CLIENT KILL TYPE normal SKIPME yes");
        tokio::time::sleep(Duration::from_millis(20 * round)).await;
        while !accepted(&publish(&producer, &rig.queue, vec![envelope(round)]).await) {}
        let woken = tokio::time::timeout(Duration::from_secs(5), sleeping).await;
        assert_eq!(woken.expect("it sleeps on").unwrap(), 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_found_out_before_anybody_needs_it() {
    let Some(rig) = Rig::new() else { return };
    let mut options = ClientOptions::from_url(&rig.server.url()).unwrap();
    options.health_interval = Duration::from_millis(300);
    let client = RedisClusterClient::connect(options, &Env::system()).await.unwrap();
    let mut events = client.events();
    let silence = tokio::time::timeout(Duration::from_secs(1), events.recv()).await;
    assert!(silence.is_err(), "it is there: {silence:?}");
    rig.server.hang();
    let lost = tokio::time::timeout(Duration::from_secs(8), events.recv()).await;
    assert!(matches!(lost, Ok(Ok(ClientEvent::Lost { .. }))), "{lost:?}");
    rig.server.go_on();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_for_some_seconds_loses_nothing() {
    let Some(rig) = Rig::new() else { return };
    let pair = Pair::of(&rig).await;
    let pause = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.server.hang();
        tokio::time::sleep(Duration::from_secs(3)).await;
        rig.server.go_on();
    };
    let (load, ()) = tokio::join!(load(&rig, pair, 500), pause);
    assert!(load.longest_gap > Duration::from_millis(2_500), "it did not stand still: {load:?}");
    assert!(load.longest_gap < Duration::from_secs(8), "{load:?}");
}
