//! What is kept, for how long, and how it is found again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    Consumer, Env, Envelope, JobError, JobId, JobRef, JobStore, QueueName, QueueProvider, QueueSpec,
    job::{Headers, JobKind, RawHeaders},
    lifecycle::JobState,
    provider::{Beat, Cancel, ConsumeOptions, Disposition, PublishOptions, PublishOutcome, SettleOutcome, Settlement},
    queue_spec::Retention,
    store::{JobQuery, JobRecord, Lookup},
};
use queue_redis::{RedisOptions, RedisProvider};
use redis::aio::MultiplexedConnection;
use server::Server;

struct Rig {
    provider: RedisProvider,
    redis: MultiplexedConnection,
    queue: QueueName,
    consumer: Arc<dyn Consumer>,
    store: Arc<dyn JobStore>,
    _server: Server,
}

const LONG: Duration = Duration::from_secs(600);

impl Rig {
    async fn new(retention: Retention, lease: Duration) -> Self {
        let server = Server::start().unwrap();
        let queue = QueueName::from_static("q");
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
        let mut spec = QueueSpec::new(queue.clone());
        spec.retention = retention;
        provider.declare(&spec).await.unwrap();
        let client = redis::Client::open(server.url()).unwrap();
        let redis = client.get_multiplexed_async_connection().await.unwrap();
        let mut options = ConsumeOptions::new("worker", 10_000);
        options.lease = lease;
        let consumer = provider.consumer(&queue, options).await.unwrap();
        let store = provider.job_store().unwrap();
        Self { provider, redis, queue, consumer, store, _server: server }
    }

    async fn publish(&self, jobs: &[Envelope]) {
        for part in jobs.chunks(100) {
            let outcomes = self.provider.publish(&self.queue, part.to_vec(), &PublishOptions::default()).await;
            assert!(outcomes.iter().all(|outcome| matches!(outcome, PublishOutcome::Accepted { .. })));
        }
    }

    /// Runs so many jobs to this end, in their order.
    async fn end(&self, mut n: usize, how: &Disposition) {
        while n > 0 {
            let some = self.consumer.fetch(n.min(100), Duration::ZERO).await.unwrap();
            assert!(!some.is_empty());
            n -= some.len();
            let batch: Vec<_> = some.iter().map(|job| Settlement::new(job.receipt, how.clone())).collect();
            assert!(self.consumer.settle(&batch).await.iter().all(|outcome| outcome.is_settled()));
        }
    }

    async fn maintain(&self) {
        while self.provider.maintain(true).await.unwrap().is_zero() {}
    }

    async fn left(&self, jobs: &[Envelope]) -> Vec<JobId> {
        let refs: Vec<JobRef> = jobs.iter().map(|job| JobRef::new(self.queue.clone(), job.id)).collect();
        let found = self.store.get(&refs).await;
        let found = found.into_iter().filter_map(|lookup| match lookup.unwrap() {
            Lookup::Found(record) => Some(record.job.id),
            Lookup::Gone => None,
            other => panic!("{other:?}"),
        });
        found.collect()
    }

