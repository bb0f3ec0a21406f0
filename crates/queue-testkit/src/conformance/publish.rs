//! Putting in, and getting out what was put in.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use bytes::Bytes;
use queue_core::{
    Envelope, JobId, Priority,
    config::defaults,
    job::{ContentType, Headers, JobKind, LimitKeys, RawHeaders, RetryPolicy, StoreId, Unique, UniqueKey},
    provider::{LeaseModel, PublishOptions, PublishOutcome, Rejection},
};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::{text, texts},
};

cases! { "publish";
    fetched_and_completed []
    outcomes_in_order_around_an_oversize_item []
    oversize_for_the_broker []
    empty_batches []
    batch_beyond_the_brokers_own []
    undeclared_queue []
    same_id_again [DedupById]
    same_id_within_a_batch [DedupById]
    same_id_after_completion [DedupById]
    empty_payload []
    binary_payload []
    payload_of_the_largest_size []
    every_field_survives []
    headers_of_a_newer_version_survive []
    job_that_may_outlast_the_session [SessionLease]
    several_connections_see_one_queue []
    longest_timeout []
}

async fn fetched_and_completed(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("plain");
    let job = ctx.job("hello").seal();
    ctx.publish(&queue, job.clone()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(delivery.envelope.id, job.id, "the id");
    check_eq!(delivery.receipt.id, job.id, "the receipt's id");
    check_eq!(delivery.envelope.payload, job.payload, "the payload");
    check_eq!(delivery.attempt, 1, "the attempt of a first delivery");
    check_eq!(delivery.started_before, 0, "started deliveries before the first");
    check!(!delivery.redelivered, "a first delivery is marked as redelivered");
    check!(delivery.lease.cancel.is_none(), "nobody asked to cancel it");
    if let LeaseModel::PerMessage { .. } = ctx.caps().lease {
        let remaining = delivery.lease.remaining.unwrap_or_default();
        check!(!remaining.is_zero(), "a message's own lease says how long it holds");
        check!(remaining <= ctx.long_lease(), "the lease is longer than asked for: {remaining:?}");
    }
    ctx.complete(&consumer, &delivery).await?;
    ctx.nothing(&consumer, "it was completed").await
}

async fn outcomes_in_order_around_an_oversize_item(ctx: &Ctx) -> Outcome {
    let limit = 4_096;
    let queue = ctx.declared("oversize", |spec| spec.max_encoded_len = limit).await?;
    let mut batch: Vec<Envelope> = (0..12).map(|n| ctx.job(format!("job {n}")).seal()).collect();
    let huge = ctx.job("x".repeat(limit)).seal();
    batch.insert(3, huge.clone());
    batch.push(huge.edit(|job| job.id = ctx.id()));
    let outcomes = ctx.offer(&queue, batch).await?;
    for (at, outcome) in outcomes.iter().enumerate() {
        if at == 3 || at == 13 {
            check_matches!(
                outcome,
                PublishOutcome::Rejected(Rejection::TooLarge { limit: l, actual }) if *l == limit && *actual == huge.encoded_len(),
                "item {at} is too large"
            );
        } else {
            check_matches!(outcome, PublishOutcome::Accepted { .. }, "item {at} is fine");
        }
    }
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 12).await?;
    let mut found = texts(&got);
    found.sort_unstable();
    let mut expected: Vec<String> = (0..12).map(|n| format!("job {n}")).collect();
    expected.sort_unstable();
    check_eq!(found, expected, "the neighbours of the oversize items");
    ctx.complete_all(&consumer, &got).await?;
    ctx.nothing(&consumer, "the oversize items were refused").await
}

async fn oversize_for_the_broker(ctx: &Ctx) -> Outcome {
    let limit = ctx.caps().max_encoded_len;
    if limit > 32 << 20 {
        return Ok(()); // More than a test should allocate; the queue's own limit is tested above.
    }
    let queue = ctx.declared("oversize", |spec| spec.max_encoded_len = usize::MAX).await?;
    let outcome = ctx.offer_one(&queue, ctx.job("x".repeat(limit)).seal()).await?;
    check_matches!(outcome, PublishOutcome::Rejected(Rejection::TooLarge { .. }), "larger than the broker takes");
    let consumer = ctx.consumer(&queue).await?;
    ctx.nothing(&consumer, "it was refused").await
}

