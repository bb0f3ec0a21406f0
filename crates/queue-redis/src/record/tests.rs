#![allow(clippy::unwrap_used, reason = "a test")]
use queue_core::job::{Headers, TraceContext};

use super::*;

/// What `admit` in `prelude.lua` makes of the two arguments.
fn as_kept(envelope: &Envelope) -> Bytes {
    let (head, body) = to_publish(envelope);
    let mut row = vec![VERSION, head[16], head[17]];
    put_six(&mut row, 1_700_000_000_000);
    put_six(&mut row, 7);
    row.extend(&head[36..40]);
    if envelope.expires_at.is_some() {
        row.extend(&head[24..30]);
    }
    if let Some(unique) = &envelope.unique {
        row.extend(&head[30..36]);
        row.put_u16_le(u16::try_from(unique.key.as_str().len()).unwrap());
        row.extend(unique.key.as_str().as_bytes());
    }
    row.extend(body);
    row.into()
}

fn plain() -> Envelope {
    let kind = JobKind::from_static("email.send");
    Envelope::builder(JobId::from_bytes([7; 16]), kind, vec![1; 200], Timestamp::from_millis(5)).seal()
}

#[test]
fn a_job_is_read_back_as_it_was_submitted() {
    let full = plain().edit(|parts| {
        parts.content_type = ContentType::Other("text/csv".into());
        parts.generation = 3;
        parts.deliveries = 2;
        parts.attempt = 4;
        parts.store = Some(StoreId(std::num::NonZeroU64::MAX));
        parts.priority = Priority::new(15).unwrap();
        parts.not_before = Some(Timestamp::from_millis(9));
        parts.expires_at = Some(Timestamp::from_millis(1 << 47));
        parts.timeout = Duration::from_millis(u64::MAX >> 1);
        let key = UniqueKey::new("k".repeat(256)).unwrap();
        parts.unique = Some(Box::new(Unique { key, window: Some(Duration::from_secs(60)) }));
    });
    for envelope in [plain(), full, traced("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")] {
        let row = as_kept(&envelope);
        let read_back = read(envelope.id, row.clone()).unwrap();
        assert_eq!(read_back.envelope, envelope);
        assert_eq!(read_back.at.as_millis(), 1_700_000_000_000);
        for length in 0..row.len() - envelope.payload.len() {
            assert!(read(envelope.id, row.slice(..length)).is_err(), "cut to {length}");
        }
    }
}

#[test]
fn what_a_newer_version_wrote_is_refused_as_such() {
    let row = as_kept(&plain());
    let with = |place: usize, byte: u8| {
        let mut row = row.to_vec();
        row[place] = byte;
        read(plain().id, row.into()).unwrap_err()
    };
    // The version, and what the client keeps behind head and kind.
    let options = 19 + 1 + plain().kind.as_str().len();
    assert_eq!((with(0, VERSION + 1), with(options, 1 << 7)), (NEWER, NEWER));
    assert_ne!(with(0, 0), NEWER);
}

#[test]
fn a_plain_job_fits_the_allocator_s_class_of_256_bytes() {
    // Four bytes of Redis's own go with it.
    assert!(as_kept(&plain()).len() + 4 <= 256, "{}", as_kept(&plain()).len());
}

fn traced(traceparent: &str) -> Envelope {
    let trace = Some(TraceContext { traceparent: traceparent.into(), tracestate: Some("a=\"traceparent\"".into()) });
    let headers = Headers { trace, tags: vec!["a".into()], ..Headers::default() };
    plain().edit(|parts| parts.headers = RawHeaders::encode(&headers).unwrap())
}

#[test]
fn a_trace_context_takes_half_its_letters_and_comes_back_letter_by_letter() {
    let usual = traced("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    // What could not be spelled again is kept as it is.
    for odd in [
        "",
        "00",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736+00f067aa0ba902b7-01",
    ] {
        let odd = traced(odd);
        let row = as_kept(&odd);
        assert_eq!(read(odd.id, row.clone()).unwrap().envelope, odd);
        assert!(row.ends_with(&[odd.headers.as_bytes(), &odd.payload].concat()));
    }
    let row = as_kept(&usual);
    assert_eq!(read(usual.id, row.clone()).unwrap().envelope, usual);
    assert_eq!(row.len(), as_kept(&plain()).len() + usual.headers.as_bytes().len() - 55 + 26 + 1);
}
