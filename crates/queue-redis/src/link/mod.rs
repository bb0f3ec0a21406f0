//! The provider's door to Redis: scripts, commands, and waiting in the server. What is behind it is the client's.

use std::time::Duration;

use queue_core::{Env, Result, provider::Durability};
use redis::{Cmd, RedisResult, Script, Value};

pub(crate) use self::values::{bytes, items, number, text};
use crate::client::{Call, ClientOptions, Confirmation, Own, POOL_FULL, RedisClusterClient, Use};

mod values;

/// Those that change nothing: an answer that was lost is asked for again.
const READS: &[&str] = &[
    "GET",
    "HMGET",
    "HGET",
    "HSCAN",
    "HLEN",
    "LRANGE",
    "LLEN",
    "PING",
    "SMEMBERS",
    "SSCAN",
    "TIME",
    "XINFO",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "ZCARD",
    "ZRANGE",
    "ZREVRANGE",
    "ZSCAN",
    "ZSCORE",
];

#[derive(Debug, Clone)]
pub(crate) struct Link {
    client: RedisClusterClient,
}

impl Link {
    pub(crate) async fn connect(options: ClientOptions, env: &Env) -> Result<Self> {
        Ok(Self { client: RedisClusterClient::connect_for_jobs(options, env).await? })
    }

    pub(crate) fn client(&self) -> &RedisClusterClient {
        &self.client
    }

    /// Whether keys of different hash tags may be on different servers, so that no command may name two.
    pub(crate) fn is_cluster(&self) -> bool {
        self.client.inner().topology.is_cluster()
    }

    /// Replicas that each primary had when it was looked at.
    pub(crate) fn replicas(&self) -> usize {
        self.client.inner().topology.replicas()
    }

    /// The same; where there were none they are looked for again, for one may have come since.
    pub(crate) async fn replicas_now(&self) -> RedisResult<usize> {
        match self.replicas() {
            0 => self.client.inner().count_replicas().await,
            some => Ok(some),
        }
    }

    /// Whether replicas belong to it, be they there or away.
    pub(crate) fn is_replicated(&self) -> bool {
        self.client.inner().topology.is_replicated()
    }

    /// A connection of one's own, with which to wait in the server for jobs.
    pub(crate) async fn waiting(&self, key: &str) -> RedisResult<Waiting> {
        self.own(key, Use::Wake).await
    }

    /// The same to follow a stream; `None` where too many do. Who then looks with [`ask`](Self::ask) now and then hears the same, later.
    pub(crate) async fn watching(&self, key: &str) -> RedisResult<Option<Waiting>> {
        match self.own(key, Use::Watch).await {
            Err(error) if error.code() == Some(POOL_FULL) => Ok(None),
            own => own.map(Some),
        }
    }

    async fn own(&self, key: &str, purpose: Use) -> RedisResult<Waiting> {
        Ok(Waiting { own: Some(self.client.inner().own(Some(key), purpose).await?), link: self.clone() })
    }

    /// Calls a script on the queue whose keys begin with `base`. What the server refuses before anything was done is asked
    /// again within bounds; an answer that was lost is an error.
    pub(crate) async fn run<K: AsRef<str>>(
        &self,
        script: &Script,
        key: K,
        arguments: &[impl AsRef<[u8]>],
    ) -> RedisResult<Value> {
        self.call(script, key.as_ref(), arguments, None).await
    }

    /// The same, and as safe as a durability says before it answers: else `fault::is_refusal` is false of the error, for the
    /// change may stand.
    pub(crate) async fn run_assured<K: AsRef<str>>(
        &self,
        script: &Script,
        key: K,
        arguments: &[impl AsRef<[u8]>],
        durability: Option<Durability>,
    ) -> RedisResult<Value> {
        self.run_assured_unless(script, key, arguments, durability, |_| false).await
    }

    /// The same, but for an answer that says that there was nothing to do: no replica has to confirm that.
    pub(crate) async fn run_assured_unless<K: AsRef<str>>(
        &self,
        script: &Script,
        key: K,
        arguments: &[impl AsRef<[u8]>],
        durability: Option<Durability>,
        is_moot: fn(&Value) -> bool,
    ) -> RedisResult<Value> {
        let confirmation = match durability {
            Some(Durability::Replicated { replicas, timeout }) => Some(Confirmation { replicas, timeout, is_moot }),
            _ => None,
        };
        self.call(script, key.as_ref(), arguments, confirmation).await
    }

