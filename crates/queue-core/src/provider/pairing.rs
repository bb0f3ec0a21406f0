//! A bare transport and the store beside it: what a URL says of them, and how the store is.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{Capabilities, ProviderUrl, QueueProvider, Registry};
use crate::{
    clock::Env,
    error::{Error, ErrorCode, Result},
    job::Timestamp,
    store::TrackingStore,
};

/// What a bare transport says to whoever asks for what only a store can do.
pub const ADD_STORE: &str =
    "add store=… to its URL, such as `store=memory:` or, percent-encoded, `store=redis%3A%2F%2Fhost`";

/// The key of a URL's query that names the store.
pub(super) const STORE: &str = "store";
/// The key that says what the transport is called in the store.
pub(super) const STORE_NAME: &str = "store_name";

/// The store that a transport is paired with, as the layer between them sees it. See [`QueueProvider::paired`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairedStore {
    /// What the transport is called in it; see [`Scope`](crate::store::Scope).
    pub provider: Arc<str>,
    /// Where it is, without credentials. `None` where it was not opened by a URL.
    pub url: Option<Arc<str>>,
    /// Whether it does not answer.
    pub away: Option<StoreAway>,
    /// Settlements of this process that wait for it.
    pub waiting: usize,
}

/// A store that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreAway {
    /// When that was seen first.
    pub since: Timestamp,
    /// What it said, or that it says nothing.
    pub error: Arc<str>,
}

impl PairedStore {
    /// One that answers.
    pub fn new(provider: impl Into<Arc<str>>) -> Self {
        Self { provider: provider.into(), url: None, away: None, waiting: 0 }
    }
}

impl StoreAway {
    /// One that was seen to be away.
    pub fn new(since: Timestamp, error: impl Into<Arc<str>>) -> Self {
        Self { since, error: error.into() }
    }
}

/// Wraps a bare transport so that it has a store. A program has at most one.
pub trait Pairing: fmt::Debug + Send + Sync + 'static {
    /// What a transport that can do `bare` can do with a store.
    fn capabilities(&self, bare: &Capabilities) -> Capabilities;

    /// The transport with the store. Closing it closes the transport, and then its share of the store. `name` is what the
    /// transport is called in the store; `None`: by its scheme.
    fn pair(
        &self,
        transport: Arc<dyn QueueProvider>,
        store: StoreShare,
        name: Option<&str>,
        env: &Env,
    ) -> Arc<dyn QueueProvider>;
}

/// A share of an open store: the store is closed when the last of its shares is.
pub struct StoreShare {
    store: Arc<dyn TrackingStore>,
    url: Option<Arc<str>>,
    left: Arc<AtomicUsize>,
    closed: AtomicBool,
}

impl StoreShare {
    /// The first share.
    #[must_use]
    pub fn new(store: Arc<dyn TrackingStore>, url: Option<&ProviderUrl>) -> Self {
        let url = url.map(|url| url.to_string().into());
        Self { store, url, left: Arc::new(AtomicUsize::new(1)), closed: AtomicBool::new(false) }
    }

    /// One more.
    #[must_use]
    pub fn another(&self) -> Self {
        self.left.fetch_add(1, Ordering::AcqRel);
        Self {
            store: Arc::clone(&self.store),
            url: self.url.clone(),
            left: Arc::clone(&self.left),
            closed: AtomicBool::new(false),
        }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TrackingStore> {
        &self.store
    }

    /// Where it is, without credentials.
    #[must_use]
    pub fn url(&self) -> Option<&Arc<str>> {
        self.url.as_ref()
    }

    /// Gives the share up, once; with the last one the store is closed.
    ///
    /// # Errors
    /// As [`TrackingStore::close`].
    pub async fn close(&self) -> Result<()> {
        if self.give_up() { self.store.close().await } else { Ok(()) }
    }

    /// `true`: it was the last.
    fn give_up(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel) && self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Forgotten without a close it keeps no other from closing.
impl Drop for StoreShare {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl fmt::Debug for StoreShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreShare").field("store", &self.store).field("url", &self.url).finish_non_exhaustive()
    }
}

impl Registry {
    /// Names what pairs transports with stores.
    pub fn pair_by(&mut self, pairing: impl Pairing) -> &mut Self {
        self.pairing = Some(Arc::new(pairing));
        self
    }

