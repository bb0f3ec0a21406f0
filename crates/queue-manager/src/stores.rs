//! The stores that bare providers are paired with. Providers that name the same one share it: a store in memory, or in a folder,
//! is then one for all of them, and so is the connection to any other.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use queue_core::{
    Env, Error, ErrorCode, Result,
    provider::{ProviderUrl, Registry, StoreShare},
};

use crate::{
    config::{ProviderName, at_key},
    routes::{Member, Routes},
};

/// Open stores, by URL as it was written.
#[derive(Debug)]
pub(crate) struct Stores(BTreeMap<Arc<str>, StoreShare>);

impl Stores {
    /// Opens every store that these providers name, once; none where one cannot be opened.
    pub(crate) async fn open(
        registry: &Registry,
        providers: &[(ProviderName, ProviderUrl)],
        env: &Env,
    ) -> Result<Self> {
        let mut wanted: BTreeMap<Arc<str>, (&ProviderName, ProviderUrl)> = BTreeMap::new();
        for (name, url) in providers {
            if let Some(store) = registry.store_of(url).map_err(|error| at_key(name, error))? {
                wanted.entry(store.expose().into()).or_insert((name, store));
            }
        }
        let opened = wanted.into_iter().map(|(text, (name, url))| async move {
            let store = registry.open_store(&url, env).await.map_err(|error| at_key(name, error))?;
            Ok((text, StoreShare::new(store, Some(&url))))
        });
        let (mut open, mut failed) = (Self(BTreeMap::new()), None);
        for opened in join_all(opened).await {
            match opened {
                Ok((text, share)) => drop(open.0.insert(text, share)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let Some(error) = failed else { return Ok(open) };
        open.close().await;
        Err(error)
    }

    /// A share of the one that was opened for the URL.
    pub(crate) fn share(&self, store: &ProviderUrl) -> Result<StoreShare> {
        let unopened = || Error::new(ErrorCode::Internal, "a store was not opened").at("connect");
        self.0.get(store.expose()).map(StoreShare::another).ok_or_else(unopened)
    }

    /// Lets go of them: whoever has a share keeps the store.
    pub(crate) async fn close(self) {
        for closed in join_all(self.0.values().map(StoreShare::close)).await {
            if let Err(error) = closed {
                tracing::warn!(%error, "a store that nobody uses could not be closed");
            }
        }
    }
}

/// In one store each broker has a name of its own: by it the sweep finds what it has to publish there.
pub(crate) fn check_names_in_stores(routes: &Routes) -> Result<()> {
    let mut known: BTreeMap<_, &Member> = BTreeMap::new();
    for member in routes.distinct() {
        let provider = member.scheduler.provider();
        let (Some(store), Some(paired)) = (provider.job_store(), provider.paired()) else { continue };
        if let Some(other) = known.insert((store.id().0, Arc::clone(&paired.provider)), member) {
            let message = format!(
                "the providers `{}` and `{}` share a store, and both are called `{}` in it: give one of them another name \
                 behind `store_name=` in its URL",
                other.name, member.name, paired.provider
            );
            return Err(Error::new(ErrorCode::Config, message).at("connect"));
        }
    }
    Ok(())
}
