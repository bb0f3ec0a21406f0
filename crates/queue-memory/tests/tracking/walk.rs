//! Every row of the transition table that this interface can reach, walked.

use futures_util::{FutureExt, StreamExt};
use queue_core::{
    event::JobEventKind,
    lifecycle::{self, Transition, Trigger},
    provider::Cancel,
    store::{Watch, Watched},
};

use super::*;

/// A job brought into a state, with the fence of its last claim if it has one.
struct Walker {
    bed: Bed,
    job: Envelope,
    fence: Option<Fence>,
    /// It is staged with a successor, so that a refusal can meet it.
    staged: bool,
}

const DELAY: Duration = Duration::from_secs(5);

impl Walker {
    /// A job in the state; `trigger` says what it will need to take it there.
    async fn to(from: JobState, trigger: Trigger) -> Self {
        let bed = Bed::new();
        let expires = matches!(trigger, Trigger::Expire).then(|| START + DELAY / 2);
        let job = bed.job_with(|job| {
            job.unique = unique("key", None);
            job.expires_at = expires.filter(|_| from != JobState::Running);
            job.not_before = (from == JobState::Scheduled).then(|| START + DELAY);
        });
        let mut walker = Self { bed, job, fence: None, staged: true };
        walker.bed.stage(&walker.job).await;
        match from {
            JobState::Scheduled => {}
            JobState::Pending if trigger != Trigger::Unpark => {}
            JobState::Pending => {
                walker.start().await;
                walker.settle(park("park", DELAY)).await;
            }
            JobState::Running => walker.start().await,
            JobState::Retrying => {
                walker.start().await;
                let next = successor(&walker.job);
                let fence = walker.fence.unwrap();
                walker.bed.settle_with(fence, retry(DELAY), Some(next.clone()), Vec::new()).await;
                (walker.job, walker.staged) = (next, true);
            }
            JobState::Dead => {
                walker.start().await;
                walker.settle(Disposition::DeadLetter { error: failed() }).await;
            }
            _ => panic!("no way to {from}"),
        }
        assert_eq!(walker.bed.state(&walker.job).await, from);
        walker
    }

    async fn start(&mut self) {
        self.fence = Some(self.bed.run(&self.job).await);
        self.staged = false;
    }

    async fn settle(&self, disposition: Disposition) {
        let outcome = self.bed.settle(self.fence.unwrap(), disposition).await;
        assert!(matches!(outcome, SettleOutcome::Settled), "{outcome:?}");
    }

    async fn pull(&mut self, from: JobState, trigger: Trigger) {
        let newer = self.job.edit(|copy| {
            copy.generation += 1;
            copy.not_before = None;
        });
        match (trigger, from) {
            (Trigger::Due, _) => pass(DELAY).await,
            (Trigger::Claim, JobState::Pending) => self.start().await,
            // By its own copy it would be due first; a copy from a future that this store has forgotten need not wait.
            (Trigger::Claim, _) => {
                self.job = newer;
                self.start().await;
            }
            (Trigger::Complete, _) => self.settle(done()).await,
            (Trigger::Retry, _) => self.settle(retry(DELAY)).await,
            (Trigger::RetryNow, _) => self.settle(retry(Duration::ZERO)).await,
            (Trigger::Release, _) => self.settle(release(Duration::ZERO)).await,
            (Trigger::ReleaseLater, _) => self.settle(release(DELAY)).await,
            (Trigger::Park, _) => self.settle(park("park", DELAY)).await,
            (Trigger::Bury, JobState::Running) => self.settle(Disposition::DeadLetter { error: failed() }).await,
            (Trigger::Cancel, JobState::Running) => self.settle(Disposition::Cancelled).await,
            (Trigger::Expire, JobState::Running) => self.settle(Disposition::Expired).await,
            (Trigger::Bury, _) => {
                assert!(self.staged);
                self.bed.refuse(&self.job).await;
            }
            (Trigger::Cancel, _) => {
                self.bed.store.cancel(&[reference(&self.job)], &Cancel::by("me")).await;
            }
            (Trigger::Expire, _) => pass(DELAY / 2).await,
            (Trigger::Unpark, _) => {
                self.bed.store.unpark(&everything(), &ParkKey("park".into()), 1, STAGE).await.unwrap();
            }
            (Trigger::Redrive, _) => {
                assert!(matches!(self.bed.stage(&newer).await, StageOutcome::Staged));
            }
            // Seen only as the first half of a claim that takes a dead lease over.
            (Trigger::LeaseLost, _) => {
                pass(LEASE).await;
                self.fence = Some(self.bed.run(&self.job).await);
            }
            (Trigger::Unblock, _) => panic!("nothing blocks here"),
        }
    }
}

async fn walk(row: Transition) {
    let Transition { from, trigger, to, effects } = row;
    let mut walker = Walker::to(from, trigger).await;
    let (attempt, held) = (walker.bed.record(&walker.job).await.attempt, walker.fence);
    let mut events = walker.bed.store.watch(Watch::All).await.unwrap();
    walker.pull(from, trigger).await;
    let record = walker.bed.record(&walker.job).await;

    let (to, next) = match trigger {
        Trigger::LeaseLost => (JobState::Running, vec![JobEventKind::LeaseLost, JobEventKind::Started]),
        _ => (to, effects.event.into_iter().collect()),
    };
    assert_eq!(record.state, to, "{row:?}");
    let wanted = match (effects.reset_attempts, effects.next_attempt) {
        (true, _) => 1,
        (_, next) => attempt + u32::from(next),
    };
    assert_eq!(record.attempt, wanted, "{row:?}");
    assert_eq!(record.finished_at.is_some(), effects.finished, "{row:?}");
    assert_eq!(record.parked.is_some(), trigger == Trigger::Park, "{row:?}");

    let mut heard = Vec::new();
    while let Some(Some(Watched::Event(event))) = events.next().now_or_never() {
        heard.extend(Some(event.what).filter(|what| *what != JobEventKind::Submitted));
    }
    assert_eq!(heard, next, "{row:?}");

    if let Some(old) = held.filter(|_| effects.fence) {
        assert!(matches!(walker.bed.beat(old, |_| ()).await, BeatOutcome::Lost), "{row:?}: the old fence is stale");
    }
    let rival = walker.bed.job_with(|job| job.unique = unique("key", None));
    let key_is_free = matches!(walker.bed.stage(&rival).await, StageOutcome::Staged);
    assert_eq!(key_is_free, effects.finished, "{row:?}: the unique key");
}

#[tokio::test(start_paused = true)]
async fn every_row_but_those_of_blocked_jobs() {
    let rows: Vec<Transition> = lifecycle::table().into_iter().filter(|row| row.from != JobState::Blocked).collect();
    assert_eq!(rows.len(), lifecycle::table().len() - 3);
    for row in rows {
        walk(row).await;
    }
}
