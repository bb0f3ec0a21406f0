//! Acknowledgements on their way out.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{future::BoxFuture, task::noop_waker_ref};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions},
};

use super::line::Frames;

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
    Under(BoxFuture<'static, lapin::Result<()>>),
    Over(bool),
}

impl Sent {
    /// Whether it left.
    pub(super) async fn left(self) -> bool {
        match self.state {
            State::Under(frame) => frame.await.is_ok(),
            State::Over(left) => left,
        }
    }
}

/// Queues the frames in this order, before it returns: the client takes a frame when it is first polled.
pub(super) fn send(channel: &Arc<Channel>, band: usize, epoch: u64, frames: &Frames, how: End) -> Vec<Sent> {
    let all = frames.up_to.map(|tag| (tag, true)).into_iter().chain(frames.singly.iter().map(|tag| (*tag, false)));
    let queue = |(tag, multiple)| {
        let mut frame = frame(Arc::clone(channel), tag, multiple, how);
        let state = match Pin::new(&mut frame).poll(&mut Context::from_waker(noop_waker_ref())) {
            Poll::Ready(left) => State::Over(left.is_ok()),
            Poll::Pending => State::Under(frame),
        };
        Sent { band, epoch, state }
    };
    all.map(queue).collect()
}

fn frame(channel: Arc<Channel>, tag: u64, multiple: bool, how: End) -> BoxFuture<'static, lapin::Result<()>> {
    Box::pin(async move {
        match how {
            End::Acknowledge => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
            End::Requeue => channel.basic_nack(tag, BasicNackOptions { multiple, requeue: true }).await,
        }
    })
}
