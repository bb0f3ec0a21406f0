//! The servers of a phase, and what is done to them.

use std::{io, path::Path, time::Duration};

use crate::{
    fleet::Fleet,
    judge::Victim,
    log,
    node::{Node, free_ports},
};

/// One fault: what was struck, and from when on consuming counts as consuming again.
#[derive(Debug)]
pub(crate) struct Strike {
    pub(crate) what: String,
    pub(crate) struck: Victim,
    /// When it began,
    pub(crate) begun: u64,
    /// and when it was over.
    pub(crate) over: u64,
}

#[derive(Debug)]
pub(crate) enum World {
    One(Node),
}

impl World {
    /// One server that has on disk what it acknowledged.
    pub(crate) async fn one(home: &Path) -> io::Result<Self> {
        let mut node = Node::new(home, free_ports(1)?[0], &["--appendfsync", "always"])?;
        node.boot()?;
        node.up().await?;
        Ok(Self::One(node))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::One(node) => format!("redis://127.0.0.1:{}/", node.port),
        }
    }
}

/// What is done again and again in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    KillWorker,
    RestartServer,
}

impl Blow {
    /// How long after its begin each worker must consume again.
    pub(crate) fn limit(self) -> Duration {
        match self {
            Self::KillWorker | Self::RestartServer => Duration::from_secs(5),
        }
    }

    /// The servers that it strikes.
    pub(crate) async fn world(self, home: &Path) -> io::Result<World> {
        match self {
            Self::KillWorker | Self::RestartServer => World::one(home).await,
        }
    }

    pub(crate) async fn strike(self, world: &mut World, fleet: &mut Fleet, dice: u64) -> io::Result<Strike> {
        let begun = log::now();
        match (self, world) {
            (Self::KillWorker, _) => {
                let (name, over) = fleet.replace(usize::try_from(dice % 64).unwrap_or(0))?;
                Ok(Strike { what: format!("kill -9 of {name}"), struck: Victim::Worker(name), begun, over })
            }
            (Self::RestartServer, World::One(node)) => {
                node.kill();
                node.boot()?;
                node.up().await?;
                let what = "kill -9 of the server".to_owned();
                Ok(Strike { what, struck: Victim::Everything { settled: false }, begun, over: log::now() })
            }
        }
    }
}
