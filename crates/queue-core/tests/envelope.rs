//! The envelope on the wire: golden files pin every byte; nonsense never panics and never allocates what it claims.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
use std::{num::NonZeroU64, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use queue_core::job::{
    Backoff, ContentType, Envelope, FrameError, Headers, JobId, JobKind, LimitKeys, Priority, RawHeaders, RetryPolicy,
    SlaClass, StoreId, Timestamp, TraceContext, Unique, UniqueKey,
};

fn smallest() -> Envelope {
    let id = JobId::from_bytes([0x11; 16]);
    Envelope::builder(id, JobKind::from_static("k"), Bytes::new(), Timestamp::from_millis(1)).seal()
}

fn fullest() -> Envelope {
    let headers = Headers {
        retry: Some(RetryPolicy {
            max_attempts: 7,
            backoff: Backoff::Exponential {
                base: Duration::from_millis(250),
                factor: 1.5,
                cap: Duration::from_secs(9),
            },
            jitter: 0.25,
        }),
        correlation_id: Some("request-7".into()),
        parent: Some(JobId::from_bytes([0x22; 16])),
        workflow: Some(JobId::from_bytes([0x33; 16])),
        trace: Some(TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            tracestate: Some("congo=t61rcWkgMzE".into()),
        }),
        keys: LimitKeys {
            ordering: Some("account-1".into()),
            concurrency: Some("gpu".into()),
            rate: Some("api.example.com".into()),
            breaker: Some("payments".into()),
            tenant: Some("acme".into()),
            partition: None,
        },
        sla: Some(SlaClass::Urgent),
        capabilities: vec!["gpu".into(), "eu".into()],
        user: Some("u-1".into()),
        project: Some("p-1".into()),
        tags: vec!["nightly".into(), "größe".into()],
        metadata: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
    };
    let id = JobId::from_bytes([0xAB; 16]);
    let mut parts = Envelope::builder(
        id,
        JobKind::from_static("email.send"),
        &br#"{"to":"a@example.com"}"#[..],
        Timestamp::from_millis(1_700_000_000_000),
    );
    parts.content_type = ContentType::Other(Arc::from("application/vnd.example+json"));
    parts.attempt = 3;
    parts.generation = 2;
    parts.deliveries = 5;
    parts.store = NonZeroU64::new(0x0102_0304_0506_0708).map(StoreId);
    parts.priority = Priority::URGENT;
    parts.not_before = Some(Timestamp::from_millis(1_700_000_001_000));
    parts.expires_at = Some(Timestamp::from_millis(1_700_000_600_000));
    parts.timeout = Duration::from_millis(12_345);
    parts.unique = Some(Box::new(Unique {
        key: UniqueKey::new("welcome:ünï").unwrap(),
        window: Some(Duration::from_secs(3_600)),
    }));
    parts.headers = RawHeaders::encode(&headers).unwrap();
    parts.seal()
}

fn golden(name: &str, wire: &Bytes) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("QUEUE_BLESS").is_some() {
        std::fs::write(&path, wire).unwrap();
    }
    let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(&kept[..], &wire[..], "{name} changed: jobs that wait could not be read; add a frame version instead");
}

#[test]
fn golden_files_pin_the_frame() {
    for (name, envelope) in [("smallest.v1.bin", smallest()), ("fullest.v1.bin", fullest())] {
        let wire = envelope.encode();
        assert_eq!(wire.len(), envelope.encoded_len(), "{name}: limits are checked against encoded_len");
        golden(name, &wire);
        assert_eq!(Envelope::decode(wire).unwrap(), envelope, "{name}");
    }
    let headers = fullest().headers().unwrap();
    assert_eq!(headers.keys.tenant.as_deref(), Some("acme"));
    assert_eq!(RawHeaders::encode(&headers).unwrap(), fullest().headers, "headers are canonical");
}

#[test]
fn a_window_of_less_than_a_millisecond_stays_a_window() {
    let envelope = smallest().edit(|parts| {
        let window = Some(Duration::from_micros(1));
        parts.unique = Some(Box::new(Unique { key: UniqueKey::new("k").unwrap(), window }));
    });
    let back = Envelope::decode(envelope.encode()).unwrap();
    assert_eq!(back.unique.as_ref().unwrap().window, Some(Duration::from_millis(1)));
}

#[test]
fn the_payload_is_a_slice_of_the_wire() {
    let wire = fullest().encode();
    let envelope = Envelope::decode(wire.clone()).unwrap();
    assert!(wire.as_ptr_range().contains(&envelope.payload.as_ptr()));
}

#[test]
fn a_newer_version_is_told_from_nonsense() {
    let mut newer = smallest().encode().to_vec();
    newer[1] = 9;
    assert_eq!(Envelope::decode(Bytes::from(newer)), Err(FrameError::Newer { found: 9 }));
    assert_eq!(Envelope::decode(Bytes::from_static(b"Q\x09")), Err(FrameError::Newer { found: 9 }));
    for foreign in
        [&b""[..], b"hello", br#"{"json":"of another client, longer than the fixed part of an envelope is, and more"}"#]
    {
        assert_eq!(Envelope::decode(Bytes::copy_from_slice(foreign)), Err(FrameError::Foreign));
    }
}

#[test]
fn every_truncation_and_bit_flip_is_answered_without_a_panic() {
    let wire = fullest().encode();
    for end in 0..wire.len() {
        match Envelope::decode(wire.slice(..end)) {
            // The payload has no length of its own: the transport delimits it.
            Ok(short) => assert!(short.payload.len() < fullest().payload.len()),
            Err(FrameError::Foreign | FrameError::Broken(_)) => {}
            Err(other) => panic!("{end}: {other}"),
        }
    }
    for bit in 0..wire.len() * 8 {
        let mut flipped = wire.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(envelope) = Envelope::decode(Bytes::from(flipped)) {
            assert_ne!(envelope, fullest(), "bit {bit} is not looked at");
        }
    }
}
