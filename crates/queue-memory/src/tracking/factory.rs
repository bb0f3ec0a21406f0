//! `memory:` and `journal:DIR` as the value of `store=`.

use std::sync::Arc;

use async_trait::async_trait;
use queue_core::{
    Env, Error, ErrorCode, Result,
    provider::{ProviderUrl, Registry, StoreFactory, StoreInfo},
    store::TrackingStore,
};

use super::MemoryTracking;

/// Adds the stores `memory:` and, with the feature `journal`, `journal:DIR` to a program.
pub(crate) fn register(registry: &mut Registry) {
    registry.register_store(InMemory);
    #[cfg(feature = "journal")]
    registry.register_store(InFolder);
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorCode::Config, message).at("open")
}

#[derive(Debug)]
struct InMemory;

#[async_trait]
impl StoreFactory for InMemory {
    fn about(&self) -> StoreInfo {
        StoreInfo {
            schemes: &["memory"],
            description: "in this process, and gone with it; each is a store of its own",
            example: "memory:",
        }
    }

    async fn open(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn TrackingStore>> {
        if !matches!(url.body(), "" | "//") {
            return Err(refuse("a `memory:` store names no host and no path: write `memory:`"));
        }
        url.allow_query(&[])?;
        Ok(Arc::new(MemoryTracking::with_env(env.clone())))
    }
}

#[cfg(feature = "journal")]
#[derive(Debug)]
struct InFolder;

#[cfg(feature = "journal")]
#[async_trait]
impl StoreFactory for InFolder {
    fn about(&self) -> StoreInfo {
        StoreInfo {
            schemes: &["journal"],
            description: "in a folder that one process has open, once, at a time",
            example: "journal:/var/lib/jobs",
        }
    }

    /// Reading a journal takes its time: not on a thread that runs other tasks.
    async fn open(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn TrackingStore>> {
        url.allow_query(&[])?;
        let dir = percent_encoding::percent_decode_str(url.body()).decode_utf8();
        let dir = dir.map_err(|_| refuse("the store's folder is not UTF-8 once it is decoded"))?;
        if dir.is_empty() {
            return Err(refuse("a `journal:` store names a folder: write `journal:DIR`"));
        }
        let (journal, env) = (crate::JournalOptions::folder(&*dir), env.clone());
        let open = move || MemoryTracking::open(&journal, env, super::TrackingLimits::default());
        let broken = |error| Error::new(ErrorCode::Internal, "opening the store was cut short").caused_by(error);
        tokio::task::spawn_blocking(open).await.map_err(broken)?.map(|store| Arc::new(store) as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(url: &str) -> Result<Arc<dyn TrackingStore>> {
        let mut registry = Registry::new();
        crate::register(&mut registry);
        registry.open_store(&ProviderUrl::parse(url)?, &Env::system()).await
    }

    #[tokio::test]
    async fn each_in_memory_is_a_store_of_its_own() {
        let (one, two) = (open("memory:").await.unwrap(), open("memory://").await.unwrap());
        assert_ne!(one.id(), two.id());
        for url in ["memory:jobs", "memory:?x=1"] {
            assert_eq!(open(url).await.unwrap_err().code(), ErrorCode::Config, "{url}");
        }
    }

    #[cfg(feature = "journal")]
    #[tokio::test]
    async fn a_folder_is_one_store_for_whoever_opens_it_next() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("journal:{}/my%20jobs", dir.path().display());
        let first = open(&url).await.unwrap();
        let id = first.id();
        assert_eq!(open(&url).await.unwrap_err().code(), ErrorCode::StoreInUse);
        drop(first);
        assert_eq!(open(&url).await.unwrap().id(), id);
        assert!(dir.path().join("my jobs").is_dir());
        for url in ["journal:", "journal:x?y=1", "journal:%FF"] {
            assert_eq!(open(url).await.unwrap_err().code(), ErrorCode::Config, "{url}");
        }
    }

    /// A provider and a store of one process that are given the same folder.
    #[cfg(feature = "journal")]
    #[tokio::test]
    async fn a_folder_is_a_providers_or_a_stores() {
        let mut registry = Registry::new();
        crate::register(&mut registry);
        let env = Env::system();
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("jobs"), dir.path().join("link"));
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        let provider = ProviderUrl::parse(format!("memory:?journal={}", folder.display())).unwrap();
        let store = format!("journal:{}", folder.display());
        let linked = format!("journal:{}", link.display());

        let first = registry.connect(&provider, &env).await.unwrap();
        for url in [&store, &linked] {
            let error = open(url).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::StoreInUse, "{url}: {error}");
            assert!(error.message().contains(url.trim_start_matches("journal:")), "{error}");
        }
        first.declare(&queue_core::QueueSpec::new(queue_core::QueueName::from_static("q"))).await.unwrap();
        first.close().await.unwrap();
        // Free, and full of what a store cannot read: that is left as it is.
        assert_eq!(open(&store).await.unwrap_err().code(), ErrorCode::Config);
        registry.connect(&provider, &env).await.unwrap().close().await.unwrap();

        std::fs::remove_dir_all(&folder).unwrap();
        let second = open(&store).await.unwrap();
        assert_eq!(registry.connect(&provider, &env).await.unwrap_err().code(), ErrorCode::StoreInUse);
        drop(second);
        assert_eq!(registry.connect(&provider, &env).await.unwrap_err().code(), ErrorCode::Config);
        open(&store).await.unwrap();
    }
}
