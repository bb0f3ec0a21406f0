//! Listing by kind, tag and tenant from indexes, for queues that keep them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::HashSet, time::Duration};

use queue_core::{
    Env, Envelope, ErrorCode, JobError, JobId, QueueName, QueueProvider, QueueSpec,
    job::{Headers, JobKind, LimitKeys, RawHeaders, TraceContext, Unique, UniqueKey},
    provider::{ConsumeOptions, Disposition, PublishOptions, Redrive, RedriveSelection, Settlement},
    queue_spec::Tracking,
    store::JobQuery,
};
use queue_redis::{Index, RedisOptions, RedisProvider};
use server::Server;

struct Rig {
    server: Server,
    provider: RedisProvider,
    queue: QueueName,
}

const ALL: Option<&[Index]> = Some(&[Index::Tag, Index::Kind, Index::Tenant]);

impl Rig {
    async fn new(indexes: Option<&[Index]>, change: impl FnOnce(&mut QueueSpec)) -> Option<Self> {
        if !server::is_installed() {
            assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        }
        let server = Server::start().unwrap();
        let provider = connect(&server, indexes).await;
        let queue = QueueName::from_static("q");
        let mut spec = QueueSpec::new(queue.clone());
        change(&mut spec);
        provider.declare(&spec).await.unwrap();
        Some(Self { server, provider, queue })
    }

    async fn publish(&self, jobs: &[Envelope]) {
        for part in jobs.chunks(50) {
            let outcomes = self.provider.publish(&self.queue, part.to_vec(), &PublishOptions::default()).await;
            assert!(outcomes.iter().all(|outcome| outcome.is_accepted()), "{outcomes:?}");
        }
    }

    async fn end(&self, count: usize, how: Disposition) {
        let consumer = self.provider.consumer(&self.queue, ConsumeOptions::new("worker", 1_000)).await.unwrap();
        let mut left = count;
        while left > 0 {
            let some = consumer.fetch(left.min(100), Duration::ZERO).await.unwrap();
            assert!(!some.is_empty());
            left -= some.len();
            let batch: Vec<_> = some.iter().map(|job| Settlement::new(job.receipt, how.clone())).collect();
            assert!(consumer.settle(&batch).await.iter().all(|outcome| outcome.is_settled()));
        }
    }

    async fn maintain(&self) {
        while self.provider.maintain(true).await.unwrap().is_zero() {}
    }

    /// What a listing finds, page by page, and how often it walked over all records for it.
    async fn listed(&self, query: &JobQuery) -> (HashSet<JobId>, u64) {
        let before = self.walks();
        let store = self.provider.job_store().unwrap();
        let (mut found, mut cursor) = (HashSet::new(), None);
        loop {
            let page = store.list(query, cursor, 7).await.unwrap();
            assert!(page.items.len() <= 7);
            for record in &page.items {
                assert!(found.insert(record.job.id), "twice");
            }
            cursor = page.next;
            if cursor.is_none() {
                return (found, self.walks() - before);
            }
        }
    }

