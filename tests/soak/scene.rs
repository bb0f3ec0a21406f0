//! What a fault finds going on: workers, producers, and the time that passes meanwhile.

use std::{io, sync::atomic::Ordering, time::Duration};

use queue_core::JobScheduler;
use tokio::time::Instant;

use super::{fleet::Fleet, load::Load, producers::Producers, show::Bar, stop};

/// A phase while it runs.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) producers: &'a Producers,
    pub(crate) scheduler: &'a JobScheduler,
    pub(crate) load: &'a Load,
    pub(crate) bar: &'a Bar,
    pub(crate) scale: f64,
    /// How many faults there will be.
    pub(crate) planned: u64,
    /// Which fault it is, from 0.
    pub(crate) number: u64,
    /// What it may choose its victim by.
    pub(crate) dice: u64,
    /// What was seen and must not be.
    pub(crate) complaints: Vec<String>,
}

impl Scene<'_> {
    /// A time that scale 1 gives in full, and a smaller one in part.
    pub(crate) fn scaled(&self, whole: Duration, least: Duration) -> Duration {
        whole.mul_f64(self.scale.min(1.0)).max(least)
    }

    /// Lets time pass, and reads what the workers write. Ends early where somebody asked to stop.
    pub(crate) async fn pass(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until && !stop::asked() {
            self.look()?;
            tokio::time::sleep(Duration::from_millis(20).min(until - Instant::now())).await;
        }
        Ok(())
    }

    pub(crate) fn look(&mut self) -> io::Result<()> {
        self.bar.show(self.fleet.ended.load(Ordering::Relaxed), self.number, self.planned);
        self.fleet.look()
    }

    pub(crate) fn complain(&mut self, what: impl Into<String>) {
        self.complaints.push(what.into());
    }
}
