//! The provider: publishing, and what belongs to the whole installation.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::BoxFuture};
use queue_core::{
    Env, Error, ErrorCode, QueueName, QueueProvider, QueueSpec, Result,
    job::{Envelope, JobRef, StoreId},
    limit::Limiter,
    provider::{
        Capabilities, ConsumeOptions, Consumer, Durability, LeaseModel, OnFull, PairedStore, ParkKey, PublishOptions,
        PublishOutcome, QueueAdmin, Rejection, Support, Topics,
    },
    queue_spec::{Order, Tracking},
    store::JobStore,
};
use redis::Value;
use tokio::{sync::watch, time::Instant};

use crate::{
    SCHEME,
    admin::RedisAdmin,
    client::{ClientOptions, FailoverMode, RedisClusterClient},
    coalesce::{CALL_BYTES, Coalescer},
    consumer::RedisConsumer,
    fault,
    indexes::{self, Index},
    layout::Layout,
    lead::Leads,
    limiter::RedisLimiter,
    link::{self, Link},
    mend::Rounds,
    record, scripts,
    shards::{self, Dropped},
    specs::{Known, Specs},
    spool::{Spool, SpoolStatus},
    store::{RedisStore, Ticked},
    tasks::Tasks,
    upkeep::Upkeep,
    wake::Wakes,
};

/// How to connect.
#[derive(Clone)]
pub struct RedisOptions {
    /// As [`ClientOptions::from_url`] reads it; nothing where there is a `client`.
    pub url: String,
    /// Instead of a URL.
    pub client: Option<ClientOptions>,
    /// What every key begins with; installations with different ones do not see each other.
    pub prefix: String,
    /// Over how many shards a new queue is spread whose declaration does not say, 1 to 64; fewer where each would bound less than 1,000
    /// waiting jobs. 1 unless said otherwise.
    pub shards: u16,
    /// By what the queues that it declares or publishes to are to keep indexes, for all processes, so that a listing by it looks at no other
    /// jobs: about 80 bytes a job and index. None for no more of them; `None` leaves that as it is.
    pub indexes: Option<Vec<Index>>,
    /// Where [`FailoverMode::AirgapSafe`](crate::FailoverMode::AirgapSafe) keeps what is published while Redis is away: a provider that keeps
    /// jobs on this machine, which is this one's alone and is closed with it. Best one with a journal, so that they outlive the process.
    pub spool: Option<Arc<dyn QueueProvider>>,
    /// What a [`RedisTracking`](crate::RedisTracking) promises of what it stages, settles and takes back; relaxed unless said otherwise. The
    /// queues of a provider declare theirs each, and it refuses to connect with one.
    pub durability: Option<Durability>,
}

impl std::fmt::Debug for RedisOptions {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("RedisOptions");
        shown.field("prefix", &self.prefix).field("client", &self.client).finish_non_exhaustive()
    }
}

impl RedisOptions {
    /// The prefix that is used where none is given.
    pub const PREFIX: &'static str = "queue";

    /// A URL, with the default prefix.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            client: None,
            prefix: Self::PREFIX.into(),
            shards: 1,
            indexes: None,
            spool: None,
            durability: None,
        }
    }

    /// Without a URL, with the default prefix.
    #[must_use]
    pub fn with_client(client: ClientOptions) -> Self {
        Self {
            url: String::new(),
            client: Some(client),
            prefix: Self::PREFIX.into(),
            shards: 1,
            indexes: None,
            spool: None,
            durability: None,
        }
    }

    fn client(&self) -> Result<ClientOptions> {
        let client = self.client.clone().map_or_else(|| ClientOptions::from_url(&self.url), Ok)?;
        if (client.failover == FailoverMode::AirgapSafe) != self.spool.is_some() {
            let message = "`failover=airgap-safe` and a spool go together: say where it is, as in `spool=DIR`";
            return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
        }
        Ok(client)
    }
}

