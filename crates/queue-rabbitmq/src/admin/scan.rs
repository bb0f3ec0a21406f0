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
use tokio::time::{Instant, sleep};

use crate::link::Lane;

/// How long is waited for what was given back to be seen again, and how often it is looked meanwhile.
const SEEN: Duration = Duration::from_secs(5);
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
    /// Taken out to learn how many there are.
    first: Option<Letter>,
    /// So many more: what comes in meanwhile is left for another time, so that a scan has an end.
    left: u64,
    /// So many are out.
    held: u64,
}

impl Scan {
    /// # Errors
    /// `NOT_FOUND` for a queue that is not there.
    pub(super) async fn begin(channel: Lane, queue: ShortString, operation: &'static str) -> Result<Self> {
        let mut scan = Self { channel, queue, operation, first: None, left: 0, held: 0 };
        // A count of the queue alone may be none, though there are letters: see `super::count`.
        if let Some((first, behind)) = scan.get().await? {
            (scan.first, scan.left) = (Some(first), behind);
        }
        Ok(scan)
    }

    pub(super) async fn next(&mut self) -> Result<Option<Letter>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        Ok(self.get().await?.map(|(letter, _)| letter))
    }

    /// The next letter, and how many are behind it.
    async fn get(&mut self) -> Result<Option<(Letter, u64)>> {
        let got = self.channel.basic_get(self.queue.clone(), BasicGetOptions::default());
        let Some(message) = self.channel.answer(self.operation, got).await? else { return Ok(None) };
        let (delivery, behind) = (message.delivery, u64::from(message.message_count));
        self.held += 1;
        let (tag, body) = (delivery.delivery_tag, Bytes::from(delivery.data));
        Ok(Some((Letter { tag, properties: delivery.properties, body }, behind)))
    }

    /// Whether there was more than was looked at.
    pub(super) fn has_more(&self) -> bool {
        self.first.is_some() || self.left > 0
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
            let give_up = Instant::now() + SEEN;
            while super::count(&self.channel, self.queue.clone(), self.operation).await? < all
                && Instant::now() < give_up
            {
                sleep(BETWEEN).await;
            }
        }
        // What was taken is taken once the broker has read it: its goodbye says so.
        self.channel.answer(self.operation, self.channel.close(200, "done".into())).await
    }
}
