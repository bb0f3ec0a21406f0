//! A program's stdout as a job's result.

use bytes::Bytes;
use serde::de::IgnoredAny;

/// What a program wrote, as one line of JSON: JSON as it is (numbers keep their digits), nothing as `null`, anything else
/// as a string without its last line break. Bytes that are not UTF-8 become U+FFFD.
#[must_use]
pub fn result_json(stdout: &Bytes) -> Bytes {
    let json = stdout.trim_ascii();
    if json.is_empty() {
        return Bytes::from_static(b"null");
    }
    if serde_json::from_slice::<IgnoredAny>(json).is_ok() && std::str::from_utf8(json).is_ok() {
        // A line break in JSON stands between tokens, where it means nothing: inside a string it would be escaped.
        return match json.iter().any(|byte| is_break(*byte)) {
            false => stdout.slice_ref(json),
            true => json.iter().copied().filter(|byte| !is_break(*byte)).collect(),
        };
    }
    let text = String::from_utf8_lossy(stdout);
    let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    serde_json::Value::from(text).to_string().into()
}

fn is_break(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json_and_text_becomes_a_string() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "null"),
            (b" \n", "null"),
            (b"{\"a\": 1}\n", "{\"a\": 1}"),
            (
                b"{\r\n  \"n\": 12345678901234567890.10,\n  \"s\": \"x\\ny\"\n}\n",
                "{  \"n\": 12345678901234567890.10,  \"s\": \"x\\ny\"}",
            ),
            (b"hello\n", "\"hello\""),
            (b"two\nlines\r\n", "\"two\\nlines\""),
            (b" 1 2 ", "\" 1 2 \""),
            (b"{\"a\":1}\n{\"a\":2}\n", "\"{\\\"a\\\":1}\\n{\\\"a\\\":2}\""),
            (b"a\xFF", "\"a\u{FFFD}\""),
            (b"\"\xFF\"", "\"\\\"\u{FFFD}\\\"\""),
        ];
        for (stdout, expected) in cases {
            let got = result_json(&Bytes::copy_from_slice(stdout));
            assert_eq!(std::str::from_utf8(&got).unwrap(), expected);
        }
    }
}
