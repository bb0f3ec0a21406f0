//! Dead letters: listed, brought back, and forgotten.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    Envelope, Error, ErrorCode, QueueName, QueueSpec, Result,
    job::JobId,
    provider::{Cursor, DeadBody, DeadFilter, DeadJob, Page, Redrive, RedriveReport, RedriveSelection},
};

use super::{
    letter,
    scan::{Letter, Scan},
};
use crate::{SCHEME, link::Lane, provider::Shared};

/// Where a listing goes on: so many letters behind the oldest.
pub(super) fn position(cursor: Option<&Cursor>) -> Result<u64> {
    let Some(Cursor(text)) = cursor else { return Ok(0) };
    let foreign = || Error::new(ErrorCode::Validation, "this cursor is of another listing").at("dead").by(SCHEME);
    text.strip_prefix("dead:").and_then(|number| number.parse().ok()).ok_or_else(foreign)
}

/// # Errors
/// `VALIDATION` for an edited payload without exactly one named job.
pub(super) fn check(what: &Redrive) -> Result<()> {
    let one = matches!(&what.which, RedriveSelection::Jobs(ids) if ids.len() == 1);
    if what.payload.is_none() || one {
        return Ok(());
    }
    let message = "an edited payload is for exactly one named job";
    Err(Error::new(ErrorCode::Validation, message).at("redrive").by(SCHEME))
}

/// A page begins where the last one ended, counted from the oldest: who removes letters between two pages skips as many.
pub(super) async fn list(
    base: &Shared,
    channel: Lane,
    queue: &QueueName,
    filter: &DeadFilter,
    from: u64,
    limit: usize,
) -> Result<Page<DeadJob>> {
    let mut page = Page { items: Vec::new(), next: None };
    let mut scan = match Scan::begin(channel, base.layout.dead(queue), "dead").await {
        Err(error) if error.code() == ErrorCode::NotFound => return Ok(page),
        begun => begun?,
    };
    let mut seen = 0;
    while page.items.len() < limit
        && let Some(letter) = scan.next().await?
    {
        seen += 1;
        let dead = read(base, queue, &letter);
        if seen > from && matches(filter, &dead) {
            page.items.push(dead);
        }
    }
    if scan.has_more() {
        page.next = Some(Cursor(Arc::from(format!("dead:{}", seen.max(from)))));
    }
    scan.end().await?;
    Ok(page)
}

/// Publishes each again and takes it out when that is confirmed: a crash between the two leaves it dead and living. One that can never
/// be published stays dead, and is in no other's way: so many more are matched than redriven.
///
/// # Errors
/// Also the first refusal, where nothing could be published; what was done before one that ended it is told with it.
pub(super) async fn redrive(base: &Shared, channel: Lane, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
    let mut report = RedriveReport::default();
    match bring_all_back(base, channel, queue, what, &mut report).await {
        Ok(()) => Ok(report),
        Err(error) => Err(report.stopped_by(error)),
    }
}

async fn bring_all_back(
    base: &Shared,
    channel: Lane,
    queue: &QueueName,
    what: &Redrive,
    report: &mut RedriveReport,
) -> Result<()> {
    let mut scan = Scan::begin(channel, base.layout.dead(queue), "redrive").await?;
    let named: Option<HashSet<JobId>> = match &what.which {
        RedriveSelection::Jobs(ids) => Some(ids.iter().copied().collect()),
        RedriveSelection::Matching(_) => None,
    };
    let mut refused = None;
    while let Some(letter) = scan.next().await? {
        let dead = read(base, queue, &letter);
        let meant = match (&named, &what.which) {
            (Some(ids), _) => ids.contains(&dead.id),
            (None, RedriveSelection::Matching(filter)) => matches(filter, &dead),
            (None, RedriveSelection::Jobs(_)) => false,
        };
        if !meant {
            continue;
        }
        report.matched += 1;
        if what.dry_run {
            continue;
        }
        match bring_back(base, queue, &letter, &dead, what.payload.as_ref()).await {
            Ok(()) => {
                // It lives, whatever becomes of the letter.
                report.redriven += 1;
                scan.take(letter.tag).await?;
            }
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                tracing::warn!(%queue, job = %dead.id, %error, "a dead letter cannot be brought back, and stays");
                refused.get_or_insert(error);
            }
        }
    }
    scan.end().await?;
    match refused {
        Some(error) if report.redriven == 0 => Err(error),
        _ => Ok(()),
    }
}

async fn bring_back(
    base: &Shared,
    queue: &QueueName,
    letter: &Letter,
    dead: &DeadJob,
    payload: Option<&Bytes>,
) -> Result<()> {
    match &dead.body {
        DeadBody::Envelope(job) => base.publish_copy(queue, another_life(job, payload), Duration::ZERO, false).await,
        // It may have been mended, or a newer worker may read it.
        DeadBody::Raw(bytes) => {
            let (properties, body) = (letter::unmark(&letter.properties), payload.unwrap_or(bytes).clone());
            let band = base.specs.get(queue).map_or_else(Default::default, |known| known.spec.default_priority).band();
            base.publish_message(queue, band, properties, body, Duration::ZERO).await
        }
    }
}

fn another_life(job: &Envelope, payload: Option<&Bytes>) -> Envelope {
    job.edit(|parts| {
        parts.attempt = 1;
        parts.generation = parts.generation.saturating_add(1);
        parts.deliveries = 0;
        parts.not_before = None;
        parts.expires_at = None;
        if let Some(payload) = payload {
            parts.payload = payload.clone();
        }
    })
}

pub(super) async fn drop_matching(base: &Shared, channel: Lane, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
    let mut dropped = 0;
    let mut scan = Scan::begin(channel, base.layout.dead(queue), "drop_dead").await?;
    while let Some(letter) = scan.next().await? {
        let dead = read(base, queue, &letter);
        if matches(filter, &dead) {
            scan.take(letter.tag).await?;
            dropped += 1;
        }
    }
    scan.end().await?;
    Ok(dropped)
}

fn read(base: &Shared, queue: &QueueName, letter: &Letter) -> DeadJob {
    let spec = base.specs.get(queue).map_or_else(|| Arc::new(QueueSpec::new(queue.clone())), |known| known.spec);
    letter::read(&letter.properties, letter.body.clone(), &spec, base.env.now())
}

fn matches(filter: &DeadFilter, dead: &DeadJob) -> bool {
    let kind = match &dead.body {
        DeadBody::Envelope(job) => Some(&job.kind),
        DeadBody::Raw(_) => None,
    };
    filter.matches(&dead.error.code, kind, dead.died_at)
}
