//! Quantities as people write them: `5s`, `64Mi`, a CEL expression, a reference to a secret.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A span of time such as `250ms`, `5s`, `1h30m`; units ns, us, ms, s, m, h, d; never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// A number of bytes such as `512`, `64Ki`, `10Mi`, `1G`; Ki, Mi, Gi, Ti are powers of 1024, k, M, G, T of 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// A CEL expression over `event` (the body) and `meta` (the envelope), at most 4 KiB: `event.status >= 500`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Expression(pub String);

/// Where a secret value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// The key of a Secret; locally, the file `name/key` of the folder given with `--secrets`.
    pub secret_ref: SecretKey,
}

/// One key of one Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKey {
    /// Name of the Secret, in the namespace of the Pipeline.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl Duration {
    /// A duration of `seconds`.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// A duration of `millis`.
    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    /// As the standard library's type.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(value: std::time::Duration) -> Self {
        Self(value)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!("`{text}` is no duration; write a number with a unit, such as `250ms`, `5s` or `1h30m`")
        };
        let mut rest = text;
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
            let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = &rest[digits..];
            let (unit, nanos_each) =
                DURATION_UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(refuse)?;
            rest = &rest[unit.len()..];
            nanos += u128::from(number) * u128::from(*nanos_each);
        }
        if text.is_empty() {
            return Err(refuse());
        }
        let nanos = u64::try_from(nanos).map_err(|_| format!("`{text}` is longer than 584 years"))?;
        Ok(Self(std::time::Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = self.0.as_nanos();
        if nanos == 0 {
            return out.write_str("0s");
        }
        for (unit, nanos_each) in DURATION_UNITS_BIG_FIRST {
            let count = nanos / u128::from(*nanos_each);
            if count > 0 {
                write!(out, "{count}{unit}")?;
                nanos -= count * u128::from(*nanos_each);
            }
        }
        Ok(())
    }
}

impl Size {
    /// A size of `bytes`.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "`{text}` is no size; write a whole number of bytes, or one with a unit such as `64Ki` or `10Mi`"
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
        let unit = &text[digits..];
        let (_, bytes_each) = SIZE_UNITS.iter().find(|(own, _)| *own == unit).ok_or_else(refuse)?;
        number.checked_mul(*bytes_each).map(Self).ok_or_else(|| format!("`{text}` is more than 16 Ei"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary =
            SIZE_UNITS[5..].iter().rev().find(|(_, each)| self.0 >= *each && self.0.is_multiple_of(*each));
        match binary {
            Some((unit, each)) => write!(out, "{}{unit}", self.0 / each),
            None => write!(out, "{}", self.0),
        }
    }
}

impl Expression {
    /// The CEL source.
    pub fn source(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Expression {
    fn from(source: &str) -> Self {
        Self(source.into())
    }
}

impl JsonSchema for Expression {
    fn schema_name() -> Cow<'static, str> {
        "Expression".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // `x-cel` tells the definition and the reference that it is no ordinary text.
        json_schema!({"type": "string", "minLength": 1, "maxLength": 4096, "x-cel": true})
    }
}

/// Quantities travel as text, and their schema is a pattern.
macro_rules! as_text {
    ($kind:ident, $name:literal, $pattern:literal, $limit:literal) => {
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                Cow::<str>::deserialize(input)?.parse().map_err(D::Error::custom)
            }
        }
        impl JsonSchema for $kind {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "maxLength": $limit})
            }
        }
    };
}

as_text!(Duration, "Duration", r"^([0-9]+(ns|us|ms|s|m|h|d))+$", 64);
as_text!(Size, "Size", r"^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$", 24);

/// In the order they are tried: a unit stands before those it begins with.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];
const DURATION_UNITS_BIG_FIRST: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const SIZE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_back_as_it_is_written() {
        for text in ["250ms", "5s", "1h30m", "1d", "15us", "7ns", "1m1s1ms"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Duration>().unwrap().to_string(), "1m30s");
    }

    #[test]
    fn a_bad_duration_is_refused_with_what_to_write() {
        for text in ["", "5", "s", "-1s", "1.5s", "5 s", "5sec", "999999999999999999999s"] {
            let error = text.parse::<Duration>().unwrap_err();
            assert!(error.contains("write a number with a unit"), "{text}: {error}");
        }
        assert!("9999999999999h".parse::<Duration>().unwrap_err().contains("584 years"));
    }

    #[test]
    fn sizes_are_powers_of_1024_with_an_i_and_of_1000_without() {
        assert_eq!("64Ki".parse::<Size>().unwrap().bytes(), 65_536);
        assert_eq!("64k".parse::<Size>().unwrap().bytes(), 64_000);
        assert_eq!("64Ki".parse::<Size>().unwrap().to_string(), "64Ki");
        assert_eq!("64k".parse::<Size>().unwrap().to_string(), "64000");
        assert!("64KB".parse::<Size>().unwrap_err().contains("64Ki"));
    }
}
