//! Acknowledgements on their way out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{future::BoxFuture, task::noop_waker_ref};
use lapin::options::{BasicAckOptions, BasicNackOptions};

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
    Over(bool),
}

impl Sent {
    /// Whether it left. What does not leave before its connection goes, or for long, did not.
    pub(super) async fn left(self) -> bool {
        match self.state {
            State::Under(frame, bounds) => bounds.answer("settle", frame).await.is_ok(),
            State::Over(left) => left,
        }
    }
}

/// Queues the frames in this order, before it returns: the client takes a frame when it is first polled.
pub(super) fn send(lane: &Arc<Lane>, band: usize, epoch: u64, frames: &Frames, how: End) -> Vec<Sent> {
    let all = frames.up_to.map(|tag| (tag, true)).into_iter().chain(frames.singly.iter().map(|tag| (*tag, false)));
    let queue = |(tag, multiple)| {
        let mut frame = frame(Arc::clone(lane), tag, multiple, how);
        let state = match Pin::new(&mut frame).poll(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(left) => State::Over(left.is_ok()),
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
mod tests {
    use std::{future::pending, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_never_leaves_is_given_up_when_its_connection_goes_or_in_time() {
        let (gone, bounds) = Bounds::of_a_test(Duration::from_secs(10));
        let sent = |bounds| Sent { band: 1, epoch: 1, state: State::Under(Box::pin(pending()), bounds) };
        assert!(!sent(bounds.clone()).left().await);
        gone.send_replace(true);
        assert!(!sent(bounds).left().await);
    }
}
