//! One queue over several shards, on one server; where a URL of a cluster stands in `QUEUE_TEST_REDIS_CLUSTER_URL`, there as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use queue_core::{
    Env, Envelope, ErrorCode, JobId, JobStore, QueueName, QueueProvider, QueueSpec,
    event::JobEventKind,
    job::{JobError, JobKind, JobRef, Priority, Unique, UniqueKey},
    provider::{
        Cancel, ConsumeOptions, Consumer, DeadFilter, Delivery, Disposition, FollowUp, ParkKey, PublishOptions,
        PublishOutcome, Redrive, RedriveReport, Rejection, SettleOutcome, Settlement,
    },
    store::{CancelOutcome, JobQuery, Lookup, Watch, Watched},
};
use queue_redis::{RedisOptions, RedisProvider};
use server::Server;

const SHARDS: u16 = 4;

struct Rig {
    provider: RedisProvider,
    options: RedisOptions,
    queue: QueueName,
    server: Option<Server>,
}

/// On a server of its own, and on the cluster where there is one.
async fn rigs() -> Vec<Rig> {
    let mut rigs = Vec::new();
    if server::is_installed() {
        let server = Server::start().unwrap();
        rigs.push(Rig::new(RedisOptions::new(server.url()), Some(server)).await);
    } else {
        assert!(std::env::var("QUEUE_REQUIRE_BROKERS").is_err(), "no redis-server on the path");
        eprintln!("LEFT OUT: no redis-server on the path");
    }
    if let Ok(url) = std::env::var("QUEUE_TEST_REDIS_CLUSTER_URL") {
        let mut options = RedisOptions::new(url);
        options.prefix = format!("shards-{:016x}", Env::system().random.next_u64());
        rigs.push(Rig::new(options, None).await);
    }
    rigs
}

impl Rig {
    async fn new(options: RedisOptions, server: Option<Server>) -> Self {
        let provider = RedisProvider::connect(&options, &Env::system()).await.unwrap();
        Self { provider, options, queue: QueueName::from_static("hot"), server }
    }

    async fn another(&self) -> RedisProvider {
        RedisProvider::connect(&self.options, &Env::system()).await.unwrap()
    }

    async fn declare(&self, change: impl FnOnce(&mut QueueSpec)) {
        let mut spec = QueueSpec::new(self.queue.clone());
        spec.shards = Some(SHARDS);
        change(&mut spec);
        self.provider.declare(&spec).await.unwrap();
    }

    async fn publish(&self, jobs: Vec<Envelope>) -> Vec<PublishOutcome> {
        self.provider.publish(&self.queue, jobs, &PublishOptions::default()).await
    }

    /// All of which are accepted.
    async fn published(&self, jobs: Vec<Envelope>) -> Vec<JobRef> {
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let outcomes = self.publish(jobs).await;
        assert_eq!(outcomes.len(), ids.len());
        let job = |(id, outcome): (JobId, PublishOutcome)| match outcome {
            PublishOutcome::Accepted { place } => JobRef { queue: self.queue.clone(), id, place },
            other => panic!("{other:?}"),
        };
        ids.into_iter().zip(outcomes).map(job).collect()
    }

    async fn consumer(&self, outstanding: usize) -> Arc<dyn Consumer> {
        self.provider.consumer(&self.queue, ConsumeOptions::new("worker", outstanding)).await.unwrap()
    }

    fn store(&self) -> Arc<dyn JobStore> {
        self.provider.job_store().unwrap()
    }

    async fn stats(&self) -> queue_core::stats::QueueStats {
        self.provider.admin().stats(std::slice::from_ref(&self.queue)).await.remove(0).unwrap()
    }
}

fn job() -> Envelope {
    let env = Env::system();
    Envelope::builder(JobId::fresh(&env), JobKind::from_static("test.job"), "{}", env.now()).seal()
}

fn jobs(count: usize) -> Vec<Envelope> {
    std::iter::repeat_with(job).take(count).collect()
}

fn keyed(key: &str) -> Envelope {
    job().edit(|parts| parts.unique = Some(Box::new(Unique { key: UniqueKey::new(key).unwrap(), window: None })))
}

