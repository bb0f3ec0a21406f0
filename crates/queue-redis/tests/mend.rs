//! What faults, or somebody's hand, broke in Redis is repaired by the next maintenance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::HashSet, sync::Arc, time::Duration};

use queue_core::{
    Consumer, Env, Envelope, JobError, JobId, QueueName, QueueProvider, QueueSpec,
    job::{JobKind, Unique, UniqueKey},
    provider::{
        ConsumeOptions, Delivery, Disposition, ParkKey, PublishOptions, PublishOutcome, ReleaseReason, SettleOutcome,
        Settlement,
    },
    stats::QueueStats,
};
use queue_redis::{RedisOptions, RedisProvider};
use redis::{FromRedisValue, aio::MultiplexedConnection};
use server::Server;

const LEASE: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(600);

struct Rig {
    provider: RedisProvider,
    redis: MultiplexedConnection,
    queue: QueueName,
    consumer: Arc<dyn Consumer>,
    server: Server,
}

impl Rig {
    async fn new() -> Self {
        let server = Server::start().unwrap();
        let queue = QueueName::from_static("q");
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
        let client = redis::Client::open(server.url()).unwrap();
        let redis = client.get_multiplexed_async_connection().await.unwrap();
        let mut options = ConsumeOptions::new("worker", 10_000);
        options.lease = LEASE;
        let consumer = provider.consumer(&queue, options).await.unwrap();
        Self { provider, redis, queue, consumer, server }
    }

    /// Consumes what has the queue's name now.
    async fn consume_anew(&mut self) {
        let options = ConsumeOptions { lease: LEASE, ..ConsumeOptions::new("worker", 10_000) };
        self.consumer = self.provider.consumer(&self.queue, options).await.unwrap();
    }

    async fn publish(&self, job: &Envelope) -> PublishOutcome {
        self.provider.publish(&self.queue, vec![job.clone()], &PublishOptions::default()).await.pop().unwrap()
    }

    async fn published(&self) -> Envelope {
        let job = job();
        assert!(matches!(self.publish(&job).await, PublishOutcome::Accepted { .. }));
        job
    }

    async fn take(&self) -> Option<Delivery> {
        self.consumer.fetch(1, Duration::ZERO).await.unwrap().pop()
    }

    async fn take_all(&self) -> Vec<JobId> {
        let mut found = Vec::new();
        loop {
            let some = self.consumer.fetch(100, Duration::ZERO).await.unwrap();
            if some.is_empty() {
                return found;
            }
            found.extend(some.iter().map(|delivery| delivery.envelope.id));
        }
    }

    async fn settle(&self, delivery: &Delivery, disposition: Disposition) -> SettleOutcome {
        self.consumer.settle(&[Settlement::new(delivery.receipt, disposition)]).await.pop().unwrap()
    }

    /// As the scheduler of a process does it that has just begun, until there is no more for now: in one that goes on a queue that was
    /// looked through is left alone for a minute.
    async fn maintain(&self) {
        let fresh = RedisProvider::connect(&RedisOptions::new(self.server.url()), &Env::system()).await.unwrap();
        while fresh.maintain(true).await.unwrap().is_zero() {}
    }

    async fn stats(&self) -> QueueStats {
        self.provider.admin().stats(std::slice::from_ref(&self.queue)).await.pop().unwrap().unwrap()
    }

    /// A command as an operator gives it; `q:` stands for the queue's keys.
    async fn by_hand<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            match word.strip_prefix(b"q:") {
                Some(key) => command.arg([b"queue:{q}:", key].concat()),
                None => command.arg(*word),
            };
        }
        command.query_async(&mut self.redis.clone()).await.unwrap()
    }
}

fn job() -> Envelope {
    let env = Env::system();
    Envelope::builder(JobId::fresh(&env), JobKind::from_static("k"), b"1".to_vec(), env.now()).seal()
}

fn unique(key: &str) -> Envelope {
    let unique = Unique { key: UniqueKey::new(key).unwrap(), window: None };
    job().edit(|job| job.unique = Some(Box::new(unique)))
}

fn complete() -> Disposition {
    Disposition::Complete { result: None }
}

fn release() -> Disposition {
    Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown }
}

