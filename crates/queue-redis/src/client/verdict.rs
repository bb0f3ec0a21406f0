//! What to do after an error.

use std::time::Duration;

use queue_core::clock::Random;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

use super::{Address, node::Failure};

/// Said of a change that was made and that too few replicas confirmed.
pub(crate) const UNCONFIRMED: &str = "UNCONFIRMED";

/// Said where all connections of one use are in use: no fault of the server, and nothing was done.
pub(crate) const POOL_FULL: &str = "POOLFULL";

/// Said of a primary that is refused as it is set up.
pub(crate) const UNFIT: &str = "UNFIT";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The slot lives elsewhere now.
    Moved(u16, Address),
    /// This once, ask there.
    Ask(Address),
    /// Nothing was done, and it may be in a while.
    Later,
    /// Nothing was done, and this server is not, or no more, the one to ask.
    Elsewhere,
    /// It may have been done; the connection is of no use any more.
    Lost,
    /// It is so.
    Final,
}

/// Judged by the code first: what the client says itself in a server's words is of no kind that redis-rs knows.
pub(crate) fn verdict(failure: &Failure) -> Verdict {
    let error = &failure.error;
    match error.code() {
        Some("MOVED" | "ASK") => redirect(error, &failure.asked),
        Some(
            "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "MISCONF" | "NOSCRIPT" | "BUSY" | "NOREPLICAS"
            | POOL_FULL,
        ) => Verdict::Later,
        Some("READONLY") => Verdict::Elsewhere,
        Some("UNBLOCKED") => Verdict::Lost,
        Some(_) => Verdict::Final,
        None => match error.kind() {
            ErrorKind::InvalidClientConfig | ErrorKind::AuthenticationFailed => Verdict::Final,
            _ if !failure.sent => Verdict::Elsewhere,
            ErrorKind::UnexpectedReturnType => Verdict::Final,
            _ => Verdict::Lost,
        },
    }
}

/// A server that does not know its own name leaves it out.
fn redirect(error: &RedisError, asked: &Address) -> Verdict {
    let Some((place, slot)) = error.redirect_node() else { return Verdict::Later };
    let Some((host, port)) = place.rsplit_once(':') else { return Verdict::Later };
    let Ok(port) = port.parse() else { return Verdict::Later };
    let host = if host.is_empty() || host == "?" { &asked.host } else { host };
    let place = Address::new(host, port);
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Ask) => Verdict::Ask(place),
        _ => Verdict::Moved(slot, place),
    }
}

/// How long and how often something is tried again.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    end: Instant,
    delay: Duration,
    hurries: u32,
    random: &'a dyn Random,
}

impl<'a> Patience<'a> {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(500);
    /// Redirections that are followed at once; two servers that send each other the same slot would go on for ever.
    const HURRIES: u32 = 5;

    pub(crate) fn new(most: Duration, random: &'a dyn Random) -> Self {
        Self { end: Instant::now() + most, delay: Self::FIRST, hurries: Self::HURRIES, random }
    }

    /// Waits until the next try is due; false where there should be none.
    pub(crate) async fn again(&mut self, at_once: bool) -> bool {
        if at_once && self.hurries > 0 {
            self.hurries -= 1;
            return true;
        }
        let delay = self.delay.mul_f64(0.5 + 0.5 * self.random.fraction());
        self.delay = (2 * self.delay).min(Self::LONGEST);
        if Instant::now() + delay >= self.end {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::{Env, job::Timestamp};

    fn judge(code: &str, detail: &str, sent: bool) -> Verdict {
        let answer = redis::parse_redis_value(format!("-{code} {detail}\r\n").as_bytes()).unwrap();
        let error = answer.extract_error().unwrap_err();
        verdict(&Failure { error, sent, asked: Address::new("asked", 1) })
    }

    #[test]
    fn a_refusal_is_told_from_a_loss() {
        assert_eq!(judge("MOVED", "7 there:2", true), Verdict::Moved(7, Address::new("there", 2)));
        assert_eq!(judge("MOVED", "7 :2", true), Verdict::Moved(7, Address::new("asked", 2)));
        assert_eq!(judge("ASK", "7 there:2", true), Verdict::Ask(Address::new("there", 2)));
        for code in ["TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "BUSY", "NOSCRIPT", "NOREPLICAS"] {
            assert_eq!(judge(code, "not now", true), Verdict::Later, "{code}");
        }
        assert_eq!(judge("READONLY", "no", true), Verdict::Elsewhere);
        for code in ["OOM", "WRONGTYPE", "NOPERM", "NOAUTH", "ERR", UNCONFIRMED, UNFIT] {
            assert_eq!(judge(code, "no", true), Verdict::Final, "{code}");
        }
        let broken = |sent| {
            let error = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
            verdict(&Failure { error, sent, asked: Address::new("asked", 1) })
        };
        assert_eq!(broken(true), Verdict::Lost);
        assert_eq!(broken(false), Verdict::Elsewhere);
    }

    #[test]
    fn what_the_client_says_itself_is_judged_alike() {
        let judge = |code: &str, sent| {
            let error = redis::make_extension_error(code.into(), Some("found here".into()));
            verdict(&Failure { error, sent, asked: Address::new("asked", 1) })
        };
        for sent in [false, true] {
            assert_eq!(judge("READONLY", sent), Verdict::Elsewhere);
            for code in ["CLUSTERDOWN", "MASTERDOWN", "LOADING", "TRYAGAIN", POOL_FULL] {
                assert_eq!(judge(code, sent), Verdict::Later, "{code}");
            }
            assert_eq!(judge(UNCONFIRMED, sent), Verdict::Final);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends() {
        let env = Env::seeded(Timestamp::from_millis(0), 7);
        let begun = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(5), &*env.random);
        let mut tries = 0;
        while patience.again(true).await {
            tries += 1;
        }
        assert!(begun.elapsed() <= Duration::from_secs(5) && begun.elapsed() > Duration::from_secs(4));
        assert!((10..40).contains(&tries), "{tries}");
    }
}