async fn drain(consumer: &Arc<dyn Consumer>) -> Vec<Delivery> {
    let mut found = Vec::new();
    loop {
        let some = consumer.fetch(100, Duration::ZERO).await.unwrap();
        if some.is_empty() {
            return found;
        }
        found.extend(some);
    }
}

async fn settle(consumer: &Arc<dyn Consumer>, deliveries: &[Delivery], disposition: Disposition) {
    let batch: Vec<_> = deliveries.iter().map(|one| Settlement::new(one.receipt, disposition.clone())).collect();
    for outcome in consumer.settle(&batch).await {
        assert!(matches!(outcome, SettleOutcome::Settled), "{outcome:?}");
    }
}

fn complete() -> Disposition {
    Disposition::Complete { result: None }
}

fn bad() -> Disposition {
    Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }
}

#[tokio::test]
async fn every_shard_has_its_part_and_outcomes_are_in_the_order_of_the_batch() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let refs = rig.published(jobs(400)).await;
        let mut each = BTreeMap::<u16, usize>::new();
        refs.iter().for_each(|job| *each.entry(job.place).or_default() += 1);
        assert!(each.len() == usize::from(SHARDS) && each.values().all(|count| *count > 50), "{each:?}");
        // What was said of each is where it is.
        for (job, found) in refs.iter().zip(rig.store().get(&refs).await) {
            let Ok(Lookup::Found(record)) = found else { panic!("{job}: {found:?}") };
            assert_eq!(record.job, *job);
        }
        assert_eq!(rig.stats().await.pending, 400);
        if let Some(server) = &rig.server {
            for (place, count) in each {
                let tag = if place == 0 { "hot".to_owned() } else { format!("hot%s{place}") };
                let length: usize = server.tell(&["HLEN", &format!("queue:{{{tag}}}:j")]).parse().unwrap();
                assert_eq!(length, count, "what redis-cli sees of shard {place}");
            }
        }
        let consumer = rig.consumer(1_000).await;
        let taken = drain(&consumer).await;
        assert_eq!(taken.iter().map(|one| one.envelope.id).collect::<BTreeSet<_>>().len(), 400);
        settle(&consumer, &taken, complete()).await;
        assert_eq!(rig.stats().await.completed_total, 400);
    }
}

#[tokio::test]
async fn who_knows_a_job_by_its_id_alone_finds_it_in_any_shard() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let refs = rig.published((0..40).map(|n| keyed(&format!("key {n}"))).collect()).await;
        let bare: Vec<_> = refs.iter().map(|job| JobRef::new(job.queue.clone(), job.id)).collect();
        for (job, found) in refs.iter().zip(rig.store().get(&bare).await) {
            let Ok(Lookup::Found(record)) = found else { panic!("{job}: {found:?}") };
            assert_eq!(record.job, *job);
        }
        for job in &bare[..20] {
            assert!(rig.provider.admin().position(job).await.unwrap().is_some());
        }
        for outcome in rig.store().cancel(&bare, &Cancel::by("test")).await {
            assert_eq!(outcome.unwrap(), CancelOutcome::Cancelled);
        }
        let nobody = [JobRef::new(rig.queue.clone(), job().id)];
        assert_eq!(rig.store().cancel(&nobody, &Cancel::by("test")).await.remove(0).unwrap(), CancelOutcome::NotFound);
        assert!(matches!(rig.store().get(&nobody).await.remove(0), Ok(Lookup::NotFound)));
        assert!(drain(&rig.consumer(100).await).await.is_empty());
    }
}

#[tokio::test]
async fn a_unique_key_is_one_job_wherever_its_id_would_stand() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let first = rig.published(vec![keyed("report")]).await.remove(0);
        for outcome in rig.publish((0..20).map(|_| keyed("report")).collect()).await {
            let PublishOutcome::Duplicate { existing } = outcome else { panic!("{outcome:?}") };
            assert_eq!(existing, first);
        }
        let consumer = rig.consumer(100).await;
        let taken = drain(&consumer).await;
        assert_eq!(taken.len(), 1);
        settle(&consumer, &taken, complete()).await;
        rig.published(vec![keyed("report")]).await;
        // The same job again is one.
        let again = keyed("another");
        rig.published(vec![again.clone(), again.clone()]).await;
        rig.published(vec![again]).await;
        assert_eq!(rig.stats().await.pending, 2);
    }
}