    /// A script has two keys: one that is there as long as the queue is, and one that never is. So a server of a cluster that
    /// gives the slot away or takes it runs none (`TRYAGAIN`) until all of the queue is in one place; with either alone it
    /// would run the script on what happens to be there.
    async fn call(
        &self,
        script: &Script,
        base: &str,
        arguments: &[impl AsRef<[u8]>],
        confirmation: Option<Confirmation>,
    ) -> RedisResult<Value> {
        let command = script_call(script, base, arguments);
        let call = Call { key: Some(base), command: &command, script: Some(script), confirmation, repeatable: false };
        self.client.inner().call(&call).await
    }

    /// A command of one key, which is its first word (of `XINFO` the second, of `XREAD` the first behind `STREAMS`), or of none.
    pub(crate) async fn ask(&self, command: &Cmd) -> RedisResult<Value> {
        let mut words = command.args_iter().filter_map(|word| match word {
            redis::Arg::Simple(word) => std::str::from_utf8(word).ok(),
            _ => None,
        });
        let name = words.next();
        let repeatable = name.is_some_and(|name| READS.contains(&name));
        let key = match name {
            Some("XREAD") => words.find(|word| *word == "STREAMS").and(words.next()),
            Some("XINFO") => words.nth(1),
            _ => words.next(),
        };
        let call = Call { key, command, script: None, confirmation: None, repeatable };
        self.client.inner().call(&call).await
    }
}

/// What is safe enough for both of those who declared it: as many replicas as either asks for, and as much time for them.
pub(crate) fn stronger(one: Option<Durability>, other: Option<Durability>) -> Option<Durability> {
    use Durability::Replicated;
    match (one, other) {
        (Some(Replicated { replicas: a, timeout: s }), Some(Replicated { replicas: b, timeout: t })) => {
            Some(Replicated { replicas: a.max(b), timeout: s.max(t) })
        }
        (Some(Replicated { .. }), _) | (_, None) => one,
        _ => other,
    }
}

/// The command that calls a script. See [`Link::call`] for its keys.
pub(crate) fn script_call(script: &Script, base: &str, arguments: &[impl AsRef<[u8]>]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash());
    match base.ends_with(':') {
        true => command.arg(2).arg(base).arg(format!("{base}spec")),
        false => command.arg(1).arg(base),
    };
    for argument in arguments {
        command.arg(argument.as_ref());
    }
    command
}

/// A connection of one's own, with which to wait in a server. Dropped while it waits it is closed, and its wait with it.
#[derive(Debug)]
pub(crate) struct Waiting {
    own: Option<Own>,
    link: Link,
}

impl Waiting {
    /// Waits so long at most. After an error it is of no use any more.
    pub(crate) async fn ask(&mut self, command: &Cmd, waits: Duration) -> RedisResult<Value> {
        let Some(own) = &mut self.own else {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
        };
        let answer = self.link.client.inner().wait(own, command, waits).await;
        if answer.is_err() {
            self.own = None;
        }
        answer
    }

    /// Waits, and has another command done as soon as the wait is over; `None` where that was refused, as of a script that is not loaded.
    pub(crate) async fn ask_then(
        &mut self,
        command: Cmd,
        then: Cmd,
        waits: Duration,
    ) -> (RedisResult<Value>, Option<Value>) {
        let Some(own) = &mut self.own else {
            return (Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into()), None);
        };
        let (answer, then) = self.link.client.inner().wait_then(own, command, then, waits).await;
        if answer.is_err() {
            self.own = None;
        }
        (answer, then)
    }

    /// Nobody waits with it any more.
    pub(crate) fn give_back(mut self) {
        if let Some(own) = self.own.take() {
            own.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stronger_of_two_durabilities_is_enough_for_both() {
        let replicated = |replicas, seconds| {
            let timeout = Duration::from_secs(seconds);
            Some(Durability::Replicated { replicas, timeout })
        };
        let relaxed = Some(Durability::Relaxed);
        for (one, other, both) in [
            (None, None, None),
            (None, relaxed, relaxed),
            (relaxed, replicated(1, 1), replicated(1, 1)),
            (None, replicated(1, 1), replicated(1, 1)),
            (replicated(2, 1), replicated(1, 3), replicated(2, 3)),
        ] {
            assert_eq!(stronger(one, other), both);
            assert_eq!(stronger(other, one), both);
        }
    }
}
