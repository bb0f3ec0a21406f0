//! How to connect.

use std::{fmt, time::Duration};

use percent_encoding::percent_decode_str;
use queue_core::{Error, ErrorCode, Result, provider::ProviderUrl};

use crate::layout::MAX_PREFIX;

/// Which brokers, and how to be with them.
#[derive(Clone)]
#[non_exhaustive]
pub struct RabbitOptions {
    /// The nodes of one broker or cluster. Each new connection begins with another of them.
    pub brokers: Vec<Broker>,
    /// The user. `guest`, whom RabbitMQ lets in from its own machine alone.
    pub user: String,
    /// The password.
    pub password: String,
    /// The virtual host. `/`.
    pub vhost: String,
    /// TLS. None unless asked for.
    pub tls: Option<Tls>,
    /// What the names of everything on the broker begin with: 1 to 100 bytes. `queue`.
    pub prefix: String,
    /// A connection that has been silent for twice as long is given up; in whole seconds, 1 s to 18 h. 10 s.
    pub heartbeat: Duration,
    /// How long connecting may take, log-in included. 5 s.
    pub connect_timeout: Duration,
    /// How long an answer to anything but a publish is awaited. 10 s.
    pub answer_timeout: Duration,
    /// The longest a job may be held: the broker's acknowledgement timeout. 30 minutes, as brokers have it before 3.12 whatever is
    /// asked for; later ones are told at the declaration of a queue.
    pub max_hold: Duration,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// A name or an address.
    pub host: String,
    /// The port of AMQP.
    pub port: u16,
}

/// How a connection is encrypted.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates in PEM, trusted instead of the system's roots.
    pub roots: Option<Vec<u8>>,
    /// A certificate and its key in PEM, for brokers that ask who connects.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own_roots, identity) = (self.roots.is_some(), self.identity.is_some());
        f.debug_struct("Tls").field("own_roots", &own_roots).field("identity", &identity).finish()
    }
}

/// Shows no password.
impl fmt::Debug for RabbitOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitOptions")
            .field("brokers", &self.brokers)
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

const QUERY: &[&str] = &["prefix", "heartbeat", "connect_timeout", "max_hold", "ca", "cert", "key", "store"];

/// 3.10's acknowledgement timeout.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Default for RabbitOptions {
    fn default() -> Self {
        Self {
            brokers: vec![Broker { host: "localhost".into(), port: 5672 }],
            user: "guest".into(),
            password: "guest".into(),
            vhost: "/".into(),
            tls: None,
            prefix: "queue".into(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(10),
            max_hold: ACKNOWLEDGEMENT_TIMEOUT,
        }
    }
}