    async fn record(&self, job: &Envelope) -> JobRecord {
        match self.store.get(&[JobRef::new(self.queue.clone(), job.id)]).await.pop().unwrap().unwrap() {
            Lookup::Found(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    async fn pages(&self, query: &JobQuery, limit: usize) -> (Vec<JobId>, usize) {
        let (mut found, mut cursor, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = self.store.list(query, cursor, limit).await.unwrap();
            assert!(page.items.len() <= limit);
            found.extend(page.items.iter().map(|record| record.job.id));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                found.sort();
                return (found, pages);
            }
        }
    }
}

macro_rules! rig {
    ($retention:expr, $lease:expr) => {{
        if !server::is_installed() {
            return eprintln!("LEFT OUT: no redis-server on the path");
        }
        Rig::new($retention, $lease).await
    }};
}

fn job(kind: &'static str, payload: usize) -> Envelope {
    let env = Env::system();
    Envelope::builder(JobId::fresh(&env), JobKind::from_static(kind), vec![7; payload], env.now()).seal()
}

fn ids(jobs: &[Envelope]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

fn plenty() -> Retention {
    Retention { age: LONG, count: 1_000_000, bytes: u64::MAX >> 12, dead: LONG }
}

fn complete() -> Disposition {
    Disposition::Complete { result: None }
}

fn bury() -> Disposition {
    Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }
}

#[tokio::test]
async fn finished_jobs_go_by_count_the_oldest_first() {
    let rig = rig!(Retention { count: 30, ..plenty() }, LONG);
    let jobs: Vec<_> = (0..250).map(|_| job("k", 10)).collect();
    rig.publish(&jobs).await;
    rig.end(250, &complete()).await;
    rig.maintain().await;
    assert_eq!(rig.left(&jobs).await, ids(&jobs[220..]));
}

#[tokio::test]
async fn finished_jobs_go_by_bytes_of_payloads_and_results() {
    let rig = rig!(Retention { bytes: 50_000, ..plenty() }, LONG);
    let jobs: Vec<_> = (0..20).map(|_| job("k", 4_000)).collect();
    rig.publish(&jobs).await;
    rig.end(10, &complete()).await;
    rig.end(10, &Disposition::Complete { result: Some(Bytes::from(vec![b'1'; 4_000])) }).await;
    rig.maintain().await;
    // Six of 8 KB each are less than 50,000 bytes, seven are more.
    assert_eq!(rig.left(&jobs).await, ids(&jobs[14..]));
}

#[tokio::test]
async fn finished_and_dead_jobs_go_by_age_and_waiting_ones_never() {
    let age = Duration::from_millis(700);
    let rig = rig!(Retention { age, dead: 2 * age, ..plenty() }, LONG);
    let jobs: Vec<_> = (0..4).map(|_| job("k", 10)).collect();
    rig.publish(&jobs).await;
    rig.end(1, &complete()).await;
    rig.end(1, &Disposition::Cancelled).await;
    rig.end(1, &bury()).await;
    rig.maintain().await;
    assert_eq!(rig.left(&jobs).await, ids(&jobs));
    tokio::time::sleep(age).await;
    rig.maintain().await;
    assert_eq!(rig.left(&jobs).await, ids(&jobs[2..]));
    tokio::time::sleep(age).await;
    rig.maintain().await;
    assert_eq!(rig.left(&jobs).await, ids(&jobs[3..]), "the one that waits");
    let stats = rig.provider.admin().stats(std::slice::from_ref(&rig.queue)).await.remove(0).unwrap();
    assert_eq!((stats.pending, stats.finished, stats.dead), (1, 0, 0));
}

#[tokio::test]
async fn the_dead_stay_whatever_count_and_bytes_say() {
    let rig = rig!(Retention { count: 0, bytes: 0, ..plenty() }, LONG);
    let jobs: Vec<_> = (0..3).map(|_| job("k", 10)).collect();
    rig.publish(&jobs).await;
    rig.end(3, &bury()).await;
    rig.maintain().await;
    assert_eq!(rig.left(&jobs).await, ids(&jobs));
}

#[tokio::test]
async fn logs_and_failures_are_kept_within_bounds() {
    let rig = rig!(plenty(), LONG);
    let job = job("k", 10);
    rig.publish(std::slice::from_ref(&job)).await;
    for attempt in 0..20 {
        let delivery = rig.consumer.fetch(1, Duration::ZERO).await.unwrap().pop().unwrap();
        let logs = (0..30).map(|line| Bytes::from(format!("{attempt}.{line} {}", "x".repeat(2_000)))).collect();
        let beat = Beat { logs, progress: Some("{}".into()), ..Beat::extend(delivery.receipt, LONG) };
        rig.consumer.heartbeat(&[beat]).await;
        let error = JobError::custom("TEMP", format!("failure {attempt}"));
        let retry = Disposition::Retry { after: Duration::ZERO, error };
        assert!(rig.consumer.settle(&[Settlement::new(delivery.receipt, retry)]).await[0].is_settled());
    }
    let record = rig.record(&job).await;
    assert_eq!(record.logs.len(), JobRecord::MAX_LOGS);
    assert!(record.logs.iter().all(|line| line.len() == JobRecord::MAX_LOG_LINE));
    assert!(record.logs[99].starts_with(b"19.29 ") && record.logs[0].starts_with(b"16.20 "));
    assert_eq!(record.error.unwrap().message, "failure 19");
    assert!(record.history.len() <= JobRecord::MAX_HISTORY && record.history.len() + 1 >= JobRecord::MAX_HISTORY);
    assert_eq!(record.history.last().unwrap().error.message, "failure 18");
}

#[tokio::test]
async fn jobs_are_found_by_state_kind_tag_and_tenant() {
    let rig = rig!(plenty(), LONG);
    let dressed = |kind, tag: &str, tenant: &str| {
        let mut headers = Headers::default();
        headers.tags.push(tag.into());
        headers.keys.tenant = Some(tenant.into());
        let headers = RawHeaders::encode(&headers).unwrap();
        job(kind, 10).edit(|job| job.headers = headers)
    };
    let mail: Vec<_> = (0..120).map(|_| dressed("mail", "red", "acme")).collect();
    let report: Vec<_> = (0..80).map(|_| dressed("report", "blue", "umbrella")).collect();
    rig.publish(&mail).await;
    rig.end(70, &complete()).await;
    rig.end(10, &bury()).await;
    rig.publish(&report).await;
    let all = |jobs: &[Envelope]| {
        let mut ids = ids(jobs);
        ids.sort();
        ids
    };
    let of = || JobQuery::queue(rig.queue.clone());
    let in_state = |state| of().in_states([state]);
    let mut tagged = of();
    tagged.tag = Some("blue".into());
    let mut owned = in_state(JobState::Pending);
    owned.tenant = Some("acme".into());
    let mut kind = of();
    kind.kind = Some(JobKind::from_static("mail"));
    let cases = [
        (in_state(JobState::Completed), all(&mail[..70])),
        (in_state(JobState::Dead), all(&mail[70..80])),
        (in_state(JobState::Running), Vec::new()),
        (tagged, all(&report)),
        (owned, all(&mail[80..])),
        (kind, all(&mail)),
    ];
    for (query, expected) in cases {
        for limit in [7, 1_000] {
            assert_eq!(rig.pages(&query, limit).await.0, expected, "{query:?} by {limit}");
        }
    }
}

#[tokio::test]
async fn one_question_is_answered_after_so_many_records_at_most() {
    let rig = rig!(plenty(), LONG);
    let jobs: Vec<_> = (0..15_000).map(|_| job("common", 1)).collect();
    let rare = job("rare", 1);
    rig.publish(&jobs).await;
    rig.publish(std::slice::from_ref(&rare)).await;
    let mut query = JobQuery::queue(rig.queue.clone());
    query.kind = Some(JobKind::from_static("rare"));
    let (found, pages) = rig.pages(&query, 10).await;
    assert_eq!(found, [rare.id]);
    assert!((2..=3).contains(&pages), "{pages}");
}

/// A version to come may write what this one cannot read; it is for that one to run.
#[tokio::test]
async fn a_job_of_a_newer_version_is_neither_run_nor_changed() {
    let lease = Duration::from_millis(300);
    let rig = rig!(plenty(), lease);
    let (newer, own) = (job("k", 10), job("k", 10));
    rig.publish(&[newer.clone(), own.clone()]).await;
    let mut redis = rig.redis.clone();
    let key = "queue:{q}:j";
    let mut row: Vec<u8> = redis::cmd("HGET").arg(key).arg(newer.id.as_bytes()).query_async(&mut redis).await.unwrap();
    row[0] = 200;
    let _: i64 = redis::cmd("HSET").arg(key).arg(newer.id.as_bytes()).arg(&row).query_async(&mut redis).await.unwrap();
    for _ in 0..3 {
        let got = rig.consumer.fetch(10, Duration::ZERO).await.unwrap();
        assert!(got.iter().all(|delivery| delivery.envelope.id == own.id));
        rig.maintain().await;
        tokio::time::sleep(lease).await;
    }
    let refused = rig.store.get(&[JobRef::new(rig.queue.clone(), newer.id)]).await.remove(0).unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (queue_core::ErrorCode::Undecodable, "a newer version wrote it: read it with that one")
    );
    let left: Vec<u8> = redis::cmd("HGET").arg(key).arg(newer.id.as_bytes()).query_async(&mut redis).await.unwrap();
    assert_eq!(left, row);
    rig.maintain().await;
    let state: Option<Vec<u8>> =
        redis::cmd("HGET").arg("queue:{q}:s").arg(newer.id.as_bytes()).query_async(&mut redis).await.unwrap();
    // Nothing has happened to it.
    assert_eq!(state, None);
    let looked_at_again: Option<f64> =
        redis::cmd("ZSCORE").arg("queue:{q}:t").arg(newer.id.as_bytes()).query_async(&mut redis).await.unwrap();
    assert!(looked_at_again.is_some());
}

const RECORDS: &str = "queue:{q}:j";
const STATES: &str = "queue:{q}:s";
const LINE: &str = "queue:{q}:r5";
const TIMES: &str = "queue:{q}:t";

impl Rig {
    async fn by_hand<T: redis::FromRedisValue>(&self, command: &mut redis::Cmd) -> T {
        command.query_async(&mut self.redis.clone()).await.unwrap()
    }

