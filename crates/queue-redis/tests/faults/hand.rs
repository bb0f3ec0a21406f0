//! An operator's hand in the keys.

use std::{collections::HashSet, time::Duration};

use queue_core::{
    JobId, QueueProvider as _,
    job::JobRef,
    provider::{SettleOutcome, Settlement},
    store::Lookup,
};

use crate::rig::{Rig, complete, envelope, id, publish};

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_a_record_is_that_jobs_trouble_alone() {
    let Some(rig) = Rig::new() else { return };
    for (round, nonsense) in
        [&b""[..], b"x", b"garbage of some length, to be read as a record", &[1; 200]].iter().enumerate()
    {
        let provider = rig.connect().await;
        let consumer = rig.consumer(&provider, Duration::from_millis(300)).await;
        let base = 100 * round as u64;
        publish(&provider, &rig.queue, (base..base + 10).map(envelope).collect()).await;
        rig.ask(&[b"HSET", rig.key("j").as_bytes(), id(base + 3).as_bytes(), nonsense]);
        // What became of it nobody can say: it is not taken for one that never ran. The last can be read.
        let lost = if round < 3 { vec![base + 3, base + 5] } else { vec![base + 3] };
        let sound = 10 - lost.len();
        rig.ask(&[b"HSET", rig.key("s").as_bytes(), id(base + 5).as_bytes(), nonsense]);
        let mut done = HashSet::new();
        let start = std::time::Instant::now();
        while done.len() < sound {
            let late = start.elapsed() > Duration::from_secs(5);
            assert!(!late, "{nonsense:?} keeps others: {} of {sound} done", done.len());
            let jobs = consumer.fetch(10, Duration::from_millis(200)).await.expect("others go on");
            let settlements: Vec<_> = jobs.iter().map(|job| Settlement::new(job.receipt, complete())).collect();
            consumer.settle(&settlements).await;
            done.extend(jobs.iter().map(|job| job.receipt.id));
        }
        let expected: HashSet<JobId> = (base..base + 10).filter(|n| !lost.contains(n)).map(id).collect();
        assert_eq!(done, expected);
        // It is shown as what it is, and asking for it or its neighbours works.
        let store = provider.job_store().unwrap();
        let asked: Vec<JobRef> = (base..base + 10).map(|n| JobRef::new(rig.queue.clone(), id(n))).collect();
        let found = store.get(&asked).await;
        assert!(!matches!(found[3], Ok(Lookup::Found(_))), "{:?}", found[3]);
        let neighbours = [0, 1, 2, 4, 6, 7, 8, 9].map(|n| &found[n]);
        assert!(neighbours.iter().all(|found| matches!(found, Ok(Lookup::Found(_)))), "{neighbours:?}");
        provider.maintain(true).await.expect("maintenance goes on");
        rig.say("FLUSHALL");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_lease_was_deleted_by_hand_runs_again() {
    let Some(rig) = Rig::new() else { return };
    let provider = rig.connect().await;
    let lease = Duration::from_secs(2);
    let consumer = rig.consumer(&provider, lease).await;
    publish(&provider, &rig.queue, vec![envelope(1)]).await;
    let start = std::time::Instant::now();
    let held = consumer.fetch(1, Duration::from_secs(1)).await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(rig.ask(&[b"ZREM", rig.key("t").as_bytes(), id(1).as_bytes()]), redis::Value::Int(1));

    let again = loop {
        provider.maintain(true).await.unwrap();
        let jobs = consumer.fetch(1, Duration::from_millis(200)).await.unwrap();
        if let Some(job) = jobs.into_iter().next() {
            break job;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "nobody misses it");
    };
    // Its worker may be well: the lease that it was promised stands.
    assert!(start.elapsed() >= lease, "taken from its worker after {:?}", start.elapsed());
    assert!(again.redelivered);
    let outcome = consumer.settle(&[Settlement::new(held[0].receipt, complete())]).await.remove(0);
    assert!(matches!(outcome, SettleOutcome::LeaseLost), "{outcome:?}");
    let outcome = consumer.settle(&[Settlement::new(again.receipt, complete())]).await.remove(0);
    assert!(matches!(outcome, SettleOutcome::Settled), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_mended_runs() {
    let Some(rig) = Rig::new() else { return };
    let provider = rig.connect().await;
    let consumer = rig.consumer(&provider, Duration::from_secs(5)).await;
    publish(&provider, &rig.queue, vec![envelope(1)]).await;
    let (key, id) = (rig.key("j"), id(1));
    let redis::Value::BulkString(record) = rig.ask(&[b"HGET", key.as_bytes(), id.as_bytes()]) else { panic!() };
    rig.ask(&[b"HSET", key.as_bytes(), id.as_bytes(), b"nonsense"]);
    assert!(consumer.fetch(1, Duration::from_millis(50)).await.unwrap().is_empty());
    rig.ask(&[b"HSET", key.as_bytes(), id.as_bytes(), &record]);
    // It is looked at again in a minute: let that be over.
    assert_eq!(rig.ask(&[b"ZADD", rig.key("t").as_bytes(), b"XX", b"CH", b"1", id.as_bytes()]), redis::Value::Int(1));
    assert_eq!(consumer.fetch(1, Duration::from_secs(1)).await.unwrap().len(), 1);
}
