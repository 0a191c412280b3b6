//! The functions an expression may call: CEL's standard ones (cel-0.15 `common/types`), with what they take and give.

use crate::Type;

/// One way to call a function.
pub(crate) struct Overload {
    pub(crate) name: &'static str,
    /// What it is called on, where it is called as `x.name(...)`.
    pub(crate) receiver: Option<Kind>,
    pub(crate) args: &'static [Kind],
    pub(crate) result: Kind,
}

/// A type without its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Any,
    Bool,
    Int,
    Float,
    Text,
    Bytes,
    Timestamp,
    Duration,
    List,
    Map,
}

impl Kind {
    /// Whether a value of `kind` may be given where this is wanted.
    pub(crate) fn takes(self, kind: &Type) -> bool {
        match (self, kind) {
            (Kind::Any, _) | (_, Type::Dyn) => true,
            (Kind::List, kind) => matches!(kind, Type::List(_)),
            (Kind::Map, kind) => matches!(kind, Type::Map(_)),
            (wanted, kind) => wanted.as_type() == *kind,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Any => "any value",
            Kind::Bool => "bool",
            Kind::Int => "int",
            Kind::Float => "float",
            Kind::Text => "text",
            Kind::Bytes => "bytes",
            Kind::Timestamp => "timestamp",
            Kind::Duration => "duration",
            Kind::List => "list",
            Kind::Map => "map",
        }
    }

    pub(crate) fn as_type(self) -> Type {
        match self {
            Kind::Any | Kind::List | Kind::Map => Type::Dyn,
            Kind::Bool => Type::Bool,
            Kind::Int => Type::Int,
            Kind::Float => Type::Float,
            Kind::Text => Type::Text,
            Kind::Bytes => Type::Bytes,
            Kind::Timestamp => Type::Timestamp,
            Kind::Duration => Type::Duration,
        }
    }
}

impl Overload {
    /// How a user writes it: `text.startsWith(text)`.
    pub(crate) fn signature(&self) -> String {
        let args: Vec<&str> = self.args.iter().map(|kind| kind.name()).collect();
        let receiver = self.receiver.map(|kind| format!("{}.", kind.name())).unwrap_or_default();
        format!("{receiver}{}({})", self.name, args.join(", "))
    }
}

const fn function(name: &'static str, args: &'static [Kind], result: Kind) -> Overload {
    Overload { name, receiver: None, args, result }
}

const fn method(receiver: Kind, name: &'static str, args: &'static [Kind], result: Kind) -> Overload {
    Overload { name, receiver: Some(receiver), args, result }
}

use Kind::{Any, Bool, Bytes, Duration, Float, Int, List, Map, Text, Timestamp};

/// Every function. Unsigned numbers have no type of their own here: what gives one gives `dyn`.
pub(crate) const FUNCTIONS: &[Overload] = &[
    function("size", &[Text], Int),
    function("size", &[Bytes], Int),
    function("size", &[List], Int),
    function("size", &[Map], Int),
    method(Text, "size", &[], Int),
    method(Bytes, "size", &[], Int),
    method(List, "size", &[], Int),
    method(Map, "size", &[], Int),
    method(Text, "contains", &[Text], Bool),
    method(Text, "startsWith", &[Text], Bool),
    method(Text, "endsWith", &[Text], Bool),
    method(Text, "matches", &[Text], Bool),
    function("matches", &[Text, Text], Bool),
    function("int", &[Int], Int),
    function("int", &[Float], Int),
    function("int", &[Text], Int),
    function("int", &[Timestamp], Int),
    function("uint", &[Int], Any),
    function("uint", &[Float], Any),
    function("uint", &[Text], Any),
    function("double", &[Float], Float),
    function("double", &[Int], Float),
    function("double", &[Text], Float),
    function("string", &[Text], Text),
    function("string", &[Bool], Text),
    function("string", &[Int], Text),
    function("string", &[Float], Text),
    function("string", &[Bytes], Text),
    function("string", &[Timestamp], Text),
    function("string", &[Duration], Text),
    function("bool", &[Bool], Bool),
    function("bool", &[Text], Bool),
    function("bytes", &[Text], Bytes),
    function("bytes", &[Bytes], Bytes),
    function("dyn", &[Any], Any),
    function("type", &[Any], Any),
    function("timestamp", &[Text], Timestamp),
    function("timestamp", &[Int], Timestamp),
    function("timestamp", &[Timestamp], Timestamp),
    function("duration", &[Text], Duration),
    function("duration", &[Duration], Duration),
    method(Timestamp, "getFullYear", &[], Int),
    method(Timestamp, "getFullYear", &[Text], Int),
    method(Timestamp, "getMonth", &[], Int),
    method(Timestamp, "getMonth", &[Text], Int),
    method(Timestamp, "getDayOfYear", &[], Int),
    method(Timestamp, "getDayOfYear", &[Text], Int),
    method(Timestamp, "getDayOfMonth", &[], Int),
    method(Timestamp, "getDayOfMonth", &[Text], Int),
    method(Timestamp, "getDate", &[], Int),
    method(Timestamp, "getDate", &[Text], Int),
    method(Timestamp, "getDayOfWeek", &[], Int),
    method(Timestamp, "getDayOfWeek", &[Text], Int),
    method(Timestamp, "getHours", &[], Int),
    method(Timestamp, "getHours", &[Text], Int),
    method(Duration, "getHours", &[], Int),
    method(Timestamp, "getMinutes", &[], Int),
    method(Timestamp, "getMinutes", &[Text], Int),
    method(Duration, "getMinutes", &[], Int),
    method(Timestamp, "getSeconds", &[], Int),
    method(Timestamp, "getSeconds", &[Text], Int),
    method(Duration, "getSeconds", &[], Int),
    method(Timestamp, "getMilliseconds", &[], Int),
    method(Timestamp, "getMilliseconds", &[Text], Int),
    method(Duration, "getMilliseconds", &[], Int),
];

