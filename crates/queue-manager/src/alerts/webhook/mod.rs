//! Posts events to an address of HTTP.

mod post;
mod sign;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::HeaderValue;
use queue_core::{Env, Error, ErrorCode, Event, JobId, Result, RetryPolicy};

use super::{sink::AlertSink, wire::to_json};
use crate::config::{WebhookConfig, WebhookUrl};
use post::{Client, Failure};
use sign::Key;

/// Posts each event as JSON ([`to_json`](super::to_json)), one after the other.
///
/// A status of 2xx is success. 408, 429, 5xx, a connection that fails and an answer that does not come in time are tried again,
/// after the backoff or what `Retry-After` asks for (60 s at most); everything else is not: redirects are not followed. Of the
/// answer only the head is read, 16 KiB at most. Each request has a connection of its own, HTTP/1.1.
pub struct Webhook {
    shown: String,
    client: Client,
    key: Option<Key>,
    timeout: Duration,
    retry: RetryPolicy,
    env: Env,
}

/// The longest that a `Retry-After` is obeyed.
const PATIENCE: Duration = Duration::from_secs(60);

impl Webhook {
    /// A sink as the configuration says. `None` without an address.
    ///
    /// # Errors
    /// `CONFIG`, naming the key, and nothing of the secrets; also where the system's certificates cannot be read for an address
    /// of HTTPS.
    pub fn new(config: &WebhookConfig, env: Env) -> Result<Option<Self>> {
        let Some(url) = &config.url else { return Ok(None) };
        let wrong = |key: &str, what: &str| {
            Error::new(ErrorCode::Config, format!("`alerts.webhook.{key}`: {what}")).at("configure")
        };
        let authorization = match &config.authorization {
            Some(secret) => {
                Some(sensitive(secret.expose()).ok_or_else(|| wrong("authorization", "this is no header"))?)
            }
            None => None,
        };
        let key = match &config.secret {
            Some(secret) => {
                Some(Key::read(secret.expose()).ok_or_else(|| wrong("secret", "what follows `whsec_` is no base64"))?)
            }
            None => None,
        };
        let client = Client::new(url.expose(), authorization).map_err(|what| wrong("url", &what))?;
        let retry = RetryPolicy { max_attempts: config.attempts, backoff: config.backoff.clone(), jitter: 0.1 };
        Ok(Some(Self { shown: WebhookUrl::to_string(url), client, key, timeout: config.timeout, retry, env }))
    }

    /// Posts it until it arrived, or the attempts are spent.
    async fn deliver(&self, body: Bytes) -> Result<()> {
        // The same in every attempt, so that the receiver knows what it has.
        let id = format!("msg_{}", JobId::fresh(&self.env));
        let mut attempt = 1;
        loop {
            let answer = tokio::time::timeout(self.timeout, self.once(&id, body.clone())).await;
            let failure = match answer {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::again(format!("no answer within {:?}", self.timeout)),
            };
            if !failure.again || self.retry.is_spent(attempt) {
                let message = format!("the webhook at {} (attempt {attempt}): {}", self.shown, failure.what);
                return Err(Error::new(ErrorCode::ExternalService, message).at("alert"));
            }
            tracing::debug!(webhook = self.shown, attempt, failure = failure.what, "the webhook is tried again");
            let backoff = self.retry.delay_after(attempt, &*self.env.random);
            tokio::time::sleep(backoff.max(failure.after.unwrap_or_default().min(PATIENCE))).await;
            attempt += 1;
        }
    }

    async fn once(&self, id: &str, body: Bytes) -> Result<(), Failure> {
        let seconds = self.env.now().as_millis() / 1_000;
        let mut headers = vec![("webhook-id", id.to_owned()), ("webhook-timestamp", seconds.to_string())];
        if let Some(key) = &self.key {
            headers.push(("webhook-signature", key.sign(id, seconds, &body)));
        }
        self.client.post(&headers, body).await
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[async_trait]
impl AlertSink for Webhook {
    fn name(&self) -> &str {
        "webhook"
    }

    async fn send(&self, event: &Event) -> Result<()> {
        self.deliver(to_json(event).to_string().into()).await
    }

    async fn missed(&self, count: u64) -> Result<()> {
        let at = self.env.now();
        self.deliver(serde_json::json!({ "event": "events:missed", "at": at, "count": count }).to_string().into()).await
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("url", &self.shown).field("signs", &self.key.is_some()).finish_non_exhaustive()
    }
}
