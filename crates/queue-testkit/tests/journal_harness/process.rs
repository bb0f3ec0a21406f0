//! The embedded provider with a journal, as a broker: it is killed and begins again while its clients live on.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use queue_core::{
    Env, Error, ErrorCode, JobRef, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    job::{Envelope, StoreId},
    limit::Limiter,
    provider::{
        Beat, BeatOutcome, Cancel, Capabilities, CloseReport, ConsumeOptions, Consumer, Cursor, DeadFilter, DeadJob,
        Delivery, Durability, Page, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin, Redrive,
        RedriveReport, SettleOutcome, Settlement, Topics,
    },
    queue_spec::Retention,
    stats::QueueStats,
    store::{CancelOutcome, JobQuery, JobRecord, Leadership, Lookup, QueueControl, StoreScope, Watch, Watched},
};
use queue_memory::{Amnesia, JournalOptions, MemoryProvider, ModelDisk};
use tokio::sync::Notify;

/// The process that is killed.
#[derive(Debug)]
pub(crate) struct Process {
    env: Env,
    running: Mutex<(MemoryProvider, ModelDisk)>,
    /// How often it was killed.
    kills: AtomicU64,
    /// Wakes those who wait in the order in which they came.
    killed: Notify,
    /// Of every queue, whatever was declared.
    durability: Option<Durability>,
    /// What it forgets each time it begins.
    forgets: Option<Amnesia>,
}

impl Process {
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn begin(env: Env, durability: Option<Durability>) -> Result<Arc<Self>> {
        Self::forgetting(env, durability, None)
    }

    pub(crate) fn forgetting(env: Env, durability: Option<Durability>, forgets: Option<Amnesia>) -> Result<Arc<Self>> {
        let disk = ModelDisk::new();
        let running = Mutex::new((open(&disk, &env, forgets)?, disk));
        Ok(Arc::new(Self { env, running, kills: AtomicU64::new(0), killed: Notify::new(), durability, forgets }))
    }

    /// What a reader of its disk sees now.
    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn image(&self) -> Vec<u8> {
        self.running.lock().1.contents()
    }

    #[allow(dead_code, reason = "each test uses its part")]
    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    pub(crate) fn connect(self: &Arc<Self>) -> Arc<dyn QueueProvider> {
        let provider = self.running.lock().0.connect();
        let since = self.kills();
        Arc::new(Client { process: Arc::clone(self), link: Mutex::new((since, provider)) })
    }