impl RabbitOptions {
    /// Reads `amqp://user:password@host:port,host:port/vhost?…` and `amqps://…`. User, password and virtual host are
    /// percent-encoded. The query has `prefix`, `heartbeat`, `connect_timeout` and `max_hold` (in seconds), and with `amqps:` the
    /// files `ca` (roots to trust instead of the system's), `cert` and `key` (who we are), in PEM. `store` is for who pairs the
    /// provider with a store.
    ///
    /// # Errors
    /// `CONFIG`, naming the part that is not understood; no message holds credentials.
    pub fn read(url: &ProviderUrl) -> Result<Self> {
        url.allow_query(QUERY)?;
        let secure = url.scheme() == "amqps";
        let body = url.body().strip_prefix("//").ok_or_else(|| refuse("an AMQP URL looks like `amqp://host`"))?;
        let (login, rest) = body.rsplit_once('@').map_or((None, body), |(login, rest)| (Some(login), rest));
        let (hosts, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let mut options = Self { tls: secure.then(Tls::default), ..Self::default() };
        options.brokers = brokers(hosts, if secure { 5671 } else { 5672 })?;
        if let Some(login) = login {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (options.user, options.password) = (decoded(user)?, decoded(password)?);
        }
        if !vhost.is_empty() {
            options.vhost = decoded(vhost)?;
        }
        options.query(url)?;
        options.check()?;
        Ok(options)
    }

    fn query(&mut self, url: &ProviderUrl) -> Result<()> {
        let (mut certificate, mut key) = (None, None);
        for (name, value) in url.query() {
            let value = decoded(value)?;
            match name {
                "prefix" => self.prefix = value,
                "heartbeat" => self.heartbeat = seconds(name, &value)?,
                "connect_timeout" => self.connect_timeout = seconds(name, &value)?,
                "max_hold" => self.max_hold = seconds(name, &value)?,
                "ca" | "cert" | "key" => {
                    let Some(tls) = &mut self.tls else {
                        return Err(refuse("certificates are for TLS: write `amqps://`"));
                    };
                    let file = std::fs::read(&value)
                        .map_err(|error| refuse(format!("the file of `{name}` cannot be read")).caused_by(error))?;
                    match name {
                        "ca" => tls.roots = Some(file),
                        "cert" => certificate = Some(file),
                        _ => key = Some(file),
                    }
                }
                _ => {}
            }
        }
        match (certificate, key, &mut self.tls) {
            (Some(certificate), Some(key), Some(tls)) => tls.identity = Some((certificate, key)),
            (None, None, _) => {}
            _ => return Err(refuse("`cert` and `key` go together")),
        }
        Ok(())
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// `CONFIG`, naming the field.
    pub fn check(&self) -> Result<()> {
        let blank = |c: char| c.is_whitespace() || c.is_control();
        if self.brokers.is_empty() {
            return Err(refuse("a connection needs a broker"));
        }
        if self.prefix.is_empty() || self.prefix.len() > MAX_PREFIX || self.prefix.contains(blank) {
            return Err(refuse("`prefix` has 1 to 100 bytes and no white space"));
        }
        if self.heartbeat < Duration::from_secs(1) || self.heartbeat.as_secs() > u64::from(u16::MAX) {
            return Err(refuse("`heartbeat` is 1 s to 65535 s"));
        }
        if self.connect_timeout.is_zero() || self.answer_timeout.is_zero() || self.max_hold.is_zero() {
            return Err(refuse("`connect_timeout`, `answer_timeout` and `max_hold` are longer than zero"));
        }
        if self.user.len() + self.password.len() > 4_000 || self.vhost.len() > 255 {
            return Err(refuse("the user, the password or the virtual host is too long for AMQP"));
        }
        Ok(())
    }
}

fn brokers(hosts: &str, default_port: u16) -> Result<Vec<Broker>> {
    hosts.split(',').map(|host| broker(host, default_port)).collect()
}

fn broker(text: &str, default_port: u16) -> Result<Broker> {
    let bad = || refuse("a host of an AMQP URL looks like `host`, `host:port` or `[::1]:port`");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
            (host, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(default_port), |port| port.parse().map_err(|_| bad()))?;
    if host.is_empty() { Ok(Broker { host: "localhost".into(), port }) } else { Ok(Broker { host: host.into(), port }) }
}

fn decoded(text: &str) -> Result<String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| refuse("a part of the URL is not UTF-8 once it is decoded"))
}

fn seconds(name: &str, value: &str) -> Result<Duration> {
    let bad = || refuse(format!("`{name}` is a number of seconds"));
    let seconds: f64 = value.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

fn refuse(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::Config, message).at("connect").by(crate::SCHEME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<RabbitOptions> {
        RabbitOptions::read(&ProviderUrl::parse(url).unwrap())
    }

    #[test]
    fn the_parts_of_a_url() {
        let options = read("amqp://me:p%40ss@a,b:1,[::1]:2/my%2Fhost?prefix=x&heartbeat=3&max_hold=60").unwrap();
        let brokers: Vec<_> = options.brokers.iter().map(|broker| (broker.host.as_str(), broker.port)).collect();
        assert_eq!(brokers, [("a", 5672), ("b", 1), ("::1", 2)]);
        assert_eq!((options.user.as_str(), options.password.as_str()), ("me", "p@ss"));
        assert_eq!((options.vhost.as_str(), options.prefix.as_str()), ("my/host", "x"));
        assert_eq!((options.heartbeat.as_secs(), options.max_hold.as_secs()), (3, 60));
        let plain = read("amqps://host").unwrap();
        assert_eq!((plain.brokers[0].port, plain.vhost.as_str(), plain.tls.is_some()), (5671, "/", true));
        assert_eq!(read("amqp://h/%2F").unwrap().vhost, "/");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name_and_without_credentials() {
        for (url, part) in [
            ("amqp:hunter2", "amqp://host"),
            ("amqp://u:hunter2@h?vhost=x", "vhost"),
            ("amqp://u:hunter2@h:port", "host:port"),
            ("amqp://u:hunter2@h?heartbeat=0", "heartbeat"),
            ("amqp://u:hunter2@h?heartbeat=soon", "heartbeat"),
            ("amqp://u:hunter2@h?ca=/x", "amqps"),
            ("amqps://u:hunter2@h?ca=/not/there", "`ca`"),
            ("amqp://u:hunter2@h?prefix=", "prefix"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{url}");
            assert!(error.message().contains(part) && !error.to_string().contains("hunter2"), "{url}: {error}");
        }
        let shown = format!("{:?}", read("amqp://u:hunter2@h").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
