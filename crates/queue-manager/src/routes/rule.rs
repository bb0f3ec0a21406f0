//! One route.

use std::{fmt, sync::Arc};

use queue_core::{QueueName, job::JobKind};

use crate::config::{Config, Pattern, ProviderName, RouteConfig};

/// A route whose provider is known.
#[derive(Debug)]
pub(crate) struct Rule {
    name: Arc<str>,
    provider: ProviderName,
    queue: Option<Pattern>,
    kind: Option<Pattern>,
    /// Where the provider is among the members.
    pub(crate) member: usize,
}

impl Rule {
    /// The routes of a configuration, in the order in which they are looked at; `place` finds a provider.
    pub(crate) fn all(config: &Config, place: impl Fn(&ProviderName) -> Option<usize>) -> Vec<Self> {
        let mut routes: Vec<(&Arc<str>, &RouteConfig)> = config.routes.iter().collect();
        // By name they are already.
        routes.sort_by_key(|(_, route)| route.order);
        let rule = |(name, route): (&Arc<str>, &RouteConfig)| {
            let RouteConfig { provider, queue, kind, .. } = route.clone();
            let member = place(&provider)?;
            Some(Self { name: Arc::clone(name), provider, queue, kind, member })
        };
        routes.into_iter().filter_map(rule).collect()
    }

    pub(crate) fn takes_queue(&self, queue: &QueueName) -> bool {
        self.queue.as_ref().is_none_or(|pattern| pattern.matches(queue.as_str()))
    }

    pub(crate) fn takes_kind(&self, kind: &JobKind) -> bool {
        self.kind.as_ref().is_none_or(|pattern| pattern.matches(kind.as_str()))
    }

    pub(crate) fn takes_every_kind(&self) -> bool {
        self.kind.as_ref().is_none_or(Pattern::is_any)
    }
}

/// As an error shows it: `audit (queue events.*, kind audit.*) to bulk`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (", self.name)?;
        match (&self.queue, &self.kind) {
            (Some(queue), Some(kind)) => write!(f, "queue {queue}, kind {kind}")?,
            (Some(queue), None) => write!(f, "queue {queue}")?,
            (None, Some(kind)) => write!(f, "kind {kind}")?,
            (None, None) => f.write_str("everything")?,
        }
        write!(f, ") to `{}`", self.provider)
    }
}
