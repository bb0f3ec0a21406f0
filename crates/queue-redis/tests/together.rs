//! Jobs that were claimed together share a row and a lease until somebody looks at one of them; nobody can tell by what they do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::HashSet, sync::Arc, time::Duration};

use queue_core::{
    Consumer, Env, Envelope, ErrorCode, JobError, JobId, QueueName, QueueProvider, QueueSpec,
    job::{JobKind, JobRef, Unique, UniqueKey},
    lifecycle::JobState,
    provider::{
        Beat, BeatOutcome, Cancel, ConsumeOptions, Delivery, Disposition, PublishOptions, ReleaseReason, SettleOutcome,
        Settlement,
    },
    queue_spec::Tracking,
    stats::QueueStats,
    store::{CancelOutcome, Lookup},
};
use queue_redis::{RedisOptions, RedisProvider};
use redis::aio::MultiplexedConnection;
use server::Server;

const MANY: usize = 40;
const LONG: Duration = Duration::from_secs(600);

struct Rig {
    provider: RedisProvider,
    redis: MultiplexedConnection,
    consumer: Arc<dyn Consumer>,
    env: Env,
    _server: Server,
}

fn queue() -> QueueName {
    QueueName::from_static("q")
}

fn done() -> Disposition {
    Disposition::Complete { result: None }
}

impl Rig {
    async fn new(tracking: Tracking, lease: Duration) -> Option<Self> {
        if !server::is_installed() {
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        }
        let server = Server::start().unwrap();
        let env = Env::system();
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &env).await.unwrap();
        let mut spec = QueueSpec::new(queue());
        spec.tracking = tracking;
        provider.declare(&spec).await.unwrap();
        let consumer = consumer(&provider, lease).await;
        let redis = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
        Some(Self { provider, redis, consumer, env, _server: server })
    }

    fn job(&self) -> Envelope {
        let id = JobId::fresh_at(self.env.now(), &*self.env.random);
        Envelope::builder(id, JobKind::from_static("k"), "{}", self.env.now()).seal()
    }

    async fn publish(&self, jobs: &[Envelope]) {
        let outcomes = self.provider.publish(&queue(), jobs.to_vec(), &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_accepted()));
    }

    /// Many jobs that one call has claimed.
    async fn claimed(&mut self) -> Vec<Delivery> {
        let jobs: Vec<_> = (0..MANY).map(|_| self.job()).collect();
        self.publish(&jobs).await;
        let claimed = self.fetch().await;
        assert!(claimed.iter().map(|one| one.receipt.id).eq(jobs.iter().map(|job| job.id)));
        assert_eq!(self.rows().await, [1, 0, 1], "one row and one lease for all");
        claimed
    }

    async fn fetch(&self) -> Vec<Delivery> {
        self.consumer.fetch(100, Duration::ZERO).await.unwrap()
    }

    async fn settle(&self, jobs: &[Delivery], how: Disposition) -> Vec<SettleOutcome> {
        settle(&*self.consumer, jobs, how).await
    }

    /// Rows of claims, statuses, and what waits for a time.
    async fn rows(&mut self) -> [u64; 3] {
        let mut ask = redis::pipe();
        ask.hlen("queue:{q}:q").hlen("queue:{q}:s").zcard("queue:{q}:t");
        let (claims, statuses, timed) = ask.query_async(&mut self.redis).await.unwrap();
        [claims, statuses, timed]
    }

    async fn stats(&self) -> QueueStats {
        self.provider.admin().stats(&[queue()]).await.remove(0).unwrap()
    }

    async fn look_up(&self, id: JobId) -> Lookup {
        self.provider.job_store().unwrap().get(&[JobRef::new(queue(), id)]).await.remove(0).unwrap()
    }

    async fn cancel(&self, id: JobId) -> CancelOutcome {
        let store = self.provider.job_store().unwrap();
        store.cancel(&[JobRef::new(queue(), id)], &Cancel::by("a test")).await.remove(0).unwrap()
    }
}

async fn consumer(provider: &RedisProvider, lease: Duration) -> Arc<dyn Consumer> {
    let options = ConsumeOptions { lease, ..ConsumeOptions::new("worker", 1_000) };
    provider.consumer(&queue(), options).await.unwrap()
}

async fn settle(consumer: &dyn Consumer, jobs: &[Delivery], how: Disposition) -> Vec<SettleOutcome> {
    let batch: Vec<_> = jobs.iter().map(|job| Settlement::new(job.receipt, how.clone())).collect();
    consumer.settle(&batch).await
}