fn park(key: &ParkKey) -> Disposition {
    Disposition::Park { key: key.clone(), at_most: LONG }
}

macro_rules! rig {
    () => {{
        if !server::is_installed() {
            return eprintln!("LEFT OUT: no redis-server on the path");
        }
        Rig::new().await
    }};
}

#[tokio::test]
async fn a_job_whose_lease_was_deleted_runs_again() {
    let rig = rig!();
    let job = rig.published().await;
    let first = rig.take().await.unwrap();
    assert_eq!(rig.by_hand::<i64>(&[b"ZREM", b"q:t", job.id.as_bytes()]).await, 1);
    rig.maintain().await;
    tokio::time::sleep(LEASE + Duration::from_millis(100)).await;
    let second = rig.take().await.expect("it runs again");
    assert!(second.envelope.id == job.id && second.receipt.epoch != first.receipt.epoch);
    let late = rig.settle(&first, complete()).await;
    assert!(matches!(late, SettleOutcome::LeaseLost), "{late:?}");
    assert!(rig.settle(&second, complete()).await.is_settled());
}

#[tokio::test]
async fn a_live_lease_that_was_deleted_goes_on() {
    let rig = rig!();
    let job = rig.published().await;
    let delivery = rig.take().await.unwrap();
    rig.by_hand::<i64>(&[b"ZREM", b"q:t", job.id.as_bytes()]).await;
    rig.maintain().await;
    assert!(rig.take().await.is_none(), "its worker has it");
    assert!(rig.settle(&delivery, complete()).await.is_settled());
}

#[tokio::test]
async fn ids_without_a_job_are_passed_over_and_leave_no_trace() {
    let rig = rig!();
    let stray = b"stray-id-of-none";
    for key in [b"q:r5", b"q:r3"] {
        rig.by_hand::<i64>(&[b"RPUSH", key, stray]).await;
    }
    for key in [b"q:t", b"q:x", b"q:h", b"q:d"] {
        rig.by_hand::<i64>(&[b"ZADD", key, b"1", stray]).await;
    }
    rig.by_hand::<i64>(&[b"RPUSH", b"q:c", stray]).await;
    let job = rig.published().await;
    rig.maintain().await;
    assert_eq!(rig.take_all().await, [job.id]);
    rig.maintain().await;
    for key in [b"q:t", b"q:x", b"q:h", b"q:d"] {
        let left = rig.by_hand::<Option<f64>>(&[b"ZSCORE", key, stray]).await;
        assert_eq!(left, None, "{:?}", key.map(char::from));
    }
    let stats = rig.stats().await;
    assert_eq!((stats.pending, stats.running, stats.dead), (0, 1, 0));
}

#[tokio::test]
async fn a_job_that_is_missing_from_its_line_runs() {
    let rig = rig!();
    // Nothing has happened to the first two; the third was claimed before.
    let (one, two) = (rig.published().await, rig.published().await);
    for job in [&one, &two] {
        assert_eq!(rig.by_hand::<i64>(&[b"LREM", b"q:r5", b"0", job.id.as_bytes()]).await, 1);
    }
    rig.published().await;
    let tried = rig.take().await.unwrap();
    assert!(rig.settle(&tried, release()).await.is_settled());
    rig.by_hand::<i64>(&[b"DEL", b"q:h"]).await;
    assert!(rig.take().await.is_none(), "all three are lost");
    rig.maintain().await;
    assert_eq!(rig.take_all().await, [one.id, two.id, tried.envelope.id], "in their order");
}

#[tokio::test]
async fn one_that_is_missing_is_found_while_others_wait() {
    let rig = rig!();
    let lost = rig.published().await;
    let tried = rig.take().await.unwrap();
    assert!(rig.settle(&tried, release()).await.is_settled());
    rig.by_hand::<i64>(&[b"DEL", b"q:h"]).await;
    let behind = rig.published().await;
    rig.maintain().await;
    assert_eq!(rig.take_all().await, [lost.id, behind.id]);
}