/// What a function or macro does, for the reference.
pub(crate) fn meaning(name: &str) -> &'static str {
    match name {
        "size" => "How many characters, bytes, elements or fields.",
        "contains" => "Whether the text is somewhere in it.",
        "startsWith" => "Whether it begins with the text.",
        "endsWith" => "Whether it ends with the text.",
        "matches" => {
            "Whether a regular expression (RE2 syntax) matches somewhere in it. The pattern is written out."
        }
        "int" => {
            "A whole number: a float without its fraction, a text that is one, a timestamp's seconds since 1970."
        }
        "uint" => "An unsigned number, where it is one.",
        "double" => "A float.",
        "string" => "A text; bytes must be UTF-8, timestamps are in the form of RFC 3339.",
        "bool" => "`true`, `t` and `1` are true, `false`, `f` and `0` false; any other text is an error.",
        "bytes" => "The UTF-8 of a text.",
        "dyn" => "The same value, of which nothing is known: it is checked when it runs.",
        "type" => "The type, to compare with its CEL name: `type(event.status) == int`.",
        "timestamp" => "A point in time, of RFC 3339 or of seconds since 1970.",
        "duration" => "A span of time, such as `1h30m`, `90s` or `-1.5s`.",
        "getFullYear" => "The year. Times are of UTC, or of the zone that is given.",
        "getMonth" => "The month, from 0.",
        "getDayOfYear" => "The day of the year, from 0.",
        "getDayOfMonth" => "The day of the month, from 0.",
        "getDate" => "The day of the month, from 1.",
        "getDayOfWeek" => "The day of the week, from 0 for Sunday.",
        "getHours" => "The hour; of a duration, all of it in hours.",
        "getMinutes" => "The minute; of a duration, all of it in minutes.",
        "getSeconds" => "The second; of a duration, all of it in seconds.",
        "getMilliseconds" => "The millisecond; of a duration, all of it in milliseconds.",
        "has" => "Whether the field is there, be it null.",
        "all" => "Whether the condition holds for every `x`.",
        "exists" => "Whether it holds for some `x`.",
        "exists_one" => "Whether it holds for exactly one.",
        "filter" => "Those for which it holds.",
        "map" => "What becomes of each; with three arguments, of those for which the second holds.",
        _ => "",
    }
}

/// The macros, which the parser expands where they are called as they should be.
pub(crate) const MACROS: &[(&str, &str)] = &[
    ("has", "has(event.name)"),
    ("all", "event.list.all(x, x > 0)"),
    ("exists", "event.list.exists(x, x > 0)"),
    ("exists_one", "event.list.exists_one(x, x > 0)"),
    ("filter", "event.list.filter(x, x > 0)"),
    ("map", "event.list.map(x, x * 2)"),
];

/// Names of types, which stand for themselves beside `type(...)`.
pub(crate) const TYPES: &[&str] =
    &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

#[cfg(test)]
mod tests {
    use cel::{
        Env,
        common::{
            types::{
                CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelString, CelTimestamp,
            },
            value::{CowVal, Val},
        },
    };

    use super::*;

    fn sample(kind: Kind) -> Box<dyn Val> {
        match kind {
            Kind::Any | Kind::Int => Box::new(CelInt::from(1)),
            Kind::Bool => Box::new(CelBool::from(true)),
            Kind::Float => Box::new(CelDouble::from(1.0)),
            Kind::Text => Box::new(CelString::from("UTC")),
            Kind::Bytes => Box::new(CelBytes::from(vec![1])),
            Kind::Timestamp => Box::new(CelTimestamp::from(chrono::DateTime::UNIX_EPOCH.fixed_offset())),
            Kind::Duration => Box::new(CelDuration::from(chrono::Duration::seconds(1))),
            Kind::List => Box::new(CelList::default()),
            Kind::Map => Box::new(CelMap::default()),
        }
    }

    #[test]
    fn the_interpreter_has_every_function_that_is_a_call() {
        let env = Env::stdlib();
        for overload in FUNCTIONS.iter().filter(|overload| overload.receiver.is_none()) {
            let args: Vec<CowVal<'_, '_>> =
                overload.args.iter().map(|kind| CowVal::Owned(sample(*kind))).collect();
            assert!(env.find_overload(overload.name, &args).is_some(), "{}", overload.signature());
        }
    }
}
