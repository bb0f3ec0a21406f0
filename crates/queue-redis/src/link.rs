//! The connection to Redis: one for everything that is answered at once, which comes back by itself, and those that wait.

use std::time::Duration;

use bytes::Bytes;
use queue_core::{Error, ErrorCode, Result};
use redis::{
    AsyncConnectionConfig, Client, Cmd, Script, Value,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};

use crate::fault;

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

    /// A connection for commands that wait in the server.
    pub(crate) async fn waiting(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(None);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

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

    pub(crate) async fn ask(&self, command: &Cmd) -> redis::RedisResult<Value> {
        command.query_async(&mut self.shared.clone()).await
    }
}

/// The items of an array.
pub(crate) fn items(value: Value) -> Result<Vec<Value>, fault::Broken> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err("not a list"),
    }
}

pub(crate) fn bytes(value: Value) -> Result<Bytes, fault::Broken> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into()),
        Value::Okay => Ok(Bytes::from_static(b"OK")),
        _ => Err("not bytes"),
    }
}

pub(crate) fn text(value: Value) -> Result<String, fault::Broken> {
    String::from_utf8(bytes(value)?.to_vec()).map_err(|_| "not text")
}

pub(crate) fn number(value: &Value) -> Result<i64, fault::Broken> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::BulkString(bytes) => {
            // A score is written as a double.
            let text = std::str::from_utf8(bytes).ok();
            let number = text.and_then(|text| text.parse::<f64>().ok());
            number.map(|number| number as i64).ok_or("not a number")
        }
        Value::Double(number) => Ok(*number as i64),
        Value::Nil => Ok(0),
        _ => Err("not a number"),
    }
}
