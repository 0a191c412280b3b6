//! What a dnpipe is called: `namespace/name`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest name of a dnpipe, in bytes: with `-dnp` behind it, it is a label of DNS.
pub const NAME_BYTES_MAX: usize = 59;
/// The longest namespace, in bytes (RFC 1123, section 2.1).
pub const NAMESPACE_BYTES_MAX: usize = 63;

/// The full name of a dnpipe. Both parts are made of lower-case letters, digits and `-`, as Kubernetes names are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct DnpipeName {
    namespace: String,
    name: String,
}

/// Why a text is no name of a dnpipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadName {
    /// The text, shortened where it is long.
    pub text: String,
}

impl DnpipeName {
    /// `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Result<DnpipeName, BadName> {
        if is_label(namespace, NAMESPACE_BYTES_MAX) && is_label(name, NAME_BYTES_MAX) {
            return Ok(DnpipeName { namespace: namespace.into(), name: name.into() });
        }
        Err(BadName { text: format!("{namespace}/{name}").chars().take(SHOWN_CHARS).collect() })
    }

    /// The namespace it lives in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name there.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A label of DNS (RFC 1123, section 2.1).
fn is_label(text: &str, bytes_max: usize) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=bytes_max).contains(&text.len())
        && text.bytes().all(is_good)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// `orders` is `default/orders`.
impl FromStr for DnpipeName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<DnpipeName, BadName> {
        let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        DnpipeName::new(namespace, name)
            .map_err(|_| BadName { text: text.chars().take(SHOWN_CHARS).collect() })
    }
}

#[derive(Serialize, Deserialize)]
struct Parts(String, String);

impl TryFrom<Parts> for DnpipeName {
    type Error = BadName;

    fn try_from(parts: Parts) -> Result<DnpipeName, BadName> {
        DnpipeName::new(&parts.0, &parts.1)
    }
}

impl From<DnpipeName> for Parts {
    fn from(name: DnpipeName) -> Parts {
        Parts(name.namespace, name.name)
    }
}

impl fmt::Display for DnpipeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:?} is no name of a dnpipe; write `name` or `namespace/name`, each of lower-case letters, digits and `-`",
            self.text
        )
    }
}

impl std::error::Error for BadName {}

const DEFAULT_NAMESPACE: &str = "default";
/// As much of a wrong name as an error repeats.
const SHOWN_CHARS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_namespace_is_of_the_default_one() {
        assert_eq!("orders".parse::<DnpipeName>().unwrap().to_string(), "default/orders");
        assert_eq!("shop/orders".parse::<DnpipeName>().unwrap().namespace(), "shop");
    }

    #[test]
    fn what_kubernetes_would_not_take_is_no_name() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "/", "a/", "/a", "a/b/c", "Orders", "or_ders", "-a", "a-", "a b", "ä", &long] {
            assert!(bad.parse::<DnpipeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_off_the_wire_is_checked_like_any_other() {
        let bytes = postcard::to_allocvec(&("shop", "or/ders")).unwrap();
        assert!(postcard::from_bytes::<DnpipeName>(&bytes).is_err());
        let good = postcard::to_allocvec(&("shop", "orders")).unwrap();
        assert_eq!(postcard::from_bytes::<DnpipeName>(&good).unwrap().to_string(), "shop/orders");
    }
}
