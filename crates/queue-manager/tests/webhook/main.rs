//! The webhook, against a real server on this machine.

#![cfg(all(feature = "memory", feature = "webhook"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;
mod tls;

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use queue_core::{
    Env, ErrorCode, Event, QueueName, Timestamp,
    event::{Alert, AlertKind},
    job::{Backoff, JobKind},
    scheduler::NewJob,
};
use queue_manager::{
    QueueManager,
    alerts::{AlertSink, Webhook},
    config::{AlertsConfig, Secret, WebhookConfig, WebhookUrl},
};
use serde_json::Value;
use server::{Answer, Received, Server};
use tokio::time::Instant;

const OK: Answer = Answer::Status(200, "");
const MILLI: Duration = Duration::from_millis(1);

fn config(server: &Server) -> WebhookConfig {
    let mut config = AlertsConfig::default().webhook;
    config.url = Some(WebhookUrl::parse(format!("http://{}/hooks/hunter2?token=hunter2", server.address)).unwrap());
    config.backoff = Backoff::Fixed { base: MILLI };
    config
}

fn webhook(config: &WebhookConfig) -> Webhook {
    Webhook::new(config, Env::system()).unwrap().unwrap()
}

fn event(waiting: u64) -> Event {
    let what = AlertKind::Backlog { waiting, threshold: 1 };
    Event::Alert(Alert::new(Timestamp::from_millis(5), QueueName::from_static("mail"), what, "too many"))
}

/// Posts one event to a server that answers like this: what it received, and what the sink said.
async fn post(answers: &[Answer], change: impl FnOnce(&mut WebhookConfig)) -> (Vec<Received>, Result<(), String>) {
    let server = Server::start(answers).await;
    let mut config = config(&server);
    change(&mut config);
    let said = webhook(&config).send(&event(2)).await.map_err(|error| {
        assert_eq!(error.code(), ErrorCode::ExternalService);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        error.message().to_owned()
    });
    (server.received(), said)
}

fn json(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap()
}

#[tokio::test]
async fn an_event_is_posted_as_json() {
    assert_eq!(post(&[Answer::LongHead(10 << 10)], |_| {}).await.1, Ok(()));
    let (received, said) = post(&[Answer::Status(204, "")], |config| {
        config.authorization = Some(Secret::new("Bearer b"));
    })
    .await;
    assert_eq!((received.len(), said), (1, Ok(())));
    let Received { line, headers, .. } = &received[0];
    assert_eq!(line, "POST /hooks/hunter2?token=hunter2 HTTP/1.1");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["authorization"], "Bearer b");
    assert!(headers["host"].starts_with("127.0.0.1:") && headers["user-agent"].starts_with("queue/"), "{headers:?}");
    assert!(!headers.contains_key("webhook-signature") && headers["webhook-id"].starts_with("msg_"), "{headers:?}");
    let wanted = serde_json::json!({"event": "alert:backlog", "at": 5, "queue": "mail", "alert": "backlog",
        "waiting": 2, "threshold": 1, "message": "too many"});
    assert_eq!(json(&received[0]), wanted);
}

