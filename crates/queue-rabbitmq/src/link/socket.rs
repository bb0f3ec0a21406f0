//! The socket under a connection: plain or encrypted, and cut off at will.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use queue_core::{Error, ErrorCode, Result};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Broker, Tls};

/// What lapin reads and writes.
pub(super) struct Socket {
    stream: Stream,
    cord: Cord,
}

enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

/// Cuts a socket off, as a fallen cable would: what waits on it is told at once, the broker learns nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Cord(Arc<CordState>);

#[derive(Debug, Default)]
struct CordState {
    cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Cord {
    pub(super) fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
        self.0.reader.wake();
        self.0.writer.wake();
    }

    fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::SeqCst)
    }
}

/// The rules of encryption, made once.
#[derive(Clone)]
pub(super) struct Encryption(Arc<ClientConfig>);

impl std::fmt::Debug for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encryption")
    }
}

impl Encryption {
    /// The provider of cryptography is named, not the process's default, which another part of a program may have set.
    pub(super) fn new(tls: &Tls) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = versions.map_err(|error| refuse("TLS cannot be set up").caused_by(error))?;
        let builder = builder.with_root_certificates(roots(tls)?);
        let config = match &tls.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate, "`cert` holds no certificate in PEM")?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|error| refuse("`key` holds no private key in PEM").caused_by(error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| refuse("`cert` and `key` do not go together").caused_by(error))?
            }
        };
        Ok(Self(Arc::new(config)))
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = match &tls.roots {
        Some(pem) => certificates(pem, "`ca` holds no certificate in PEM")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        return Err(refuse("there are no roots to trust: name a file with `ca`"));
    }
    Ok(roots)
}

fn certificates(pem: &[u8], missing: &'static str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(refuse(missing)),
    }
}

fn refuse(message: &'static str) -> Error {
    Error::new(ErrorCode::Config, message).at("connect").by(crate::SCHEME)
}

impl Socket {
    /// Connects, in the time that the caller sets.
    pub(super) async fn connect(broker: &Broker, encryption: Option<&Encryption>, cord: Cord) -> io::Result<Self> {
        let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
        stream.set_nodelay(true)?;
        let stream = match encryption {
            None => Stream::Plain(stream),
            Some(Encryption(config)) => {
                let name = ServerName::try_from(broker.host.clone()).map_err(io::Error::other)?;
                let connector = TlsConnector::from(config.clone());
                Stream::Secure(Box::new(connector.connect(name, stream).await?))
            }
        };
        Ok(Self { stream, cord })
    }

    /// Remembers who is to be woken by the cut before it looks, so that a cut between the two is not missed.
    fn check(waker: &AtomicWaker, cord: &Cord, context: &Context<'_>) -> io::Result<()> {
        waker.register(context.waker());
        if cord.is_cut() { Err(io::Error::from(io::ErrorKind::ConnectionAborted)) } else { Ok(()) }
    }

    fn writer(&mut self, context: &Context<'_>) -> io::Result<Pin<&mut (dyn AsyncWrite + Send + Unpin)>> {
        Self::check(&self.cord.0.writer, &self.cord, context)?;
        Ok(match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Secure(stream) => Pin::new(&mut **stream),
        })
    }
}

impl futures_io::AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        Self::check(&this.cord.0.reader, &this.cord, context)?;
        let mut buffer = ReadBuf::new(out);
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Stream::Secure(stream) => Pin::new(&mut **stream).poll_read(context, &mut buffer),
        };
        polled.map_ok(|()| buffer.filled().len())
    }
}

impl futures_io::AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.writer(context)?.poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writer(context)?.poll_write_vectored(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer(context)?.poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer(context)?.poll_shutdown(context)
    }
}
