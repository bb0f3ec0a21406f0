//! The look-ups of the book: each command that stands in `docs/book/redis-layout.md` is run with the real `redis-cli`, and answers what stands there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{collections::BTreeSet, path::Path, process::Command, sync::Arc, time::Duration};

use futures_util::future;
use queue_core::{
    Consumer, Env, Envelope, JobError, JobId, JobRef, QueueName, QueueProvider, Timestamp,
    job::{JobKind, Priority, Unique, UniqueKey},
    limit::{Ask, Grant, Holder, Limit, Need},
    provider::{Beat, ConsumeOptions, Delivery, Disposition, ParkKey, PublishOptions, PublishOutcome, Settlement},
    store::{Claim, Lookup, StagedJob, TrackingStore as _, Verdict, Watch},
};
use queue_redis::{RedisOptions, RedisProvider, RedisTracking};
use server::Server;

const PAGE: &str = include_str!("../../../docs/book/redis-layout.md");
const LEASE: Duration = Duration::from_secs(30);

macro_rules! server {
    () => {{
        let has_client = Command::new("redis-cli").arg("--version").output().is_ok();
        if !server::is_installed() || !has_client {
            let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            assert!(!required, "no redis-server or redis-cli on the path");
            return eprintln!("LEFT OUT: no redis-server or redis-cli on the path");
        }
        Server::start().unwrap()
    }};
}

/// What stands between the fences of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    PAGE.split(&*fence).skip(1).map(|rest| rest.split_once("```").expect("a fence that ends").0).collect()
}

/// A command of the page, and its answer there.
fn commands() -> Vec<(&'static str, String)> {
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in blocks("console").into_iter().flat_map(str::lines) {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command, String::new())),
            (None, Some((_, answer))) => *answer += &format!("{line}\n"),
            (None, None) => panic!("an answer without a command: {line}"),
        }
    }
    commands
}

fn save_scripts(folder: &Path) {
    let scripts = blocks("lua");
    assert_eq!(scripts.len(), 2);
    for script in scripts {
        let name = script.strip_prefix("-- ").and_then(|rest| rest.split_once(':')).expect("a script says its name").0;
        std::fs::write(folder.join(name), script).unwrap();
    }
}

