//! Providers by URL: what a program was built with, and how to connect to it.
//!
//! Nothing registers itself. A provider crate offers `pub fn register(&mut Registry)`, and whoever puts a program together
//! calls it.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;

use super::{Capabilities, Pairing, QueueProvider, StoreFactory};
use crate::{
    clock::Env,
    error::{Error, ErrorCode, Result},
};

/// Makes connections of one kind of provider.
#[async_trait]
pub trait ProviderFactory: fmt::Debug + Send + Sync + 'static {
    /// What can be said without connecting.
    fn about(&self) -> ProviderInfo;

    /// Connects. Two calls make two connections, also for the same URL.
    ///
    /// # Errors
    /// `CONFIG` for a part of the URL it does not know, by name; `UNAVAILABLE`, `AUTHENTICATION`. No message holds
    /// credentials.
    async fn connect(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>>;
}

/// A kind of provider.
#[derive(Debug, Clone)]
pub struct ProviderInfo {
    /// What people call it; a column of the capability table.
    pub name: &'static str,
    /// The URL schemes it answers to, the usual one first.
    pub schemes: &'static [&'static str],
    /// What it is, in one line.
    pub description: &'static str,
    /// A URL as it is written.
    pub example: &'static str,
    /// What it can do at its best.
    pub capabilities: Capabilities,
}

/// The providers of a program, and the stores that bare ones are paired with, by URL scheme.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    factories: Vec<Arc<dyn ProviderFactory>>,
    pub(super) stores: Vec<Arc<dyn StoreFactory>>,
    pub(super) pairing: Option<Arc<dyn Pairing>>,
    absent: Vec<Absent>,
}

/// A provider that exists and was not compiled in.
#[derive(Debug, Clone, Copy)]
struct Absent {
    schemes: &'static [&'static str],
    remedy: &'static str,
}

impl Registry {
    /// No providers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a provider. Where another answers to one of its schemes already, the later one is asked.
    pub fn register(&mut self, factory: impl ProviderFactory) -> &mut Self {
        self.factories.push(Arc::new(factory));
        self
    }

    /// Names schemes that this program could have been built with, and the remedy, so that asking for one says what to do.
    pub fn absent(&mut self, schemes: &'static [&'static str], remedy: &'static str) -> &mut Self {
        self.absent.push(Absent { schemes, remedy });
        self
    }

    /// What is compiled in, in the order of registration.
    #[must_use]
    pub fn providers(&self) -> Vec<ProviderInfo> {
        self.factories.iter().map(|factory| factory.about()).collect()
    }

    /// The schemes that can be connected to, by name.
    #[must_use]
    pub fn schemes(&self) -> Vec<&'static str> {
        let schemes: BTreeSet<_> = self.providers().iter().flat_map(|info| info.schemes.iter().copied()).collect();
        schemes.into_iter().collect()
    }

    /// Who answers to the URL's scheme.
    ///
    /// # Errors
    /// As [`Registry::connect`] for the scheme.
    pub fn find(&self, url: &ProviderUrl) -> Result<&Arc<dyn ProviderFactory>> {
        let scheme = url.scheme();
        let answers = |factory: &&Arc<dyn ProviderFactory>| factory.about().schemes.contains(&scheme);
        if let Some(factory) = self.factories.iter().rev().find(answers) {
            return Ok(factory);
        }
        let message = match self.absent.iter().find(|absent| absent.schemes.contains(&scheme)) {
            Some(absent) => format!("`{scheme}:` is not compiled in: {}", absent.remedy),
            None => format!("no provider answers to `{scheme}:`; compiled in: {}", listed(&self.schemes())),
        };
        Err(Error::new(ErrorCode::Config, message).at("connect"))
    }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The URL of a provider, as it was written. It shows itself, in logs and errors, without credentials.
///
/// Only the scheme is looked at here: a list of nodes is a provider's own business.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderUrl {
    text: Arc<str>,
    scheme: usize,
}

impl ProviderUrl {
    /// Takes a URL.
    ///
    /// # Errors
    /// `CONFIG` where it does not begin with a scheme and a colon, or holds white space or control characters.
    pub fn parse(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref().trim();
        let refuse = |message: &'static str| Err(Error::new(ErrorCode::Config, message).at("connect"));
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return refuse("a provider URL holds no white space: percent-encode it");
        }
        match scheme_len(text) {
            Some(scheme) => Ok(Self { text: text.into(), scheme }),
            // It is not shown: it may be anything, such as a password in the wrong place.
            None => refuse("a provider URL begins with a scheme and a colon, such as `memory:` or `redis://host`"),
        }
    }

    /// What stands before the colon.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.text[..self.scheme]
    }

    /// All of it, credentials included: for the client that connects, never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What stands between the scheme's colon and the query, credentials included.
    #[must_use]
    pub fn body(&self) -> &str {
        let rest = &self.text[self.scheme + 1..];
        rest.split_once('?').map_or(rest, |(body, _)| body)
    }

    /// The query's keys and values, as they were written.
    pub fn query(&self) -> impl Iterator<Item = (&str, &str)> {
        let query = self.text.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The same without these keys of the query.
    #[must_use]
    pub fn without(&self, keys: &[&str]) -> Self {
        let Some((rest, query)) = self.text.split_once('?') else { return self.clone() };
        let key = |pair: &str| pair.split_once('=').map_or(pair, |(key, _)| key).to_owned();
        let left: Vec<&str> = query.split('&').filter(|pair| !keys.contains(&&*key(pair))).collect();
        let text = if left.is_empty() { rest.to_owned() } else { format!("{rest}?{}", left.join("&")) };
        Self { text: text.into(), scheme: self.scheme }
    }

    /// Refuses a query key that is not one of these.
    ///
    /// # Errors
    /// `CONFIG`, naming the key and what there is.
    pub fn allow_query(&self, known: &[&str]) -> Result<()> {
        match self.query().find(|(key, _)| !known.contains(key)) {
            None => Ok(()),
            Some((key, _)) => {
                let scheme = self.scheme();
                // After a `?` in a password that was not encoded, what looks like a key is a part of it.
                let misread = self.text.rsplit_once('@').is_some_and(|(before, _)| before.contains('?'));
                let key = if misread { "***" } else { key };
                let message = format!("a `{scheme}:` URL has no query key `{key}`; it has: {}", listed(known));
                Err(Error::new(ErrorCode::Config, message).at("connect"))
            }
        }
    }
}