/// Jobs in Redis. A clone is another handle on the same connection.
#[derive(Debug, Clone)]
pub struct RedisProvider {
    pub(crate) shared: Arc<Shared>,
    spool: Option<Arc<Spool>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) layout: Layout,
    pub(crate) specs: Arc<Specs>,
    pub(crate) wakes: Wakes,
    pub(crate) store: StoreId,
    pub(crate) rounds: Rounds,
    pub(crate) upkeep: Upkeep,
    pub(crate) leads: Leads,
    pub(crate) tasks: Tasks,
    lines: Coalescer<Line, Envelope, PublishOutcome>,
    closed: watch::Sender<bool>,
}

const MIN_LEASE: Duration = Duration::from_millis(10);
const MAX_LEASE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Jobs of one script call: longer ones would keep everybody else waiting.
pub(crate) const BATCH: usize = 100;
/// Calls of one queue in one round of maintenance, while there is more to do.
const TICKS: usize = 20;
/// How often a publisher that waits for room looks again.
const ROOM: Duration = Duration::from_millis(50);
/// A deadline beyond it is as good as none, and cannot overflow the clock.
const LONGEST_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3_600);

impl RedisProvider {
    /// Connects.
    ///
    /// # Errors
    /// `CONFIG` for a URL that is none, and as [`RedisClusterClient::connect`].
    pub async fn connect(options: &RedisOptions, env: &Env) -> Result<Self> {
        // Boxed, so that the compiler of a caller need not look through all of it.
        if options.durability.is_some() {
            let message = "a durability for all is a tracking store's: declare it for each queue";
            return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
        }
        let shared = Arc::new(Box::pin(Shared::connect(options, Layout::new(&options.prefix), env)).await?);
        let is_safe = options.client()?.failover == FailoverMode::AirgapSafe;
        let spool = match &options.spool {
            Some(kept) if is_safe => Some(Arc::new(Spool::open(Arc::clone(kept), &shared).await?)),
            _ => None,
        };
        Ok(Self { shared, spool })
    }

    /// What the spool holds; nothing where there is none.
    ///
    /// # Errors
    /// As the spool's own.
    pub async fn spool(&self) -> Result<Option<SpoolStatus>> {
        match &self.spool {
            Some(spool) => spool.status().await.map(Some),
            None => Ok(None),
        }
    }

    /// The connections, for their numbers and events, and to switch by hand.
    #[must_use]
    pub fn client(&self) -> &RedisClusterClient {
        self.shared.link.client()
    }

    /// One queue's upkeep; answers when the next is due, or nothing where the queue is gone.
    async fn keep_up(&self, queue: &QueueName) -> Result<Option<Duration>> {
        match self.tick(queue).await {
            Ok(None) => Ok(None),
            Ok(Some((known, ticked))) => {
                let next = ticked.next.min(self.shared.mend_all(&known).await?);
                if ticked.rests {
                    self.shared.rest(&known, next);
                }
                Ok(Some(next))
            }
            Err(error) => {
                // Where time cannot do its work, what is broken may be why.
                if let Some(known) = self.shared.rounds.known(queue) {
                    self.shared.mend_all(&known).await?;
                }
                Err(error)
            }
        }
    }

    /// Lets time and retention do their work on a queue; answers how it is declared, and when it is worth going on. Its declaration is
    /// read only where it is not the one that was ticked last.
    async fn tick(&self, queue: &QueueName) -> Result<Option<(Known, Ticked)>> {
        let shared = &self.shared;
        let mut remembered = shared.rounds.known(queue);
        let mut ticked = None;
        // Others want a turn, too.
        for _ in 0..TICKS {
            let known = match remembered.take() {
                Some(known) => known,
                None => {
                    let Some(known) = shared.specs.find(&shared.link, &shared.layout, queue).await? else {
                        return Ok(None);
                    };
                    shared.rounds.remember(&known);
                    known
                }
            };
            let Some(answer) = shared.tick_all(&known, BATCH).await? else {
                shared.rounds.forget(queue);
                continue;
            };
            let more = answer.next.is_zero();
            ticked = Some(answer);
            remembered = Some(known);
            if !more {
                break;
            }
        }
        Ok(remembered.zip(ticked))
    }
}

