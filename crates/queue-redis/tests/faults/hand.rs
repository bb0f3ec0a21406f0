//! An operator's hand in the keys.

use std::{collections::HashSet, time::Duration};

use queue_core::{JobId, QueueProvider as _, job::JobRef, provider::Settlement};

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
        let mut done = HashSet::new();
        let start = std::time::Instant::now();
        while done.len() < 9 {
            assert!(start.elapsed() < Duration::from_secs(5), "{nonsense:?} keeps others: {} of 9 done", done.len());
            let jobs = consumer.fetch(10, Duration::from_millis(200)).await.expect("others go on");
            let settlements: Vec<_> = jobs.iter().map(|job| Settlement::new(job.receipt, complete())).collect();
            consumer.settle(&settlements).await;
            done.extend(jobs.iter().map(|job| job.receipt.id));
        }
        let expected: HashSet<JobId> = (base..base + 10).filter(|n| *n != base + 3).map(id).collect();
        assert_eq!(done, expected);
        // It is shown as what it is, and asking for it or its neighbours works.
        let store = provider.job_store().unwrap();
        let asked: Vec<JobRef> = (base..base + 10).map(|n| JobRef::new(rig.queue.clone(), id(n))).collect();
        let found = store.get(&asked).await;
        assert!(found[3].is_err(), "{:?}", found[3]);
        assert!(found.iter().enumerate().all(|(n, found)| n == 3 || found.is_ok()));
        provider.maintain(true).await.expect("maintenance goes on");
        rig.say("FLUSHALL");
    }
}
