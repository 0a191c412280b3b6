//! Values of events as values of the cel crate, and back.

use std::{collections::HashMap, sync::Arc};

use cel::{
    Value as CelValue,
    common::{
        types::{
            CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString,
            CelTimestamp,
        },
        value::Val,
    },
};
use chrono::{DateTime, SecondsFormat};
use sidestream_event::{Map, Meta, Value};

use crate::EvalError;

/// A value of the crate that borrows the texts of `value`.
pub(super) fn to_cel(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Int(number) => Box::new(CelInt::from(*number)),
        Value::Float(number) => Box::new(CelDouble::from(*number)),
        Value::Text(text) => Box::new(CelString::from(text.as_str())),
        Value::Bytes(bytes) => Box::new(CelBytes::from(&bytes[..])),
        Value::List(list) => Box::new(CelList::from(list.iter().map(to_cel).collect::<Vec<_>>())),
        Value::Map(fields) => map(fields.iter().map(|(name, value)| (name.as_str(), to_cel(value)))),
    }
}

/// A map of the crate.
pub(super) fn map<'v>(fields: impl Iterator<Item = (&'v str, Box<dyn Val + 'v>)>) -> Box<dyn Val + 'v> {
    let fields: HashMap<CelMapKey<'v>, _> =
        fields.map(|(name, value)| (CelMapKey::String(CelString::from(name)), value)).collect();
    Box::new(CelMap::from(fields))
}

/// What an expression reads as `meta`.
pub(super) fn envelope(meta: &Meta) -> Box<dyn Val + '_> {
    let mut headers: HashMap<CelMapKey<'_>, Box<dyn Val + '_>> = HashMap::new();
    for (name, value) in meta.context.iter().flat_map(|context| &context.headers) {
        let name = CelMapKey::String(CelString::from(name.as_str().to_ascii_lowercase()));
        headers.entry(name).or_insert_with(|| Box::new(CelString::from(value.as_str())));
    }
    let time = DateTime::from_timestamp_nanos(meta.time.as_nanos()).fixed_offset();
    let traceparent = meta.context.as_ref().and_then(|context| context.traceparent.as_deref());
    let fields: [(&str, Box<dyn Val + '_>); 6] = [
        ("key", text_or_null(meta.key.as_deref())),
        ("time", Box::new(CelTimestamp::from(time))),
        ("headers", Box::new(CelMap::from(headers))),
        ("source", Box::new(CelString::from(meta.source.as_str()))),
        ("sequence", Box::new(CelInt::from(i64::try_from(meta.sequence).unwrap_or(i64::MAX)))),
        ("traceparent", text_or_null(traceparent)),
    ];
    map(fields.into_iter())
}

fn text_or_null(text: Option<&str>) -> Box<dyn Val + '_> {
    match text {
        Some(text) => Box::new(CelString::from(text)),
        None => Box::new(CelNull),
    }
}

/// A value of the crate as one of an event: times as text, fields in the order of their names.
pub(super) fn from_cel(value: CelValue) -> Result<Value, EvalError> {
    Ok(match value {
        CelValue::Null => Value::Null,
        CelValue::Bool(value) => Value::Bool(value),
        CelValue::Int(number) => Value::Int(number),
        CelValue::UInt(number) => {
            Value::Int(i64::try_from(number).map_err(|_| EvalError::Overflow { operation: "uint" })?)
        }
        CelValue::Float(number) => Value::Float(number),
        CelValue::String(text) => Value::Text(text.as_str().into()),
        CelValue::Bytes(bytes) => Value::Bytes(Arc::unwrap_or_clone(bytes).into()),
        CelValue::Timestamp(time) => {
            Value::Text(time.to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true).into())
        }
        CelValue::Duration(span) => Value::Text(seconds(span).into()),
        CelValue::List(list) => {
            let values: Result<Vec<Value>, _> = list.iter().cloned().map(from_cel).collect();
            Value::from(values?)
        }
        CelValue::Map(map) => {
            let mut fields: Vec<_> = map.map.iter().collect();
            fields.sort_by_key(|(name, _)| name.to_string());
            let mut made = Map::with_capacity(fields.len());
            for (name, value) in fields {
                made.insert(name.to_string(), from_cel(value.clone())?);
            }
            Value::Map(made)
        }
        other => return Err(EvalError::Other(format!("events cannot hold {other:?}"))),
    })
}

/// As CEL's `string(duration)` has it: seconds with the digits they need, and an `s`.
fn seconds(span: chrono::Duration) -> String {
    let sign = if span < chrono::Duration::zero() { "-" } else { "" };
    let (whole, nanos) = (span.num_seconds().unsigned_abs(), span.subsec_nanos().unsigned_abs());
    let fraction = format!(".{nanos:09}");
    format!("{sign}{whole}{}s", fraction.trim_end_matches('0').trim_end_matches('.'))
}
