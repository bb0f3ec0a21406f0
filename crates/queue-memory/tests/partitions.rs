//! Parts of a queue: shares by weight, concurrency of their own, and no way out of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod rig;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use queue_core::{
    Consumer, ErrorCode, JobError, JobId, Priority, QueueProvider, QueueSpec,
    job::{Envelope, Headers, LimitKeys, RawHeaders},
    provider::{
        Delivery, Disposition, FollowUp, ParkKey, PublishOutcome, Redrive, Rejection, ReleaseReason, SettleOutcome,
        Settlement,
    },
    queue_spec::Partition,
    stats::QueueStats,
};
use rig::{Rig, done, job, queue, rig, seconds, settle};

fn within(n: u64, partition: &str) -> Envelope {
    let keys = LimitKeys { partition: Some(partition.into()), ..LimitKeys::default() };
    let headers = RawHeaders::encode(&Headers { keys, ..Headers::default() }).unwrap();
    job(n).edit(|parts| parts.headers = headers)
}

fn part(weight: u32) -> Partition {
    Partition { weight, ..Partition::default() }
}

fn capped(most: u32) -> Partition {
    Partition { weight: 1, max_concurrency: Some(most) }
}

async fn parted(partitions: &[(&str, Partition)]) -> Rig {
    let partitions: BTreeMap<Arc<str>, Partition> =
        partitions.iter().map(|(name, partition)| (Arc::from(*name), *partition)).collect();
    rig(|spec| spec.partitions = partitions).await
}

fn name(envelope: &Envelope) -> String {
    envelope.partition().as_deref().unwrap_or("default").to_owned()
}

fn shares(deliveries: &[Delivery]) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for delivery in deliveries {
        *shares.entry(name(&delivery.envelope)).or_default() += 1;
    }
    shares
}

async fn take(consumer: &dyn Consumer, max: usize) -> Vec<Delivery> {
    consumer.fetch(max, Duration::ZERO).await.unwrap()
}

async fn finish(consumer: &dyn Consumer, deliveries: &[Delivery]) {
    let batch: Vec<_> = deliveries.iter().map(|delivery| Settlement::new(delivery.receipt, done())).collect();
    assert!(consumer.settle(&batch).await.iter().all(SettleOutcome::is_settled));
}

