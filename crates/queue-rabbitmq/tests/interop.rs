#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
//! Plain clients of AMQP beside the provider: what each makes of the other's messages.

mod broker;

use broker::{Plain, connect, job, queue};
use lapin::types::{AMQPValue, ShortString};
use queue_core::{
    QueueProvider as _,
    job::{ContentType, Headers, RawHeaders},
    provider::PublishOptions,
};

/// What a plain client finds: the payload as it is, and the job in AMQP's own properties.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_reads_a_job() {
    let Some(provider) = connect("read").await else { return };
    let (queue, plain) = (queue("read"), Plain::open().await);
    let job = job("a,b\n").edit(|parts| {
        parts.content_type = ContentType::parse("text/csv").unwrap();
        let headers = Headers { correlation_id: Some("order-7".into()), ..Headers::default() };
        parts.headers = RawHeaders::encode(&headers).unwrap();
    });
    let outcomes = provider.publish(&queue, vec![job.clone()], &PublishOptions::default()).await;
    assert!(outcomes[0].is_accepted(), "{outcomes:?}");
    let message = plain.take(&plain.ready(&queue, 1)).await.unwrap();
    assert_eq!(message.data, b"a,b\n");
    let properties = message.properties;
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned()).unwrap_or_default();
    assert_eq!(text(properties.message_id()), job.id.to_string());
    assert_eq!((text(properties.kind()), text(properties.content_type())), ("test".into(), "text/csv".into()));
    assert_eq!(text(properties.correlation_id()), "order-7");
    assert_eq!(*properties.timestamp(), Some(job.created_at.as_millis() / 1_000));
    assert_eq!((*properties.delivery_mode(), *properties.priority()), (Some(2), Some(5)));
    let headers = properties.headers().clone().unwrap();
    assert_eq!(headers.inner().get("queue-version"), Some(&AMQPValue::LongLongInt(1)));
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}