fn all_settled(outcomes: &[SettleOutcome]) -> bool {
    outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled))
}

#[tokio::test]
async fn they_are_settled_part_by_part_and_counted_exactly() {
    for tracking in [Tracking::Full, Tracking::Off] {
        let Some(mut rig) = Rig::new(tracking, LONG).await else { return };
        let jobs = rig.claimed().await;
        // Others, of another claim: settled with some of the first, in any order.
        let more = rig.claimed_beside().await;
        let stats = rig.stats().await;
        assert_eq!((stats.pending, stats.running), (0, 2 * MANY as u64));

        let mixed = [&more[30..], &jobs[3..10]].concat();
        assert!(all_settled(&rig.settle(&mixed, done()).await));
        assert_eq!(rig.rows().await[0], 2, "some of each are left");
        let again = rig.settle(&mixed, done()).await;
        assert!(again.iter().all(|outcome| matches!(outcome, SettleOutcome::AlreadySettled)), "{again:?}");
        let other = rig.settle(&jobs[3..10], Disposition::Complete { result: Some("1".into()) }).await;
        assert!(other.iter().all(|outcome| matches!(outcome, SettleOutcome::Conflict)), "{other:?}");

        let rest = [&jobs[..3], &jobs[10..], &more[..30]].concat();
        assert!(all_settled(&rig.settle(&rest, done()).await));
        let stats = rig.stats().await;
        assert_eq!((stats.pending, stats.running, stats.completed_total), (0, 0, 2 * MANY as u64));
        let kept = if tracking == Tracking::Full { 2 * MANY as u64 } else { 0 };
        let [claims, statuses, timed] = rig.rows().await;
        assert_eq!((claims, statuses, timed, stats.finished), (0, kept, 0, kept));
    }
}

impl Rig {
    async fn claimed_beside(&self) -> Vec<Delivery> {
        let jobs: Vec<_> = (0..MANY).map(|_| self.job()).collect();
        self.publish(&jobs).await;
        self.fetch().await
    }
}

#[tokio::test]
async fn a_result_is_kept_and_what_ran_is_remembered_with_its_worker() {
    let Some(mut rig) = Rig::new(Tracking::Full, LONG).await else { return };
    let jobs = rig.claimed().await;
    assert!(all_settled(&rig.settle(&jobs[..20], Disposition::Complete { result: Some("[7]".into()) }).await));
    let Lookup::Found(record) = rig.look_up(jobs[5].receipt.id).await else { panic!("it is kept") };
    assert_eq!((record.state, record.result.as_deref()), (JobState::Completed, Some(&b"[7]"[..])));
    assert_eq!((record.worker.as_deref(), record.attempt), (Some("worker"), 1));
    assert!(record.started_at.is_some());
}

#[tokio::test]
async fn whoever_is_looked_at_has_its_own_and_is_settled_all_the_same() {
    for tracking in [Tracking::Full, Tracking::Off] {
        let Some(mut rig) = Rig::new(tracking, LONG).await else { return };
        let jobs = rig.claimed().await;
        // Half of them first, which must not come back.
        assert!(all_settled(&rig.settle(&jobs[20..], done()).await));
        let Lookup::Found(record) = rig.look_up(jobs[0].receipt.id).await else { panic!("it runs") };
        assert_eq!((record.state, record.worker.as_deref()), (JobState::Running, Some("worker")));
        assert_eq!(rig.cancel(jobs[1].receipt.id).await, CancelOutcome::Requested);
        let kept = if tracking == Tracking::Full { 20 } else { 0 };
        assert_eq!(rig.rows().await, [0, 20 + kept, 20], "each has a status and a lease");
        let beats: Vec<_> = jobs[..20].iter().map(|job| Beat::extend(job.receipt, LONG)).collect();
        let held = rig.consumer.heartbeat(&beats).await;
        let asked = held.iter().map(|outcome| match outcome {
            BeatOutcome::Held(lease) => lease.cancel.is_some(),
            other => panic!("{other:?}"),
        });
        assert_eq!(asked.filter(|asked| *asked).count(), 1);
        let outcomes = rig.settle(&jobs[..20], done()).await;
        assert!(all_settled(&outcomes), "{outcomes:?}");
        let stats = rig.stats().await;
        assert_eq!((stats.running, stats.completed_total), (0, MANY as u64));
    }
}

