//! One request, and what its answer means.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tower::Service;

/// Posts to one address.
pub(super) struct Client {
    connector: HttpsConnector<HttpConnector>,
    address: Uri,
    path: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

/// What went wrong with one request.
#[derive(Debug)]
pub(super) struct Failure {
    /// For people. It holds nothing of the address and of the answer's body.
    pub(super) what: String,
    /// Whether the same request may succeed later.
    pub(super) again: bool,
    /// When, as the receiver says.
    pub(super) after: Option<Duration>,
}

/// The most that is read of an answer: its head.
const HEAD: usize = 16 << 10;

impl Failure {
    pub(super) fn again(what: String) -> Self {
        Self { what, again: true, after: None }
    }
}

impl Client {
    /// Does not connect yet. The error is for people.
    pub(super) fn new(address: &str, authorization: Option<HeaderValue>) -> Result<Self, String> {
        let unusable = "this address cannot be used";
        let address: Uri = address.parse().map_err(|_| unusable)?;
        let path = address.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(|_| unusable)?;
        let host = address.authority().map(|host| host.as_str()).unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|_| unusable)?;
        Ok(Self { connector: connector(address.scheme_str() == Some("https"))?, address, path, host, authorization })
    }

    pub(super) async fn post(&self, headers: &[(&'static str, String)], body: Bytes) -> Result<(), Failure> {
        // A method of the trait beside those of the same name.
        let connected = Service::call(&mut self.connector.clone(), self.address.clone()).await;
        let stream = connected.map_err(|error| Failure::again(chain("cannot connect", &*error)))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(stream)
            .await
            .map_err(|error| Failure::again(chain("no connection", &error)))?;
        let exchange = sender.send_request(self.request(headers, body)?);
        tokio::pin!(exchange);
        // The connection lives no longer than this: of the answer's body nothing is read.
        let answer = tokio::select! {
            biased;
            answer = &mut exchange => answer,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(error),
            },
        };
        let answer = answer.map_err(|error| Failure::again(chain("no answer", &error)))?;
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
        judge(answer.status(), after.map(Duration::from_secs))
    }

    fn request(&self, headers: &[(&'static str, String)], body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::post(self.path.clone())
            .header(HOST, self.host.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("queue/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let unusable =
            |error| Failure { what: format!("the request cannot be made: {error}"), again: false, after: None };
        request.body(Full::new(body)).map_err(unusable)
    }
}

/// Names the ring provider itself: with more than one in the tree there is no default.
fn connector(secure: bool) -> Result<HttpsConnector<HttpConnector>, String> {
    let unusable = |error: &dyn std::error::Error| format!("TLS cannot be set up: {error}");
    let builder = HttpsConnectorBuilder::new();
    let builder = if secure {
        builder.with_provider_and_native_roots(ring::default_provider()).map_err(|error| unusable(&error))?
    } else {
        // Never used: the machine need not have certificates.
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        builder.with_tls_config(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    };
    Ok(builder.https_or_http().enable_http1().build())
}

fn judge(status: StatusCode, after: Option<Duration>) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let again = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
    let mut what = format!("it answered {status}");
    if status.is_redirection() {
        what.push_str("; redirects are not followed");
    }
    Err(Failure { what, again, after })
}

/// An error with its causes: the libraries tell little in the first line.
fn chain(what: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let mut told = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push_str(&format!(": {error}"));
        cause = error.source();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_nothing_else() {
        let failure = |status: u16| judge(StatusCode::from_u16(status).unwrap(), None).err().map(|error| error.again);
        for good in [200, 202, 204] {
            assert_eq!(failure(good), None, "{good}");
        }
        for again in [408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(failure(again), Some(true), "{again}");
        }
        for never in [301, 302, 307, 308, 400, 401, 404, 410] {
            assert_eq!(failure(never), Some(false), "{never}");
        }
    }
}
