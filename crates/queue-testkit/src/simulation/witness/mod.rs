//! What sees every call that is carried out, and tells the judge. It changes nothing.

mod records;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use queue_core::{
    Consumer, Envelope, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Capabilities, CloseReport, ConsumeOptions, Delivery, PairedStore, ParkKey, PublishOptions,
        PublishOutcome, QueueAdmin, SettleOutcome, Settlement, Topics,
    },
};

use super::{
    Sim,
    life::Life,
    shadow::{At, Shadow},
};
use records::{WitnessAdmin, WitnessStore};

impl Life {
    /// The provider, with the judge looking on: beneath the wires where each call of it is one step.
    #[must_use]
    pub fn witnessed(&self, provider: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        Arc::new(Witness { life: self.clone(), sim: self.sim().clone(), inner: provider })
    }
}

#[derive(Debug)]
struct Witness {
    life: Life,
    sim: Sim,
    inner: Arc<dyn QueueProvider>,
}

/// Tells the judge if a call is never answered: its task was killed.
struct Doubt<F: FnOnce(&mut Shadow)> {
    sim: Sim,
    tell: Option<F>,
}

impl<F: FnOnce(&mut Shadow)> Doubt<F> {
    fn unless_answered(sim: &Sim, tell: F) -> Self {
        Self { sim: sim.clone(), tell: Some(tell) }
    }

    fn answered(mut self) {
        self.tell = None;
    }
}

impl<F: FnOnce(&mut Shadow)> Drop for Doubt<F> {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            self.sim.judge(|shadow, _| tell(shadow));
        }
    }
}

impl<F: FnOnce(&mut Shadow)> fmt::Debug for Doubt<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doubt")
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl QueueProvider for Witness {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.inner.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.inner.declare(spec).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.inner.drop_queue(queue, only_if_empty).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let began = self.sim.judge(|shadow, at| {
            shadow.offered(at, queue, &batch);
            at.mono
        });
        let doubt = Doubt::unless_answered(&self.sim, |shadow| shadow.publish_in_doubt(&batch));
        let outcomes = self.inner.publish(queue, batch.clone(), options).await;
        doubt.answered();
        self.sim.judge(|shadow, at| {
            shadow.published(at, began, queue, &batch, &outcomes);
            shadow.published_without_store(began, self.life.number(), &batch, &outcomes);
        });
        outcomes
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let demand = options.outstanding;
        let inner = self.inner.consumer(queue, options).await?;
        let number = self.sim.judge(|shadow, _| shadow.opened(self.life.number(), queue, demand));
        Ok(Arc::new(WitnessConsumer { number, life: self.life.clone(), sim: self.sim.clone(), inner }))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(WitnessAdmin { sim: self.sim.clone(), inner: self.inner.admin() })
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.inner.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        let inner = self.inner.job_store()?;
        Some(Arc::new(WitnessStore { sim: self.sim.clone(), inner }))
    }

    fn paired(&self) -> Option<PairedStore> {
        self.inner.paired()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.inner.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        let unparked = self.inner.unpark(queue, key, n).await;
        if let Ok(n) = unparked {
            self.sim.judge(|shadow, _| shadow.unparked(queue, key, n));
        }
        unparked
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.inner.maintain(leading).await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct WitnessConsumer {
    number: u64,
    life: Life,
    sim: Sim,
    inner: Arc<dyn Consumer>,
}

impl WitnessConsumer {
    fn judge<R>(&self, tell: impl FnOnce(&mut Shadow, At) -> R) -> R {
        self.sim.judge(tell)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Consumer for WitnessConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.judge(|shadow, at| shadow.fetching(self.number, (max > 0).then_some(at.mono)));
        let ended = Doubt::unless_answered(&self.sim, |shadow| shadow.fetching(self.number, None));
        let full = self.life.is_full();
        let fetched = self.inner.fetch(max, wait).await;
        drop(ended);
        if let Ok(deliveries) = &fetched {
            self.judge(|shadow, at| {
                if full && !deliveries.is_empty() && self.life.is_full() {
                    shadow.wrong("jobs were given out to a process that has no room for their settlements");
                }
                shadow.claimed(at, self.number, deliveries);
                if deliveries.len() > max {
                    shadow.wrong(format!("a fetch asked for {max} jobs and got {}", deliveries.len()));
                }
            });
        }
        fetched
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        self.judge(|shadow, at| shadow.settling(at, batch));
        let doubt = Doubt::unless_answered(&self.sim, |shadow| shadow.settle_in_doubt(batch));
        let outcomes = self.inner.settle(batch).await;
        doubt.answered();
        self.judge(|shadow, at| shadow.settled(at, batch, &outcomes));
        outcomes
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        let asked = self.judge(|shadow, at| {
            shadow.beating(beats);
            at.mono
        });
        let outcomes = self.inner.heartbeat(beats).await;
        self.judge(|shadow, at| shadow.beaten(at, asked, beats, &outcomes));
        outcomes
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        let done = self.inner.demand(outstanding).await;
        if done.is_ok() {
            self.judge(|shadow, _| shadow.demanded(self.number, outstanding));
        }
        done
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        let report = self.inner.close(deadline).await;
        self.judge(|shadow, _| shadow.closed(self.number));
        report
    }
}

impl Drop for WitnessConsumer {
    fn drop(&mut self) {
        self.judge(|shadow, _| shadow.closed(self.number));
    }
}
