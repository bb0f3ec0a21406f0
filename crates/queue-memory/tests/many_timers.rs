//! Much that comes due at once is done in parts, and nobody sees that.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bench;

use std::time::Duration;

use bench::{START, consumer, job, provider, publish, queue};
use queue_core::{
    QueueProvider,
    job::Envelope,
    provider::{Disposition, ParkKey, Settlement},
};

const MANY: u64 = 35_000;

fn expiring(n: u64) -> Envelope {
    job(n).edit(|parts| parts.expires_at = Some(START + Duration::from_secs(1)))
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_does_not_wait_gets_what_lies_behind_many_timers() {
    let provider = provider();
    publish(&provider, (0..MANY).map(expiring)).await;
    let due = START + Duration::from_secs(2);
    publish(&provider, [job(MANY).edit(|parts| parts.not_before = Some(due))]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let got = consumer(&provider, 1).await.fetch(1, Duration::ZERO).await.unwrap();
    assert_eq!(got[0].envelope.id, job(MANY).id);
}

#[tokio::test(start_paused = true)]
async fn statistics_show_all_that_time_has_done_and_maintenance_comes_again_at_once() {
    for maintained in [false, true] {
        let provider = provider();
        publish(&provider, (0..MANY).map(expiring)).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let rounds = if maintained { 4 } else { 0 };
        for round in 1..=rounds {
            assert_eq!(provider.maintain(true).await.unwrap().is_zero(), round < rounds, "round {round}");
        }
        assert_eq!(provider.admin().stats(&[queue()]).await.remove(0).unwrap().pending, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_parked_again_and_again_is_unparked_once() {
    let provider = provider();
    publish(&provider, [job(1), job(2)]).await;
    let consumer = consumer(&provider, 2).await;
    let key = ParkKey("limit".into());
    for round in 0..3_000 {
        let got = consumer.fetch(2, Duration::from_secs(2)).await.unwrap();
        assert_eq!(got.len(), 2, "round {round}");
        let park = Disposition::Park { key: key.clone(), at_most: Duration::from_secs(1) };
        let park: Vec<_> = got.iter().map(|got| Settlement::new(got.receipt, park.clone())).collect();
        consumer.settle(&park).await;
    }
    assert_eq!(provider.admin().stats(&[queue()]).await.remove(0).unwrap().parked, 2);
    assert_eq!(provider.unpark(&queue(), &key, 1).await.unwrap(), 1);
    assert_eq!(provider.unpark(&queue(), &key, 9).await.unwrap(), 1);
    assert_eq!(provider.unpark(&queue(), &key, 9).await.unwrap(), 0);
}
