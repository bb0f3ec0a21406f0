//! Asks the provider.

use std::sync::Arc;

use queue_core::{
    Error, ErrorCode, JobStore, QueueProvider, Result,
    job::{JobId, JobRef, QueueName},
    provider::{ADD_STORE, Cursor},
    stats::QueueStats,
    store::{JobQuery, JobRecord, Lookup},
};

use super::InspectArgs;

/// Queues, or jobs, that are asked for at once.
const PART: usize = 100;

/// What was seen.
#[derive(Debug)]
pub(super) enum Found {
    /// Each queue, or why it could not be looked at.
    Queues(Vec<(QueueName, Result<QueueStats>)>),
    Jobs {
        jobs: Vec<JobRecord>,
        /// Others follow, or may follow.
        more: bool,
    },
    Job(Box<JobRecord>),
}

impl Found {
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Queues(queues) => queues.iter().all(|(_, stats)| stats.is_ok()),
            Self::Jobs { .. } | Self::Job(_) => true,
        }
    }
}

pub(super) async fn find(provider: &dyn QueueProvider, args: &InspectArgs) -> Result<Found> {
    if let Some(job) = &args.job {
        return one(provider, job, args.queue.as_ref()).await;
    }
    match (&args.queue, args.jobs) {
        (Some(queue), Some(most)) => jobs(provider, queue, args, most as usize).await,
        (Some(queue), None) => numbers(provider, vec![queue.clone()]).await,
        (None, _) => numbers(provider, all_queues(provider).await?).await,
    }
}

async fn all_queues(provider: &dyn QueueProvider) -> Result<Vec<QueueName>> {
    let (mut queues, mut cursor): (Vec<QueueName>, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = provider.admin().queues("", cursor, PART).await?;
        queues.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            return Ok(queues);
        }
    }
}

async fn numbers(provider: &dyn QueueProvider, queues: Vec<QueueName>) -> Result<Found> {
    let mut found = Vec::with_capacity(queues.len());
    for part in queues.chunks(PART) {
        let stats = provider.admin().stats(part).await;
        found.extend(part.iter().cloned().zip(stats));
    }
    // The only one that was asked for: then it is the command's failure.
    if let [(_, Err(error))] = &found[..] {
        return Err(error.clone());
    }
    Ok(Found::Queues(found))
}

fn store(provider: &dyn QueueProvider) -> Result<Arc<dyn JobStore>> {
    provider.job_store().ok_or_else(|| Error::unsupported(provider.scheme(), "inspect", ADD_STORE))
}

async fn jobs(provider: &dyn QueueProvider, queue: &QueueName, args: &InspectArgs, most: usize) -> Result<Found> {
    let query = JobQuery::queue(queue.clone()).in_states(args.state.iter().copied());
    let (store, mut jobs, mut cursor) = (store(provider)?, Vec::new(), None);
    loop {
        let page = store.list(&query, cursor, (most - jobs.len()).min(PART)).await?;
        jobs.extend(page.items);
        cursor = page.next;
        if cursor.is_none() || jobs.len() >= most {
            if jobs.is_empty() {
                // Of a queue that is not there, that is said.
                exists(provider, queue).await?;
            }
            return Ok(Found::Jobs { jobs, more: cursor.is_some() });
        }
    }
}

/// Where the provider can tell.
async fn exists(provider: &dyn QueueProvider, queue: &QueueName) -> Result<()> {
    match provider.admin().stats(std::slice::from_ref(queue)).await.pop() {
        Some(Err(error)) if error.code() == ErrorCode::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn one(provider: &dyn QueueProvider, text: &str, queue: Option<&QueueName>) -> Result<Found> {
    let store = store(provider)?;
    let candidates = match (text.contains('@'), queue) {
        (true, None) => vec![text.parse::<JobRef>()?],
        (true, Some(queue)) => {
            let job: JobRef = text.parse()?;
            if job.queue != *queue {
                let message = format!("the job is of the queue {}, and {queue} was named: leave it out", job.queue);
                return Err(Error::new(ErrorCode::Validation, message).at("inspect"));
            }
            vec![job]
        }
        (false, Some(queue)) => vec![JobRef::new(queue.clone(), text.parse()?)],
        (false, None) => {
            let id: JobId = text.parse()?;
            all_queues(provider).await?.into_iter().map(|queue| JobRef::new(queue, id)).collect()
        }
    };
    let (mut gone, mut unknown) = (false, false);
    for part in candidates.chunks(PART) {
        for answer in store.get(part).await {
            match answer? {
                Lookup::Found(record) => return Ok(Found::Job(record)),
                Lookup::Gone => gone = true,
                Lookup::Unknown => unknown = true,
                Lookup::NotFound => {}
            }
        }
    }
    let message = match (gone, unknown) {
        (true, _) => "the job finished, and retention took its record",
        (_, true) => "nothing is known of the job: its queue keeps no records, or the store was away",
        _ => "there is no such job, as far as the store can tell",
    };
    Err(Error::new(ErrorCode::NotFound, message).at("inspect"))
}
