//! The runtime that lapin runs on: the one we are called in.
//!
//! lapin's own adapters bring TLS stacks and worker threads with them. This one brings nothing, and its sockets are ours:
//! see [`super::socket`].

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_rs::{
    traits::{Executor, Reactor, RuntimeKit},
    util::{Task, TaskImpl},
};
use async_trait::async_trait;
use futures_core::Stream;
use tokio::{runtime::Handle, task::JoinHandle};

use super::socket::Socket;

#[derive(Debug, Clone)]
pub(super) struct Kit(Handle);

impl Kit {
    /// On the runtime that this is called in.
    pub(super) fn current() -> Self {
        Self(Handle::current())
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = Job<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        Job(Some(self.0.spawn(future))).into()
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, work: F) -> Task<Self::Task<T>> {
        Job(Some(self.0.spawn_blocking(work))).into()
    }
}

impl Reactor for Kit {
    type TcpStream = Socket;
    type Sleep = tokio::time::Sleep;

    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static> {
        Err::<Socket, _>(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        let _entered = self.0.enter();
        tokio::time::sleep(time)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        let _entered = self.0.enter();
        futures_util::stream::unfold(tokio::time::interval(period), |mut interval| async move {
            Some((interval.tick().await.into_std(), interval))
        })
    }

    /// Nobody asks for it: connections are made by the closure that is given to lapin.
    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::Error::from(io::ErrorKind::Unsupported)))
    }
}

/// A task of lapin's. Where the runtime ends before it does, it never ends: there is nobody left to tell.
pub(super) struct Job<T>(Option<JoinHandle<T>>);

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

#[async_trait]
impl<T: Send + 'static> TaskImpl for Job<T> {
    async fn cancel(&mut self) -> Option<T> {
        let task = self.0.take()?;
        task.abort();
        task.await.ok()
    }
}

impl<T: Send + 'static> Future for Job<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(task) = self.0.as_mut() else { return Poll::Pending };
        match Pin::new(task).poll(context) {
            Poll::Ready(Ok(done)) => {
                self.0 = None;
                Poll::Ready(done)
            }
            Poll::Ready(Err(error)) => {
                self.0 = None;
                match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Poll::Pending,
                }
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
