//! The embedded provider with a journal as the suite reaches it: like a broker, which is killed and begins again while its
//! clients live on and connect anew.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use queue_core::{
    Env, Error, ErrorCode, JobStore, QueueName, QueueProvider, QueueSpec, Result, Timestamp,
    job::Envelope,
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Capabilities, CloseReport, ConsumeOptions, Consumer, Delivery, ParkKey, PublishOptions,
        PublishOutcome, QueueAdmin, SettleOutcome, Settlement, Topics,
    },
};
use queue_memory::{JournalOptions, MemoryProvider, ModelDisk};
use queue_testkit::harness::{Factory, Facts, Harness};
use tokio::sync::watch;

/// The process that is killed.
#[derive(Debug)]
struct Process {
    env: Env,
    running: Mutex<(MemoryProvider, ModelDisk)>,
    /// How often it was killed.
    killed: watch::Sender<u64>,
}

/// A fresh one for each case.
pub(crate) fn factory() -> Factory<dyn Harness> {
    Factory::new("journal", true, || async {
        let env = Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7);
        let disk = ModelDisk::new();
        let running = Mutex::new((open(&disk, &env)?, disk));
        let process = Process { env, running, killed: watch::Sender::new(0) };
        Ok(Arc::new(Harnessed(Arc::new(process))) as Arc<dyn Harness>)
    })
}

fn open(disk: &ModelDisk, env: &Env) -> Result<MemoryProvider> {
    MemoryProvider::open(&JournalOptions::on_disk(disk, true), env.clone())
}

#[derive(Debug)]
struct Harnessed(Arc<Process>);

#[async_trait]
impl Harness for Harnessed {
    fn facts(&self) -> Facts {
        Facts { restart: true, ..Facts::in_process(Duration::from_secs(2)) }
    }

    fn env(&self) -> Env {
        self.0.env.clone()
    }

    async fn connect(&self) -> Result<Arc<dyn QueueProvider>> {
        let provider = self.0.running.lock().0.connect();
        let since = *self.0.killed.borrow();
        Ok(Arc::new(Client { process: Arc::clone(&self.0), link: Mutex::new((since, provider)) }))
    }

    async fn crash(&self, connection: Arc<dyn QueueProvider>) {
        drop(connection);
    }

    /// Killed: what is not on disk is lost, and every lease.
    async fn restart_broker(&self) -> Result<()> {
        let mut running = self.0.running.lock();
        running.0.abandon();
        let disk = ModelDisk::with(running.1.contents());
        *running = (open(&disk, &self.0.env)?, disk);
        self.0.killed.send_modify(|times| *times += 1);
        Ok(())
    }

    async fn publish_raw(&self, _queue: &QueueName, _bytes: Bytes) -> Result<()> {
        Err(Error::new(ErrorCode::Unsupported, "the broker holds jobs, not bytes"))
    }

    async fn refuse_successors(&self, _queue: &QueueName, _refuse: bool) {}
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
        self.link().1.declare(spec).await
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.link().1.drop_queue(queue, only_if_empty).await
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.link().1.publish(queue, batch, options).await
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
        let mut killed = self.process.killed.subscribe();
        let consumer = self.link().await?;
        tokio::select! {
            biased;
            _ = killed.changed() => Err(Error::new(ErrorCode::Unavailable, "the process was killed")),
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
        let consumer = self.link.lock().1.clone();
        consumer.close(deadline).await
    }
}
