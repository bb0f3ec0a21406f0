//! What is looked at when a client connects: whether this Redis can be trusted with jobs.

use std::sync::Arc;

use queue_core::{Error, ErrorCode, Result};
use redis::{RedisError, RedisResult, Value};

use super::{
    Address, Call, Inner,
    node::{Failure, Node},
    verdict::{Patience, UNFIT, Verdict, verdict},
};
use crate::{SCHEME, fault};

/// Something about a server that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is and what to do, for people.
    pub message: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It could not be found out.
    Note,
    /// Jobs may be lost.
    Warning,
}

const OLDEST: (u32, u32) = (7, 0);

/// What was found of a primary.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checked {
    pub(crate) findings: Vec<Finding>,
    /// Replicas, as far as can be seen.
    pub(crate) replicas: usize,
}

/// Looks at all primaries, unless that was done when they were found.
pub(super) async fn look(inner: &Inner) -> Result<()> {
    let fail = |error: RedisError| fault::of(&error, "connect");
    // The first command finds the servers, and is patient.
    let ping = redis::cmd("PING");
    inner
        .call(&Call { key: None, command: &ping, script: None, confirmation: None, repeatable: true })
        .await
        .map_err(fail)?;
    for node in inner.topology.primaries().await.map_err(fail)?.iter().filter(|node| !node.is_checked()) {
        let mut patience = Patience::new(inner.topology.options.retry_for, &*inner.random);
        let checked = loop {
            let error = match check(node, inner.topology.options.strict).await {
                Ok(checked) => break checked,
                Err(error) => error,
            };
            if error.code() == Some("READONLY") {
                let message =
                    "this Redis is a read-only replica: connect to the primary, or through Sentinel or a node list";
                return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
            }
            let failure = Failure { error, sent: true, asked: node.address.clone() };
            if verdict(&failure) != Verdict::Later || !patience.again(false).await {
                return Err(fail(failure.error));
            }
        };
        inner.topology.found(node, checked);
    }
    Ok(())
}

impl Inner {
    /// How many replicas each primary has at least, looked at anew. It is tried again as a command is.
    pub(crate) async fn count_replicas(&self) -> RedisResult<usize> {
        let mut patience = Patience::new(self.topology.options.retry_for, &*self.random);
        loop {
            let failure = match self.count_once().await {
                Ok(replicas) => return Ok(replicas),
                Err(failure) => failure,
            };
            if verdict(&failure) == Verdict::Final || !patience.again(false).await {
                return Err(failure.error);
            }
        }
    }

    async fn count_once(&self) -> Result<usize, Failure> {
        let nowhere = |error| Failure { error, sent: false, asked: Address::new("", 0) };
        let primaries = self.topology.primaries().await.map_err(nowhere)?;
        for node in &primaries {
            let counted = count_replicas(node).await;
            let counted = counted.map_err(|error| Failure { error, sent: true, asked: node.address.clone() });
            // One that is not the primary any more is looked for anew, and on a cluster all of them.
            if let Err(failure) = &counted {
                self.blame(node, failure);
            }
            self.topology.has_replicas(node, counted?.unwrap_or(0));
        }
        self.topology.keep_only(&primaries);
        Ok(self.topology.replicas())
    }
}

/// `None` where the server does not let this user ask.
async fn ask(node: &Arc<Node>, words: &[&str]) -> RedisResult<Option<Value>> {
    let mut command = redis::Cmd::new();
    command.arg(words);
    let call = Call { key: None, command: &command, script: None, confirmation: None, repeatable: true };
    match node.perform(&call, false).await {
        Ok(answer) => Ok(Some(answer)),
        Err(failure) if failure.error.code().is_some_and(|code| matches!(code, "NOPERM" | "ERR")) => Ok(None),
        Err(failure) => Err(failure.error),
    }
}

fn unfit(message: String) -> RedisError {
    redis::make_extension_error(UNFIT.into(), Some(message))
}

