//! Every key of the reference can be set by a file and by a variable, and a wrong value is an error that names it. The keys are
//! the reference's own: a new one cannot be forgotten here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::Write as _;

use queue_core::{ErrorCode, Result};
use queue_manager::{
    Config,
    config::{Key, Sources, keys},
};

/// What else has to be there for a key to make sense, under each section's names.
const AROUND: &[(&str, &str)] = &[
    ("routes.", "[providers.one]\nurl = 'memory:'\n[routes.one]\nqueue = 'x'\n"),
    ("routing.", "[providers.one]\nurl = 'memory:'\n[routes.one]\nqueue = 'x'\n"),
    ("limits.", "[limits.'rate:one']\nrate = '1/1s'\n"),
];

/// The key with names for those that a user gives, and the names as a variable says them.
fn named(path: &str) -> (String, String) {
    let scope = path.starts_with("limits.");
    let dotted = path.replace("SCOPE", if scope { "rate:one" } else { "SCOPE" }).replace("PARTITION", "two");
    let dotted = dotted.replace("NAME", "one");
    assert!(!dotted.contains(char::is_uppercase), "{path}: say a name for its placeholder");
    let variable = dotted.replace(':', "_").replace('.', "__").to_uppercase();
    (dotted, format!("QUEUE__{variable}"))
}

/// One value that is not the default, as it is shown, and one that is wrong, if any is.
fn samples(key: &Key) -> (&'static str, Option<&'static str>) {
    let good = match (key.path.as_str(), key.shape) {
        ("routes.NAME.provider" | "routing.default", _) => "one",
        (path, "number") if path.ends_with("factor") => "2.5",
        (_, "number") => "0.25",
        (_, "duration") => "37s",
        (_, "size") => "7KiB",
        (_, "whole number") => "7",
        // Any text is good, and none is shown.
        (_, "text") => return ("***", None),
        (path, "URL") if path.starts_with("alerts.") => "http://h/",
        (_, "names of events") => "job:*",
        (_, "URL") => "memory:?x=***",
        (_, "name") => "some.kind",
        (_, "name, with `*` for anything") => "some.*",
        (_, "1 to 15, or `low`, `normal`, `high`, `urgent`") => "11",
        (_, "`COUNT/DURATION`") => "37/1m",
        (_, shape) if shape.starts_with("`strict`") => "aged:37s",
        (_, shape) if shape.starts_with("`none`, `fixed:") => "fixed:37s",
        (_, shape) if shape.starts_with("`relaxed`") => "interval:37s",
        (_, "`full` or `off`") => "off",
        (_, "`true` or `false`") if key.default == "false" => "true",
        (_, "`true` or `false`") => "false",
        (_, shape) if shape.starts_with("`urgent` (3s)") => "medium",
        (_, "`dev`, `low-traffic` or `high-traffic`") => "low-traffic",
        (path, shape) => panic!("{path}: say a sample of a value that is {shape}"),
    };
    // No value of any shape holds white space between words that are none.
    (good, Some("no value"))
}

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config> {
    let mut temporary = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    temporary.write_all(file.as_bytes()).unwrap();
    Sources::new().file(temporary.path()).variables(variables.iter().copied()).load()
}

/// A file that sets this key, with what it needs around it.
fn file(around: &str, dotted: &str, value: &str) -> String {
    let parts: Vec<String> = match dotted.split_once("rate:one.") {
        Some((section, key)) => vec![section.trim_end_matches('.').to_owned(), "rate:one".to_owned(), key.to_owned()],
        None => dotted.split('.').map(str::to_owned).collect(),
    };
    let mut table: toml::Table = toml::from_str(around).unwrap();
    let (last, sections) = parts.split_last().unwrap();
    let mut at = &mut table;
    for section in sections {
        at = at.entry(section.clone()).or_insert_with(|| toml::Table::new().into()).as_table_mut().unwrap();
    }
    at.insert(last.clone(), value.into());
    // Inline tables within a root table: written by hand, for the writer of TOML is not a dependency.
    inline(&table)
}

fn inline(table: &toml::Table) -> String {
    let show = |value: &toml::Value| match value {
        toml::Value::Table(table) => {
            format!("{{{}}}", inline(table).trim_end().replace('\n', ", "))
        }
        toml::Value::String(text) => format!("{text:?}"),
        other => panic!("{other:?}"),
    };
    table.iter().map(|(key, value)| format!("{key:?} = {}\n", show(value))).collect()
}

fn shown(config: &Config, key: &str) -> Option<String> {
    config.values().into_iter().find(|(path, _)| path == key).map(|(_, value)| value)
}

