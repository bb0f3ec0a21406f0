//! Tracking stores by URL: what a bare transport's URL names as its `store=`.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{ProviderUrl, Registry};
use crate::{
    clock::Env,
    error::{Error, ErrorCode, Result},
    store::TrackingStore,
};

/// Opens tracking stores of one kind.
#[async_trait]
pub trait StoreFactory: fmt::Debug + Send + Sync + 'static {
    /// What can be said without opening one.
    fn about(&self) -> StoreInfo;

    /// Opens the store. Whether two calls with one URL give one store, two, or an error is the kind's to say; whoever has
    /// several providers share one opens it once.
    ///
    /// # Errors
    /// `CONFIG` for a part of the URL it does not know, by name; `STORE_IN_USE` where a store is opened by one only;
    /// `UNAVAILABLE`, `AUTHENTICATION`.
    async fn open(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn TrackingStore>>;
}

/// A kind of tracking store.
#[derive(Debug, Clone, Copy)]
pub struct StoreInfo {
    /// The URL schemes it answers to, the usual one first.
    pub schemes: &'static [&'static str],
    /// What it is, in one line.
    pub description: &'static str,
    /// A URL as it is written. As a value of `store=` it is percent-encoded.
    pub example: &'static str,
}

impl Registry {
    /// Adds a kind of store. Where another answers to one of its schemes already, the later one is asked.
    pub fn register_store(&mut self, factory: impl StoreFactory) -> &mut Self {
        self.stores.push(Arc::new(factory));
        self
    }

    /// What stores there are, in the order of registration.
    #[must_use]
    pub fn stores(&self) -> Vec<StoreInfo> {
        self.stores.iter().map(|factory| factory.about()).collect()
    }

    /// Opens the store that the URL names.
    ///
    /// # Errors
    /// `CONFIG` for a scheme that no kind answers to; else as [`StoreFactory::open`].
    pub async fn open_store(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn TrackingStore>> {
        self.find_store(url)?.open(url, env).await
    }

    pub(super) fn find_store(&self, url: &ProviderUrl) -> Result<&Arc<dyn StoreFactory>> {
        let scheme = url.scheme();
        let answers = |factory: &&Arc<dyn StoreFactory>| factory.about().schemes.contains(&scheme);
        self.stores.iter().rev().find(answers).ok_or_else(|| {
            let there: Vec<_> = self.stores().iter().flat_map(|info| info.schemes).copied().collect();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            let message = format!("no store answers to `{scheme}:`; compiled in: {there}");
            Error::new(ErrorCode::Config, message).at("open")
        })
    }
}

impl ProviderUrl {
    /// The URL of the tracking store that stands behind `store=` in the query, decoded. `None` where there is none.
    ///
    /// # Errors
    /// `CONFIG` where it is no URL, or given twice.
    pub fn store(&self) -> Result<Option<Self>> {
        let refuse = |message: &'static str| Error::new(ErrorCode::Config, message).at("connect");
        let mut found = self.query().filter(|(key, _)| *key == "store").map(|(_, value)| value);
        let Some(value) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(refuse("`store` is given twice: a provider has one store"));
        }
        let url = percent_encoding::percent_decode_str(value).decode_utf8();
        let url = url.map_err(|_| refuse("the value of `store` is not UTF-8 once it is decoded"))?;
        match Self::parse(&url) {
            Ok(url) => Ok(Some(url)),
            // It is not shown: it may hold credentials.
            Err(_) => {
                Err(refuse("`store` is no URL once it is decoded: percent-encode `memory:`, `journal:DIR` or the like"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(url: &str) -> Result<Option<ProviderUrl>> {
        ProviderUrl::parse(url).unwrap().store()
    }

    #[test]
    fn the_store_of_a_url_is_decoded_once() {
        assert!(store("amqp://h?x=1").unwrap().is_none());
        for (url, inner) in [
            ("amqp://h?store=memory:", "memory:"),
            ("amqp://h?a=b&store=journal:%2Fvar%2Fjobs", "journal:/var/jobs"),
            ("amqp://h?store=journal%3A%2Fmy%2520jobs", "journal:/my%20jobs"),
            ("amqp://h?store=redis%3A%2F%2F%3Ap%40w%40h%3Fdb%3D1%26x%3D2", "redis://:p@w@h?db=1&x=2"),
        ] {
            assert_eq!(store(url).unwrap().unwrap().expose(), inner, "{url}");
        }
    }

    #[test]
    fn a_store_that_is_no_url_is_refused_and_not_repeated() {
        for url in [
            "a:?store=",
            "a:?store=hunter2",
            "a:?store=%FF",
            "a:?store=memory:&store=hunter2:",
            "a:?store=x:%20hunter2",
        ] {
            let error = store(url).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_scheme_without_a_store_is_told_what_there_is() {
        let url = ProviderUrl::parse("redis://:hunter2@h").unwrap();
        let error = Registry::new().open_store(&url, &Env::system()).await.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (ErrorCode::Config, "no store answers to `redis:`; compiled in: none")
        );
    }
}
