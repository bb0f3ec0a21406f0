//! The one owner of connections to Redis: one server, a primary with replicas, Sentinel or Cluster.
//!
//! Everybody shares one connection for each server; who waits in the server has one of its own, from a pool. A server that
//! breaks its connection, does not answer or is not the primary any more is let go, and the next command looks for the one that
//! is: nothing has to be restarted.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use queue_core::{Env, Error, ErrorCode, Result, clock::Random};
use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::{sync::broadcast, task::JoinHandle};

pub(crate) use self::url::decode;
pub use self::{
    address::Address,
    options::{ClientOptions, FailoverMode, Login, PoolOptions, Role, Servers, Tls},
    start_up::{Finding, Severity},
    stats::{ClientEvent, ClientStats},
};
pub(crate) use self::{
    node::{Call, Confirmation, Own, Use},
    slots::slot_of,
    verdict::{POOL_FULL, UNCONFIRMED, UNFIT},
};
use self::{
    node::{Failure, Node},
    stats::Told,
    topology::Topology,
    verdict::{Patience, Verdict, verdict},
};
use crate::{SCHEME, fault};

mod address;
mod health;
mod node;
mod options;
mod slots;
mod start_up;
mod stats;
mod topology;
mod url;
mod verdict;

/// A client of one Redis installation. A clone is another handle on the same connections.
#[derive(Debug, Clone)]
pub struct RedisClusterClient {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    inner: Arc<Inner>,
    health: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(health) = self.health.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            health.abort();
        }
        self.inner.topology.close();
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) topology: Topology,
    random: Arc<dyn Random>,
}

impl RedisClusterClient {
    /// Connects, and looks at how the servers are set up.
    ///
    /// # Errors
    /// `CONFIG` for options that contradict each other, a version before 7.0, a read-only replica, and with
    /// [`strict`](ClientOptions::strict) for whatever would only be warned of; `UNSUPPORTED` for
    /// [`FailoverMode::AirgapSafe`], which needs jobs and not commands: connect a [`RedisProvider`](crate::RedisProvider);
    /// `AUTHENTICATION`, `UNAVAILABLE`, `TIMEOUT`.
    pub async fn connect(options: ClientOptions, env: &Env) -> Result<Self> {
        if options.failover == FailoverMode::AirgapSafe {
            let instead = "a command cannot be kept for later: connect a provider with a `spool`, which keeps jobs";
            return Err(Error::unsupported(SCHEME, "failover `airgap-safe`", instead));
        }
        Self::connect_for_jobs(options, env).await
    }

    pub(crate) async fn connect_for_jobs(options: ClientOptions, env: &Env) -> Result<Self> {
        check(&options)?;
        let topology = Topology::new(options, Told::new());
        let random = Arc::clone(&env.random);
        let inner = Arc::new(Inner { topology, random });
        start_up::look(&inner).await?;
        let health = Mutex::new(Some(tokio::spawn(health::watch(Arc::clone(&inner)))));
        Ok(Self { handle: Arc::new(Handle { inner, health }) })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.handle.inner
    }

    /// Sends a command to the server that has `key`; to any that takes writes where there is none.
    ///
    /// What the server refuses before anything was done (it loads, it fails over, the slot moves) and what could not be sent is
    /// tried again, with growing delays, for [`retry_for`](ClientOptions::retry_for). Where the answer was lost the command may
    /// have been done: it is repeated only if `repeatable` says that this does no harm.
    ///
    /// # Errors
    /// `UNAVAILABLE`, `TIMEOUT`, `AUTHENTICATION`, `DENIED`; `INTERNAL` for what the server refuses for good.
    pub async fn execute(&self, key: Option<&str>, command: &Cmd, repeatable: bool) -> Result<Value> {
        let call = Call { key, command, script: None, confirmation: None, repeatable };
        self.inner().call(&call).await.map_err(|error| fault::of(&error, "execute"))
    }

    /// Goes to another primary: `to`, or the one that the Sentinels or the servers themselves name. It promotes nobody.
    ///
    /// The server is connected to and looked at first: where it cannot be reached, is no primary or is refused as it is set up, the client
    /// stays where it is. With [`FailoverMode::Manual`] it then stays there until the next call; with another mode until it looks for
    /// the primary the next time, which with Sentinels is within 2 s.
    ///
    /// # Errors
    /// `UNSUPPORTED` for one server and for a cluster, which moves by itself; `UNAVAILABLE` where it cannot be reached or is not a primary,
    /// `TIMEOUT` where it says nothing; `CONFIG` where it is refused as at the start.
    pub async fn switch(&self, to: Option<Address>) -> Result<()> {
        if !matches!(self.inner().topology.options.servers, Servers::Sentinel { .. } | Servers::Nodes(_)) {
            let instead = "there is nothing to switch: one server has no other, and a cluster moves by itself";
            return Err(Error::unsupported(SCHEME, "switch", instead));
        }
        self.inner().topology.switch(to).await.map_err(|error| fault::of(&error, "switch"))
    }

    /// What happens from now on. Who is more than 256 events behind misses some.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<ClientEvent> {
        self.inner().topology.told.listen()
    }

    pub(crate) fn tell(&self, event: ClientEvent) {
        self.inner().topology.told.tell(event);
    }

    /// Numbers of this moment.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.inner().stats()
    }

    /// What somebody should know of the primaries that are worked with now: as found when connecting, and of each that took over since. It
    /// was logged as well, and told as [`ClientEvent::Found`].
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.inner().topology.findings()
    }

    /// The servers that take writes.
    ///
    /// # Errors
    /// `UNAVAILABLE` where they cannot be found.
    pub async fn primaries(&self) -> Result<Vec<Address>> {
        let nodes = self.inner().topology.primaries().await.map_err(|error| fault::of(&error, "primaries"))?;
        Ok(nodes.iter().map(|node| node.address.clone()).collect())
    }

    /// Looks after the servers no more. What is under way goes on, and connections stay as long as somebody has them.
    pub(crate) async fn rest(&self) {
        let health = self.handle.health.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(health) = health {
            health.abort();
            // It was cancelled.
            let _ = health.await;
        }
    }

    /// Breaks all connections. Whoever asks later connects anew.
    pub fn disconnect(&self) {
        self.inner().topology.close();
    }
}