#[test]
fn every_key_arrives_from_a_file_and_from_a_variable_and_a_wrong_value_names_it() {
    let keys = keys();
    assert!(keys.len() > 50, "the reference has {} keys", keys.len());
    for key in &keys {
        let (dotted, variable) = named(&key.path);
        let around = AROUND.iter().find(|(section, _)| key.path.starts_with(section)).map_or("", |(_, text)| *text);
        let (good, wrong) = samples(key);
        assert_ne!(good, key.default, "{dotted}: the sample is the default");

        let arrived =
            |config: Result<Config>| shown(&config.unwrap_or_else(|error| panic!("{dotted}: {error}")), &dotted);
        assert_eq!(arrived(load(&file(around, &dotted, good), &[])).as_deref(), Some(good), "{dotted} by file");
        assert_eq!(arrived(load(around, &[(&variable, good)])).as_deref(), Some(good), "{variable}");

        let Some(wrong) = wrong else { continue };
        for (from, error) in [
            (".toml, line ", load(&file(around, &dotted, wrong), &[]).unwrap_err()),
            (&*format!("(variable {variable})"), load(around, &[(&variable, wrong)]).unwrap_err()),
        ] {
            assert_eq!(error.code(), ErrorCode::Config, "{dotted}: {error}");
            for part in [&*format!("`{dotted}`"), from] {
                assert!(error.message().contains(part), "{dotted}: {part:?} is not in {error}");
            }
        }
    }
}

#[test]
fn the_defaults_are_the_references() {
    let config = load("[queues.one]\n[queues.one.partitions.two]\n[breakers.one]\n", &[]).unwrap();
    let mut seen = 0;
    for key in keys() {
        let (dotted, _) = named(&key.path);
        if let Some(value) = shown(&config, &dotted) {
            assert_eq!(value, key.default, "{dotted}");
            seen += 1;
        }
    }
    assert!(seen > 45, "{seen}");
}

#[test]
fn what_contradicts_itself_names_its_key() {
    for (text, key, said) in [
        ("[pool]\nmin = 3\nmax = 2\n", "`pool.min`", "pool.max"),
        ("[pool]\nup_depth = 5\ndown_depth = 6\n", "`pool.down_depth`", "pool.up_depth"),
        ("[pool]\nheartbeat = '5m'\n", "`pool.heartbeat`", "two thirds"),
        ("[pool]\nmin = 0\n", "`pool.min`", "between 1 and 100000"),
        ("[pool]\ninitial = 51\n", "`pool.initial`", "from `min` to `max`"),
        ("[pool]\npreset = 'high-traffic'\ninitial = 9\n", "`pool.initial`", "preset `high-traffic`"),
        ("[pool]\ninterval = '1ms'\n", "`pool.interval`", "at least 10 ms"),
        ("[limits.'rate:x']\n", "`limits.rate:x`", "`rate` or a `concurrency`"),
        ("[limits.'rate:x']\nburst = 3\n", "`limits.rate:x`", "goes with `rate`"),
        ("[limits.'rate:x']\nconcurrency = 0\n", "`limits.rate:x.concurrency`", "at least 1"),
        ("[limits.'host:x']\nconcurrency = 1\n", "limits", "queue, kind, tenant"),
        ("[breakers.x]\nshare = 1.5\n", "`breakers.x.share`", "between 0.0 and 1.0"),
        ("[breakers.x]\nopen_for = '0s'\n", "`breakers.x.open_for`", "longer than zero"),
        ("[queues.x.partitions.p]\nweight = 0\n", "`queues.x.partitions.p.weight`", "between 1 and 1000"),
        ("[queues.x.partitions.p]\nmax_concurrency = 0\n", "`queues.x.partitions.p.max_concurrency`", "at least 1"),
        ("[health]\noldest_pending = '0s'\n", "`health.oldest_pending`", "longer than zero"),
        ("[providers.default]\nurl = 'memory:'\n", "`providers.default`", "section [provider]"),
        ("[providers.Bulk]\nurl = 'memory:'\n", "providers", "lower-case"),
        ("[providers.bulk]\n", "`providers.bulk.url`", "must be given"),
        ("[routes.x]\nqueue = 'a'\nprovider = 'bulk'\n", "`routes.x.provider`", "there are: default"),
        ("[routes.x]\nprovider = 'default'\n", "`routes.x`", "which queue or kind"),
        ("[routing]\ndefault = 'bulk'\n", "`routing.default`", "no provider `bulk`"),
        ("[routing]\ndefault = 'none'\n", "`routing.default`", "without routes"),
    ] {
        let error = load(text, &[]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Config, "{error}");
        for part in [key, said, ".toml, line "] {
            assert!(error.message().contains(part), "{text}: {part:?} is not in {error}");
        }
    }
}
