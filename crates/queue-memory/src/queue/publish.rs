//! Taking jobs in.

use std::sync::Arc;

use hashbrown::HashSet;
use queue_core::{
    Error, ErrorCode,
    job::{Envelope, JobError, JobId},
    lifecycle::Trigger,
    provider::{PublishOutcome, Redrive, RedriveReport, RedriveSelection, Rejection},
};

use super::{Alarm, Now, State, Timer};

/// What became of an offered job.
pub(crate) enum Taken {
    Answer(PublishOutcome),
    /// There is no room for it now.
    NoRoom(Envelope),
}

impl Taken {
    fn accepted() -> Self {
        Self::Answer(PublishOutcome::Accepted { place: 0 })
    }
}

/// The partitions that the jobs of a batch name: read once, before any lock is taken. Nothing is kept of a batch without
/// headers.
#[derive(Debug)]
pub(crate) struct Named(Vec<Option<Arc<str>>>);

impl Named {
    pub(crate) fn by(batch: &[Envelope]) -> Self {
        if batch.iter().all(|envelope| envelope.headers.is_empty()) {
            return Self(Vec::new());
        }
        Self(batch.iter().map(Envelope::partition).collect())
    }

    pub(crate) fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.as_deref()
    }
}

/// What would become of a job that is offered now.
pub(crate) enum Verdict {
    /// It would come in, into this partition.
    Fits(u8),
    /// Its id is known: it is accepted, and nothing changes.
    Known,
    /// Another job holds its unique key.
    Held(JobId),
    /// There is no room for it now.
    Full,
    /// It is not taken, now or later.
    Refused(Rejection),
}

impl State {
    /// Takes a job in, once: an id that is known is accepted and changes nothing. `named` is the partition it names.
    pub(crate) fn offer(&mut self, envelope: Envelope, named: Option<&str>, now: Now) -> Taken {
        match self.judge(&envelope, named, now) {
            Verdict::Fits(partition) => self.admit(envelope, partition, now),
            Verdict::Known => Taken::accepted(),
            Verdict::Held(by) => Taken::Answer(PublishOutcome::Duplicate { existing: self.reference(by) }),
            Verdict::Full => Taken::NoRoom(envelope),
            Verdict::Refused(rejection) => Taken::Answer(PublishOutcome::Rejected(rejection)),
        }
    }

    #[inline]
    pub(crate) fn judge(&self, envelope: &Envelope, named: Option<&str>, now: Now) -> Verdict {
        let partition = match self.place_for(envelope, named) {
            Ok(partition) => partition,
            Err(rejection) => return Verdict::Refused(rejection),
        };
        if self.find(envelope.id).is_some() || self.is_gone(envelope.id) {
            return Verdict::Known;
        }
        if let Some(holder) = self.key_holder(envelope, now) {
            return Verdict::Held(holder);
        }
        if self.waiting() >= self.max_len() { Verdict::Full } else { Verdict::Fits(partition) }
    }

    /// The partition it belongs in, if it may come in at all.
    #[inline]
    pub(crate) fn place_for(&self, envelope: &Envelope, named: Option<&str>) -> Result<u8, Rejection> {
        if let Some(rejection) = self.too_large(envelope) {
            return Err(rejection);
        }
        match self.line.find(named) {
            Some(partition) => Ok(partition),
            None => Err(self.no_such_partition(named)),
        }
    }

    #[inline]
    fn too_large(&self, envelope: &Envelope) -> Option<Rejection> {
        let (limit, actual) = (self.spec.max_encoded_len, envelope.encoded_len());
        (actual > limit).then_some(Rejection::TooLarge { limit, actual })
    }

    #[cold]
    fn no_such_partition(&self, named: Option<&str>) -> Rejection {
        let error = self.spec.check_partition(named).err();
        Rejection::Denied(error.unwrap_or_else(|| Error::new(ErrorCode::Validation, "no such partition")).by("memory"))
    }

    /// Takes a follow-up in: `max_len` never refuses it, and a held unique key means that its work is under way.
    pub(crate) fn follow(&mut self, envelope: Envelope, named: Option<&str>, now: Now) {
        if self.find(envelope.id).is_none() && !self.is_gone(envelope.id) && self.key_holder(&envelope, now).is_none() {
            let partition = self.line.find(named).or_else(|| self.line.find(None)).unwrap_or(0);
            self.admit(envelope, partition, now);
        }
    }