#[tokio::test]
async fn no_shard_starves_while_another_is_full() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let refs = rig.published(jobs(2_000)).await;
        // Few are left in all but one, and that one is fed all the time.
        let consumer = rig.consumer(1).await;
        let full = refs[0].place;
        let mut left: BTreeSet<JobId> =
            refs.iter().filter(|job| job.place != full).map(|job| job.id).take(12).collect();
        let away: Vec<_> = refs.iter().filter(|job| job.place != full && !left.contains(&job.id)).cloned().collect();
        rig.store().cancel(&away, &Cancel::by("test")).await;
        let mut claims = 0;
        while !left.is_empty() {
            let taken = consumer.fetch(1, Duration::from_secs(5)).await.unwrap();
            claims += 1;
            settle(&consumer, &taken, complete()).await;
            left.retain(|id| taken.iter().all(|one| one.envelope.id != *id));
            assert!(claims <= 60, "{} jobs of other shards wait after {claims} claims", left.len());
        }
    }
}

#[tokio::test]
async fn shards_that_are_full_are_drained_alike() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        rig.published(jobs(2_000)).await;
        let consumer = rig.consumer(10).await;
        let mut each = BTreeMap::<u16, usize>::new();
        for _ in 0..40 {
            let taken = consumer.fetch(10, Duration::ZERO).await.unwrap();
            assert_eq!(taken.len(), 10);
            taken.iter().for_each(|one| *each.entry(one.place).or_default() += 1);
            settle(&consumer, &taken, complete()).await;
        }
        assert!(each.len() == 4 && each.values().all(|count| *count == 100), "{each:?}");
    }
}

#[tokio::test]
async fn priority_is_kept_within_each_shard() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let ranked = |n: usize| job().edit(|parts| parts.priority = Priority::new(1 + (n % 3) as u8 * 5).unwrap());
        rig.published((0..300).map(ranked).collect()).await;
        let mut last = HashMap::<u16, u8>::new();
        for delivery in drain(&rig.consumer(1_000).await).await {
            let level = delivery.envelope.priority.level();
            let before = last.insert(delivery.place, level);
            assert!(before.is_none_or(|before| before >= level), "{before:?} before {level}");
        }
    }
}

#[tokio::test]
async fn who_sleeps_is_woken_by_every_shard() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let consumer = rig.consumer(10).await;
        let mut met = BTreeSet::new();
        for _ in 0..30 {
            let fetch = consumer.fetch(1, Duration::from_secs(20));
            let published = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                (rig.published(vec![job()]).await.remove(0), tokio::time::Instant::now())
            };
            let (taken, (job, at)) =
                tokio::join!(async { (fetch.await.unwrap(), tokio::time::Instant::now()) }, published);
            let (taken, heard) = taken;
            assert_eq!(taken[0].envelope.id, job.id);
            let took = heard.saturating_duration_since(at);
            assert!(took < Duration::from_secs(1), "shard {} after {took:?}", job.place);
            met.insert(job.place);
            settle(&consumer, &taken, complete()).await;
        }
        assert_eq!(met.len(), 4, "{met:?}");
    }
}

#[tokio::test]
async fn lists_go_through_all_shards_once() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let mut wanted: Vec<JobId> = rig.published(jobs(230)).await.iter().map(|job| job.id).collect();
        let query = JobQuery::queue(rig.queue.clone());
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = rig.store().list(&query, cursor, 17).await.unwrap();
            found.extend(page.items.iter().map(|record| record.job.clone()));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let mut ids: Vec<JobId> = found.iter().map(|job| job.id).collect();
        ids.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(ids, wanted);

        let consumer = rig.consumer(1_000).await;
        for delivery in drain(&consumer).await {
            settle(&consumer, &[delivery], bad()).await;
        }
        let admin = rig.provider.admin();
        let (mut died, mut cursor) = (Vec::new(), None);
        loop {
            let page = admin.dead(&rig.queue, &DeadFilter::default(), cursor, 17).await.unwrap();
            assert!(page.items.len() == 17 || page.next.is_none());
            died.extend(page.items.iter().map(|dead| (dead.died_at, dead.id)));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert!(died.is_sorted_by_key(|(at, _)| *at), "the oldest first, over all shards");
        let mut ids: Vec<JobId> = died.into_iter().map(|(_, id)| id).collect();
        ids.sort_unstable();
        assert_eq!(ids, wanted);
        let report = admin.redrive(&rig.queue, &Redrive::one(wanted[7])).await.unwrap();
        assert_eq!((report.matched, report.redriven), (1, 1));
        let report = admin.redrive(&rig.queue, &Redrive::all()).await.unwrap();
        assert_eq!((report.matched, report.redriven), (229, 229));
        assert_eq!(admin.purge(&rig.queue).await.unwrap(), 230);
    }
}

