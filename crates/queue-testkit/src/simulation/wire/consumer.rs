//! A consumer behind a wire.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Consumer, Result,
    provider::{Beat, BeatOutcome, CloseReport, Delivery, SettleOutcome, Settlement},
};

use super::{Call, Line, Silence};
use crate::simulation::words;

#[derive(Debug)]
pub(super) struct ConsumerWire {
    line: Line,
    inner: Arc<dyn Consumer>,
    outer: bool,
    sessions: bool,
}

impl ConsumerWire {
    pub(super) fn new(line: Line, inner: Arc<dyn Consumer>, outer: bool, sessions: bool) -> Self {
        Self { line, inner, outer, sessions }
    }

    fn now(&self) -> Duration {
        self.line.life.env().clock.monotonic()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Consumer for ConsumerWire {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        // What a session was sent and did not hear of would stay out until the session ends: there a lost answer is a broken
        // connection, which is a fault of its own.
        let call = Call::of("fetch").loses(!self.sessions);
        let work = || self.inner.fetch(max, wait);
        let fetched = self.line.carry(call, work, |silence| Err(silence.error()), words::fetched).await;
        if let (true, Ok(deliveries)) = (self.outer, &fetched) {
            let (life, now) = (&self.line.life, self.now());
            life.sim().judge(|shadow, _| shadow.received(life.number(), deliveries, now));
        }
        if let (false, Ok(deliveries)) = (self.outer, &fetched)
            && !deliveries.is_empty()
        {
            let life = &self.line.life;
            life.sim().judge(|shadow, _| shadow.copies_fetched(life.number()));
        }
        fetched
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        let silent = |silence: Silence| {
            let error = silence.error();
            batch.iter().map(|_| SettleOutcome::Unknown(error.clone())).collect()
        };
        let tell = |outcomes: &Vec<SettleOutcome>| words::settled(batch, outcomes);
        self.line.carry(Call::of("settle").repeats(true), || self.inner.settle(batch), silent, tell).await
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let silent = |silence: Silence| {
            let error = silence.error();
            beats.iter().map(|_| BeatOutcome::Unknown(error.clone())).collect()
        };
        let call = Call::of("heartbeat").repeats(true);
        let call = if beats.is_empty() { call.quiet() } else { call };
        let sent = self.now();
        let tell = |outcomes: &Vec<BeatOutcome>| words::beaten(beats, outcomes);
        let outcomes = self.line.carry(call, || self.inner.heartbeat(beats), silent, tell).await;
        if self.outer {
            let life = &self.line.life;
            life.sim().judge(|shadow, at| shadow.heard(at, life.number(), beats, &outcomes, sent));
        }
        outcomes
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        let call = Call::of("demand").repeats(true).quiet();
        self.line.carry(call, || self.inner.demand(outstanding), |silence| Err(silence.error()), words::result).await
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        let call = Call::of("close consumer");
        let tell = |report: &CloseReport| format!("{} returned, {} still open", report.returned, report.still_open);
        self.line.carry(call, || self.inner.close(deadline), |_| CloseReport::default(), tell).await
    }
}
