//! The name of a workload: `spiffe://<trust domain>/<path>`.

use std::{fmt, str::FromStr};

/// A SPIFFE ID of a workload, as the SPIFFE-ID standard, section 2, writes them
/// (https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md): compared byte for byte, at most 2048 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins, with its slash.
    path_at: usize,
}

/// Why a text is no SPIFFE ID of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeError {
    /// The text, shortened where it is long.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl SpiffeId {
    /// The name of a Kubernetes service account: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub fn of_service_account(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<SpiffeId, SpiffeError> {
        // A slash in a part would make another name of it.
        if [namespace, service_account].iter().any(|part| part.contains('/')) {
            let text = format!("{namespace}, {service_account}");
            return Err(refuse(&text, "a namespace or service account holds no `/`"));
        }
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The trust domain, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// The path, with its slash.
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Namespace and service account, where it names a Kubernetes service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        let mut parts = self.path().strip_prefix("/ns/")?.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > BYTES_MAX {
            return Err(refuse(text, "it is longer than 2048 bytes"));
        }
        let rest =
            text.strip_prefix(SCHEME).ok_or_else(|| refuse(text, "it does not start with `spiffe://`"))?;
        let slash = rest.find('/').ok_or_else(|| refuse(text, "it names a trust domain and no workload"))?;
        let (trust_domain, path) = rest.split_at(slash);
        check_trust_domain(trust_domain).map_err(|reason| refuse(text, reason))?;
        for segment in path[1..].split('/') {
            check_segment(segment).map_err(|reason| refuse(text, reason))?;
        }
        Ok(SpiffeId { text: text.to_owned(), path_at: SCHEME.len() + slash })
    }
}

/// Whether a text may name a trust domain.
pub(crate) fn check_trust_domain(name: &str) -> Result<(), &'static str> {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    match name.len() {
        0 => Err("its trust domain is empty"),
        1..=255 if name.bytes().all(is_good) => Ok(()),
        1..=255 => Err("a trust domain is made of a-z, 0-9, `.`, `-` and `_`"),
        _ => Err("its trust domain is longer than 255 bytes"),
    }
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    match segment {
        "" => Err("a segment of its path is empty"),
        "." | ".." => Err("a segment of its path is `.` or `..`"),
        _ if segment.bytes().all(is_good) => Ok(()),
        _ => Err("a path is made of letters, digits, `.`, `-` and `_`"),
    }
}

fn refuse(text: &str, reason: &'static str) -> SpiffeError {
    SpiffeError { text: text.chars().take(SHOWN_CHARS).collect(), reason }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Display for SpiffeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} is no SPIFFE ID of a workload: {}", self.text, self.reason)
    }
}

impl std::error::Error for SpiffeError {}

pub(crate) const SCHEME: &str = "spiffe://";
const BYTES_MAX: usize = 2048;
/// As much of a wrong name as an error repeats.
const SHOWN_CHARS: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_service_account_has_a_name_that_can_be_taken_apart() {
        let id = SpiffeId::of_service_account("cluster.local", "shop", "hub").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/hub");
        assert_eq!((id.trust_domain(), id.path()), ("cluster.local", "/ns/shop/sa/hub"));
        assert_eq!(id.service_account(), Some(("shop", "hub")));
        assert_eq!("spiffe://d/ns/a/sa/b/c".parse::<SpiffeId>().unwrap().service_account(), None);
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        let long = format!("spiffe://d/{}", "x".repeat(2048));
        for text in [
            "",
            "spiffe://",
            "spiffe://d",
            "spiffe://d/",
            "spiffe:///a",
            "SPIFFE://d/a",
            "http://d/a",
            "spiffe://D/a",
            "spiffe://d:80/a",
            "spiffe://u@d/a",
            "spiffe://d/a?q",
            "spiffe://d/a#f",
            "spiffe://d/a//b",
            "spiffe://d/a/",
            "spiffe://d/./a",
            "spiffe://d/../a",
            "spiffe://d/%41",
            "spiffe://d/ä",
            "spiffe://d/a b",
            "spiffe://d/a\0",
            &long,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        assert!(SpiffeId::of_service_account("d", "a/sa/b", "c").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_kept_byte_for_byte(text in "(spiffe://)?[a-zA-Z0-9./:_%-]{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), &text);
                prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            }
        }
    }
}