#[tokio::test]
async fn a_delay_that_was_deleted_ends_when_it_should() {
    let rig = rig!();
    let soon = Env::system().now() + Duration::from_millis(1_500);
    let fresh = job().edit(|job| job.not_before = Some(soon));
    let whole = unique("key").edit(|job| {
        job.not_before = Some(soon);
        job.expires_at = Some(soon + LONG);
        job.timeout = LONG;
    });
    rig.publish(&fresh).await;
    rig.publish(&whole).await;
    rig.published().await;
    let tried = rig.take().await.unwrap();
    let retry = Disposition::Retry { after: Duration::from_millis(1_500), error: JobError::custom("TEMP", "again") };
    assert!(rig.settle(&tried, retry).await.is_settled());
    rig.by_hand::<i64>(&[b"DEL", b"q:t"]).await;
    rig.maintain().await;
    assert!(rig.take().await.is_none(), "none is due");
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    let (mut found, mut expected) = (rig.take_all().await, [fresh.id, whole.id, tried.envelope.id]);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn counters_that_drifted_are_set_right() {
    let rig = rig!();
    for _ in 0..4 {
        rig.published().await;
    }
    rig.publish(&job().edit(|job| job.not_before = Some(Env::system().now() + LONG))).await;
    let (done, dead, parked) = (rig.take().await.unwrap(), rig.take().await.unwrap(), rig.take().await.unwrap());
    rig.settle(&done, complete()).await;
    rig.settle(&dead, Disposition::DeadLetter { error: JobError::custom("BAD", "no") }).await;
    rig.settle(&parked, park(&ParkKey("key".into()))).await;
    let right = rig.stats().await;
    assert_eq!((right.pending, right.parked, right.scheduled, right.dead, right.finished), (2, 1, 1, 1, 1));
    for counter in [b"p", b"k", b"s", b"t", b"r", b"d", b"c"] {
        rig.by_hand::<i64>(&[b"HINCRBY", b"q:n", counter, b"7"]).await;
    }
    assert_ne!(rig.stats().await, right);
    rig.maintain().await;
    assert_eq!(rig.stats().await, right);
}

#[tokio::test]
async fn unique_keys_of_jobs_that_are_over_or_gone_are_free() {
    let rig = rig!();
    let (over, live) = (unique("over"), unique("live"));
    rig.publish(&over).await;
    let delivery = rig.take().await.unwrap();
    rig.settle(&delivery, complete()).await;
    rig.publish(&live).await;
    // As a fault would leave them.
    let held_by = |id: &[u8; 16]| [&id[..], &[0; 6]].concat();
    rig.by_hand::<i64>(&[b"HSET", b"q:u", b"over", &held_by(over.id.as_bytes())]).await;
    rig.by_hand::<i64>(&[b"HSET", b"q:u", b"gone", &held_by(b"there-is-no-such")]).await;
    assert!(matches!(rig.publish(&unique("gone")).await, PublishOutcome::Duplicate { .. }));
    rig.maintain().await;
    for key in ["over", "gone"] {
        let outcome = rig.publish(&unique(key)).await;
        assert!(matches!(outcome, PublishOutcome::Accepted { .. }), "{key}: {outcome:?}");
    }
    let outcome = rig.publish(&unique("live")).await;
    assert!(matches!(&outcome, PublishOutcome::Duplicate { existing } if existing.id == live.id), "{outcome:?}");
}

#[tokio::test]
async fn parks_agree_with_the_parked() {
    let rig = rig!();
    let key = ParkKey("key".into());
    let mut parked = Vec::new();
    for _ in 0..2 {
        rig.published().await;
        let delivery = rig.take().await.unwrap();
        rig.settle(&delivery, park(&key)).await;
        parked.push(delivery.envelope.id);
    }
    // One is not in the line that it waits in, one stands there that does not wait, and the number is wrong.
    rig.by_hand::<i64>(&[b"ZREM", b"q:k:key", parked[0].as_bytes()]).await;
    rig.by_hand::<i64>(&[b"ZADD", b"q:k:key", b"1", b"there-is-no-such"]).await;
    rig.by_hand::<i64>(&[b"ZADD", b"q:k", b"9", b"key", b"4", b"orphan"]).await;
    rig.maintain().await;
    assert_eq!(rig.provider.admin().parked(&rig.queue, 9).await.unwrap(), [(key.clone(), 2)]);
    rig.by_hand::<i64>(&[b"DEL", b"q:k", b"q:k:key"]).await;
    rig.maintain().await;
    assert_eq!(rig.provider.admin().parked(&rig.queue, 9).await.unwrap(), [(key.clone(), 2)]);
    assert_eq!(rig.provider.unpark(&rig.queue, &key, 9).await.unwrap(), 2);
    assert_eq!(rig.take_all().await, parked);
}

#[tokio::test]
async fn a_status_without_its_job_goes() {
    let rig = rig!();
    let job = rig.published().await;
    rig.take().await.unwrap();
    rig.by_hand::<i64>(&[b"HDEL", b"q:j", job.id.as_bytes()]).await;
    rig.maintain().await;
    assert_eq!(rig.by_hand::<i64>(&[b"HLEN", b"q:s"]).await, 0);
    assert_eq!(rig.stats().await.running, 0);
    tokio::time::sleep(LEASE + Duration::from_millis(100)).await;
    rig.maintain().await;
    assert!(rig.take().await.is_none());
    assert_eq!(rig.by_hand::<i64>(&[b"EXISTS", b"q:t"]).await, 0);
}

#[tokio::test]
async fn a_sound_queue_is_left_as_it_is_however_large() {
    let rig = rig!();
    for _ in 0..40 {
        let jobs: Vec<Envelope> = (0..100).map(|_| job()).collect();
        rig.provider.publish(&rig.queue, jobs, &PublishOptions::default()).await;
    }
    for _ in 0..10 {
        let some = rig.consumer.fetch(100, Duration::ZERO).await.unwrap();
        let settle = |(index, delivery): (usize, &Delivery)| {
            Settlement::new(delivery.receipt, if index % 2 == 0 { complete() } else { release() })
        };
        let settled = rig.consumer.settle(&some.iter().enumerate().map(settle).collect::<Vec<_>>()).await;
        assert!(settled.iter().all(SettleOutcome::is_settled));
    }
    let before = rig.stats().await;
    assert!(before.pending > 3_000);
    for _ in 0..4 {
        rig.provider.maintain(true).await.unwrap();
    }
    assert_eq!(rig.stats().await, before);
    let (heads, line) = (rig.by_hand::<i64>(&[b"ZCARD", b"q:h"]).await, rig.by_hand::<i64>(&[b"LLEN", b"q:r5"]).await);
    assert_eq!(u64::try_from(heads + line).unwrap(), before.pending, "nobody stands in line twice");
}

#[tokio::test]
async fn a_queue_that_was_looked_through_is_left_alone_for_a_minute() {
    let rig = rig!();
    rig.published().await;
    let right = rig.stats().await;
    rig.provider.maintain(true).await.unwrap();
    rig.by_hand::<i64>(&[b"HINCRBY", b"q:n", b"p", b"7"]).await;
    rig.provider.maintain(true).await.unwrap();
    assert_ne!(rig.stats().await, right, "it was looked through a moment ago");
    rig.maintain().await;
    assert_eq!(rig.stats().await, right);
}

/// A replica that is promoted may not know the newest claims, nor what they were counted by.
#[tokio::test]
async fn a_fence_is_never_given_out_twice() {
    let rig = rig!();
    // The first two are claimed plainly; the third comes from the head of its line, which is not plain.
    for plain in [true, true, false] {
        let job = rig.published().await;
        if !plain {
            let held = rig.take().await.unwrap();
            assert!(rig.settle(&held, release()).await.is_settled());
        }
        let known: Option<u64> = rig.by_hand(&[b"HGET", b"q:n", b"ticket"]).await;
        let status: Option<Vec<u8>> = rig.by_hand(&[b"HGET", b"q:s", job.id.as_bytes()]).await;
        let lost = rig.take().await.unwrap();
        rig.by_hand::<i64>(&[b"ZREM", b"q:t", job.id.as_bytes()]).await;
        match status {
            Some(status) => {
                rig.by_hand::<i64>(&[b"HSET", b"q:s", job.id.as_bytes(), &status]).await;
                rig.by_hand::<i64>(&[b"ZADD", b"q:h", b"1", job.id.as_bytes()]).await;
            }
            None => {
                rig.by_hand::<i64>(&[b"HDEL", b"q:s", job.id.as_bytes()]).await;
                rig.by_hand::<i64>(&[b"LPUSH", b"q:r5", job.id.as_bytes()]).await;
            }
        }
        let known = known.unwrap_or(0).to_string();
        rig.by_hand::<i64>(&[b"HSET", b"q:n", b"ticket", known.as_bytes(), b"p", b"1", b"r", b"0"]).await;
        let again = rig.take().await.unwrap();
        assert_eq!(again.envelope.id, job.id);
        assert_ne!(again.receipt.epoch, lost.receipt.epoch, "plain: {plain}");
        let late = rig.settle(&lost, complete()).await;
        assert!(matches!(late, SettleOutcome::LeaseLost), "plain: {plain}: {late:?}");
        assert!(rig.settle(&again, complete()).await.is_settled());
    }
}

#[tokio::test]
async fn a_dropped_queue_gives_out_no_fence_again() {
    let mut rig = rig!();
    let job = rig.published().await;
    let before = rig.take().await.unwrap();
    // It gave more tickets than the clock had room for.
    let ahead = before.receipt.epoch + (1 << 40);
    for counter in [None, Some(ahead)] {
        if let Some(ahead) = counter {
            rig.by_hand::<i64>(&[b"HSET", b"q:n", b"ticket", ahead.to_string().as_bytes()]).await;
        }
        rig.provider.drop_queue(&rig.queue, false).await.unwrap();
        rig.publish(&job).await;
        rig.consume_anew().await;
        let after = rig.take().await.unwrap();
        assert!(after.receipt.epoch > counter.unwrap_or(before.receipt.epoch), "{after:?}");
        assert!(matches!(rig.settle(&before, complete()).await, SettleOutcome::LeaseLost));
    }
}

/// Rows that a newer version, or nobody who knows how, wrote.
const STRANGE: &[u8] = b"\xc8 is of a version to come, and long enough for whatever it may be taken for";

#[tokio::test]
async fn rows_that_cannot_be_read_stop_the_upkeep_of_nothing() {
    let rig = rig!();
    let (record, status) = (rig.published().await, rig.published().await);
    rig.by_hand::<i64>(&[b"HSET", b"q:j", record.id.as_bytes(), STRANGE]).await;
    rig.by_hand::<i64>(&[b"HSET", b"q:s", status.id.as_bytes(), STRANGE]).await;
    rig.by_hand::<i64>(&[b"HSET", b"q:u", b"key", b"short"]).await;
    rig.by_hand::<i64>(&[b"ZADD", b"q:w", b"1", b"key"]).await;
    rig.by_hand::<i64>(&[b"HSET", b"q:n", b"mend", b"what"]).await;
    let lost = rig.published().await;
    rig.by_hand::<i64>(&[b"DEL", b"q:r5"]).await;
    rig.maintain().await;
    assert_eq!(rig.take_all().await, [lost.id], "it was missing, and behind the others");
    let kept: Vec<Vec<u8>> = vec![
        rig.by_hand(&[b"HGET", b"q:j", record.id.as_bytes()]).await,
        rig.by_hand(&[b"HGET", b"q:s", status.id.as_bytes()]).await,
    ];
    assert_eq!(kept, [STRANGE, STRANGE]);
}

#[tokio::test]
async fn a_queue_whose_upkeep_fails_stops_no_other() {
    let rig = rig!();
    let sound = QueueName::from_static("sound");
    rig.publish(&job()).await;
    rig.provider.publish(&sound, vec![job()], &PublishOptions::default()).await;
    let right = rig.stats().await;
    // What is looked at first is what stands first in the list of queues.
    for (broken, other) in [("q", "sound"), ("sound", "q")] {
        let key = |queue: &str, name: &str| format!("queue:{{{queue}}}:{name}").into_bytes();
        rig.by_hand::<()>(&[b"SET", &key(broken, "t"), b"not a set of times"]).await;
        rig.by_hand::<i64>(&[b"HSET", &key(other, "n"), b"d", b"7"]).await;
        // One that has not looked through them within the minute.
        let fresh = RedisProvider::connect(&RedisOptions::new(rig.server.url()), &Env::system()).await.unwrap();
        fresh.maintain(true).await.expect_err("it is told");
        let dead: String = rig.by_hand(&[b"HGET", &key(other, "n"), b"d"]).await;
        assert_eq!(dead, "0", "{other} was looked after");
        rig.by_hand::<i64>(&[b"DEL", &key(broken, "t")]).await;
    }
    rig.maintain().await;
    assert_eq!(rig.stats().await, right);
}

#[tokio::test]
async fn a_finished_or_parked_job_that_cannot_be_read_stays_where_it_is() {
    let mut rig = rig!();
    let mut spec = QueueSpec::new(rig.queue.clone());
    spec.retention.count = 0;
    rig.provider.drop_queue(&rig.queue, false).await.unwrap();
    rig.provider.declare(&spec).await.unwrap();
    rig.consume_anew().await;
    let key = ParkKey("key".into());
    let jobs = [rig.published().await, rig.published().await, rig.published().await, rig.published().await];
    for disposition in [complete(), complete(), park(&key), park(&key)] {
        let delivery = rig.take().await.unwrap();
        assert!(rig.settle(&delivery, disposition).await.is_settled());
    }
    for job in [&jobs[0], &jobs[2]] {
        rig.by_hand::<i64>(&[b"HSET", b"q:s", job.id.as_bytes(), STRANGE]).await;
    }
    rig.maintain().await;
    assert_eq!(rig.by_hand::<Vec<Vec<u8>>>(&[b"LRANGE", b"q:c", b"0", b"-1"]).await, [jobs[0].id.as_bytes().to_vec()]);
    assert_eq!(rig.by_hand::<i64>(&[b"HEXISTS", b"q:j", jobs[0].id.as_bytes()]).await, 1, "it is kept");
    assert_eq!(rig.by_hand::<i64>(&[b"HEXISTS", b"q:j", jobs[1].id.as_bytes()]).await, 0, "the other was forgotten");

    assert_eq!(rig.provider.unpark(&rig.queue, &key, 9).await.unwrap(), 1, "the one that can be read");
    assert_eq!(rig.take_all().await, [jobs[3].id]);
    let parked = rig.by_hand::<Vec<Vec<u8>>>(&[b"ZRANGE", b"q:k:key", b"0", b"-1"]).await;
    assert_eq!(parked, [jobs[2].id.as_bytes().to_vec()]);
}

#[tokio::test]
async fn a_queue_that_another_declared_anew_is_kept_as_it_says_now() {
    let mut rig = rig!();
    rig.provider.declare(&QueueSpec::new(rig.queue.clone())).await.unwrap();
    rig.provider.maintain(true).await.unwrap();
    let other = RedisProvider::connect(&RedisOptions::new(rig.server.url()), &Env::system()).await.unwrap();
    other.drop_queue(&rig.queue, false).await.unwrap();
    let mut spec = QueueSpec::new(rig.queue.clone());
    spec.retention.count = 1;
    other.declare(&spec).await.unwrap();
    for _ in 0..3 {
        rig.published().await;
    }
    rig.consume_anew().await;
    for _ in 0..3 {
        let delivery = rig.take().await.unwrap();
        assert!(rig.settle(&delivery, complete()).await.is_settled());
    }
    assert_eq!(rig.stats().await.finished, 3);
    rig.provider.maintain(true).await.unwrap();
    assert_eq!(rig.stats().await.finished, 1);
}

/// Jobs that nothing has happened to all have the same rank.
#[tokio::test]
async fn a_new_job_that_is_missing_is_found_while_others_wait() {
    let rig = rig!();
    let jobs: Vec<Envelope> = (0..300).map(|_| job()).collect();
    for part in jobs.chunks(100) {
        rig.provider.publish(&rig.queue, part.to_vec(), &PublishOptions::default()).await;
    }
    let lost = [&jobs[7], &jobs[150], &jobs[299]];
    for job in lost {
        assert_eq!(rig.by_hand::<i64>(&[b"LREM", b"q:r5", b"0", job.id.as_bytes()]).await, 1);
    }
    rig.maintain().await;
    assert_eq!(rig.by_hand::<i64>(&[b"ZCARD", b"q:h"]).await, 3, "those that were missing, and no others");
    let found = rig.take_all().await;
    assert_eq!(found.len(), 300);
    // Of one millisecond, in any order.
    let ids = |ids: &[JobId]| ids.iter().copied().collect::<HashSet<_>>();
    assert_eq!(ids(&found[..3]), ids(&lost.map(|job| job.id)));
}
