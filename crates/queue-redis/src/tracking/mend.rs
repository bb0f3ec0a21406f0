//! Repairing what faults, or somebody's hand, broke in the records of a queue.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use queue_core::{QueueName, Result};
use redis::Value;
use tokio::time::Instant;

use super::{Inner, scripts};
use crate::{fault, link};

/// Rows that one script call looks at, and calls a sweep.
const ROWS: usize = 300;
const CALLS: usize = 10;
/// A queue that was looked through is so again after this.
const ROUND: Duration = Duration::from_secs(60);
/// Queues of which it is remembered when they were looked through; with more some are looked through too soon.
const MOST: usize = 10_000;

/// When each queue is looked through again.
#[derive(Debug, Default)]
pub(super) struct Rounds(Mutex<HashMap<QueueName, Instant>>);

impl Rounds {
    fn is_due(&self, queue: &QueueName) -> bool {
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(queue).copied();
        next.is_none_or(|next| next <= Instant::now())
    }

    fn done(&self, queue: &QueueName) {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rounds.len() >= MOST {
            rounds.clear();
        }
        rounds.insert(queue.clone(), Instant::now() + ROUND);
    }
}

impl Inner {
    /// Looks through a part of a queue, where that is due. What it finds wrong is put right, and said in the log.
    pub(super) async fn mend(&self, queue: &QueueName) -> Result<()> {
        if !self.rounds.is_due(queue) {
            return Ok(());
        }
        let broken = |what| fault::broken(what, "due").on(queue);
        let mut repairs = 0;
        for _ in 0..CALLS {
            let answer = self.run(&scripts::MEND, queue, &[ROWS.to_string()], "due").await?;
            let [made, round] = &answer[..] else { return Err(broken("two numbers are missing")) };
            repairs += link::number(made).map_err(broken)?;
            if *round == Value::Int(1) {
                self.rounds.done(queue);
                break;
            }
        }
        if repairs > 0 {
            tracing::warn!(%queue, repairs, "something had broken the records of a tracked queue; they are repaired");
        }
        Ok(())
    }
}
