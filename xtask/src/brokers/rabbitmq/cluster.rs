//! Three nodes, each a third of the votes of a quorum queue.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};

use super::{Kit, PACKAGES, PROGRAM, node, talk, url};
use crate::run;

const NODES: usize = 3;
/// For RabbitMQ's own tool.
const ASK: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct RabbitMqCluster;

impl Kit for RabbitMqCluster {
    fn program(&self) -> &'static str {
        PROGRAM
    }

    fn packages(&self) -> &'static [&'static str] {
        PACKAGES
    }

    /// A fault test kills single nodes, which it finds as processes.
    fn service(&self) -> Option<(&'static str, u16)> {
        None
    }

    fn ports(&self) -> usize {
        node::ports(NODES)
    }

    fn commands(&self, home: &Path, ports: &[u16]) -> Result<Vec<Command>> {
        node::commands(&node::Programs::installed(), home, ports, NODES)
    }

    /// A node listens when it has joined, or when it has given up finding the others: the first would be alone then.
    fn form(&self, home: &Path, ports: &[u16]) -> Result<()> {
        self.ping(ports)?;
        let mut ask = node::control(home, ports[0], ports[2 * NODES]);
        let said = run::captured(ask.args(["await_online_nodes", &NODES.to_string(), "--timeout", "10"]), ASK)?;
        ensure!(said.status.success(), "its nodes do not know each other: {}", said.last_line());
        Ok(())
    }

    /// Its nodes, of which a client takes whichever answers.
    fn url(&self, ports: &[u16]) -> String {
        url(&ports[..NODES])
    }

    fn ping(&self, ports: &[u16]) -> Result<()> {
        ports[..NODES].iter().try_for_each(|port| talk::greet(*port))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
}