#[tokio::test]
async fn one_that_fails_takes_the_longer_way_with_its_batch_alone() {
    let Some(mut rig) = Rig::new(Tracking::Off, LONG).await else { return };
    let jobs = rig.claimed().await;
    let fails = Disposition::Retry { after: LONG, error: JobError::new(ErrorCode::Internal, "no") };
    let mut batch: Vec<_> = jobs[..10].iter().map(|job| Settlement::new(job.receipt, done())).collect();
    batch[4].disposition = fails;
    assert!(all_settled(&rig.consumer.settle(&batch).await));
    assert!(all_settled(&rig.settle(&jobs[10..], done()).await));
    let stats = rig.stats().await;
    assert_eq!((stats.running, stats.retrying, stats.completed_total), (0, 1, MANY as u64 - 1));
}

#[tokio::test]
async fn another_consumer_that_knows_only_the_receipts_settles_them() {
    let Some(mut rig) = Rig::new(Tracking::Full, LONG).await else { return };
    let jobs = rig.claimed().await;
    let other = consumer(&rig.provider, LONG).await;
    assert!(all_settled(&settle(&*other, &jobs[..20], done()).await));
    assert!(all_settled(&rig.settle(&jobs[20..], done()).await));
    assert_eq!(rig.stats().await.running, 0);
}

#[tokio::test]
async fn a_lease_that_ends_gives_all_back_in_their_order_and_fences_who_had_them() {
    for tracking in [Tracking::Full, Tracking::Off] {
        let Some(mut rig) = Rig::new(tracking, Duration::from_millis(300)).await else { return };
        let jobs = rig.claimed().await;
        assert!(all_settled(&rig.settle(&jobs[7..9], done()).await));
        tokio::time::sleep(Duration::from_millis(400)).await;
        let next = consumer(&rig.provider, LONG).await;
        let again = next.fetch(100, Duration::ZERO).await.unwrap();
        let left = [&jobs[..7], &jobs[9..]].concat();
        assert!(again.iter().map(|one| one.receipt.id).eq(left.iter().map(|one| one.receipt.id)));
        assert!(again.iter().all(|one| one.redelivered));
        let late = rig.settle(&left, done()).await;
        assert!(late.iter().all(|outcome| matches!(outcome, SettleOutcome::LeaseLost)), "{late:?}");
        assert!(all_settled(&settle(&*next, &again, done()).await));
        assert_eq!(rig.stats().await.completed_total, MANY as u64);
    }
}

#[tokio::test]
async fn maintenance_ends_leases_too_and_repairs_what_a_hand_took() {
    let Some(mut rig) = Rig::new(Tracking::Full, Duration::from_secs(2)).await else { return };
    // The queue was looked through; what follows are ticks.
    for _ in 0..5 {
        rig.provider.maintain(true).await.unwrap();
    }
    rig.claimed().await;
    // Its lease has no entry any more: the row says when it ends.
    let _: u64 = redis::cmd("DEL").arg("queue:{q}:t").query_async(&mut rig.redis).await.unwrap();
    rig.provider.maintain(true).await.unwrap();
    assert_eq!(rig.rows().await, [1, 0, 1]);
    let _: u64 = redis::cmd("DEL").arg("queue:{q}:t").query_async(&mut rig.redis).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    rig.provider.maintain(true).await.unwrap();
    assert_eq!(rig.stats().await.pending, MANY as u64);
    let again = rig.fetch().await;
    assert_eq!(again.len(), MANY);
    assert!(all_settled(&rig.settle(&again, done()).await));
}

#[tokio::test]
async fn a_row_that_a_hand_took_is_mended_and_its_jobs_run_again() {
    let Some(mut rig) = Rig::new(Tracking::Full, LONG).await else { return };
    let jobs = rig.claimed().await;
    let _: u64 = redis::cmd("DEL").arg("queue:{q}:q").query_async(&mut rig.redis).await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut found = HashSet::new();
    while found.len() < MANY && tokio::time::Instant::now() < until {
        rig.provider.maintain(true).await.unwrap();
        found.extend(rig.fetch().await.iter().map(|one| one.receipt.id));
    }
    assert_eq!(found, jobs.iter().map(|one| one.receipt.id).collect());
}

