//! Which limits a job comes under.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

use super::Need;
use crate::{
    error::{Error, ErrorCode, Result},
    job::{Envelope, JobKind, LimitKeys, QueueName},
    provider::ParkKey,
};

/// How much may run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Limit {
    /// A bucket that holds `burst` tokens at most and gains `rate` of them in `per`, evenly. A run takes one.
    TokenBucket {
        /// Tokens gained in `per`.
        rate: u32,
        /// The time.
        per: Duration,
        /// The most tokens, with which it begins.
        burst: u32,
    },
    /// At most `max` runs begin in any stretch of `per`.
    SlidingWindow {
        /// The most runs.
        max: u32,
        /// The stretch.
        per: Duration,
    },
    /// At most `max` run at a time.
    Concurrency {
        /// The most runs.
        max: u32,
    },
    /// As many as like, while what they depend on works.
    Breaker(BreakerPolicy),
}

/// When a circuit breaker opens, and how it closes again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerPolicy {
    /// Opens at so many failures
    pub failures: u32,
    /// in that time,
    pub within: Duration,
    /// if they are at least this share of the runs that ended in it, from 0.0 to 1.0.
    pub share: f64,
    /// Stays open so long, then lets probes run.
    pub open_for: Duration,
    /// So many at a time; it closes when so many in a row went well, and opens again at the first that fails.
    pub probes: u32,
}

impl Default for BreakerPolicy {
    /// Half of the runs, and at least 5, fail within 60 s; open for 30 s; one probe.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { failures: 5, within: seconds(60), share: 0.5, open_for: seconds(30), probes: 1 }
    }
}

/// Whose runs are counted together. As text: `queue:mail`, `kind:email.send`, `tenant:acme`, `rate:openai`,
/// `concurrency:user-7`, `breaker:openai`; with `*` for the name, each name is counted by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitScope {
    /// By what.
    pub by: LimitBy,
    /// `None`: every name, each by itself.
    pub name: Option<Arc<str>>,
}

/// What a [`LimitScope`] goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitBy {
    /// The job's queue.
    Queue,
    /// The job's kind.
    Kind,
    /// [`LimitKeys::tenant`].
    Tenant,
    /// [`LimitKeys::rate`].
    Rate,
    /// [`LimitKeys::concurrency`].
    Concurrency,
    /// [`LimitKeys::breaker`].
    Breaker,
}

/// A limit and whose runs come under it.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitRule {
    /// Whose.
    pub scope: LimitScope,
    /// How much.
    pub limit: Limit,
}

/// All limits of a scheduler. A rule for a name replaces the one for every name (`*`) with a limit of the same sort.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LimitRules {
    by: [Scope; LimitBy::ALL.len()],
}

/// The rules of one [`LimitBy`].
#[derive(Debug, Clone, Default, PartialEq)]
struct Scope {
    every: Vec<Limit>,
    /// With their keys, which then need not be put together for each job.
    named: BTreeMap<Arc<str>, Vec<Need>>,
}

/// What the rules say about a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ruled {
    /// It is this limit's.
    Limited(Limit),
    /// A rule gave it, and is no more.
    Lifted,
    /// No rule gives such keys.
    Foreign,
}

impl LimitBy {
    const ALL: [Self; 6] = [Self::Queue, Self::Kind, Self::Tenant, Self::Rate, Self::Concurrency, Self::Breaker];

    /// The word before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Kind => "kind",
            Self::Tenant => "tenant",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Breaker => "breaker",
        }
    }
}

impl LimitScope {
    /// The runs of one name.
    pub fn of(by: LimitBy, name: impl Into<Arc<str>>) -> Self {
        Self { by, name: Some(name.into()) }
    }

    /// The runs of every name, each by itself.
    #[must_use]
    pub const fn each(by: LimitBy) -> Self {
        Self { by, name: None }
    }
}

impl fmt::Display for LimitScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.by.as_str(), self.name.as_deref().unwrap_or("*"))
    }
}

impl FromStr for LimitScope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let words = LimitBy::ALL.map(LimitBy::as_str).join(", ");
            Error::new(
                ErrorCode::Validation,
                format!("{text:?} is no limit's scope: write WORD:NAME or WORD:* with one of {words}"),
            )
        };
        let (word, name) = text.split_once(':').ok_or_else(wrong)?;
        let by = LimitBy::ALL.into_iter().find(|by| by.as_str() == word).ok_or_else(wrong)?;
        match name {
            "" => Err(wrong()),
            "*" => Ok(Self::each(by)),
            name => Ok(Self::of(by, name)),
        }
    }
}

