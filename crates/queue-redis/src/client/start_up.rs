//! What is looked at when a client connects: whether this Redis can be trusted with jobs.

use std::sync::Arc;

use queue_core::{Error, ErrorCode, Result};
use redis::Value;

use super::{
    Call, Inner,
    node::Node,
    verdict::{Patience, Verdict, verdict},
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

/// What was found, and how many replicas a primary has at least as far as can be seen.
pub(super) async fn look(inner: &Inner) -> Result<(Vec<Finding>, usize)> {
    let fail = |error: redis::RedisError| fault::of(&error, "connect");
    // The first command finds the servers, and is patient.
    let ping = redis::cmd("PING");
    inner
        .call(&Call { key: None, command: &ping, script: None, replicas: None, repeatable: true })
        .await
        .map_err(fail)?;
    let (mut findings, mut replicas) = (Vec::new(), usize::MAX);
    for node in inner.topology.primaries().await.map_err(fail)? {
        replicas = replicas.min(look_at(inner, &node, &mut findings).await?);
    }
    findings.dedup();
    for finding in &findings {
        match finding.severity {
            Severity::Note => tracing::info!("{}", finding.message),
            Severity::Warning => tracing::warn!("{}", finding.message),
        }
    }
    let strict = inner.topology.options.strict;
    match findings.iter().find(|finding| strict && finding.severity == Severity::Warning) {
        Some(finding) => Err(Error::new(ErrorCode::Config, finding.message.clone()).at("connect").by(SCHEME)),
        None => Ok((findings, replicas)),
    }
}

/// `None` where the server does not let this user ask.
async fn ask(inner: &Inner, node: &Arc<Node>, words: &[&str]) -> Result<Option<Value>> {
    let mut command = redis::Cmd::new();
    command.arg(words);
    let call = Call { key: None, command: &command, script: None, replicas: None, repeatable: true };
    let mut patience = Patience::new(inner.topology.options.retry_for, &*inner.random);
    loop {
        match node.perform(&call, false).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(failure) if failure.error.code().is_some_and(|code| matches!(code, "NOPERM" | "ERR")) => {
                return Ok(None);
            }
            Err(failure) => {
                let may_pass = verdict(&failure) == Verdict::Later;
                if !may_pass || !patience.again(false).await {
                    return Err(fault::of(&failure.error, "connect"));
                }
            }
        }
    }
}

async fn look_at(inner: &Inner, node: &Arc<Node>, findings: &mut Vec<Finding>) -> Result<usize> {
    let server = &node.address;
    let mut say = |severity, message: String| findings.push(Finding { severity, message });
    match ask(inner, node, &["INFO", "server"]).await? {
        Some(info) => check_version(&text(&info))?,
        None => say(Severity::Note, format!("{server}: INFO is not allowed, so its version is not known")),
    }
    let replicas = match ask(inner, node, &["ROLE"]).await? {
        Some(role) => replicas(&role)?,
        None => {
            say(Severity::Note, format!("{server}: ROLE is not allowed, so its replicas are not known"));
            0
        }
    };
    match setting(ask(inner, node, &["CONFIG", "GET", "maxmemory-policy"]).await?) {
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
    let kept = match setting(ask(inner, node, &["CONFIG", "GET", "appendonly"]).await?) {
        Some(kept) => Some(kept),
        None => ask(inner, node, &["INFO", "persistence"]).await?.and_then(|info| field(&text(&info), "aof_enabled")),
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
    Ok(replicas)
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

fn check_version(info: &str) -> Result<()> {
    // Others that speak the protocol say here which Redis they are like.
    let Some(version) = field(info, "redis_version") else { return Ok(()) };
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < OLDEST {
        let message = format!("this is Redis {version}: the provider needs 7.0 or later");
        return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
    }
    Ok(())
}

fn replicas(role: &Value) -> Result<usize> {
    let Value::Array(role) = role else { return Ok(0) };
    if role.first().map(text).as_deref() != Some("master") {
        let message = "this Redis is a read-only replica: connect to the primary, or through Sentinel or a node list";
        return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
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
            assert_eq!(check(bad).unwrap_err().code(), ErrorCode::Config, "{bad}");
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
        assert!(replicas(&replica).unwrap_err().to_string().contains("read-only replica"));
    }
}
