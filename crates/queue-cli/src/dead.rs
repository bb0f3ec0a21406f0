//! Lines that failed, written so that they can be mended and fed in again.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use queue_core::job::JobError;
use serde_json::{json, value::RawValue};

use crate::input::{JobText, Object, Text};

const ERROR: &str = "_error";

/// The row of a line for the dead file, without its line break: the line's own members as they were, and `_error`.
///
/// A line of `--lines` becomes an object with the text as its payload, so a dead file is always fed in *without*
/// `--lines`. A line that is no JSON object becomes `{"_raw": …, "_error": …}`: text as text, other bytes readably in
/// `_raw` and exactly in `_raw_base64`; of an over-long line the beginning, and its length in `_raw_bytes`.
///
/// # Errors
/// Never for what [`crate::input`] reads; serde's.
pub fn dead_line(text: &Text, how: JobText, error: &JobError) -> serde_json::Result<Vec<u8>> {
    let error = serde_json::value::to_raw_value(error)?;
    match text {
        Text::Utf8(bytes) if how == JobText::Objects => match serde_json::from_slice::<Object<'_>>(bytes) {
            Ok(object) => Ok(with_error(object, &error)),
            Err(_) => serde_json::to_vec(&json!({"_raw": String::from_utf8_lossy(bytes), ERROR: error})),
        },
        Text::Utf8(bytes) => serde_json::to_vec(
            &json!({"payload": String::from_utf8_lossy(bytes), "content_type": "text/plain", ERROR: error}),
        ),
        Text::NotUtf8(bytes) => serde_json::to_vec(
            &json!({"_raw": String::from_utf8_lossy(bytes), "_raw_base64": BASE64.encode(bytes), ERROR: error}),
        ),
        Text::TooLong { head, length, .. } => {
            serde_json::to_vec(&json!({"_raw": String::from_utf8_lossy(head), "_raw_bytes": length, ERROR: error}))
        }
    }
}

/// Values are copied as they were written, so that no number loses a digit. An earlier `_error` gives way.
fn with_error(Object(members): Object<'_>, error: &RawValue) -> Vec<u8> {
    let mut out = String::from("{");
    for (key, value) in members.iter().filter(|(key, _)| key != ERROR) {
        out.push_str(&serde_json::Value::from(&**key).to_string());
        out.push(':');
        out.push_str(value.get());
        out.push(',');
    }
    out.push_str("\"_error\":");
    out.push_str(error.get());
    out.push('}');
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use queue_core::error::ErrorCode;

    use super::*;
    use crate::input::{LineReader, parse};

    const WRITTEN: &str = r#"{"code":"HANDLER_FAILED","message":"exit status 1","retryable":true}"#;

    fn dead(text: &Text, how: JobText) -> String {
        let error = JobError::new(ErrorCode::HandlerFailed, "exit status 1");
        String::from_utf8(dead_line(text, how, &error).unwrap()).unwrap()
    }

    fn utf8(text: &str) -> Text {
        Text::Utf8(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_dead_job_can_be_fed_in_as_it_is() {
        let line = r#" { "payload":{"n": 12345678901234567890.10 , "s":"\u00e9"} ,"priority":10,"_note":[1] }"#;
        let first = dead(&utf8(line), JobText::Objects);
        assert_eq!(
            first,
            format!(
                r#"{{"payload":{{"n": 12345678901234567890.10 , "s":"\u00e9"}},"priority":10,"_note":[1],"_error":{WRITTEN}}}"#
            )
        );
        assert_eq!(dead(&utf8(&first), JobText::Objects), first, "an old `_error` gives way");
        let [before, after] = [line, &first].map(|line| parse(&utf8(line), JobText::Objects).unwrap());
        assert_eq!(before, after);
        assert_eq!(dead(&utf8("{}"), JobText::Objects), format!(r#"{{"_error":{WRITTEN}}}"#));
    }

    #[test]
    fn a_text_line_comes_back_as_the_same_payload() {
        let text = utf8("say \"hi\"\t\\ {1}");
        let line = dead(&text, JobText::Lines);
        assert_eq!(parse(&utf8(&line), JobText::Objects).unwrap(), parse(&text, JobText::Lines).unwrap());
    }

    #[test]
    fn an_unreadable_line_is_kept() {
        let said = dead(&utf8("{\"payload\": "), JobText::Objects);
        let value: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (&value["_raw"], value["_error"]["code"].as_str()),
            (&json!("{\"payload\": "), Some("HANDLER_FAILED"))
        );

        let value: serde_json::Value =
            serde_json::from_str(&dead(&Text::NotUtf8(Bytes::from_static(b"a\xFF")), JobText::Lines)).unwrap();
        assert_eq!((&value["_raw"], &value["_raw_base64"]), (&json!("a\u{FFFD}"), &json!("Yf8=")));

        let mut reader = LineReader::new(&b"0123456789"[..], 4);
        let long = reader.next_line().unwrap().unwrap().text;
        let value: serde_json::Value = serde_json::from_str(&dead(&long, JobText::Objects)).unwrap();
        assert_eq!((&value["_raw"], &value["_raw_bytes"]), (&json!("0123"), &json!(10)));
        // Fed in unmended it is invalid, and kept once more.
        let again = utf8(&value.to_string());
        assert!(parse(&again, JobText::Objects).is_err());
        assert!(dead(&again, JobText::Objects).contains("\"_raw\":\"0123\""));
    }
}
