//! What `queue inspect` says of a real Redis, and of a RabbitMQ whose records are there.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a real process lives in real time")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use queue_core::{
    Env, Envelope, JobError, JobId, QueueName, QueueProvider,
    job::{JobKind, Priority},
    provider::{
        Beat, ConsumeOptions, Delivery, Disposition, ParkKey, ProviderUrl, PublishOptions, PublishOutcome, Settlement,
    },
};
use serde_json::{Value, json};

const LEASE: Duration = Duration::from_secs(60);

/// A server of one test's own. Nobody says a word to it but through a provider.
struct Redis {
    port: u16,
    child: Child,
    _home: tempfile::TempDir,
}

impl Redis {
    fn start() -> Option<Self> {
        let (home, port) =
            (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]);
        command.arg("--port").arg(port.to_string()).arg("--dir").arg(home.path()).stdout(Stdio::null());
        let Ok(child) = command.spawn() else {
            let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            assert!(!required, "no redis-server on the path");
            eprintln!("LEFT OUT: no redis-server on the path");
            return None;
        };
        let (redis, begun) = (Self { port, child, _home: home }, Instant::now());
        while !redis.answers() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the server does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(redis)
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let mut answer = [0; 7];
        stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG\r\n"
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn inspect(url: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_queue")).arg("inspect").args(["--url", url]).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Lines, with one blank where several stand.
fn rows(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn json_of(url: &str, args: &[&str]) -> Value {
    serde_json::from_str(&text(&inspect(url, &[args, &["--json"]].concat()))).unwrap()
}

fn id(last: u8) -> JobId {
    let mut bytes = *b"\x01\x92\xaa\xaa\0\0\x70\0\x80\0\0\0\0\0\0\0";
    bytes[15] = last;
    JobId::from_bytes(bytes)
}

/// A queue in which one job runs for the second time, one is parked, one dead, one delayed and one done.
async fn fill(url: &str) {
    let registry = queue_manager::registry();
    let provider = registry.connect(&ProviderUrl::parse(url).unwrap(), &Env::system()).await.unwrap();
    let queue = QueueName::from_static("mail");
    let consumer = provider.consumer(&queue, ConsumeOptions { lease: LEASE, ..ConsumeOptions::new("worker-1", 10) });
    let consumer = consumer.await.unwrap();
    let publish = async |job: Envelope| publish(&provider, &queue, job).await;
    let take = async || -> Delivery { consumer.fetch(1, Duration::from_secs(10)).await.unwrap().remove(0) };
    let end = async |last: u8, how: Disposition| {
        publish(job(last, 5)).await;
        let settled = consumer.settle(&[Settlement::new(take().await.receipt, how)]).await;
        assert!(settled[0].is_settled(), "{settled:?}");
    };
    end(1, Disposition::Complete { result: Some("\"topsecret result\"".into()) }).await;
    end(2, Disposition::Park { key: ParkKey("rate:smtp".into()), at_most: LEASE * 60 }).await;
    let error = JobError::custom("NO_SUCH_USER", "550 \u{1b}[31munknown").permanent();
    end(3, Disposition::DeadLetter { error }).await;
    publish(job(4, 5).edit(|job| job.not_before = Some(Env::system().now() + LEASE * 10))).await;
    let error = JobError::custom("SMTP_DOWN", "451 try again");
    end(5, Disposition::Retry { after: Duration::ZERO, error }).await;
    let held = take().await;
    assert_eq!(held.envelope.id, id(5));
    let mut beat = Beat::extend(held.receipt, LEASE);
    beat.progress = Some("{\"percent\":40.0}".into());
    consumer.heartbeat(&[beat]).await;
    provider.close().await.unwrap();
}

async fn publish(provider: &Arc<dyn QueueProvider>, queue: &QueueName, job: Envelope) {
    let outcomes = provider.publish(queue, vec![job], &PublishOptions::default()).await;
    assert!(matches!(outcomes[..], [PublishOutcome::Accepted { .. }]), "{outcomes:?}");
}

fn job(last: u8, priority: u8) -> Envelope {
    let (kind, now) = (JobKind::from_static("email.send"), Env::system().now());
    let mut job = Envelope::builder(id(last), kind, b"{\"to\":\"topsecret\"}".to_vec(), now);
    job.priority = Priority::new(priority).unwrap();
    job.seal()
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_listed_with_their_depth_by_state() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.url();
    assert_eq!(text(&inspect(&url, &[])), "There are no queues.\n");
    fill(&url).await;
    let all = text(&inspect(&url, &[]));
    let [heads, row] = &rows(&all)[..] else { panic!("{all}") };
    assert_eq!(heads, "QUEUE PENDING PARKED SCHEDULED RETRYING RUNNING DEAD FINISHED WAITS LONGEST");
    assert!(row.starts_with("mail 1 1 1 0 1 1 1"), "{row}");
    assert_eq!(text(&inspect(&url, &["mail"])), all);
    let said = &json_of(&url, &[])["queues"][0];
    let numbers = ["pending", "parked", "scheduled", "retrying", "running", "dead", "finished"];
    assert_eq!(numbers.map(|name| said[name].as_u64().unwrap()), [1, 1, 1, 0, 1, 1, 1]);
    assert_eq!((&said["queue"], &said["exact"]), (&json!("mail"), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_with_what_matters_in_their_state() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.url();
    fill(&url).await;
    let listed = text(&inspect(&url, &["mail", "--jobs"]));
    let row = |last: u8| rows(&listed).into_iter().find(|row| row.starts_with(&id(last).to_string())).unwrap();
    for (last, parts) in [
        (1, ["completed", "email.send"]),
        (2, ["pending 5 1", "parked under rate:smtp"]),
        (3, ["dead", "NO_SUCH_USER"]),
        (4, ["scheduled", "(in 9 min"]),
        (5, ["running 5 2", "held by worker-1 until "]),
    ] {
        assert!(parts.iter().all(|part| row(last).contains(part)), "{parts:?}: {listed}");
    }
    let running = text(&inspect(&url, &["mail", "--jobs", "10", "--state", "running", "--state", "dead"]));
    assert_eq!(rows(&running).len(), 3, "{running}");
    assert!(
        text(&inspect(&url, &["mail", "--jobs", "2"])).ends_with("There are more: give --jobs a greater number.\n")
    );
    let some = json_of(&url, &["mail", "--jobs", "2"]);
    assert_eq!((some["jobs"].as_array().unwrap().len(), &some["more"]), (2, &json!(true)));
    assert_eq!(text(&inspect(&url, &["mail", "--jobs", "--state", "cancelled"])), "There are no such jobs.\n");
    assert!(!listed.contains("topsecret") && !json_of(&url, &["mail", "--jobs"]).to_string().contains("topsecret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_shown_with_who_holds_it_and_until_when() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.url();
    let before = Env::system().now();
    fill(&url).await;
    let after = Env::system().now();
    let reference = format!("{}@mail", id(5));
    let shown = text(&inspect(&url, &["--job", &reference]));
    for part in [
        &format!("job {reference}"),
        "state running",
        "held by worker-1 until ",
        "(in ",
        "attempt 2",
        "progress {\"percent\":40.0}",
        "last error SMTP_DOWN: 451 try again",
    ] {
        assert!(rows(&shown).iter().any(|row| row.contains(part)), "{part}: {shown}");
    }
    // By its id alone, in its queue or in any; hyphens or not.
    for args in [&["--job", &id(5).to_string()][..], &["mail", "--job", &id(5).to_string().replace('-', "")]] {
        let again = text(&inspect(&url, args));
        let timeless = |text: &str| text.lines().filter(|line| !line.contains("until")).collect::<String>();
        assert_eq!(timeless(&again), timeless(&shown), "{args:?}");
    }
    let said = &json_of(&url, &["--job", &reference])["job"];
    let ends = said["lease_ends"].as_u64().unwrap();
    let lease = u64::try_from(LEASE.as_millis()).unwrap();
    assert!(before.as_millis() + lease <= ends && ends <= after.as_millis() + lease, "{before:?} {ends} {after:?}");
    assert_eq!((&said["state"], &said["worker"], &said["attempt"]), (&json!("running"), &json!("worker-1"), &json!(2)));
    assert_eq!((&said["error"]["code"], &said["progress"]["percent"]), (&json!("SMTP_DOWN"), &json!(40.0)));
    let delayed = &json_of(&url, &["--job", &format!("{}@mail", id(4))])["job"];
    assert!(delayed.get("lease_ends").is_none() && delayed["due_at"].is_u64(), "{delayed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_secret_is_shown_only_where_it_is_asked_for() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.url();
    fill(&url).await;
    let job = id(1).to_string();
    for args in [&["--job", &job][..], &["--job", &job, "--json"]] {
        assert!(!text(&inspect(&url, args)).contains("topsecret"), "{args:?}");
        let all = text(&inspect(&url, &[args, &["--payload"]].concat()));
        assert!(all.contains("topsecret\"}") && all.contains("topsecret result"), "{all}");
    }
    let said = &json_of(&url, &["--job", &job, "--payload"])["job"];
    assert_eq!((&said["payload"], &said["result"]), (&json!({"to": "topsecret"}), &json!("topsecret result")));
    // What others wrote moves no cursor.
    let dead = text(&inspect(&url, &["--job", &id(3).to_string()]));
    assert!(dead.contains("NO_SUCH_USER: 550 \\u{1b}[31munknown (not to be retried)"), "{dead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_from_what_cannot_be_asked() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.url();
    fill(&url).await;
    let with_password = format!("redis://me:hunter2@127.0.0.1:{}/", redis.port);
    let nowhere = "redis://me:hunter2@127.0.0.1:1/".to_owned();
    let job = id(99).to_string();
    let other = format!("{}@mail", id(5));
    for (url, args, status, part) in [
        (&url, &["--job", &job][..], 1, "no such job"),
        (&url, &["typo"], 1, "no such queue"),
        (&url, &["typo", "--jobs"], 1, "no such queue"),
        (&url, &["--job", "nonsense"], 2, "not a job id"),
        (&url, &["orders", "--job", &other], 2, "of the queue mail"),
        (&with_password, &[], 2, "credentials"),
        (&nowhere, &["--json"], 2, "error: "),
        (&"redis://me:hunter2@host/?hunter=2".to_owned(), &[], 2, "no query key"),
        (&"kafka://me:hunter2@host".to_owned(), &[], 2, "feature `kafka`"),
    ] {
        let output = inspect(url, args);
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(status), 0), "{args:?}: {output:?}");
        assert!(said.contains(part) && !said.contains("hunter2"), "{part}: {said}");
    }
}

/// Its records are in a Redis.
#[cfg(feature = "rabbitmq")]
#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_rabbitmq_are_shown_from_the_store_beside_it() {
    let Some(redis) = Redis::start() else { return };
    let Some(rabbit) = std::env::var("QUEUE_TEST_RABBITMQ_URL").ok().filter(|url| !url.is_empty()) else {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        assert!(!required, "QUEUE_TEST_RABBITMQ_URL names no broker");
        return eprintln!("LEFT OUT: QUEUE_TEST_RABBITMQ_URL names no broker; see `cargo xtask brokers up rabbitmq`");
    };
    let url = format!("{rabbit}?store={}", redis.url().replace(':', "%3A").replace('/', "%2F"));
    let connecting = ProviderUrl::parse(&url).unwrap();
    let provider = queue_manager::registry().connect(&connecting, &Env::system()).await.unwrap();
    let queue = QueueName::new(format!("inspect.{}", JobId::fresh(&Env::system()))).unwrap();
    publish(&provider, &queue, job(1, 5)).await;
    publish(&provider, &queue, job(2, 5)).await;
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker-2", 1)).await.unwrap();
    let held = consumer.fetch(1, Duration::from_secs(10)).await.unwrap().remove(0);
    let reference = format!("{}@{queue}", held.envelope.id);

    let said = &json_of(&url, &["--job", &reference])["job"];
    assert_eq!((&said["state"], &said["worker"]), (&json!("running"), &json!("worker-2")));
    assert!(said["lease_ends"].as_u64().unwrap() > said["started_at"].as_u64().unwrap(), "{said}");
    assert_eq!(json_of(&url, &[queue.as_str(), "--jobs"])["jobs"].as_array().unwrap().len(), 2);
    let numbers = &json_of(&url, &[queue.as_str()])["queues"][0];
    assert_eq!((&numbers["running"], &numbers["pending"]), (&json!(1), &json!(1)), "{numbers}");
    // The store knows the queues too, and so in which of them a job may be.
    let all = json_of(&url, &[]);
    let numbers = all["queues"].as_array().unwrap().iter().find(|numbers| numbers["queue"] == queue.as_str());
    assert_eq!(numbers.expect("it is listed")["running"], json!(1), "{all}");
    let found = &json_of(&url, &["--job", &held.envelope.id.to_string()])["job"];
    assert_eq!((&found["queue"], &found["state"]), (&json!(queue.as_str()), &json!("running")));
    // What cannot be done without a store says what to do instead.
    let job = held.envelope.id.to_string();
    for (args, part) in [
        (&[][..], "look into RabbitMQ's management interface"),
        (&["--job", &job], "store="),
        (&["--job", &reference], "store="),
    ] {
        let output = inspect(&rabbit, args);
        let refused = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && refused.contains(part), "{args:?}: {output:?}");
    }
    let settled = consumer.settle(&[Settlement::new(held.receipt, Disposition::Complete { result: None })]).await;
    assert!(settled[0].is_settled(), "{settled:?}");
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

#[test]
fn help_has_examples_and_says_what_is_not_shown() {
    let help = Command::new(env!("CARGO_BIN_EXE_queue")).args(["inspect", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for part in ["EXAMPLES", "--payload", "EXIT STATUS", "Credentials of", "--features redis"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(help.lines().all(|line| line.len() <= 140));
}
