//! The configuration: what wins, and what an error says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{io::Write as _, time::Duration};

use queue_core::{
    ErrorCode, Priority, QueueName,
    job::{Backoff, SlaClass},
    provider::Durability,
    queue_spec::{Order, Partition, Tracking},
};
use queue_manager::{
    Config, QueueManager,
    config::{Size, Sources},
};
use tempfile::NamedTempFile;

const SECOND: Duration = Duration::from_secs(1);

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str, variables: &[(&str, &str)]) -> queue_core::Result<Config> {
    let file = file(text);
    Sources::new().file(file.path()).variables(variables.iter().copied()).load()
}

/// The message of the error that this file and these variables make.
fn refused(text: &str, variables: &[(&str, &str)]) -> String {
    let error = load(text, variables).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Config, "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    error.message().to_owned()
}

fn mail() -> QueueName {
    QueueName::from_static("mail")
}

#[test]
fn nothing_said_is_the_default() {
    assert_eq!(Sources::new().load().unwrap(), Config::default());
    assert_eq!(load("", &[]).unwrap(), Config::default());
    assert_eq!(Config::default().provider.url.expose(), "memory:");
    assert!(Config::default().validate().is_ok());
}

#[test]
fn variables_win_over_the_file_and_the_file_over_the_defaults() {
    let text = "[worker]\nlease = '10s'\nprefetch = 3\n[queues.mail]\nmax_len = 7\nretry.max_attempts = 9\n";
    let variables = [
        ("QUEUE__WORKER__LEASE", "20s"),
        ("QUEUE__QUEUES__MAIL__RETRY__JITTER", "0.5"),
        ("QUEUE__WORKER__PREFETCH", ""),
    ];
    let config = load(text, &variables).unwrap();
    assert_eq!((config.worker.lease, config.worker.prefetch), (20 * SECOND, Some(3)));
    assert_eq!(config.worker.drain_deadline, 30 * SECOND);
    let queue = &config.queues[&mail()];
    assert_eq!((queue.max_len, queue.retry.max_attempts, queue.retry.jitter), (Some(7), 9, 0.5));
}

#[test]
fn every_property_of_a_queue_can_be_said() {
    let config = load(
        "[queues.mail]
order = 'aged:10m'
default_priority = 'high'
default_kind = 'mail.send'
timeout = '1m 30s'
ttl = '1h'
max_deliveries = 3
max_encoded_len = '2MiB'
max_len = 1_000
durability = 'interval:1s'
tracking = 'off'
sla = 'high'
partitions.bulk = { weight = 3, max_concurrency = 2 }
partitions.default.weight = 7
[queues.mail.retry]
max_attempts = 2
backoff = 'exp:2s..1m'
factor = 3
jitter = 0
[queues.mail.retention]
age = '1h'
count = 5
bytes = 6
dead = '2h'
",
        &[],
    )
    .unwrap();
    let spec = config.queues[&mail()].spec(mail());
    assert_eq!(spec.order, Order::Aged { bound: 600 * SECOND });
    assert_eq!((spec.default_priority, spec.default_kind.as_str()), (Priority::HIGH, "mail.send"));
    assert_eq!((spec.timeout, spec.ttl), (90 * SECOND, Some(3600 * SECOND)));
    assert_eq!((spec.max_deliveries, spec.max_encoded_len, spec.max_len), (3, 2 << 20, Some(1_000)));
    assert_eq!((spec.durability, spec.tracking), (Some(Durability::Interval(SECOND)), Tracking::Off));
    assert_eq!(spec.sla, Some(SlaClass::High));
    let bulk = Partition { weight: 3, max_concurrency: Some(2) };
    let default = Partition { weight: 7, max_concurrency: None };
    assert_eq!(spec.partitions, [("bulk".into(), bulk), ("default".into(), default)].into());
    assert_eq!((spec.retry.max_attempts, spec.retry.jitter), (2, 0.0));
    assert_eq!(spec.retry.backoff, Backoff::Exponential { base: 2 * SECOND, factor: 3.0, cap: 60 * SECOND });
    let retention = spec.retention;
    assert_eq!((retention.age, retention.count, retention.bytes), (3600 * SECOND, 5, 6));
    assert_eq!(retention.dead, 7200 * SECOND);
}