/// As on a terminal, at this server: what goes into a pipe is bare there too.
fn run(command: &str, server: &Server, folder: &Path) -> String {
    let shape = if command.contains(" | ") { "--raw" } else { "--no-raw" };
    let command = command.replace("redis-cli ", &format!("redis-cli {shape} -p {} ", server.port()));
    let output = Command::new("sh").args(["-c", &command]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Times, in milliseconds or microseconds, are another each time; so is the number behind one in the id of an event, for several may come in
/// one millisecond.
fn timeless(answer: &str) -> String {
    let mut text = String::new();
    for part in answer.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_time = (13..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_behind_time =
            text.ends_with("TIME-") && !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        text += &match (is_time, is_behind_time) {
            (true, _) => part.replace(word, "TIME"),
            (_, true) => part.replace(word, ""),
            _ => part.to_owned(),
        };
    }
    text
}

/// The number behind a name in what `job.lua` answers.
fn time_of(answer: &str, name: &str) -> Timestamp {
    let rest = answer.split_once(&format!("\"{name}: ")).unwrap_or_else(|| panic!("no {name} in {answer}")).1;
    Timestamp::from_millis(rest.split('"').next().unwrap().parse().unwrap())
}

fn id(last: u8) -> JobId {
    let mut bytes = *b"\x01\x92\xaa\xaa\0\0\x70\0\x80\0\0\0\0\0\0\0";
    bytes[15] = last;
    JobId::from_bytes(bytes)
}

fn job(last: u8, priority: u8) -> Envelope {
    let kind = JobKind::from_static("email.send");
    let mut job = Envelope::builder(id(last), kind, b"{}".to_vec(), Env::system().now());
    job.priority = Priority::new(priority).unwrap();
    job.seal()
}

struct Rig {
    provider: RedisProvider,
    queue: QueueName,
    consumer: Arc<dyn Consumer>,
}

impl Rig {
    async fn new(server: &Server, queue: &'static str) -> Self {
        let provider = RedisProvider::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
        let queue = QueueName::from_static(queue);
        let mut options = ConsumeOptions::new("worker-1", 100);
        options.lease = LEASE;
        let consumer = provider.consumer(&queue, options).await.unwrap();
        Self { provider, queue, consumer }
    }

    async fn publish(&self, jobs: Vec<Envelope>) {
        let outcomes = self.provider.publish(&self.queue, jobs, &PublishOptions::default()).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, PublishOutcome::Accepted { .. })), "{outcomes:?}");
    }

    async fn take(&self, last: u8) -> Delivery {
        let job = self.consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
        assert_eq!(job.envelope.id, id(last));
        job
    }

    async fn end(&self, last: u8, how: Disposition) {
        let job = self.take(last).await;
        let settled = self.consumer.settle(&[Settlement::new(job.receipt, how)]).await;
        assert!(settled[0].is_settled(), "{settled:?}");
    }

    async fn lease_ends(&self, last: u8) -> Option<Timestamp> {
        let job = JobRef::new(self.queue.clone(), id(last));
        match self.provider.job_store().unwrap().get(&[job]).await.remove(0).unwrap() {
            Lookup::Found(record) => record.lease_ends,
            other => panic!("{other:?}"),
        }
    }

    /// The queue of the page.
    async fn fill(&self) {
        let watching = self.provider.job_store().unwrap().watch(Watch::Queue(self.queue.clone())).await.unwrap();
        let key = ParkKey("rate:smtp".into());
        self.publish(vec![job(1, 15)]).await;
        self.end(1, Disposition::Complete { result: None }).await;
        self.publish(vec![job(2, 15)]).await;
        self.end(2, Disposition::Park { key, at_most: Duration::from_secs(7_200) }).await;
        self.publish(vec![job(0x0e, 15)]).await;
        let error = JobError::custom("SMTP_DOWN", "451 try again");
        self.end(0x0e, Disposition::Retry { after: Duration::from_secs(1_200), error: error.clone() }).await;
        self.publish(vec![job(0x0b, 9)]).await;
        self.end(0x0b, Disposition::Retry { after: Duration::ZERO, error }).await;
        let held = self.take(0x0b).await;
        let mut beat = Beat::extend(held.receipt, LEASE);
        beat.progress = Some("{\"percent\":40.0}".into());
        self.consumer.heartbeat(&[beat]).await;
        let later = job(0x0c, 5).edit(|job| {
            job.not_before = Some(Env::system().now() + Duration::from_secs(600));
            job.unique = Some(Box::new(Unique { key: UniqueKey::new("newsletter-7").unwrap(), window: None }));
        });
        self.publish(vec![later, job(0x0a, 7), job(0x0d, 8)]).await;
        let error = JobError::custom("NO_SUCH_USER", "550 unknown").permanent();
        self.end(0x0d, Disposition::DeadLetter { error }).await;
        drop(watching);
        let need = Need { key: ParkKey("concurrency:smtp".into()), limit: Limit::Concurrency { max: 3 } };
        let ask = Ask { holder: Holder::from(held.receipt), needs: vec![need] };
        let grants = self.provider.limiter().unwrap().acquire(&[ask], LEASE).await;
        assert!(matches!(grants[..], [Grant::Granted]), "{grants:?}");
        let lead = self.provider.job_store().unwrap().lead("maintenance", "process-1", Duration::from_secs(15)).await;
        assert!(lead.unwrap().is_some());
    }
}