/// Cuts into one call's worth each, by number and by bytes.
fn parts<'a>(batch: &[Envelope], indexes: &'a [usize]) -> Vec<&'a [usize]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, index) in indexes.iter().enumerate() {
        let len = batch[*index].encoded_len();
        if at > start && (at - start == BATCH || bytes + len > CALL_BYTES) {
            parts.push(&indexes[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += len;
    }
    if start < indexes.len() {
        parts.push(&indexes[start..]);
    }
    parts
}

fn closed(operation: &'static str) -> Error {
    Error::new(ErrorCode::Closed, "this connection was closed: connect again").at(operation).by(SCHEME)
}

/// What the calls of publishers that ride together have in common.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) known: Known,
    /// Room in a full queue, for what was promised already.
    pub(crate) exceeds: bool,
    pub(crate) durability: Option<Durability>,
}

impl PartialEq for Line {
    fn eq(&self, other: &Self) -> bool {
        let this = (&self.known.base, &self.known.born, self.exceeds, self.durability);
        this == (&other.known.base, &other.known.born, other.exceeds, other.durability)
    }
}

impl Eq for Line {}

impl std::hash::Hash for Line {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.known.base, self.exceeds).hash(state);
    }
}

/// How often a queue that is dropped and declared anew all the time is looked at for one call.
const LOOKS: usize = 3;

/// One script call's worth of jobs, and what became of each. A queue that was dropped since it was known is what it is now.
pub(crate) async fn publish_once(
    link: &Link,
    layout: &Layout,
    specs: &Specs,
    line: Line,
    batch: &[Envelope],
) -> Vec<PublishOutcome> {
    publish_looking(link, layout, specs, line, batch, LOOKS).await
}

/// To the shards that the queue has now.
fn publish_anew<'a>(
    link: &'a Link,
    layout: &'a Layout,
    specs: &'a Specs,
    line: Line,
    batch: &'a [Envelope],
    left: usize,
) -> BoxFuture<'a, Vec<PublishOutcome>> {
    async move {
        let missing = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
        let run = async |shard: &Known, jobs: Vec<Envelope>| {
            let line = Line { known: shard.clone(), ..line.clone() };
            publish_looking(link, layout, specs, line, &jobs, left).await
        };
        let place = |job: &Envelope| line.known.shard_of(job).place;
        shards::in_order(&line.known, batch.to_vec(), place, run, missing).await
    }
    .boxed()
}

async fn publish_looking(
    link: &Link,
    layout: &Layout,
    specs: &Specs,
    mut line: Line,
    batch: &[Envelope],
    mut left: usize,
) -> Vec<PublishOutcome> {
    let mut limit = usize::MAX;
    loop {
        let too_large = |job: &Envelope| job.encoded_len() > limit;
        let done = match batch.iter().any(too_large) {
            false => publish_to(link, &line, batch).await,
            true => {
                let fits: Vec<Envelope> = batch.iter().filter(|job| !too_large(job)).cloned().collect();
                publish_to(link, &line, &fits).await.map(|done| {
                    let mut done = done.into_iter();
                    let refuse = |actual| PublishOutcome::Rejected(Rejection::TooLarge { limit, actual });
                    let missing = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
                    let outcome = |job: &Envelope| match too_large(job) {
                        true => refuse(job.encoded_len()),
                        false => done.next().unwrap_or_else(missing),
                    };
                    batch.iter().map(outcome).collect()
                })
            }
        };
        if let Some(outcomes) = done {
            return outcomes;
        }
        left -= 1;
        let known = match specs.anew(link, layout, &line.known).await {
            Ok(known) if left > 0 => known,
            Ok(_) => {
                let again = Error::new(ErrorCode::Unavailable, "the queue is dropped and declared anew all the time");
                let again = again.at("publish").by(SCHEME).on(&line.known.spec.name);
                return vec![PublishOutcome::Rejected(Rejection::Unavailable(again)); batch.len()];
            }
            Err(error) => return vec![PublishOutcome::Rejected(Rejection::Unavailable(error)); batch.len()],
        };
        limit = known.spec.max_encoded_len;
        line.durability = line.durability.or(known.spec.durability);
        if known.spec.shards != line.known.spec.shards {
            line.known = known;
            return publish_anew(link, layout, specs, line, batch, left).await;
        }
        line.known = known.part(line.known.place).clone();
    }
}

