//! A process of somebody who meddles.

use std::time::Duration;

use queue_core::{
    JobRef, JobScheduler, QueueName,
    provider::{Cancel, ParkKey, Redrive},
};

use super::Stop;
use crate::simulation::{bias::PARKED_BY_HAND, dice::Dice, life::Life, plan::Plan};

pub(super) async fn operate(life: &Life, scheduler: &JobScheduler, plan: &Plan, stop: Stop) {
    scheduler_begins(scheduler, plan).await;
    let meddling = async {
        while life.sim().is_stormy() {
            tokio::time::sleep(life.dice().millis(100, 2_500)).await;
            meddle(life, scheduler, plan).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.told() => return,
        () = meddling => {}
    }
    stop.told().await;
}

/// Asks something, so that its maintenance begins.
pub(super) async fn scheduler_begins(scheduler: &JobScheduler, plan: &Plan) {
    for queue in &plan.queues {
        let _ = scheduler.declare(queue.clone()).await;
    }
}

async fn meddle(life: &Life, scheduler: &JobScheduler, plan: &Plan) {
    let dice = life.dice();
    let queue = &plan.queues[usize::try_from(dice.below(plan.queues.len() as u64)).unwrap_or(0)].name;
    match dice.below(10) {
        0..4 => cancel(life, scheduler, dice).await,
        4 | 5 => {
            if scheduler.admin().pause(queue, true).await.is_ok() {
                tokio::time::sleep(dice.millis(200, 3_000)).await;
                resume(scheduler, queue).await;
            }
        }
        6 => redrive(life, scheduler, dice).await,
        7 => {
            let _ = scheduler.provider().unpark(queue, &ParkKey(PARKED_BY_HAND.into()), 2).await;
        }
        _ => {
            let _ = scheduler.stats(queue).await;
        }
    }
}

/// A queue that stays paused is no fault of anybody's: until it works.
async fn resume(scheduler: &JobScheduler, queue: &QueueName) {
    while scheduler.admin().pause(queue, false).await.is_err() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn pick(all: &[JobRef], dice: &Dice) -> Option<JobRef> {
    all.get(usize::try_from(dice.below(all.len() as u64)).unwrap_or(0)).cloned()
}

async fn cancel(life: &Life, scheduler: &JobScheduler, dice: &Dice) {
    let known = life.sim().judge(|shadow, _| shadow.known());
    let Some(job) = pick(&known, dice) else { return };
    let cancel = Cancel { grace: dice.millis(0, 2_000), ..Cancel::by("the operator") };
    // A bare transport cannot, and says so.
    let _ = scheduler.cancel(&job, &cancel).await;
}

async fn redrive(life: &Life, scheduler: &JobScheduler, dice: &Dice) {
    let dead = life.sim().judge(|shadow, _| shadow.dead());
    let Some(job) = pick(&dead, dice) else { return };
    let _ = scheduler.admin().redrive(&job.queue, &Redrive::one(job.id)).await;
}
