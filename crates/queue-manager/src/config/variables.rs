//! Variables that configure.

use std::ffi::OsString;

use queue_core::Result;
use toml::Table;

use super::origin::{Origin, complaint};
use crate::providers::{NAMED, Named as NamedProvider};

/// A key and what a variable says it is.
#[derive(Debug, PartialEq)]
pub(super) struct Assignment {
    pub(super) key: Vec<String>,
    pub(super) value: String,
    pub(super) variable: String,
}

const PREFIX: &str = "QUEUE__";
pub(super) const PROVIDER: &str = "MESSAGE_QUEUE_PROVIDER";

/// What the variables say, the more general first. One that is empty says nothing.
pub(super) fn assignments(variables: &[(String, OsString)], file: &Table) -> Result<Vec<Assignment>> {
    let set: Vec<(&str, &str)> = variables
        .iter()
        .filter(|(name, value)| concerns(name) && !value.is_empty())
        .map(|(name, value)| match value.to_str() {
            Some(value) => Ok((name.as_str(), value.trim())),
            None => Err(complaint("", "the value is not UTF-8", Some(&Origin::Variable(name.clone())))),
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::new();
    all.extend(provider(&set, file)?);
    let mut keyed: Vec<_> =
        set.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, name, value))).collect();
    keyed.sort_unstable();
    for (key, name, value) in keyed {
        let key = path(key, file).map_err(|what| complaint("", &what, Some(&Origin::Variable(name.to_string()))))?;
        all.push(Assignment { key, value: (*value).to_owned(), variable: (*name).to_owned() });
    }
    Ok(all)
}

fn concerns(name: &str) -> bool {
    name == PROVIDER || name.starts_with(PREFIX) || NAMED.iter().any(|named| named.variable == Some(name))
}

/// `MESSAGE_QUEUE_PROVIDER` and the variable that belongs to it, as a URL.
fn provider(set: &[(&str, &str)], file: &Table) -> Result<Option<Assignment>> {
    let find = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| *value);
    let Some(wanted) = find(PROVIDER) else { return Ok(None) };
    let Some(named) = NAMED.iter().find(|named| named.name == wanted) else {
        let names: Vec<_> = NAMED.iter().map(|named| named.name).collect();
        let message = format!("{wanted:?} is not a provider; write one of {}", names.join(", "));
        return Err(complaint("provider.url", &message, Some(&Origin::Variable(PROVIDER.to_owned()))));
    };
    let assign = |value: String, variable: &str| {
        let key = vec!["provider".to_owned(), "url".to_owned()];
        Some(Assignment { key, value, variable: variable.to_owned() })
    };
    if let Some((variable, value)) = named.variable.and_then(|variable| Some((variable, find(variable)?))) {
        return match url(named, value) {
            Some(url) => Ok(assign(url, variable)),
            None => {
                let message = format!("its scheme is none of {}", named.schemes.join(", "));
                Err(complaint("provider.url", &message, Some(&Origin::Variable(variable.to_owned()))))
            }
        };
    }
    // The file may say already where that provider is.
    let filed = file.get("provider").and_then(|section| section.get("url")).and_then(toml::Value::as_str);
    if filed.and_then(|url| url.split_once(':')).is_some_and(|(scheme, _)| named.schemes.contains(&scheme)) {
        return Ok(None);
    }
    Ok(assign(named.default_url.to_owned(), PROVIDER))
}

/// The URL that a provider's own variable stands for.
fn url(named: &NamedProvider, value: &str) -> Option<String> {
    match named.name {
        // `host:port,host:port`, as Kafka's own tools take it.
        "kafka" if !value.contains("://") => Some(format!("kafka://{value}")),
        // An address of HTTP, which cannot be the scheme.
        "sqs" if value.starts_with("http") => Some(format!("sqs://?endpoint={}", encoded(value))),
        _ => {
            let (scheme, _) = value.split_once(':')?;
            named.schemes.contains(&scheme).then(|| value.to_owned())
        }
    }
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// `WORKER__LEASE` is `worker.lease`. Variables are upper case and have few characters: a name is the one of the file that
/// reads the same, else the name in lower case.
///
/// # Errors
/// What nothing can be meant by.
fn path(key: &str, file: &Table) -> Result<Vec<String>, String> {
    let mut parts = parts(key)?;
    let mut at = Some(file);
    for index in 0..parts.len() {
        let part = &parts[index];
        if let Some(named) = named(&parts[..index]) {
            // What is said of a queue elsewhere is said of the queue that is declared.
            let queues = file.get("queues").and_then(toml::Value::as_table).filter(|_| named == Named::Queue);
            let known: Vec<&String> = at.into_iter().chain(queues).flat_map(Table::keys).collect();
            let exact = known.iter().find(|known| known.to_lowercase() == *part);
            let found =
                exact.or_else(|| known.iter().find(|known| is_meant(known, part))).map(|known| (*known).clone());
            let unknown = || if named == Named::Scope { as_scope(part) } else { part.clone() };
            parts[index] = found.unwrap_or_else(unknown);
        } else if part.contains('.') {
            return Err(format!("three underscores are a dot within a name, and `{part}` stands where no name does"));
        }
        at = at.and_then(|table| table.get(&parts[index])).and_then(toml::Value::as_table);
    }
    Ok(parts)
}

/// Two underscores part, three are a dot within a name.
fn parts(key: &str) -> Result<Vec<String>, String> {
    let (mut parts, mut part, mut run) = (Vec::new(), String::new(), 0);
    for letter in key.chars().map(Some).chain([None]) {
        if letter == Some('_') {
            run += 1;
            continue;
        }
        match std::mem::take(&mut run) {
            0 => {}
            1 => part.push('_'),
            2 => parts.push(std::mem::take(&mut part)),
            3 => part.push('.'),
            _ => return Err("more than three underscores in a row mean nothing".to_owned()),
        }
        part.extend(letter.into_iter().flat_map(char::to_lowercase));
    }
    parts.push(part);
    Ok(parts)
}

/// A dot that is written is one that is meant; an underscore may be any character, or several.
fn is_meant(known: &str, part: &str) -> bool {
    reads(known) == reads(part) && (!part.contains('.') || known.split('.').map(reads).eq(part.split('.').map(reads)))
}

/// What a section's keys are names of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Queue,
    Scope,
    Other,
}

