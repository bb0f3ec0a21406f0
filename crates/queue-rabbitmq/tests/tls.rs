//! Encryption, by a real listener of a real broker: who is trusted, who is refused, and whether the refusal says why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::{path::Path, process::Command, time::Duration};

use queue_core::{
    Env, Envelope, Error, ErrorCode, JobId, QueueName, QueueProvider as _, QueueSpec,
    job::JobKind,
    provider::{ConsumeOptions, Disposition, ProviderUrl, PublishOptions, Settlement},
};
use queue_rabbitmq::{RabbitOptions, RabbitProvider};
use server::Server;
use tokio::time::{Instant, sleep};

/// Certificates that `openssl` makes: a root, one for `localhost` from it, and another root that nobody trusts, with its own.
#[derive(Debug)]
struct Certificates {
    home: tempfile::TempDir,
}

impl Certificates {
    /// `None`, with a word, where there is no `openssl`; where brokers are required, it is as well.
    fn make() -> Option<Self> {
        let made = Self { home: tempfile::tempdir().unwrap() };
        if made.chain("ours") && made.chain("strange") {
            return Some(made);
        }
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        assert!(!required, "no openssl that makes certificates");
        eprintln!("NOT TESTED: rabbitmq over TLS: no openssl that makes certificates");
        None
    }

    fn at(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    fn ca(&self, whose: &str) -> String {
        self.at(&format!("{whose}.ca.pem"))
    }

    /// As in a URL.
    fn identity(&self, whose: &str) -> String {
        format!("cert={}&key={}", self.at(&format!("{whose}.pem")), self.at(&format!("{whose}.key")))
    }

    fn chain(&self, whose: &str) -> bool {
        let at = |kind: &str| self.at(&format!("{whose}.{kind}"));
        let (ca, ca_key, key, certificate, request) = (at("ca.pem"), at("ca.key"), at("key"), at("pem"), at("request"));
        let new = ["req", "-newkey", "rsa:2048", "-nodes"];
        let root = ["-x509", "-days", "2", "-subj", "/CN=a root", "-keyout", &ca_key, "-out", &ca];
        let names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
        let leaf = ["-keyout", &key, "-out", &request];
        let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        let signed = ["-copy_extensions", "copy", "-days", "2", "-out", &certificate];
        let steps = [[&new[..], &root].concat(), [&new[..], &names, &leaf].concat(), [&sign[..], &signed].concat()];
        steps.iter().all(|step| Command::new("openssl").args(step).output().is_ok_and(|made| made.status.success()))
    }

    /// A broker that shows its certificate, and asks for ours; whether it must have one is a setting.
    fn server(&self, port: u16, ask: bool) -> Server {
        assert!(Path::new(&self.at("ours.pem")).is_file());
        Server::start_with(&format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {}\nssl_options.certfile = {}\nssl_options.keyfile = {}\n\
             ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = {ask}\n",
            self.ca("ours"),
            self.at("ours.pem"),
            self.at("ours.key"),
        ))
    }
}

async fn connect(url: &str) -> Result<RabbitProvider, Error> {
    let mut options = RabbitOptions::read(&ProviderUrl::parse(url).unwrap())?;
    (options.connect_timeout, options.answer_timeout) = (Duration::from_secs(30), Duration::from_secs(30));
    RabbitProvider::connect(options, &Env::system()).await
}

/// Is refused for good, with these words.
async fn refused(url: &str, code: ErrorCode, words: &str) {
    let error = connect(url).await.expect_err(url);
    assert_eq!(error.code(), code, "{url}: {error}: {:?}", std::error::Error::source(&error));
    assert!(error.to_string().contains(words), "{url}: {error}");
}

/// The broker says why and hangs up; who hears of the second first never hears the first.
fn told_or_hung_up_on(error: &Error, code: ErrorCode, words: &str) {
    match error.code() {
        ErrorCode::Unavailable => {}
        told => assert!(told == code && error.to_string().contains(words), "{error}"),
    }
}

async fn one_job(provider: &RabbitProvider) {
    let (env, queue) = (Env::system(), QueueName::from_static("sealed"));
    let start = Instant::now();
    while let Err(error) = provider.declare(&QueueSpec::new(queue.clone())).await {
        // Between two connections.
        assert!(error.is_retryable() && start.elapsed() < Duration::from_secs(30), "{error}");
        sleep(Duration::from_millis(50)).await;
    }
    // Longer than a record of TLS.
    let payload = vec![7_u8; 100_000];
    let job = Envelope::builder(JobId::fresh(&env), JobKind::from_static("test"), payload.clone(), env.now()).seal();
    let answer = provider.publish(&queue, vec![job], &PublishOptions::default()).await.remove(0);
    assert!(answer.is_accepted(), "{answer:?}");
    let consumer = provider.consumer(&queue, ConsumeOptions::new("test", 1)).await.unwrap();
    let got = consumer.fetch(1, Duration::from_secs(20)).await.unwrap().remove(0);
    assert_eq!(&got.envelope.payload[..], &payload[..]);
    consumer.settle(&[Settlement::new(got.receipt, Disposition::Complete { result: None })]).await;
    consumer.close(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_trusted_is_connected_to_and_who_is_not_is_told_why() {
    let Some(made) = Certificates::make().filter(|_| server::is_installed()) else { return };
    let port = server::free_ports(1).unwrap()[0];
    let server = tokio::task::block_in_place(|| made.server(port, false));
    let base = format!("amqps://guest:guest@localhost:{port}/%2f");
    let ca = made.ca("ours");

    let provider = connect(&format!("{base}?ca={ca}")).await.unwrap();
    one_job(&provider).await;
    provider.close().await.unwrap();

    refused(&base, ErrorCode::Config, "`ca`").await;
    refused(&format!("{base}?ca={}", made.ca("strange")), ErrorCode::Config, "`ca`").await;
    refused(&format!("{}?ca={ca}", base.replace("localhost", "127.0.0.1")), ErrorCode::Config, "not for the host")
        .await;
    let error = connect(&base.replace("amqps", "amqp")).await.expect_err("plain, where TLS is spoken");
    told_or_hung_up_on(&error, ErrorCode::Config, "amqps:");
    let plain = base.replace(&port.to_string(), &server.port().to_string());
    refused(&format!("{plain}?ca={ca}"), ErrorCode::Config, "amqp:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_asks_who_connects_is_told() {
    let Some(made) = Certificates::make().filter(|_| server::is_installed()) else { return };
    let port = server::free_ports(1).unwrap()[0];
    let _server = tokio::task::block_in_place(|| made.server(port, true));
    let base = format!("amqps://guest:guest@localhost:{port}/%2f?ca={}", made.ca("ours"));

    let provider = connect(&format!("{base}&{}", made.identity("ours"))).await.unwrap();
    one_job(&provider).await;
    // The next connection is encrypted as the first one.
    provider.cut();
    one_job(&provider).await;
    provider.close().await.unwrap();

    for not_let_in in [base.clone(), format!("{base}&{}", made.identity("strange"))] {
        let error = connect(&not_let_in).await.expect_err(&not_let_in);
        told_or_hung_up_on(&error, ErrorCode::Authentication, "`cert`");
    }
}
