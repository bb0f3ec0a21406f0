//! `memory:` as a URL.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, QueueProvider, Result,
    provider::{ProviderFactory, ProviderInfo, ProviderUrl, Registry},
};

use crate::MemoryProvider;

/// Adds the scheme `memory` to a program, and the tracking stores `memory:` and `journal:DIR`. Two connections to `memory:` are two providers, each with queues of its own;
/// `memory:?journal=DIR` keeps them in a folder, which one connection in one process has open at a time. `DIR` is
/// percent-encoded where it holds `%`, `&`, `#` or white space; a relative one begins at the working directory.
pub fn register(registry: &mut Registry) {
    registry.register(MemoryFactory);
    crate::tracking::register_stores(registry);
}

#[derive(Debug)]
struct MemoryFactory;

#[async_trait]
impl ProviderFactory for MemoryFactory {
    fn about(&self) -> ProviderInfo {
        ProviderInfo {
            name: "memory",
            schemes: &["memory"],
            description: "embedded, in this process; with `?journal=DIR` what it holds outlives it",
            example: "memory:",
            capabilities: MemoryProvider::new().capabilities(None),
        }
    }

    async fn connect(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
        if !matches!(url.body(), "" | "//") {
            let message = "a `memory:` URL names no host and no path: write `memory:`";
            return Err(Error::new(ErrorCode::Config, message).at("connect"));
        }
        url.allow_query(&["journal"])?;
        let mut dirs = url.query().filter(|(key, _)| *key == "journal").map(|(_, dir)| dir);
        match (dirs.next(), dirs.next()) {
            (None, _) => Ok(Arc::new(MemoryProvider::with_env(env.clone()))),
            (Some(dir), None) => open(dir, env.clone()).await,
            (Some(_), Some(_)) => Err(refuse("`journal` is given twice: a provider has one journal")),
        }
    }
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorCode::Config, message).at("connect")
}

/// Reading a journal takes its time: not on a thread that runs other tasks.
#[cfg(feature = "journal")]
async fn open(dir: &str, env: Env) -> Result<Arc<dyn QueueProvider>> {
    let dir = percent_encoding::percent_decode_str(dir).decode_utf8();
    let dir = dir.map_err(|_| refuse("the journal's folder is not UTF-8 once it is decoded"))?;
    if dir.is_empty() {
        return Err(refuse("`journal` names no folder: write `memory:?journal=DIR`"));
    }
    let journal = crate::JournalOptions::folder(&*dir);
    let opened = tokio::task::spawn_blocking(move || MemoryProvider::open(&journal, env)).await;
    let broken = |error| Error::new(ErrorCode::Internal, "opening the journal was cut short").caused_by(error);
    opened.map_err(broken)?.map(|provider| Arc::new(provider) as _).map_err(|error| error.at("connect"))
}

#[cfg(not(feature = "journal"))]
#[allow(clippy::unused_async, reason = "as where there is a journal")]
async fn open(_: &str, _: Env) -> Result<Arc<dyn QueueProvider>> {
    Err(refuse("this program was built without the journal: build it with the feature `journal`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::{QueueName, QueueSpec};

    async fn connect(url: &str) -> Result<Arc<dyn QueueProvider>> {
        let mut registry = Registry::new();
        register(&mut registry);
        registry.connect(&ProviderUrl::parse(url).unwrap(), &Env::system()).await
    }

    #[tokio::test]
    async fn two_connections_are_two_stores() {
        let (one, two) = (connect("memory:").await.unwrap(), connect("memory://").await.unwrap());
        let mail = QueueName::from_static("mail");
        one.declare(&QueueSpec::new(mail.clone())).await.unwrap();
        assert!(one.admin().stats(std::slice::from_ref(&mail)).await[0].is_ok());
        assert!(two.admin().stats(&[mail]).await[0].is_err());
    }

    #[tokio::test]
    async fn what_it_does_not_know_is_refused_by_name() {
        for (url, part) in [
            ("memory:?size=3", "`size`"),
            ("memory:?journal=a&journal=b", "twice"),
            #[cfg(feature = "journal")]
            ("memory:?journal=", "names no folder"),
            #[cfg(feature = "journal")]
            ("memory:?journal=%FF", "not UTF-8"),
            #[cfg(not(feature = "journal"))]
            ("memory:?journal=a", "feature `journal`"),
            ("memory://host", "no host"),
            ("memory:jobs", "no path"),
        ] {
            let error = connect(url).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config);
            assert!(error.message().contains(part), "{error}");
        }
    }
    #[cfg(feature = "journal")]
    #[tokio::test]
    async fn a_journal_keeps_queues_and_belongs_to_one() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("memory:?journal={}/a%20b", dir.path().display());
        let mail = QueueName::from_static("mail");
        let one = connect(&url).await.unwrap();
        one.declare(&QueueSpec::new(mail.clone())).await.unwrap();
        assert_eq!(connect(&url).await.unwrap_err().code(), ErrorCode::StoreInUse);
        one.close().await.unwrap();
        assert!(dir.path().join("a b").is_dir());
        let two = connect(&url).await.unwrap();
        assert!(two.admin().stats(&[mail]).await[0].is_ok());
        assert_eq!(two.capabilities(None).durability[0], "synced");
    }
}
