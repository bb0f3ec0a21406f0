//! Dead jobs: the store's, and after them what the transport buried because nobody could read it.

use std::collections::BTreeSet;

use bytes::Bytes;
use queue_core::{
    Error, ErrorCode, JobId, JobRef, QueueName, Result,
    lifecycle::JobState,
    provider::{Cursor, DeadFilter, DeadJob, Page, Redrive, RedriveReport, RedriveSelection, Rejection},
    store::{Lookup, RedriveOutcome},
};

use super::{admin::if_supported, core::Core};

/// How many dead jobs are looked at, redriven or forgotten at once.
const AT_ONCE: usize = 200;

/// Where a listing is: a cursor of the store's, or one of the transport's.
enum Place {
    Store(Option<Cursor>),
    Transport(Option<Cursor>),
}

impl Place {
    fn read(cursor: Option<Cursor>) -> Result<Self> {
        let Some(cursor) = cursor else { return Ok(Self::Store(None)) };
        let inner = |rest: &str| (!rest.is_empty()).then(|| Cursor(rest.into()));
        match cursor.0.split_once(':') {
            Some(("store", rest)) => Ok(Self::Store(inner(rest))),
            Some(("transport", rest)) => Ok(Self::Transport(inner(rest))),
            _ => Err(Error::new(ErrorCode::Validation, "this cursor is of another listing").at("dead")),
        }
    }
}

impl Core {
    pub(super) async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        let (mut items, inner) = match Place::read(cursor)? {
            Place::Store(inner) => {
                let page = self.ask(self.store.dead(queue, filter, inner, limit)).await?;
                if let Some(next) = page.next {
                    let next = Some(Cursor(format!("store:{}", next.0).into()));
                    return Ok(Page { items: page.items, next });
                }
                (page.items, None)
            }
            Place::Transport(inner) => (Vec::new(), inner),
        };
        let room = limit.saturating_sub(items.len());
        let admin = self.transport.admin();
        if room == 0 {
            // Is there anything to come back for?
            let first = admin.dead(queue, filter, None, 1).await;
            let more = first.is_ok_and(|page| !page.items.is_empty());
            return Ok(Page { items, next: more.then(|| Cursor("transport:".into())) });
        }
        let page = match admin.dead(queue, filter, inner, room).await {
            Err(error) if error.code() == ErrorCode::Unsupported => return Ok(Page { items, next: None }),
            page => page?,
        };
        items.extend(page.items);
        let next = page.next.map(|next| Cursor(format!("transport:{}", next.0).into()));
        Ok(Page { items, next })
    }

    pub(super) async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        let at = |error: Error| error.at("redrive").by(self.scheme()).on(queue);
        if what.payload.is_some() && !matches!(&what.which, RedriveSelection::Jobs(jobs) if jobs.len() == 1) {
            let message = "an edited payload goes with exactly one named job";
            return Err(at(Error::new(ErrorCode::Validation, message)));
        }
        let mut report = RedriveReport::default();
        let own = match &what.which {
            RedriveSelection::Jobs(jobs) => {
                let mut seen = BTreeSet::new();
                let jobs: Vec<JobId> = jobs.iter().copied().filter(|job| seen.insert(*job)).collect();
                self.redrive_named(queue, &jobs, what, &mut report).await
            }
            RedriveSelection::Matching(filter) => self.redrive_matching(queue, filter, what, &mut report).await,
        };
        own.map_err(|error| report.stopped_by(at(error)))?;
        match if_supported(self.transport.admin().redrive(queue, what).await) {
            Ok(others) => Ok(report + others),
            Err(error) => Err(report.stopped_by(error)),
        }
    }

    async fn redrive_named(
        &self,
        queue: &QueueName,
        jobs: &[JobId],
        what: &Redrive,
        report: &mut RedriveReport,
    ) -> Result<()> {
        for part in jobs.chunks(AT_ONCE) {
            let refs: Vec<JobRef> = part.iter().map(|id| JobRef::new(queue.clone(), *id)).collect();
            let mut dead = Vec::new();
            for lookup in self.ask_all(refs.len(), self.store.get(&refs)).await {
                if let Lookup::Found(record) = lookup?
                    && record.state == JobState::Dead
                {
                    if let Some(payload) = &what.payload {
                        self.check_edited(queue, &record.envelope, payload).await?;
                    }
                    dead.push(record.job);
                }
            }
            self.redrive_part(dead, what, report).await?;
        }
        Ok(())
    }

    async fn check_edited(
        &self,
        queue: &QueueName,
        envelope: &queue_core::Envelope,
        payload: &Bytes,
    ) -> Result<(), Error> {
        let spec = self.spec(queue).await;
        let edited = envelope.edit(|copy| copy.payload = payload.clone());
        let limit = spec.max_encoded_len.min(self.transport.capabilities(Some(&spec)).max_encoded_len);
        let actual = edited.encoded_len();
        if actual > limit { Err(Rejection::TooLarge { limit, actual }.into()) } else { Ok(()) }
    }

    async fn redrive_matching(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        what: &Redrive,
        report: &mut RedriveReport,
    ) -> Result<()> {
        // Named before the first of them lives again, so that one that dies of it again is left alone: whose clock says when it did
        // does not matter then. An id is 16 bytes.
        for part in self.matching(queue, filter).await?.chunks(AT_ONCE) {
            let dead = part.iter().map(|id| JobRef::new(queue.clone(), *id)).collect();
            self.redrive_part(dead, what, report).await?;
        }
        Ok(())
    }

    async fn matching(&self, queue: &QueueName, filter: &DeadFilter) -> Result<Vec<JobId>> {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.ask(self.store.dead(queue, filter, cursor, AT_ONCE)).await?;
            found.extend(page.items.iter().map(|dead| dead.id));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(found);
            }
        }
    }

    async fn redrive_part(&self, dead: Vec<JobRef>, what: &Redrive, report: &mut RedriveReport) -> Result<()> {
        report.matched += dead.len() as u64;
        if what.dry_run || dead.is_empty() {
            return Ok(());
        }
        let asked: Vec<(JobRef, Option<Bytes>)> = dead.into_iter().map(|job| (job, what.payload.clone())).collect();
        let outcomes = self.ask_all(asked.len(), self.store.redrive(&asked, self.options.stage_lease)).await;
        let (mut staged, mut failed) = (Vec::new(), None);
        for outcome in outcomes {
            match outcome {
                Ok(RedriveOutcome::Staged(copy)) => staged.push(copy),
                Ok(RedriveOutcome::Duplicate { .. }) => report.duplicates += 1,
                Ok(RedriveOutcome::NotDead) => {}
                Err(error) => failed = Some(error),
            }
        }
        report.redriven += staged.len() as u64;
        // It is promised: what the transport does not take now the sweep publishes.
        self.publish_promised(staged).await;
        failed.map_or(Ok(()), Err)
    }

    pub(super) async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        let at = |error: Error| error.at("drop_dead").on(queue);
        let mut dropped = 0;
        let mut cursor = None;
        loop {
            let page = self.ask(self.store.dead(queue, filter, cursor, AT_ONCE)).await.map_err(at)?;
            let dead: Vec<JobRef> = page.items.iter().map(|dead| JobRef::new(queue.clone(), dead.id)).collect();
            if !dead.is_empty() {
                for answer in self.ask_all(dead.len(), self.store.forget_dead(&dead)).await {
                    dropped += u64::from(answer.map_err(at)?);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        Ok(dropped + if_supported(self.transport.admin().drop_dead(queue, filter).await)?)
    }
}
