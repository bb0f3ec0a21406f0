//! One server, from the first connection to it until it is lost.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, TimeoutType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{OnceCell, watch},
    time::Instant,
};

use super::{
    Address, ClientOptions,
    verdict::{POOL_FULL, UNCONFIRMED},
};

/// Commands that wait for the socket: more than redis-rs' 50, for a batch of callers should not wait for each other.
const BUFFER: usize = 512;
/// What is waited for longer than it said was lost.
const GRACE: Duration = Duration::from_secs(2);

/// A connection that is kept though nobody used it for so long is asked whether it is still alive.
const SILENT: Duration = Duration::from_secs(60);

/// What a connection of one's own is for. Each use has its own pool: whoever holds one for as long as he lives takes none from those
/// who need one for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A call that hears from replicas: for as long as it takes.
    Call,
    /// Waits for jobs: a few for each process.
    Wake,
    /// Follows a stream: one for each who watches. Who finds none free is told so at once, and looks now and then instead.
    Watch,
}

const USES: usize = 3;

/// What is asked of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// Decides which server of a cluster is asked; anyone where there is none.
    pub(crate) key: Option<&'a str>,
    pub(crate) command: &'a Cmd,
    /// Loaded where the server does not know it.
    pub(crate) script: Option<&'a Script>,
    pub(crate) confirmation: Option<Confirmation>,
    /// Whether it does no harm to do it twice.
    pub(crate) repeatable: bool,
}

/// Replicas to hear from before there is an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmation {
    pub(crate) replicas: u8,
    pub(crate) timeout: Duration,
    /// Whether an answer says that there was nothing to do, and so nothing to hear of.
    pub(crate) is_moot: fn(&Value) -> bool,
}

/// An error, and whether the command may have reached a server.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: RedisError,
    pub(crate) sent: bool,
    pub(crate) asked: Address,
}

/// Opens connections to a server.
#[derive(Debug)]
pub(crate) struct Opener {
    client: Client,
    /// Whether a server that is not the primary is refused.
    leads: bool,
    connect_timeout: Duration,
}

impl Opener {
    pub(crate) fn new(client: Client, leads: bool, options: &ClientOptions) -> Self {
        Self { client, leads, connect_timeout: options.connect_timeout }
    }

    pub(crate) async fn open(&self, answer_timeout: Option<Duration>) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(answer_timeout)
            .set_pipeline_buffer_size(BUFFER);
        let opening = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            if self.leads {
                must_lead(&mut connection).await?;
            }
            Ok(connection)
        };
        // A server that is stopped still takes connections, and then says nothing.
        tokio::time::timeout(self.connect_timeout, opening).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Whoever may not ask for the role hears at the first write.
async fn must_lead(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let role = match redis::cmd("ROLE").query_async::<Value>(connection).await {
        Err(error) if error.code() == Some("NOPERM") => return Ok(()),
        other => other?,
    };
    match role {
        Value::Array(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => Ok(()),
        _ => Err(redis::make_extension_error("READONLY".into(), Some("it is a replica".into()))),
    }
}

pub(crate) fn late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn lost() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}

/// One server. It is never mended: who finds it broken says so, and the next one to need it makes another.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: Address,
    opener: Arc<Opener>,
    answer_timeout: Duration,
    shared: OnceCell<MultiplexedConnection>,
    /// Since when the shared connection leaves a look unanswered, though the server answers on others.
    silent: Mutex<Option<Instant>>,
    /// By [`Use`].
    own: [managed::Pool<Opening>; USES],
    gone: watch::Sender<bool>,
    /// Whether it was looked at how it is set up.
    checked: AtomicBool,
    pub(crate) opened: Arc<AtomicU64>,
}

