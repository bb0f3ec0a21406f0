#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
//! Plain clients of AMQP beside the provider: what each makes of the other's messages.

mod broker;

use broker::{Plain, connect, job, queue};
use std::time::Duration;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use queue_core::{
    QueueProvider as _,
    job::{ContentType, Headers, RawHeaders},
    provider::{ConsumeOptions, DeadBody, DeadFilter, Disposition, PublishOptions, Settlement},
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
    assert_eq!(text(properties.app_id()), "queue/1");
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

/// What a worker gets of a plain client's message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_runs_what_a_plain_client_sent() {
    let Some(provider) = connect("sent").await else { return };
    let (queue, plain) = (queue("sent"), Plain::open().await);
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("customer".into(), AMQPValue::LongString("7".into()));
    let named = BasicProperties::default()
        .with_message_id("0192aaaa-0000-7000-8000-000000000007".into())
        .with_type("invoice.print".into())
        .with_content_type("text/plain; charset=utf-8".into())
        .with_correlation_id("order-7".into())
        .with_headers(headers);
    plain.publish(&plain.ready(&queue, 1), named, b"hello").await;
    let got = consumer.fetch(10, Duration::from_secs(10)).await.unwrap().remove(0);
    assert_eq!(got.envelope.id.to_string(), "0192aaaa-0000-7000-8000-000000000007");
    assert_eq!((got.envelope.kind.as_str(), &got.envelope.payload[..]), ("invoice.print", &b"hello"[..]));
    assert_eq!(got.envelope.content_type, ContentType::Text);
    let parsed = got.envelope.headers().unwrap();
    assert_eq!((parsed.correlation_id.as_deref(), parsed.metadata["customer"].as_str()), (Some("order-7"), "7"));
    let done = |receipt| Settlement::new(receipt, Disposition::Complete { result: None });
    assert!(consumer.settle(&[done(got.receipt)]).await[0].is_settled());
    // Nothing but bytes: the queue's defaults, and two equal ones are two jobs.
    for _ in 0..2 {
        plain.publish(&plain.ready(&queue, 1), BasicProperties::default(), b"bare").await;
    }
    let mut ids = Vec::new();
    while ids.len() < 2 {
        for got in consumer.fetch(10, Duration::from_secs(10)).await.unwrap() {
            assert_eq!((got.envelope.kind.as_str(), &got.envelope.payload[..]), ("message", &b"bare"[..]));
            ids.push(got.envelope.id);
            assert!(consumer.settle(&[done(got.receipt)]).await[0].is_settled());
        }
    }
    assert_ne!(ids[0], ids[1]);
    consumer.close(Duration::from_secs(5)).await;
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}

/// What says that it is ours and cannot be read ends among the dead, as it came, and is not delivered for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_dead_lettered_as_it_came() {
    let Some(provider) = connect("garbage").await else { return };
    let (queue, plain) = (queue("garbage"), Plain::open().await);
    let consumer = provider.consumer(&queue, ConsumeOptions::new("worker", 10)).await.unwrap();
    let marked = BasicProperties::default().with_app_id("queue/nonsense".into());
    plain.publish(&plain.ready(&queue, 1), marked, b"\xff\x00junk").await;
    assert!(consumer.fetch(10, Duration::from_secs(3)).await.unwrap().is_empty());
    assert_eq!(plain.depth(&plain.ready(&queue, 1)).await, Some(0));
    let dead = provider.admin().dead(&queue, &DeadFilter::default(), None, 10).await.unwrap().items;
    assert_eq!(dead.len(), 1);
    assert!(matches!(&dead[0].body, DeadBody::Raw(raw) if raw[..] == b"\xff\x00junk"[..]), "{dead:?}");
    consumer.close(Duration::from_secs(5)).await;
    provider.drop_queue(&queue, false).await.unwrap();
    provider.close().await.unwrap();
}
