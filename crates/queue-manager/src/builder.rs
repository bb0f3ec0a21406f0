//! Putting a manager together.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use futures_util::future::join_all;
use queue_core::{
    Env, QueueProvider, QueueSpec, Result,
    limit::LimitRule,
    provider::{ProviderUrl, Registry},
};

use crate::{
    QueueManager,
    config::{Config, NamedProviderConfig, ProviderName, RouteConfig, Sources, check_references},
    connect::{self, Setup},
};

type Change = Box<dyn FnOnce(&mut Config) -> Result<()> + Send>;

/// A manager before it connects: where its configuration comes from, and what the program itself says.
#[must_use = "a manager is built by `connect`"]
pub struct ManagerBuilder {
    sources: Sources,
    registry: Registry,
    env: Env,
    brought: Vec<(Result<ProviderName>, Arc<dyn QueueProvider>)>,
    changes: Vec<Change>,
    specs: Vec<QueueSpec>,
    limits: Vec<LimitRule>,
}

impl ManagerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            sources: Sources::new(),
            registry: crate::registry(),
            env: Env::system(),
            brought: Vec::new(),
            changes: Vec::new(),
            specs: Vec::new(),
            limits: Vec::new(),
        }
    }

    /// Reads a TOML file.
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources = self.sources.file(path);
        self
    }

    /// Reads the process's environment, which wins over the file.
    pub fn environment(mut self) -> Self {
        self.sources = self.sources.environment();
        self
    }

    /// Reads these variables as if they were the environment.
    pub fn variables<N: Into<String>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.sources = self.sources.variables(variables);
        self
    }

    /// The default provider's URL. It wins over file and environment.
    pub fn url(self, url: impl AsRef<str>) -> Self {
        self.provider_url(ProviderName::DEFAULT, url)
    }

    /// Another provider's URL, under a name for routes to call it by. It wins over file and environment. The same URL under two
    /// names is two connections; two `memory:` are two stores.
    pub fn provider_url(self, name: impl AsRef<str>, url: impl AsRef<str>) -> Self {
        let (name, url) = (ProviderName::new(name), ProviderUrl::parse(url));
        self.change(move |config| {
            let (name, url) = (name?, url?);
            if name.as_str() == ProviderName::DEFAULT {
                config.provider.url = url;
            } else {
                config.providers.insert(name, NamedProviderConfig { url: Some(url) });
            }
            Ok(())
        })
    }

    /// Where jobs go: in the place of the route of this name in file and environment.
    ///
    /// ```
    /// # use queue_manager::{QueueManager, config::RouteConfig};
    /// # fn main() -> queue_core::Result<()> {
    /// let builder = QueueManager::builder()
    ///     .provider_url("bulk", "memory:")
    ///     .route("reports", RouteConfig::to("bulk")?.queue("reports.*")?)
    ///     .route("audit", RouteConfig::to("bulk")?.kind("audit.*")?.order(1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn route(self, name: impl Into<Arc<str>>, route: RouteConfig) -> Self {
        let name = name.into();
        self.configure(move |config| drop(config.routes.insert(name, route)))
    }

    /// What becomes of a queue that no route matches: it goes to this provider, or with `none` it is refused as `UNROUTABLE`.
    pub fn default_provider(self, name: impl AsRef<str>) -> Self {
        let name = match name.as_ref() {
            "none" => Ok(None),
            name => ProviderName::new(name).map(Some),
        };
        self.change(move |config| {
            config.routing.default = name?;
            Ok(())
        })
    }

    /// Changes the configuration after it was read, and so wins over file and environment.
    pub fn configure(self, change: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.change(move |config| {
            change(config);
            Ok(())
        })
    }

    fn change(mut self, change: impl FnOnce(&mut Config) -> Result<()> + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Declares a queue on connecting, in the place of one of this name in the configuration.
    pub fn queue(mut self, spec: QueueSpec) -> Self {
        self.specs.push(spec);
        self
    }

    /// Adds a limit on every provider, in the place of one of the same scope and sort in the configuration.
    pub fn limit(mut self, rule: LimitRule) -> Self {
        self.limits.push(rule);
        self
    }

    /// These providers instead of those compiled in; begin with [`crate::registry`] to add one.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// A default provider that is connected already, whatever URL is configured. The manager owns it from here: it closes it,
    /// also where connecting fails.
    pub fn provider(self, provider: Arc<dyn QueueProvider>) -> Self {
        self.provider_named(ProviderName::DEFAULT, provider)
    }

    /// Another provider that is connected already, whatever URL is configured under that name. The manager owns it from here: it
    /// closes it, also where connecting fails.
    pub fn provider_named(mut self, name: impl AsRef<str>, provider: Arc<dyn QueueProvider>) -> Self {
        self.brought.push((ProviderName::new(name), provider));
        self
    }

    /// A clock and randomness of the caller's.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// Reads the configuration, connects to every provider, and declares the queues. All or nothing: where one fails, those that
    /// were connected are closed.
    ///
    /// # Errors
    /// `CONFIG`, naming the key and where it came from; `UNROUTABLE` for a queue that no route matches; `CONFLICT` where a queue
    /// exists with other properties; else as [`Registry::connect`].
    pub async fn connect(self) -> Result<QueueManager> {
        let Self { sources, registry, env, brought, changes, specs, limits } = self;
        let brought_handles: Vec<_> = brought.iter().map(|(_, provider)| Arc::clone(provider)).collect();
        let prepared = prepare(&sources, changes, brought, specs, limits);
        let (config, brought, setup) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                // What is wrong matters more than how the closing went.
                let _ = join_all(brought_handles.iter().map(|provider| provider.close())).await;
                return Err(error);
            }
        };
        let routes = connect::connect(&config, brought, &registry, &env, setup).await?;
        let manager = QueueManager::new(config, routes);
        if manager.config().alerts.enabled
            && let Err(error) = manager.alerts().start().await
        {
            let _ = manager.close().await;
            return Err(error);
        }
        Ok(manager)
    }
}

/// All that can be wrong before anything is connected.
fn prepare(
    sources: &Sources,
    changes: Vec<Change>,
    brought: Vec<(Result<ProviderName>, Arc<dyn QueueProvider>)>,
    specs: Vec<QueueSpec>,
    limits: Vec<LimitRule>,
) -> Result<(Config, Vec<connect::Brought>, Setup)> {
    let (mut config, origins) = sources.read()?;
    for change in changes {
        change(&mut config)?;
    }
    config.validate()?;
    let brought: Vec<connect::Brought> =
        brought.into_iter().map(|(name, provider)| Ok((name?, provider))).collect::<Result<_>>()?;
    connect::check_names(&brought)?;
    let names: Vec<ProviderName> = brought.iter().map(|(name, _)| name.clone()).collect();
    check_references(&config, &names, &origins)?;
    let declared = config.queues.iter().filter(|(name, _)| specs.iter().all(|spec| spec.name != **name));
    let mut all: Vec<_> = declared.map(|(name, queue)| queue.spec(name.clone())).collect();
    all.extend(specs);
    let limits = config.limit_rules()?.into_iter().chain(limits).collect();
    Ok((config, brought, Setup { specs: all, limits }))
}

impl std::fmt::Debug for ManagerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The variables may hold credentials.
        f.debug_struct("ManagerBuilder").field("registry", &self.registry).finish_non_exhaustive()
    }
}