#[tokio::test(start_paused = true)]
async fn claims_keep_the_proportion_of_the_weights_in_any_batch() {
    for batch in [1, 3, 7, 64, 100] {
        let rig = parted(&[("a", part(3)), ("b", part(1)), ("default", part(4))]).await;
        rig.publish((0..2_000).map(|n| within(n, "a"))).await;
        rig.publish((2_000..4_000).map(|n| within(n, "b"))).await;
        rig.publish((4_000..6_000).map(job)).await;
        let consumer = rig.consumer(1_000).await;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut total = 0;
        while total < 1_600 {
            let got = take(&*consumer, batch).await;
            total += got.len();
            shares(&got).into_iter().for_each(|(name, n)| *seen.entry(name).or_default() += n);
            // At any time, not only in the end.
            for (name, weight) in [("a", 3), ("b", 1), ("default", 4)] {
                let share = total * weight / 8;
                let got = seen.get(name).copied().unwrap_or(0);
                assert!(got.abs_diff(share) <= 2, "{name} had {got} of {total} in batches of {batch}");
            }
            finish(&*consumer, &got).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_idle_saved_nothing_up_and_owes_what_it_took() {
    let rig = parted(&[("a", part(1)), ("b", part(1))]).await;
    let consumer = rig.consumer(1_000).await;
    rig.publish((0..300).map(|n| within(n, "a"))).await;
    take(&*consumer, 200).await;
    rig.publish((300..400).map(|n| within(n, "b"))).await;
    let got = take(&*consumer, 20).await;
    assert_eq!(shares(&got)["a"], 10, "b begins where a is");

    // A partition that is empty after each claim gets its weight, not more.
    let rig = parted(&[("a", part(3)), ("b", part(1))]).await;
    let consumer = rig.consumer(1_000).await;
    rig.publish((0..500).map(|n| within(n, "a"))).await;
    let mut of_b = 0;
    rig.publish([within(1_000, "b")]).await;
    for n in 1..=400 {
        let got = take(&*consumer, 1).await;
        if name(&got[0].envelope) == "b" {
            of_b += 1;
            rig.publish([within(1_000 + n, "b")]).await;
        }
    }
    assert!((95..=105).contains(&of_b), "b had {of_b} of 400");
}

#[tokio::test(start_paused = true)]
async fn what_was_cancelled_takes_no_turn() {
    let rig = parted(&[("a", part(1)), ("b", part(1))]).await;
    let consumer = rig.consumer(1_000).await;
    rig.publish((0..50).map(|n| within(n, "a"))).await;
    rig.publish((50..150).map(|n| within(n, "b"))).await;
    let waiting: Vec<_> = (50..140).map(rig::reference).collect();
    rig.store.cancel(&waiting, &queue_core::provider::Cancel::by("me")).await;
    assert_eq!(shares(&take(&*consumer, 20).await), [("a".into(), 10), ("b".into(), 10)].into());
}

#[tokio::test(start_paused = true)]
async fn within_a_partition_the_queues_order_holds() {
    let rig = parted(&[("a", part(1)), ("b", part(1))]).await;
    let ranked =
        |n, partition: &str, level| within(n, partition).edit(|job| job.priority = Priority::new(level).unwrap());
    rig.publish([ranked(1, "a", 1), ranked(2, "a", 9), ranked(3, "b", 1), ranked(4, "b", 1), ranked(5, "b", 2)]).await;
    let consumer = rig.consumer(10).await;
    let got = rig::numbers(&take(&*consumer, 10).await);
    let of = |partition: &[u64]| got.iter().copied().filter(|n| partition.contains(n)).collect::<Vec<_>>();
    assert_eq!((of(&[1, 2]), of(&[3, 4, 5])), (vec![2, 1], vec![5, 3, 4]));
}

#[tokio::test(start_paused = true)]
async fn a_cap_holds_over_all_consumers_and_blocks_nobody_else() {
    let rig = parted(&[("tight", capped(3))]).await;
    rig.publish((0..10).map(|n| within(n, "tight"))).await;
    rig.publish((10..30).map(job)).await;
    let (first, second) = (rig.consumer(100).await, rig.consumer(100).await);
    let one = take(&*first, 4).await;
    let two = take(&*second, 100).await;
    assert_eq!((one.len(), two.len()), (4, 19));
    let both = shares(&[one.clone(), two].concat());
    assert_eq!(both, [("default".into(), 20), ("tight".into(), 3)].into());
    assert!(take(&*second, 100).await.is_empty());

    let tight: Vec<_> = one.iter().filter(|delivery| name(&delivery.envelope) == "tight").cloned().collect();
    finish(&*first, &tight).await;
    let freed = take(&*second, 100).await;
    assert_eq!(shares(&freed), [("tight".into(), tight.len())].into());
}

#[tokio::test(start_paused = true)]
async fn every_way_to_end_a_run_frees_its_place_and_wakes_who_waits() {
    let error = || JobError::custom("BAD", "no");
    let after = Duration::ZERO;
    let ways = [
        Some(done()),
        Some(Disposition::Retry { after, error: error() }),
        Some(Disposition::Retry { after: seconds(900), error: error() }),
        Some(Disposition::Release { after, reason: ReleaseReason::Shutdown }),
        Some(Disposition::Release { after: seconds(900), reason: ReleaseReason::Snooze }),
        Some(Disposition::Park { key: ParkKey("key".into()), at_most: seconds(900) }),
        Some(Disposition::DeadLetter { error: error() }),
        Some(Disposition::Cancelled),
        Some(Disposition::Expired),
        // Its worker falls silent.
        None,
    ];
    for way in ways {
        let rig = parted(&[("tight", capped(1))]).await;
        rig.publish([within(1, "tight"), within(2, "tight")]).await;
        let (first, second) = (rig.consumer(10).await, rig.consumer(10).await);
        let held = take(&*first, 10).await;
        assert_eq!(held.len(), 1);
        let begin = tokio::time::Instant::now();
        let (got, ()) = tokio::join!(async { second.fetch(10, seconds(120)).await.unwrap() }, async {
            tokio::time::sleep(seconds(5)).await;
            if let Some(way) = &way {
                assert!(settle(&*first, &held[0], way.clone()).await.is_settled());
            }
        });
        assert_eq!(got.len(), 1, "{way:?}");
        let expected = if way.is_some() { 5 } else { 30 };
        assert_eq!(begin.elapsed().as_secs(), expected, "{way:?}");
        assert!(take(&*second, 10).await.is_empty(), "one place, one job: {way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn several_freed_places_are_taken_by_several_sleepers() {
    let rig = parted(&[("tight", capped(4))]).await;
    rig.publish((0..8).map(|n| within(n, "tight"))).await;
    let first = rig.consumer(10).await;
    let held = take(&*first, 10).await;
    assert_eq!(held.len(), 4);
    let sleepers: Vec<_> = futures_util::future::join_all((0..4).map(|_| rig.consumer(1))).await;
    let sleeping = sleepers.iter().map(|consumer| consumer.fetch(1, seconds(100)));
    let (got, ()) = tokio::join!(futures_util::future::join_all(sleeping), async {
        tokio::time::sleep(seconds(1)).await;
        finish(&*first, &held).await;
    });
    assert_eq!(got.into_iter().map(|got| got.unwrap().len()).collect::<Vec<_>>(), [1; 4]);
}

#[tokio::test(start_paused = true)]
async fn a_job_stays_in_its_partition_all_its_life() {
    let rig = parted(&[("tight", capped(1))]).await;
    let consumer = rig.consumer(10).await;
    let mut others = 90..;
    // While it occupies the partition, another one cannot come.
    let mut blocked = async |what: &str| {
        let other = others.next().unwrap();
        rig.publish([within(other, "tight")]).await;
        assert!(take(&*consumer, 10).await.is_empty(), "{what}: it left its partition");
        let gone = rig.store.cancel(&[rig::reference(other)], &queue_core::provider::Cancel::by("me")).await;
        assert!(matches!(gone[0], Ok(queue_core::store::CancelOutcome::Cancelled)), "{gone:?}");
    };
    rig.publish([within(1, "tight")]).await;
    let after = Duration::ZERO;
    let error = JobError::custom("BAD", "no");
    let key = ParkKey("key".into());
    for (what, disposition) in [
        ("released", Disposition::Release { after, reason: ReleaseReason::Shutdown }),
        ("released for later", Disposition::Release { after: seconds(1), reason: ReleaseReason::Snooze }),
        ("retried", Disposition::Retry { after, error: error.clone() }),
        ("retried later", Disposition::Retry { after: seconds(1), error: error.clone() }),
        ("parked", Disposition::Park { key: key.clone(), at_most: seconds(900) }),
        ("dead", Disposition::DeadLetter { error }),
    ] {
        let held = take(&*consumer, 10).await;
        assert_eq!(rig::numbers(&held), [1], "{what}");
        settle(&*consumer, &held[0], disposition).await;
        tokio::time::sleep(seconds(1)).await;
        rig.provider.unpark(&queue(), &key, 10).await.unwrap();
        rig.provider.admin().redrive(&queue(), &Redrive::all()).await.unwrap();
        let again = take(&*consumer, 10).await;
        assert_eq!(rig::numbers(&again), [1], "{what}");
        blocked(what).await;
        settle(&*consumer, &again[0], Disposition::Release { after, reason: ReleaseReason::Shutdown }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_not_there_is_refused_by_name() {
    let rig = parted(&[("a", part(3)), ("b", part(1))]).await;
    let outcomes = rig.publish([within(1, "a"), within(2, "c"), within(3, "default"), job(4)]).await;
    assert_eq!(outcomes.iter().map(PublishOutcome::is_accepted).collect::<Vec<_>>(), [true, false, true, true]);
    let PublishOutcome::Rejected(Rejection::Denied(error)) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!((error.code(), error.provider()), (ErrorCode::Validation, Some("memory")));
    assert!(error.message().contains("`c`") && error.message().contains("default, a, b"), "{error}");

    let plain = rig::rig(|_| {}).await;
    let outcomes = plain.publish([within(1, "a"), within(2, "default"), job(3)]).await;
    assert_eq!(outcomes.iter().map(PublishOutcome::is_accepted).collect::<Vec<_>>(), [false, true, true]);

    // A follow-up that is refused leaves its parent leased.
    let consumer = rig.consumer(10).await;
    let held = take(&*consumer, 1).await;
    let follow_up = |partition| FollowUp { queue: queue(), envelope: within(50, partition) };
    let mut settlement = Settlement::new(held[0].receipt, done());
    settlement.then = vec![follow_up("b"), follow_up("c")];
    let outcome = consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
    let SettleOutcome::NotSettled { then_index: Some(1), error } = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.code(), ErrorCode::Validation);
    settlement.then.pop();
    assert!(consumer.settle(&[settlement]).await[0].is_settled());
    assert_eq!(shares(&take(&*consumer, 10).await).get("b"), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_goes_where_it_says() {
    let rig = parted(&[("tight", capped(1))]).await;
    let consumer = rig.consumer(10).await;
    rig.publish([job(1)]).await;
    let mut settlement = Settlement::new(take(&*consumer, 1).await[0].receipt, done());
    settlement.then = (2..5).map(|n| FollowUp { queue: queue(), envelope: within(n, "tight") }).collect();
    assert!(consumer.settle(&[settlement]).await[0].is_settled());
    assert_eq!(rig::numbers(&take(&*consumer, 10).await), [2]);
}

#[tokio::test(start_paused = true)]
async fn headers_that_cannot_be_read_name_no_partition() {
    let rig = parted(&[("a", part(1))]).await;
    let raw = RawHeaders::from_wire(bytes::Bytes::from_static(b"{\"keys\":{\"partition\":")).unwrap();
    assert!(rig.publish([job(1).edit(|parts| parts.headers = raw)]).await[0].is_accepted());
    assert_eq!(take(&*rig.consumer(1).await, 1).await[0].envelope.id, JobId::derive(b"job", 1));
}

#[tokio::test(start_paused = true)]
async fn partitions_age_apart_from_each_other() {
    let rig = rig(|spec: &mut QueueSpec| {
        spec.partitions = [(Arc::from("a"), part(1)), (Arc::from("b"), part(1))].into();
        spec.order = queue_core::queue_spec::Order::Aged { bound: seconds(10) };
    })
    .await;
    let ranked =
        |n, partition: &str, level| within(n, partition).edit(|job| job.priority = Priority::new(level).unwrap());
    rig.publish([ranked(1, "a", 1), ranked(2, "a", 9), ranked(3, "b", 9)]).await;
    tokio::time::sleep(seconds(6)).await;
    rig.publish([ranked(4, "a", 9), ranked(5, "b", 9), ranked(6, "b", 1)]).await;
    let consumer = rig.consumer(10).await;
    assert_eq!(rig::numbers(&take(&*consumer, 10).await), [1, 3, 2, 5, 4, 6]);
}

async fn stats_of(rig: &Rig) -> QueueStats {
    rig.provider.admin().stats(&[queue()]).await.remove(0).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_each_partition_are_told_at_every_step() {
    let rig = parted(&[("a", capped(2)), ("b", part(3))]).await;
    let consumer = rig.consumer(100).await;
    // (ready, running, full) of a, b and the default one, and what could be claimed.
    let told = async || {
        let stats = stats_of(&rig).await;
        let of = |n: usize| (stats.partitions[n].ready, stats.partitions[n].running, stats.partitions[n].is_full());
        (of(0), of(1), of(2), stats.claimable())
    };
    rig.publish((0..5).map(|n| within(n, "a"))).await;
    rig.publish((5..8).map(|n| within(n, "b"))).await;
    rig.publish((8..9).map(job)).await;
    assert_eq!(told().await, ((5, 0, false), (3, 0, false), (1, 0, false), 9));
    let got = take(&*consumer, 100).await;
    assert_eq!(told().await, ((3, 2, true), (0, 3, false), (0, 1, false), 0));
    assert_eq!(stats_of(&rig).await.oldest_claimable(), None);
    assert!(stats_of(&rig).await.oldest_pending.is_some());
    let of = |partition: &str| got.iter().filter(|delivery| name(&delivery.envelope) == partition).collect::<Vec<_>>();
    let (a, b) = (of("a"), of("b"));
    settle(&*consumer, a[0], done()).await;
    assert_eq!(told().await, ((3, 1, false), (0, 3, false), (0, 1, false), 3));
    let key = ParkKey("k".into());
    settle(&*consumer, a[1], Disposition::Park { key: key.clone(), at_most: seconds(60) }).await;
    let retry = Disposition::Retry { after: seconds(1), error: JobError::custom("BAD", "no") };
    settle(&*consumer, b[0], retry).await;
    let back = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    settle(&*consumer, b[1], back).await;
    assert_eq!(told().await, ((3, 0, false), (1, 1, false), (0, 1, false), 4));
    rig.provider.unpark(&queue(), &key, 1).await.unwrap();
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(told().await, ((4, 0, false), (2, 1, false), (0, 1, false), 6));
    rig.provider.admin().purge(&queue()).await.unwrap();
    assert_eq!(told().await, ((0, 0, false), (0, 1, false), (0, 1, false), 0));
}
