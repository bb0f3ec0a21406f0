//! A process with handlers.

use std::time::Duration;

use queue_core::{JobScheduler, worker::JobRequest};

use super::{Stop, persistently};
use crate::simulation::{life::Life, plan::Plan, script};

pub(super) async fn work(life: &Life, scheduler: &JobScheduler, plan: &Plan, stop: Stop) {
    let dice = life.dice();
    let slots = usize::try_from(dice.between(1, 4)).unwrap_or(1);
    let prefetch = dice.chance(0.5).then(|| usize::try_from(dice.below(4)).unwrap_or(0));
    let lease = plan.lease;
    let begin = || {
        let mut worker = scheduler.worker().name(life.name()).lease(lease).heartbeat_on_runtime();
        for queue in &plan.queues {
            worker = worker.queue(&queue.name, slots);
        }
        if let Some(jobs) = prefetch {
            worker = worker.prefetch(jobs);
        }
        let handler = life.clone();
        worker
            .fallback(tower::service_fn(move |request: JobRequest| script::run(handler.clone(), lease, request)))
            .start()
    };
    let Some(worker) = persistently(&stop, begin).await else { return };
    // Some stop in good order while others work on.
    let leaves = dice.chance(0.3) && life.sim().is_stormy();
    let tired = dice.millis(500, 8_000);
    tokio::select! {
        biased;
        () = stop.told() => {}
        () = tokio::time::sleep(tired), if leaves => {}
    }
    let report = worker.stop().await;
    life.sim().note(life.name(), 9, || format!("stopped: {report:?}"));
    life.sim().judge(|shadow, at| shadow.worker_stopped(at, life.number()));
    tokio::time::sleep(Duration::from_millis(1)).await;
}
