//! Everything that one lock guards: the broker's queues and the sessions of its clients.

use std::collections::{BTreeMap, HashMap, VecDeque};

use queue_core::{
    Envelope, Error, ErrorCode, QueueName, QueueSpec,
    provider::{Capabilities, DeadJob, Disposition, Receipt, Rejection},
};

use super::{
    Shape,
    faults::Faults,
    line::{Ground, MemberId},
    queue::{Letter, Queue},
};

#[derive(Debug)]
pub(super) struct State {
    pub(super) queues: BTreeMap<QueueName, Queue>,
    pub(super) members: BTreeMap<MemberId, Member>,
    pub(super) faults: Faults,
    /// Raised whenever all connections break.
    pub(super) era: u64,
    pub(super) down: bool,
    pub(super) shape: Shape,
    pub(super) can: Capabilities,
    pub(super) ground: Ground,
}

/// A consumer's session, and what it remembers of what it settled.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) connection: u64,
    pub(super) queue: QueueName,
    order: VecDeque<Receipt>,
    settled: HashMap<Receipt, Disposition>,
}

impl Member {
    const REMEMBERED: usize = 1_024;

    pub(super) fn remember(&mut self, receipt: Receipt, disposition: Disposition) {
        if self.order.len() == Self::REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.settled.remove(&oldest);
        }
        self.order.push_back(receipt);
        self.settled.insert(receipt, disposition);
    }

    pub(super) fn recall(&self, receipt: &Receipt) -> Option<&Disposition> {
        self.settled.get(receipt)
    }
}

impl State {
    pub(super) fn new(shape: Shape, ground: Ground) -> Self {
        let can = shape.capabilities();
        let (queues, members, faults) = (BTreeMap::new(), BTreeMap::new(), Faults::default());
        Self { queues, members, faults, era: 0, down: false, shape, can, ground }
    }

    /// The queue, with the default spec where nobody declared it.
    pub(super) fn queue(&mut self, name: &QueueName) -> &mut Queue {
        let (shape, ground) = (&self.shape, &self.ground);
        self.queues
            .entry(name.clone())
            .or_insert_with(|| Queue::new(QueueSpec::new(name.clone()), shape.line(ground), ground.clone()))
    }

    pub(super) fn create(&mut self, spec: QueueSpec) {
        let queue = Queue::new(spec.clone(), self.shape.line(&self.ground), self.ground.clone());
        self.queues.insert(spec.name, queue);
    }

    /// Brings a queue that exists up to date.
    pub(super) fn refresh(&mut self, name: &QueueName) -> Option<&mut Queue> {
        let queue = self.queues.get_mut(name)?;
        for member in queue.refresh() {
            self.members.remove(&member);
        }
        Some(queue)
    }

    pub(super) fn join(&mut self, connection: u64, name: &QueueName) -> MemberId {
        let member = self.ground.number();
        self.queue(name).line.join(member);
        let (order, settled) = (VecDeque::new(), HashMap::new());
        self.members.insert(member, Member { connection, queue: name.clone(), order, settled });
        member
    }

    pub(super) fn leave(&mut self, member: MemberId, clean: bool) {
        let Some(gone) = self.members.remove(&member) else { return };
        if let Some(queue) = self.queues.get_mut(&gone.queue) {
            queue.line.leave(member, clean);
        }
    }

    /// Ends the sessions of one connection.
    pub(super) fn disconnect(&mut self, connection: u64, clean: bool) {
        let of = self.members.iter().filter(|(_, member)| member.connection == connection);
        let ids: Vec<MemberId> = of.map(|(id, _)| *id).collect();
        for id in ids {
            self.leave(id, clean);
        }
    }

    /// Breaks every connection. Where receipts do not belong to sessions nothing else happens.
    pub(super) fn break_connections(&mut self) {
        self.era += 1;
        if self.shape.has_sessions() {
            let ids: Vec<MemberId> = self.members.keys().copied().collect();
            for id in ids {
                self.leave(id, false);
            }
        }
    }

    /// What is checked before anything is written.
    pub(super) fn check(&mut self, name: &QueueName, envelope: &Envelope) -> Result<(), Rejection> {
        let limit = self.queue(name).spec.max_encoded_len.min(self.can.max_encoded_len);
        let actual = envelope.encoded_len();
        if actual > limit {
            return Err(Rejection::TooLarge { limit, actual });
        }
        if let Some(named) = envelope.partition() {
            let scheme = self.shape.scheme();
            let known = self.queue(name).spec.check_partition(Some(&named));
            known.map_err(|error| Rejection::Denied(error.by(scheme)))?;
        }
        if let Some(max) = self.shape.max_hold().filter(|max| envelope.timeout > *max) {
            return Err(Rejection::ExceedsMaxHold { max });
        }
        let delay = self.delay(envelope);
        if let Some(max) = self.can.delay_max.filter(|max| delay > *max) {
            return Err(Rejection::DelayTooLong { max });
        }
        if envelope.unique.is_some() && envelope.store.is_none() {
            self.shape.require(self.can.unique_keys, "unique keys").map_err(Rejection::Denied)?;
        }
        Ok(())
    }

    fn delay(&self, envelope: &Envelope) -> std::time::Duration {
        envelope.not_before.map_or(std::time::Duration::ZERO, |due| self.ground.wall().until(due))
    }

    /// Writes a job that was checked.
    pub(super) fn publish(&mut self, name: &QueueName, envelope: &Envelope) -> Result<(), Rejection> {
        let (band, delay) = (envelope.priority.band(), self.delay(envelope));
        self.send(name, Letter { wire: envelope.encode(), band, retry: false, delay })?;
        self.queue(name).totals.submitted += 1;
        Ok(())
    }

    pub(super) fn send(&mut self, name: &QueueName, letter: Letter) -> Result<(), Rejection> {
        self.faults.meet_publish(name)?;
        self.queue(name).put(letter);
        Ok(())
    }

    pub(super) fn bury(&mut self, name: &QueueName, dead: DeadJob) -> Result<(), Error> {
        self.faults.meet_dead_letter(name)?;
        self.queue(name).bury(dead)
    }

    pub(super) fn away(&self, operation: &'static str) -> Result<(), Error> {
        if self.down {
            let message = "the model broker is stopped: try again when it is started";
            return Err(Error::new(ErrorCode::Unavailable, message).at(operation).by(self.shape.scheme()));
        }
        Ok(())
    }
}
