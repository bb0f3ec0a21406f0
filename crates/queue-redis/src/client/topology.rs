//! Which server to ask.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redis::{Client, ErrorKind, IntoConnectionInfo as _, RedisError, RedisResult, Value};
use tokio::sync::OnceCell;

use super::{
    Address, ClientEvent, ClientOptions, FailoverMode, Role, Servers,
    node::{Node, Opener, late},
    slots::{SlotMap, slot_of},
    start_up::{self, Checked, Finding},
    stats::Told,
    verdict::UNFIT,
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
    /// In which order these are asked: the one that answered last comes first.
    order: Mutex<Vec<Address>>,
    /// Where a person wants to be.
    pinned: Mutex<Option<Address>>,
    /// What was found of the primaries of now.
    checked: Mutex<BTreeMap<Address, Checked>>,
    /// Whether each primary had a replica at some time.
    replicated: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn renew<T>(found: &Found<T>) {
    *lock(found) = Arc::default();
}

impl Topology {
    pub(crate) fn new(options: ClientOptions, told: Told) -> Self {
        let order = match &options.servers {
            Servers::Sentinel { sentinels, .. } => sentinels.clone(),
            _ => Vec::new(),
        };
        Self {
            options,
            told,
            primary: Mutex::default(),
            slots: Mutex::default(),
            nodes: Mutex::default(),
            sentinels: Mutex::default(),
            order: Mutex::new(order),
            pinned: Mutex::default(),
            checked: Mutex::default(),
            replicated: AtomicBool::default(),
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
            return found.get_or_try_init(|| self.find(&found)).await.cloned();
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

    /// Connects to the primary, for whoever waits at `place`.
    ///
    /// # Errors
    /// Also where somebody switched to another in the meantime: whoever asks again finds that one.
    async fn find(&self, place: &Arc<OnceCell<Arc<Node>>>) -> RedisResult<Arc<Node>> {
        let some = |(node, checked)| (node, Some(checked));
        let (node, checked) = match &self.options.servers {
            // There is no other to go to: it is worked with, and looked at afterwards.
            Servers::One(address) => {
                let node = self.node(address, false)?;
                node.shared().await?;
                (node, None)
            }
            Servers::Nodes(nodes) => some(self.find_among(nodes).await?),
            Servers::Sentinel { .. } => {
                let address = match self.pinned() {
                    Some(address) => address,
                    None => self.ask_sentinels().await?,
                };
                some(self.candidate(&address).await?)
            }
            Servers::Cluster(_) => return Err(nowhere()),
        };
        let primary = lock(&self.primary);
        if !Arc::ptr_eq(&primary, place) {
            node.leave();
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into());
        }
        if self.options.failover == FailoverMode::Manual {
            lock(&self.pinned).get_or_insert_with(|| node.address.clone());
        }
        self.adopt(&node, checked);
        drop(primary);
        Ok(node)
    }

    /// From now on it is worked with.
    fn adopt(&self, node: &Arc<Node>, checked: Option<Checked>) {
        lock(&self.nodes).insert(node.address.clone(), Arc::clone(node));
        self.told.tell(ClientEvent::Primary { server: node.address.clone() });
        if let Some(checked) = checked {
            self.found(node, checked);
        }
    }

    /// Connects to a server that says that it is the primary, and looks at how it is set up before anybody works with it.
    async fn candidate(&self, address: &Address) -> RedisResult<(Arc<Node>, Checked)> {
        let node = self.node(address, true)?;
        node.shared().await?;
        let checking = start_up::check(&node, self.options.strict);
        let checked = tokio::time::timeout(self.options.connect_timeout, checking).await;
        Ok((node, checked.unwrap_or_else(|_| Err(late()))?))
    }

    /// The first of these that will do. That one is refused as it is set up is told rather than that others are away.
    async fn first_of(&self, candidates: Vec<&Address>) -> RedisResult<(Arc<Node>, Checked)> {
        let mut last = nowhere();
        for address in candidates {
            match self.candidate(address).await {
                Ok(found) => return Ok(found),
                Err(error) if last.code() != Some(UNFIT) => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    async fn find_among(&self, nodes: &[(Address, Role)]) -> RedisResult<(Arc<Node>, Checked)> {
        let pinned = self.pinned();
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
        self.first_of(candidates).await
    }

    /// Where the Sentinels say that the primary is. The one that answers is asked first from then on: one that is away does not cost its
    /// timeout at each look.
    pub(crate) async fn ask_sentinels(&self) -> RedisResult<Address> {
        let Servers::Sentinel { service, .. } = &self.options.servers else { return Err(nowhere()) };
        let mut last = nowhere();
        let order = lock(&self.order).clone();
        for address in &order {
            let node = self.sentinel(address)?;
            let ask = redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(service).take();
            let asked = async { ask.query_async::<Option<(String, u16)>>(&mut node.shared().await?).await };
            match tokio::time::timeout(self.options.connect_timeout, asked).await {
                Ok(Ok(Some((host, port)))) => {
                    let mut order = lock(&self.order);
                    order.retain(|other| other != address);
                    order.insert(0, address.clone());
                    return Ok(Address::new(host, port));
                }
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

    /// Where a person wants to be, if anybody said so or the mode is manual and a primary was found.
    pub(crate) fn pinned(&self) -> Option<Address> {
        lock(&self.pinned).clone()
    }

    /// Goes to another server, whatever the mode. What is not there, or will not do, changes nothing.
    pub(crate) async fn switch(&self, to: Option<Address>) -> RedisResult<()> {
        let (node, checked) = match (to, &self.options.servers) {
            (Some(to), _) => self.candidate(&to).await?,
            (None, Servers::Sentinel { .. }) => self.candidate(&self.ask_sentinels().await?).await?,
            (None, Servers::Nodes(nodes)) => self.leader_among(nodes).await?,
            (None, _) => return Err(nowhere()),
        };
        if self.options.failover == FailoverMode::Manual {
            *lock(&self.pinned) = Some(node.address.clone());
        }
        let found = Arc::new(OnceCell::from(Arc::clone(&node)));
        let before = std::mem::replace(&mut *lock(&self.primary), found);
        if let Some(before) = before.get() {
            self.lost(before);
        }
        self.adopt(&node, Some(checked));
        Ok(())
    }

    /// A server that says that it is the primary; the one that is worked with only where no other does.
    pub(crate) async fn leader_among(&self, nodes: &[(Address, Role)]) -> RedisResult<(Arc<Node>, Checked)> {
        let here = self.pinned().or_else(|| self.current().map(|current| current.address.clone()));
        let mut candidates: Vec<&Address> = nodes.iter().map(|(address, _)| address).collect();
        candidates.sort_by_key(|address| Some(*address) == here.as_ref());
        self.first_of(candidates).await
    }

    /// Keeps what was found of a primary, and tells what is news.
    pub(crate) fn found(&self, node: &Arc<Node>, checked: Checked) {
        node.was_checked();
        let server = &node.address;
        let findings = checked.findings.clone();
        let before = {
            let mut known = lock(&self.checked);
            if !self.is_cluster() {
                known.retain(|address, _| address == server);
            }
            known.insert(server.clone(), checked).unwrap_or_default()
        };
        if !self.is_cluster() {
            self.note_replicas();
        }
        for finding in findings.into_iter().filter(|finding| !before.findings.contains(finding)) {
            self.told.tell(ClientEvent::Found { server: server.clone(), finding });
        }
    }

    /// Only these are primaries now.
    pub(crate) fn keep_only(&self, primaries: &[Arc<Node>]) {
        lock(&self.checked).retain(|address, _| primaries.iter().any(|node| node.address == *address));
        self.note_replicas();
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        lock(&self.checked).values().flat_map(|checked| checked.findings.clone()).collect()
    }

    /// How many replicas each primary has at least, as far as was seen when it was looked at last.
    pub(crate) fn replicas(&self) -> usize {
        lock(&self.checked).values().map(|checked| checked.replicas).min().unwrap_or(0)
    }

    /// So many were seen of a primary.
    pub(crate) fn has_replicas(&self, node: &Node, replicas: usize) {
        lock(&self.checked).entry(node.address.clone()).or_default().replicas = replicas;
    }

    /// To be called when all primaries of now were looked at.
    fn note_replicas(&self) {
        self.replicated.fetch_or(self.replicas() > 0, Ordering::Relaxed);
    }

    /// Whether it has, or had at some time, a replica of each primary: those of one that has just taken over follow it a little later.
    pub(crate) fn is_replicated(&self) -> bool {
        self.replicated.load(Ordering::Relaxed)
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
