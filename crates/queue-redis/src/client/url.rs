//! What URLs say.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use queue_core::{Error, ErrorCode, Result, provider::ProviderUrl};

use super::{Address, ClientOptions, FailoverMode, Login, PoolOptions, Servers, Tls};
use crate::SCHEME;

/// What may stand behind the `?`, apart from the provider's own `prefix`.
pub(crate) const QUERY: &[&str] = &[
    "failover",
    "tls",
    "ca",
    "cert",
    "key",
    "insecure",
    "sentinel_user",
    "sentinel_password",
    "strict",
    "health",
    "pool_min",
    "pool_target",
    "pool_max",
    "pool_idle",
    "connect_timeout",
    "answer_timeout",
    "retry_for",
];

/// Connections that one process may have for one use.
const MOST_CONNECTIONS: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const SHORTEST: Duration = Duration::from_millis(1);

fn refuse(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorCode::Config, message).at("connect").by(SCHEME)
}

pub(crate) fn decode(text: &str) -> Result<String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(std::borrow::Cow::into_owned).map_err(|_| refuse("a part of the URL is not UTF-8 when it is decoded"))
}

impl ClientOptions {
    /// Reads a URL.
    ///
    /// | URL | is |
    /// |---|---|
    /// | `redis://[[user]:password@]host[:port][/database]`, `rediss://…` with TLS | one server |
    /// | `redis+sentinel://[[user]:password@]host[:port],…/service[/database]` | Sentinels; the log-in is for the servers |
    /// | `redis+cluster://[[user]:password@]host[:port],…` | a cluster |
    /// | `redis://…,redis://…` or `redis://host,host` (`rediss://` alike) | a cluster |
    ///
    /// Behind a `?`: `failover=automatic|manual|airgap-safe`, `tls=true` (where the scheme does not say so), `ca=FILE`, `cert=FILE`
    /// and `key=FILE` (PEM), `insecure=true` (takes any certificate), `sentinel_user`, `sentinel_password`, `strict=true` (refuses
    /// what the start-up check only warns of), `health=SECONDS`. Of the [pool](PoolOptions) `pool_min`, `pool_target` and `pool_max` (of which
    /// those that are not said give way to those that are) and `pool_idle`; besides `connect_timeout`, `answer_timeout` and `retry_for`.
    /// These are seconds, as in `5` or `0.25`.
    ///
    /// # Errors
    /// `CONFIG` naming what is wrong, never repeating the URL.
    pub fn from_url(url: &str) -> Result<Self> {
        Self::read(&ProviderUrl::parse(url)?, &[])
    }

    /// The same, with more in the query than the client itself knows.
    pub(crate) fn read(url: &ProviderUrl, more: &[&str]) -> Result<Self> {
        url.allow_query(&[QUERY, more].concat())?;
        let rest = url.body().strip_prefix("//");
        let rest = rest.ok_or_else(|| refuse("a URL of Redis begins with its scheme and `//`"))?;
        let scheme = url.scheme();
        let (login, rest) = authority(rest, scheme)?;
        let (hosts, path) = rest.split_once('/').unwrap_or((&rest, ""));
        let default_port = if scheme == "redis+sentinel" { Address::SENTINEL } else { Address::REDIS };
        let addresses: Vec<Address> =
            hosts.split(',').map(|host| Address::parse(host, default_port)).collect::<Result<_>>()?;
        let (servers, database) = servers(scheme, addresses, path)?;
        let mut options = Self::new(servers);
        (options.login, options.database) = (login, database);
        options.apply(url)?;
        if scheme == "rediss" && options.tls.is_none() {
            options.tls = Some(Tls::default());
        }
        Ok(options)
    }

