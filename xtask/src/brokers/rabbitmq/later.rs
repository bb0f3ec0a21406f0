//! One node of the RabbitMQ that a later Debian has.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::{Kit, RabbitMq, node, root};

/// The tests start other nodes of the same with the programs in this folder.
const PROGRAMS_VAR: &str = "QUEUE_TEST_RABBITMQ_PROGRAMS";

/// By the name of Debian's suite.
#[derive(Debug)]
pub(crate) struct LaterRabbitMq(pub(crate) &'static str);

impl Kit for LaterRabbitMq {
    fn program(&self) -> &'static str {
        root::MAKER
    }

    fn packages(&self) -> &'static [&'static str] {
        &[root::MAKER]
    }

    fn service(&self) -> Option<(&'static str, u16)> {
        None
    }

    fn ports(&self) -> usize {
        RabbitMq.ports()
    }

    fn prepare(&self, brokers: &Path) -> Result<()> {
        root::make(brokers, self.0)
    }

    fn commands(&self, home: &Path, ports: &[u16]) -> Result<Vec<Command>> {
        let brokers = home.parent().context("data without a folder around it")?;
        node::commands(&node::Programs::within(root::programs(brokers, self.0)), home, ports, 1)
    }

    fn url(&self, ports: &[u16]) -> String {
        RabbitMq.url(ports)
    }

    fn ping(&self, ports: &[u16]) -> Result<()> {
        RabbitMq.ping(ports)
    }

    fn patience(&self) -> Duration {
        RabbitMq.patience()
    }

    fn for_tests(&self, brokers: &Path) -> Vec<(&'static str, String)> {
        let programs = root::programs(brokers, self.0);
        // One that is given by URL has no root.
        if programs.is_dir() { vec![(PROGRAMS_VAR, programs.display().to_string())] } else { Vec::new() }
    }
}
