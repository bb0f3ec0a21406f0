//! Putting a manager together.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use queue_core::{
    Env, JobScheduler, QueueProvider, QueueSpec, Result,
    provider::{ProviderUrl, Registry},
};

use crate::{
    QueueManager,
    config::{Config, Sources},
    route::{Member, Routes},
};

type Change = Box<dyn FnOnce(&mut Config) -> Result<()> + Send>;

/// A manager before it connects: where its configuration comes from, and what the program itself says.
#[must_use = "a manager is built by `connect`"]
pub struct ManagerBuilder {
    sources: Sources,
    registry: Registry,
    env: Env,
    provider: Option<Arc<dyn QueueProvider>>,
    changes: Vec<Change>,
    specs: Vec<QueueSpec>,
}

impl ManagerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            sources: Sources::new(),
            registry: crate::registry(),
            env: Env::system(),
            provider: None,
            changes: Vec::new(),
            specs: Vec::new(),
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

    /// The provider's URL. It wins over file and environment.
    pub fn url(self, url: impl AsRef<str>) -> Self {
        let url = ProviderUrl::parse(url);
        self.change(move |config| {
            config.provider.url = url?;
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

    /// These providers instead of those compiled in; begin with [`crate::registry`] to add one.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// A provider that is connected already, whatever URL is configured. The manager owns it from here: it closes it, also
    /// where a queue cannot be declared.
    pub fn provider(mut self, provider: Arc<dyn QueueProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// A clock and randomness of the caller's.
    pub fn env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// Reads the configuration, connects, and declares the queues.
    ///
    /// # Errors
    /// `CONFIG`, naming the key and where it came from; `CONFLICT` where a queue exists with other properties; else as
    /// [`Registry::connect`].
    pub async fn connect(self) -> Result<QueueManager> {
        let Self { sources, registry, env, provider, changes, specs } = self;
        let mut config = sources.load()?;
        for change in changes {
            change(&mut config)?;
        }
        config.validate()?;
        let (provider, url) = match provider {
            Some(provider) => (provider, None),
            None => {
                let url = config.provider.url.clone();
                (registry.connect(&url, &env).await?, Some(url))
            }
        };
        let scheduler = JobScheduler::with_env(provider, env);
        let declared = config.queues.iter().filter(|(name, _)| specs.iter().all(|spec| spec.name != **name));
        let mut all: Vec<_> = declared.map(|(name, queue)| queue.spec(name.clone())).collect();
        all.extend(specs);
        for spec in all {
            if let Err(error) = scheduler.declare(spec).await {
                // What the declaration says matters more than how the closing went.
                let _ = scheduler.close().await;
                return Err(error);
            }
        }
        let manager = QueueManager::new(config, Routes::new(Member { scheduler, url }));
        if manager.config().alerts.enabled
            && let Err(error) = manager.alerts().start().await
        {
            let _ = manager.close().await;
            return Err(error);
        }
        Ok(manager)
    }
}

impl std::fmt::Debug for ManagerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The variables may hold credentials.
        f.debug_struct("ManagerBuilder").field("registry", &self.registry).finish_non_exhaustive()
    }
}
