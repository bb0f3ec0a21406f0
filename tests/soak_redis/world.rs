//! The servers of a phase, and what is done to them.

use std::{io, path::Path, time::Duration};

use crate::{
    cluster::Cluster,
    sentinel::{DOWN_AFTER, Sentinels},
    soak::{
        blow::{self, Strike},
        judge::Victim,
        node::{Node, free_ports},
        now,
        scene::Scene,
    },
};

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
}

impl blow::World for World {
    fn url(&self) -> String {
        match self {
            Self::One(node) => format!("redis://127.0.0.1:{}/", node.port),
            Self::Sentinels(sentinels) => sentinels.url(),
            Self::Cluster(cluster) => cluster.url(),
        }
    }

    async fn heal(&mut self) -> io::Result<()> {
        match self {
            Self::Sentinels(sentinels) => sentinels.heal().await,
            Self::One(_) | Self::Cluster(_) => Ok(()),
        }
    }

    async fn finish(&mut self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
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

impl blow::Blow for Blow {
    type World = World;

    /// Since the fault began, or since the slot has moved.
    fn limit(self) -> Duration {
        let most = Duration::from_secs(5);
        if self == Self::FailOver { DOWN_AFTER + most } else { most }
    }

    async fn world(self, home: &Path) -> io::Result<World> {
        match self {
            Self::KillWorker | Self::RestartServer => World::one(home).await,
            Self::FailOver => Ok(World::Sentinels(Sentinels::start(home).await?)),
            Self::MigrateSlot => Ok(World::Cluster(Cluster::start(home).await?)),
        }
    }

    async fn strike(self, world: &mut World, scene: &mut Scene<'_>) -> io::Result<Strike> {
        let begun = now();
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
            (Self::MigrateSlot, World::Cluster(cluster)) => {
                (cluster.migrate(scene.load.queue.as_str()).await?, Victim::Nothing)
            }
            _ => return blow::kill_worker(scene),
        };
        let over = now();
        let counts_from = if self == Self::MigrateSlot { over } else { begun };
        Ok(Strike { what, struck, over, counts_from })
    }
}
