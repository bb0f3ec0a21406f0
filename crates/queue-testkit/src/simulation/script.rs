//! What handlers do: drawn for each run of each job, so that a job fails as often as its seed wants and then succeeds.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use queue_core::{
    Failure, JobContext, JobId,
    worker::{JobRequest, JobResult},
};

use super::{dice::Dice, life::Life, words};

#[derive(Debug, Clone, Copy)]
enum Act {
    Succeed,
    /// Longer than a lease lasts.
    Linger,
    Fail,
    FailFor(Duration),
    Never,
    Snooze(Duration),
    Cancel,
    Panic,
    /// Until somebody stops it.
    Hang,
    /// Says how far it is.
    Tell,
}

impl Act {
    fn draw(dice: &Dice) -> Self {
        match dice.below(100) {
            0..30 => Self::Succeed,
            30..40 => Self::Linger,
            40..63 => Self::Fail,
            63..68 => Self::FailFor(dice.millis(0, 2_000)),
            68..72 => Self::Never,
            72..79 => Self::Snooze(dice.millis(0, 2_000)),
            79..82 => Self::Cancel,
            82..88 => Self::Panic,
            88..92 => Self::Hang,
            _ => Self::Tell,
        }
    }
}

/// Tells the judge when a handler ends, also when it is dropped.
struct Running {
    life: Life,
    id: JobId,
}

impl Drop for Running {
    fn drop(&mut self) {
        let (life, id) = (self.life.number(), self.id);
        self.life.sim().judge(|shadow, at| shadow.run_ends(at, life, id));
    }
}

pub(super) type Run = Pin<Box<dyn Future<Output = JobResult> + Send>>;

/// One run of a job in a process.
pub(super) fn run(life: Life, lease: Duration, request: JobRequest) -> Run {
    Box::pin(async move {
        if life.is_dead() {
            // A dead process runs nothing; its tasks are about to be dropped.
            std::future::pending::<()>().await;
        }
        let job = request.context;
        let (id, sim) = (job.id(), life.sim().clone());
        let before = sim.judge(|shadow, at| {
            let before = shadow.runs_of(id);
            shadow.run_begins(at, life.number(), id, job.attempt());
            before
        });
        let running = Running { life: life.clone(), id };
        let number = words::number_of(id).unwrap_or(u64::MAX);
        let dice = sim.dice("run", number.wrapping_mul(64).wrapping_add(u64::from(before)));
        let patience = sim.dice("patience", number).below(5);
        let act = if u64::from(before) >= patience { Act::Succeed } else { Act::draw(&dice) };
        sim.note(life.name(), 8, || format!("runs {} attempt {}: {act:?}", words::job(id), job.attempt()));
        let result = perform(act, &dice, &job, lease).await;
        drop(running);
        result
    })
}

async fn perform(act: Act, dice: &Dice, job: &JobContext, lease: Duration) -> JobResult {
    let some_time = async || {
        if dice.chance(0.6) {
            tokio::time::sleep(dice.millis(1, 400)).await;
        }
    };
    some_time().await;
    let done = || Ok(dice.chance(0.5).then(|| Bytes::from_static(b"\"done\"")));
    match act {
        Act::Succeed => done(),
        Act::Linger => {
            tokio::time::sleep(lease.mul_f64(0.5 + dice.below(20) as f64 / 10.0)).await;
            done()
        }
        Act::Fail => Err(Failure::retry("as planned")),
        Act::FailFor(after) => Err(Failure::RetryAfter(after, queue_core::JobError::custom("PLANNED", "as planned"))),
        Act::Never => Err(Failure::never("as planned")),
        Act::Snooze(after) => Err(Failure::Snooze(after)),
        Act::Cancel => Err(Failure::Cancel),
        // Not `panic!`: its hook would print a line for each.
        Act::Panic => std::panic::resume_unwind(Box::new("as planned")),
        Act::Hang => {
            if dice.chance(0.5) {
                job.cancelled().await;
            } else {
                std::future::pending::<()>().await;
            }
            Err(Failure::retry("stopped"))
        }
        Act::Tell => {
            job.progress(50.0);
            job.log("half of it is done");
            some_time().await;
            job.progress(100.0);
            done()
        }
    }
}
