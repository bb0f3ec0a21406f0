//! Which providers this build has, and which it could have.

use queue_core::provider::Registry;

/// Every provider and store that is compiled in, what pairs them, and for the rest of the product's schemes how to get them.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::new();
    #[cfg(feature = "memory")]
    queue_memory::register(&mut registry);
    #[cfg(feature = "redis")]
    queue_redis::register(&mut registry);
    #[cfg(feature = "rabbitmq")]
    queue_rabbitmq::register(&mut registry);
    queue_layers::register(&mut registry);
    for (schemes, remedy) in ELSEWHERE {
        registry.absent(schemes, remedy);
    }
    registry
}

macro_rules! remedy {
    ($feature:literal) => {
        concat!(
            "it comes with the crate `queue-",
            $feature,
            "`; build `queue-manager` with the Cargo feature `",
            $feature,
            "`"
        )
    };
}

/// What is compiled in is found before this is looked at.
const ELSEWHERE: [(&[&str], &str); 5] = [
    (&["memory"], remedy!("memory")),
    (&["redis", "rediss", "redis+cluster", "redis+sentinel"], remedy!("redis")),
    (&["amqp", "amqps"], remedy!("rabbitmq")),
    (&["kafka"], remedy!("kafka")),
    (&["sqs"], remedy!("sqs")),
];

/// A provider as `MESSAGE_QUEUE_PROVIDER` names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) schemes: &'static [&'static str],
    /// The variable that says where it is.
    pub(crate) variable: Option<&'static str>,
    /// Where it is if nobody says.
    pub(crate) default_url: &'static str,
}

/// All of them, whether compiled in or not.
pub(crate) const NAMED: [Named; 5] = [
    Named { name: "memory", schemes: ELSEWHERE[0].0, variable: None, default_url: "memory:" },
    Named {
        name: "redis",
        schemes: ELSEWHERE[1].0,
        variable: Some("REDIS_URL"),
        default_url: "redis://localhost:6379",
    },
    Named {
        name: "rabbitmq",
        schemes: ELSEWHERE[2].0,
        variable: Some("RABBITMQ_URL"),
        default_url: "amqp://localhost:5672",
    },
    Named {
        name: "kafka",
        schemes: ELSEWHERE[3].0,
        variable: Some("KAFKA_BROKERS"),
        default_url: "kafka://localhost:9092",
    },
    Named { name: "sqs", schemes: ELSEWHERE[4].0, variable: Some("SQS_ENDPOINT"), default_url: "sqs://" },
];

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::{ErrorCode, provider::ProviderUrl};

    #[test]
    fn what_is_not_compiled_in_says_how_to_get_it() {
        let registry = registry();
        let compiled = registry.schemes();
        for named in NAMED {
            let feature = if named.name == "rabbitmq" { "rabbitmq" } else { named.name };
            for scheme in named.schemes {
                let found = registry.find(&ProviderUrl::parse(format!("{scheme}://user:hunter2@host")).unwrap());
                if compiled.contains(scheme) {
                    assert!(found.is_ok(), "{scheme}");
                    continue;
                }
                let error = found.unwrap_err();
                assert_eq!(error.code(), ErrorCode::Config);
                for part in [scheme, feature, &*format!("queue-{feature}")] {
                    assert!(error.message().contains(part), "{error}");
                }
                assert!(!error.to_string().contains("hunter2"), "{error}");
            }
        }
        let error = registry.find(&ProviderUrl::parse("nats://host").unwrap()).unwrap_err();
        let end = format!("compiled in: {}", if compiled.is_empty() { "none".into() } else { compiled.join(", ") });
        assert!(error.message().ends_with(&end), "{error}");
    }
}
