//! The store is killed under load, and stays away for a while.

use std::{cell::RefCell, collections::HashSet, io, time::Duration};

use queue_core::{
    JobId, JobRef,
    job::{Unique, UniqueKey},
    lifecycle::JobState,
    provider::PublishOptions,
    scheduler::Submitted,
    store::Lookup,
};
use tokio::time::Instant;

use crate::soak::{node::Node, now, scene::Scene, stop};

const LONG: Duration = Duration::from_secs(30);
/// Longer than a lease, at any scale.
const LEAST: Duration = Duration::from_secs(8);
const DEADLINE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
/// So long may it take until a publish is accepted, from the first moment on.
const SILENCE: Duration = Duration::from_secs(3);
/// What was running when the store went is settled in it so long after it is back.
const SETTLED: Duration = Duration::from_secs(10);

/// Returns when the store is back, and says when that was.
pub(crate) async fn strike(store: &mut Node, scene: &mut Scene<'_>) -> io::Result<(String, u64)> {
    scene.look()?;
    let running = scene.fleet.running();
    store.kill();
    let until = Instant::now() + scene.scaled(LONG, LEAST);
    let seen = Seen { scene, until, complaints: Vec::new().into() };
    let (accepted, (), ()) = tokio::join!(seen.goes_on(), seen.refuses_keys(), seen.shows_nothing());
    let complaints = seen.complaints.into_inner();
    scene.complaints.extend(complaints);
    scene.look()?;
    store.boot()?;
    store.up().await?;
    let (over, back) = (now(), Instant::now());
    settles(scene, &running, back).await?;
    Ok((format!("kill -9 of the store, {accepted} jobs published meanwhile"), over))
}

/// What is seen while the store is away.
struct Seen<'a, 'b> {
    scene: &'a Scene<'b>,
    until: Instant,
    complaints: RefCell<Vec<String>>,
}

impl Seen<'_, '_> {
    async fn lasts(&self) -> bool {
        tokio::time::sleep(PAUSE).await;
        Instant::now() < self.until && !stop::asked()
    }

    fn complain(&self, what: String) {
        self.complaints.borrow_mut().push(what);
    }

    /// Publishing does.
    async fn goes_on(&self) -> u64 {
        let (mut accepted, mut last, mut silence) = (0, Instant::now(), Duration::ZERO);
        while self.lasts().await {
            let (_, answer) = self.scene.producers.one_more(DEADLINE).await;
            silence = silence.max(last.elapsed());
            if matches!(answer, Submitted::Accepted(_)) {
                accepted += 1;
                last = Instant::now();
            }
        }
        if silence > SILENCE {
            self.complain(format!("nothing was accepted for {silence:?} while the store was away"));
        }
        accepted
    }

    /// Nobody can tell whether a key is free.
    async fn refuses_keys(&self) {
        let load = self.scene.load;
        let mut number = u64::MAX - self.scene.number * 1_000_000;
        while self.lasts().await {
            number -= 1;
            let mut job = load.job(number);
            let key = UniqueKey::new(format!("{number}")).ok();
            job.options.unique = key.map(|key| Unique { key, window: None });
            let options = PublishOptions { deadline: DEADLINE, ..PublishOptions::default() };
            let answer = self.scene.scheduler.submit(&load.queue, vec![job], &options).await.remove(0);
            if matches!(answer, Submitted::Accepted(_) | Submitted::Duplicate(_)) {
                self.complain(format!("a unique key without its store: {answer:?}"));
            }
        }
    }

    /// What the store does not answer is unknown, and nothing else.
    async fn shows_nothing(&self) {
        let load = self.scene.load;
        let Ok(store) = self.scene.scheduler.store() else { return };
        let mut number = 0;
        while self.lasts().await {
            // A later one each time, at the end those that were published meanwhile.
            number = self.scene.producers.begun().saturating_sub(1).max(number);
            let shown = store.get(&[JobRef::new(load.queue.clone(), load.id(number))]).await.remove(0);
            if let Ok(Lookup::Found(_) | Lookup::NotFound | Lookup::Gone) = &shown {
                self.complain(format!("a job without its store is shown as {shown:?}"));
            }
        }
    }
}

/// What ran when the store went has ended meanwhile: the store hears of it soon.
async fn settles(scene: &mut Scene<'_>, running: &HashSet<JobId>, back: Instant) -> io::Result<()> {
    let jobs: Vec<JobRef> = running.iter().map(|id| JobRef::new(scene.load.queue.clone(), *id)).collect();
    let store = scene.scheduler.store().map_err(io::Error::other)?;
    loop {
        let mut open = Vec::new();
        for (job, answer) in jobs.iter().zip(store.get(&jobs).await) {
            match answer {
                Ok(Lookup::Found(record)) if record.state != JobState::Running => {}
                other => open.push(format!("{}: {:?}", job.id, other.map(|shown| state(&shown)))),
            }
        }
        if open.is_empty() || stop::asked() {
            return Ok(());
        }
        if back.elapsed() > SETTLED {
            let example = open.swap_remove(0);
            let (left, all) = (open.len() + 1, jobs.len());
            scene.complain(format!("{left} of {all} that ran when the store went are not settled, such as {example}"));
            return Ok(());
        }
        scene.pass(PAUSE).await?;
    }
}

fn state(shown: &Lookup) -> String {
    match shown {
        Lookup::Found(record) => format!("{:?}", record.state),
        other => format!("{other:?}"),
    }
}
