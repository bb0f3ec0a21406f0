//! Looking through a queue of dead letters: each is taken out and held, and at the end what stays is given back, in its place.
//!
//! A round trip a letter. Others who look meanwhile do not see what is held here. Up to 4.2 giving back raises the letter's
//! count of deliveries, which is why this queue has no limit on them.

use std::time::Duration;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions},
    types::ShortString,
};
use queue_core::Result;

use crate::link::Lane;

/// How long is waited for what was given back to be seen again: a second in all.
const LOOKS: usize = 200;
const BETWEEN: Duration = Duration::from_millis(5);

/// One that is held.
pub(super) struct Letter {
    pub(super) tag: u64,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

/// Letters of one queue, one after the other.
pub(super) struct Scan {
    channel: Lane,
    queue: ShortString,
    operation: &'static str,
    /// So many more: what comes in meanwhile is left for another time, so that a scan has an end.
    left: u64,
    last: u64,
    /// So many are out.
    held: u64,
}

impl Scan {
    pub(super) async fn begin(channel: Lane, queue: ShortString, operation: &'static str) -> Result<Self> {
        let left = super::count(&channel, queue.clone(), operation).await?;
        Ok(Self { channel, queue, operation, left, last: 0, held: 0 })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Letter>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let got = self.channel.basic_get(self.queue.clone(), BasicGetOptions::default());
        let Some(message) = self.channel.answer(self.operation, got).await? else { return Ok(None) };
        let delivery = message.delivery;
        self.last = delivery.delivery_tag;
        self.held += 1;
        Ok(Some(Letter { tag: self.last, properties: delivery.properties, body: Bytes::from(delivery.data) }))
    }

    /// Whether there was more than was looked at.
    pub(super) fn has_more(&self) -> bool {
        self.left > 0
    }

    /// Takes one out for good.
    pub(super) async fn take(&mut self, tag: u64) -> Result<()> {
        self.held -= 1;
        self.channel.answer(self.operation, self.channel.basic_ack(tag, BasicAckOptions::default())).await
    }

    /// Gives back what was not taken. Whoever drops a scan instead gives it back with the channel.
    pub(super) async fn end(self) -> Result<()> {
        if self.held > 0 {
            // Zero means all that are out.
            let all = BasicNackOptions { multiple: true, requeue: true };
            self.channel.answer(self.operation, self.channel.basic_nack(0, all)).await?;
            // No answer comes to it, and who looks next is to see them all, also those that were not looked at now.
            let all = self.held + self.left;
            for _ in 0..LOOKS {
                if super::count(&self.channel, self.queue.clone(), self.operation).await? >= all {
                    break;
                }
                tokio::time::sleep(BETWEEN).await;
            }
        }
        // What was taken is taken once the broker has read it: its goodbye says so.
        self.channel.answer(self.operation, self.channel.close(200, "done".into())).await
    }
}