fn check(options: &ClientOptions) -> Result<()> {
    let refuse = |message: &'static str| Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
    let (cluster, pool) = (matches!(options.servers, Servers::Cluster(_)), &options.pool);
    if cluster && options.failover == FailoverMode::Manual {
        return refuse("a cluster fails over by itself: `manual` is for Sentinel and for a list of nodes");
    }
    if cluster && options.database != 0 {
        return refuse("a cluster has only the database 0");
    }
    if pool.max == 0 || pool.min > pool.target || pool.target > pool.max {
        return refuse("a pool is min ≤ target ≤ max connections, and max is not 0");
    }
    let nobody = match &options.servers {
        Servers::One(_) => false,
        Servers::Nodes(nodes) => nodes.is_empty(),
        Servers::Sentinel { sentinels, service } => sentinels.is_empty() || service.is_empty(),
        Servers::Cluster(nodes) => nodes.is_empty(),
    };
    if nobody {
        return refuse("no server is named");
    }
    Ok(())
}

impl Inner {
    /// Asks until there is an answer, or an error that another try does not mend.
    pub(crate) async fn call(&self, call: &Call<'_>) -> RedisResult<Value> {
        let told = &self.topology.told;
        told.calls.fetch_add(1, Ordering::Relaxed);
        let mut patience = Patience::new(self.topology.options.retry_for, &*self.random);
        let mut asking = None;
        loop {
            let failure = match self.attempt(call, asking.take()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let mut at_once = false;
            let again = match verdict(&failure) {
                Verdict::Moved(slot, to) => {
                    self.topology.moved(slot, &to);
                    at_once = true;
                    true
                }
                Verdict::Ask(to) => {
                    asking = Some(to);
                    at_once = true;
                    true
                }
                Verdict::Later | Verdict::Elsewhere => true,
                Verdict::Lost => call.repeatable,
                Verdict::Final => false,
            };
            if !again || !patience.again(at_once).await {
                told.failures.fetch_add(1, Ordering::Relaxed);
                return Err(failure.error);
            }
            told.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn attempt(&self, call: &Call<'_>, asking: Option<Address>) -> Result<Value, Failure> {
        let (asks, node) = match asking {
            Some(at) => (true, self.topology.node_at(&at)),
            None => (false, self.topology.node_for(call.key).await),
        };
        let nowhere = |error| Failure { error, sent: false, asked: Address::new("", 0) };
        let node = node.map_err(nowhere)?;
        let done = node.perform(call, asks).await;
        if let Err(failure) = &done {
            self.blame(&node, failure);
        }
        done
    }

    /// A server that failed so that another connection, or another server, is needed.
    pub(crate) fn blame(&self, node: &Arc<Node>, failure: &Failure) {
        if matches!(verdict(failure), Verdict::Lost | Verdict::Elsewhere) {
            self.topology.lost(node);
        }
    }

    /// A connection of one's own to the server that has the key.
    pub(crate) async fn own(&self, key: Option<&str>, purpose: Use) -> RedisResult<Own> {
        let node = self.topology.node_for(key).await?;
        let own = node.own(purpose).await;
        if let Err(error) = &own {
            let failure = Failure { error: error.clone(), sent: false, asked: node.address.clone() };
            self.blame(&node, &failure);
        }
        own
    }

    /// The same for a command that waits in the server; the connection is kept for the next one where that is of use.
    pub(crate) async fn wait(&self, own: &mut Own, command: &Cmd, waits: Duration) -> RedisResult<Value> {
        let answer = own.ask(command, waits).await;
        answer.map_err(|failure| self.broke(own, failure))
    }

    /// The same for two commands of which the first waits; the second one's answer where it was not refused.
    pub(crate) async fn wait_then(
        &self,
        own: &mut Own,
        command: Cmd,
        then: Cmd,
        waits: Duration,
    ) -> (RedisResult<Value>, Option<Value>) {
        match own.ask_then(command, then, waits).await {
            Ok((Ok(answer), second)) => (Ok(answer), second),
            Ok((Err(error), second)) => {
                let failure = Failure { error, sent: true, asked: own.node.address.clone() };
                (Err(self.broke(own, failure)), second)
            }
            Err(failure) => (Err(self.broke(own, failure)), None),
        }
    }

    fn broke(&self, own: &Own, failure: Failure) -> RedisError {
        if let Verdict::Moved(slot, to) = verdict(&failure) {
            self.topology.moved(slot, &to);
        }
        self.blame(&own.node, &failure);
        failure.error
    }

    fn stats(&self) -> ClientStats {
        let told = &self.topology.told;
        let read = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        let (lost, calls) = (read(&told.lost), read(&told.calls));
        let (retries, failures) = (read(&told.retries), read(&told.failures));
        let mut stats = ClientStats { lost, calls, retries, failures, ..ClientStats::default() };
        for node in self.topology.nodes() {
            stats.servers += usize::from(node.is_connected());
            for status in node.status() {
                stats.pooled += status.size;
                stats.idle += status.available;
                stats.waiting += status.waiting;
            }
            stats.opened += read(&node.opened);
        }
        stats
    }
}