#[tokio::test]
async fn an_id_that_stands_in_line_twice_is_claimed_once() {
    let Some(rig) = Rig::new(Tracking::Off, LONG).await else { return };
    let jobs: Vec<_> = (0..MANY).map(|_| rig.job()).collect();
    rig.publish(&jobs).await;
    assert_eq!(rig.cancel(jobs[3].id).await, CancelOutcome::Cancelled);
    rig.publish(&jobs[3..4]).await;
    // Its two places are claimed by two calls.
    let first = rig.consumer.fetch(20, Duration::ZERO).await.unwrap();
    let second = rig.consumer.fetch(100, Duration::ZERO).await.unwrap();
    let claimed = [first, second].concat();
    let distinct: HashSet<_> = claimed.iter().map(|one| one.receipt.id).collect();
    assert_eq!((claimed.len(), distinct.len()), (MANY, MANY));
    assert!(all_settled(&rig.settle(&claimed, done()).await));
    // Once the lines are empty there is no doubt any more.
    assert!(rig.fetch().await.is_empty());
    let mut rig = rig;
    rig.claimed().await;
}

#[tokio::test]
async fn a_row_of_a_newer_version_stays_for_who_can_read_it() {
    let Some(mut rig) = Rig::new(Tracking::Full, LONG).await else { return };
    let jobs = rig.claimed().await;
    let row: Vec<(Vec<u8>, Vec<u8>)> =
        redis::cmd("HGETALL").arg("queue:{q}:q").query_async(&mut rig.redis).await.unwrap();
    let (key, row) = &row[0];
    for other in [&[&[2], &row[1..]].concat()[..], &row[..row.len() - 1], b"\x01", b""] {
        rig.put(key, other).await;
        let refused = rig.settle(&jobs, done()).await;
        assert!(refused.iter().all(|outcome| matches!(outcome, SettleOutcome::LeaseLost)), "{refused:?}");
        assert!(rig.fetch().await.is_empty(), "none is claimed twice");
        assert_eq!(rig.rows().await[0], 1);
    }
    rig.put(key, row).await;
    assert!(all_settled(&rig.settle(&jobs, done()).await));
    assert_eq!(rig.rows().await, [0, MANY as u64, 0]);
}

#[tokio::test]
async fn a_claim_that_takes_the_longer_way_reads_no_other_claims() {
    let Some(mut rig) = Rig::new(Tracking::Full, LONG).await else { return };
    rig.claimed().await;
    rig.publish(&[rig.job()]).await;
    let one = rig.fetch().await;
    let back = Disposition::Release { after: Duration::ZERO, reason: ReleaseReason::Shutdown };
    assert!(all_settled(&rig.settle(&one, back).await));
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut rig.redis).await.unwrap();
    assert_eq!(rig.fetch().await.len(), 1, "from the head of its line");
    let calls: String = redis::cmd("INFO").arg("commandstats").query_async(&mut rig.redis).await.unwrap();
    assert!(calls.contains("cmdstat_zrem:"), "{calls}");
    assert!(!calls.contains("cmdstat_hgetall:"), "it would cost as much as there are others: {calls}");
    assert_eq!(rig.rows().await[0], 1);
}

#[tokio::test]
async fn a_lookup_writes_nothing_and_is_answered_where_nothing_can_be_written() {
    let Some(mut rig) = Rig::new(Tracking::Full, LONG).await else { return };
    let jobs = rig.claimed().await;
    let beside = rig.claimed_beside().await;
    assert!(all_settled(&rig.settle(&jobs[7..8], done()).await));
    let refuse = redis::cmd("CONFIG").arg("SET").arg("min-replicas-to-write").arg(1).take();
    let _: () = refuse.query_async(&mut rig.redis).await.unwrap();
    for (job, state) in [(&jobs[6], JobState::Running), (&jobs[7], JobState::Completed)] {
        let Lookup::Found(record) = rig.look_up(job.receipt.id).await else { panic!("it is there") };
        assert_eq!(record.state, state);
    }
    let all: Vec<_> = jobs.iter().chain(&beside).map(|job| JobRef::new(queue(), job.receipt.id)).collect();
    let found = rig.provider.job_store().unwrap().get(&all).await;
    let running = found.iter().filter(|one| match one {
        Ok(Lookup::Found(record)) => record.state == JobState::Running && record.worker.as_deref() == Some("worker"),
        other => panic!("{other:?}"),
    });
    assert_eq!(running.count(), 2 * MANY - 1);
    assert_eq!(rig.rows().await, [2, 1, 2]);
}

