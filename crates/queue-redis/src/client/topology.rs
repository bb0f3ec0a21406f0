//! Which server to ask.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::{Client, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult, Value};
use tokio::sync::OnceCell;

use super::{
    Address, ClientEvent, ClientOptions, FailoverMode, Role, Servers,
    node::{Node, Opener},
    slots::{SlotMap, slot_of},
    stats::Told,
};

/// What was found once, until somebody finds it wrong; whoever comes meanwhile waits for the one who looks.
type Found<T> = Mutex<Arc<OnceCell<Arc<T>>>>;

#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) options: ClientOptions,
    pub(crate) told: Told,
    primary: Found<Node>,
    slots: Found<SlotMap>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    sentinels: Mutex<HashMap<Address, Arc<Node>>>,
    /// Where a person wants to be.
    pinned: Mutex<Option<Address>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn renew<T>(found: &Found<T>) {
    *lock(found) = Arc::default();
}

impl Topology {
    pub(crate) fn new(options: ClientOptions, told: Told) -> Self {
        Self {
            options,
            told,
            primary: Mutex::default(),
            slots: Mutex::default(),
            nodes: Mutex::default(),
            sentinels: Mutex::default(),
            pinned: Mutex::default(),
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.options.servers, Servers::Cluster(_))
    }

    /// Whether there is another server to go to.
    pub(crate) fn has_others(&self) -> bool {
        !matches!(self.options.servers, Servers::One(_))
    }

    /// The server that has the key; any that takes writes where there is none.
    pub(crate) async fn node_for(&self, key: Option<&str>) -> RedisResult<Arc<Node>> {
        if !self.is_cluster() {
            let found = Arc::clone(&lock(&self.primary));
            return found.get_or_try_init(|| self.find()).await.cloned();
        }
        let map = self.slots().await?;
        let owner = match key {
            Some(key) => map.owner(slot_of(key.as_bytes())),
            None => map.primaries().first(),
        };
        match owner {
            Some(owner) => self.node_at(owner),
            None => {
                self.look_again();
                Err(redis::make_extension_error("CLUSTERDOWN".into(), Some("nobody has the slot".into())))
            }
        }
    }

    /// All servers that take writes.
    pub(crate) async fn primaries(&self) -> RedisResult<Vec<Arc<Node>>> {
        if !self.is_cluster() {
            return Ok(vec![self.node_for(None).await?]);
        }
        self.slots().await?.primaries().iter().map(|address| self.node_at(address)).collect()
    }

    /// A server of a cluster.
    pub(crate) fn node_at(&self, address: &Address) -> RedisResult<Arc<Node>> {
        let mut nodes = lock(&self.nodes);
        if let Some(node) = nodes.get(address).filter(|node| !node.is_gone()) {
            return Ok(Arc::clone(node));
        }
        let node = self.node(address, false)?;
        nodes.insert(address.clone(), Arc::clone(&node));
        Ok(node)
    }