    fn walks(&self) -> u64 {
        let stats = self.server.tell(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hscan:calls="));
        line.map_or(0, |line| line.split_once(',').unwrap().0.parse().unwrap())
    }

    /// The sets of indexes that there are.
    fn sets(&self) -> Vec<String> {
        let keys: Vec<String> =
            redis::from_redis_value(self.server.ask(&["KEYS", "queue:{q*}:i[kotx]*"]).unwrap()).unwrap();
        keys
    }

    async fn each_is_found(&self, jobs: &[Envelope], walks: bool) {
        let query = |change: fn(&mut JobQuery)| {
            let mut query = JobQuery::default();
            query.queue = Some(self.queue.clone());
            change(&mut query);
            query
        };
        let queries = [
            query(|query| query.kind = Some(JobKind::from_static("kind.1"))),
            query(|query| query.tag = Some("tag \"2\" ä".into())),
            query(|query| query.tenant = Some("tenant.0".into())),
            query(|query| (query.kind, query.tag) = (Some(JobKind::from_static("kind.0")), Some("even".into()))),
            query(|query| query.tag = Some("nobody has it".into())),
        ];
        for query in queries {
            let meant = |job: &&Envelope| {
                let headers = job.headers().unwrap();
                query.kind.as_ref().is_none_or(|kind| *kind == job.kind)
                    && query.tag.as_ref().is_none_or(|tag| headers.tags.contains(tag))
                    && query.tenant.as_deref().is_none_or(|tenant| headers.keys.tenant.as_deref() == Some(tenant))
            };
            let meant: HashSet<JobId> = jobs.iter().filter(meant).map(|job| job.id).collect();
            let (found, walked) = self.listed(&query).await;
            assert_eq!(found, meant, "{query:?}");
            assert_eq!(walked > 0, walks, "{query:?}: {walked} walks");
        }
    }
}

async fn connect(server: &Server, indexes: Option<&[Index]>) -> RedisProvider {
    let mut options = RedisOptions::new(server.url());
    options.indexes = indexes.map(<[Index]>::to_vec);
    RedisProvider::connect(&options, &Env::system()).await.unwrap()
}

/// Of all shapes that a record has.
fn jobs(count: u32) -> Vec<Envelope> {
    let env = Env::system();
    let job = |n: u32| {
        let kind = JobKind::new(format!("kind.{}", n % 2)).unwrap();
        let mut job = Envelope::builder(JobId::fresh(&env), kind, "{\"tags\":[\"not this\"]}", env.now());
        let mut headers = Headers { tags: vec![format!("tag \"{}\" ä", n % 3)], ..Headers::default() };
        if n.is_multiple_of(2) {
            headers.tags.push("even".into());
        }
        headers.keys =
            LimitKeys { tenant: (n % 4 != 3).then(|| format!("tenant.{}", n % 2).into()), ..LimitKeys::default() };
        if n.is_multiple_of(5) {
            let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
            headers.trace = Some(TraceContext { traceparent, tracestate: None });
        }
        if n % 10 < 9 {
            job.headers = RawHeaders::encode(&headers).unwrap();
        }
        if n % 6 == 1 {
            job.not_before = Some(env.now() + Duration::from_secs(1));
            job.timeout = Duration::from_secs(100_000);
        }
        if n % 6 == 2 {
            job.expires_at = Some(env.now() + Duration::from_secs(600));
        }
        if n % 6 > 3 {
            job.unique = Some(Box::new(Unique { key: UniqueKey::new(format!("key {n}")).unwrap(), window: None }));
        }
        job.seal()
    };
    (0..count).map(job).collect()
}

fn complete() -> Disposition {
    Disposition::Complete { result: None }
}

#[tokio::test]
async fn a_listing_goes_by_an_index_and_finds_what_a_walk_finds() {
    let Some(rig) = Rig::new(ALL, |_| {}).await else { return };
    rig.maintain().await;
    let jobs = jobs(300);
    rig.publish(&jobs).await;
    rig.each_is_found(&jobs, false).await;
    // Who names none uses them all the same.
    let other = Rig { provider: connect(&rig.server, None).await, queue: rig.queue.clone(), ..rig };
    other.each_is_found(&jobs, false).await;
}

#[tokio::test]
async fn without_being_asked_for_there_are_none() {
    let Some(rig) = Rig::new(None, |_| {}).await else { return };
    let jobs = jobs(100);
    rig.publish(&jobs).await;
    rig.maintain().await;
    rig.each_is_found(&jobs, true).await;
    assert_eq!(rig.sets(), [""; 0]);
}

#[tokio::test]
async fn what_was_there_before_is_found_while_and_after_it_is_filled_in() {
    let Some(rig) = Rig::new(None, |_| {}).await else { return };
    let jobs = jobs(600);
    rig.publish(&jobs[..500]).await;
    let rig = Rig { provider: connect(&rig.server, ALL).await, queue: rig.queue.clone(), ..rig };
    rig.publish(&jobs[500..]).await;
    rig.each_is_found(&jobs, true).await;
    rig.maintain().await;
    rig.each_is_found(&jobs, false).await;
    // And no more.
    let rig = Rig { provider: connect(&rig.server, Some(&[])).await, queue: rig.queue.clone(), ..rig };
    rig.provider.declare(&QueueSpec::new(rig.queue.clone())).await.unwrap();
    assert_eq!(rig.sets(), [""; 0]);
    rig.each_is_found(&jobs, true).await;
}

#[tokio::test]
async fn what_is_forgotten_leaves_its_indexes() {
    let Some(rig) = Rig::new(ALL, |spec| spec.retention.count = 0).await else { return };
    rig.maintain().await;
    let jobs: Vec<_> = jobs(60).into_iter().filter(|job| job.not_before.is_none()).collect();
    rig.publish(&jobs).await;
    let error = JobError::new(ErrorCode::Internal, "no");
    rig.end(1, Disposition::DeadLetter { error }).await;
    rig.end(jobs.len() - 1, complete()).await;
    rig.maintain().await;
    rig.each_is_found(&jobs[..1], false).await;
    let again = Redrive { which: RedriveSelection::Jobs(vec![jobs[0].id]), payload: None, dry_run: false };
    rig.provider.admin().redrive(&rig.queue, &again).await.unwrap();
    rig.each_is_found(&jobs[..1], false).await;
    rig.end(1, complete()).await;
    rig.maintain().await;
    assert_eq!(rig.sets(), [""; 0]);
    rig.publish(&self::jobs(60)).await;
    assert!(!rig.sets().is_empty());
    rig.provider.drop_queue(&rig.queue, false).await.unwrap();
    assert_eq!(rig.sets(), [""; 0]);
}

#[tokio::test]
async fn jobs_that_somebody_deleted_leave_them_with_time() {
    let Some(rig) = Rig::new(ALL, |_| {}).await else { return };
    rig.maintain().await;
    let jobs: Vec<_> = jobs(60).into_iter().filter(|job| job.not_before.is_none()).collect();
    rig.publish(&jobs).await;
    for job in &jobs[..20] {
        let mut connection = redis::Client::open(rig.server.url()).unwrap().get_connection().unwrap();
        redis::cmd("HDEL").arg("queue:{q}:j").arg(job.id.as_bytes().as_slice()).query::<()>(&mut connection).unwrap();
    }
    // Another who leads looks through it at once.
    connect(&rig.server, ALL).await.maintain(true).await.unwrap();
    let left = |set: &str| rig.server.tell(&["EVAL", "return tostring(redis.call('SCARD', KEYS[1]))", "1", set]);
    let of_kind = |jobs: &[Envelope], kind| jobs.iter().filter(|job| job.kind.as_str() == kind).count().to_string();
    for kind in ["kind.0", "kind.1"] {
        assert_eq!(left(&format!("queue:{{q}}:ik:{kind}")), of_kind(&jobs[20..], kind));
    }
    rig.each_is_found(&jobs[20..], false).await;
}

#[tokio::test]
async fn untracked_jobs_are_in_them_as_long_as_they_are_there() {
    let Some(rig) = Rig::new(ALL, |spec| spec.tracking = Tracking::Off).await else { return };
    rig.maintain().await;
    let jobs: Vec<_> = jobs(60).into_iter().filter(|job| job.not_before.is_none()).collect();
    rig.publish(&jobs).await;
    rig.each_is_found(&jobs, false).await;
    rig.end(jobs.len(), complete()).await;
    assert_eq!(rig.sets(), [""; 0]);
}

#[tokio::test]
async fn all_shards_keep_them() {
    let Some(rig) = Rig::new(ALL, |spec| spec.shards = Some(3)).await else { return };
    rig.maintain().await;
    let jobs = jobs(120);
    rig.publish(&jobs).await;
    rig.each_is_found(&jobs, false).await;
}

/// `cargo test -p queue-redis --test indexes -- --ignored --nocapture`
#[tokio::test]
#[ignore = "it prints"]
async fn what_an_index_costs() {
    const JOBS: u32 = 50_000;
    let mut costs = Vec::new();
    for indexes in [None, Some(&[Index::Kind][..]), ALL] {
        let Some(rig) = Rig::new(indexes, |_| {}).await else { return };
        rig.maintain().await;
        let used = || -> u64 {
            let info = rig.server.tell(&["INFO", "memory"]);
            info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap()
        };
        let cpu = || -> f64 {
            let stats = rig.server.tell(&["INFO", "commandstats"]);
            let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).unwrap_or("usec=0,");
            line.split("usec=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
        };
        let env = Env::system();
        let mut headers = Headers { tags: vec!["one".into()], ..Headers::default() };
        headers.keys.tenant = Some("two".into());
        let job = || {
            let mut job = Envelope::builder(JobId::fresh(&env), JobKind::from_static("k"), vec![7; 100], env.now());
            job.headers = RawHeaders::encode(&headers).unwrap();
            job.seal()
        };
        let (memory, time) = (used(), cpu());
        for _ in 0..JOBS / 100 {
            let outcomes =
                rig.provider.publish(&rig.queue, (0..100).map(|_| job()).collect(), &PublishOptions::default()).await;
            assert!(outcomes.iter().all(|outcome| outcome.is_accepted()));
        }
        costs.push((indexes, (used() - memory) / u64::from(JOBS), (cpu() - time) / f64::from(JOBS)));
    }
    for (indexes, bytes, micros) in costs {
        println!("{indexes:?}: {bytes} bytes and {micros:.1} µs a job");
    }
}

#[tokio::test]
async fn a_page_begins_behind_the_last_job_of_the_one_before_also_where_that_is_gone() {
    let Some(rig) = Rig::new(ALL, |spec| spec.tracking = Tracking::Off).await else { return };
    rig.maintain().await;
    let env = Env::system();
    let job = || Envelope::builder(JobId::fresh(&env), JobKind::from_static("kind"), "{}", env.now()).seal();
    let mut jobs: Vec<Envelope> = std::iter::repeat_with(job).take(40).collect();
    jobs.sort_by_key(|job| job.id);
    rig.publish(&jobs).await;
    let mut query = JobQuery::queue(rig.queue.clone());
    query.kind = Some(JobKind::from_static("kind"));
    let store = rig.provider.job_store().unwrap();
    let first = store.list(&query, None, 10).await.unwrap();
    let listed: Vec<JobId> = first.items.iter().map(|record| record.job.id).collect();
    assert_eq!(listed, jobs[..10].iter().map(|job| job.id).collect::<Vec<_>>());
    rig.end(10, Disposition::Complete { result: None }).await;
    let rest = store.list(&query, first.next, 100).await.unwrap();
    let rest: Vec<JobId> = rest.items.iter().map(|record| record.job.id).collect();
    assert_eq!(
        rest,
        jobs[10..].iter().map(|job| job.id).collect::<Vec<_>>(),
        "none that was there all the time is left out"
    );
}
