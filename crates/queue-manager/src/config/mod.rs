//! What can be configured, and where a value came from.
//!
//! Defaults, then a TOML file, then variables: what comes later wins. Unknown keys are errors, and every error names the
//! key and the file and line, or the variable, that it came from. The reference in the book is generated from this code.

mod alerts;
mod limits;
mod names;
mod origin;
pub mod parse;
mod pool;
mod providers;
mod queue;
mod reference;
mod section;
mod sources;
mod value;
mod variables;

pub use alerts::{AlertsConfig, Override, QueueAlertsConfig, Secret, WebhookConfig, WebhookUrl};
pub use limits::{BreakerConfig, LimitConfig, Rate, Scope};
pub use names::{Pattern, ProviderName};
pub use pool::{PoolConfig, PoolPreset};
pub use providers::{NamedProviderConfig, ProviderConfig, RouteConfig, RoutingConfig};
pub use queue::{PartitionConfig, QueueConfig, RetentionConfig, RetryConfig};
pub use reference::{keys, reference};
pub use section::Key;
pub use sources::Sources;
pub use value::Size;

pub(crate) use origin::Origins;
pub(crate) use providers::{at_key, check_references};

use std::{sync::Arc, time::Duration};

use queue_core::{
    Error, ErrorCode, QueueName, Result,
    config::defaults,
    limit::{Limit, LimitBy, LimitRule, LimitScope},
};
use validator::{ValidationError, ValidationErrors, ValidationErrorsKind};

use section::{Section, section};

section! {
    /// Everything that can be configured. It shows no credentials.
    Config {}
    sections {
        /// The provider `default`: where it is, and how all are watched.
        provider: ProviderConfig,
        /// What becomes of a queue that no route matches.
        routing: RoutingConfig,
        /// What workers do unless the program says otherwise.
        worker: WorkerConfig,
        /// How many slots a worker has, and when it adds and removes some.
        pool: PoolConfig,
        /// When health is no longer good.
        health: HealthConfig,
        /// How the maintenance task is watched.
        maintenance: MaintenanceConfig,
        /// When somebody is told that a queue needs a look.
        alerts: AlertsConfig,
    }
    named {
        /// More providers, by name.
        providers: ProviderName => NamedProviderConfig as "NAME",
        /// Which queues and kinds go to which provider, by name.
        routes: Arc<str> => RouteConfig as "NAME",
        /// Queues that are declared on connecting, by name.
        queues: QueueName => QueueConfig as "NAME",
        /// Limits, by whose runs they count.
        limits: Scope => LimitConfig as "SCOPE",
        /// Circuit breakers, by dependency.
        breakers: Arc<str> => BreakerConfig as "NAME",
    }
}

section! {
    /// What workers do unless the program says otherwise.
    WorkerConfig {
        /// How long a claim holds without a heartbeat: after a crash a job waits that long for another worker.
        #[validate(custom(function = "positive"))]
        lease: Duration = defaults::LEASE,
        /// How long a graceful stop waits for running jobs before it aborts them.
        drain_deadline: Duration = defaults::DRAIN_DEADLINE,
        /// How many jobs may be fetched before there is a slot for them, per queue; `none` is half the concurrency, at most
        /// 256.
        prefetch: Option<usize> = None,
    }
}

section! {
    /// When health is no longer good.
    HealthConfig {
        /// A queue that has a worker in this process, is not paused, and where a job that a worker could take has waited longer
        /// than this, is reported as degraded; `none` never does. Jobs behind a full partition do not count, nor do they where
        /// all are parked.
        #[validate(custom(function = "positive"))]
        oldest_pending: Option<Duration> = Some(Duration::from_secs(600)),
    }
}

section! {
    /// How the maintenance task is watched. It runs in every process that submits or works.
    MaintenanceConfig {
        /// A maintenance task whose last round is longer ago, or that began longer ago and has done none, is reported as
        /// unhealthy.
        #[validate(custom(function = "positive"))]
        stale_after: Duration = Duration::from_secs(30),
    }
}

/// `none` is not zero.
fn positive<T: Copy + Into<Option<Duration>>>(duration: &T) -> Result<(), ValidationError> {
    match (*duration).into().is_some_and(|duration| duration.is_zero()) {
        true => Err(ValidationError::new("duration").with_message("longer than zero".into())),
        false => Ok(()),
    }
}

impl Config {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// `CONFIG`, naming the key.
    pub fn validate(&self) -> Result<()> {
        self.check_all(&Origins::default())
    }

    /// What every key is set to, by its path, as it would be written; without credentials.
    #[must_use]
    pub fn values(&self) -> Vec<(String, String)> {
        Section::values(self, "")
    }

    /// The limits and circuit breakers, as a scheduler takes them.
    ///
    /// # Errors
    /// `CONFIG`, naming the key.
    pub fn limit_rules(&self) -> Result<Vec<LimitRule>> {
        self.rules(&Origins::default())
    }

    pub(crate) fn check_all(&self, origins: &Origins) -> Result<()> {
        Section::check(self, "", origins)?;
        for (name, queue) in &self.queues {
            let spec = queue.spec(name.clone());
            spec.validate().map_err(|error| origins.error(&format!("queues.{name}"), error.message()))?;
        }
        if let Some((key, message)) = self.pool.contradiction() {
            return Err(origins.error(&format!("pool.{key}"), &message));
        }
        self.rules(origins)?;
        providers::check(self, origins)
    }

    fn rules(&self, origins: &Origins) -> Result<Vec<LimitRule>> {
        let mut rules = Vec::new();
        for (scope, config) in &self.limits {
            let path = format!("limits.{scope}");
            let limits = config.limits().map_err(|message| origins.error(&path, message))?;
            rules.extend(limits.into_iter().map(|limit| (path.clone(), LimitRule { scope: scope.0.clone(), limit })));
        }
        for (name, config) in &self.breakers {
            let scope = match &**name {
                "*" => LimitScope::each(LimitBy::Breaker),
                name => LimitScope::of(LimitBy::Breaker, name),
            };
            let limit = Limit::Breaker(config.policy());
            rules.push((format!("breakers.{name}"), LimitRule { scope, limit }));
        }
        let checked = |(path, rule): (String, LimitRule)| match rule.limit.validate() {
            Ok(()) => Ok(rule),
            Err(error) => Err(origins.error(&path, error.message())),
        };
        rules.into_iter().map(checked).collect()
    }
}

/// The first broken rule, as an error about its key.
fn broken(path: &str, errors: &ValidationErrors, origins: &Origins) -> Error {
    let mut sorted: Vec<_> = errors.errors().iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    for (field, kind) in sorted {
        if let ValidationErrorsKind::Field(rules) = kind
            && let Some(rule) = rules.first()
        {
            let wanted = rule.message.as_deref().unwrap_or(&rule.code);
            return origins.error(&origin::join(path, field), &format!("it must be {wanted}"));
        }
    }
    Error::new(ErrorCode::Config, format!("`{path}` breaks a rule: {errors}"))
}
