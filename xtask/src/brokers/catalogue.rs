//! The brokers there are. A new one is an entry here and a [`Kit`] beside it.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::{rabbitmq, redis};

/// A broker that tests may need.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: &'static str,
    /// The crate that needs it. Until that exists, no test does.
    pub(crate) provider: &'static str,
    /// Where tests find its URL; set from outside, that broker is used as it is.
    pub(crate) url_var: &'static str,
    /// How it is started. `None`: only by URL.
    pub(crate) kit: Option<&'static dyn Kit>,
    /// Whether `cargo xtask test` brings it up. The others are for soaks and for one's own use, by name.
    pub(crate) in_tests: bool,
}

/// How a broker is started and asked whether it is there.
pub(crate) trait Kit: std::fmt::Debug + Sync {
    /// The program that must be on the path.
    fn program(&self) -> &'static str;

    /// The Debian packages that bring it.
    fn packages(&self) -> &'static [&'static str];

    /// The service in `xtask/compose.yaml` and the port it listens on in its container. `None`: only natively.
    fn service(&self) -> Option<(&'static str, u16)>;

    /// How many free ports it needs.
    fn ports(&self) -> usize {
        1
    }

    /// Its processes, each in the foreground on 127.0.0.1, with their data in `home`, which exists and is empty.
    fn commands(&self, home: &Path, ports: &[u16]) -> Result<Vec<Command>>;

    /// Makes one broker of its processes. Tried again until it succeeds: they may not listen yet.
    fn form(&self, _home: &Path, _ports: &[u16]) -> Result<()> {
        Ok(())
    }

    /// Where it is then.
    fn url(&self, ports: &[u16]) -> String;

    /// Whether all of it is there, asked in the broker's own protocol.
    fn ping(&self, ports: &[u16]) -> Result<()>;

    /// How long it may take to answer after its start.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// All of them.
pub(crate) static ALL: [Broker; 7] = [
    Broker {
        name: "redis",
        provider: "queue-redis",
        url_var: "QUEUE_TEST_REDIS_URL",
        kit: Some(&redis::Redis),
        in_tests: true,
    },
    Broker {
        name: "redis-sentinel",
        provider: "queue-redis",
        url_var: "QUEUE_TEST_REDIS_SENTINEL_URL",
        kit: Some(&redis::RedisSentinel),
        in_tests: false,
    },
    Broker {
        name: "redis-cluster",
        provider: "queue-redis",
        url_var: "QUEUE_TEST_REDIS_CLUSTER_URL",
        kit: Some(&redis::RedisCluster),
        in_tests: true,
    },
    Broker {
        name: "rabbitmq",
        provider: "queue-rabbitmq",
        url_var: "QUEUE_TEST_RABBITMQ_URL",
        kit: Some(&rabbitmq::RabbitMq),
        in_tests: true,
    },
    Broker {
        name: "rabbitmq-cluster",
        provider: "queue-rabbitmq",
        url_var: "QUEUE_TEST_RABBITMQ_CLUSTER_URL",
        kit: Some(&rabbitmq::RabbitMqCluster),
        in_tests: false,
    },
    Broker { name: "kafka", provider: "queue-kafka", url_var: "QUEUE_TEST_KAFKA_URL", kit: None, in_tests: true },
    Broker { name: "sqs", provider: "queue-sqs", url_var: "QUEUE_TEST_SQS_URL", kit: None, in_tests: true },
];

/// By name.
pub(crate) fn find(name: &str) -> Result<&'static Broker> {
    let names = ALL.each_ref().map(|broker| broker.name).join(", ");
    ALL.iter().find(|broker| broker.name == name).with_context(|| format!("no broker `{name}`; there are {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_distinct_and_in_style() {
        let mut seen = std::collections::BTreeSet::new();
        for broker in &ALL {
            assert!(seen.insert(broker.name) && seen.insert(broker.url_var), "{broker:?}");
            assert_eq!(broker.url_var, format!("QUEUE_TEST_{}_URL", broker.name.to_uppercase().replace('-', "_")));
            let family = broker.name.split('-').next().unwrap();
            assert_eq!(broker.provider, format!("queue-{family}"));
        }
    }

    #[test]
    fn every_kit_has_its_service_in_the_compose_file() {
        let compose = include_str!("../../compose.yaml");
        for (service, port) in ALL.iter().filter_map(|broker| broker.kit).filter_map(Kit::service) {
            assert!(compose.contains(&format!("\n  {service}:\n")), "{service}");
            assert!(compose.contains(&format!("\"127.0.0.1::{port}\"")), "{service}: {port}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert!(
            find("reddis")
                .unwrap_err()
                .to_string()
                .contains("redis, redis-sentinel, redis-cluster, rabbitmq, rabbitmq-cluster, kafka, sqs")
        );
    }
}
