//! Following what a running job's handler says of itself.

use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};

use super::JobScheduler;
use crate::{
    error::{Error, ErrorCode, Result},
    event::Progress,
    job::JobRef,
    store::Watched,
};

struct Follower {
    scheduler: JobScheduler,
    job: JobRef,
    events: BoxStream<'static, Watched>,
    said: Option<Bytes>,
    ended: bool,
}

/// Events say when to look, the record what there is; it is read now and then without them too.
pub(super) fn follow(
    (scheduler, job): (JobScheduler, JobRef),
    events: BoxStream<'static, Watched>,
) -> BoxStream<'static, Result<Progress>> {
    let follower = Follower { scheduler, job, events, said: None, ended: false };
    stream::unfold(follower, |mut follower| async move {
        let next = follower.next().await.transpose()?;
        follower.ended |= next.is_err();
        Some((next, follower))
    })
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Progress>> {
        while !self.ended {
            let record = self.scheduler.get(&self.job).await?;
            self.ended = record.state.is_terminal();
            if record.progress.is_some() && record.progress != self.said {
                self.said = record.progress;
                return self.said.as_deref().map(|json| self.read(json)).transpose();
            }
            if !self.ended {
                let look_again = tokio::time::sleep(JobScheduler::poll_interval());
                tokio::select! {
                    biased;
                    Some(_) = self.events.next() => {}
                    () = look_again => {}
                }
            }
        }
        Ok(None)
    }

    fn read(&self, json: &[u8]) -> Result<Progress> {
        serde_json::from_slice(json).map_err(|error| {
            let message = "what the job's handler said of its progress cannot be read";
            Error::new(ErrorCode::Undecodable, message).at("progress").on(&self.job.queue).caused_by(error)
        })
    }
}