    fn apply(&mut self, url: &ProviderUrl) -> Result<()> {
        let mut tls = None;
        let (mut certificate, mut key) = (None, None);
        let mut pool = Sizes::default();
        for (name, value) in url.query() {
            let value = decode(value)?;
            match name {
                "failover" => {
                    self.failover = match value.as_str() {
                        "automatic" => FailoverMode::Automatic,
                        "manual" => FailoverMode::Manual,
                        "airgap-safe" => FailoverMode::AirgapSafe,
                        _ => return Err(refuse("`failover` is `automatic`, `manual` or `airgap-safe`")),
                    }
                }
                "tls" => tls = flag(name, &value)?.then(|| tls.unwrap_or_default()),
                "insecure" => tls.get_or_insert_with(Tls::default).insecure = flag(name, &value)?,
                "ca" => tls.get_or_insert_with(Tls::default).roots = Some(file(name, &value)?),
                "cert" => certificate = Some(file(name, &value)?),
                "key" => key = Some(file(name, &value)?),
                "sentinel_user" => self.sentinel_login.user = Some(value),
                "sentinel_password" => self.sentinel_login.password = Some(value),
                "strict" => self.strict = flag(name, &value)?,
                "health" => {
                    let seconds = value.parse::<u64>().ok().filter(|seconds| (1..=3_600).contains(seconds));
                    let seconds = seconds.ok_or_else(|| refuse("`health` is from 1 to 3600 seconds"))?;
                    self.health_interval = Duration::from_secs(seconds);
                }
                "pool_min" => pool.min = Some(count(name, &value, 0)?),
                "pool_target" => pool.target = Some(count(name, &value, 0)?),
                "pool_max" => pool.max = Some(count(name, &value, 1)?),
                "pool_idle" => self.pool.idle_timeout = seconds(name, &value, SHORTEST, DAY)?,
                "connect_timeout" => self.connect_timeout = seconds(name, &value, SHORTEST, HOUR)?,
                "answer_timeout" => self.answer_timeout = seconds(name, &value, SHORTEST, HOUR)?,
                "retry_for" => self.retry_for = seconds(name, &value, Duration::ZERO, HOUR)?,
                _ => {}
            }
        }
        pool.apply(&mut self.pool)?;
        match (certificate, key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                tls.get_or_insert_with(Tls::default).identity = Some((certificate, key));
            }
            _ => return Err(refuse("`cert` and `key` go together")),
        }
        let plain = url.scheme() == "redis" && !url.query().any(|(name, value)| name == "tls" && value == "true");
        if plain && tls.is_some() {
            return Err(refuse("certificates are for TLS: write `rediss://`, or `tls=true`"));
        }
        self.tls = tls;
        Ok(())
    }
}

/// What a URL says of a pool.
#[derive(Default)]
struct Sizes {
    min: Option<usize>,
    target: Option<usize>,
    max: Option<usize>,
}

impl Sizes {
    /// What is not said gives way to what is.
    fn apply(self, pool: &mut PoolOptions) -> Result<()> {
        let Self { min, target, max } = self;
        let most = max.unwrap_or(MOST_CONNECTIONS);
        if min.is_some_and(|min| min > target.unwrap_or(most)) {
            let other = if target.is_some() { "pool_target" } else { "pool_max" };
            return Err(refuse(format!("`pool_min` is not more than `{other}`")));
        }
        if target.is_some_and(|target| target > most) {
            return Err(refuse("`pool_target` is not more than `pool_max`"));
        }
        let least = target.or(min).unwrap_or(0);
        pool.max = max.unwrap_or(pool.max.max(least));
        pool.target = target.unwrap_or(pool.target.max(least).min(pool.max));
        pool.min = min.unwrap_or(pool.min.min(pool.target));
        Ok(())
    }
}

fn count(name: &str, value: &str, least: usize) -> Result<usize> {
    let count = value.parse().ok().filter(|count| (least..=MOST_CONNECTIONS).contains(count));
    count.ok_or_else(|| refuse(format!("`{name}` is a number of connections from {least} to {MOST_CONNECTIONS}")))
}

fn seconds(name: &str, value: &str, least: Duration, most: Duration) -> Result<Duration> {
    let seconds = value.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let seconds = seconds.filter(|seconds| (least..=most).contains(seconds));
    let (from, to) = (least.as_secs_f64(), most.as_secs());
    seconds.ok_or_else(|| refuse(format!("`{name}` is from {from} to {to} seconds, as in `5` or `0.25`")))
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse(format!("`{name}` is `true` or `false`"))),
    }
}

