//! Three primaries that share the slots, each with a replica.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};

use super::{Kit, PACKAGES, PROGRAM, Redis, hosts, server, talk};

const PRIMARIES: usize = 3;
const SERVERS: usize = 2 * PRIMARIES;
const SLOTS: usize = 16_384;
/// A node that does not answer for that long is down. Short, so that a test of a failover takes seconds.
const DOWN_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct RedisCluster;

impl Kit for RedisCluster {
    fn program(&self) -> &'static str {
        PROGRAM
    }

    fn packages(&self) -> &'static [&'static str] {
        PACKAGES
    }

    /// Its servers tell each other's addresses to clients, which those of containers would not reach.
    fn service(&self) -> Option<(&'static str, u16)> {
        None
    }

    /// One for clients and one for its fellows, each.
    fn ports(&self) -> usize {
        2 * SERVERS
    }

    fn commands(&self, home: &Path, ports: &[u16]) -> Result<Vec<Command>> {
        let (servers, buses) = ports.split_at(SERVERS);
        let pairs = servers.iter().zip(buses);
        let node = |(port, bus): (&u16, &u16)| {
            let mut command = server(home, *port)?;
            command.args(["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
            command.args(["--cluster-port", &bus.to_string()]);
            command.args(["--cluster-node-timeout", &DOWN_AFTER.as_millis().to_string()]);
            Ok(command)
        };
        pairs.map(node).collect()
    }

    /// Safe to begin again at any point: every step asks before it acts.
    fn form(&self, _: &Path, ports: &[u16]) -> Result<()> {
        let (servers, buses) = ports.split_at(SERVERS);
        Redis.ping(servers)?;
        for (index, port) in servers[..PRIMARIES].iter().enumerate() {
            if talk::has(&talk::ask(*port, "CLUSTER INFO")?, "cluster_slots_assigned:0") {
                let (from, to) = (index * SLOTS / PRIMARIES, (index + 1) * SLOTS / PRIMARIES - 1);
                talk::expect(*port, &format!("CLUSTER ADDSLOTSRANGE {from} {to}"), "OK")?;
            }
        }
        // Each meeting counts as another node until it has come about: who is known is not met again.
        let known = talk::ask(servers[0], "CLUSTER NODES")?;
        for (port, bus) in servers.iter().zip(buses) {
            if !known.contains(&format!("127.0.0.1:{port}@{bus} ")) {
                talk::expect(servers[0], &format!("CLUSTER MEET 127.0.0.1 {port} {bus}"), "OK")?;
            }
        }
        everybody(servers, &format!("cluster_known_nodes:{SERVERS}"))?;
        for (primary, replica) in servers.iter().zip(&servers[PRIMARIES..]) {
            let id = talk::ask(*primary, "CLUSTER MYID")?;
            talk::expect(*replica, &format!("CLUSTER REPLICATE {id}"), "OK")?;
        }
        Ok(())
    }

    fn url(&self, ports: &[u16]) -> String {
        format!("redis+cluster://{}/", hosts(&ports[..SERVERS]))
    }

    fn ping(&self, ports: &[u16]) -> Result<()> {
        let servers = &ports[..SERVERS];
        everybody(servers, "cluster_state:ok")?;
        for replica in &servers[PRIMARIES..] {
            let report = talk::ask(*replica, "INFO replication")?;
            let follows = talk::has(&report, "master_link_status:up") || talk::has(&report, "role:master");
            ensure!(follows, "{replica} has not caught up: {report}");
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

fn everybody(servers: &[u16], line: &str) -> Result<()> {
    for port in servers {
        let report = talk::ask(*port, "CLUSTER INFO")?;
        ensure!(talk::has(&report, line), "{port} does not say {line}: {report}");
    }
    Ok(())
}