    /// What the provider of the URL can do at its best, with its store if it has one.
    ///
    /// # Errors
    /// As [`Registry::connect`], as far as it is known without connecting.
    pub fn capabilities(&self, url: &ProviderUrl) -> Result<Capabilities> {
        let bare = self.find(url)?.about().capabilities;
        match url.store()? {
            Some(_) => Ok(self.pairing_for(url)?.capabilities(&bare)),
            None => Ok(bare),
        }
    }

    /// What a transport that can do `bare` can do with a store. `None` where it keeps records of its own, or where nothing in
    /// this program pairs.
    #[must_use]
    pub fn paired(&self, bare: &Capabilities) -> Option<Capabilities> {
        Some(self.pairing.as_ref().filter(|_| bare.is_bare())?.capabilities(bare))
    }

    /// Connects to what the URL names. A store in its `store=` is opened for it alone.
    ///
    /// # Errors
    /// `CONFIG` for a scheme that is unknown, or known and not compiled in, and for a `store=` that the provider has no need
    /// of; else as [`ProviderFactory::connect`](super::ProviderFactory::connect) and
    /// [`StoreFactory::open`](super::StoreFactory::open).
    pub async fn connect(&self, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
        let share = match self.store_of(url)? {
            Some(store) => Some(StoreShare::new(self.open_store(&store, env).await?, Some(&store))),
            None => None,
        };
        self.connect_with(url, share, env).await
    }

    /// The store that the provider of the URL is to be paired with, checked as far as can be without opening it.
    ///
    /// # Errors
    /// As [`Registry::connect`].
    pub fn store_of(&self, url: &ProviderUrl) -> Result<Option<ProviderUrl>> {
        self.find(url)?;
        let named = url.query().any(|(key, _)| key == STORE_NAME);
        let Some(store) = url.store()? else {
            return match named {
                true => Err(refuse("`store_name` says what a provider is called in its store: give a `store=` too")),
                false => Ok(None),
            };
        };
        self.pairing_for(url)?;
        url.store_name()?;
        self.find_store(&store)?;
        Ok(Some(store))
    }

    /// The same with a store that is open already, such as one that several providers share: of the one that the URL names.
    /// The share is closed with the provider, and where this fails.
    ///
    /// # Errors
    /// As [`Registry::connect`].
    pub async fn connect_with(
        &self,
        url: &ProviderUrl,
        share: Option<StoreShare>,
        env: &Env,
    ) -> Result<Arc<dyn QueueProvider>> {
        let Some(share) = share else { return self.find(url)?.connect(url, env).await };
        let transport = async {
            let pairing = self.pairing_for(url)?;
            let name = url.store_name()?;
            // What is the layer's is not the transport's business.
            let transport = self.find(url)?.connect(&url.without(&[STORE, STORE_NAME]), env).await?;
            Ok((pairing, name, transport))
        };
        match transport.await {
            Ok((pairing, name, transport)) if transport.job_store().is_none() => {
                Ok(pairing.pair(transport, share, name.as_deref(), env))
            }
            Ok((_, _, transport)) => {
                // What is wrong matters more than how the closing went.
                let _ = (transport.close().await, share.close().await);
                Err(needless(url))
            }
            Err(error) => {
                let _ = share.close().await;
                Err(error)
            }
        }
    }

    fn pairing_for(&self, url: &ProviderUrl) -> Result<&Arc<dyn Pairing>> {
        if !self.find(url)?.about().capabilities.is_bare() {
            return Err(needless(url));
        }
        self.pairing.as_ref().ok_or_else(|| {
            refuse("`store` pairs a provider with a store, and nothing in this program does: register `queue_layers`")
        })
    }
}

impl ProviderUrl {
    /// What the provider is called in its store, behind `store_name=`.
    fn store_name(&self) -> Result<Option<String>> {
        let mut found = self.query().filter(|(key, _)| *key == STORE_NAME).map(|(_, value)| value);
        let Some(value) = found.next() else { return Ok(None) };
        let name = percent_encoding::percent_decode_str(value).decode_utf8();
        match name {
            Ok(name) if found.next().is_none() && !name.is_empty() && name.len() <= 64 => Ok(Some(name.into_owned())),
            _ => Err(refuse("`store_name` is one name of 1 to 64 bytes of UTF-8, percent-encoded")),
        }
    }
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorCode::Config, message).at("connect")
}

fn needless(url: &ProviderUrl) -> Error {
    let scheme = url.scheme();
    let message = format!("`{scheme}:` keeps the records of its jobs itself: leave `store=` out of its URL");
    Error::new(ErrorCode::Config, message).at("connect")
}
