//! A process that takes jobs without a worker, and not always well: late, twice, with another answer than before. A provider
//! must stand all of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::{
    Consumer, Envelope, JobError, JobScheduler, QueueSpec,
    provider::{
        Beat, BeatOutcome, ConsumeOptions, Delivery, Disposition, FollowUp, ParkKey, ReleaseReason, SettleOutcome,
        Settlement,
    },
    scheduler::{Verdict, decide_start},
};

use super::{Stop, operator::scheduler_begins, persistently};
use crate::simulation::{
    bias::{LARGEST, PARKED_BY_HAND},
    dice::Dice,
    life::Life,
    plan::Plan,
    words,
};

/// A job has so many generations of follow-ups at most.
const MOST_FOLLOW_UPS: u64 = 2;
/// A minute without an answer, and it gives up.
const MOST_TRIES: usize = 400;

pub(super) async fn handle(life: &Life, scheduler: &JobScheduler, plan: &Plan, stop: Stop) {
    let dice = life.dice();
    let Some(spec) = plan.queues.get(usize::try_from(dice.below(plan.queues.len() as u64)).unwrap_or(0)) else {
        return;
    };
    // What a layer owes for this process is done in its maintenance.
    scheduler_begins(scheduler, plan).await;
    let outstanding = usize::try_from(dice.between(1, 4)).unwrap_or(1);
    let open = || {
        let mut options = ConsumeOptions::new(life.name(), outstanding);
        options.lease = plan.lease;
        scheduler.provider().consumer(&spec.name, options)
    };
    let Some(consumer) = persistently(&stop, open).await else { return };
    let hand = Hand { life, plan, spec, consumer };
    tokio::select! {
        biased;
        () = stop.told() => {}
        () = hand.work() => {}
    }
    hand.consumer.close(Duration::from_secs(1)).await;
}

struct Hand<'a> {
    life: &'a Life,
    plan: &'a Plan,
    spec: &'a QueueSpec,
    consumer: Arc<dyn Consumer>,
}