/// What the keys of a section name, if they are names.
fn named(section: &[String]) -> Option<Named> {
    let section: Vec<&str> = section.iter().map(String::as_str).collect();
    match section[..] {
        ["queues"] | ["alerts", "queues"] => Some(Named::Queue),
        ["limits"] => Some(Named::Scope),
        ["providers" | "routes" | "breakers"] | ["queues", _, "partitions"] => Some(Named::Other),
        _ => None,
    }
}

/// A name as a variable can say it.
fn reads(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("_")
}

/// `rate_openai` is `rate:openai`, and `tenant` is `tenant:*`.
fn as_scope(name: &str) -> String {
    match name.split_once('_') {
        _ if name.contains(':') => name.to_owned(),
        Some((by, name)) => format!("{by}:{name}"),
        None => format!("{name}:*"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(variables: &[(&str, &str)], file: &str) -> Result<Vec<(String, String)>> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
        let all = assignments(&variables, &toml::from_str(file).unwrap())?;
        Ok(all.into_iter().map(|one| (one.key.join("."), one.value)).collect())
    }

    #[test]
    fn a_named_provider_is_where_its_variable_says() {
        for (name, variable, value, url) in [
            ("memory", "REDIS_URL", "redis://h", "memory:"),
            ("redis", "REDIS_URL", "rediss://:p@h", "rediss://:p@h"),
            ("redis", "RABBITMQ_URL", "amqp://h", "redis://localhost:6379"),
            ("redis", "REDIS_URL", "", "redis://localhost:6379"),
            ("rabbitmq", "RABBITMQ_URL", "amqps://h/v", "amqps://h/v"),
            ("kafka", "KAFKA_BROKERS", "a:9092,b:9092", "kafka://a:9092,b:9092"),
            ("kafka", "KAFKA_BROKERS", "kafka://a", "kafka://a"),
            ("sqs", "SQS_ENDPOINT", "http://l:9324/x", "sqs://?endpoint=http%3A%2F%2Fl%3A9324%2Fx"),
            ("sqs", "OTHER", "x", "sqs://"),
        ] {
            let found = assigned(&[(PROVIDER, name), (variable, value)], "").unwrap();
            assert_eq!(found, [("provider.url".to_owned(), url.to_owned())], "{name} {variable}={value}");
        }
        assert_eq!(assigned(&[("REDIS_URL", "redis://h"), ("QUEUE_BLESS", "1")], "").unwrap(), []);
        let file = "[provider]\nurl = \"redis+cluster://far\"";
        assert_eq!(assigned(&[(PROVIDER, "redis")], file).unwrap(), [], "the file knows where");
        assert_eq!(assigned(&[(PROVIDER, "memory")], file).unwrap()[0].1, "memory:");
    }

    #[test]
    fn what_no_provider_is_meant_by_is_refused() {
        let error = assigned(&[(PROVIDER, "Redis")], "").unwrap_err().to_string();
        assert!(error.contains(PROVIDER) && error.contains("memory, redis, rabbitmq"), "{error}");
        let error = assigned(&[(PROVIDER, "redis"), ("REDIS_URL", "amqp://:hunter2@h")], "").unwrap_err().to_string();
        assert!(error.contains("REDIS_URL") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_variable_finds_its_key_and_its_queue() {
        let file = "[queues.\"Mail.out-1\"]\n[alerts.queues.\"Bulk.in\"]\n";
        let found = assigned(
            &[
                ("QUEUE__WORKER__LEASE", "5s"),
                ("QUEUE__QUEUES__MAIL_OUT_1__RETRY__JITTER", "0"),
                ("QUEUE__QUEUES__NEW__TTL", "1s"),
                ("QUEUE__ALERTS__QUEUES__MAIL_OUT_1__BACKLOG", "5"),
                ("QUEUE__ALERTS__QUEUES__BULK_IN__BACKLOG", "5"),
                ("QUEUE__ALERTS__BACKLOG", "5"),
            ],
            file,
        );
        let keys: Vec<String> = found.unwrap().into_iter().map(|(key, _)| key).collect();
        let alerts = ["alerts.backlog", "alerts.queues.Bulk.in.backlog", "alerts.queues.Mail.out-1.backlog"];
        let rest = ["queues.Mail.out-1.retry.jitter", "queues.new.ttl", "worker.lease"];
        assert_eq!(keys, [alerts, rest].concat());
    }

    #[test]
    fn three_underscores_are_a_dot_within_a_name() {
        let key = |variable: &str, file: &str| {
            let set = [(variable.to_owned(), OsString::from("1"))];
            Ok::<_, queue_core::Error>(assignments(&set, &toml::from_str(file).unwrap())?.remove(0).key)
        };
        let nightly = |file| key("QUEUE__QUEUES__REPORTS___NIGHTLY__TTL", file).unwrap();
        assert_eq!(nightly(""), ["queues", "reports.nightly", "ttl"]);
        assert_eq!(nightly("[queues.'Reports.Nightly']"), ["queues", "Reports.Nightly", "ttl"]);
        assert_eq!(nightly("[queues.reports-nightly]"), ["queues", "reports.nightly", "ttl"], "another queue");
        let both = "[queues.a-b]\n[queues.a_b]\n[queues.'a.b']";
        for (said, meant) in [("A_B", "a_b"), ("A___B", "a.b")] {
            assert_eq!(key(&format!("QUEUE__QUEUES__{said}__TTL"), both).unwrap()[1], meant);
        }
        for (variable, said) in [
            ("QUEUE__WORKER___LEASE", "stands where no name does"),
            ("QUEUE__QUEUES___X__TTL", "stands where no name does"),
            ("QUEUE__QUEUES__X____TTL", "more than three underscores"),
        ] {
            let error = key(variable, "").unwrap_err();
            assert_eq!(error.code(), queue_core::ErrorCode::Config);
            assert!(error.message().contains(said) && error.message().contains(variable), "{error}");
        }
    }

    #[test]
    fn a_name_is_the_files_that_reads_the_same() {
        let file = "[queues.'Reports..Nightly'.partitions.Big-Ones]\n[limits.'tenant:*']\n[limits.'rate:Open AI']\n";
        for (variable, key) in [
            ("QUEUE__WORKER__LEASE", "worker.lease"),
            ("QUEUE__QUEUES__REPORTS_NIGHTLY__TTL", "queues.Reports..Nightly.ttl"),
            ("QUEUE__QUEUES__REPORTS_NIGHTLY__RETRY__JITTER", "queues.Reports..Nightly.retry.jitter"),
            (
                "QUEUE__QUEUES__REPORTS_NIGHTLY__PARTITIONS__BIG_ONES__WEIGHT",
                "queues.Reports..Nightly.partitions.Big-Ones.weight",
            ),
            ("QUEUE__QUEUES__OTHER__PARTITIONS__BIG_ONES__WEIGHT", "queues.other.partitions.big_ones.weight"),
            ("QUEUE__LIMITS__TENANT__RATE", "limits.tenant:*.rate"),
            ("QUEUE__LIMITS__RATE_OPEN_AI__RATE", "limits.rate:Open AI.rate"),
            ("QUEUE__LIMITS__RATE_OTHER_AI__RATE", "limits.rate:other_ai.rate"),
            ("QUEUE__LIMITS__KIND__RATE", "limits.kind:*.rate"),
            ("QUEUE__LIMITS__KIND:*__RATE", "limits.kind:*.rate"),
            ("QUEUE__ROUTES__A_B__ORDER", "routes.a_b.order"),
            ("QUEUE__ALERTS__QUEUES__REPORTS_NIGHTLY__BACKLOG", "alerts.queues.Reports..Nightly.backlog"),
            ("QUEUE__ALERTS__QUEUES__OTHER__BACKLOG", "alerts.queues.other.backlog"),
            ("QUEUE__QUEUES__NEW___BY_NIGHT__TTL", "queues.new.by_night.ttl"),
            ("QUEUE__LIMITS__QUEUE_NEW___X__RATE", "limits.queue:new.x.rate"),
            ("QUEUE__ALERTS__QUEUES__NEW___X__BACKLOG", "alerts.queues.new.x.backlog"),
            ("QUEUE__QUEUES__A___B__PARTITIONS__C___D__WEIGHT", "queues.a.b.partitions.c.d.weight"),
        ] {
            assert_eq!(assigned(&[(variable, "1")], file).unwrap()[0].0, key, "{variable}");
        }
    }
}