impl Limit {
    /// Checks the ranges.
    ///
    /// # Errors
    /// `VALIDATION`, naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |rule: &'static str| Err(Error::new(ErrorCode::Validation, rule));
        match *self {
            Self::TokenBucket { rate: 0, .. } => refuse("a token bucket's rate is at least 1"),
            Self::TokenBucket { burst: 0, .. } => refuse("a token bucket's burst is at least 1"),
            Self::SlidingWindow { max: 0, .. } | Self::Concurrency { max: 0 } => {
                refuse("a limit is at least 1; pause the queue to keep jobs out of the workers")
            }
            Self::TokenBucket { per, .. } | Self::SlidingWindow { per, .. } if per.is_zero() => {
                refuse("a rate's time is longer than zero")
            }
            Self::Breaker(policy) => policy.validate(),
            _ => Ok(()),
        }
    }

    /// Limits of one sort replace each other.
    fn sort(&self) -> Sort {
        match self {
            Self::TokenBucket { .. } | Self::SlidingWindow { .. } => Sort::Rate,
            Self::Concurrency { .. } => Sort::Running,
            Self::Breaker(_) => Sort::Breaker,
        }
    }
}

/// The sorts of limits, and what tells their keys apart under one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Rate,
    Running,
    Breaker,
}

impl Sort {
    /// Behind the key, except where the scope says it already.
    fn suffix(self, by: LimitBy) -> &'static str {
        match (self, by) {
            (Self::Rate, LimitBy::Concurrency | LimitBy::Breaker) => "#rate",
            (Self::Rate, _) | (Self::Running, LimitBy::Concurrency) | (Self::Breaker, LimitBy::Breaker) => "",
            (Self::Running, _) => "#running",
            (Self::Breaker, _) => "#breaker",
        }
    }
}

impl BreakerPolicy {
    fn validate(&self) -> Result<()> {
        let refuse = |rule: &'static str| Err(Error::new(ErrorCode::Validation, rule));
        if self.failures == 0 || self.probes == 0 {
            return refuse("a breaker's failures and probes are at least 1");
        }
        if self.within.is_zero() || self.open_for.is_zero() {
            return refuse("a breaker's times are longer than zero");
        }
        if !(0.0..=1.0).contains(&self.share) {
            return refuse("a breaker's share is between 0.0 and 1.0");
        }
        Ok(())
    }
}