async fn empty_batches(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("empty");
    check_eq!(ctx.offer(&queue, Vec::new()).await?.len(), 0, "outcomes of an empty publish");
    let consumer = ctx.consumer(&queue).await?;
    check_eq!(consumer.settle(&[]).await.len(), 0, "outcomes of an empty settle");
    check_eq!(consumer.heartbeat(&[]).await.len(), 0, "outcomes of an empty heartbeat");
    Ok(())
}

async fn batch_beyond_the_brokers_own(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("large");
    let n = ctx.caps().max_batch.min(300) * 2 + 1;
    ctx.publish_all(&queue, (0..n).map(|n| ctx.job(n.to_string()).seal()).collect()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, n).await?;
    let mut numbers: Vec<usize> = got.iter().filter_map(|delivery| text(delivery).parse().ok()).collect();
    numbers.sort_unstable();
    check_eq!(numbers, (0..n).collect::<Vec<_>>(), "what came of the large batch");
    ctx.complete_all(&consumer, &got).await?;
    ctx.nothing(&consumer, "all are completed").await
}

async fn undeclared_queue(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("undeclared");
    let consumer = ctx.consumer(&queue).await?;
    ctx.publish_texts(&queue, &["a"]).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}

async fn same_id_again(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dedup");
    let job = ctx.job("once").seal();
    for _ in 0..3 {
        ctx.publish(&queue, job.clone()).await?;
    }
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.publish(&queue, job.clone()).await?;
    ctx.nothing(&consumer, "the same id is one job, also while it runs").await?;
    ctx.complete(&consumer, &delivery).await?;
    // Another id with the same content is another job.
    ctx.publish(&queue, job.edit(|job| job.id = ctx.id())).await?;
    ctx.take_one(&consumer).await.map(drop)
}