/// Looks at how a primary is set up.
///
/// # Errors
/// `UNFIT` for a version before 7.0, and with `strict` for whatever would only be warned of; `READONLY` for a replica.
pub(super) async fn check(node: &Arc<Node>, strict: bool) -> RedisResult<Checked> {
    let server = &node.address;
    let mut findings = Vec::new();
    let mut say = |severity, message: String| findings.push(Finding { severity, message });
    match ask(node, &["INFO", "server"]).await? {
        Some(info) => check_version(&text(&info)).map_err(unfit)?,
        None => say(Severity::Note, format!("{server}: INFO is not allowed, so its version is not known")),
    }
    let replicas = count_replicas(node).await?;
    if replicas.is_none() {
        say(Severity::Note, format!("{server}: ROLE is not allowed, so its replicas are not known"));
    }
    match setting(ask(node, &["CONFIG", "GET", "maxmemory-policy"]).await?) {
        Some(policy) if policy != "noeviction" => say(
            Severity::Warning,
            format!(
                "{server}: `maxmemory-policy` is `{policy}`: Redis throws jobs away when its memory is full. Set \
                 `noeviction`, and publishing is refused instead"
            ),
        ),
        Some(_) => {}
        None => say(Severity::Note, format!("{server}: CONFIG is not allowed, so `maxmemory-policy` is not known")),
    }
    let kept = match setting(ask(node, &["CONFIG", "GET", "appendonly"]).await?) {
        Some(kept) => Some(kept),
        None => ask(node, &["INFO", "persistence"]).await?.and_then(|info| field(&text(&info), "aof_enabled")),
    };
    match kept.as_deref() {
        Some("no" | "0") => say(
            Severity::Warning,
            format!(
                "{server}: `appendonly` is off: when Redis stops, all jobs since its last snapshot are lost. Set \
                 `appendonly yes`"
            ),
        ),
        Some(_) => {}
        None => say(Severity::Note, format!("{server}: CONFIG is not allowed, so `appendonly` is not known")),
    }
    match findings.iter().find(|finding| strict && finding.severity == Severity::Warning) {
        Some(finding) => Err(unfit(finding.message.clone())),
        None => Ok(Checked { findings, replicas: replicas.unwrap_or(0) }),
    }
}

/// How many replicas a primary has; `None` where it does not let this user ask.
async fn count_replicas(node: &Arc<Node>) -> RedisResult<Option<usize>> {
    ask(node, &["ROLE"]).await?.map(|role| replicas(&role)).transpose()
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}

fn field(info: &str, name: &str) -> Option<String> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned())
}

fn setting(answer: Option<Value>) -> Option<String> {
    match answer? {
        Value::Array(pair) => pair.get(1).map(text),
        Value::Map(pairs) => pairs.first().map(|(_, value)| text(value)),
        _ => None,
    }
}

fn check_version(info: &str) -> Result<(), String> {
    // Others that speak the protocol say here which Redis they are like.
    let Some(version) = field(info, "redis_version") else { return Ok(()) };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < OLDEST {
        return Err(format!("this is Redis {version}: the provider needs 7.0 or later"));
    }
    Ok(())
}

fn replicas(role: &Value) -> RedisResult<usize> {
    let Value::Array(role) = role else { return Ok(0) };
    if role.first().map(text).as_deref() != Some("master") {
        return Err(redis::make_extension_error("READONLY".into(), Some("it is a replica".into())));
    }
    Ok(match role.get(2) {
        Some(Value::Array(replicas)) => replicas.len(),
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_seven_are_refused() {
        let check = |version: &str| check_version(&format!("# Server\r\nredis_version:{version}\r\nos:x\r\n"));
        for good in ["7.0.0", "7.2.4", "8.0.1", "10.1"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["6.2.14", "5.0.7", "6.9"] {
            assert!(check(bad).unwrap_err().contains(bad), "{bad}");
        }
        assert!(check_version("").is_ok());
    }

    #[test]
    fn settings_are_read_from_either_protocol() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let pair = Value::Array(vec![text("appendonly"), text("yes")]);
        assert_eq!(setting(Some(pair)).as_deref(), Some("yes"));
        assert_eq!(setting(Some(Value::Map(vec![(text("a"), text("no"))]))).as_deref(), Some("no"));
        assert_eq!(setting(Some(Value::Array(vec![]))), None);
        let replica = Value::Array(vec![text("slave"), text("host"), Value::Int(1)]);
        assert_eq!(replicas(&replica).unwrap_err().code(), Some("READONLY"));
    }
}
