//! Three primaries with a replica each, as `cargo xtask brokers up redis-cluster` makes them, and the way of a slot from one to another.

use std::{io, path::Path, time::Duration};

use redis::Value;

use crate::soak::node::{Node, free_ports, until};

const PRIMARIES: usize = 3;
const SERVERS: usize = 2 * PRIMARIES;
const SLOTS: usize = 16_384;
const FORMING: Duration = Duration::from_secs(60);
/// Keys of one `MIGRATE`: few, so that the slot is long between two nodes, as a large one would be.
const KEYS: &str = "3";

#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// Where the queue's slot is.
    home: Option<usize>,
}

fn away(error: redis::RedisError) -> io::Error {
    io::Error::other(error)
}

impl Cluster {
    pub(crate) async fn start(home: &Path) -> io::Result<Self> {
        let ports = free_ports(2 * SERVERS)?;
        let (ports, buses) = ports.split_at(SERVERS);
        let mut nodes = Vec::new();
        for (port, bus) in ports.iter().zip(buses) {
            let bus = bus.to_string();
            let arguments = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", &bus];
            let timeout = ["--cluster-node-timeout", "2000", "--appendfsync", "everysec"];
            let mut node = Node::new(home, *port, &[&arguments[..], &timeout[..]].concat())?;
            node.boot()?;
            node.up().await?;
            nodes.push(node);
        }
        for (index, node) in nodes[..PRIMARIES].iter().enumerate() {
            let (from, to) = (index * SLOTS / PRIMARIES, (index + 1) * SLOTS / PRIMARIES - 1);
            node.ask(&format!("CLUSTER ADDSLOTSRANGE {from} {to}")).map_err(away)?;
        }
        for (port, bus) in ports.iter().zip(buses).skip(1) {
            nodes[0].ask(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}")).map_err(away)?;
        }
        let known = format!("cluster_known_nodes:{SERVERS}");
        let all = |line: &str| nodes.iter().all(|node| node.text("CLUSTER INFO").is_ok_and(|said| said.contains(line)));
        until(FORMING, || all(&known)).await?;
        for (primary, replica) in nodes.iter().zip(&nodes[PRIMARIES..]) {
            let id = primary.text("CLUSTER MYID").map_err(away)?;
            // It may not have heard of its primary yet.
            until(FORMING, || replica.ask(&format!("CLUSTER REPLICATE {id}")).is_ok()).await?;
        }
        until(FORMING, || all("cluster_state:ok")).await?;
        let follows = |node: &Node| node.info("replication", "master_link_status").is_some_and(|status| status == "up");
        until(FORMING, || nodes[PRIMARIES..].iter().all(follows)).await?;
        Ok(Self { nodes, home: None })
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}/", hosts.join(","))
    }

    /// Moves the slot of a queue to the next primary, a few keys at a time, as `redis-cli --cluster reshard` does.
    pub(crate) async fn migrate(&mut self, queue: &str) -> io::Result<String> {
        let slot: usize =
            redis::from_redis_value(self.nodes[0].ask(&format!("CLUSTER KEYSLOT {{{queue}}}")).map_err(away)?)
                .map_err(io::Error::other)?;
        let from =
            self.home.unwrap_or_else(|| (0..PRIMARIES).find(|n| slot < (n + 1) * SLOTS / PRIMARIES).unwrap_or(0));
        let to = (from + 1) % PRIMARIES;
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let source_id = source.text("CLUSTER MYID").map_err(away)?;
        let target_id = target.text("CLUSTER MYID").map_err(away)?;
        target.ask(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}")).map_err(away)?;
        source.ask(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}")).map_err(away)?;
        let mut moved = 0;
        loop {
            let keys = source.ask(&format!("CLUSTER GETKEYSINSLOT {slot} {KEYS}")).map_err(away)?;
            let keys: Vec<String> = redis::from_redis_value(keys).map_err(io::Error::other)?;
            if keys.is_empty() {
                break;
            }
            let port = target.port.to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "30000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            match source.ask_words(&words).map_err(away)? {
                // It went meanwhile.
                Value::SimpleString(word) if word == "NOKEY" => {}
                _ => moved += keys.len(),
            }
            // So that the load meets every state of a slot half moved.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        target.ask(&format!("CLUSTER SETSLOT {slot} NODE {target_id}")).map_err(away)?;
        source.ask(&format!("CLUSTER SETSLOT {slot} NODE {target_id}")).map_err(away)?;
        for node in &self.nodes[..PRIMARIES] {
            node.ask(&format!("CLUSTER SETSLOT {slot} NODE {target_id}")).map_err(away)?;
        }
        self.home = Some(to);
        Ok(format!("slot {slot} moved from {} to {}, {moved} keys", source.port, target.port))
    }
}
