//! Leases as their holders knew them: while one stands, nobody else may begin to run its job, also where its holder was killed.
//!
//! What is counted as standing surely stood: a lease ends no earlier than its time after it was asked for, and from the moment on
//! in which its holder asked to give the job back it counts for nothing. A settlement for good gives nothing back: whether it took or
//! not, nobody may run the job before the lease is over.

use std::collections::HashMap;

use queue_core::JobId;

use super::judge::{Fault, Victim};

/// A run that began under another's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlap {
    pub(crate) id: JobId,
    /// Its place among the workers, and that of the one who began.
    pub(crate) holder: usize,
    pub(crate) intruder: usize,
}

#[derive(Debug)]
struct Hold {
    worker: usize,
    epoch: u64,
    /// When its holder heard of it last.
    heard: u64,
    until: u64,
    given_back: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Leases(HashMap<JobId, Vec<Hold>>);

impl Leases {
    fn find(&mut self, worker: usize, id: JobId, epoch: u64) -> Option<&mut Hold> {
        self.0.get_mut(&id)?.iter_mut().find(|hold| (hold.worker, hold.epoch) == (worker, epoch))
    }

    /// A worker was told that it holds the job at least so long. An answer that came late gives back nothing that was given up.
    pub(crate) fn held(&mut self, heard: u64, worker: usize, id: JobId, (epoch, until): (u64, u64)) {
        if let Some(hold) = self.find(worker, id, epoch) {
            (hold.heard, hold.until) = (heard, hold.until.max(until));
        } else {
            let hold = Hold { worker, epoch, heard, until, given_back: false };
            self.0.entry(id).or_default().push(hold);
        }
    }

    /// A worker asked for it to be run again.
    pub(crate) fn given_back(&mut self, worker: usize, id: JobId, epoch: u64) {
        if let Some(hold) = self.find(worker, id, epoch) {
            hold.given_back = true;
        }
    }

    /// A worker closes: it gives back whatever it has.
    pub(crate) fn closed(&mut self, worker: usize) {
        let all = self.0.values_mut().flatten();
        all.filter(|hold| hold.worker == worker).for_each(|hold| hold.given_back = true);
    }

    /// A worker began to run what it was given last. Whose lease stood, where nothing took that away?
    pub(crate) fn ran(&self, at: u64, worker: usize, id: JobId, faults: &[Fault]) -> Option<Overlap> {
        let holds = self.0.get(&id)?;
        let own = holds.iter().rposition(|hold| hold.worker == worker);
        let stands = |hold: &Hold| !hold.given_back && hold.until > at && !is_struck(hold, at, faults);
        let others = holds.iter().enumerate().filter(|(place, _)| Some(*place) != own);
        let holder = others.map(|(_, hold)| hold).find(|hold| stands(hold))?.worker;
        Some(Overlap { id, holder, intruder: worker })
    }
}

/// Whether a fault that had begun by then may have taken the lease itself away.
fn is_struck(hold: &Hold, at: u64, faults: &[Fault]) -> bool {
    let took = |fault: &&Fault| matches!(fault.struck, Victim::Everything { .. });
    faults.iter().filter(took).any(|fault| fault.began <= at && hold.heard <= fault.at)
}
