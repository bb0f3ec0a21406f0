//! A primary and two replicas under three Sentinels, which elect another primary when it is gone for a second.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};

use super::{Kit, PACKAGES, PROGRAM, Redis, hosts, server, talk};

/// What the Sentinels call the primary.
const NAME: &str = "queue";
const SERVERS: usize = 3;
const SENTINELS: usize = 3;
/// A primary that does not answer for that long is down. Short, so that a test of a failover takes seconds.
const DOWN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct RedisSentinel;

impl Kit for RedisSentinel {
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

    fn ports(&self) -> usize {
        SERVERS + SENTINELS
    }

    fn commands(&self, home: &Path, ports: &[u16]) -> Result<Vec<Command>> {
        let (servers, sentinels) = ports.split_at(SERVERS);
        let primary = servers[0].to_string();
        let mut commands = Vec::new();
        for port in servers {
            let mut command = server(home, *port)?;
            if *port != servers[0] {
                command.args(["--replicaof", "127.0.0.1", &primary]);
            }
            commands.push(command);
        }
        for port in sentinels {
            commands.push(sentinel(home, *port, &primary)?);
        }
        Ok(commands)
    }

    fn url(&self, ports: &[u16]) -> String {
        format!("redis+sentinel://{}/{NAME}", hosts(&ports[SERVERS..]))
    }

    /// Up is when each Sentinel knows the replicas and its fellows: before that there is no failover.
    fn ping(&self, ports: &[u16]) -> Result<()> {
        Redis.ping(&ports[..SERVERS])?;
        for port in &ports[SERVERS..] {
            talk::ask(*port, &format!("SENTINEL CKQUORUM {NAME}"))?;
            let report = talk::ask(*port, "INFO sentinel")?;
            let known = format!(",slaves={},sentinels={SENTINELS}", SERVERS - 1);
            ensure!(report.lines().any(|line| line.contains("status=ok") && line.ends_with(&known)), "{report}");
        }
        Ok(())
    }

    /// Sentinels find each other through the primary, which they ask every other second.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// It writes what it learns into its configuration.
fn sentinel(home: &Path, port: u16, primary: &str) -> Result<Command> {
    let home = home.join(port.to_string());
    fs::create_dir_all(&home)?;
    let file = home.join("sentinel.conf");
    let lines = [
        format!("bind 127.0.0.1\nport {port}\ndaemonize no\ndir {}", home.display()),
        format!("sentinel monitor {NAME} 127.0.0.1 {primary} {}", SENTINELS / 2 + 1),
        format!("sentinel down-after-milliseconds {NAME} {}", DOWN_AFTER.as_millis()),
        format!("sentinel failover-timeout {NAME} 10000"),
        format!("sentinel parallel-syncs {NAME} {}\n", SERVERS - 1),
    ];
    fs::write(&file, lines.join("\n"))?;
    let mut command = Command::new(PROGRAM);
    command.arg(&file).arg("--sentinel");
    Ok(command)
}