/// Nothing where the queue is not the one that is known.
async fn publish_to(link: &Link, line: &Line, batch: &[Envelope]) -> Option<Vec<PublishOutcome>> {
    let known = &line.known;
    let mut arguments = Vec::with_capacity(3 + 2 * batch.len());
    let room = if line.exceeds { u64::from(u32::MAX) } else { known.max_len() };
    arguments.push(room.to_string().into_bytes());
    let mut jobs: Vec<_> = batch.iter().map(record::to_publish).collect();
    // What they share is said once, and spares the script a look at each.
    let shared = record::shared_head(&jobs);
    if !shared.is_empty() {
        jobs.iter_mut().for_each(|(head, _)| head.truncate(record::ID));
    }
    arguments.push(shared);
    arguments.extend(jobs.into_iter().flat_map(|(head, body)| [head, body]));
    arguments.push(known.born.as_bytes().to_vec());
    let answers = match link.run_assured(&scripts::PUBLISH, &known.base, &arguments, line.durability).await {
        Ok(Value::Int(_)) => return Some(vec![PublishOutcome::Accepted { place: known.place }; batch.len()]),
        Ok(answer) => link::items(answer).unwrap_or_default(),
        Err(error) if fault::is_stale(&error) => return None,
        Err(error) => {
            let refused = fault::is_refusal(&error);
            let error = fault::of(&error, "publish").on(&known.spec.name);
            let outcome = match refused {
                true => PublishOutcome::Rejected(Rejection::Unavailable(error)),
                false => PublishOutcome::Unknown(error),
            };
            return Some(vec![outcome; batch.len()]);
        }
    };
    Some(answers.into_iter().map(|answer| outcome(answer, known)).collect())
}

fn outcome(answer: Value, known: &Known) -> PublishOutcome {
    let (queue, place) = (&known.spec.name, known.place);
    let unknown = |what| PublishOutcome::Unknown(fault::broken(what, "publish").on(queue));
    match link::bytes(answer) {
        Err(what) => unknown(what),
        Ok(answer) => match answer.split_first() {
            Some((b'A', _)) => PublishOutcome::Accepted { place },
            Some((b'F', _)) => PublishOutcome::Rejected(Rejection::Full),
            Some((b'D', id)) => match record::read_id(id) {
                Ok(id) => PublishOutcome::Duplicate { existing: JobRef { queue: queue.clone(), id, place } },
                Err(what) => unknown(what),
            },
            _ => unknown("an unknown answer"),
        },
    }
}

async fn identity(link: &Link, layout: &Layout, env: &Env) -> Result<StoreId> {
    let fail = |error: redis::RedisError| fault::of(&error, "connect");
    let fresh = StoreId::fresh(env);
    let key = layout.store();
    // A server that is full takes nothing more, but tells.
    let known = link.ask(redis::cmd("GET").arg(&key)).await.map_err(fail)?;
    let set = redis::cmd("SET").arg(&key).arg(fresh.0.get()).arg("NX").arg("GET").take();
    let known = if known == Value::Nil { link.ask(&set).await.map_err(fail)? } else { known };
    match known {
        Value::Nil => Ok(fresh),
        other => {
            let text = link::text(other).ok();
            let id = text.and_then(|text| text.parse().ok()).map(StoreId);
            id.ok_or_else(|| fault::broken("the key of the store's identity holds something else", "connect"))
        }
    }
}

