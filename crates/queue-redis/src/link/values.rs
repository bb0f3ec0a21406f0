//! Reading what Redis answers.

use bytes::Bytes;
use queue_core::Result;
use redis::Value;

use crate::fault;

/// The items of an array.
pub(crate) fn items(value: Value) -> Result<Vec<Value>, fault::Broken> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err("not a list"),
    }
}

pub(crate) fn bytes(value: Value) -> Result<Bytes, fault::Broken> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into()),
        Value::Okay => Ok(Bytes::from_static(b"OK")),
        _ => Err("not bytes"),
    }
}

pub(crate) fn text(value: Value) -> Result<String, fault::Broken> {
    String::from_utf8(bytes(value)?.to_vec()).map_err(|_| "not text")
}

pub(crate) fn number(value: &Value) -> Result<i64, fault::Broken> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::BulkString(bytes) => {
            // A score is written as a double.
            let text = std::str::from_utf8(bytes).ok();
            let number = text.and_then(|text| text.parse::<f64>().ok());
            number.map(|number| number as i64).ok_or("not a number")
        }
        Value::Double(number) => Ok(*number as i64),
        Value::Nil => Ok(0),
        _ => Err("not a number"),
    }
}