/// RFC 3986: a letter, then letters, digits, `+`, `-`, `.`; here in lower case.
fn scheme_len(text: &str) -> Option<usize> {
    let (scheme, _) = text.split_once(':')?;
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'+' | b'-' | b'.');
    let good = scheme.bytes().next().is_some_and(|c| c.is_ascii_lowercase()) && scheme.bytes().all(rest);
    good.then_some(scheme.len())
}

impl FromStr for ProviderUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Everything from the scheme to the last `@` is hidden (a password need not be encoded well), and every value of the query.
impl fmt::Display for ProviderUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, rest) = self.text.split_at(self.scheme + 1);
        let slashes = if rest.starts_with("//") { "//" } else { "" };
        write!(f, "{head}{slashes}")?;
        let rest = &rest[slashes.len()..];
        let shown = match rest.rsplit_once('@') {
            Some((_, host)) => {
                f.write_str("***@")?;
                host
            }
            None => rest,
        };
        let (host, query) = shown.split_once('?').unwrap_or((shown, ""));
        f.write_str(host)?;
        for (index, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            let key = pair.split_once('=').map_or(pair, |(key, _)| key);
            write!(f, "{}{key}=***", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for ProviderUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::LeaseModel;

    #[derive(Debug)]
    struct Refusing(&'static str);

    #[async_trait]
    impl ProviderFactory for Refusing {
        fn about(&self) -> ProviderInfo {
            let lease = LeaseModel::Session { max_hold: std::time::Duration::from_secs(1) };
            let capabilities = Capabilities::none(lease, "nothing");
            ProviderInfo { name: "test", schemes: &["test", "tests"], description: "", example: "test:", capabilities }
        }

        async fn connect(&self, _: &ProviderUrl, _: &Env) -> Result<Arc<dyn QueueProvider>> {
            Err(Error::new(ErrorCode::Unavailable, self.0))
        }
    }

    #[tokio::test]
    async fn a_scheme_finds_its_provider_or_says_what_there_is() {
        let mut registry = Registry::new();
        registry.register(Refusing("first")).register(Refusing("second")).absent(&["far", "fars"], "build with `far`");
        let connect = async |url: &str| {
            let url = ProviderUrl::parse(url).unwrap();
            registry.connect(&url, &Env::system()).await.unwrap_err()
        };
        let found = connect("tests://a,test://b").await;
        assert_eq!((found.code(), found.message()), (ErrorCode::Unavailable, "second"), "the later one is asked");
        for (url, message) in [
            ("fars://user:secret@h", "`fars:` is not compiled in: build with `far`"),
            ("other://user:secret@h", "no provider answers to `other:`; compiled in: test, tests"),
        ] {
            let error = connect(url).await;
            assert_eq!((error.code(), error.message()), (ErrorCode::Config, message));
        }
    }

    #[test]
    fn a_url_shows_no_credentials() {
        for (url, shown) in [
            ("memory:", "memory:"),
            ("redis://localhost:6379/3", "redis://localhost:6379/3"),
            ("redis://:hunter2@host", "redis://***@host"),
            ("amqp://me:p@ss/w?rd@host/v", "amqp://***@host/v"),
            ("redis://:hunter2@a,redis://:hunter2@b", "redis://***@b"),
            ("kafka://a:1,b:2?sasl.password=hunter2&acks=all", "kafka://a:1,b:2?sasl.password=***&acks=***"),
            ("redis:hunter2@host", "redis:***@host"),
        ] {
            let url = ProviderUrl::parse(url).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("\"{shown}\""));
        }
    }

    #[test]
    fn what_is_no_url_is_refused_and_not_repeated() {
        for text in ["", "localhost", "hunter2@host:6379", "REDIS://hunter2", "://hunter2", "redis://a hunter2", "1a:"]
        {
            let error = ProviderUrl::parse(text).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_parts_of_a_url() {
        let url = ProviderUrl::parse(" redis+sentinel://u:p@h:1,h:2/0?db=1&tls&x=a=b ").unwrap();
        assert_eq!((url.scheme(), url.body()), ("redis+sentinel", "//u:p@h:1,h:2/0"));
        assert_eq!(url.query().collect::<Vec<_>>(), [("db", "1"), ("tls", ""), ("x", "a=b")]);
        assert!(url.allow_query(&["tls", "x", "db"]).is_ok());
        assert_eq!(url.without(&["db"]).expose(), "redis+sentinel://u:p@h:1,h:2/0?tls&x=a=b");
        assert_eq!(url.without(&["db", "tls", "x"]).expose(), "redis+sentinel://u:p@h:1,h:2/0");
        let error = url.allow_query(&["db", "tls"]).unwrap_err();
        assert_eq!(error.message(), "a `redis+sentinel:` URL has no query key `x`; it has: db, tls");
        let error = ProviderUrl::parse("redis://:p?hunter2&x@h").unwrap().allow_query(&[]).unwrap_err();
        assert_eq!(error.message(), "a `redis:` URL has no query key `***`; it has: none");
    }
}
