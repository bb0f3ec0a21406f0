//! The servers of a phase, and what is done to them.

use std::{io, path::Path, time::Duration};

use crate::{
    cluster::Cluster,
    fleet::Fleet,
    judge::Victim,
    log,
    node::{Node, free_ports},
    sentinel::{DOWN_AFTER, Sentinels},
};

/// One fault: what was struck, and from when on consuming counts as consuming again.
#[derive(Debug)]
pub(crate) struct Strike {
    pub(crate) what: String,
    pub(crate) struck: Victim,
    /// When it was over.
    pub(crate) over: u64,
    /// Since when each worker's time counts.
    pub(crate) counts_from: u64,
}

#[derive(Debug)]
pub(crate) enum World {
    One(Node),
    Sentinels(Sentinels),
    Cluster(Cluster),
}

impl World {
    /// One server that has on disk what it acknowledged.
    async fn one(home: &Path) -> io::Result<Self> {
        let mut node = Node::new(home, free_ports(1)?[0], &["--appendfsync", "always"])?;
        node.boot()?;
        node.up().await?;
        Ok(Self::One(node))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::One(node) => format!("redis://127.0.0.1:{}/", node.port),
            Self::Sentinels(sentinels) => sentinels.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    /// How long the server has worked on commands, in all. What a script calls is counted with the script.
    pub(crate) fn micros(&self) -> u64 {
        let Self::One(node) = self else { return 0 };
        let report = node.text("INFO commandstats").unwrap_or_default();
        // A script's time holds what it calls: only what clients send is added up.
        let sent = |line: &str| {
            ["cmdstat_eval", "cmdstat_bzpopmin", "cmdstat_ping", "cmdstat_xread"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        let micros = |line: &str| line.split(',').find_map(|field| field.strip_prefix("usec=")?.parse::<u64>().ok());
        report.lines().filter(|line| sent(line)).filter_map(micros).sum()
    }

    /// Makes good what a fault left, where the next one needs it.
    pub(crate) async fn heal(&mut self) -> io::Result<()> {
        match self {
            Self::Sentinels(sentinels) => sentinels.heal().await,
            Self::One(_) | Self::Cluster(_) => Ok(()),
        }
    }
}

/// What is done again and again in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    KillWorker,
    RestartServer,
    FailOver,
    MigrateSlot,
}

impl Blow {
    /// How long each worker may take to consume again: since the fault began, or since the slot has moved.
    pub(crate) fn limit(self) -> Duration {
        let most = Duration::from_secs(5);
        if self == Self::FailOver { DOWN_AFTER + most } else { most }
    }

    /// The servers that it strikes.
    pub(crate) async fn world(self, home: &Path) -> io::Result<World> {
        match self {
            Self::KillWorker | Self::RestartServer => World::one(home).await,
            Self::FailOver => Ok(World::Sentinels(Sentinels::start(home).await?)),
            Self::MigrateSlot => Ok(World::Cluster(Cluster::start(home).await?)),
        }
    }

    pub(crate) async fn strike(
        self,
        world: &mut World,
        fleet: &mut Fleet,
        queue: &str,
        dice: u64,
    ) -> io::Result<Strike> {
        let begun = log::now();
        let everything = Victim::Everything { settled: false };
        let (what, struck) = match (self, world) {
            (Self::RestartServer, World::One(node)) => {
                node.kill();
                node.boot()?;
                node.up().await?;
                ("kill -9 of the server".to_owned(), everything)
            }
            (Self::FailOver, World::Sentinels(sentinels)) => (sentinels.fail_over().await?, everything),
            // Nobody dies: it excuses nothing.
            (Self::MigrateSlot, World::Cluster(cluster)) => (cluster.migrate(queue).await?, Victim::Nothing),
            _ => {
                let name = fleet.replace(usize::try_from(dice % 64).unwrap_or(0))?;
                (format!("kill -9 of {name}"), Victim::Worker(name))
            }
        };
        let over = log::now();
        let counts_from = if self == Self::MigrateSlot { over } else { begun };
        Ok(Strike { what, struck, over, counts_from })
    }
}
