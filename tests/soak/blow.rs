//! What a soak does to its servers and workers.

use std::{fmt::Debug, io, path::Path, time::Duration};

use super::{judge::Victim, load::LEASE, scene::Scene};

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

/// The servers of a phase.
pub(crate) trait World: Debug {
    /// Where workers and producers connect to.
    fn url(&self) -> String;

    /// Makes good what a fault left, where the next one needs it.
    async fn heal(&mut self) -> io::Result<()>;

    /// Called when all is judged; tells what this world saw by itself and must not be.
    async fn finish(&mut self) -> io::Result<Vec<String>>;
}

/// What is done again and again in a phase.
pub(crate) trait Blow: Copy + Debug {
    type World: World;

    /// How long each worker may take to consume again, since [`Strike::counts_from`].
    fn limit(self) -> Duration;

    /// How long a worker holds a job without renewing.
    fn lease(self) -> Duration {
        LEASE
    }

    /// The servers that it strikes.
    async fn world(self, home: &Path) -> io::Result<Self::World>;

    async fn strike(self, world: &mut Self::World, scene: &mut Scene<'_>) -> io::Result<Strike>;
}

/// kill -9 of one worker process.
pub(crate) fn kill_worker(scene: &mut Scene<'_>) -> io::Result<Strike> {
    let begun = super::now();
    let name = scene.fleet.replace(usize::try_from(scene.dice % 64).unwrap_or(0))?;
    let what = format!("kill -9 of {name}");
    Ok(Strike { what, struck: Victim::Worker(name), over: super::now(), counts_from: begun })
}