impl Hand<'_> {
    fn dice(&self) -> &Dice {
        self.life.dice()
    }

    async fn work(&self) {
        loop {
            let most = usize::try_from(self.dice().between(1, 3)).unwrap_or(1);
            match self.consumer.fetch(most, Duration::from_secs(2)).await {
                Ok(deliveries) if !deliveries.is_empty() => self.see_to(deliveries).await,
                Ok(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    async fn see_to(&self, deliveries: Vec<Delivery>) {
        let dice = self.dice();
        let stormy = self.life.sim().is_stormy() && !self.is_calm();
        let mut batch = Vec::new();
        for delivery in deliveries {
            if let Verdict::Settle(disposition) = decide_start(&delivery, self.spec, self.life.env().now()) {
                batch.push(Settlement::new(delivery.receipt, disposition));
                continue;
            }
            if delivery.redelivered && !self.mark(&delivery).await {
                let busy = Disposition::Release { after: Duration::from_secs(1), reason: ReleaseReason::Busy };
                batch.push(Settlement::new(delivery.receipt, busy));
                continue;
            }
            tokio::time::sleep(dice.millis(0, 300)).await;
            if dice.chance(0.3) {
                self.consumer.heartbeat(&[Beat::extend(delivery.receipt, self.plan.lease)]).await;
            }
            batch.push(self.decide(&delivery));
        }
        if stormy && dice.chance(0.15) {
            // It fell asleep over it.
            tokio::time::sleep(self.plan.lease.mul_f64(0.5 + dice.below(15) as f64 / 10.0)).await;
        }
        let times = if dice.chance(0.3) { 2 } else { 1 };
        for _ in 0..times {
            self.consumer.settle(&batch).await;
        }
        self.think_again(&batch).await;
        if dice.chance(0.15) {
            let other = |settlement: &Settlement| {
                let error = JobError::custom("OTHERWISE", "on second thoughts");
                Settlement::new(settlement.receipt, Disposition::DeadLetter { error })
            };
            self.consumer.settle(&batch.iter().map(other).collect::<Vec<_>>()).await;
        }
        // Who is not answered asks again, as a worker does: a session would hold it for ever.
        for _ in 0..MOST_TRIES {
            tokio::time::sleep(dice.millis(1, 300)).await;
            let outcomes = self.consumer.settle(&batch).await;
            let open = |outcome: &SettleOutcome| {
                matches!(outcome, SettleOutcome::Unknown(_) | SettleOutcome::NotSettled { .. })
            };
            if !outcomes.iter().any(open) {
                break;
            }
            if outcomes.iter().any(|outcome| matches!(outcome, SettleOutcome::NotSettled { then_index: Some(_), .. }))
                && self.plan.bias.oversized
            {
                // What is too large stays too large.
                batch.iter_mut().for_each(|settlement| settlement.then.clear());
            }
        }
    }

    /// Says something else before it knows what became of what it said.
    async fn think_again(&self, batch: &[Settlement]) {
        if !self.plan.bias.second_thoughts {
            return;
        }
        let release = Disposition::Release { after: Duration::from_millis(50), reason: ReleaseReason::Snooze };
        let error = JobError::custom("OTHERWISE", "on second thoughts");
        let other = |settlement: &Settlement| match settlement.disposition {
            Disposition::Release { .. } => {
                Settlement::new(settlement.receipt, Disposition::DeadLetter { error: error.clone() })
            }
            _ => Settlement::new(settlement.receipt, release.clone()),
        };
        self.consumer.settle(&batch.iter().map(other).collect::<Vec<_>>()).await;
    }

    fn is_calm(&self) -> bool {
        self.plan.weather.is_calm()
    }

    async fn mark(&self, delivery: &Delivery) -> bool {
        let beat = Beat { started: true, ..Beat::extend(delivery.receipt, self.plan.lease) };
        let answer = self.consumer.heartbeat(&[beat]).await.pop();
        matches!(answer, Some(BeatOutcome::Held(_)))
    }

    fn decide(&self, delivery: &Delivery) -> Settlement {
        let dice = self.dice();
        let spent = self.policy(delivery).is_spent(delivery.attempt);
        let error = || JobError::custom("PLANNED", "as planned");
        if let Some(at_most) = self.plan.bias.parks.filter(|_| dice.chance(0.6) && self.life.sim().is_stormy()) {
            return Settlement::new(
                delivery.receipt,
                Disposition::Park { key: ParkKey(PARKED_BY_HAND.into()), at_most },
            );
        }
        if self.plan.bias.second_thoughts && dice.chance(0.5) {
            let after = dice.millis(1, 900);
            return Settlement::new(delivery.receipt, Disposition::Release { after, reason: ReleaseReason::Snooze });
        }
        let disposition = match dice.below(10) {
            0..5 => Disposition::Complete { result: dice.chance(0.5).then(|| Bytes::from_static(b"1")) },
            5 | 6 if !spent => Disposition::Retry { after: dice.millis(0, 900), error: error() },
            7 => Disposition::Release { after: dice.millis(1, 900), reason: ReleaseReason::Snooze },
            8 => Disposition::Park { key: ParkKey(PARKED_BY_HAND.into()), at_most: dice.millis(100, 3_000) },
            _ => Disposition::DeadLetter { error: error() },
        };
        let mut settlement = Settlement::new(delivery.receipt, disposition);
        let number = words::number_of(delivery.envelope.id).unwrap_or(u64::MAX);
        if number / 1_000 < MOST_FOLLOW_UPS
            && dice.chance(0.3)
            && matches!(settlement.disposition, Disposition::Complete { .. })
        {
            let queue = self.plan.queues.last().unwrap_or(self.spec).name.clone();
            settlement.then.push(FollowUp { queue, envelope: self.successor(&delivery.envelope, number + 1_000) });
        }
        settlement
    }

    fn policy(&self, delivery: &Delivery) -> queue_core::RetryPolicy {
        let own = delivery.envelope.headers().ok().and_then(|headers| headers.retry);
        own.unwrap_or_else(|| self.spec.retry.clone())
    }

    /// Always the same for the same job, however often it is handled.
    fn successor(&self, parent: &Envelope, number: u64) -> Envelope {
        let bias = &self.plan.bias;
        let payload = if bias.oversized && number.is_multiple_of(2) { vec![b'x'; LARGEST] } else { b"next".to_vec() };
        let mut next = Envelope::builder(words::id(number), parent.kind.clone(), payload, parent.created_at);
        next.timeout = self.spec.timeout;
        next.store = parent.store.filter(|_| !bias.unstamped);
        next.seal()
    }
}