#[test]
fn an_error_names_the_key_and_the_line() {
    for (text, key, said, line) in [
        ("[worker]\n\nlease = '2'\n", "`worker.lease`", "not a duration", 3),
        ("[worker]\nleese = '2s'\n", "`worker.leese`", "expected one of `lease`", 2),
        ("\n[wroker]\nlease = '2s'\n", "`wroker`", "expected one of `provider`", 2),
        ("[queues.mail]\nretry.factr = 2\n", "`queues.mail.retry.factr`", "expected one of", 2),
        ("[queues.\"a b\"]\n", "queues", "white space", 1),
        ("[worker]\nlease = ['2s']\n", "`worker.lease`", "one value", 2),
        ("worker = 3\n", "`worker`", "section", 1),
        ("[queues.mail]\nmax_len = 0\n", "`queues.mail.max_len`", "at least 1", 2),
        ("[queues.mail]\nmax_len = -1\n", "`queues.mail.max_len`", "whole number", 2),
        ("[queues.mail]\n\n[queues.mail.retry]\nfactor = 0.5", "`queues.mail.retry.factor`", "at least 1", 4),
        ("[queues.mail.retry]\njitter = 1.1", "`queues.mail.retry.jitter`", "share", 2),
        ("[queues.mail.retry]\nmax_attempts = 0", "`queues.mail.retry.max_attempts`", "at least 1", 2),
        ("[queues.mail]\ntimeout = '0s'\n", "`queues.mail.timeout`", "longer than zero", 2),
        ("[queues.mail]\nmax_encoded_len = 0\n", "`queues.mail.max_encoded_len`", "zero bytes", 2),
        ("[queues.mail]\norder = 'aged:0s'\n", "`queues.mail`", "longer than zero", 1),
        ("[provider]\nping_timeout = '0s'\n", "`provider.ping_timeout`", "longer than zero", 2),
        ("[alerts]\nevery = '0s'\n", "`alerts.every`", "longer than zero", 2),
        ("[alerts]\nenabled = 'yes'\n", "`alerts.enabled`", "neither true nor false", 2),
        ("[alerts]\nrepeat = '0s'\n", "`alerts.repeat`", "longer than zero", 2),
        ("[alerts]\nclear_at = 1.5\n", "`alerts.clear_at`", "share", 2),
        ("[alerts]\nbacklog = -1\n", "`alerts.backlog`", "whole number", 2),
        ("[alerts]\ndeadletters = 1\n", "`alerts.deadletters`", "expected one of `enabled`", 2),
        ("[alerts.queues.mail]\nflood_within = '0s'\n", "`alerts.queues.mail.flood_within`", "longer than zero", 2),
        ("[alerts.queues.mail]\nunhealthy_after = '0s'", "`alerts.queues.mail.unhealthy_after`", "than zero", 2),
        ("[alerts.queues.mail]\nevery = '1s'\n", "`alerts.queues.mail.every`", "expected one of `backlog`", 2),
        ("[alerts.queues.\"a b\"]\n", "alerts.queues", "white space", 1),
        ("[alerts.webhook]\nurl = 'ftp://:hunter2@h'\n", "`alerts.webhook.url`", "http://", 2),
        ("[alerts.webhook]\nevents = 'alert:*,bob'\n", "`alerts.webhook.events`", "\"bob\" is no event", 2),
        ("[alerts.webhook]\nattempts = 0\n", "`alerts.webhook.attempts`", "at least 1", 2),
        ("[alerts.webhook]\nbuffer = 0\n", "`alerts.webhook.buffer`", "at least 1", 2),
        ("[alerts.webhook]\ntimeout = '0s'\n", "`alerts.webhook.timeout`", "longer than zero", 2),
        ("[alerts.webhook]\nbackoff = 'list:'\n", "`alerts.webhook.backoff`", "duration", 2),
        ("[worker]\nlease = '1s\n", "", "invalid", 2),
        ("[worker]\nlease = '1s'\nlease = '2s'\n", "", "duplicate", 3),
    ] {
        let message = refused(text, &[]);
        for part in [key, said, &*format!(".toml, line {line})")] {
            assert!(message.contains(part), "{text}: {part:?} is not in {message:?}");
        }
    }
}