impl Node {
    pub(crate) fn new(address: Address, opener: Opener, options: &ClientOptions) -> RedisResult<Arc<Self>> {
        let (opener, opened) = (Arc::new(opener), Arc::new(AtomicU64::new(0)));
        let timeouts = managed::Timeouts {
            wait: Some(options.pool.wait_timeout),
            create: None,
            recycle: Some(options.connect_timeout),
        };
        let config = managed::PoolConfig { timeouts, ..managed::PoolConfig::new(options.pool.max.max(1)) };
        let pool = || {
            let opening = Opening { opener: Arc::clone(&opener), opened: Arc::clone(&opened) };
            let pool = managed::Pool::builder(opening).config(config).runtime(deadpool::Runtime::Tokio1);
            pool.build().map_err(|_| (ErrorKind::InvalidClientConfig, "the pool cannot be made"))
        };
        let own = [pool()?, pool()?, pool()?];
        Ok(Arc::new(Self {
            address,
            opener,
            answer_timeout: options.answer_timeout,
            shared: OnceCell::new(),
            silent: Mutex::default(),
            own,
            gone: watch::Sender::new(false),
            checked: AtomicBool::new(false),
            opened,
        }))
    }

    pub(crate) fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Whoever waits on it waits no more.
    pub(crate) fn leave(&self) {
        self.gone.send_replace(true);
        self.own.iter().for_each(managed::Pool::close);
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    pub(crate) fn was_checked(&self) {
        self.checked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.shared.initialized()
    }

    /// The connection that everybody shares.
    pub(crate) async fn shared(&self) -> RedisResult<MultiplexedConnection> {
        let opening = async || {
            self.opened.fetch_add(1, Ordering::Relaxed);
            self.opener.open(Some(self.answer_timeout)).await
        };
        self.shared.get_or_try_init(opening).await.cloned()
    }

    /// A connection of one's own.
    pub(crate) async fn own(self: &Arc<Self>, purpose: Use) -> RedisResult<Own> {
        let [call, wake, watch] = &self.own;
        let pool = match purpose {
            Use::Call => call,
            Use::Wake => wake,
            Use::Watch => watch,
        };
        let mut timeouts = pool.timeouts();
        if purpose == Use::Watch {
            timeouts.wait = Some(Duration::ZERO);
        }
        let connection = pool.timeout_get(&timeouts).await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => lost(),
            PoolError::Timeout(TimeoutType::Wait) => {
                redis::make_extension_error(POOL_FULL.into(), Some("all connections are in use".into()))
            }
            _ => late(),
        })?;
        Ok(Own { connection: Some(connection), node: Arc::clone(self) })
    }

    /// One for each use.
    pub(crate) fn status(&self) -> [deadpool::Status; USES] {
        self.own.each_ref().map(managed::Pool::status)
    }

    /// Closes what nobody needs, and opens what should be ready.
    pub(crate) async fn keep_pool(self: &Arc<Self>, options: &super::PoolOptions) {
        let open = || self.status().iter().map(|status| status.size).sum::<usize>();
        let mut kept: usize = self.status().iter().map(|status| status.size.saturating_sub(status.available)).sum();
        let mut silent = [0; USES];
        for (pool, silent) in self.own.iter().zip(&mut silent) {
            pool.retain(|_, metrics| {
                let keep = kept < options.min || (kept < options.target && metrics.last_used() < options.idle_timeout);
                kept += usize::from(keep);
                *silent += usize::from(keep && metrics.last_used() >= SILENT);
                keep
            });
        }
        // All are held until the end: what was given back would be had again.
        let mut ready = Vec::new();
        // What is had from a pool was asked whether it is alive; a dead one makes room for another.
        let asked = [Use::Call, Use::Wake, Use::Watch].into_iter().zip(silent);
        let mut asked = asked.flat_map(|(purpose, silent)| std::iter::repeat_n(purpose, silent));
        loop {
            let purpose = match asked.next().filter(|_| kept <= options.min) {
                Some(purpose) => purpose,
                None if open() < options.min => Use::Wake,
                None => break,
            };
            match self.own(purpose).await {
                Ok(own) => ready.push(own),
                Err(_) => break,
            }
        }
        ready.into_iter().for_each(Own::give_back);
    }

    /// Asks once. `asking` where the slot is only on its way to this server.
    pub(crate) async fn perform(self: &Arc<Self>, call: &Call<'_>, asking: bool) -> Result<Value, Failure> {
        let mut gone = self.gone.subscribe();
        let sent = AtomicBool::new(false);
        let work = async {
            let Some(Confirmation { replicas, timeout, is_moot }) = call.confirmation else {
                let mut connection = self.shared().await.map_err(|error| self.failure(error, false))?;
                sent.store(true, Ordering::Relaxed);
                return self.send(&mut connection, call, asking).await;
            };
            let mut own = self.own(Use::Call).await.map_err(|error| self.failure(error, false))?;
            let connection = own.connection().map_err(|error| self.failure(error, false))?;
            sent.store(true, Ordering::Relaxed);
            let sending = tokio::time::timeout(self.answer_timeout, self.send(connection, call, asking));
            let answer = sending.await.unwrap_or_else(|_| Err(self.failure(late(), true)))?;
            if !is_moot(&answer) {
                let confirmed = self.confirm(connection, call.key, replicas, timeout).await;
                confirmed.map_err(|error| self.failure(error, true))?;
            }
            own.give_back();
            Ok(answer)
        };
        tokio::select! {
            biased;
            done = work => done,
            _ = gone.wait_for(|gone| *gone) => Err(self.failure(lost(), sent.load(Ordering::Relaxed))),
        }
    }

    fn failure(&self, error: RedisError, sent: bool) -> Failure {
        Failure { error, sent, asked: self.address.clone() }
    }

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        call: &Call<'_>,
        asking: bool,
    ) -> Result<Value, Failure> {
        let sent = send(connection, call.command, asking).await;
        match (sent, call.script) {
            (Err(error), Some(script)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                script.load_async(connection).await.map_err(|error| self.failure(error, false))?;
                send(connection, call.command, asking).await
            }
            (other, _) => other,
        }
        .map_err(|error| self.failure(error, true))
    }

    /// Hears from replicas about what was changed on this connection. `WAIT` asks for the connection's last write; what
    /// changed nothing (it repeats what was done on another) writes a mark, which comes behind it.
    async fn confirm(
        &self,
        connection: &mut MultiplexedConnection,
        key: Option<&str>,
        replicas: u8,
        timeout: Duration,
    ) -> RedisResult<()> {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut pipeline = redis::pipe();
        let mark = format!("{}sync", key.unwrap_or_default());
        pipeline.cmd("SET").arg(mark).arg("").arg("PX").arg(1_000);
        pipeline.cmd("WAIT").arg(replicas).arg(millis);
        let asked = tokio::time::timeout(timeout + GRACE, connection.send_packed_commands(&pipeline, 0, 2)).await;
        let unconfirmed = |why: &str| redis::make_extension_error(UNCONFIRMED.into(), Some(why.into()));
        match asked {
            Ok(Ok(answers)) => match &answers[..] {
                [Value::Okay, Value::Int(heard)] if *heard >= i64::from(replicas) => Ok(()),
                [Value::Okay, Value::Int(heard)] => Err(unconfirmed(&format!("{heard} of {replicas} replicas"))),
                _ => Err(unconfirmed("the slot moved in the meantime")),
            },
            Ok(Err(_)) => Err(unconfirmed("the connection was lost")),
            Err(_) => Err(unconfirmed("no answer")),
        }
    }

    /// Whether it answers in time. On the shared connection a long answer may be under way, which is no silence: where nothing comes for
    /// half the time it is asked on a fresh one as well. Only for as long as an answer may take at all: then the connection is dead.
    pub(crate) async fn ping(&self, within: Duration) -> RedisResult<()> {
        let shared = async { ping(&mut self.shared().await?).await };
        let apart = async {
            tokio::time::sleep(within / 2).await;
            ping(&mut self.opener.open(None).await?).await
        };
        let silent = || self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::select! {
            biased;
            said = shared => {
                *silent() = None;
                heard(said)
            }
            said = apart => {
                heard(said)?;
                let since = *silent().get_or_insert_with(Instant::now);
                if since.elapsed() < self.answer_timeout { Ok(()) } else { Err(late()) }
            }
            () = tokio::time::sleep(within) => Err(late()),
        }
    }
}