impl Scope {
    fn limits(&mut self, by: LimitBy, rule: &LimitRule) {
        let sort = rule.limit.sort();
        match &rule.scope.name {
            None => {
                self.every.retain(|limit| limit.sort() != sort);
                self.every.push(rule.limit);
            }
            Some(name) => {
                let needs = self.named.entry(Arc::clone(name)).or_default();
                needs.retain(|need| need.limit.sort() != sort);
                needs.push(Need { key: key_of(by, name, sort), limit: rule.limit });
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.every.is_empty() && self.named.is_empty()
    }

    /// The limit of that sort for a name.
    fn find(&self, name: &str, sort: Sort) -> Option<Limit> {
        let own = self.named.get(name).and_then(|needs| needs.iter().find(|need| need.limit.sort() == sort));
        own.map(|need| need.limit).or_else(|| self.every.iter().copied().find(|limit| limit.sort() == sort))
    }

    fn collect(&self, by: LimitBy, name: Option<&str>, needs: &mut Vec<Need>) {
        let Some(name) = name else { return };
        let own = self.named.get(name).map_or(&[][..], Vec::as_slice);
        needs.extend_from_slice(own);
        let rest = self.every.iter().filter(|limit| own.iter().all(|need| need.limit.sort() != limit.sort()));
        needs.extend(rest.map(|limit| Need { key: key_of(by, name, limit.sort()), limit: *limit }));
    }
}

/// `#` is doubled in a name, so that no name looks like another's with a suffix.
fn key_of(by: LimitBy, name: &str, sort: Sort) -> ParkKey {
    let (word, suffix) = (by.as_str(), sort.suffix(by));
    let key = match name.contains('#') {
        true => format!("{word}:{}{suffix}", name.replace('#', "##")),
        false => format!("{word}:{name}{suffix}"),
    };
    ParkKey(key.into())
}

/// What [`key_of`] was made of.
fn parse_key(key: &ParkKey) -> Option<(LimitBy, String, Sort)> {
    let (word, rest) = key.0.split_once(':')?;
    let by = LimitBy::ALL.into_iter().find(|by| by.as_str() == word)?;
    let with = |sort: Sort| {
        let name = rest.strip_suffix(sort.suffix(by))?;
        // What is left of a name has its marks in pairs.
        let marks_paired = !name.replace("##", "").contains('#');
        marks_paired.then(|| (by, name.replace("##", "#"), sort))
    };
    [Sort::Rate, Sort::Running, Sort::Breaker].into_iter().find_map(with)
}

impl LimitRules {
    /// Adds a rule. One for the same scope and of the same sort (rate, concurrency, breaker) is replaced.
    ///
    /// # Errors
    /// `VALIDATION` where the limit is nonsense.
    pub fn add(&mut self, rule: LimitRule) -> Result<()> {
        rule.limit.validate()?;
        self.by[rule.scope.by as usize].limits(rule.scope.by, &rule);
        Ok(())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by.iter().all(Scope::is_empty)
    }

    /// The rules, by scope.
    pub fn iter(&self) -> impl Iterator<Item = LimitRule> + '_ {
        LimitBy::ALL.into_iter().zip(&self.by).flat_map(|(by, scope)| {
            let every = scope.every.iter().map(move |limit| LimitRule { scope: LimitScope::each(by), limit: *limit });
            let named = scope.named.iter().flat_map(move |(name, needs)| {
                let of =
                    move |need: &Need| LimitRule { scope: LimitScope::of(by, Arc::clone(name)), limit: need.limit };
                needs.iter().map(of)
            });
            every.chain(named)
        })
    }

    /// What a job comes under. Headers that cannot be read name no keys.
    #[must_use]
    pub fn needs(&self, queue: &QueueName, envelope: &Envelope) -> Vec<Need> {
        let mut needs = Vec::new();
        let [by_queue, by_kind, by_header @ ..] = &self.by;
        by_queue.collect(LimitBy::Queue, Some(queue.as_str()), &mut needs);
        by_kind.collect(LimitBy::Kind, Some(JobKind::as_str(&envelope.kind)), &mut needs);
        // Reading headers costs more than all the rest.
        if !envelope.headers.is_empty() && !by_header.iter().all(Scope::is_empty) {
            let LimitKeys { tenant, rate, concurrency, breaker, .. } = envelope.headers().unwrap_or_default().keys;
            let names = [tenant, rate, concurrency, breaker];
            for ((by, scope), name) in LimitBy::ALL[2..].iter().zip(by_header).zip(&names) {
                scope.collect(*by, name.as_deref(), &mut needs);
            }
        }
        needs
    }

    /// The limit that a key is of, for jobs that were parked under it by whomever.
    pub(crate) fn limit_of(&self, key: &ParkKey) -> Ruled {
        let Some((by, name, sort)) = parse_key(key) else { return Ruled::Foreign };
        self.by[by as usize].find(&name, sort).map_or(Ruled::Lifted, Ruled::Limited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Headers, JobId, RawHeaders, Timestamp};

    fn rules(all: &[(&str, Limit)]) -> LimitRules {
        let mut rules = LimitRules::default();
        for (scope, limit) in all {
            rules.add(LimitRule { scope: scope.parse().unwrap(), limit: *limit }).unwrap();
        }
        rules
    }

    fn keys_of(rules: &LimitRules, keys: LimitKeys) -> Vec<String> {
        let kind = JobKind::from_static("k");
        let mut parts = Envelope::builder(JobId::derive(b"x", 0), kind, &b""[..], Timestamp::from_millis(1));
        parts.headers = RawHeaders::encode(&Headers { keys, ..Headers::default() }).unwrap();
        let needs = rules.needs(&QueueName::from_static("mail"), &parts.seal());
        needs.iter().map(|need| need.key.0.to_string()).collect()
    }

    const WINDOW: Limit = Limit::SlidingWindow { max: 3, per: Duration::from_secs(1) };
    const TWO: Limit = Limit::Concurrency { max: 2 };

    #[test]
    fn a_job_comes_under_every_rule_that_names_it() {
        let rules = rules(&[
            ("queue:mail", TWO),
            ("queue:other", TWO),
            ("kind:k", WINDOW),
            ("tenant:*", WINDOW),
            ("tenant:acme", TWO),
            ("rate:openai", WINDOW),
        ]);
        assert_eq!(keys_of(&rules, LimitKeys::default()), ["queue:mail#running", "kind:k"]);
        let keys = LimitKeys { tenant: Some("acme".into()), rate: Some("other".into()), ..LimitKeys::default() };
        assert_eq!(keys_of(&rules, keys), ["queue:mail#running", "kind:k", "tenant:acme#running", "tenant:acme"]);
    }

    #[test]
    fn a_rule_for_a_name_replaces_the_one_for_every_name() {
        let own = Limit::SlidingWindow { max: 9, per: Duration::from_secs(1) };
        let rules = rules(&[("rate:*", WINDOW), ("rate:a", own)]);
        let kind = JobKind::from_static("k");
        let limit = |rate: &str| {
            let mut parts =
                Envelope::builder(JobId::derive(b"x", 0), kind.clone(), &b""[..], Timestamp::from_millis(1));
            let keys = LimitKeys { rate: Some(rate.into()), ..LimitKeys::default() };
            parts.headers = RawHeaders::encode(&Headers { keys, ..Headers::default() }).unwrap();
            let needs = rules.needs(&QueueName::from_static("q"), &parts.seal());
            assert_eq!(needs.len(), 1);
            needs[0].limit
        };
        assert_eq!((limit("a"), limit("b")), (own, WINDOW));
    }

    #[test]
    fn a_key_leads_back_to_its_limit_whatever_the_name() {
        let mut all = rules(&[("tenant:*", WINDOW), ("tenant:*", TWO), ("concurrency:*", TWO), ("breaker:*", WINDOW)]);
        let breaker = Limit::Breaker(BreakerPolicy::default());
        for (scope, limit) in [("tenant:a#running", TWO), ("breaker:*", breaker), ("queue:q", breaker)] {
            all.add(LimitRule { scope: scope.parse().unwrap(), limit }).unwrap();
        }
        let names = ["a", "a#running", "#", "a#", "##", "a##running", "a:b", "#running", "ü", "#breaker#rate"];
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            let name = Some(Arc::from(name));
            let keys = LimitKeys {
                tenant: name.clone(),
                concurrency: name.clone(),
                breaker: name.clone(),
                ..LimitKeys::default()
            };
            let mut parts = Envelope::builder(
                JobId::derive(b"x", 0),
                JobKind::from_static("k"),
                &b""[..],
                Timestamp::from_millis(1),
            );
            parts.headers = RawHeaders::encode(&Headers { keys, ..Headers::default() }).unwrap();
            let needs = all.needs(&QueueName::from_static("q"), &parts.seal());
            assert_eq!(needs.len(), 6, "{needs:?}");
            for need in needs {
                assert_eq!(all.limit_of(&need.key), Ruled::Limited(need.limit), "{}", need.key.0);
                seen.insert(need.key);
            }
        }
        assert_eq!(seen.len(), 1 + 5 * names.len(), "no two names share a key");
        let of = |key: &str| all.limit_of(&ParkKey(key.into()));
        assert_eq!((of("rate:x"), of("queue:other#breaker")), (Ruled::Lifted, Ruled::Lifted));
        assert_eq!(
            (of("flow:x"), of("x"), of("rate:a#odd"), of("rate:a###")),
            (Ruled::Foreign, Ruled::Foreign, Ruled::Foreign, Ruled::Foreign)
        );
    }

    #[test]
    fn the_rules_are_listed_as_they_stand() {
        let listed: Vec<String> =
            rules(&[("rate:a", WINDOW), ("queue:q", TWO), ("rate:*", WINDOW), ("queue:q", WINDOW), ("queue:q", TWO)])
                .iter()
                .map(|rule| format!("{} {:?}", rule.scope, matches!(rule.limit, Limit::Concurrency { .. })))
                .collect();
        assert_eq!(listed, ["queue:q false", "queue:q true", "rate:* false", "rate:a false"]);
        assert!(LimitRules::default().is_empty() && !rules(&[("rate:*", WINDOW)]).is_empty());
    }

    #[test]
    fn scopes_read_and_nonsense_is_refused() {
        for text in ["queue:mail", "tenant:*", "breaker:open:ai", "kind:email.send"] {
            assert_eq!(text.parse::<LimitScope>().unwrap().to_string(), text);
        }
        for text in ["", "mail", "host:x", "rate:"] {
            assert!(text.parse::<LimitScope>().unwrap_err().message().contains("concurrency"), "{text}");
        }
        let zero = Duration::ZERO;
        for limit in [
            Limit::Concurrency { max: 0 },
            Limit::SlidingWindow { max: 1, per: zero },
            Limit::TokenBucket { rate: 1, per: Duration::from_secs(1), burst: 0 },
            Limit::Breaker(BreakerPolicy { share: 1.5, ..BreakerPolicy::default() }),
            Limit::Breaker(BreakerPolicy { open_for: zero, ..BreakerPolicy::default() }),
        ] {
            assert_eq!(limit.validate().unwrap_err().code(), ErrorCode::Validation, "{limit:?}");
        }
    }
}