#[tokio::test]
async fn a_signature_can_be_checked_and_the_id_stays_through_the_attempts() {
    let answers = [Answer::Status(500, ""), OK];
    let (received, said) = post(&answers, |config| config.secret = Some(Secret::new("whsec_aHVudGVyMg=="))).await;
    assert_eq!((received.len(), said), (2, Ok(())));
    for Received { headers, body, .. } in &received {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"hunter2").unwrap();
        mac.update(format!("{}.{}.", headers["webhook-id"], headers["webhook-timestamp"]).as_bytes());
        mac.update(body);
        let signature = headers["webhook-signature"].strip_prefix("v1,").unwrap();
        mac.verify_slice(&BASE64_STANDARD.decode(signature).unwrap()).unwrap();
        let seconds: u64 = headers["webhook-timestamp"].parse().unwrap();
        assert!(seconds.abs_diff(Env::system().now().as_millis() / 1_000) <= 60);
    }
    assert_eq!(received[0].headers["webhook-id"], received[1].headers["webhook-id"]);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_as_often_as_configured() {
    for (answer, said) in [
        (Answer::Status(503, ""), "it answered 503"),
        (Answer::HangUp, "no answer: "),
        (Answer::Nonsense, "no answer: "),
        (Answer::EndlessHead, "no answer: "),
        (Answer::LongHead(20 << 10), "no answer: "),
        (Answer::Slow(Duration::from_secs(60)), "no answer within 100ms"),
    ] {
        let (received, error) = post(std::slice::from_ref(&answer), |config| {
            config.attempts = 3;
            config.timeout = 100 * MILLI;
        })
        .await;
        let error = error.unwrap_err();
        assert!(error.contains(said) && error.contains("/*** (attempt 3)"), "{answer:?}: {error}");
        assert_eq!(received.len(), 3, "{answer:?}");
        let (received, error) = post(&[answer, OK], |config| config.timeout = 100 * MILLI).await;
        assert_eq!((received.len(), error), (2, Ok(())));
    }
}

