//! Redis, as Debian has it (7.0 and later): one server, one behind Sentinels, and a cluster.

mod cluster;
mod sentinel;
mod talk;

pub(crate) use cluster::RedisCluster;
pub(crate) use sentinel::RedisSentinel;

use std::{path::Path, process::Command};

use anyhow::Result;

use super::catalogue::Kit;

const PROGRAM: &str = "redis-server";
const PACKAGES: &[&str] = &["redis-server"];

/// One server.
#[derive(Debug)]
pub(crate) struct Redis;

impl Kit for Redis {
    fn program(&self) -> &'static str {
        PROGRAM
    }

    fn packages(&self) -> &'static [&'static str] {
        PACKAGES
    }

    fn service(&self) -> Option<(&'static str, u16)> {
        Some(("redis", 6379))
    }

    fn commands(&self, home: &Path, ports: &[u16]) -> Result<Vec<Command>> {
        ports.iter().map(|port| server(home, *port)).collect()
    }

    fn url(&self, ports: &[u16]) -> String {
        format!("redis://{}/", hosts(ports))
    }

    fn ping(&self, ports: &[u16]) -> Result<()> {
        ports.iter().try_for_each(|port| talk::expect(*port, "PING", "PONG"))
    }
}

/// A server with a folder of its own. What the provider asks of one in production holds here too: nothing is evicted, writes
/// are on disk.
fn server(home: &Path, port: u16) -> Result<Command> {
    let home = home.join(port.to_string());
    std::fs::create_dir_all(&home)?;
    let mut command = Command::new(PROGRAM);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no"]);
    command.args(["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]);
    command.arg("--dir").arg(&home).arg("--pidfile").arg(home.join("redis.pid"));
    Ok(command)
}

/// As they stand in a URL.
fn hosts(ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    hosts.join(",")
}
