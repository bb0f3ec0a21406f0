//! What goes wrong in Redis, in the words of the contract.

use queue_core::{Error, ErrorCode};
use redis::{ErrorKind, RedisError};

use crate::client::{POOL_FULL, UNCONFIRMED, UNFIT};

/// Whether the server itself refused, so that nothing was done.
pub(crate) fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some_and(|code| code != UNCONFIRMED) || error.is_connection_refusal()
}

/// Said by a script of a queue that was dropped since it was known: nothing was done.
const STALE: &str = "STALE";

pub(crate) fn is_stale(error: &RedisError) -> bool {
    error.code() == Some(STALE)
}

/// Whether Redis could not be asked, or takes no writes for now: also where the only primary is one that is not worked with. One that is
/// full, or has no connection to spare, is there.
pub(crate) fn is_away(error: &Error) -> bool {
    let said = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RedisError>());
    let said = said.and_then(RedisError::code);
    let is_there = said.is_some_and(|code| code == "OOM" || code == POOL_FULL);
    said == Some(UNFIT) || matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Timeout) && !is_there
}

/// Never repeats what the server said of arguments, which may be anybody's.
pub(crate) fn of(error: &RedisError, operation: &'static str) -> Error {
    let code = error.code().unwrap_or_default();
    let (what, message): (ErrorCode, String) = match code {
        "NOAUTH" | "WRONGPASS" => (ErrorCode::Authentication, "Redis does not accept the credentials".into()),
        "NOPERM" => {
            (ErrorCode::Denied, "the user may not run what the provider needs: see the page of the provider".into())
        }
        "OOM" => {
            (ErrorCode::Unavailable, "Redis has reached its `maxmemory`: raise it, or let jobs be finished".into())
        }
        "READONLY" => (ErrorCode::Unavailable, "this Redis is a read-only replica: connect to the primary".into()),
        STALE => (ErrorCode::NotFound, "the queue was dropped: consume it anew once it is there again".into()),
        UNCONFIRMED => (
            ErrorCode::Unavailable,
            "it was done, but too few replicas confirmed it in time: a failover may lose it".into(),
        ),
        POOL_FULL => (
            ErrorCode::Unavailable,
            "all connections that callers may have to themselves are in use: give the pool a greater `max`".into(),
        ),
        "MISCONF" => (
            ErrorCode::Unavailable,
            "Redis cannot write to its disk, and refuses changes until it can: look at its log, and whether the disk is full".into(),
        ),
        // The client's own words.
        UNFIT => (ErrorCode::Config, error.detail().unwrap_or("the primary is not set up for jobs").to_owned()),
        "UNBLOCKED" => (ErrorCode::Unavailable, "this Redis is not the primary any more".into()),
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" => {
            (ErrorCode::Unavailable, format!("Redis refuses work for now ({code})"))
        }
        "" if error.is_timeout() => (ErrorCode::Timeout, "Redis did not answer in time".into()),
        "" if error.kind() == ErrorKind::AuthenticationFailed => {
            (ErrorCode::Authentication, "Redis does not accept the credentials".into())
        }
        "" if error.kind() == ErrorKind::InvalidClientConfig => {
            (ErrorCode::Config, "the URL is not one of Redis".into())
        }
        "" if error.kind() == ErrorKind::UnexpectedReturnType || error.kind() == ErrorKind::Parse => {
            (ErrorCode::Internal, "Redis answered what a script never does".into())
        }
        "" => (ErrorCode::Unavailable, "Redis cannot be reached".into()),
        _ => (ErrorCode::Internal, format!("Redis refused a script ({code})")),
    };
    Error::new(what, message).at(operation).by(crate::SCHEME).caused_by(error.clone())
}

/// Why an answer cannot be read.
pub(crate) type Broken = &'static str;

/// What should never be in Redis, or never be answered.
pub(crate) fn broken(what: &'static str, operation: &'static str) -> Error {
    Error::new(ErrorCode::Undecodable, what).at(operation).by(crate::SCHEME)
}
