//! Values as people write them: `2s`, `1MiB`, `exp:1s..30s`, read as in a configuration file.

use std::time::Duration;

use queue_core::job::{Backoff, RetryPolicy};

pub use queue_manager::config::parse::{backoff, duration};

/// A duration that is not zero.
///
/// # Errors
/// As [`duration`].
pub fn time_limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a limit of zero lets nothing run; leave it out for the default".to_owned()),
        limit => Ok(limit),
    }
}

/// A size in bytes: `65536`, `64KiB`, `1MiB`, `2MB`. At least 1.
///
/// # Errors
/// Says what a size looks like.
pub fn size(text: &str) -> Result<usize, String> {
    match queue_manager::config::parse::size(text)?.try_into() {
        Ok(0) => Err("a size of zero allows nothing".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(format!("{text:?} is more than this machine can address")),
    }
}

/// A user and a group by their numbers: `65534:65534`, or `65534` for both.
///
/// # Errors
/// Says what it looks like.
pub fn user(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let shape =
        || format!("{text:?} is not a user id, or UID:GID, in numbers; `id -u NAME` and `id -g NAME` tell them");
    Ok((uid.parse().map_err(|_| shape())?, gid.parse().map_err(|_| shape())?))
}

/// The policy for so many attempts with this wait between them. Growing delays are spread by a tenth, so that jobs that
/// failed together do not come back together; a fixed delay is kept to the letter.
#[must_use]
pub fn retry_policy(max_attempts: u32, backoff: Backoff) -> RetryPolicy {
    let jitter = if matches!(backoff, Backoff::Exponential { .. }) { 0.1 } else { 0.0 };
    RetryPolicy { max_attempts, backoff, jitter }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn durations() {
        assert_eq!(duration("2s"), Ok(2 * SECOND));
        assert_eq!(duration("500ms"), Ok(SECOND / 2));
        assert_eq!(duration("1m30s"), Ok(90 * SECOND));
        assert_eq!(duration(" 0s "), Ok(Duration::ZERO));
        for bad in ["2", "", "s", "-2s", "two", "1.5.5s", "99999y", "18446744073709551616s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(time_limit("0s").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("64KiB"), Ok(64 << 10));
        assert_eq!(size("64 kb"), Ok(64_000));
        assert_eq!(size("17"), Ok(17));
        for bad in ["", "0", "-1", "-1MiB", "1XiB", "much"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn backoffs() {
        assert_eq!(backoff("none"), Ok(Backoff::None));
        assert_eq!(backoff("fixed:250ms"), Ok(Backoff::Fixed { base: SECOND / 4 }));
        assert_eq!(backoff("exp:1s..30s"), Ok(Backoff::Exponential { base: SECOND, factor: 2.0, cap: 30 * SECOND }));
        for bad in ["", "None", "fixed", "fixed:", "fixed:2", "exp:1s", "exp:1s..", "exp:2s..1s", "linear:1s"] {
            assert!(backoff(bad).is_err(), "{bad}");
        }
        for text in ["none", "fixed:2s", "exp:1s..30s"] {
            assert!(retry_policy(3, backoff(text).unwrap()).validate().is_ok());
        }
    }
}
