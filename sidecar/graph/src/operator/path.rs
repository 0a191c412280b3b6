//! Dotted paths into a body: `labels.route` is the field `route` of the map that is the field `labels`.
//!
//! Maps on the way to a field are made where they are missing, or null. What is there and no map is never replaced:
//! [`check`] says so first.

use std::fmt;

use sidestream_event::{Map, Value};

/// What stands where a map should: its kind and, where it is not the body, its path.
#[derive(Debug)]
pub(super) struct NoMap<'a> {
    path: &'a str,
    kind: &'static str,
}

/// Whether everything on the way to `path` is a map, null or missing.
pub(super) fn check<'a>(body: &Value, path: &'a str) -> Result<(), NoMap<'a>> {
    let mut at = body;
    let mut read = 0;
    for name in path.split('.') {
        match at {
            Value::Map(_) => {}
            Value::Null => return Ok(()),
            other => return Err(NoMap { path: &path[..read], kind: other.kind() }),
        }
        read += name.len() + usize::from(read > 0);
        match at.field(name) {
            Some(value) => at = value,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Sets the field at `path`, which was checked.
pub(super) fn put(body: &mut Value, path: &str, value: Value) {
    if !matches!(body, Value::Map(_)) {
        *body = Map::new().into();
    }
    let Value::Map(map) = body else { return };
    match path.split_once('.') {
        None => map.insert(path, value),
        Some((name, rest)) => {
            if map.get(name).is_none() {
                map.insert(name, Map::new());
            }
            if let Some(inner) = map.get_mut(name) {
                put(inner, rest, value);
            }
        }
    }
}

/// Takes out the field at `path`, where there is one.
pub(super) fn take(body: &mut Value, path: &str) -> Option<Value> {
    // Looked at first: reaching in to change would copy a map that another branch shares, for nothing.
    body.at(path)?;
    take_there(body, path)
}

fn take_there(body: &mut Value, path: &str) -> Option<Value> {
    let Value::Map(map) = body else { return None };
    match path.split_once('.') {
        None => map.remove(path),
        Some((name, rest)) => take_there(map.get_mut(name)?, rest),
    }
}

impl fmt::Display for NoMap<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            "" => {
                write!(out, "the body is {} and has no fields to set; `parse` or `map` it first", self.kind)
            }
            path => write!(out, "`{path}` is {} and has no fields to set; `unset` it first", self.kind),
        }
    }
}
