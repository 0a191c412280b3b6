//! Who may do what to a dnpipe: a pure function of its rules and a caller's SPIFFE ID.
//!
//! Whoever calls this has verified the certificate, and with it the trust domain; here only the path counts:
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use serde::{Deserialize, Serialize};

/// What a caller may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verbs {
    /// Push records.
    #[serde(default)]
    pub push: bool,
    /// Pull records, and use groups: acknowledge, seek, redrive.
    #[serde(default)]
    pub pull: bool,
    /// Reset the dnpipe.
    #[serde(default)]
    pub reset: bool,
}

impl Verbs {
    /// Everything.
    pub const ALL: Verbs = Verbs { push: true, pull: true, reset: true };
    /// Nothing.
    pub const NONE: Verbs = Verbs { push: false, pull: false, reset: false };

    /// What one or the other allows.
    pub fn or(self, other: Verbs) -> Verbs {
        Verbs {
            push: self.push || other.push,
            pull: self.pull || other.pull,
            reset: self.reset || other.reset,
        }
    }

    /// Whether nothing is allowed.
    pub fn is_none(self) -> bool {
        self == Verbs::NONE
    }
}

/// Lets somebody do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// What.
    pub verbs: Verbs,
    /// Of which namespace; absent, the dnpipe's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Which service account of it; absent, any.
    #[serde(default)]
    pub service_account: Option<String>,
}

/// What `caller` may do to a dnpipe of `namespace` under `rules`. Without rules, whoever is of the dnpipe's own namespace may
/// do everything and nobody else anything; with rules, exactly what they say. A caller whose ID is none of ours may nothing.
pub fn allowed(rules: &[Rule], namespace: &str, caller: &str) -> Verbs {
    let Some((caller_namespace, account)) = parse(caller) else { return Verbs::NONE };
    if rules.is_empty() {
        return if caller_namespace == namespace { Verbs::ALL } else { Verbs::NONE };
    }
    rules
        .iter()
        .filter(|rule| rule.namespace.as_deref().unwrap_or(namespace) == caller_namespace)
        .filter(|rule| rule.service_account.as_deref().is_none_or(|own| own == account))
        .fold(Verbs::NONE, |verbs, rule| verbs.or(rule.verbs))
}

/// Namespace and service account of a SPIFFE ID of ours (SPIFFE-ID, section 2: no empty, `.` or `..` segments).
fn parse(id: &str) -> Option<(&str, &str)> {
    let mut parts = id.strip_prefix("spiffe://")?.split('/');
    let [domain, ns, namespace, sa, account] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let is_ours = parts.next().is_none() && ns == "ns" && sa == "sa" && !domain.is_empty();
    let is_name = |name: &str| !matches!(name, "" | "." | "..");
    (is_ours && is_name(namespace) && is_name(account)).then_some((namespace, account))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSH: Verbs = Verbs { push: true, ..Verbs::NONE };
    const PULL: Verbs = Verbs { pull: true, ..Verbs::NONE };

    fn rule(verbs: Verbs, namespace: Option<&str>, account: Option<&str>) -> Rule {
        Rule { verbs, namespace: namespace.map(Into::into), service_account: account.map(Into::into) }
    }

    #[test]
    fn without_rules_a_dnpipe_is_private_to_its_namespace() {
        assert_eq!(allowed(&[], "shop", "spiffe://cluster.local/ns/shop/sa/front"), Verbs::ALL);
        assert_eq!(allowed(&[], "shop", "spiffe://cluster.local/ns/web/sa/front"), Verbs::NONE);
    }

    #[test]
    fn rules_allow_exactly_what_they_say_to_whom_they_say_it() {
        let rules =
            [rule(PUSH, Some("web"), Some("front")), rule(PULL, None, None), rule(PULL, Some("web"), None)];
        let of = |caller: &str| allowed(&rules, "shop", caller);
        assert_eq!(of("spiffe://d/ns/web/sa/front"), PUSH.or(PULL));
        assert_eq!(of("spiffe://d/ns/web/sa/back"), PULL);
        assert_eq!(
            of("spiffe://d/ns/shop/sa/any"),
            PULL,
            "its own namespace is not let in by default any more"
        );
        assert_eq!(of("spiffe://d/ns/other/sa/front"), Verbs::NONE);
    }

    #[test]
    fn an_id_that_is_none_of_ours_may_nothing() {
        let open = [rule(Verbs::ALL, None, None)];
        for id in [
            "",
            "spiffe://",
            "shop",
            "spiffe://d/ns/shop",
            "spiffe://d/ns/shop/sa",
            "spiffe://d/ns/shop/sa/",
            "spiffe://d/ns//sa/a",
            "spiffe://d/ns/../sa/a",
            "spiffe:///ns/shop/sa/a",
            "spiffe://d/ns/shop/sa/a/b",
            "spiffe://d/ns/shop/sa/a/",
            "spiffe://d/sa/shop/ns/a",
            "https://d/ns/shop/sa/a",
            "SPIFFE://d/ns/shop/sa/a",
        ] {
            assert_eq!(
                (allowed(&open, "shop", id), allowed(&[], "shop", id)),
                (Verbs::NONE, Verbs::NONE),
                "{id}"
            );
        }
        assert_eq!(allowed(&open, "shop", "spiffe://d/ns/shop/sa/a"), Verbs::ALL);
    }
}