async fn same_id_within_a_batch(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dedup");
    let job = ctx.job("once").seal();
    ctx.publish_all(&queue, vec![job.clone(), ctx.job("other").seal(), job]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let got = ctx.take(&consumer, 2).await?;
    ctx.complete_all(&consumer, &got).await?;
    ctx.nothing(&consumer, "the same id is one job, also within a batch").await
}

async fn same_id_after_completion(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("dedup");
    let job = ctx.job("once").seal();
    ctx.publish(&queue, job.clone()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await?;
    ctx.publish(&queue, job).await?;
    ctx.nothing(&consumer, "the same id is one job, also when it is finished").await
}

async fn round_trip(ctx: &Ctx, payload: Bytes) -> Outcome {
    let queue = ctx.queue("payload");
    let mut job = ctx.job("");
    job.payload = payload;
    let job = job.seal();
    ctx.publish(&queue, job.clone()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(delivery.envelope.payload.len(), job.payload.len(), "the payload's length");
    check!(delivery.envelope.payload == job.payload, "the payload was changed on its way");
    ctx.complete(&consumer, &delivery).await
}

async fn empty_payload(ctx: &Ctx) -> Outcome {
    round_trip(ctx, Bytes::new()).await
}

async fn binary_payload(ctx: &Ctx) -> Outcome {
    round_trip(ctx, Bytes::from_static(b"\0")).await?;
    let every_byte: Vec<u8> = (0..4_096_u32).map(|n| (n % 256) as u8).collect();
    round_trip(ctx, Bytes::from(every_byte)).await
}

async fn payload_of_the_largest_size(ctx: &Ctx) -> Outcome {
    let room = ctx.caps().max_encoded_len.saturating_sub(1_024).min(defaults::MAX_PAYLOAD);
    round_trip(ctx, Bytes::from(vec![0xC3; room])).await
}

/// Everything that only travels: nothing here makes the job wait.
fn fullest(ctx: &Ctx) -> Outcome<Envelope> {
    let headers = Headers {
        retry: Some(RetryPolicy::fixed(7, Duration::from_millis(250))),
        correlation_id: Some("request-7 ünïcode".into()),
        parent: Some(JobId::derive(b"parent", 1)),
        keys: LimitKeys { tenant: Some("acme".into()), rate: Some("api".into()), ..LimitKeys::default() },
        user: Some("o'brien \"quoted\"".into()),
        tags: vec!["a".into(), "b,c".into()],
        metadata: BTreeMap::from([("key".into(), "value\nwith a line".into())]),
        ..Headers::default()
    };
    let mut job = ctx.job("full");
    job.kind = JobKind::new("kind/with:odd*marks")?;
    job.content_type = ContentType::parse("image/png")?;
    job.timeout = Duration::from_millis(12_345);
    job.expires_at = Some(ctx.now() + Duration::from_secs(86_400));
    job.headers = RawHeaders::encode(&headers)?;
    if ctx.caps().priority.is_supported() {
        job.priority = Priority::HIGH;
    }
    if ctx.caps().unique_keys.is_supported() {
        job.unique = Some(Box::new(Unique { key: UniqueKey::new("kéy \0 \"")?, window: None }));
    }
    Ok(job.seal())
}

/// What a provider stamps by itself.
fn unstamped(envelope: &Envelope) -> Envelope {
    envelope.edit(|job| {
        job.store = None::<NonZeroU64>.map(StoreId);
        job.deliveries = 0;
    })
}

async fn every_field_survives(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("fields");
    let job = fullest(ctx)?;
    ctx.publish(&queue, job.clone()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    let (found, sent) = (unstamped(&delivery.envelope), unstamped(&job));
    check_eq!(found.headers()?, sent.headers()?, "the headers");
    check_eq!(found.content_type, sent.content_type, "the content type");
    check_eq!(found.kind, sent.kind, "the kind");
    check_eq!(found.timeout, sent.timeout, "the timeout");
    check_eq!(found.expires_at, sent.expires_at, "the expiry");
    check_eq!(found.created_at, sent.created_at, "the time of submission");
    check_eq!(found.unique, sent.unique, "the unique key");
    check_eq!(found.priority, sent.priority, "the priority");
    check!(found == sent, "an envelope changed on its way: {found:?} for {sent:?}");
    ctx.complete(&consumer, &delivery).await
}

async fn headers_of_a_newer_version_survive(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("headers");
    let mut job = ctx.job("newer");
    job.headers = RawHeaders::from_wire(Bytes::from_static(br#"{"project":"p","from_the_future":[1,{"a":null}]}"#))?;
    let job = job.seal();
    ctx.publish(&queue, job.clone()).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check!(delivery.envelope.headers == job.headers, "a member that this version does not know was lost");
    ctx.complete(&consumer, &delivery).await
}

async fn job_that_may_outlast_the_session(ctx: &Ctx) -> Outcome {
    let LeaseModel::Session { max_hold } = ctx.caps().lease else { return Ok(()) };
    let queue = ctx.queue("hold");
    let mut long = ctx.job("long");
    long.timeout = max_hold + Duration::from_secs(1);
    let outcomes = ctx.offer(&queue, vec![ctx.job("short").seal(), long.seal()]).await?;
    check_matches!(outcomes[0], PublishOutcome::Accepted { .. }, "the neighbour");
    check_matches!(
        outcomes[1],
        PublishOutcome::Rejected(Rejection::ExceedsMaxHold { .. }),
        "it may outlast the session"
    );
    let declared = ctx.declared("hold", |spec| spec.timeout = max_hold + Duration::from_secs(1)).await;
    let refused = declared.err().map(|failed| failed.0).unwrap_or_default();
    check!(refused.contains("EXCEEDS_MAX_HOLD"), "declaring such a default timeout was answered {refused:?}");
    Ok(())
}

async fn several_connections_see_one_queue(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("shared");
    let other = ctx.connect().await?;
    let outcomes = other.publish(&queue, vec![ctx.job("over there").seal()], &PublishOptions::default()).await;
    check_matches!(outcomes.as_slice(), [PublishOutcome::Accepted { .. }], "published on the other connection");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(text(&delivery), "over there", "the job of the other connection");
    ctx.complete(&consumer, &delivery).await
}

async fn longest_timeout(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("timeout");
    let mut job = ctx.job("for ever");
    job.timeout = Duration::MAX;
    let outcome = ctx.offer_one(&queue, job.seal()).await?;
    if let PublishOutcome::Rejected(Rejection::ExceedsMaxHold { .. }) = outcome {
        return Ok(());
    }
    check_matches!(outcome, PublishOutcome::Accepted { .. }, "a job without a timeout to speak of");
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    ctx.complete(&consumer, &delivery).await
}