#[tokio::test]
async fn only_claims_of_jobs_that_are_meant_are_made_rows_of() {
    let Some(mut rig) = Rig::new(Tracking::Full, LONG).await else { return };
    let jobs = rig.claimed().await;
    rig.claimed_beside().await;
    let beats: Vec<_> = jobs.iter().map(|job| Beat::extend(job.receipt, LONG)).collect();
    let held = rig.consumer.heartbeat(&beats).await;
    assert!(held.iter().all(|outcome| matches!(outcome, BeatOutcome::Held(_))), "{held:?}");
    assert_eq!(rig.rows().await, [1, MANY as u64, MANY as u64 + 1]);
}

#[tokio::test]
async fn who_is_at_the_head_and_in_a_long_line_is_claimed_once() {
    let Some(mut rig) = Rig::new(Tracking::Off, LONG).await else { return };
    // The first has a rank, and the others have none.
    let unique = Unique { key: UniqueKey::new("key").unwrap(), window: None };
    rig.publish(&[rig.job().edit(|parts| parts.unique = Some(Box::new(unique)))]).await;
    let jobs: Vec<_> = (0..10_500).map(|_| rig.job()).collect();
    rig.publish(&jobs).await;
    let mut lost = 0_u64;
    for line in (1..=15).map(|priority| format!("queue:{{q}}:r{priority}")) {
        let lose = redis::cmd("LREM").arg(line).arg(0).arg(&jobs[10_000].id.as_bytes()[..]).take();
        lost += lose.query_async::<u64>(&mut rig.redis).await.unwrap();
    }
    assert_eq!(lost, 1);
    let count = redis::cmd("ZCARD").arg("queue:{q}:h").take();
    let mut heads = 0_u64;
    for _ in 0..20 {
        rig.provider.maintain(true).await.unwrap();
        let now = count.query_async(&mut rig.redis).await.unwrap();
        if now > 0 && now == heads {
            break;
        }
        heads = now;
    }
    assert!((1..2_000).contains(&heads), "{heads}");

    let (mut left, mut again) = (heads, Vec::new());
    while left > 0 {
        let taken = rig.consumer.fetch(left.min(100) as usize, Duration::ZERO).await.unwrap();
        assert!(!taken.is_empty());
        assert!(all_settled(&rig.settle(&taken, done()).await));
        again.extend(taken);
        left = count.query_async(&mut rig.redis).await.unwrap();
    }
    let again = again.iter().rfind(|one| one.receipt.id != jobs[10_000].id).unwrap();
    rig.publish(std::slice::from_ref(&again.envelope)).await;
    let mut met = 0;
    loop {
        let (same, others): (Vec<_>, _) =
            rig.fetch().await.into_iter().partition(|one| one.receipt.id == again.receipt.id);
        if same.is_empty() && others.is_empty() {
            break;
        }
        met += same.len();
        assert!(all_settled(&rig.settle(&others, done()).await));
    }
    assert_eq!(met, 1, "times");
}

#[tokio::test]
async fn a_counter_that_is_no_number_takes_no_jobs_out_of_their_lines() {
    for name in ["p", "r", "s", "t", "sleeping", "tick", "ticket", "watched", "submitted", "completed", "c", "fbytes"] {
        for tracking in [Tracking::Full, Tracking::Off] {
            let Some(mut rig) = Rig::new(tracking, LONG).await else { return };
            let jobs: Vec<_> = (0..MANY).map(|_| rig.job()).collect();
            let set = redis::cmd("HSET").arg("queue:{q}:n").arg(name).arg("x").take();
            let _: u64 = set.query_async(&mut rig.redis).await.unwrap();
            rig.publish(&jobs).await;
            let _: u64 = set.query_async(&mut rig.redis).await.unwrap();
            let claimed = rig.consumer.fetch(100, Duration::ZERO).await;
            let claimed = claimed.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(claimed.len(), MANY, "{name}");
            let _: u64 = set.query_async(&mut rig.redis).await.unwrap();
            let outcomes = rig.settle(&claimed, done()).await;
            assert!(all_settled(&outcomes), "{name}: {outcomes:?}");
        }
    }
}

impl Rig {
    async fn put(&mut self, key: &[u8], row: &[u8]) {
        let put = redis::cmd("HSET").arg("queue:{q}:q").arg(key).arg(row).take();
        let _: u64 = put.query_async(&mut self.redis).await.unwrap();
    }
}