    async fn row(&self, key: &str, job: &Envelope) -> Vec<u8> {
        self.by_hand(redis::cmd("HGET").arg(key).arg(job.id.as_bytes())).await
    }

    async fn put(&self, key: &str, job: &Envelope, row: &[u8]) {
        let _: i64 = self.by_hand(redis::cmd("HSET").arg(key).arg(job.id.as_bytes()).arg(row)).await;
    }

    /// As a version to come would write it; answers what stood there, and what stands there now.
    async fn renew(&self, key: &str, job: &Envelope) -> (Vec<u8>, Vec<u8>) {
        let was = self.row(key, job).await;
        let now = [&[200], &was[1..]].concat();
        self.put(key, job, &now).await;
        (was, now)
    }

    async fn stands_in_line(&self, job: &Envelope) -> bool {
        let place: Option<i64> = self.by_hand(redis::cmd("LPOS").arg(LINE).arg(job.id.as_bytes())).await;
        place.is_some()
    }

    async fn waits(&self, job: &Envelope) -> bool {
        let time: Option<f64> = self.by_hand(redis::cmd("ZSCORE").arg(TIMES).arg(job.id.as_bytes())).await;
        time.is_some()
    }

    async fn take(&self) -> Vec<JobId> {
        let got = self.consumer.fetch(10, Duration::ZERO).await.unwrap();
        got.into_iter().map(|delivery| delivery.envelope.id).collect()
    }

