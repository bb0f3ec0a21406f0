//! The embedded provider with a journal, as a broker: it is killed and begins again while its clients live on.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use queue_core::{
    Env, Error, ErrorCode, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::Envelope,
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Capabilities, CloseReport, ConsumeOptions, Consumer, Delivery, Durability, ParkKey, PublishOptions,
        PublishOutcome, QueueAdmin, SettleOutcome, Settlement, Topics,
    },
};
use queue_memory::{JournalOptions, MemoryProvider, ModelDisk};
use tokio::sync::watch;

/// The process that is killed.
#[derive(Debug)]
pub(crate) struct Process {
    env: Env,
    running: Mutex<(MemoryProvider, ModelDisk)>,
    /// How often it was killed.
    killed: watch::Sender<u64>,
    /// Of every queue, whatever was declared.
    durability: Option<Durability>,
}

impl Process {
    pub(crate) fn begin(env: Env, durability: Option<Durability>) -> Result<Arc<Self>> {
        let disk = ModelDisk::new();
        let running = Mutex::new((open(&disk, &env)?, disk));
        Ok(Arc::new(Self { env, running, killed: watch::Sender::new(0), durability }))
    }

    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn connect(self: &Arc<Self>) -> Arc<dyn QueueProvider> {
        let provider = self.running.lock().0.connect();
        let since = *self.killed.borrow();
        Arc::new(Client { process: Arc::clone(self), link: Mutex::new((since, provider)) })
    }

    /// Killed: what is not on the disk is lost, and every lease. It begins again on what `left` makes of the disk.
    pub(crate) fn kill(&self, left: impl FnOnce(&ModelDisk) -> ModelDisk) -> Result<()> {
        let mut running = self.running.lock();
        running.0.abandon();
        let disk = left(&running.1);
        *running = (open(&disk, &self.env)?, disk);
        self.killed.send_modify(|times| *times += 1);
        Ok(())
    }

    /// The disk refuses from now on, or none does any more and what waits for it is written.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn refuse_writes(&self, kind: Option<ErrorKind>) {
        let (provider, disk) = self.running.lock().clone();
        disk.refuse(kind);
        if kind.is_none() {
            provider.pump();
        }
    }
}

fn open(disk: &ModelDisk, env: &Env) -> Result<MemoryProvider> {
    MemoryProvider::open(&JournalOptions::on_disk(disk, true), env.clone())
}

fn killed() -> Error {
    Error::new(ErrorCode::Unavailable, "the process was killed")
}

/// A connection that is made anew after a kill.
#[derive(Debug)]
struct Client {
    process: Arc<Process>,
    link: Mutex<(u64, MemoryProvider)>,
}

impl Client {
    fn link(&self) -> (u64, MemoryProvider) {
        let mut link = self.link.lock();
        let times = *self.process.killed.borrow();
        if link.0 != times {
            *link = (times, self.process.running.lock().0.connect());
        }
        link.clone()
    }
}

#[async_trait]
impl QueueProvider for Client {
    fn scheme(&self) -> &'static str {
        self.link().1.scheme()
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        self.link().1.capabilities(spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        let mut spec = spec.clone();
        spec.durability = self.process.durability.or(spec.durability);
        self.link().1.declare(&spec).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.link().1.drop_queue(queue, only_if_empty).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let mut kills = self.process.killed.subscribe();
        let count = batch.len();
        let (_, provider) = self.link();
        tokio::select! {
            biased;
            _ = kills.changed() => (0..count).map(|_| PublishOutcome::Unknown(killed())).collect(),
            outcomes = provider.publish(queue, batch, options) => outcomes,
        }
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        let (since, provider) = self.link();
        let consumer = provider.consumer(queue, options.clone()).await?;
        let process = Arc::clone(&self.process);
        let outstanding = Mutex::new(options.outstanding);
        let queue = queue.clone();
        Ok(Arc::new(Hand { process, queue, options, outstanding, link: Mutex::new((since, consumer)) }))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        self.link().1.admin()
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.link().1.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        self.link().1.job_store()
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        self.link().1.limiter()
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.link().1.unpark(queue, key, n).await
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        self.link().1.maintain(leading).await
    }

    async fn ping(&self) -> Result<()> {
        self.link().1.ping().await
    }

    async fn close(&self) -> Result<()> {
        let (_, provider) = self.link();
        provider.close().await
    }
}

/// A consumer that subscribes anew after a kill.
#[derive(Debug)]
struct Hand {
    process: Arc<Process>,
    queue: QueueName,
    options: ConsumeOptions,
    outstanding: Mutex<usize>,
    link: Mutex<(u64, Arc<dyn Consumer>)>,
}

impl Hand {
    async fn link(&self) -> Result<Arc<dyn Consumer>> {
        let times = *self.process.killed.borrow();
        let (since, consumer) = self.link.lock().clone();
        if since == times {
            return Ok(consumer);
        }
        let provider = self.process.running.lock().0.connect();
        let options = ConsumeOptions { outstanding: *self.outstanding.lock(), ..self.options.clone() };
        let consumer = provider.consumer(&self.queue, options).await?;
        *self.link.lock() = (times, Arc::clone(&consumer));
        Ok(consumer)
    }
}

#[async_trait]
impl Consumer for Hand {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut kills = self.process.killed.subscribe();
        let consumer = self.link().await?;
        tokio::select! {
            biased;
            _ = kills.changed() => Err(killed()),
            fetched = consumer.fetch(max, wait) => fetched,
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<SettleOutcome> {
        match self.link().await {
            Ok(consumer) => consumer.settle(batch).await,
            Err(error) => batch.iter().map(|_| SettleOutcome::Unknown(error.clone())).collect(),
        }
    }

    async fn heartbeat(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        match self.link().await {
            Ok(consumer) => consumer.heartbeat(beats).await,
            Err(error) => beats.iter().map(|_| BeatOutcome::Unknown(error.clone())).collect(),
        }
    }

    async fn demand(&self, outstanding: usize) -> Result<()> {
        *self.outstanding.lock() = outstanding;
        self.link().await?.demand(outstanding).await
    }

    async fn close(&self, deadline: Duration) -> CloseReport {
        let mut kills = self.process.killed.subscribe();
        let (since, consumer) = self.link.lock().clone();
        // Of what was killed it has nothing left to close.
        if since != *kills.borrow_and_update() {
            return CloseReport::default();
        }
        tokio::select! {
            biased;
            _ = kills.changed() => CloseReport::default(),
            report = consumer.close(deadline) => report,
        }
    }
}