#[tokio::test]
async fn a_redrive_that_ends_part_way_tells_what_it_did() {
    for rig in rigs().await {
        let Some(server) = &rig.server else { continue };
        rig.declare(|_| {}).await;
        rig.published(jobs(100)).await;
        let consumer = rig.consumer(100).await;
        for delivery in drain(&consumer).await {
            settle(&consumer, &[delivery], bad()).await;
        }
        let last = format!("queue:{{hot%s{}}}:d", SHARDS - 1);
        let left: u64 = redis::from_redis_value(server.ask(&["ZCARD", &last]).unwrap()).unwrap();
        assert!((1..100).contains(&left), "{left}");
        server.ask(&["SET", &last, "nonsense"]).unwrap();
        let redrive = async |what: Redrive| rig.provider.admin().redrive(&rig.queue, &what).await.unwrap_err();
        let mut dry = Redrive::all();
        dry.dry_run = true;
        assert_eq!(RedriveReport::before(&redrive(dry).await), None, "nothing was done");
        let done = RedriveReport { matched: 100 - left, redriven: 100 - left, duplicates: 0 };
        assert_eq!(RedriveReport::before(&redrive(Redrive::all()).await), Some(done));
    }
}

#[tokio::test]
async fn switches_hold_for_all_shards() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        rig.published(jobs(100)).await;
        let admin = rig.provider.admin();
        let consumer = rig.consumer(100).await;
        admin.pause(&rig.queue, true).await.unwrap();
        assert!(rig.stats().await.paused && drain(&consumer).await.is_empty());
        admin.pause(&rig.queue, false).await.unwrap();
        let taken = drain(&consumer).await;
        assert_eq!(taken.len(), 100);
        let key = ParkKey("limit".into());
        let park = Disposition::Park { key: key.clone(), at_most: Duration::from_secs(600) };
        settle(&consumer, &taken, park).await;
        assert_eq!(admin.parked(&rig.queue, 5).await.unwrap(), [(key.clone(), 100)]);
        assert_eq!(rig.provider.unpark(&rig.queue, &key, 70).await.unwrap(), 70);
        assert_eq!(drain(&consumer).await.len(), 70);
        assert_eq!(rig.provider.unpark(&rig.queue, &key, 70).await.unwrap(), 30);
    }
}

#[tokio::test]
async fn events_of_all_shards_are_heard() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        let mut stream = rig.store().watch(Watch::Queue(rig.queue.clone())).await.unwrap();
        let refs = rig.published(jobs(40)).await;
        let mut heard = BTreeSet::new();
        while heard.len() < 40 {
            let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
            if let Watched::Event(event) = next.expect("an event of each").unwrap() {
                assert_eq!(event.what, JobEventKind::Submitted);
                assert!(refs.contains(&event.job), "it names the shard: {event:?}");
                heard.insert(event.job.id);
            }
        }
    }
}