async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").query_async::<Value>(connection).await.map(drop)
}

/// A server that refuses is there; whether it will do work now is said to who asks for some. Only a replica never will.
fn heard(said: RedisResult<()>) -> RedisResult<()> {
    match said {
        Err(error) if error.code().is_some_and(|code| code != "READONLY") => Ok(()),
        other => other,
    }
}

async fn send(connection: &mut MultiplexedConnection, command: &Cmd, asking: bool) -> RedisResult<Value> {
    if !asking {
        return command.query_async(connection).await;
    }
    let mut pipeline = redis::pipe();
    pipeline.cmd("ASKING").add_command(command.clone());
    match connection.send_packed_commands(&pipeline, 1, 1).await?.into_iter().next() {
        Some(answer) => answer.extract_error(),
        None => Err((ErrorKind::UnexpectedReturnType, "an answer is missing").into()),
    }
}

#[derive(Debug)]
pub(crate) struct Opening {
    opener: Arc<Opener>,
    opened: Arc<AtomicU64>,
}

impl managed::Manager for Opening {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<MultiplexedConnection> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        // How long an answer may take depends on what is asked.
        self.opener.open(None).await
    }

    /// What lay about for long may have been closed by the server.
    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        metrics: &Metrics,
    ) -> Result<(), RecycleError<RedisError>> {
        const FRESH: Duration = Duration::from_secs(5);
        if metrics.last_used() > FRESH {
            redis::cmd("PING").query_async::<Value>(connection).await?;
        }
        Ok(())
    }
}