#[tokio::test]
async fn a_refusal_is_not_tried_again_and_a_redirect_not_followed() {
    let elsewhere = Server::start(&[OK]).await;
    let location: &'static str = format!("location: http://{}/\r\n", elsewhere.address).leak();
    for (answer, said) in [
        (Answer::Status(400, ""), "it answered 400"),
        (Answer::Status(410, ""), "it answered 410"),
        (Answer::Status(302, location), "redirects are not followed"),
        (Answer::Status(307, location), "redirects are not followed"),
    ] {
        let (received, error) = post(&[answer], |_| {}).await;
        assert!(error.unwrap_err().contains(said));
        assert_eq!(received.len(), 1);
    }
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn an_answer_without_end_is_not_read() {
    for answer in [Answer::Endless, Answer::EndlessHead] {
        let server = Server::start(std::slice::from_ref(&answer)).await;
        let mut config = config(&server);
        config.attempts = 1;
        let begun = Instant::now();
        let said = webhook(&config).send(&event(2)).await;
        assert_eq!(said.is_ok(), matches!(answer, Answer::Endless), "{said:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "it read on");
        // What the sockets of both sides hold is written, though nobody reads it.
        let written = *server.written.lock().unwrap();
        assert!(written < 20 << 20, "{written}");
    }
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let started = Instant::now();
    let (received, said) = post(&[Answer::Status(429, "retry-after: 1\r\n"), OK], |_| {}).await;
    assert_eq!((received.len(), said), (2, Ok(())));
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn nobody_there_is_tried_again() {
    let mut config = config(&Server::start(&[OK]).await);
    config.attempts = 2;
    let error = webhook(&config).send(&event(2)).await.unwrap_err();
    assert!(error.message().contains("(attempt 2): cannot connect: "), "{error}");
    assert!(error.message().to_lowercase().contains("refused"), "the cause is told: {error}");
}

#[tokio::test]
async fn tls_is_spoken_to_an_address_of_https() {
    let server = Server::start(&[Answer::Nonsense]).await;
    let mut config = config(&server);
    config.url = Some(WebhookUrl::parse(format!("https://{}/", server.address)).unwrap());
    (config.attempts, config.timeout) = (1, 200 * MILLI);
    // A machine without certificates cannot be a client of TLS: then that is what is said.
    match Webhook::new(&config, Env::system()) {
        Ok(webhook) => {
            let error = webhook.unwrap().send(&event(2)).await.unwrap_err();
            assert!(error.message().contains("https://127.0.0.1"), "{error}");
        }
        Err(error) => assert!(error.message().contains("TLS"), "{error}"),
    }
    assert!(server.received().is_empty(), "nothing is sent in the clear");
}

#[tokio::test]
async fn what_is_wrong_is_said_by_key_without_the_secret() {
    let server = Server::start(&[OK]).await;
    for (change, key) in [
        ((|config| config.secret = Some(Secret::new("whsec_hunter2!"))) as fn(&mut WebhookConfig), "secret"),
        (|config| config.authorization = Some(Secret::new("hunter2\nx: y")), "authorization"),
    ] {
        let mut config = config(&server);
        change(&mut config);
        let error = Webhook::new(&config, Env::system()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Config);
        assert!(error.message().starts_with(&format!("`alerts.webhook.{key}`")), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let mut config = config(&server);
    (config.secret, config.authorization) = (Some(Secret::new("hunter2")), Some(Secret::new("hunter2")));
    let shown = format!("{config:?} {:?}", webhook(&config));
    assert!(!shown.contains("hunter2") && shown.contains("signs: true"), "{shown}");
    assert!(Webhook::new(&WebhookConfig::default(), Env::system()).unwrap().is_none());
}

fn jobs(n: usize) -> Vec<NewJob> {
    (0..n).map(|_| NewJob::new(JobKind::from_static("mail.send"), "{}")).collect()
}

async fn manager(server: &Server, more: &[(&str, &str)]) -> QueueManager {
    let url = format!("http://{}/", server.address);
    let variables = [
        ("QUEUE__ALERTS__ENABLED", "true"),
        ("QUEUE__ALERTS__EVERY", "20ms"),
        ("QUEUE__ALERTS__WEBHOOK__URL", url.as_str()),
        ("QUEUE__ALERTS__WEBHOOK__BACKOFF", "fixed:5ms"),
    ];
    QueueManager::builder().variables(variables.into_iter().chain(more.iter().copied())).connect().await.unwrap()
}

#[tokio::test]
async fn the_environment_is_enough_for_alerts_to_arrive() {
    let server = Server::start(&[Answer::Status(500, ""), OK]).await;
    let queues = manager(&server, &[("QUEUE__ALERTS__QUEUES__MAIL__BACKLOG", "1")]).await;
    queues.enqueue_batch("mail", jobs(2), &Default::default()).await.unwrap();
    let received = server.wait_for(2).await;
    let json = json(&received[1]);
    assert_eq!((json["event"].as_str(), json["queue"].as_str()), (Some("alert:backlog"), Some("mail")));
    queues.close().await.unwrap();
    assert_eq!(server.received().len(), 2, "the alert is told once");
}

#[tokio::test]
async fn job_events_are_posted_where_they_are_asked_for_and_the_oldest_are_dropped_when_it_is_slow() {
    let slow = Answer::Slow(400 * MILLI);
    let server = Server::start(&[slow, OK]).await;
    let more = [("QUEUE__ALERTS__WEBHOOK__EVENTS", "job:submitted"), ("QUEUE__ALERTS__WEBHOOK__BUFFER", "3")];
    let queues = manager(&server, &more).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        let job = jobs(1).pop().unwrap();
        ids.push(queues.enqueue_raw("mail", job).await.unwrap().id().to_string());
        if n == 0 {
            server.wait_for(1).await;
        }
    }
    let received = server.wait_for(5).await;
    let told: Vec<Value> = received.iter().map(json).collect();
    assert_eq!((told[0]["event"].as_str(), told[0]["job"].as_str()), (Some("job:submitted"), Some(ids[0].as_str())));
    assert_eq!((told[1]["event"].as_str(), told[1]["count"].as_u64()), (Some("events:missed"), Some(6)));
    let rest: Vec<_> = told[2..].iter().map(|event| event["job"].as_str().unwrap()).collect();
    assert_eq!(rest, ids[7..].iter().map(String::as_str).collect::<Vec<_>>());
    let status = queues.alerts_status().unwrap().sinks;
    assert_eq!(status.iter().find(|sink| sink.name == "webhook").unwrap().dropped, 6);
    queues.close().await.unwrap();
}