    /// All that are known.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).values().cloned().collect()
    }

    fn node(&self, address: &Address, leads: bool) -> RedisResult<Arc<Node>> {
        let client = client(address, &self.options, false)?;
        Node::new(address.clone(), Opener::new(client, leads, &self.options), &self.options)
    }

    /// A server is of no use any more: whoever waits on it waits no more, and the next to need one looks for it.
    pub(crate) fn lost(&self, node: &Arc<Node>) {
        // Who could not be connected to was told of when it was lost.
        let is_news = !node.is_gone() && node.is_connected();
        node.leave();
        lock(&self.nodes).retain(|_, known| !Arc::ptr_eq(known, node));
        let mut primary = lock(&self.primary);
        if primary.get().is_some_and(|known| Arc::ptr_eq(known, node)) {
            *primary = Arc::default();
        }
        drop(primary);
        renew(&self.slots);
        if is_news {
            self.told.tell(ClientEvent::Lost { server: node.address.clone() });
        }
    }

    pub(crate) fn look_again(&self) {
        renew(&self.slots);
    }

    pub(crate) fn moved(&self, slot: u16, to: &Address) {
        let mut slots = lock(&self.slots);
        let Some(map) = slots.get() else { return };
        if map.owner(slot) != Some(to) {
            *slots = Arc::new(OnceCell::from(Arc::new(map.moved(slot, to.clone()))));
            self.told.tell(ClientEvent::SlotMoved { slot, to: to.clone() });
        }
    }

    pub(crate) async fn slots(&self) -> RedisResult<Arc<SlotMap>> {
        let found = Arc::clone(&lock(&self.slots));
        found.get_or_try_init(|| self.read_slots()).await.cloned()
    }

    async fn read_slots(&self) -> RedisResult<Arc<SlotMap>> {
        let Servers::Cluster(seeds) = &self.options.servers else { return Err(nowhere()) };
        // Those that answered before come first.
        let mut known: Vec<Address> = self.nodes().iter().map(|node| node.address.clone()).collect();
        known.extend(seeds.iter().filter(|seed| !known.contains(seed)).cloned().collect::<Vec<_>>());
        let mut last = nowhere();
        for address in known {
            let node = self.node_at(&address)?;
            let asked = async {
                let mut connection = node.shared().await?;
                redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut connection).await
            };
            let asked = tokio::time::timeout(self.options.connect_timeout, asked).await;
            match asked.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())) {
                Ok(answer) => match SlotMap::read(answer, &address) {
                    Some(map) => {
                        self.told.tell(ClientEvent::Slots { primaries: map.primaries().to_vec() });
                        return Ok(Arc::new(map));
                    }
                    None => last = redis::make_extension_error("CLUSTERDOWN".into(), None),
                },
                Err(error) => {
                    // Without looking for the slots anew: that is what is being done.
                    if error.code().is_none() {
                        node.leave();
                        lock(&self.nodes).retain(|_, known| !Arc::ptr_eq(known, &node));
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Connects to the primary.
    async fn find(&self) -> RedisResult<Arc<Node>> {
        let node = match &self.options.servers {
            Servers::One(address) => {
                let node = self.node(address, false)?;
                node.shared().await?;
                node
            }
            Servers::Nodes(nodes) => self.find_among(nodes).await?,
            Servers::Sentinel { .. } => {
                let pinned = lock(&self.pinned).clone();
                let address = match pinned {
                    Some(address) => address,
                    None => self.ask_sentinels().await?,
                };
                let node = self.node(&address, true)?;
                node.shared().await?;
                node
            }
            Servers::Cluster(_) => return Err(nowhere()),
        };
        if self.options.failover == FailoverMode::Manual {
            lock(&self.pinned).get_or_insert_with(|| node.address.clone());
        }
        lock(&self.nodes).insert(node.address.clone(), Arc::clone(&node));
        self.told.tell(ClientEvent::Primary { server: node.address.clone() });
        Ok(node)
    }

    async fn find_among(&self, nodes: &[(Address, Role)]) -> RedisResult<Arc<Node>> {
        let pinned = lock(&self.pinned).clone();
        let mut candidates: Vec<&Address> = Vec::new();
        match (&pinned, self.options.failover) {
            (Some(pinned), _) => candidates.push(pinned),
            (None, FailoverMode::Manual) => {
                candidates.extend(nodes.iter().filter(|(_, role)| *role == Role::Primary).map(|(address, _)| address));
            }
            (None, _) => {
                let ranked = |wanted| nodes.iter().filter(move |(_, role)| *role == wanted).map(|(address, _)| address);
                candidates.extend(ranked(Role::Primary).chain(ranked(Role::Replica)));
            }
        }
        let mut last = nowhere();
        for address in candidates {
            let node = self.node(address, true)?;
            match node.shared().await {
                Ok(_) => return Ok(node),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Where the Sentinels say that the primary is.
    pub(crate) async fn ask_sentinels(&self) -> RedisResult<Address> {
        let Servers::Sentinel { sentinels, service } = &self.options.servers else { return Err(nowhere()) };
        let mut last = nowhere();
        for address in sentinels {
            let node = self.sentinel(address)?;
            let ask = redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(service).take();
            let asked = async { ask.query_async::<Option<(String, u16)>>(&mut node.shared().await?).await };
            match tokio::time::timeout(self.options.connect_timeout, asked).await {
                Ok(Ok(Some((host, port)))) => return Ok(Address::new(host, port)),
                Ok(Ok(None)) => {
                    let what = "the Sentinels know no primary by this name";
                    last = (ErrorKind::MasterNameNotFoundBySentinel, what).into();
                }
                Ok(Err(error)) => {
                    lock(&self.sentinels).remove(address);
                    last = error;
                }
                Err(_) => {
                    lock(&self.sentinels).remove(address);
                    last = std::io::Error::from(std::io::ErrorKind::TimedOut).into();
                }
            }
        }
        Err(last)
    }

    fn sentinel(&self, address: &Address) -> RedisResult<Arc<Node>> {
        let mut known = lock(&self.sentinels);
        if let Some(node) = known.get(address) {
            return Ok(Arc::clone(node));
        }
        let client = client(address, &self.options, true)?;
        let node = Node::new(address.clone(), Opener::new(client, false, &self.options), &self.options)?;
        known.insert(address.clone(), Arc::clone(&node));
        Ok(node)
    }

    /// The primary that is worked with now, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Node>> {
        lock(&self.primary).get().cloned()
    }

    /// Goes to another server, whatever the mode.
    pub(crate) async fn switch(&self, to: Option<Address>) -> RedisResult<()> {
        let manual = self.options.failover == FailoverMode::Manual;
        let to = match (to, &self.options.servers) {
            (Some(to), _) => Some(to),
            (None, Servers::Sentinel { .. }) if manual => Some(self.ask_sentinels().await?),
            (None, Servers::Nodes(nodes)) if manual => {
                lock(&self.pinned).take();
                Some(self.leader_among(nodes).await?)
            }
            (None, _) => None,
        };
        *lock(&self.pinned) = to;
        if let Some(node) = self.current() {
            self.lost(&node);
        }
        self.node_for(None).await.map(drop)
    }

    async fn leader_among(&self, nodes: &[(Address, Role)]) -> RedisResult<Address> {
        let mut last = nowhere();
        for (address, _) in nodes {
            match self.node(address, true)?.shared().await {
                Ok(_) => return Ok(address.clone()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(crate) fn close(&self) {
        let all =
            [self.nodes(), self.current().into_iter().collect(), lock(&self.sentinels).values().cloned().collect()];
        all.concat().iter().for_each(|node| node.leave());
        lock(&self.nodes).clear();
        lock(&self.sentinels).clear();
        renew(&self.primary);
        renew(&self.slots);
    }
}

fn nowhere() -> RedisError {
    (ErrorKind::InvalidClientConfig, "no server is named").into()
}

fn client(address: &Address, options: &ClientOptions, sentinel: bool) -> RedisResult<Client> {
    use redis::{ConnectionAddr, RedisConnectionInfo, TlsCertificates, io::tcp::TcpSettings};
    let (host, port) = (address.host.clone(), address.port);
    let addr = match &options.tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(tls) => ConnectionAddr::TcpTls { host, port, insecure: tls.insecure, tls_params: None },
    };
    let login = if sentinel { &options.sentinel_login } else { &options.login };
    let mut greeting = RedisConnectionInfo::default().set_db(if sentinel { 0 } else { options.database });
    if let Some(user) = &login.user {
        greeting = greeting.set_username(user);
    }
    if let Some(password) = &login.password {
        greeting = greeting.set_password(password);
    }
    // Where the other machine has lost its power nobody closes the connection. The system counts whole seconds, and refuses none.
    const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
    let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
        .with_time(options.health_interval.max(SECOND))
        .with_interval(options.connect_timeout.max(SECOND))
        .with_retries(3);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    let info = addr.into_connection_info()?.set_redis_settings(greeting).set_tcp_settings(tcp);
    let Some(tls) = &options.tls else { return Client::open(info) };
    let identity = tls.identity.clone();
    let certificates = TlsCertificates {
        client_tls: identity.map(|(client_cert, client_key)| redis::ClientTlsConfig { client_cert, client_key }),
        root_cert: tls.roots.clone(),
    };
    Client::build_with_tls(info, certificates)
}