impl Shared {
    /// Connects to what has its keys by this layout.
    pub(crate) async fn connect(options: &RedisOptions, layout: Layout, env: &Env) -> Result<Self> {
        let link = Link::connect(options.client()?, env).await?;
        let store = identity(&link, &layout, env).await?;
        let process = format!("{:016x}{:016x}", env.random.next_u64(), env.random.next_u64());
        let wakes = Wakes::new(link.clone(), &layout, &process);
        let specs = Arc::new(Specs::new(options.shards, options.indexes.as_deref().map(indexes::letters)));
        let publisher = (link.clone(), layout.clone(), Arc::clone(&specs));
        let lines = Coalescer::new(BATCH, Envelope::encoded_len, move |line: Line, batch: Vec<Envelope>| {
            let (link, layout, specs) = publisher.clone();
            async move { publish_once(&link, &layout, &specs, line, &batch).await }.boxed()
        });
        let closed = watch::Sender::new(false);
        Ok(Self {
            link,
            layout,
            specs,
            wakes,
            store,
            rounds: Rounds::default(),
            upkeep: Upkeep::default(),
            leads: Leads::default(),
            tasks: Tasks::default(),
            lines,
            closed,
        })
    }

    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
        if self.is_closed() {
            return Err(closed(operation));
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Refuses what cannot be kept.
    pub(crate) fn assure(&self, durability: Option<Durability>) -> Result<()> {
        let instead = match durability {
            None | Some(Durability::Relaxed) => return Ok(()),
            Some(Durability::Replicated { timeout, .. }) if timeout.is_zero() => "give the replicas some time",
            Some(Durability::Replicated { .. }) if self.link.replicas() > 0 => return Ok(()),
            Some(Durability::Replicated { .. }) => "this Redis has no replica: add one, or declare `relaxed`",
            Some(_) => "what is on disk is for Redis' `appendonly` and `appendfsync` to say: declare `relaxed`",
        };
        Err(Error::unsupported(SCHEME, "durability", instead))
    }

    /// Takes nothing more, and ends what runs in the background.
    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        self.lines.close();
        self.upkeep.ends();
        self.wakes.close().await;
        self.tasks.end().await;
        self.link.client().rest().await;
    }