fn file(name: &str, path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| refuse(format!("the file of `{name}` cannot be read")).caused_by(error))
}

/// Takes the log-in off, and the schemes inside a list of URLs. Each may bring its log-in; only one may be meant.
fn authority(rest: &str, scheme: &str) -> Result<(Login, String)> {
    let (mut login, mut hosts, mut tail) = (None, Vec::new(), "");
    let again = format!("{scheme}://");
    // A password may hold a comma only when it is encoded.
    for part in rest.split(',') {
        let part = part.strip_prefix(&again).unwrap_or(part);
        if part.contains("://") {
            return Err(refuse("the URLs of a list have all the same scheme"));
        }
        let part = match part.rsplit_once('@') {
            None => part,
            Some((said, part)) => {
                let said = read_login(said)?;
                if login.as_ref().is_some_and(|login: &Login| !is_same(login, &said)) {
                    return Err(refuse("the servers of a list have all the same user and password"));
                }
                login = Some(said);
                part
            }
        };
        let (host, path) = part.split_once('/').unwrap_or((part, ""));
        if !path.is_empty() {
            tail = path;
        }
        hosts.push(host);
    }
    Ok((login.unwrap_or_default(), format!("{}/{tail}", hosts.join(","))))
}

fn is_same(one: &Login, other: &Login) -> bool {
    one.user == other.user && one.password == other.password
}

fn read_login(said: &str) -> Result<Login> {
    let (user, password) = said.split_once(':').map_or((said, None), |(user, password)| (user, Some(password)));
    let given = |text: &str| (!text.is_empty()).then(|| decode(text)).transpose();
    Ok(Login { user: given(user)?, password: password.map(given).transpose()?.flatten() })
}

