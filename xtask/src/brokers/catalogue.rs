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
    /// The broker that it is another release of: tests of that one run on it.
    pub(crate) in_place_of: Option<&'static str>,
    /// The broker that it is another shape of: asked for alone, tests of that one run on it.
    pub(crate) shape_of: Option<&'static str>,
    /// Whether `cargo xtask test` brings it up. The others are for soaks and for one's own use, by name.
    pub(crate) in_tests: bool,
}

impl Broker {
    /// What tests must be told so that they use it: its URL, also as that of the broker in whose place it is.
    pub(crate) fn variables(&self, url: &str, brokers: &Path) -> Vec<(&'static str, String)> {
        let stands_for = self.in_place_of.and_then(|name| find(name).ok());
        let names = [Some(self.url_var), stands_for.map(|broker| broker.url_var)];
        let urls = names.into_iter().flatten().map(|name| (name, url.to_owned()));
        urls.chain(self.kit.into_iter().flat_map(|kit| kit.for_tests(brokers))).collect()
    }

    /// Where it is the only one: the name by which tests know what it is,
    pub(crate) fn known_as(&self) -> &'static str {
        self.in_place_of.or(self.shape_of).unwrap_or(self.name)
    }

    /// and the variable in which they look for it.
    pub(crate) fn looked_for_in(&self) -> &'static str {
        find(self.known_as()).map_or(self.url_var, |broker| broker.url_var)
    }
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

    /// Gets what its processes need that no package of this machine has, into a folder of its own beside the data.
    fn prepare(&self, _brokers: &Path) -> Result<()> {
        Ok(())
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

    /// Variables that tell tests, beside its URL, how to start more of it.
    fn for_tests(&self, _brokers: &Path) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// How long it may take to answer after its start.
    fn patience(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// All of them.
pub(crate) static ALL: [Broker; 9] = [
    Broker {
        name: "redis",
        provider: "queue-redis",
        url_var: "QUEUE_TEST_REDIS_URL",
        kit: Some(&redis::Redis),
        in_place_of: None,
        shape_of: None,
        in_tests: true,
    },
    Broker {
        name: "redis-sentinel",
        provider: "queue-redis",
        url_var: "QUEUE_TEST_REDIS_SENTINEL_URL",
        kit: Some(&redis::RedisSentinel),
        in_place_of: None,
        shape_of: Some("redis"),
        in_tests: false,
    },
    Broker {
        name: "redis-cluster",
        provider: "queue-redis",
        url_var: "QUEUE_TEST_REDIS_CLUSTER_URL",
        kit: Some(&redis::RedisCluster),
        in_place_of: None,
        shape_of: Some("redis"),
        in_tests: true,
    },
    Broker {
        name: "rabbitmq",
        provider: "queue-rabbitmq",
        url_var: "QUEUE_TEST_RABBITMQ_URL",
        kit: Some(&rabbitmq::RabbitMq),
        in_place_of: None,
        shape_of: None,
        in_tests: true,
    },
    Broker {
        name: "rabbitmq-cluster",
        provider: "queue-rabbitmq",
        url_var: "QUEUE_TEST_RABBITMQ_CLUSTER_URL",
        kit: Some(&rabbitmq::RabbitMqCluster),
        in_place_of: None,
        shape_of: Some("rabbitmq"),
        in_tests: false,
    },
    Broker {
        name: "rabbitmq-trixie",
        provider: "queue-rabbitmq",
        url_var: "QUEUE_TEST_RABBITMQ_TRIXIE_URL",
        kit: Some(&rabbitmq::LaterRabbitMq("trixie")),
        in_place_of: Some("rabbitmq"),
        shape_of: None,
        in_tests: false,
    },
    Broker {
        name: "rabbitmq-forky",
        provider: "queue-rabbitmq",
        url_var: "QUEUE_TEST_RABBITMQ_FORKY_URL",
        kit: Some(&rabbitmq::LaterRabbitMq("forky")),
        in_place_of: Some("rabbitmq"),
        shape_of: None,
        in_tests: false,
    },
    Broker {
        name: "kafka",
        provider: "queue-kafka",
        url_var: "QUEUE_TEST_KAFKA_URL",
        kit: None,
        in_place_of: None,
        shape_of: None,
        in_tests: true,
    },
    Broker {
        name: "sqs",
        provider: "queue-sqs",
        url_var: "QUEUE_TEST_SQS_URL",
        kit: None,
        in_place_of: None,
        shape_of: None,
        in_tests: true,
    },
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
    fn tests_of_a_broker_run_on_another_release_of_it() {
        let later = find("rabbitmq-trixie").unwrap();
        let told: Vec<_> = later.variables("amqp://here", Path::new("/nowhere"));
        let url = || "amqp://here".to_owned();
        assert_eq!(told, [("QUEUE_TEST_RABBITMQ_TRIXIE_URL", url()), ("QUEUE_TEST_RABBITMQ_URL", url())]);
        assert_eq!(later.known_as(), "rabbitmq");
        assert_eq!(later.looked_for_in(), "QUEUE_TEST_RABBITMQ_URL");
        for name in ALL.iter().flat_map(|broker| [broker.in_place_of, broker.shape_of]).flatten() {
            assert!(find(name).is_ok_and(|broker| broker.in_tests), "{name}");
        }
    }

    /// Beside the plain one it must not take that one's place.
    #[test]
    fn another_shape_stands_for_a_broker_only_where_it_is_asked_for_alone() {
        for (name, plain) in [("redis-cluster", "redis"), ("redis-sentinel", "redis"), ("rabbitmq-cluster", "rabbitmq")]
        {
            let (shape, plain) = (find(name).unwrap(), find(plain).unwrap());
            assert_eq!((shape.known_as(), shape.looked_for_in()), (plain.name, plain.url_var));
            assert_eq!(shape.variables("x", Path::new("/nowhere")), [(shape.url_var, "x".to_owned())]);
        }
        let plain = find("redis").unwrap();
        assert_eq!((plain.known_as(), plain.looked_for_in()), ("redis", plain.url_var));
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
                .contains("redis, redis-sentinel, redis-cluster, rabbitmq, rabbitmq-cluster, rabbitmq-trixie, rabbitmq-forky, kafka, sqs")
        );
    }
}
