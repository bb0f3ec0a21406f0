//! What can be configured, and where a value came from.
//!
//! Defaults, then a TOML file, then variables: what comes later wins. Unknown keys are errors, and every error names the
//! key and the file and line, or the variable, that it came from. The reference in the book is generated from this code.

mod alerts;
mod origin;
mod queue;
mod reference;
mod section;
mod sources;
mod value;
mod variables;

pub use alerts::{AlertsConfig, Override, QueueAlertsConfig, Secret, WebhookConfig, WebhookUrl};
pub use queue::{QueueConfig, RetentionConfig, RetryConfig};
pub use reference::reference;
pub use sources::Sources;
pub use value::Size;

use std::{collections::BTreeMap, time::Duration};

use queue_core::{Error, ErrorCode, QueueName, Result, config::defaults, provider::ProviderUrl};
use serde::Deserialize;
use validator::{Validate, ValidationError, ValidationErrors, ValidationErrorsKind};

use origin::Origins;
use section::section;

/// Everything that can be configured. It shows no credentials.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// Which provider, and how it is watched.
    pub provider: ProviderConfig,
    /// What workers do unless the program says otherwise.
    pub worker: WorkerConfig,
    /// How the maintenance task is watched.
    pub maintenance: MaintenanceConfig,
    /// When somebody is told that a queue needs a look.
    pub alerts: AlertsConfig,
    /// Queues that are declared on connecting, by name.
    pub queues: BTreeMap<QueueName, QueueConfig>,
}

section! {
    /// Which provider, and how it is watched.
    ProviderConfig {
        /// Where the jobs are: `memory:`, `redis://`, `amqp://`, `kafka://`, `sqs://`. Shown without credentials everywhere.
        url: ProviderUrl = memory(),
        /// How long a health check waits for the provider's answer.
        #[validate(custom(function = "positive"))]
        ping_timeout: Duration = Duration::from_secs(5),
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
    /// How the maintenance task is watched. It runs in every process that submits or works.
    MaintenanceConfig {
        /// A maintenance task whose last round is longer ago is reported as unhealthy.
        #[validate(custom(function = "positive"))]
        stale_after: Duration = Duration::from_secs(30),
    }
}

#[allow(clippy::expect_used, reason = "a literal of the program, not input")]
fn memory() -> ProviderUrl {
    ProviderUrl::parse("memory:").expect("a URL")
}

fn positive(duration: &Duration) -> Result<(), ValidationError> {
    match duration.is_zero() {
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
        self.check(&Origins::default())
    }

    fn check(&self, origins: &Origins) -> Result<()> {
        let sections: [(&str, &dyn Checked); 4] = [
            ("provider", &self.provider),
            ("worker", &self.worker),
            ("maintenance", &self.maintenance),
            ("alerts", &self.alerts),
        ];
        for (path, section) in sections {
            section.broken().map_or(Ok(()), |errors| Err(broken(path, &errors, origins)))?;
        }
        for (name, queue) in &self.alerts.queues {
            let path = format!("alerts.queues.{name}");
            queue.broken().map_or(Ok(()), |errors| Err(broken(&path, &errors, origins)))?;
        }
        for (name, queue) in &self.queues {
            let path = format!("queues.{name}");
            queue.broken().map_or(Ok(()), |errors| Err(broken(&path, &errors, origins)))?;
            let spec = queue.spec(name.clone());
            spec.validate().map_err(|error| origins.error(&path, error.message()))?;
        }
        Ok(())
    }
}

/// [`Validate`] as an object.
trait Checked {
    fn broken(&self) -> Option<ValidationErrors>;
}

impl<T: Validate> Checked for T {
    fn broken(&self) -> Option<ValidationErrors> {
        self.validate().err()
    }
}

/// The first broken rule, as an error about its key.
fn broken(path: &str, errors: &ValidationErrors, origins: &Origins) -> Error {
    let mut sorted: Vec<_> = errors.errors().iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    for (field, kind) in sorted {
        let key = format!("{path}.{field}");
        match kind {
            ValidationErrorsKind::Struct(inner) => return broken(&key, inner, origins),
            ValidationErrorsKind::Field(rules) => {
                if let Some(rule) = rules.first() {
                    let wanted = rule.message.as_deref().unwrap_or(&rule.code);
                    return origins.error(&key, &format!("it must be {wanted}"));
                }
            }
            ValidationErrorsKind::List(_) => {}
        }
    }
    Error::new(ErrorCode::Config, format!("`{path}` breaks a rule: {errors}"))
}
