//! Does a value have the shape its schema asks for? Every answer at once, each with its field.
//!
//! It walks the value and the schema of the CustomResourceDefinition side by side, so it knows no field by name. What it
//! lets pass can be deserialised. It never descends where the schema ends, so the schema bounds its depth.

use std::{collections::HashMap, sync::Mutex};

use regex::Regex;
use serde_json::{Map, Value};
use sidestream_plan::{Duration, Process, Sink, Size, Source};

use crate::{
    crd::IS_CEL,
    diagnostic::{Code, Diagnostic},
    path::{Path, quoted, shortened},
    suggest::{instead, nearest, one_of},
};

/// Compares `value` with `schema`. Nothing is said of what is under one of the `refused` paths.
pub(crate) fn check(value: &Value, schema: &Value, refused: &[Path], origin: Origin) -> Vec<Diagnostic> {
    let mut walk = Walk { refused, origin, found: Vec::new() };
    walk.value(value, schema, &Path::top());
    walk.found
}

/// Who made the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A person, as text.
    Text,
    /// A program, which may use kinds that text has no words for.
    Code,
}

struct Walk<'a> {
    refused: &'a [Path],
    origin: Origin,
    found: Vec<Diagnostic>,
}

impl Walk<'_> {
    fn say(&mut self, code: Code, path: &Path, reason: impl Into<String>, cure: impl Into<String>) {
        self.found.push(Diagnostic::new(code, path.clone(), reason, cure));
    }

    fn value(&mut self, value: &Value, schema: &Value, path: &Path) {
        let nullable = schema["nullable"] == true;
        if self.refused.contains(path) || (value.is_null() && nullable) {
            return;
        }
        match (schema["type"].as_str().unwrap_or_default(), value) {
            ("object", Value::Object(map)) => self.object(map, schema, path),
            ("array", Value::Array(list)) => self.array(list, schema, path),
            ("string", Value::String(text)) => self.text(text, schema, path),
            ("integer", Value::Number(number)) if !number.is_f64() => self.number(number, schema, path),
            ("number", Value::Number(number)) => self.number(number, schema, path),
            ("boolean", Value::Bool(_)) => {}
            (wanted, _) => self.wrong_type(value, wanted, schema, path),
        }
    }

    fn wrong_type(&mut self, value: &Value, wanted: &str, schema: &Value, path: &Path) {
        let pattern = schema["pattern"].as_str().unwrap_or_default();
        let cure = match (wanted, value) {
            ("object", Value::Null) if schema["required"].is_null() && schema["maxProperties"].is_null() => {
                "write `{}`, or the fields that differ from their defaults".into()
            }
            ("string", Value::Number(number)) if is_duration(pattern) => {
                format!("write a number with a unit, such as `{number}s`")
            }
            ("string", Value::Number(number)) if number.is_u64() && is_size(pattern) => {
                format!("write `\"{number}\"`")
            }
            ("string", Value::Number(_) | Value::Bool(_)) => format!("write it in quotes: `\"{value}\"`"),
            ("array", Value::String(text)) => format!("write a list: `[{}]`", shortened(text)),
            ("boolean", Value::String(_)) => "write `true` or `false`, without quotes".into(),
            ("number" | "integer", Value::String(text)) if text.parse::<f64>().is_ok() => {
                "write it without quotes".into()
            }
            ("object", _) if schema["required"].is_array() => {
                let names = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let names = names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
                format!("write a map with {names}")
            }
            _ => format!("write {}", type_name(wanted)),
        };
        let reason = format!("this is {}, and {} belongs here", value_name(value), type_name(wanted));
        self.say(Code::WrongType, path, reason, cure);
    }

    fn object(&mut self, map: &Map<String, Value>, schema: &Value, path: &Path) {
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            self.count(map.len(), "entries", &schema["minProperties"], &schema["maxProperties"], path);
            for (key, value) in map {
                self.value(value, inner, &path.field(key));
            }
            return;
        }
        let is_union = schema["minProperties"] == 1 && schema["maxProperties"] == 1;
        for (key, value) in map {
            match properties.get(key) {
                Some(inner) => self.value(value, inner, &path.field(key)),
                None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                None if self.origin == Origin::Code && IN_CODE.contains(&key.as_str()) => {}
                None if is_union => self.unknown_kind(key, properties, &path.field(key)),
                None => self.unknown_field(key, properties, path),
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(name) {
                let cure = format!("add `{name}`{}", described(&properties[name]));
                self.say(Code::MissingField, path, format!("`{name}` is missing"), cure);
            }
        }
        let known: Vec<&str> =
            map.keys().map(String::as_str).filter(|key| properties.contains_key(*key)).collect();
        if is_union {
            self.exactly_one(&known, map.len(), properties.keys().map(String::as_str), path);
        } else if ROLES.iter().all(|role| properties.contains_key(*role)) {
            let roles: Vec<&str> =
                ROLES.into_iter().filter(|role| map.get(*role).is_some_and(|kind| !kind.is_null())).collect();
            let kinds_astray = map.keys().filter(|key| role_of(key).is_some()).count();
            self.exactly_one(&roles, roles.len() + kinds_astray, ROLES, path);
        } else if !schema["minProperties"].is_null() && map.is_empty() {
            let cure = one_of(properties.keys().map(String::as_str)).unwrap_or_default();
            self.say(Code::BadCount, path, "this is empty, and needs at least one field", cure);
        }
    }

    /// `written` counts unknown keys too: they have been reported, so their absence is not.
    fn exactly_one<'a>(
        &mut self,
        known: &[&str],
        written: usize,
        choices: impl IntoIterator<Item = &'a str>,
        path: &Path,
    ) {
        if known.len() > 1 {
            let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
            let cure = "keep one of them; a second step is a stage of its own";
            self.say(Code::TwoKinds, path, format!("{names} are both here, and exactly one may be"), cure);
        } else if written == 0 {
            let cure = one_of(choices).unwrap_or_default();
            self.say(Code::NoKind, path, "nothing here says what it does", cure);
        }
    }

    fn unknown_kind(&mut self, key: &str, properties: &Map<String, Value>, path: &Path) {
        let cure = match role_of(key) {
            Some(role) => format!("write it as what it is: `{role}: {{{key}: ...}}`"),
            None => instead(key, properties.keys().map(String::as_str), "leave it out"),
        };
        self.say(Code::UnknownKind, path, format!("there is no kind `{}` here", shortened(key)), cure);
    }

    fn unknown_field(&mut self, key: &str, properties: &Map<String, Value>, parent: &Path) {
        let takes_roles = ROLES.iter().all(|role| properties.contains_key(*role));
        let cure = match (role_of(key), nearest(key, properties.keys().map(String::as_str))) {
            (Some(role), _) if takes_roles => format!("write `{role}: {{{key}: ...}}`"),
            (_, Some(name)) => format!("write `{name}`"),
            _ if STAGE_FIELDS.contains(&key) => {
                format!("move `{key}` to the stage itself, beside its `name`")
            }
            _ if properties.is_empty() => "leave it out; there are no fields here".into(),
            _ => {
                let names = properties.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                format!("leave it out; the fields here are {names}")
            }
        };
        let reason = format!("there is no field `{}` here", shortened(key));
        self.say(Code::UnknownField, &parent.field(key), reason, cure);
    }

    fn array(&mut self, list: &[Value], schema: &Value, path: &Path) {
        let most = schema["maxItems"].as_u64().map_or(usize::MAX, |most| most as usize);
        if list.len() > most && path.to_string() == "spec.stages" {
            let reason = format!("there are {} stages, and a pipeline has at most {most}", list.len());
            self.say(Code::TooManyStages, path, reason, "make it two pipelines");
            return;
        }
        self.count(list.len(), "elements", &schema["minItems"], &schema["maxItems"], path);
        for (index, value) in list.iter().take(most).enumerate() {
            self.value(value, &schema["items"], &path.element(index));
        }
    }

    fn count(&mut self, count: usize, what: &str, least: &Value, most: &Value, path: &Path) {
        if let Some(least) = least.as_u64().filter(|least| (count as u64) < *least) {
            let reason = format!("there are {count} {what}, and at least {least} must be here");
            self.say(Code::BadCount, path, reason, "add what is missing");
        }
        if let Some(most) = most.as_u64().filter(|most| count as u64 > *most) {
            let reason = format!("there are {count} {what}, and at most {most} may be here");
            self.say(Code::BadCount, path, reason, "take some out");
        }
    }

    fn text(&mut self, text: &str, schema: &Value, path: &Path) {
        if let Some(values) = schema["enum"].as_array() {
            let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            if !values.contains(&text) {
                let reason = format!("{} is no value of this field", quoted(text));
                let cure = instead(text, values, "leave it out");
                self.say(Code::UnknownValue, path, reason, cure);
            }
            return;
        }
        let (least, most) = (schema["minLength"].as_u64(), schema["maxLength"].as_u64());
        let length = text.chars().count() as u64;
        if length < least.unwrap_or(0) {
            let reason = match length {
                0 => "this text is empty".into(),
                _ => format!(
                    "this text has {length} characters, and at least {} are asked for",
                    least.unwrap_or(0)
                ),
            };
            self.say(Code::BadLength, path, reason, format!("write something{}", described(schema)));
            return;
        }
        if let Some(most) = most.filter(|most| length > *most) {
            let reason = format!("this text has {length} characters, and at most {most} may be here");
            self.say(Code::BadLength, path, reason, format!("shorten it{}", described(schema)));
            return;
        }
        let Some(pattern) = schema["pattern"].as_str() else { return };
        // A quantity says itself what is wrong with it.
        let (code, refusal) = match pattern {
            pattern if is_duration(pattern) => (Code::BadDuration, text.parse::<Duration>().err()),
            pattern if is_size(pattern) => (Code::BadSize, text.parse::<Size>().err()),
            pattern if !matches(pattern, text) => {
                let reason = format!("{} does not have the form of this field", quoted(text));
                let cure = match schema["description"].as_str() {
                    Some(description) => format!("write {}", lower_first(&one_line(description))),
                    None => format!("write what matches `{pattern}`"),
                };
                return self.say(Code::BadText, path, reason, cure);
            }
            _ => return,
        };
        if let Some(refusal) = refusal {
            let (reason, cure) = refusal.split_once("; ").unwrap_or((&refusal, "write a smaller one"));
            self.say(code, path, reason, cure);
        }
    }

    fn number(&mut self, number: &serde_json::Number, schema: &Value, path: &Path) {
        let value = number.as_f64().unwrap_or(f64::NAN);
        let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        if least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most) {
            return;
        }
        let bounds = match (&schema["minimum"], &schema["maximum"]) {
            (least, Value::Null) => format!("at least {least}"),
            (Value::Null, most) => format!("at most {most}"),
            (least, most) => format!("from {least} to {most}"),
        };
        self.say(
            Code::OutOfRange,
            path,
            format!("{number} is outside the range"),
            format!("write a number {bounds}"),
        );
    }
}

