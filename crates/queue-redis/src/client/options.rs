//! How to connect.

use std::{fmt, time::Duration};

use super::Address;

/// Which servers, and how to be with them.
///
/// ```
/// use queue_redis::{Address, ClientOptions, Role, Servers};
///
/// let nodes = [("a", Role::Primary), ("b", Role::Replica)].map(|(host, role)| (Address::new(host, 6379), role));
/// let options = ClientOptions::new(Servers::Nodes(nodes.to_vec())).password("from a secret store");
/// assert!(!format!("{options:?}").contains("secret store"));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Where Redis is.
    pub servers: Servers,
    /// The user and the password, for each server.
    pub login: Login,
    /// The same for Sentinels, which have users of their own.
    pub sentinel_login: Login,
    /// The number of the database; only 0 in a cluster.
    pub database: i64,
    /// TLS, for servers and Sentinels. None unless asked for.
    pub tls: Option<Tls>,
    /// Connections that one caller has to himself.
    pub pool: PoolOptions,
    /// What to do where the primary is away.
    pub failover: FailoverMode,
    /// How often each server is looked at. 10 s.
    pub health_interval: Duration,
    /// How long connecting may take, greeting and log-in included. 2 s.
    pub connect_timeout: Duration,
    /// How long an answer is awaited. 5 s.
    pub answer_timeout: Duration,
    /// For how long what a server refuses for now (it loads, it fails over, a slot moves), or what could not be sent, is tried
    /// again before the refusal is handed on. 5 s.
    pub retry_for: Duration,
    /// Refuses to connect where the start-up check would only warn; with Sentinels and a list of nodes also to work with a primary that takes
    /// over so.
    pub strict: bool,
}

impl ClientOptions {
    /// These servers, and the defaults.
    #[must_use]
    pub fn new(servers: Servers) -> Self {
        Self {
            servers,
            login: Login::default(),
            sentinel_login: Login::default(),
            database: 0,
            tls: None,
            pool: PoolOptions::default(),
            failover: FailoverMode::Automatic,
            health_interval: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(5),
            retry_for: Duration::from_secs(5),
            strict: false,
        }
    }

    /// With a password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.login.password = Some(password.into());
        self
    }

    /// As a user of the access control list.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.login.user = Some(user.into());
        self
    }

    /// Over TLS.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// With another failover mode.
    #[must_use]
    pub fn failover(mut self, mode: FailoverMode) -> Self {
        self.failover = mode;
        self
    }
}

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// One server.
    One(Address),
    /// A primary and its replicas, without anybody who says which is which: the one that says that it is the primary is
    /// worked with. Who promotes a replica is somebody else.
    Nodes(Vec<(Address, Role)>),
    /// Sentinels know which server is the primary.
    Sentinel {
        /// Some or all of them.
        sentinels: Vec<Address>,
        /// What they call the primary.
        service: String,
    },
    /// A cluster; some or all of its servers.
    Cluster(Vec<Address>),
}

/// What a server is at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows.
    Replica,
}

/// What to do where the primary is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailoverMode {
    /// Go to whichever server is the primary.
    #[default]
    Automatic,
    /// Stay, and wait for [`switch`](super::RedisClusterClient::switch): a person decides.
    Manual,
    /// As automatic, and what is published while no server takes writes is kept in a [`spool`](crate::RedisOptions::spool) on this
    /// machine, accepted, and handed on later.
    AirgapSafe,
}

/// A user and a password. Shows neither.
#[derive(Clone, Default)]
pub struct Login {
    /// The user; without one it is Redis' default user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.password.is_some() || self.user.is_some() { "***" } else { "none" })
    }
}

/// Certificates, as PEM. Without any, the system's roots are trusted and no client certificate is shown.
#[derive(Clone, Default)]
pub struct Tls {
    /// Trusted instead of the system's roots.
    pub roots: Option<Vec<u8>>,
    /// A certificate and its key, for servers that ask who connects.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Takes any certificate: encrypted, and open to whoever stands between. For tests.
    pub insecure: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own_roots, identity) = (self.roots.is_some(), self.identity.is_some());
        let mut shown = f.debug_struct("Tls");
        shown.field("own_roots", &own_roots).field("identity", &identity).field("insecure", &self.insecure).finish()
    }
}

/// How many connections callers may have to themselves, for each server. Besides there is one for each server that everybody shares.
///
/// There are three uses, which take nothing from each other: to wait for jobs (one for each process; one for each queue on a cluster),
/// to hear from replicas (one for each call that is under way), and to follow events (one for each who watches; who comes when `max`
/// do looks four times a second instead).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// So many are open, used or not, also when nobody used them for long; after a failure from the next look on. 2.
    pub min: usize,
    /// So many stay open for their next use; more are closed at the next look. 10.
    pub target: usize,
    /// So many at once at most for each use. 50.
    pub max: usize,
    /// What nobody used for so long is closed, down to `min`. 5 min.
    pub idle_timeout: Duration,
    /// How long somebody waits for one where `max` are used; then it is `UNAVAILABLE`, and no fault of the server. 5 s.
    pub wait_timeout: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        let (idle_timeout, wait_timeout) = (Duration::from_secs(300), Duration::from_secs(5));
        Self { min: 2, target: 10, max: 50, idle_timeout, wait_timeout }
    }
}