fn servers(scheme: &str, mut addresses: Vec<Address>, path: &str) -> Result<(Servers, i64)> {
    let database = |text: &str| match text {
        "" => Ok(0),
        text => text
            .parse()
            .ok()
            .filter(|number| (0..1 << 20).contains(number))
            .ok_or_else(|| refuse("behind the server's name stands the number of a database, or nothing")),
    };
    match scheme {
        "redis+sentinel" => {
            let (service, rest) = path.split_once('/').unwrap_or((path, ""));
            if service.is_empty() {
                return Err(refuse("behind the Sentinels stands what they call the primary: `…/service`"));
            }
            Ok((Servers::Sentinel { sentinels: addresses, service: decode(service)? }, database(rest)?))
        }
        "redis+cluster" => Ok((Servers::Cluster(addresses), database(path)?)),
        "redis" | "rediss" if addresses.len() > 1 => Ok((Servers::Cluster(addresses), database(path)?)),
        "redis" | "rediss" => Ok((Servers::One(addresses.remove(0)), database(path)?)),
        _ => Err(refuse("the scheme is `redis`, `rediss`, `redis+sentinel` or `redis+cluster`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[(&str, u16)]) -> Vec<Address> {
        all.iter().map(|(host, port)| Address::new(*host, *port)).collect()
    }

    #[test]
    fn every_form_is_read() {
        let read = |url: &str| ClientOptions::from_url(url).unwrap();
        let one = read("redis://us%3Aer:p%40ss@host:7000/3");
        assert_eq!(one.servers, Servers::One(Address::new("host", 7000)));
        assert_eq!((one.login.user.as_deref(), one.login.password.as_deref()), (Some("us:er"), Some("p@ss")));
        assert_eq!((one.database, one.tls.is_some()), (3, false));
        let one = read("rediss://:secret@[::1]/?insecure=true");
        assert_eq!(one.servers, Servers::One(Address::new("::1", 6379)));
        assert!(one.tls.unwrap().insecure);
        assert_eq!((one.login.user, one.login.password.as_deref()), (None, Some("secret")));
        let sentinel = read("redis+sentinel://:p@a,b:7/main/2?failover=manual&sentinel_password=x%20y");
        let sentinels = addresses(&[("a", 26379), ("b", 7)]);
        assert_eq!(sentinel.servers, Servers::Sentinel { sentinels, service: "main".into() });
        assert_eq!((sentinel.database, sentinel.failover), (2, FailoverMode::Manual));
        assert_eq!(sentinel.sentinel_login.password.as_deref(), Some("x y"));
        let cluster = Servers::Cluster(addresses(&[("a", 1), ("b", 2)]));
        for url in [
            "redis+cluster://u:p@a:1,b:2",
            "redis+cluster://u:p@a:1,b:2/",
            "redis://u:p@a:1,redis://u:p@b:2",
            "redis://u:p@a:1,redis://b:2/0",
            "rediss://u:p@a:1,b:2",
        ] {
            let options = read(url);
            assert_eq!((options.servers, options.login.password.as_deref()), (cluster.clone(), Some("p")), "{url}");
        }
        assert!(read("redis+cluster://a?tls=true").tls.is_some());
    }

    #[test]
    fn the_pool_and_the_timeouts_are_said_by_url_as_by_builder() {
        let read = |query: &str| ClientOptions::from_url(&format!("redis://host?{query}")).unwrap();
        let all =
            read("pool_min=1&pool_target=3&pool_max=7&pool_idle=60&connect_timeout=0.5&answer_timeout=2&retry_for=0");
        let idle_timeout = Duration::from_secs(60);
        assert_eq!(all.pool, PoolOptions { min: 1, target: 3, max: 7, idle_timeout, ..PoolOptions::default() });
        assert_eq!(all.connect_timeout, Duration::from_millis(500));
        assert_eq!((all.answer_timeout, all.retry_for), (Duration::from_secs(2), Duration::ZERO));
        let sizes = |query| {
            let PoolOptions { min, target, max, .. } = read(query).pool;
            (min, target, max)
        };
        assert_eq!(sizes("pool_max=1"), (1, 1, 1));
        assert_eq!(sizes("pool_max=5"), (2, 5, 5));
        assert_eq!(sizes("pool_min=20"), (20, 20, 50));
        assert_eq!(sizes("pool_target=80"), (2, 80, 80));
        assert_eq!(sizes("pool_target=0"), (0, 0, 50));
        for (query, name) in [
            ("pool_min=-1", "pool_min"),
            ("pool_min=3&pool_max=2", "pool_min"),
            ("pool_min=3&pool_target=2", "pool_target"),
            ("pool_target=9&pool_max=8", "pool_target"),
            ("pool_target=hunter2", "pool_target"),
            ("pool_max=0", "pool_max"),
            ("pool_idle=0", "pool_idle"),
            ("pool_idle=5m", "pool_idle"),
            ("connect_timeout=", "connect_timeout"),
            ("answer_timeout=NaN", "answer_timeout"),
            ("answer_timeout=inf", "answer_timeout"),
            ("retry_for=-1", "retry_for"),
            ("retry_for=4000", "retry_for"),
        ] {
            let error = ClientOptions::from_url(&format!("redis://host?{query}")).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{query}");
            let said = error.to_string();
            assert!(said.contains(&format!("`{name}`")) && !said.contains("hunter2"), "{query}: {said}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_without_the_password() {
        for url in [
            "redis:host",
            "redis://",
            "redis://:hunter2@",
            "redis://:hunter2@host/x",
            "redis://:hunter2@host?no=1",
            "redis://:hunter2@host?failover=never",
            "redis://:hunter2@host?insecure=true",
            "redis://:hunter2@host?health=0",
            "redis+sentinel://:hunter2@host",
            "redis://:hunter2@a,redis://:hunter3@b",
            "redis://:hunter2@a,rediss://:hunter2@b",
            "rediss://:hunter2@a?cert=/nowhere/hunter2",
            "http://:hunter2@host",
        ] {
            let error = ClientOptions::from_url(url).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{url}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}: {error:?}");
        }
        let shown =
            format!("{:?}", ClientOptions::from_url("redis+sentinel://u:hunter2@a/m?sentinel_password=hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