    /// Ends when the connection is closed.
    pub(crate) async fn closing(&self) {
        // It ends also where nobody could close it any more.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Tells Redis, and nobody else.
    pub(crate) async fn publish(
        &self,
        queue: &QueueName,
        batch: Vec<Envelope>,
        options: &PublishOptions,
    ) -> Vec<PublishOutcome> {
        let refuse = |rejection: Rejection| vec![PublishOutcome::Rejected(rejection); batch.len()];
        if let Err(error) = self.open("publish") {
            return refuse(Rejection::Unavailable(error));
        }
        if let Err(error) = self.assure(options.durability) {
            return refuse(Rejection::Denied(error));
        }
        let known = match self.known(queue).await {
            Ok(known) => known,
            Err(error) => return refuse(Rejection::Unavailable(error)),
        };
        let unknown = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
        let run = |shard, jobs| self.publish_all(shard, jobs, options);
        shards::in_order(&known, batch, |job| known.shard_of(job).place, run, unknown).await
    }

    async fn publish_all(&self, known: &Known, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        let limit = known.spec.max_encoded_len;
        let check = |envelope: &Envelope| -> Option<PublishOutcome> {
            let actual = envelope.encoded_len();
            if actual > limit {
                return Some(PublishOutcome::Rejected(Rejection::TooLarge { limit, actual }));
            }
            let named = known.spec.check_partition(envelope.partition().as_deref());
            named.err().map(|error| PublishOutcome::Rejected(Rejection::Denied(error.by(SCHEME))))
        };
        let mut outcomes: Vec<Option<PublishOutcome>> = batch.iter().map(check).collect();
        let mut waiting: Vec<usize> = (0..batch.len()).filter(|index| outcomes[*index].is_none()).collect();
        let deadline = Instant::now() + options.deadline.min(LONGEST_DEADLINE);
        let late = || {
            let late = Error::new(ErrorCode::Timeout, "Redis did not answer before the deadline");
            PublishOutcome::Unknown(late.at("publish").by(SCHEME).on(&known.spec.name))
        };
        let durability = options.durability.or(known.spec.durability);
        let line = Line { known: known.clone(), exceeds: options.on_full == OnFull::Exceed, durability };
        let unknown = || PublishOutcome::Unknown(fault::broken("an answer is missing", "publish"));
        loop {
            let begun = Instant::now();
            let mut full = Vec::new();
            for part in parts(&batch, &waiting) {
                let jobs: Vec<Envelope> = part.iter().map(|index| batch[*index].clone()).collect();
                let published = tokio::time::timeout_at(deadline, self.lines.send(&line, jobs)).await;
                let mut published = match published {
                    Ok(Some(published)) => published,
                    Ok(None) => vec![PublishOutcome::Rejected(Rejection::Unavailable(closed("publish"))); part.len()],
                    Err(_) => vec![late(); part.len()],
                };
                published.resize_with(part.len(), unknown);
                for (index, outcome) in part.iter().zip(published) {
                    if matches!(outcome, PublishOutcome::Rejected(Rejection::Full)) {
                        full.push(*index);
                    }
                    outcomes[*index] = Some(outcome);
                }
            }
            if full.is_empty() || options.on_full != OnFull::Wait {
                break;
            }
            waiting = full;
            let asking = begun.elapsed();
            tokio::time::sleep(ROOM.min(deadline.saturating_duration_since(Instant::now()))).await;
            if !self.is_answered_in_time(known, asking, deadline).await {
                break;
            }
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect()
    }

    /// Another try that is not answered in time would make a plain refusal an unknown one. Where the last answer took too long for one more
    /// like it, questions that change nothing tell when the server is quick again. `false`: it was not before the deadline.
    async fn is_answered_in_time(&self, known: &Known, mut asking: Duration, deadline: Instant) -> bool {
        let left = || deadline.saturating_duration_since(Instant::now());
        while left() <= 2 * asking {
            let begun = Instant::now();
            let question = redis::cmd("HGET").arg(format!("{}n", known.base)).arg("p").take();
            if let Ok(Ok(_)) = tokio::time::timeout_at(deadline, self.link.ask(&question)).await {
                asking = begun.elapsed();
            }
            tokio::time::sleep(ROOM.min(left())).await;
            if left().is_zero() {
                return false;
            }
        }
        true
    }

    pub(crate) async fn known(&self, queue: &QueueName) -> Result<Known> {
        self.specs.known(&self.link, &self.layout, queue).await
    }

    /// The queue with all its shards. Where nobody declared it, or its declaration cannot be read, it is as it would be declared by its first
    /// use, and without a text.
    pub(crate) async fn whole(&self, queue: &QueueName) -> Result<Known> {
        let undeclared = || {
            let spec = shards::settled(&QueueSpec::new(queue.clone()), self.specs.shards);
            Known::new(&self.layout, spec, Arc::default(), Arc::default())
        };
        match self.specs.seen(&self.link, &self.layout, queue).await {
            Ok(known) => Ok(known.unwrap_or_else(undeclared)),
            Err(error) if error.code() == ErrorCode::Undecodable => Ok(undeclared()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl QueueProvider for RedisProvider {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self, spec: Option<&QueueSpec>) -> Capabilities {
        let mut can = capabilities(spec);
        if self.shared.link.replicas() == 0 {
            can.durability = &["relaxed"];
        }
        if self.shared.link.is_cluster() {
            can.atomic_then = Support::Emulated {
                how: "the lease is looked at, the successors of other queues are published, then it is settled",
                caveat: "a crash in between leaves successors whose job runs again; their ids are the same then",
            };
        }
        can
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<()> {
        self.shared.open("declare")?;
        spec.validate()?;
        if spec.order != Order::Strict {
            return Err(Error::unsupported(SCHEME, "order", "declare `strict`").on(&spec.name));
        }
        if !spec.partitions.is_empty() {
            return Err(Error::unsupported(SCHEME, "partitions", "give each part a queue of its own").on(&spec.name));
        }
        self.shared.assure(spec.durability).map_err(|error| error.on(&spec.name))?;
        let shared = &self.shared;
        let known = shared.specs.declare(&shared.link, &shared.layout, spec).await?;
        shards::conflict(&known, spec).map_or(Ok(()), |conflict| Err(conflict.by(SCHEME)))
    }

    async fn drop_queue(&self, queue: &QueueName, only_if_empty: bool) -> Result<()> {
        self.shared.open("drop_queue")?;
        let shared = &self.shared;
        let fail = |error: redis::RedisError| fault::of(&error, "drop_queue").on(queue);
        // As it stands, or else as it was when it was dropped in part.
        let known = match shared.specs.find(&shared.link, &shared.layout, queue).await {
            Ok(Some(known)) => known,
            _ => shared.whole(queue).await?,
        };
        match shards::drop_all(&shared.link, &known, only_if_empty).await.map_err(fail)? {
            Dropped::All => {}
            Dropped::Nothing => {
                let message = "jobs wait or run in it: purge it first, or drop it with everything in it";
                return Err(Error::new(ErrorCode::Conflict, message).at("drop_queue").by(SCHEME).on(queue));
            }
            Dropped::Some => {
                shared.specs.declare(&shared.link, &shared.layout, &known.spec).await?;
                return Err(shards::came_meanwhile().on(queue));
            }
        }
        shared.link.ask(redis::cmd("ZREM").arg(shared.layout.queues()).arg(queue.as_str())).await.map_err(fail)?;
        shared.specs.forget(queue);
        known.parts().iter().for_each(|shard| shared.wakes.wake_all(&format!("{}m", shard.base)));
        Ok(())
    }

    async fn publish(&self, queue: &QueueName, batch: Vec<Envelope>, options: &PublishOptions) -> Vec<PublishOutcome> {
        match &self.spool {
            None => self.shared.publish(queue, batch, options).await,
            Some(spool) => spool.publish(&self.shared, queue, batch, options).await,
        }
    }

    async fn consumer(&self, queue: &QueueName, options: ConsumeOptions) -> Result<Arc<dyn Consumer>> {
        self.shared.open("consumer")?;
        if !(MIN_LEASE..=MAX_LEASE).contains(&options.lease) {
            let message = format!("a lease is between {MIN_LEASE:?} and {MAX_LEASE:?} here");
            return Err(Error::new(ErrorCode::Validation, message).at("consumer").by(SCHEME).on(queue));
        }
        let known = self.shared.known(queue).await?;
        Ok(Arc::new(RedisConsumer::new(Arc::clone(&self.shared), known, options)))
    }

    fn admin(&self) -> Arc<dyn QueueAdmin> {
        Arc::new(RedisAdmin::new(Arc::clone(&self.shared)))
    }

    fn topics(&self) -> Option<Arc<dyn Topics>> {
        None
    }

    fn job_store(&self) -> Option<Arc<dyn JobStore>> {
        Some(Arc::new(RedisStore::new(Arc::clone(&self.shared))))
    }

    fn paired(&self) -> Option<PairedStore> {
        None
    }

    fn limiter(&self) -> Option<Arc<dyn Limiter>> {
        Some(Arc::new(RedisLimiter::new(Arc::clone(&self.shared))))
    }

    async fn unpark(&self, queue: &QueueName, key: &ParkKey, n: usize) -> Result<usize> {
        self.shared.open("unpark")?;
        let known = self.shared.whole(queue).await?;
        let mut unparked = 0;
        for shard in known.parts() {
            while unparked < n {
                let part = BATCH.min(n - unparked);
                let arguments = [key.0.to_string(), part.to_string()];
                let answer = self.shared.link.run(&scripts::UNPARK, &shard.base, &arguments).await;
                let answer = answer.map_err(|error| fault::of(&error, "unpark").on(queue))?;
                let done = link::number(&answer).map_err(|what| fault::broken(what, "unpark"))?;
                let done = usize::try_from(done).unwrap_or(0);
                unparked += done;
                if done < part {
                    break;
                }
            }
        }
        Ok(unparked)
    }

    async fn maintain(&self, leading: bool) -> Result<Duration> {
        const IDLE: Duration = Duration::from_secs(60);
        self.shared.open("maintain")?;
        if !leading {
            self.shared.upkeep.ends();
            return Ok(IDLE);
        }
        let (mut next, mut first) = (IDLE, None);
        let queues = self.shared.kept_queues().await?;
        self.shared.rounds.keep(&queues);
        for queue in queues {
            if let Some(left) = self.shared.upkeep.rests(&queue) {
                next = next.min(left);
                continue;
            }
            // What one queue suffers from must not stop the upkeep of the others.
            match self.keep_up(&queue).await {
                Ok(due) => next = next.min(due.unwrap_or(IDLE)),
                Err(error) => {
                    tracing::warn!(%queue, %error, "maintenance of a queue failed");
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(next), Err)
    }

    async fn ping(&self) -> Result<()> {
        self.shared.open("ping")?;
        self.shared.link.ask(&redis::cmd("PING")).await.map(drop).map_err(|error| fault::of(&error, "ping"))
    }

    async fn close(&self) -> Result<()> {
        self.shared.close().await;
        match &self.spool {
            Some(spool) => spool.close().await,
            None => Ok(()),
        }
    }
}

pub(crate) fn capabilities(spec: Option<&QueueSpec>) -> Capabilities {
    let lease = LeaseModel::PerMessage { min: MIN_LEASE, max: MAX_LEASE };
    let mut can = Capabilities::none(lease, "use another provider");
    can.priority_levels = 15;
    can.priority = Support::Native;
    can.delay = Support::Native;
    can.delay_granularity = Duration::from_millis(1);
    can.retry = Support::Native;
    can.dead_letters = Support::Native;
    can.dedup_by_id = Support::Native;
    can.unique_keys = Support::Native;
    can.atomic_then = Support::Native;
    can.settle_confirmed = true;
    can.park = Support::Native;
    can.pause = Support::Native;
    can.purge = Support::Native;
    can.cancel_pending = Support::Native;
    can.cancel_running = Support::Native;
    can.exact_depth = Support::Native;
    can.max_len = Support::Native;
    can.order_by_key = Support::Unsupported { instead: "give each key a queue of its own, or a concurrency key" };
    can.aged_order = Support::Unsupported { instead: "declare `strict`" };
    can.partitions = Support::Unsupported { instead: "give each part a queue of its own" };
    can.shards = Support::Native;
    if spec.and_then(|spec| spec.shards).is_some_and(|shards| shards > 1) {
        can.max_len = Support::Emulated {
            how: "each shard has its share of it",
            caveat: "a job is refused where its own shard is full, though others may have room",
        };
    }
    can.started_count = Support::Native;
    can.max_encoded_len = spec.map_or(512 << 20, |spec| spec.max_encoded_len);
    can.max_batch = BATCH;
    can.broker_clock = true;
    can.durability = &["relaxed", "replicated"];
    if spec.is_some_and(|spec| spec.tracking == Tracking::Off) {
        // What has ended is forgotten with its id.
        can.dedup_by_id = Support::Unsupported { instead: "declare the queue with tracking" };
    }
    can
}
