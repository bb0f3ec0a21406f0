//! Repairing what faults, or somebody's hand, broke.

use std::time::Duration;

use queue_core::{QueueName, Result, config::defaults};
use redis::Value;

use crate::{
    fault,
    link::{items, number},
    provider::{BATCH, Shared, TICKS},
    scripts,
    specs::Known,
};

/// Rows that one script call looks at.
const ROWS: usize = 300;
/// Calls a tick. A queue with more rows is looked through in several ticks.
const CALLS: usize = 10;
/// A queue that was looked through is so again after this.
const ROUND: Duration = Duration::from_secs(60);

impl Shared {
    /// A tick of one queue's upkeep; answers when the next is due, or nothing where it is gone.
    pub(crate) async fn maintain(&self, queue: &QueueName) -> Result<Option<Duration>> {
        let Some(known) = self.specs.find(&self.link, &self.layout, queue).await? else { return Ok(None) };
        let mut ticked = Ok(Duration::ZERO);
        // Others want a turn, too.
        for _ in 0..TICKS {
            ticked = self.tick(&known, &known.spec.retention, BATCH).await.map(|tick| tick.next);
            if !matches!(ticked, Ok(Duration::ZERO)) {
                break;
            }
        }
        // Where time cannot do its work, what is broken may be why.
        let mended = self.mend(&known).await;
        Ok(Some(ticked?.min(mended?)))
    }

    /// Goes on looking through a queue; answers when it is worth going on.
    pub(crate) async fn mend(&self, known: &Known) -> Result<Duration> {
        let queue = &known.spec.name;
        let mut repairs = 0;
        let mut done = false;
        for _ in 0..CALLS {
            let answer = self.link.run(&scripts::MEND, &known.base, &[ROWS.to_string()]).await;
            let answer = answer.map_err(|error| fault::of(&error, "maintain").on(queue))?;
            let broken = |what| fault::broken(what, "maintain").on(queue);
            let answer = items(answer).map_err(broken)?;
            let [made, round] = &answer[..] else { return Err(broken("two numbers are missing")) };
            repairs += number(made).map_err(broken)?;
            done = *round == Value::Int(1);
            if done {
                break;
            }
        }
        if repairs > 0 {
            tracing::warn!(%queue, repairs, "something had broken the queue's records; they are repaired");
        }
        Ok(if done { ROUND } else { defaults::MAINTENANCE_TICK })
    }
}