    /// A job that was tried once, and is back at the end of its line.
    async fn tried(&self) -> (Envelope, Settlement) {
        let job = job("k", 10);
        self.publish(std::slice::from_ref(&job)).await;
        let delivery = self.consumer.fetch(1, Duration::ZERO).await.unwrap().pop().unwrap();
        assert_eq!(delivery.envelope.id, job.id);
        let retry = Disposition::Retry { after: Duration::ZERO, error: JobError::custom("TEMP", "again") };
        let settlement = Settlement::new(delivery.receipt, retry);
        assert!(self.consumer.settle(std::slice::from_ref(&settlement)).await[0].is_settled());
        (job, settlement)
    }
}

#[tokio::test]
async fn who_only_looks_leaves_a_newer_job_in_its_line() {
    let rig = rig!(plenty(), LONG);
    let (tried, _) = rig.tried().await;
    let (newer, own) = (job("k", 10), job("k", 10));
    rig.publish(&[newer.clone(), own.clone()]).await;
    // At the front: one with a newer status, then one with a newer record.
    rig.renew(STATES, &tried).await;
    rig.renew(RECORDS, &newer).await;
    let stats = rig.provider.admin().stats(std::slice::from_ref(&rig.queue)).await.remove(0).unwrap();
    assert_eq!(stats.oldest_pending, Some(rig.record(&own).await.submitted_at));
    rig.maintain().await;
    for job in [&tried, &newer, &own] {
        assert!(rig.stands_in_line(job).await);
    }
}

#[tokio::test]
async fn a_newer_job_survives_a_purge() {
    let rig = rig!(plenty(), LONG);
    let (tried, _) = rig.tried().await;
    let (newer, own) = (job("k", 10), job("k", 10));
    rig.publish(&[newer.clone(), own.clone()]).await;
    let (status, newer_status) = rig.renew(STATES, &tried).await;
    let (record, newer_record) = rig.renew(RECORDS, &newer).await;
    assert_eq!(rig.provider.admin().purge(&rig.queue).await.unwrap(), 1);
    assert_eq!(rig.row(STATES, &tried).await, newer_status);
    assert_eq!(rig.row(RECORDS, &newer).await, newer_record);
    // Who can read them finds them in time.
    rig.put(STATES, &tried, &status).await;
    rig.put(RECORDS, &newer, &record).await;
    for job in [&tried, &newer] {
        let _: i64 = rig.by_hand(redis::cmd("ZADD").arg(TIMES).arg("XX").arg(1).arg(job.id.as_bytes())).await;
    }
    let mut found = rig.take().await;
    found.sort();
    assert_eq!(found, [tried.id, newer.id]);
}

#[tokio::test]
async fn a_job_whose_status_is_newer_is_not_taken_for_one_that_never_ran() {
    let rig = rig!(plenty(), LONG);
    let (tried, _) = rig.tried().await;
    let (was, newer) = rig.renew(STATES, &tried).await;
    let here = JobRef::new(rig.queue.clone(), tried.id);
    let cancel = Cancel { grace: LONG, by: "test".into() };
    let answer = rig.store.cancel(&[here], &cancel).await.pop().unwrap();
    assert!(answer.is_err(), "{answer:?}");
    // Nor is it run, once its turn has come, nor when it is looked at again, whoever is claimed with it.
    for _ in 0..2 {
        let own = job("k", 10);
        rig.publish(std::slice::from_ref(&own)).await;
        assert_eq!(rig.take().await, [own.id]);
        assert_eq!(rig.row(STATES, &tried).await, newer);
        assert!(rig.waits(&tried).await);
        let _: i64 = rig.by_hand(redis::cmd("ZADD").arg(TIMES).arg("XX").arg(1).arg(tried.id.as_bytes())).await;
        rig.maintain().await;
    }
    rig.put(STATES, &tried, &was).await;
    let _: i64 = rig.by_hand(redis::cmd("ZADD").arg(TIMES).arg("XX").arg(1).arg(tried.id.as_bytes())).await;
    assert_eq!(rig.take().await, [tried.id]);
}

/// The answer was lost, and meanwhile somebody else has the job.
#[tokio::test]
async fn a_settlement_is_known_again_while_the_next_claim_runs() {
    let rig = rig!(plenty(), LONG);
    let (tried, settlement) = rig.tried().await;
    assert_eq!(rig.take().await, [tried.id]);
    let again = rig.consumer.settle(std::slice::from_ref(&settlement)).await.pop().unwrap();
    assert!(matches!(again, SettleOutcome::AlreadySettled), "{again:?}");
    let other = Settlement::new(settlement.receipt, complete());
    let other = rig.consumer.settle(std::slice::from_ref(&other)).await.pop().unwrap();
    assert!(matches!(other, SettleOutcome::Conflict), "{other:?}");
}

/// Both the usual way and the one of jobs that are special in something, here in that they expire.
#[tokio::test]
async fn a_claim_answers_no_more_than_a_few_mebibytes_and_loses_nothing_of_the_rest() {
    if !server::is_installed() {
        return eprintln!("LEFT OUT: no redis-server on the path");
    }
    for is_special in [false, true] {
        let rig = Rig::new(Retention::default(), LONG).await;
        let env = Env::system();
        let job = |n: u8| {
            let mut job =
                Envelope::builder(JobId::fresh(&env), JobKind::from_static("large"), vec![7; 900_000], env.now());
            job.priority = queue_core::Priority::new(1 + n % 3).unwrap();
            if is_special && n == 0 {
                // It has expired by the time of the claim, so that the claim cannot go the usual way.
                job.expires_at = Some(env.now() + Duration::from_millis(1));
            }
            job.seal()
        };
        let mut jobs: Vec<_> = (0..15).map(job).collect();
        for part in jobs.chunks(4) {
            rig.publish(part).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        if is_special {
            jobs.remove(0);
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.priority));
        let mut claimed = Vec::new();
        while claimed.len() < jobs.len() {
            let some = rig.consumer.fetch(100, Duration::ZERO).await.unwrap();
            assert!((1..=4).contains(&some.len()), "{} at once", some.len());
            claimed.extend(some.iter().map(|delivery| delivery.envelope.id));
        }
        assert_eq!(claimed, jobs.iter().map(|job| job.id).collect::<Vec<_>>(), "in their order");
        assert!(rig.consumer.fetch(100, Duration::ZERO).await.unwrap().is_empty());
    }
}
