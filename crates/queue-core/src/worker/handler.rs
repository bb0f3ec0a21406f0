//! Async functions as handlers, and `tower` services as what they become.

use std::{
    any::TypeId,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tower::{BoxError, Layer, Service, ServiceExt};

use super::{
    Failure,
    extract::{FromJob, JobRequest},
};
use crate::{
    error::ErrorCode,
    job::{Envelope, Job, JobError, broken_rules, misfit},
};

/// How a run ends: with the result to keep, if there is one, or a failure.
pub type JobResult = Result<Option<Bytes>, Failure>;

pub(super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An async function whose first argument is the job, and whose others are extractors:
///
/// ```ignore
/// async fn send_email(email: SendEmail, job: JobContext, State(mailer): State<Mailer>) -> Result<Sent, Failure>
/// ```
///
/// It returns the [`Job::Output`] of its job, or anything that converts into a [`Failure`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is an async function `(MyJob, extractors…) -> Result<<MyJob as Job>::Output, E>` with `E: Into<Failure>`",
    note = "extractors: JobContext, State<T>, RawJob; at most five"
)]
pub trait Handler<Args>: Clone + Send + Sync + 'static {
    /// The job it runs.
    type Job: Job;

    /// Runs it once.
    fn run(&self, request: JobRequest) -> impl Future<Output = JobResult> + Send;
}

macro_rules! handler {
    ($($arg:ident),*) => {
        #[allow(non_snake_case, unused_variables)]
        impl<F, Fut, E, J, $($arg),*> Handler<(J, $($arg,)*)> for F
        where
            F: Fn(J, $($arg),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Result<J::Output, E>> + Send,
            E: Into<Failure>,
            J: Job,
            $($arg: FromJob,)*
        {
            type Job = J;

            async fn run(&self, request: JobRequest) -> JobResult {
                let job = decode::<J>(request.context.envelope())?;
                $(let $arg = $arg::from_job(&request)?;)*
                encode::<J>(&self(job, $($arg),*).await.map_err(Into::into)?)
            }
        }
    };
}

handler!();
handler!(A);
handler!(A, B);
handler!(A, B, C);
handler!(A, B, C, D);
handler!(A, B, C, D, E2);

fn decode<J: Job>(envelope: &Envelope) -> Result<J, Failure> {
    let invalid = |message: String| Failure::Never(JobError::new(ErrorCode::Validation, message));
    let job: J = serde_json::from_slice(&envelope.payload)
        .map_err(|error| invalid(format!("the payload is no {}: {}", J::KIND, misfit(&error))))?;
    job.validate().map_err(|errors| invalid(broken_rules(&errors)))?;
    Ok(job)
}

fn encode<J: Job>(output: &J::Output) -> JobResult {
    if TypeId::of::<J::Output>() == TypeId::of::<()>() {
        return Ok(None);
    }
    let json = serde_json::to_vec(output).map_err(|error| {
        let message = format!("the result of {} cannot be encoded: {error}", J::KIND);
        Failure::Never(JobError::new(ErrorCode::Internal, message))
    })?;
    // Nothing to keep of nothing.
    Ok((json != b"null").then(|| Bytes::from(json)))
}

/// Runs jobs of any kind, without what a `tower` service costs for each: neither a clone nor a future that owns it.
pub trait RunAny: Send + Sync + 'static {
    /// Runs one once.
    fn run(&self, request: JobRequest) -> impl Future<Output = JobResult> + Send;
}

/// A handler as a `tower` service, for layers to wrap.
#[derive(Clone)]
pub struct HandlerService(Arc<dyn Erased>);

trait Erased: Send + Sync {
    fn call(&self, request: JobRequest) -> BoxFuture<'_, JobResult>;
}

impl HandlerService {
    pub(super) fn of<H: Handler<Args>, Args: 'static>(handler: H) -> Self {
        Self(Arc::new(Plain(handler, PhantomData::<fn() -> Args>)))
    }

    /// Any `tower` service that answers runs.
    pub(super) fn wrap<S>(service: S) -> Self
    where
        S: Service<JobRequest, Response = Option<Bytes>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self(Arc::new(Wrapped(service)))
    }

    pub(super) fn any(handler: impl RunAny) -> Self {
        Self(Arc::new(Any(handler)))
    }

    pub(super) fn layered<L>(self, layer: &L) -> Self
    where
        L: Layer<Self>,
        L::Service: Service<JobRequest, Response = Option<Bytes>> + Clone + Send + Sync + 'static,
        <L::Service as Service<JobRequest>>::Error: Into<BoxError>,
        <L::Service as Service<JobRequest>>::Future: Send,
    {
        Self::wrap(layer.layer(self))
    }

    pub(super) fn run(&self, request: JobRequest) -> BoxFuture<'_, JobResult> {
        self.0.call(request)
    }
}

impl std::fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandlerService")
    }
}

impl Service<JobRequest> for HandlerService {
    type Response = Option<Bytes>;
    type Error = Failure;
    type Future = BoxFuture<'static, JobResult>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: JobRequest) -> Self::Future {
        let handler = self.clone();
        Box::pin(async move { handler.run(request).await })
    }
}

struct Plain<H, Args>(H, PhantomData<fn() -> Args>);

impl<H: Handler<Args>, Args: 'static> Erased for Plain<H, Args> {
    fn call(&self, request: JobRequest) -> BoxFuture<'_, JobResult> {
        Box::pin(self.0.run(request))
    }
}

struct Any<H>(H);

impl<H: RunAny> Erased for Any<H> {
    fn call(&self, request: JobRequest) -> BoxFuture<'_, JobResult> {
        Box::pin(self.0.run(request))
    }
}

struct Wrapped<S>(S);

impl<S> Erased for Wrapped<S>
where
    S: Service<JobRequest, Response = Option<Bytes>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn call(&self, request: JobRequest) -> BoxFuture<'_, JobResult> {
        let service = self.0.clone();
        Box::pin(async move { service.oneshot(request).await.map_err(|error| Failure::from_boxed(error.into())) })
    }
}