#[test]
fn an_error_names_the_variable() {
    let text = "[worker]\nlease = '10s'\n";
    for (name, value, said) in [
        ("QUEUE__WORKER__LEASE", "2", "`worker.lease`"),
        ("QUEUE__WORKER__LEESE", "2s", "`worker.leese`"),
        ("QUEUE__WORKER__DRAIN_DEADLINE__X", "2s", "`worker.drain_deadline`"),
        ("QUEUE__PROVIDER__PING_TIMEOUT", "0s", "`provider.ping_timeout`"),
        ("QUEUE__QUEUES__MAIL__MAX_LEN", "0", "`queues.mail.max_len`"),
        ("QUEUE__ALERTS__QUEUES__MAIL__BACKLOG", "x", "`alerts.queues.mail.backlog`"),
        ("QUEUE__ALERTS__WEBHOOK__URL", "hunter2", "`alerts.webhook.url`"),
        ("QUEUE__WORKER", "2s", "`worker`"),
        ("MESSAGE_QUEUE_PROVIDER", "nats", "memory, redis"),
    ] {
        let message = refused(text, &[(name, value)]);
        assert!(message.contains(said) && message.ends_with(&format!("(variable {name})")), "{message}");
    }
}

#[test]
fn no_error_and_no_debug_output_holds_a_password() {
    for text in [
        "[provider]\nurl = ':hunter2@host'\n",
        "[provider]\nurl = 'redis://:hunter2@ho st'\n",
        "[provider]\nurl = ['redis://:hunter2@host']\n",
        "provider = 'redis://:hunter2@host'\n",
        "[provider]\nurl = 'redis://:hunter2@host\n",
        "[alerts.webhook]\nurl = 'hunter2'\n",
        "[alerts.webhook]\nsecret = ['hunter2']\n",
        "[alerts]\nwebhook = 'hunter2'\n",
        "[provider]\nurl = 'redis://:hunter2@host'\nurl = 'redis://:hunter2@host'\n",
    ] {
        refused(text, &[]);
    }
    refused("", &[("QUEUE__PROVIDER", "redis://:hunter2@host")]);
    let config = load("[provider]\nurl = 'redis://:hunter2@host'\n", &[]).unwrap();
    assert_eq!(config.provider.url.expose(), "redis://:hunter2@host");
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    let text = "[alerts.webhook]\nurl = 'https://h/hunter2'\nsecret = 'hunter2'\nauthorization = 'hunter2'\n";
    let config = load(text, &[]).unwrap();
    assert_eq!(config.alerts.webhook.url.as_ref().unwrap().expose(), "https://h/hunter2");
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    let builder = QueueManager::builder().url("redis://:hunter2@host").variables([("REDIS_URL", "hunter2")]);
    assert!(!format!("{builder:?}").contains("hunter2"), "{builder:?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Sources::new().file("/nowhere/queue.toml").load().unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert!(error.message().contains("/nowhere/queue.toml"), "{error}");
}

#[test]
fn a_value_set_by_the_program_is_checked_too() {
    let mut config = Config::default();
    config.queues.entry(mail()).or_default().max_encoded_len = Size(0);
    assert_eq!(
        config.validate().unwrap_err().message(),
        "`queues.mail.max_encoded_len`: it must be more than zero bytes"
    );
}
