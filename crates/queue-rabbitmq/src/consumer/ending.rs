//! Acknowledgements on their way out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{future::BoxFuture, task::noop_waker_ref};
use lapin::options::{BasicAckOptions, BasicNackOptions};
use queue_core::{Error, provider::SettleOutcome};

use super::line::Frames;
use crate::link::{Bounds, Lane};

/// How deliveries end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// They are done.
    Acknowledge,
    /// They are the broker's again, in their place.
    Requeue,
}

/// A frame that was queued and is sent when this is ready.
pub(super) struct Sent {
    pub(super) band: usize,
    pub(super) epoch: u64,
    state: State,
}

enum State {
    Under(BoxFuture<'static, lapin::Result<()>>, Bounds),
    Left,
    /// Its channel had ended before: nothing was queued.
    Refused,
}

/// Why a frame is not known to have left.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It never will.
    NotSent,
    /// It was queued, and may have left, or leave yet.
    Unknown(Error),
}

impl Failure {
    /// What the settlement came to.
    pub(super) fn outcome(self) -> SettleOutcome {
        match self {
            Self::NotSent => SettleOutcome::LeaseLost,
            Self::Unknown(error) => SettleOutcome::Unknown(error),
        }
    }
}

impl Sent {
    /// Whether it left. One that does not before its connection goes, or for long, may have, or may yet.
    pub(super) async fn left(self) -> Result<(), Failure> {
        match self.state {
            State::Under(frame, bounds) => bounds.answer("settle", frame).await.map_err(Failure::Unknown),
            State::Left => Ok(()),
            State::Refused => Err(Failure::NotSent),
        }
    }
}

/// Queues the frames in this order, before it returns: the client takes a frame when it is first polled.
pub(super) fn send(lane: &Arc<Lane>, band: usize, epoch: u64, frames: &Frames, how: End) -> Vec<Sent> {
    let all = frames.up_to.map(|tag| (tag, true)).into_iter().chain(frames.singly.iter().map(|tag| (*tag, false)));
    let queue = |(tag, multiple)| {
        let mut frame = frame(Arc::clone(lane), tag, multiple, how);
        let state = match Pin::new(&mut frame).poll(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(Ok(())) => State::Left,
            Poll::Ready(Err(_)) => State::Refused,
            Poll::Pending => State::Under(frame, lane.bounds().clone()),
        };
        Sent { band, epoch, state }
    };
    all.map(queue).collect()
}

fn frame(lane: Arc<Lane>, tag: u64, multiple: bool, how: End) -> BoxFuture<'static, lapin::Result<()>> {
    Box::pin(async move {
        match how {
            End::Acknowledge => lane.basic_ack(tag, BasicAckOptions { multiple }).await,
            End::Requeue => lane.basic_nack(tag, BasicNackOptions { multiple, requeue: true }).await,
        }
    })
}

#[cfg(test)]
impl Sent {
    /// One that never leaves.
    pub(super) fn stuck((band, epoch): (usize, u64), bounds: Bounds) -> Self {
        Self { band, epoch, state: State::Under(Box::pin(std::future::pending()), bounds) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use queue_core::ErrorCode;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_never_leaves_is_given_up_when_its_connection_goes_or_in_time() {
        let (gone, bounds) = Bounds::of_a_test(Duration::from_secs(10));
        let sent = |bounds| Sent::stuck((1, 1), bounds);
        // Either way it had been queued: the broker may have it, or get it yet.
        let late = sent(bounds.clone()).left().await.unwrap_err().outcome();
        assert!(matches!(&late, SettleOutcome::Unknown(error) if error.code() == ErrorCode::Timeout), "{late:?}");
        gone.send_replace(true);
        let cut = sent(bounds).left().await.unwrap_err().outcome();
        assert!(matches!(&cut, SettleOutcome::Unknown(error) if error.code() == ErrorCode::Unavailable), "{cut:?}");
    }
}