    /// Killed: what is not on the disk is lost, and every lease. It begins again on what `left` makes of the disk.
    pub(crate) fn kill(&self, left: impl FnOnce(&ModelDisk) -> ModelDisk) -> Result<()> {
        let mut running = self.running.lock();
        running.0.abandon();
        let disk = left(&running.1);
        *running = (open(&disk, &self.env, self.forgets)?, disk);
        self.kills.fetch_add(1, Ordering::Relaxed);
        self.killed.notify_waiters();
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

fn open(disk: &ModelDisk, env: &Env, forgets: Option<Amnesia>) -> Result<MemoryProvider> {
    MemoryProvider::open(&JournalOptions::on_disk(disk, true).forgetting(forgets), env.clone())
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
        let times = self.process.kills();
        if link.0 != times {
            *link = (times, self.process.running.lock().0.connect());
        }
        link.clone()
    }
}

impl Client {
    fn again(&self) -> Self {
        Self { process: Arc::clone(&self.process), link: Mutex::new(self.link()) }
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
        let kills = self.process.killed.notified();
        let count = batch.len();
        let (_, provider) = self.link();
        tokio::select! {
            biased;
            () = kills => (0..count).map(|_| PublishOutcome::Unknown(killed())).collect(),
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
        Arc::new(Desk(self.again()))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        self.link().1.topics()
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        let first = self.link().1.job_store()?;
        Some(Arc::new(Records { client: self.again(), id: first.id(), scope: first.scope() }))
    }

    fn paired(&self) -> Option<PairedStore> {
        self.link().1.paired()
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
        let times = self.process.kills();
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
        let kills = self.process.killed.notified();
        let consumer = self.link().await?;
        tokio::select! {
            biased;
            () = kills => Err(killed()),
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
        let kills = self.process.killed.notified();
        let (since, consumer) = self.link.lock().clone();
        // Of what was killed it has nothing left to close.
        if since != self.process.kills() {
            return CloseReport::default();
        }
        tokio::select! {
            biased;
            () = kills => CloseReport::default(),
            report = consumer.close(deadline) => report,
        }
    }
}

/// Administration of whoever runs now.
#[derive(Debug)]
struct Desk(Client);

impl Desk {
    fn now(&self) -> Arc<dyn QueueAdmin> {
        self.0.link().1.admin()
    }
}

#[async_trait]
impl QueueAdmin for Desk {
    async fn queues(&self, prefix: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page<QueueName>> {
        self.now().queues(prefix, cursor, limit).await
    }

    async fn stats(&self, queues: &[QueueName]) -> Vec<Result<QueueStats>> {
        self.now().stats(queues).await
    }

    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()> {
        self.now().pause(queue, paused).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.now().purge(queue).await
    }

    async fn dead(
        &self,
        queue: &QueueName,
        filter: &DeadFilter,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<DeadJob>> {
        self.now().dead(queue, filter, cursor, limit).await
    }

    async fn redrive(&self, queue: &QueueName, what: &Redrive) -> Result<RedriveReport> {
        self.now().redrive(queue, what).await
    }

    async fn spec(&self, queue: &QueueName) -> Result<Option<QueueSpec>> {
        self.now().spec(queue).await
    }

    async fn parked(&self, queue: &QueueName, limit: usize) -> Result<Vec<(ParkKey, u64)>> {
        self.now().parked(queue, limit).await
    }

    async fn position(&self, job: &JobRef) -> Result<Option<u64>> {
        self.now().position(job).await
    }

    async fn drop_dead(&self, queue: &QueueName, filter: &DeadFilter) -> Result<u64> {
        self.now().drop_dead(queue, filter).await
    }
}

/// Records of whoever runs now.
#[derive(Debug)]
struct Records {
    client: Client,
    id: StoreId,
    scope: StoreScope,
}

impl Records {
    fn now(&self) -> Result<Arc<dyn JobStore>> {
        self.client.link().1.job_store().ok_or_else(killed)
    }
}

#[async_trait]
impl JobStore for Records {
    fn id(&self) -> StoreId {
        self.id
    }

    fn scope(&self) -> StoreScope {
        self.scope
    }

    async fn get(&self, jobs: &[JobRef]) -> Vec<Result<Lookup>> {
        match self.now() {
            Ok(store) => store.get(jobs).await,
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn list(&self, query: &JobQuery, cursor: Option<Cursor>, limit: usize) -> Result<Page<JobRecord>> {
        self.now()?.list(query, cursor, limit).await
    }

    async fn watch(&self, what: Watch) -> Result<BoxStream<'static, Watched>> {
        self.now()?.watch(what).await
    }

    async fn cancel(&self, jobs: &[JobRef], cancel: &Cancel) -> Vec<Result<CancelOutcome>> {
        match self.now() {
            Ok(store) => store.cancel(jobs, cancel).await,
            Err(error) => jobs.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn queue_control(&self, queue: &QueueName) -> Result<QueueControl> {
        self.now()?.queue_control(queue).await
    }

    async fn set_queue_control(&self, queue: &QueueName, control: &QueueControl) -> Result<()> {
        self.now()?.set_queue_control(queue, control).await
    }

    async fn evict(&self, queue: &QueueName, retention: &Retention, limit: usize) -> Result<usize> {
        self.now()?.evict(queue, retention, limit).await
    }

    async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        self.now()?.lead(role, candidate, term).await
    }
}
