//! Makes what stands on the broker: idempotent, and as `layout.rs` names it.

use std::sync::atomic::{AtomicU8, Ordering};

use lapin::{
    Channel, ExchangeKind,
    options::{
        BasicGetOptions, BasicNackOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use queue_core::{Error, ErrorCode, QueueName, QueueSpec, Result};

use crate::{
    RabbitOptions, SCHEME, delay,
    layout::{BANDS, Layout},
    link::{Connection, Lane},
};

/// The broker's own limit of deliveries is a backstop behind the scheduler's, which stands at `max_deliveries`.
const BACKSTOP: u32 = 10;

/// Of jobs that came due for a queue that is gone, so many are kept, for so long.
const ORPHANS: i64 = 10_000;
const ORPHANS_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// What is declared once for all queues, and is remembered.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    /// Rungs of the ladder that stand, from the lowest; one more than that, for the foot alone is 1.
    rungs: AtomicU8,
}

/// A limit of deliveries that is never reached. From 4.0 a queue without one has 20; those before 4.0 take -1, with which later
/// ones mean none, for a limit that is reached at once, and drop the message.
const ENDLESS: i64 = i32::MAX as i64;

/// Operations, as errors name them.
const DECLARE: &str = "declare";
const DROP: &str = "drop_queue";

impl Topology {
    /// Something of what all queues share is missing: it is declared again.
    pub(crate) fn forget(&self) {
        self.rungs.store(0, Ordering::Release);
    }

    /// Whether all of a queue stands, whoever declared it. The queue of band 1 is declared last.
    pub(crate) async fn stands(&self, connection: &Connection, layout: &Layout, queue: &QueueName) -> Result<bool> {
        Ok(self.depth(connection, layout.ready(queue, 1), "declare").await?.is_some())
    }

    /// Declares a queue: its bands, its dead letters, and its place at the foot of the ladder.
    pub(crate) async fn declare(
        &self,
        connection: &Connection,
        layout: &Layout,
        options: &RabbitOptions,
        spec: &QueueSpec,
    ) -> Result<()> {
        self.climb(connection, layout, None).await?;
        let queue = &spec.name;
        let declared = async {
            self.declare_dead(connection, layout, queue).await?;
            let lane = connection.channel(DECLARE).await?.patient();
            for band in [0, 2, 3, 1] {
                let name = layout.ready(queue, band);
                let arguments = ready_arguments(layout, options, spec);
                lane.answer(DECLARE, declare_queue(&lane, name.clone(), arguments)).await?;
                let key = delay::foot(&Layout::destination(queue, band));
                lane.answer(DECLARE, bind_queue(&lane, name, layout.due(), &key)).await?;
            }
            lane.farewell().await;
            Ok(())
        };
        declared.await.map_err(|error: Error| inequivalent(error).on(queue))
    }

    /// Makes what somebody removed of a queue that stands. One that was declared otherwise is left as it is.
    pub(crate) async fn restore(
        &self,
        connection: &Connection,
        layout: &Layout,
        options: &RabbitOptions,
        spec: &QueueSpec,
    ) -> Result<()> {
        let lane = connection.channel(DECLARE).await?.patient();
        let (name, arguments) = (layout.ready(&spec.name, 1), ready_arguments(layout, options, spec));
        let same = lane.answer(DECLARE, declare_queue(&lane, name, arguments)).await;
        same.map_err(|error| inequivalent(error).on(&spec.name))?;
        lane.farewell().await;
        self.declare(connection, layout, options, spec).await
    }

    /// Dead letters stay until somebody takes them, however often somebody looks: see [`ENDLESS`].
    pub(crate) async fn declare_dead(&self, connection: &Connection, layout: &Layout, queue: &QueueName) -> Result<()> {
        let lane = connection.channel(DECLARE).await?.patient();
        let mut arguments = quorum();
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(ENDLESS));
        lane.answer(DECLARE, declare_queue(&lane, layout.dead(queue), arguments)).await?;
        lane.farewell().await;
        Ok(())
    }

    /// Sees to it that the ladder stands up to this rung; without one, its foot.
    pub(crate) async fn climb(&self, connection: &Connection, layout: &Layout, rung: Option<u8>) -> Result<()> {
        let wanted = rung.map_or(1, |rung| rung + 2);
        let standing = self.rungs.load(Ordering::Acquire);
        if standing >= wanted {
            return Ok(());
        }
        let lane = connection.channel(DECLARE).await?.patient();
        if standing == 0 {
            lane.answer(DECLARE, declare_foot(&lane, layout)).await?;
        }
        for level in standing.saturating_sub(1)..wanted - 1 {
            lane.answer(DECLARE, declare_rung(&lane, layout, level)).await?;
        }
        lane.farewell().await;
        self.rungs.fetch_max(wanted, Ordering::AcqRel);
        Ok(())
    }

    /// Removes a queue with everything in it. What waits on the ladder for it ends among the orphans.
    pub(crate) async fn drop_queue(&self, connection: &Connection, layout: &Layout, queue: &QueueName) -> Result<()> {
        for band in 0..BANDS {
            self.settle_in(connection, layout.ready(queue, band)).await;
        }
        let lane = connection.channel(DROP).await?.patient();
        let delete = async |name: ShortString| {
            let deleted = lane.queue_delete(name, QueueDeleteOptions::default());
            lane.answer(DROP, deleted).await.map_err(|error| error.on(queue))
        };
        // Band 1 first: without it the queue counts as missing, and is declared anew as a whole.
        for band in [1, 0, 2, 3] {
            delete(layout.ready(queue, band)).await?;
        }
        delete(layout.dead(queue)).await?;
        lane.farewell().await;
        Ok(())
    }

    /// Has a queue's leader agree on something, which comes after what it agreed on when it began to lead.
    ///
    /// Where a queue is deleted while its dead-letter worker starts, RabbitMQ 3.10 starts that worker again for a queue that is no more,
    /// gives up all dead-letter workers (`rabbit_fifo_dlx_sup`, one restart in five seconds) and answers every declaration with
    /// `INTERNAL_ERROR` until it is restarted.
    async fn settle_in(&self, connection: &Connection, name: ShortString) {
        // No more than a precaution: where it is not there, or not to be read, deleting says what is to be said. Nothing is taken:
        // who may read may not be allowed to delete.
        if let Ok(lane) = connection.channel(DROP).await.map(Lane::patient)
            && let Ok(got) = lane.answer(DROP, lane.basic_get(name, BasicGetOptions::default())).await
        {
            if let Some(message) = got {
                let back = BasicNackOptions { multiple: false, requeue: true };
                // The end of the channel gives it back as well.
                let _ = lane.answer(DROP, lane.basic_nack(message.delivery.delivery_tag, back)).await;
            }
            lane.farewell().await;
        }
    }

    /// Whether no message of a queue is ready; also where the queue is not there.
    pub(crate) async fn is_empty(
        &self,
        connection: &Connection,
        name: ShortString,
        operation: &'static str,
    ) -> Result<bool> {
        if self.depth(connection, name.clone(), operation).await?.unwrap_or(0) > 0 {
            return Ok(false);
        }
        // A count of none is also what RabbitMQ says while the queue's leader is busy. Who asks for a message is not told so.
        let lane = connection.channel(operation).await?;
        let empty = match lane.answer(operation, lane.basic_get(name, BasicGetOptions::default())).await {
            Ok(None) => true,
            Ok(Some(message)) => {
                let back = BasicNackOptions { multiple: false, requeue: true };
                lane.answer(operation, lane.basic_nack(message.delivery.delivery_tag, back)).await?;
                false
            }
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        lane.farewell().await;
        Ok(empty)
    }

    /// Whether somebody consumes from a queue, from whatever connection.
    pub(crate) async fn is_consumed(
        &self,
        connection: &Connection,
        name: ShortString,
        operation: &'static str,
    ) -> Result<bool> {
        // A count of none is also what RabbitMQ says while the queue's leader is busy, and seldom twice.
        for _ in 0..2 {
            let found = self.look(connection, name.clone(), operation).await?;
            if found.is_some_and(|queue| queue.consumer_count() > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many messages of a queue are ready, as far as RabbitMQ knows; `None` where it is not there.
    async fn depth(&self, connection: &Connection, name: ShortString, operation: &'static str) -> Result<Option<u32>> {
        Ok(self.look(connection, name, operation).await?.map(|queue| queue.message_count()))
    }

    async fn look(
        &self,
        connection: &Connection,
        name: ShortString,
        operation: &'static str,
    ) -> Result<Option<lapin::Queue>> {
        let lane = connection.channel(operation).await?;
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        match lane.answer(operation, lane.queue_declare(name, options, FieldTable::default())).await {
            Ok(queue) => {
                lane.farewell().await;
                Ok(Some(queue))
            }
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

/// Dead-lettered without loss: the broker keeps the message until the other queue has it, and drops none for want of room.
fn dead_letters(arguments: &mut FieldTable, exchange: ShortString) {
    let mut put = |name: &'static str, value: &str| {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    };
    put("x-dead-letter-exchange", exchange.as_str());
    put("x-dead-letter-strategy", "at-least-once");
    put("x-overflow", "reject-publish");
}

fn ready_arguments(layout: &Layout, options: &RabbitOptions, spec: &QueueSpec) -> FieldTable {
    let mut arguments = quorum();
    dead_letters(&mut arguments, ShortString::default());
    let dead = layout.dead(&spec.name);
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(dead.as_str().into()));
    let limit = i64::from(spec.max_deliveries.saturating_mul(BACKSTOP));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(limit));
    // From 3.12; earlier brokers pass over it.
    let hold = i64::try_from(options.max_hold.as_millis()).unwrap_or(i64::MAX);
    arguments.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(hold));
    arguments
}

async fn declare_foot(channel: &Channel, layout: &Layout) -> lapin::Result<()> {
    let orphans = layout.orphans();
    declare_exchange(channel, orphans.clone(), ExchangeKind::Fanout, FieldTable::default()).await?;
    let mut arguments = quorum();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(ORPHANS));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ORPHANS_MS));
    declare_queue(channel, orphans.clone(), arguments).await?;
    bind_queue(channel, orphans.clone(), orphans.clone(), "").await?;
    // What is due for a queue that is gone would otherwise stand at the foot for ever, before all that comes after it.
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString(orphans.as_str().into()));
    declare_exchange(channel, layout.due(), ExchangeKind::Topic, arguments).await
}