    fn key_holder(&self, envelope: &Envelope, now: Now) -> Option<JobId> {
        self.holder_of(envelope.unique.as_deref()?, envelope.id, now)
    }

    fn max_len(&self) -> u64 {
        self.spec.max_len.unwrap_or(queue_core::config::defaults::MEMORY_MAX_LEN)
    }

    fn admit(&mut self, envelope: Envelope, partition: u8, now: Now) -> Taken {
        let unique = envelope.unique.clone();
        let id = envelope.id;
        if self.insert(envelope, partition, now).is_none() {
            return Taken::Answer(PublishOutcome::Rejected(Rejection::Full));
        }
        if let Some(unique) = unique {
            self.hold(&unique, id, now);
        }
        Taken::accepted()
    }

    /// Finds dead jobs without an index: one walk for all of them, which ends with the last. Named as they are listed, the
    /// oldest first, they are at its beginning.
    fn walk_for(&self, ids: &[JobId]) -> Vec<u32> {
        let mut named: HashSet<JobId> = ids.iter().copied().collect();
        let mut found = Vec::with_capacity(named.len());
        for (_, slot) in &self.dead {
            if named.is_empty() {
                break;
            }
            if self.slots.get(*slot).is_some_and(|entry| named.remove(&entry.envelope.id)) {
                found.push(*slot);
            }
        }
        found
    }

    /// Why the job that is named cannot have its new payload.
    pub(crate) fn refuse_edit(&self, what: &Redrive) -> Option<Rejection> {
        let (RedriveSelection::Jobs(ids), Some(payload)) = (&what.which, &what.payload) else { return None };
        let slot = self.find_dead(*ids.first()?).or_else(|| self.walk_for(ids).first().copied())?;
        let entry = self.slots.get(slot)?;
        self.too_large(&entry.envelope.edit(|parts| parts.payload = payload.clone()))
    }

    /// Gives dead jobs another life.
    pub(crate) fn redrive(&mut self, what: &Redrive, now: Now) -> RedriveReport {
        let slots: Vec<u32> = match &what.which {
            RedriveSelection::Jobs(ids) if self.is_tracked() => {
                let mut named = HashSet::with_capacity(ids.len());
                ids.iter().filter(|id| named.insert(**id)).filter_map(|id| self.find_dead(*id)).collect()
            }
            RedriveSelection::Jobs(ids) => self.walk_for(ids),
            RedriveSelection::Matching(filter) => self.dead_slots(filter, None).collect(),
        };
        let mut report = RedriveReport::default();
        for slot in slots {
            let Some(entry) = self.slots.get(slot) else { continue };
            let (id, unique, died) = (entry.envelope.id, entry.envelope.unique.clone(), entry.changed_at);
            report.matched += 1;
            if unique.as_ref().is_some_and(|unique| self.holder_of(unique, id, now).is_some()) {
                report.duplicates += 1;
                continue;
            }
            if what.dry_run {
                continue;
            }
            self.dead.remove(&(died, slot));
            self.edit_for_redrive(slot, what, now);
            if self.apply(slot, Trigger::Redrive, now).is_some() {
                report.redriven += 1;
                if let Some(unique) = unique {
                    self.hold(&unique, id, now);
                }
            }
        }
        report
    }

    /// Gives it the new payload, and lifts a time to live that has passed: it would end the new life at once.
    fn edit_for_redrive(&mut self, slot: u32, what: &Redrive, now: Now) {
        let Some(entry) = self.slots.get_mut(slot) else { return };
        let end = entry.envelope.expires_at;
        let stands = end.filter(|end| *end > now.wall);
        if what.payload.is_some() || stands != end {
            entry.envelope = entry.envelope.edit(|parts| {
                parts.expires_at = stands;
                if let Some(payload) = &what.payload {
                    parts.payload = payload.clone();
                }
            });
        }
        let key = entry.born;
        self.note_job(slot);
        if let Some(end) = stands {
            // The first timer may have been dropped while the job was dead.
            self.set_timer(Timer { at: now.moment_of(end), slot, key, alarm: Alarm::Expiry });
        }
    }

    /// The error of a job that died of something that is not its own.
    pub(crate) fn error_of(&self, slot: u32) -> Option<JobError> {
        self.slots.get(slot)?.details()?.error.clone()
    }
}