#[tokio::test]
async fn follow_ups_go_where_their_own_ids_and_keys_say() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        rig.published(jobs(30)).await;
        let consumer = rig.consumer(100).await;
        let taken = drain(&consumer).await;
        let then = |n: usize| FollowUp { queue: rig.queue.clone(), envelope: keyed(&format!("next {}", n % 10)) };
        let batch: Vec<_> = taken
            .iter()
            .enumerate()
            .map(|(n, one)| Settlement { then: vec![then(n)], ..Settlement::new(one.receipt, complete()) })
            .collect();
        assert!(consumer.settle(&batch).await.iter().all(SettleOutcome::is_settled));
        assert_eq!(rig.stats().await.pending, 10, "one for each key");
        for n in 0..10 {
            let outcome = rig.publish(vec![keyed(&format!("next {n}"))]).await.remove(0);
            assert!(matches!(outcome, PublishOutcome::Duplicate { .. }), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn each_shard_bounds_its_share() {
    for rig in rigs().await {
        rig.declare(|spec| spec.max_len = Some(40)).await;
        let outcomes = rig.publish(jobs(400)).await;
        let accepted = outcomes.iter().filter(|outcome| outcome.is_accepted()).count();
        assert_eq!(accepted, 40, "never more, and where there are enough for each, as many");
        let is_full = |outcome: &&PublishOutcome| matches!(outcome, PublishOutcome::Rejected(Rejection::Full));
        assert_eq!(outcomes.iter().filter(is_full).count(), 360);
    }
}

#[tokio::test]
async fn another_number_of_shards_is_refused_until_the_queue_is_dropped() {
    for rig in rigs().await {
        rig.declare(|_| {}).await;
        rig.published(jobs(10)).await;
        let other = rig.another().await;
        let mut spec = QueueSpec::new(rig.queue.clone());
        other.declare(&spec).await.unwrap();
        for shards in [1, 2, 8] {
            spec.shards = Some(shards);
            let error = other.declare(&spec).await.unwrap_err();
            assert!(error.code() == ErrorCode::Conflict && error.message().contains("shards"), "{error}");
        }
        assert_eq!(other.drop_queue(&rig.queue, true).await.unwrap_err().code(), ErrorCode::Conflict);
        assert_eq!(rig.stats().await.pending, 10);
        other.admin().purge(&rig.queue).await.unwrap();
        // Who knew it as it was goes by what it is now, whether there are more shards then or fewer.
        for shards in [8, 2, 1, 8] {
            other.drop_queue(&rig.queue, false).await.unwrap();
            spec.shards = Some(shards);
            other.declare(&spec).await.unwrap();
            let refs = rig.published(jobs(100)).await;
            assert!(refs.iter().all(|job| job.place < shards));
            let consumer = other.consumer(&rig.queue, ConsumeOptions::new("worker", 200)).await.unwrap();
            assert_eq!(drain(&consumer).await.len(), 100, "{shards}");
            let found = rig.store().get(&refs).await;
            assert!(found.iter().all(|found| matches!(found, Ok(Lookup::Found(_)))), "{found:?}");
        }
    }
}

#[tokio::test]
async fn a_queue_that_was_declared_half_is_made_whole_by_who_uses_it() {
    for rig in rigs().await {
        let Some(server) = &rig.server else { continue };
        rig.declare(|_| {}).await;
        server.tell(&["DEL", "queue:{hot%s1}:spec"]);
        server.tell(&["DEL", "queue:{hot%s1}:n"]);
        rig.published(jobs(100)).await;
        let other = rig.another().await;
        let consumer = other.consumer(&rig.queue, ConsumeOptions::new("worker", 200)).await.unwrap();
        assert_eq!(drain(&consumer).await.len(), 100);
        assert_eq!(server.tell(&["HGET", "queue:{hot%s1}:n", "born"]), server.tell(&["HGET", "queue:{hot}:n", "born"]));
    }
}

/// As a server without its own files starts again, or a replica that had not heard of it yet.
fn lose(server: &Server, shards: &[&str]) {
    for shard in shards {
        let keys: Vec<String> = keys(server, &format!("queue:{{{shard}}}:*"));
        for key in keys {
            server.ask(&["DEL", &key]).unwrap();
        }
    }
}

fn keys(server: &Server, pattern: &str) -> Vec<String> {
    redis::from_redis_value(server.ask(&["KEYS", pattern]).unwrap()).unwrap()
}

#[tokio::test]
async fn a_declaration_that_is_lost_is_made_again_from_its_copies() {
    for rig in rigs().await {
        let Some(server) = &rig.server else { continue };
        rig.declare(|spec| spec.max_len = Some(4_000)).await;
        let declared = rig.provider.admin().spec(&rig.queue).await.unwrap().unwrap();
        let refs = rig.published(jobs(100)).await;
        let mut left = refs.iter().filter(|job| job.place > 0).count();
        // One who knew it, one who did not, and one who declares it without a word of shards; a copy may be lost as well.
        for (way, lost) in [&["hot"][..], &["hot", "hot%s1"], &["hot", "hot%s2"]].into_iter().enumerate() {
            lose(server, lost);
            left = left.min(keys(server, "queue:{hot%s?}:j").iter().map(|key| count(server, key)).sum());
            let other = rig.another().await;
            match way {
                0 => drop(rig.published(jobs(20)).await),
                1 => drop(other.publish(&rig.queue, jobs(20), &PublishOptions::default()).await),
                _ => {
                    let mut spec = QueueSpec::new(rig.queue.clone());
                    spec.max_len = Some(4_000);
                    other.declare(&spec).await.unwrap();
                    rig.published(jobs(20)).await;
                }
            }
            assert_eq!(rig.provider.admin().spec(&rig.queue).await.unwrap().as_ref(), Some(&declared), "way {way}");
            assert_eq!(rig.stats().await.pending as usize, left + 20, "way {way}");
            left = keys(server, "queue:{hot%s?}:j").iter().map(|key| count(server, key)).sum();
        }
        let consumer = rig.another().await.consumer(&rig.queue, ConsumeOptions::new("worker", 500)).await.unwrap();
        assert_eq!(drain(&consumer).await.len() as u64, rig.stats().await.running);
        assert_eq!(rig.stats().await.pending, 0);
    }
}

fn count(server: &Server, key: &str) -> usize {
    redis::from_redis_value(server.ask(&["HLEN", key]).unwrap()).unwrap()
}

#[tokio::test]
async fn that_the_queue_is_gone_is_told_before_other_errors() {
    for rig in rigs().await {
        let Some(server) = &rig.server else { continue };
        rig.declare(|_| {}).await;
        let consumer = rig.consumer(10).await;
        lose(server, &["hot"]);
        server.ask(&["SET", "queue:{hot%s2}:n", "?"]).unwrap();
        let error = consumer.fetch(1, Duration::ZERO).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
    }
}

#[tokio::test]
async fn a_drop_that_was_cut_off_is_ended_by_who_drops_again() {
    for rig in rigs().await {
        let Some(server) = &rig.server else { continue };
        for lost in [&["hot"][..], &["hot", "hot%s3", "hot%s1"]] {
            rig.declare(|_| {}).await;
            rig.published(jobs(100)).await;
            lose(server, lost);
            let other = rig.another().await;
            assert_eq!(other.drop_queue(&rig.queue, true).await.unwrap_err().code(), ErrorCode::Conflict);
            other.drop_queue(&rig.queue, false).await.unwrap();
            assert_eq!(keys(server, "queue:{hot*"), [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_drop_leaves_what_was_declared_since() {
    for rig in rigs().await {
        let Some(server) = &rig.server else { continue };
        rig.declare(|_| {}).await;
        rig.published(jobs(100)).await;
        let later = "9000000000000000";
        server.tell(&["GET", "queue:{hot%s2}:spec"]);
        server.ask(&["HSET", "queue:{hot%s2}:n", "born", later]).unwrap();
        rig.provider.drop_queue(&rig.queue, false).await.unwrap();
        let mut left: Vec<String> =
            keys(server, "queue:{hot*").into_iter().filter(|key| !key.contains("%s2}")).collect();
        left.retain(|key| key != "queue:{hot}:m");
        assert_eq!(left, [""; 0]);
        assert_eq!(server.tell(&["HGET", "queue:{hot%s2}:n", "born"]), later);
    }
}

#[tokio::test]
async fn upkeep_reaches_every_shard() {
    for rig in rigs().await {
        rig.declare(|spec| spec.retention.count = 8).await;
        rig.published(jobs(200)).await;
        let options = ConsumeOptions { lease: Duration::from_millis(100), ..ConsumeOptions::new("worker", 1_000) };
        let consumer = rig.provider.consumer(&rig.queue, options).await.unwrap();
        let taken = drain(&consumer).await;
        assert_eq!(taken.len(), 200);
        let some: Vec<_> = taken.iter().enumerate().filter(|(n, _)| n % 4 != 0).map(|(_, one)| one.clone()).collect();
        settle(&consumer, &some, complete()).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        rig.provider.maintain(true).await.unwrap();
        let stats = rig.stats().await;
        assert_eq!((stats.pending, stats.running, stats.finished), (50, 0, 8));
    }
}