/// What a stage is; exactly one of them is in it.
pub(crate) const ROLES: [&str; 3] = ["source", "process", "sink"];
/// Kinds that only a program can make.
const IN_CODE: [&str; 2] = ["push", "custom"];
/// Fields of a stage, for those who write them a level too deep.
const STAGE_FIELDS: [&str; 6] = ["from", "when", "otherwise", "priority", "input", "onError"];

/// Where a kind belongs, when somebody wrote it without saying.
pub(crate) fn role_of(kind: &str) -> Option<&'static str> {
    let lists = [Source::KINDS, Process::KINDS, Sink::KINDS];
    ROLES.into_iter().zip(lists).find(|(_, kinds)| kinds.contains(&kind)).map(|(role, _)| role)
}

pub(crate) fn is_duration(pattern: &str) -> bool {
    pattern.contains("(ns|us|ms|s|m|h|d)")
}

pub(crate) fn is_size(pattern: &str) -> bool {
    pattern.contains("Ki|Mi|Gi")
}

/// Whether `text` matches a pattern of the schema. Patterns are few and known, so they are compiled once.
fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: Mutex<Option<HashMap<String, Regex>>> = Mutex::new(None);
    let mut compiled = COMPILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    let regex = compiled
        .entry(pattern.into())
        .or_insert_with(|| Regex::new(pattern).expect("patterns of the schema are regular expressions"));
    regex.is_match(text)
}

fn described(schema: &Value) -> String {
    schema["description"]
        .as_str()
        .map(|text| format!(": {}", lower_first(&one_line(text))))
        .unwrap_or_default()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    // An abbreviation such as `POST` stays as it is.
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => {
            first.to_lowercase().chain([second]).chain(chars).collect()
        }
        _ => text.into(),
    }
}

/// A description without line breaks, its list of values and the full stop, to stand at the end of a clause.
fn one_line(description: &str) -> String {
    let text = description.split("\n- ").next().unwrap_or_default();
    let words = text.trim_end_matches(IS_CEL).split_whitespace().collect::<Vec<_>>().join(" ");
    words.trim_end_matches('.').into()
}

fn value_name(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) => format!("`{value}`"),
        Value::Number(number) if number.is_f64() => format!("the number {number}"),
        Value::Number(number) => format!("the whole number {number}"),
        Value::String(text) => format!("the text {}", quoted(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
    }
}

fn type_name(wanted: &str) -> &'static str {
    match wanted {
        "object" => "a map",
        "array" => "a list",
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "`true` or `false`",
    }
}
