//! The reference of all keys, as Markdown.

use std::fmt::Write as _;

use super::{
    AlertsConfig, BreakerConfig, Config, HealthConfig, LimitConfig, MaintenanceConfig, NamedProviderConfig,
    PartitionConfig, PoolConfig, ProviderConfig, QueueAlertsConfig, QueueConfig, RouteConfig, RoutingConfig,
    WorkerConfig,
    section::{Key, Section},
    variables::PROVIDER,
};
use crate::providers::NAMED;

/// Every key there is.
#[must_use]
pub fn keys() -> Vec<Key> {
    Config::keys("")
}

/// The configuration page of the book.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    section::<ProviderConfig>(&mut page, "provider");
    section::<NamedProviderConfig>(&mut page, "providers.NAME");
    section::<RouteConfig>(&mut page, "routes.NAME");
    section::<RoutingConfig>(&mut page, "routing");
    section::<QueueConfig>(&mut page, "queues.NAME");
    section::<PartitionConfig>(&mut page, "queues.NAME.partitions.PARTITION");
    section::<WorkerConfig>(&mut page, "worker");
    section::<PoolConfig>(&mut page, "pool");
    section::<LimitConfig>(&mut page, "limits.SCOPE");
    section::<BreakerConfig>(&mut page, "breakers.NAME");
    section::<HealthConfig>(&mut page, "health");
    section::<MaintenanceConfig>(&mut page, "maintenance");
    section::<AlertsConfig>(&mut page, "alerts");
    section::<QueueAlertsConfig>(&mut page, "alerts.queues.NAME");
    page.push_str(VARIABLES);
    let names: Vec<String> = NAMED.iter().map(|named| format!("`{}`", named.name)).collect();
    // A string takes everything that is written to it.
    let _ = writeln!(
        page,
        "| `{PROVIDER}` | which provider: {} | none: the file's URL, else `memory:` |",
        names.join(", ")
    );
    for named in NAMED {
        if let Some(variable) = named.variable {
            let meaning = match named.name {
                "kafka" => "its brokers, `host:port,host:port`".to_owned(),
                "sqs" => {
                    "its endpoint, an address of HTTP; credentials and region as every AWS tool finds them".to_owned()
                }
                name => format!("the URL of {name}"),
            };
            let _ = writeln!(page, "| `{variable}` | {meaning} | `{}` |", named.default_url);
        }
    }
    page.push_str(TAIL);
    page
}

fn section<S: Section>(page: &mut String, path: &str) {
    let about: String = S::ABOUT.concat();
    let _ =
        write!(page, "\n## `[{path}]`\n\n{}\n\n| key | value | default | meaning |\n|---|---|---|---|\n", about.trim());
    // What stands under a name of its own has a table of its own.
    let is_name = |part: &str| part.bytes().all(|byte| byte.is_ascii_uppercase());
    let own = |key: &Key| !key.path[path.len()..].split('.').skip(1).any(is_name);
    for Key { path: key, shape, default, doc } in S::keys(path).into_iter().filter(own) {
        let shape = shape.replace('|', "\\|");
        let _ = writeln!(page, "| `{key}` | {shape} | `{default}` | {doc} |");
    }
}

const HEAD: &str = "# Configuration

<!-- Generated from the code of queue-manager. `QUEUE_BLESS=1 cargo test -p queue-manager --test book` writes it anew. -->

A program configures `QueueManager` by a URL (`connect`), a TOML file (`from_file`), variables (`from_env`), or all of them
through `QueueManager::builder()`. Variables win over the file, the file over the defaults; what the program itself sets wins
over all. Unknown keys are errors. Every error names the key and where it came from: file and line, or variable. URLs are
shown without credentials, in logs and in errors.

```toml
[provider]
url = \"memory:\"

[worker]
lease = \"1m\"

[queues.mail]
default_priority = \"high\"
timeout = \"10s\"
retry.max_attempts = 6
retry.backoff = \"exp:2s..5m\"

[queues.\"reports.nightly\"]
max_len = 10_000
ttl = \"12h\"
partitions.urgent.weight = 3
partitions.default.max_concurrency = 2

[providers.bulk]
url = \"memory:\"

[routes.reports]
queue = \"reports.*\"
provider = \"bulk\"

[limits.\"tenant:*\"]
rate = \"100/60s\"
concurrency = 5

[breakers.openai]
failures = 10
```

A duration is written with units (`500ms`, `2s`, `1m 30s`, `7days`), a size in bytes or with a unit (`64KiB`, `1MiB`). Where a
value can be absent it is written `none`.
";

const VARIABLES: &str = "
## Variables

Every key is also a variable: `QUEUE__`, then the path in upper case with two underscores for each dot. `QUEUE__WORKER__LEASE`
is `worker.lease`; `QUEUE__QUEUES__MAIL__TIMEOUT` is the timeout of the queue `mail`. A name of the file (of a queue, a
provider, a route, a limit) is meant whatever its case and with `_` for its other characters:
`QUEUE__QUEUES__REPORTS_NIGHTLY__TTL`. What the file does not name is in lower case, and three underscores are a dot in it:
`QUEUE__QUEUES__REPORTS___NIGHTLY__TTL` is `queues.\"reports.nightly\".ttl`. So a name in a variable neither begins nor ends with
an underscore, nor has two or more in a row; such a one, and one with upper case or other characters, stands in the file. A limit's
scope is its word and its name, or the word alone for `*`: `QUEUE__LIMITS__RATE_OPENAI__RATE` is `limits.\"rate:openai\".rate`, `QUEUE__LIMITS__TENANT__RATE` is
`limits.\"tenant:*\".rate`. An empty variable says nothing.

| variable | meaning | default |
|---|---|---|
";

const TAIL: &str = "
A provider's own variable counts only if `MESSAGE_QUEUE_PROVIDER` names that provider: a `REDIS_URL` that is there for
something else changes nothing. `QUEUE__PROVIDER__URL` wins over both.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_page() {
        let page = reference();
        for key in keys() {
            assert_eq!(page.matches(&format!("\n| `{}` |", key.path)).count(), 1, "{}", key.path);
        }
    }
}
