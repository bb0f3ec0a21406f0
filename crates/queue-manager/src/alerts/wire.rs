//! Events as JSON, for those who are not Rust.

use queue_core::{
    Event,
    event::{JobEvent, PoolEvent},
};
use serde_json::{Map, Value, json};

/// An event as JSON: `event` is its name on the wire, `at` the time in milliseconds since 1970, and beside them stands what
/// belongs to it.
///
/// ```json
/// {"event": "alert:backlog", "at": 1700000000000, "queue": "mail", "alert": "backlog", "waiting": 10001,
///  "threshold": 10000, "message": "10001 jobs wait; more than 10000 are too many"}
/// {"event": "job:completed", "at": 1700000000000, "queue": "mail", "job": "0193…", "kind": "mail.send", "attempt": 1,
///  "slaCompliance": {"met": true, "actualMs": 1234}}
/// ```
#[must_use]
pub fn to_json(event: &Event) -> Value {
    let mut json = match event {
        Event::Job(event) => job(event),
        Event::Pool(event) => pool(event),
        Event::Breaker(event) => object(event),
        Event::Provider(event) => object(event),
        Event::Alert(alert) => object(alert),
        // An event of a later version: its name says what it is.
        _ => Map::new(),
    };
    json.insert("event".to_owned(), event.wire_name().into());
    Value::Object(json)
}

fn object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        // Not met: all of them are structs with texts as keys.
        _ => Map::new(),
    }
}

fn job(event: &JobEvent) -> Map<String, Value> {
    let JobEvent { at, job, kind, attempt, progress, sla, sla_class, .. } = event;
    let mut json = object(&json!({
        "at": at, "queue": job.queue, "job": job.id, "kind": kind, "attempt": attempt,
    }));
    // A handler may have said anything: what is no JSON is left out.
    if let Some(progress) = progress.as_ref().and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()) {
        json.insert("progress".to_owned(), progress);
    }
    if let Some(sla) = sla {
        json.insert("slaCompliance".to_owned(), json!(sla));
    }
    if let Some(class) = sla_class {
        json.insert("slaClass".to_owned(), json!(class));
    }
    json
}

/// What changed stands beside the rest instead of inside it: its name is the event's already.
fn pool(event: &PoolEvent) -> Map<String, Value> {
    let mut json = object(event);
    if let Some(Value::Object(what)) = json.remove("what") {
        json.extend(what.into_iter().filter_map(|(_, inner)| inner.as_object().cloned()).flatten());
    }
    json
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use queue_core::{
        JobId, JobRef, QueueName, Timestamp,
        event::{
            Alert, AlertKind, BreakerEvent, BreakerState, JobEventKind, PoolChange, ProviderEvent, ProviderStatus,
        },
        job::{JobKind, SlaClass},
        provider::ParkKey,
    };

    use super::*;

    const AT: Timestamp = Timestamp::from_millis(5);

    #[test]
    fn every_sort_of_event_is_flat() {
        let queue = QueueName::from_static("mail");
        let what = AlertKind::Backlog { waiting: 3, threshold: 2 };
        let alert = Event::Alert(Alert::new(AT, queue.clone(), what, "too many"));
        let wanted = json!({"event": "alert:backlog", "at": 5, "queue": "mail", "alert": "backlog", "waiting": 3,
            "threshold": 2, "message": "too many"});
        assert_eq!(to_json(&alert), wanted);

        let pool = PoolEvent::new(AT, "w".into(), queue.clone(), PoolChange::ScaledUp { from: 2, to: 4 });
        let wanted =
            json!({"event": "worker-pool:scaled-up", "at": 5, "worker": "w", "queue": "mail", "from": 2, "to": 4});
        assert_eq!(to_json(&Event::Pool(pool)), wanted);

        let key = ParkKey("breaker:smtp".into());
        let breaker = BreakerEvent::new(AT, key, BreakerState::Closed, BreakerState::Open);
        let wanted = json!({"event": "breaker:open", "at": 5, "key": "breaker:smtp", "from": "closed", "to": "open"});
        assert_eq!(to_json(&Event::Breaker(breaker)), wanted);

        let provider = ProviderEvent::new(AT, "default".into(), ProviderStatus::StoreAway, Some("no route".into()));
        let wanted = json!({"event": "provider:store-away", "at": 5, "provider": "default", "to": "store_away",
            "error": "no route"});
        assert_eq!(to_json(&Event::Provider(provider)), wanted);

        let id = JobId::derive(b"x", 1);
        let mut job = JobEvent::new(AT, JobRef::new(queue, id), JobKind::from_static("k"), JobEventKind::Completed, 2);
        job.sla = Some(SlaClass::Urgent.compliance(Duration::from_secs(4)));
        job.sla_class = Some(SlaClass::Urgent);
        job.progress = Some("no JSON".into());
        let wanted = json!({"event": "job:completed", "at": 5, "queue": "mail", "job": id.to_string(), "kind": "k",
            "attempt": 2, "slaCompliance": {"met": false, "actualMs": 4000}, "slaClass": "urgent"});
        assert_eq!(to_json(&Event::Job(job.clone())), wanted);
        job.progress = Some(r#"{"percent":5.0}"#.into());
        assert_eq!(to_json(&Event::Job(job))["progress"]["percent"], 5.0);
    }
}
