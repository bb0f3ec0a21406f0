//! RabbitMQ, as this machine's Debian has it (3.10 and later): one node, and a cluster of three; and as a later Debian has it.

mod cluster;
mod later;
mod node;
mod root;
mod talk;

pub(crate) use cluster::RabbitMqCluster;
pub(crate) use later::LaterRabbitMq;

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;

use super::catalogue::Kit;

const PROGRAM: &str = "rabbitmq-server";
const PACKAGES: &[&str] = &["rabbitmq-server"];

/// One node.
#[derive(Debug)]
pub(crate) struct RabbitMq;

impl Kit for RabbitMq {
    fn program(&self) -> &'static str {
        PROGRAM
    }

    fn packages(&self) -> &'static [&'static str] {
        PACKAGES
    }

    fn service(&self) -> Option<(&'static str, u16)> {
        Some(("rabbitmq", 5672))
    }

    fn ports(&self) -> usize {
        node::ports(1)
    }

    fn commands(&self, home: &Path, ports: &[u16]) -> Result<Vec<Command>> {
        node::commands(&node::Programs::installed(), home, ports, 1)
    }

    fn url(&self, ports: &[u16]) -> String {
        url(&ports[..1])
    }

    /// The listener is the last thing that a node opens: who is greeted there finds everything up.
    fn ping(&self, ports: &[u16]) -> Result<()> {
        talk::greet(ports[0])
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// The default virtual host, whose name is `/`.
fn url(ports: &[u16]) -> String {
    let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("amqp://guest:guest@{}/%2f", hosts.join(","))
}
