//! A primary and two replicas under three Sentinels, as `cargo xtask brokers up redis-sentinel` makes them.

use std::{io, path::Path, time::Duration};

use crate::soak::node::{Node, free_ports, until};

const NAME: &str = "queue";
const SERVERS: usize = 3;
const SENTINELS: usize = 3;
/// A primary that does not answer for that long is down.
pub(crate) const DOWN_AFTER: Duration = Duration::from_secs(1);
/// Sentinels find each other through the primary, which they ask every other second; a replica reads all data.
const FORMING: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(crate) struct Sentinels {
    servers: Vec<Node>,
    sentinels: Vec<Node>,
}

impl Sentinels {
    pub(crate) async fn start(home: &Path) -> io::Result<Self> {
        let ports = free_ports(SERVERS + SENTINELS)?;
        let (servers, sentinels) = ports.split_at(SERVERS);
        let primary = servers[0].to_string();
        let server = |port: &u16| {
            // A replica that comes back is served at once, and not after the default 5 s.
            let mut arguments = vec!["--appendfsync", "everysec", "--repl-diskless-sync-delay", "0"];
            if *port != servers[0] {
                arguments.extend(["--replicaof", "127.0.0.1", &primary]);
            }
            Node::new(home, *port, &arguments)
        };
        let lines = [
            format!("sentinel monitor {NAME} 127.0.0.1 {primary} {}", SENTINELS / 2 + 1),
            format!("sentinel down-after-milliseconds {NAME} {}", DOWN_AFTER.as_millis()),
            format!("sentinel failover-timeout {NAME} 10000"),
            format!("sentinel parallel-syncs {NAME} {}", SERVERS - 1),
        ];
        let sentinel = |port: &u16| Node::of_file(home, *port, &lines.join("\n"), &["--sentinel"]);
        let mut all = Self {
            servers: servers.iter().map(server).collect::<io::Result<_>>()?,
            sentinels: sentinels.iter().map(sentinel).collect::<io::Result<_>>()?,
        };
        for node in all.servers.iter_mut() {
            node.boot()?;
            node.up().await?;
        }
        for node in all.sentinels.iter_mut() {
            node.boot()?;
            node.up().await?;
        }
        all.whole().await?;
        Ok(all)
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The port of the primary, as a Sentinel has it.
    fn primary(&self, sentinel: &Node) -> Option<u16> {
        let answer = sentinel.ask(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}")).ok()?;
        let (_, port): (String, u16) = redis::from_redis_value(answer).ok()?;
        Some(port)
    }

    /// Waits until there is one primary that all Sentinels agree on, with every replica caught up: before, no failover is safe.
    pub(crate) async fn whole(&self) -> io::Result<()> {
        until(FORMING, || {
            let agreed = self.primary(&self.sentinels[0]);
            let all = self.sentinels.iter().all(|sentinel| {
                let known = format!(",slaves={},sentinels={SENTINELS}", SERVERS - 1);
                let report = sentinel.text("INFO sentinel").unwrap_or_default();
                self.primary(sentinel) == agreed
                    && report.lines().any(|line| line.contains("status=ok") && line.ends_with(&known))
            });
            let Some(primary) = self.servers.iter().find(|node| Some(node.port) == agreed && all) else { return false };
            let report = primary.text("INFO replication").unwrap_or_default();
            let online = report.lines().filter(|line| line.contains("state=online")).count();
            report.contains("role:master") && online == SERVERS - 1
        })
        .await
    }

    /// kill -9 of the primary. Returns once another is elected and takes commands; what was killed is back as a replica after
    /// [`Self::heal`].
    pub(crate) async fn fail_over(&mut self) -> io::Result<String> {
        let old = self.primary(&self.sentinels[0]).ok_or_else(|| io::Error::other("there is no primary"))?;
        let at = self.servers.iter().position(|node| node.port == old);
        let at = at.ok_or_else(|| io::Error::other("the primary is none of ours"))?;
        self.servers[at].kill();
        until(FORMING, || {
            let new = self.primary(&self.sentinels[0]).filter(|port| *port != old);
            let node = self.servers.iter().find(|node| Some(node.port) == new);
            node.is_some_and(|node| node.info("replication", "role").is_some_and(|role| role == "master"))
        })
        .await?;
        Ok(format!("kill -9 of the primary, {old}"))
    }

    /// Starts what was killed and waits until it follows.
    pub(crate) async fn heal(&mut self) -> io::Result<()> {
        for node in &mut self.servers {
            if !node.runs() {
                node.boot()?;
                node.up().await?;
            }
        }
        self.whole().await
    }
}
