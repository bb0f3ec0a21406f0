//! Whether a completed job kept to its class.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod rig;

use std::time::Duration;

use futures_util::StreamExt;
use queue_core::{
    event::JobEventKind,
    job::{Envelope, Headers, RawHeaders, SlaClass},
    limit::SlaCompliance,
    provider::Disposition,
    store::{Watch, Watched},
};
use rig::{done, job, queue, rig, seconds, settle};

fn classed(n: u64, class: SlaClass) -> Envelope {
    let headers = RawHeaders::encode(&Headers { sla: Some(class), ..Headers::default() }).unwrap();
    job(n).edit(|parts| parts.headers = headers)
}

#[tokio::test(start_paused = true)]
async fn the_record_and_the_event_tell_the_same() {
    let rig = rig(|_| {}).await;
    let mut told = rig.store.watch(Watch::Queue(queue())).await.unwrap();
    // Its submission counts, not when its submitter made it.
    tokio::time::sleep(seconds(9)).await;
    rig.publish([classed(1, SlaClass::Urgent), classed(2, SlaClass::High), job(3), classed(4, SlaClass::Low)]).await;
    let consumer = rig.consumer(9).await;
    let held = consumer.fetch(9, Duration::ZERO).await.unwrap();
    tokio::time::sleep(seconds(4)).await;
    for delivery in &held[..3] {
        settle(&*consumer, delivery, done()).await;
    }
    let dead = Disposition::DeadLetter { error: queue_core::JobError::custom("BAD", "no") };
    settle(&*consumer, &held[3], dead).await;
    let expected = [
        Some(SlaCompliance { met: false, actual_ms: 4_000 }),
        Some(SlaCompliance { met: true, actual_ms: 4_000 }),
        None,
        None,
    ];
    for (n, expected) in (1..).zip(expected) {
        assert_eq!(rig.record(n).await.sla(), expected, "job {n}");
    }
    let mut heard = Vec::new();
    for _ in 0..12 {
        let Some(Watched::Event(event)) = told.next().await else { panic!("an event is missing") };
        assert!(event.sla.is_none() || event.what == JobEventKind::Completed, "{event:?}");
        heard.extend(
            (event.what == JobEventKind::Completed || event.what == JobEventKind::DeadLettered).then_some(event.sla),
        );
    }
    assert_eq!(heard, expected);
}