async fn fill_tracked(server: &Server) {
    let store = RedisTracking::connect(&RedisOptions::new(server.url()), &Env::system()).await.unwrap();
    let queue = QueueName::from_static("orders");
    let jobs = [job(0x0f, 5), job(0x10, 5)];
    let staged = |job: &Envelope| StagedJob::new("amqp", JobRef::new(queue.clone(), job.id), job.clone());
    store.stage(&jobs.each_ref().map(staged), LEASE).await;
    store.confirm(&jobs.each_ref().map(|job| (JobRef::new(queue.clone(), job.id), 0))).await;
    let [envelope, _] = jobs;
    let (provider, job) = ("amqp".into(), JobRef::new(queue, envelope.id));
    let claim = Claim { provider, job, envelope, worker: "worker-2".into(), lease: LEASE };
    assert!(matches!(store.claim(&[claim]).await[..], [Verdict::Run { .. }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_book_answer_what_stands_there() {
    let server = server!();
    let folder = tempfile::tempdir().unwrap();
    save_scripts(folder.path());
    let rig = Rig::new(&server, "mail").await;
    future::join(rig.fill(), fill_tracked(&server)).await;
    let commands = commands();
    assert!(commands.len() >= 14, "{}", commands.len());
    let mut wrong = String::new();
    for (command, expected) in commands {
        let answer = run(command, &server, folder.path());
        if timeless(&answer) != timeless(&expected) {
            wrong += &format!("$ {command}\n{answer}the page says:\n{expected}\n");
        }
        if command.contains("job.lua") && answer.contains("lease ends") {
            assert_eq!(Some(time_of(&answer, "lease ends")), rig.lease_ends(0x0b).await);
            assert!(time_of(&answer, "lease ends") - time_of(&answer, "claimed") >= LEASE);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// These have no status of their own: one row says who holds them all.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_job_that_was_claimed_with_many_is_told_as_well() {
    let server = server!();
    let folder = tempfile::tempdir().unwrap();
    save_scripts(folder.path());
    let rig = Rig::new(&server, "bulk").await;
    rig.publish((0..20).map(|last| job(last, 5)).collect()).await;
    assert_eq!(rig.consumer.fetch(20, Duration::ZERO).await.unwrap().len(), 20);
    let ask = |command: &str| run(command, &server, folder.path());
    assert_eq!(ask("redis-cli HLEN 'queue:{bulk}:q'"), "(integer) 1\n");
    let answer = ask(&format!("redis-cli --eval job.lua 'queue:{{bulk}}:' , {}", id(19)));
    for line in ["state: running", "held by: worker-1", "attempt: 1"] {
        assert!(answer.contains(line), "{line}: {answer}");
    }
    assert_eq!(ask("redis-cli HLEN 'queue:{bulk}:q'"), "(integer) 1\n", "looking changes nothing");
    assert_eq!(Some(time_of(&answer, "lease ends")), rig.lease_ends(19).await);
}

/// The names behind the base of a queue's keys that the scripts of a folder use.
fn keys_of(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut keys = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for base in ["B .. '", "base .. '"] {
            keys.extend(text.split(base).skip(1).map(|rest| rest.split('\'').next().unwrap().to_owned()));
        }
    }
    keys
}

#[test]
fn every_key_that_a_script_names_is_on_the_page() {
    for (folder, title, prefix) in [
        ("src/scripts", "### Of a queue\n", ""),
        ("src/limiter/scripts", "### Beside the queues\n", "PREFIX:limits:{all}:"),
        ("src/tracking/scripts", "### Of a tracked queue\n", ""),
    ] {
        let section = PAGE.split_once(title).expect("a section of keys").1.split("\n### ").next().unwrap();
        let keys = keys_of(folder);
        assert!(keys.len() >= 5, "{keys:?}");
        for key in keys {
            let whole = if key == "r" { "r1".to_owned() } else { key };
            let end = if whole.ends_with(':') { "" } else { "`" };
            assert!(section.contains(&format!("`{prefix}{whole}{end}")), "{folder}: {whole} is missing under {title}");
        }
    }
}
