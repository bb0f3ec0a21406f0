//! The connection to Redis: one for everything that is answered at once, which comes back by itself, and those that wait.

use std::time::Duration;

use queue_core::{Error, ErrorCode, Result, provider::Durability};
use redis::{
    AsyncConnectionConfig, Client, Cmd, Script, Value,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};

pub(crate) use self::values::{bytes, items, number, text};
use crate::fault;

mod values;

/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    shared: ConnectionManager,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let client = Client::open(url)
            .map_err(|_| Error::new(ErrorCode::Config, "this is not a URL of Redis").at("connect").by(crate::SCHEME))?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_secs(1))
            .set_number_of_retries(6);
        let shared = ConnectionManager::new_with_config(client.clone(), config);
        let shared = shared.await.map_err(|error| fault::of(&error, "connect"))?;
        Ok(Self { client, shared })
    }

    /// A connection for commands that wait in the server for a key.
    pub(crate) async fn waiting(&self, _key: &str) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Calls a script on the queue whose keys begin with `base`. What the server refuses before anything was done is asked
    /// again within bounds; an answer that was lost is an error.
    pub(crate) async fn run<K: AsRef<str>>(
        &self,
        script: &Script,
        key: K,
        arguments: &[impl AsRef<[u8]>],
    ) -> redis::RedisResult<Value> {
        let mut call = script.key(key.as_ref());
        for argument in arguments {
            call.arg(argument.as_ref());
        }
        call.invoke_async(&mut self.shared.clone()).await
    }

    /// The same, and as safe as a durability says before it answers: else `fault::is_refusal` is false of the error, for the
    /// change may stand.
    #[allow(dead_code, reason = "publish and settle will pass what their queue declares")]
    pub(crate) async fn run_assured<K: AsRef<str>>(
        &self,
        script: &Script,
        key: K,
        arguments: &[impl AsRef<[u8]>],
        _durability: Durability,
    ) -> redis::RedisResult<Value> {
        self.run(script, key, arguments).await
    }

    /// A command of one key, or of none.
    pub(crate) async fn ask(&self, command: &Cmd) -> redis::RedisResult<Value> {
        command.query_async(&mut self.shared.clone()).await
    }
}