/// A connection that one caller has to himself. It goes back to the pool only when it owes no answer: what waits in the server
/// for one who has gone would take what comes.
#[derive(Debug)]
pub(crate) struct Own {
    connection: Option<Object<Opening>>,
    pub(crate) node: Arc<Node>,
}

impl Own {
    fn connection(&mut self) -> RedisResult<&mut MultiplexedConnection> {
        self.connection.as_deref_mut().ok_or_else(lost)
    }

    /// A command that may wait in the server, for so long. Ends early, with an error, where the server is found to be gone.
    pub(crate) async fn ask(&mut self, command: &Cmd, waits: Duration) -> Result<Value, Failure> {
        let node = Arc::clone(&self.node);
        let mut gone = node.gone.subscribe();
        let connection = self.connection().map_err(|error| node.failure(error, false))?;
        let deadline = Instant::now() + waits + node.answer_timeout;
        tokio::select! {
            biased;
            answer = command.query_async(connection) => answer.map_err(|error| node.failure(error, true)),
            _ = gone.wait_for(|gone| *gone) => Err(node.failure(lost(), true)),
            () = tokio::time::sleep_until(deadline) => Err(node.failure(late(), true)),
        }
    }

    /// The same with another command behind it, which the server does in the moment when the wait ends; `None` where it refused that one.
    pub(crate) async fn ask_then(
        &mut self,
        command: Cmd,
        then: Cmd,
        waits: Duration,
    ) -> Result<(RedisResult<Value>, Option<Value>), Failure> {
        let node = Arc::clone(&self.node);
        let mut gone = node.gone.subscribe();
        let connection = self.connection().map_err(|error| node.failure(error, false))?;
        let deadline = Instant::now() + waits + node.answer_timeout;
        let mut pipeline = redis::pipe();
        pipeline.add_command(command).add_command(then);
        let answers = tokio::select! {
            biased;
            answers = connection.send_packed_commands(&pipeline, 0, 2) => answers.map_err(|error| node.failure(error, true))?,
            _ = gone.wait_for(|gone| *gone) => return Err(node.failure(lost(), true)),
            () = tokio::time::sleep_until(deadline) => return Err(node.failure(late(), true)),
        };
        let mut answers = answers.into_iter().map(Value::extract_error);
        let missing = || Err((ErrorKind::UnexpectedReturnType, "an answer is missing").into());
        Ok((answers.next().unwrap_or_else(missing), answers.next().and_then(Result::ok)))
    }

    /// Gives it back: it owes no answer.
    pub(crate) fn give_back(mut self) {
        drop(self.connection.take());
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}
