//! How to connect.

use std::sync::Arc;

use queue_core::{Error, ErrorCode, QueueProvider, Result, provider::Durability};

use crate::{
    SCHEME,
    client::{ClientOptions, FailoverMode},
    indexes::Index,
};

/// How to connect.
#[derive(Clone)]
pub struct RedisOptions {
    /// As [`ClientOptions::from_url`] reads it; nothing where there is a `client`.
    pub url: String,
    /// Instead of a URL.
    pub client: Option<ClientOptions>,
    /// What every key begins with; installations with different ones do not see each other. At most 100 bytes, without braces, white space
    /// and control characters.
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

    /// Bytes of a prefix at most.
    const LONGEST_PREFIX: usize = 100;

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

    /// # Errors
    /// `CONFIG` for a prefix that would break the keys: braces would be their hash tag, and the rest nobody could type.
    pub(crate) fn check_prefix(&self) -> Result<()> {
        let is_bad = |c: char| matches!(c, '{' | '}') || c.is_whitespace() || c.is_control();
        if self.prefix.len() > Self::LONGEST_PREFIX || self.prefix.contains(is_bad) {
            let message = format!(
                "`prefix` has at most {} bytes, and no braces, white space or control characters",
                Self::LONGEST_PREFIX
            );
            return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
        }
        Ok(())
    }

    pub(super) fn client(&self) -> Result<ClientOptions> {
        self.check_prefix()?;
        let client = self.client.clone().map_or_else(|| ClientOptions::from_url(&self.url), Ok)?;
        if (client.failover == FailoverMode::AirgapSafe) != self.spool.is_some() {
            let message = "`failover=airgap-safe` and a spool go together: say where it is, as in `spool=DIR`";
            return Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME));
        }
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_would_break_keys_is_refused_by_name() {
        let check = |prefix: &str| {
            let options = RedisOptions { prefix: prefix.into(), ..RedisOptions::new("redis://host") };
            options.client()
        };
        for good in ["queue", "a:b", "\u{fc}ber", &"x".repeat(100)] {
            check(good).unwrap();
        }
        for bad in ["a{b", "a}b", "a b", "a\u{a0}b", "a\nb", "a\u{7f}", &"x".repeat(101)] {
            let error = check(bad).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{bad}");
            assert!(error.to_string().contains("`prefix`"), "{error}");
        }
    }
}
