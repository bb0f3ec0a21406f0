//! TLS, to a server of this machine with a certificate of its own. The system's certificates are named by a variable of the
//! environment, which a test cannot set for itself: it runs itself again with it.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use queue_core::Env;
use queue_manager::{
    alerts::{AlertSink, Webhook},
    config::{AlertsConfig, WebhookUrl},
};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{event, server::read};

/// Made for these tests, with a key that is nobody else's and secret to nobody.
fn certificate(name: &str) -> String {
    format!("{}/tests/webhook/certificates/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn acceptor() -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(certificate("localhost.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate("localhost.key")).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into());
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()))
}

/// Runs [`post_to_what_the_environment_says`] in a process of its own, and says whether it arrived.
fn posts(port: u16, trusted: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tls::post_to_what_the_environment_says", "--ignored", "--nocapture"]);
    command.env("SSL_CERT_FILE", Path::new(&certificate(trusted))).env_remove("SSL_CERT_DIR");
    let output = command.env("WEBHOOK_URL", format!("https://localhost:{port}/")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("arrived") || said.contains("invalid peer certificate"), "{said}");
    said.contains("arrived")
}

#[tokio::test]
async fn only_a_certificate_of_the_systems_is_trusted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let server = tokio::spawn(async move {
        let acceptor = acceptor();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            if read(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::Relaxed);
                stream.write_all(b"HTTP/1.1 204 X\r\n\r\n").await.unwrap();
            }
        }
    });
    for (trusted, arrives) in [("localhost.pem", true), ("other.pem", false)] {
        let arrived = tokio::task::spawn_blocking(move || posts(port, trusted)).await.unwrap();
        assert_eq!(arrived, arrives, "{trusted}");
    }
    assert_eq!(received.load(Ordering::Relaxed), 1, "nothing is sent to whom is not trusted");
    server.abort();
}

#[tokio::test]
#[ignore = "another test runs it, in a process of its own"]
async fn post_to_what_the_environment_says() {
    let Ok(url) = std::env::var("WEBHOOK_URL") else { return };
    let mut config = AlertsConfig::default().webhook;
    config.url = Some(WebhookUrl::parse(url).unwrap());
    config.attempts = 1;
    let webhook = Webhook::new(&config, Env::system()).unwrap().unwrap();
    match webhook.send(&event(2)).await {
        Ok(()) => println!("arrived"),
        Err(error) => println!("{error}"),
    }
}
