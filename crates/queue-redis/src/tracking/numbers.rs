//! A number for each queue. A fence names no queue, and must lead to one, in whatever process: the number stands in its epoch.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use queue_core::{Error, ErrorCode, QueueName, Result};
use redis::Value;

use super::{Inner, scripts};
use crate::{SCHEME, fault, link};

/// Tickets keep up with the clock, four a millisecond of the epoch, so these last until the year 2109.
const TICKET_BITS: u32 = 44;
/// As many queues can a store have known.
const MOST: u64 = (1 << (u64::BITS - TICKET_BITS)) - 1;

/// Those that are known here; they never change.
#[derive(Debug, Default)]
pub(super) struct Numbers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<QueueName, u64>,
    names: HashMap<u64, QueueName>,
}

impl Numbers {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, queue: &QueueName, number: u64) {
        let mut known = self.lock();
        known.numbers.insert(queue.clone(), number);
        known.names.insert(number, queue.clone());
    }
}

pub(super) fn epoch_of(number: u64, ticket: u64) -> u64 {
    number << TICKET_BITS | ticket
}

pub(super) fn ticket_of(epoch: u64) -> u64 {
    epoch & ((1 << TICKET_BITS) - 1)
}

impl Inner {
    /// The queue's number. The first who asks enters the queue in the list of all, before it holds a job.
    pub(super) async fn number(&self, queue: &QueueName, operation: &'static str) -> Result<u64> {
        if let Some(number) = self.numbers.lock().numbers.get(queue) {
            return Ok(*number);
        }
        let (link, layout) = (&self.shared.link, &self.shared.layout);
        let fail = |error: redis::RedisError| fault::of(&error, operation).on(queue);
        let enter = redis::cmd("ZADD").arg(layout.queues()).arg(0).arg(queue.as_str()).take();
        link.ask(&enter).await.map_err(fail)?;
        let number = link.run(&scripts::NUMBER, layout.numbers(), &[queue.as_str()]).await.map_err(fail)?;
        let number = link::number(&number).ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        if number == 0 || number > MOST {
            let message =
                format!("a tracking store numbers {MOST} queues at most, and this one has no room for another");
            return Err(Error::new(ErrorCode::Internal, message).at(operation).by(SCHEME).on(queue));
        }
        self.tell_who_watches_all(queue).await.map_err(fail)?;
        self.numbers.note(queue, number);
        Ok(number)
    }

    /// Whoever watches all queues hears of a new one's jobs at once.
    async fn tell_who_watches_all(&self, queue: &QueueName) -> redis::RedisResult<()> {
        let (link, layout) = (&self.shared.link, &self.shared.layout);
        let watched = link.ask(redis::cmd("GET").arg(layout.watched())).await?;
        if watched != Value::Nil {
            let until = link::text(watched).unwrap_or_default();
            let tell = redis::cmd("HSETNX").arg(format!("{}n", self.base(queue))).arg("watched").arg(until).take();
            link.ask(&tell).await?;
        }
        Ok(())
    }

    /// The queue whose claim gave out this epoch; `None` where this store never gave it.
    pub(super) async fn queue_of(&self, epoch: u64, operation: &'static str) -> Result<Option<QueueName>> {
        let number = epoch >> TICKET_BITS;
        if let Some(queue) = self.numbers.lock().names.get(&number) {
            return Ok(Some(queue.clone()));
        }
        let ask = redis::cmd("HGET").arg(self.shared.layout.numbers()).arg(format!("n{number}")).take();
        let name = self.shared.link.ask(&ask).await.map_err(|error| fault::of(&error, operation))?;
        let queue = link::text(name).ok().and_then(|name| QueueName::new(name).ok());
        if let Some(queue) = &queue {
            self.numbers.note(queue, number);
        }
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_holds_both_numbers() {
        let (number, ticket) = (MOST, (1 << TICKET_BITS) - 1);
        let epoch = epoch_of(number, ticket);
        assert_eq!((epoch >> TICKET_BITS, ticket_of(epoch)), (number, ticket));
        assert_ne!(epoch_of(1, 7), epoch_of(2, 7));
    }
}
