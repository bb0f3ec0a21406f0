//! The provider: what its consumers, its admin and its publishes share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use queue_core::{
    Consumer, Env, Envelope, Error, ErrorCode, JobStore, QueueName, QueueProvider, QueueSpec, Result,
    config::defaults,
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Durability, PairedStore, ParkKey, PublishOptions, PublishOutcome, QueueAdmin,
        Rejection, Topics,
    },
    queue_spec::Order,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    RabbitOptions, SCHEME,
    admin::RabbitAdmin,
    capabilities, consumer, fault,
    layout::{BANDS, Layout},
    link::{Link, Publisher},
    specs::Specs,
    topology::Topology,
};

/// A connection to RabbitMQ: two, in truth, one of which publishes.
#[derive(Debug)]
pub struct RabbitProvider {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Arc<RabbitOptions>,
    pub(crate) env: Env,
    pub(crate) layout: Layout,
    pub(crate) topology: Topology,
    pub(crate) specs: Specs,
    /// Consumes, settles, declares: everything but publishing.
    pub(crate) work: Arc<Link>,
    pub(crate) publisher: Publisher,
    publish: Arc<Link>,
    closed: AtomicBool,
}

impl RabbitProvider {
    /// Connects.
    ///
    /// # Errors
    /// `CONFIG` for options out of range, `AUTHENTICATION`, `DENIED` for a virtual host that the user may not enter, `UNAVAILABLE`.
    pub async fn connect(options: RabbitOptions, env: &Env) -> Result<Self> {
        options.check()?;
        let options = Arc::new(options);
        let work = Arc::new(Link::open(&options, env, "work").await?);
        let publish = match Link::open(&options, env, "publish").await {
            Ok(link) => Arc::new(link),
            Err(error) => {
                work.close().await;
                return Err(error);
            }
        };
        let shared = Shared {
            layout: Layout::new(&options.prefix),
            options,
            env: env.clone(),
            topology: Topology::default(),
            specs: Specs::default(),
            work,
            publisher: Publisher::new(publish.clone()),
            publish,
            closed: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends it as a killed process would: the broker is told nothing, everything on it is refused from now on. For tests.
    #[doc(hidden)]
    pub async fn sever(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.work.sever().await;
        self.shared.publish.sever().await;
    }

    /// Cuts both connections off, as a fallen cable would; it connects again by itself. For tests.
    #[doc(hidden)]
    pub fn cut(&self) {
        self.shared.work.cut();
        self.shared.publish.cut();
    }
}

impl Shared {
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
        if self.is_open() { Ok(()) } else { Err(fault::closed(operation)) }
    }

    pub(crate) fn refuse_durability(&self, durability: Option<Durability>, operation: &'static str) -> Result<()> {
        match durability {
            Some(Durability::Replicated { .. }) => {
                let instead = "ask for `synced`: a majority of the queue's nodes has it on disk, however many they are";
                Err(Error::unsupported(SCHEME, operation, instead))
            }
            _ => Ok(()),
        }
    }

    /// The queue's declaration as this process knows it, once the queue stands: it is declared with the defaults if nobody
    /// declared it.
    pub(crate) async fn known(&self, queue: &QueueName, until: Instant) -> Result<Arc<QueueSpec>> {
        self.open("declare")?;
        let known = self.specs.get(queue);
        if let Some(known) = known.as_ref().filter(|known| known.stands) {
            return Ok(known.spec.clone());
        }
        let (declared, gone) = (known.as_ref().is_some_and(|known| known.declared), known.is_some());
        let spec = known.map_or_else(|| Arc::new(QueueSpec::new(queue.clone())), |known| known.spec);
        let connection = self.work.connected(until, "declare").await?;
        // Another process may have declared it otherwise: what stands is left as it is.
        if declared || !self.topology.stands(&connection, &self.layout, queue).await? {
            self.topology.declare(&connection, &self.layout, &self.options, &spec).await?;
        } else if gone {
            // Whoever declared it otherwise knows how its parts are to be; what it still has is used.
            match self.topology.restore(&connection, &self.layout, &self.options, &spec).await {
                Err(error) if error.code() == ErrorCode::Conflict => {
                    self.topology.climb(&connection, &self.layout, None).await?;
                }
                done => done?,
            }
        } else {
            self.topology.climb(&connection, &self.layout, None).await?;
        }
        self.specs.put(spec.clone(), declared);
        Ok(spec)
    }

    /// The same for a publisher: a broker that says nothing has the publisher's time, and no more. What was made by then stands.
    pub(crate) async fn known_by(&self, queue: &QueueName, until: Instant) -> Result<Arc<QueueSpec>> {
        let known = timeout_at(until, self.known(queue, until)).await;
        known.unwrap_or_else(|_| Err(fault::unanswered("declare").on(queue)))
    }

    /// Makes a band's queue again that somebody removed. False where the queue as a whole was dropped: it stays so until it is used.
    pub(crate) async fn restore(&self, spec: &QueueSpec) -> Result<bool> {
        self.open("fetch")?;
        let connection = self.work.connection("fetch")?;
        if !self.topology.stands(&connection, &self.layout, &spec.name).await? {
            return Ok(false);
        }
        self.topology.restore(&connection, &self.layout, &self.options, spec).await?;
        Ok(true)
    }

    /// What runs is not seen, nor what waits on the ladder. Nothing runs that nobody consumes, so that a consumer counts as a job that
    /// does: looked for before anything is removed, for quorum queues cannot be asked to go only if unused.
    ///
    /// # Errors
    /// `CONFLICT` where a job waits in a band, or somebody consumes from one.
    async fn may_drop(&self, queue: &QueueName) -> Result<()> {
        let connection = self.work.connection("drop_queue")?;
        for band in 0..BANDS {
            let name = self.layout.ready(queue, band);
            if !self.topology.is_empty(&connection, name.clone(), "drop_queue").await? {
                let message = "a job waits or runs: purge the queue, or drop it with everything in it";
                return Err(Error::new(ErrorCode::Conflict, message));
            }
            if self.topology.is_consumed(&connection, name, "drop_queue").await? {
                let message = "somebody consumes from it, and may run a job: stop the workers first, or drop it with everything in it";
                return Err(Error::new(ErrorCode::Conflict, message));
            }
        }
        Ok(())
    }
}

/// What RabbitMQ cannot give is refused at the declaration.
fn check(spec: &QueueSpec, max_hold: Duration) -> Result<()> {
    spec.validate()?;
    let refuse = |what, instead| Err(Error::unsupported(SCHEME, what, instead).on(&spec.name));
    if spec.order != Order::Strict {
        return refuse("order", "declare `strict`");
    }
    if !spec.partitions.is_empty() {
        return refuse("partitions", "give each part a queue of its own");
    }
    if spec.shards.is_some_and(|shards| shards > 1) {
        return refuse("shards", "leave it out, or declare as many queues");
    }
    if spec.max_len.is_some() {
        return refuse("max_len", "leave it out: RabbitMQ would refuse retries too");
    }
    if spec.timeout > max_hold {
        return Err(Error::from(Rejection::ExceedsMaxHold { max: max_hold }).at("declare").by(SCHEME).on(&spec.name));
    }
    Ok(())
}

#[async_trait]
impl QueueProvider for RabbitProvider {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        capabilities::of(self.shared.options.max_hold, spec)
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        let shared = &self.shared;
        shared.open("declare")?;
        check(spec, shared.options.max_hold)?;
        shared.refuse_durability(spec.durability, "declare")?;
        if let Some(known) = shared.specs.get(&spec.name)
            && let Some(conflict) = known.spec.conflict(spec).filter(|_| known.declared || known.stands)
        {
            return Err(conflict.by(SCHEME));
        }
        let connection = shared.work.connected(Instant::now() + shared.options.answer_timeout, "declare").await?;
        shared.topology.declare(&connection, &shared.layout, &shared.options, spec).await?;
        shared.specs.put(Arc::new(spec.clone()), true);
        Ok(())
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        let shared = &self.shared;
        shared.open("drop_queue")?;
        if only_if_empty {
            shared.may_drop(queue).await.map_err(|error| error.at("drop_queue").by(SCHEME).on(queue))?;
        }
        let connection = shared.work.connection("drop_queue")?;
        match shared.topology.drop_queue(&connection, &shared.layout, queue).await {
            // RabbitMQ 4.0 ends a whole connection where a subscription of it meets the removal of its queue. What is gone already
            // is no error the second time.
            Err(error) if error.is_retryable() && !connection.is_up() => {
                let until = Instant::now() + shared.options.answer_timeout;
                let next = shared.work.connected(until, "drop_queue").await?;
                shared.topology.drop_queue(&next, &shared.layout, queue).await?;
            }
            done => done?,
        }
        shared.specs.forget(queue);
        Ok(())
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        self.shared.publish(queue, batch, options).await
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.shared.open("consumer")?;
        let until = Instant::now() + self.shared.options.answer_timeout;
        let spec = self.shared.known(queue, until).await?;
        consumer::open(self.shared.clone(), spec, options).await
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(RabbitAdmin::new(self.shared.clone()))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        None
    }

    fn paired(&self) -> Option<PairedStore> {
        None
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        None
    }

    async fn unpark(&self, queue: &QueueName, _: &ParkKey, _: usize) -> Result<usize> {
        Err(Error::unsupported(SCHEME, "unpark", "wait: a parked job looks again every second").on(queue))
    }

    async fn maintain(&self, _: bool) -> Result<Duration> {
        self.shared.open("maintain")?;
        self.shared.work.connection("maintain")?;
        Ok(defaults::MAINTENANCE_TICK)
    }

    async fn ping(&self) -> Result<()> {
        self.shared.open("ping")?;
        let channel = self.shared.work.connection("ping")?.channel("ping").await?;
        channel.farewell().await;
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.publisher.close().await;
        self.shared.work.close().await;
        self.shared.publish.close().await;
        Ok(())
    }
}
