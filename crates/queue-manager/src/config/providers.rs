//! Providers and which queues go to them, as a file says.

use std::time::Duration;

use queue_core::{Error, Result, provider::ProviderUrl};

use super::{Config, Origins, Pattern, ProviderName, positive, section::section};

section! {
    /// The provider `default`: where it is, and how all are watched.
    ProviderConfig {
        /// Where the jobs are: `memory:`, `redis://`, `amqp://`, `kafka://`, `sqs://`. For the last three a store may stand behind
        /// `?store=`, percent-encoded: `memory:`, `journal:DIR`, `redis://host`. Shown without credentials everywhere.
        url: ProviderUrl = memory(),
        /// How long a health check waits for a provider's answer.
        #[validate(custom(function = "positive"))]
        ping_timeout: Duration = Duration::from_secs(5),
        /// How often a watch on the health looks.
        #[validate(custom(function = "positive"))]
        health_interval: Duration = Duration::from_secs(10),
    }
}

section! {
    /// One more provider. `NAME` is what routes call it: lower-case letters, digits, `-` and `_`. `default` is the one of the
    /// section `[provider]`. Two that have the same URL are two connections; two `memory:` are two stores. Behind `store=` it is
    /// the other way round: providers that name the same store share it, and each has a name of its own in it (`store_name=`, which is
    /// the scheme where it is left out).
    NamedProviderConfig {
        /// Where it is.
        url: Option<ProviderUrl> = None,
    }
}

section! {
    /// What becomes of a queue that no route matches.
    RoutingConfig {
        /// The provider that gets it. With `none` it is refused as `UNROUTABLE`.
        default: Option<ProviderName> = Some(ProviderName::default()),
    }
}

section! {
    /// Which jobs go to which provider. A route matches a job whose queue and whose kind match; the first that does, by
    /// `order` and then by `NAME`, says where the job goes.
    RouteConfig {
        /// The provider.
        provider: ProviderName = ProviderName::default(),
        /// Which queues; `none` for all.
        queue: Option<Pattern> = None,
        /// Which kinds of jobs; `none` for all.
        kind: Option<Pattern> = None,
        /// Lower ones are looked at first.
        order: u32 = 100,
    }
}

impl RouteConfig {
    /// A route to this provider. It matches nothing until it is told a queue or a kind.
    ///
    /// # Errors
    /// `CONFIG` for what is no name of a provider.
    pub fn to(provider: impl AsRef<str>) -> Result<Self> {
        Ok(Self { provider: ProviderName::new(provider)?, ..Self::default() })
    }

    /// Of queues that match.
    ///
    /// # Errors
    /// `VALIDATION` for what is no pattern.
    pub fn queue(mut self, pattern: impl AsRef<str>) -> Result<Self> {
        self.queue = Some(Pattern::new(pattern)?);
        Ok(self)
    }

    /// Of kinds that match.
    ///
    /// # Errors
    /// `VALIDATION` for what is no pattern.
    pub fn kind(mut self, pattern: impl AsRef<str>) -> Result<Self> {
        self.kind = Some(Pattern::new(pattern)?);
        Ok(self)
    }

    /// Lower ones are looked at first; 100 where nothing is said.
    #[must_use]
    pub fn order(mut self, order: u32) -> Self {
        self.order = order;
        self
    }
}

/// What is wrong among the sections, where each is good by itself. Whether a provider that is named exists is known only when
/// the program has brought its own.
pub(super) fn check(config: &Config, origins: &Origins) -> Result<()> {
    if config.providers.contains_key(ProviderName::DEFAULT) {
        return Err(origins.error("providers.default", "the provider `default` is the one of the section [provider]"));
    }
    for (name, route) in &config.routes {
        if route.queue.is_none() && route.kind.is_none() {
            let message = "a route says which queue or kind it is for; what is left over goes to `routing.default`";
            return Err(origins.error(&format!("routes.{name}"), message));
        }
    }
    if config.routing.default.is_none() && config.routes.is_empty() {
        return Err(origins.error("routing.default", "with `none` and without routes no queue has a provider"));
    }
    Ok(())
}

/// Whether each provider that is named is there: configured, or brought by the program.
pub(crate) fn check_references(config: &Config, brought: &[ProviderName], origins: &Origins) -> Result<()> {
    for (name, provider) in &config.providers {
        if provider.url.is_none() && !brought.contains(name) {
            return Err(origins.error(&format!("providers.{name}.url"), "it must be given"));
        }
    }
    let mut known: Vec<&str> = vec![ProviderName::DEFAULT];
    known.extend(config.providers.keys().chain(brought).map(ProviderName::as_str));
    known.sort_unstable();
    known.dedup();
    let refuse = |key: &str, name: &ProviderName| {
        let message = format!("there is no provider `{name}`; there are: {}", known.join(", "));
        Err(origins.error(key, &message))
    };
    if let Some(default) = config.routing.default.as_ref().filter(|name| !known.contains(&name.as_str())) {
        return refuse("routing.default", default);
    }
    for (name, route) in &config.routes {
        if !known.contains(&route.provider.as_str()) {
            return refuse(&format!("routes.{name}.provider"), &route.provider);
        }
    }
    Ok(())
}

/// An error of connecting to a provider that has a name, with the key that says where it is.
pub(crate) fn at_key(name: &ProviderName, error: Error) -> Error {
    if name.as_str() == ProviderName::DEFAULT {
        return error;
    }
    let message = format!("`providers.{name}.url`: {}", error.message());
    Error::new(error.code(), message).at("connect").caused_by(error)
}

#[allow(clippy::expect_used, reason = "a literal of the program, not input")]
fn memory() -> ProviderUrl {
    ProviderUrl::parse("memory:").expect("a URL")
}