async fn declare_rung(channel: &Channel, layout: &Layout, level: u8) -> lapin::Result<()> {
    let name = layout.delay(level);
    let below = level.checked_sub(1).map_or_else(|| layout.due(), |below| layout.delay(below));
    declare_exchange(channel, name.clone(), ExchangeKind::Topic, FieldTable::default()).await?;
    let mut arguments = quorum();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(1_000 << level));
    dead_letters(&mut arguments, below.clone());
    declare_queue(channel, name.clone(), arguments).await?;
    bind_queue(channel, name.clone(), name.clone(), &delay::pattern(level, true)).await?;
    let key = ShortString::try_new(delay::pattern(level, false)).unwrap_or_default();
    channel.exchange_bind(below, name, key, ExchangeBindOptions::default(), FieldTable::default()).await
}

async fn declare_queue(channel: &Channel, name: ShortString, arguments: FieldTable) -> lapin::Result<()> {
    channel.queue_declare(name, QueueDeclareOptions::durable(), arguments).await.map(drop)
}

async fn declare_exchange(
    channel: &Channel,
    name: ShortString,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name, kind, options, arguments).await
}

async fn bind_queue(channel: &Channel, queue: ShortString, exchange: ShortString, key: &str) -> lapin::Result<()> {
    let key = ShortString::try_new(key).unwrap_or_default();
    channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await
}

/// A queue that stands with other arguments is a conflict; which field of the declaration that is, is said.
fn inequivalent(error: Error) -> Error {
    if error.code() != ErrorCode::Conflict {
        return error;
    }
    let field = match error.message() {
        text if text.contains("x-delivery-limit") => "max_deliveries",
        text if text.contains("x-consumer-timeout") => "max_hold",
        _ => return error,
    };
    let message = format!("the queue exists with another `{field}`: drop it first, or declare it as it is");
    Error::new(ErrorCode::Conflict, message).at("declare").by(SCHEME).caused_by(error)
}
