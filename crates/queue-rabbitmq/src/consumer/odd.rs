//! Messages that are no jobs yet: what cannot be read is buried with its bytes, what a newer version wrote waits for a newer
//! worker, and what another client sent without a name is given one that it keeps.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lapin::BasicProperties;
use queue_core::{
    Envelope, ErrorCode, JobError, QueueName, Result, Timestamp,
    config::defaults,
    job::{JobId, JobKind},
};

use super::ending::End;
use crate::provider::Shared;

/// How long the broker keeps a message that can, for now, not be dealt with.
const AGAIN: Duration = Duration::from_secs(1);

/// How a message of a band ends.
pub(super) type Done = (u64, End);

#[derive(Debug, Clone)]
pub(super) enum Odd {
    Broken { properties: BasicProperties, body: Bytes, why: &'static str },
    Newer { properties: BasicProperties, body: Bytes },
    Nameless { job: Envelope, properties: BasicProperties, body: Bytes },
}

/// Publishes what becomes of it, and says how to end the original. Where that fails it stays out, and is tried again.
pub(super) async fn deal_with(base: Arc<Shared>, queue: QueueName, band: u8, tag: u64, mut odd: Odd) -> Done {
    while let Err(error) = publish(&base, &queue, band, odd.clone()).await {
        tracing::warn!(%queue, %error, "a message that cannot be run cannot be dealt with yet");
        odd = match odd {
            // As a job it will never be taken, and would be in the band's way for ever.
            Odd::Nameless { properties, body, .. } if !error.is_retryable() => {
                Odd::Broken { properties, body, why: "it has no id, and cannot be published anew to get one" }
            }
            odd => {
                tokio::time::sleep(AGAIN).await;
                odd
            }
        };
    }
    (tag, End::Acknowledge)
}

async fn publish(base: &Shared, queue: &QueueName, band: u8, odd: Odd) -> Result<()> {
    match odd {
        Odd::Broken { properties, body, why } => {
            base.bury_message(queue, properties, body, &JobError::new(ErrorCode::Undecodable, why)).await
        }
        Odd::Newer { properties, body } => {
            base.publish_message(queue, band, properties, body, defaults::NEWER_FORMAT_DELAY).await
        }
        Odd::Nameless { job, .. } => base.publish_copy(queue, job, Duration::ZERO, false).await,
    }
}

/// Stands in the line for a message that no worker ever sees.
pub(super) fn stand_in() -> Envelope {
    let (id, kind) = (JobId::derive(b"odd", 0), JobKind::from_static("odd"));
    Envelope::builder(id, kind, Bytes::new(), Timestamp::from_millis(0)).seal()
}
