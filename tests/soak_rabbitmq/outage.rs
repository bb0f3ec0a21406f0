//! The store is killed under load, and stays away for a while.

use std::{collections::HashSet, io, time::Duration};

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
    let (start, length) = (Instant::now(), scene.scaled(LONG, LEAST));
    let (mut accepted, mut last, mut silence) = (0_u64, Instant::now(), Duration::ZERO);
    while start.elapsed() < length && !stop::asked() {
        let (id, answer) = scene.producers.one_more(DEADLINE).await;
        if matches!(answer, Submitted::Accepted(_)) {
            accepted += 1;
            silence = silence.max(last.elapsed());
            last = Instant::now();
        }
        refuses_keys(scene, accepted).await;
        shows_nothing(scene, id).await;
        scene.pass(PAUSE).await?;
    }
    silence = silence.max(last.elapsed());
    store.boot()?;
    store.up().await?;
    let over = now();
    if silence > SILENCE && !stop::asked() {
        scene.complain(format!("nothing was accepted for {silence:?} while the store was away"));
    }
    let away = start.elapsed();
    settles(scene, &running).await?;
    Ok((format!("kill -9 of the store, away for {:.0} s, {accepted} published meanwhile", away.as_secs_f64()), over))
}

/// Nobody can tell whether a key is free.
async fn refuses_keys(scene: &mut Scene<'_>, number: u64) {
    let mut job = scene.load.job(u64::MAX - number);
    let key = UniqueKey::new(format!("outage-{}-{number}", scene.number)).ok();
    job.options.id = None;
    job.options.unique = key.map(|key| Unique { key, window: None });
    let options = PublishOptions { deadline: Duration::from_secs(1), ..PublishOptions::default() };
    let answer = scene.scheduler.submit(&scene.load.queue, vec![job], &options).await.remove(0);
    if matches!(answer, Submitted::Accepted(_) | Submitted::Duplicate(_)) {
        scene.complain(format!("a unique key without its store: {answer:?}"));
    }
}

/// What the store does not answer is unknown, and nothing else.
async fn shows_nothing(scene: &mut Scene<'_>, id: JobId) {
    let Ok(known) = scene.scheduler.store() else { return };
    let shown = known.get(&[JobRef::new(scene.load.queue.clone(), id)]).await.remove(0);
    if let Ok(Lookup::Found(_) | Lookup::NotFound | Lookup::Gone) = &shown {
        scene.complain(format!("a job without its store is shown as {shown:?}"));
    }
}

/// What ran when the store went has ended meanwhile: the store hears of it soon.
async fn settles(scene: &mut Scene<'_>, running: &HashSet<JobId>) -> io::Result<()> {
    let jobs: Vec<JobRef> = running.iter().map(|id| JobRef::new(scene.load.queue.clone(), *id)).collect();
    let store = scene.scheduler.store().map_err(io::Error::other)?;
    let start = Instant::now();
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
        if start.elapsed() > SETTLED {
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
