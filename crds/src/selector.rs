//! Which pods: a label selector, as Kubernetes has it
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest name and the longest value of a label, in bytes.
const LABEL_BYTES_MAX: usize = 63;
/// The longest prefix of a label's name, in bytes.
const PREFIX_BYTES_MAX: usize = 253;

/// Pods by their labels: all of what is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelector {
    /// Labels they have: `{app: shopfront}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
    /// What else is asked of their labels. Not for a sidecar that an edge leads into: a Service, which finds its pods,
    /// selects by `matchLabels` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<Requirement>,
}

/// What is asked of one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The name of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How it is compared with `values`.
    pub operator: Operator,
    /// What `In` and `NotIn` compare it with: one at least; the others take none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// It is there, with one of the values.
    In,
    /// It has none of the values, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl PodSelector {
    /// Whether pods with `labels` are among those it selects.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|asked| asked.holds(labels))
    }

    /// What is wrong with it, and what to write instead; none where Kubernetes takes it and it does not select every pod.
    pub(crate) fn fault(&self) -> Option<(String, &'static str)> {
        if self.match_labels.is_empty() && self.match_expressions.is_empty() {
            return Some((
                "it asks for nothing, so it would select every pod".into(),
                "write `matchLabels` with a label of the pods you mean",
            ));
        }
        let keys = self.match_labels.keys().chain(self.match_expressions.iter().map(|asked| &asked.key));
        let values =
            self.match_labels.values().chain(self.match_expressions.iter().flat_map(|asked| &asked.values));
        if let Some(key) = keys.into_iter().find(|key| !is_key(key)) {
            return Some((
                format!("`{}` is no name of a label", crate::path::shortened(key)),
                "write letters, digits, `-`, `_` and `.`, at most 63, after a domain and `/` where it has one",
            ));
        }
        if let Some(value) = values.into_iter().find(|value| !is_value(value)) {
            return Some((
                format!("`{}` is no value of a label", crate::path::shortened(value)),
                "write letters, digits, `-`, `_` and `.`, at most 63",
            ));
        }
        self.match_expressions.iter().find_map(Requirement::fault)
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => is_listed,
            Operator::NotIn => !is_listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    fn fault(&self) -> Option<(String, &'static str)> {
        let compares = matches!(self.operator, Operator::In | Operator::NotIn);
        match (compares, self.values.is_empty()) {
            (true, true) => Some((
                format!("`{:?}` compares `{}` with no value", self.operator, self.key),
                "write `values` with one at least",
            )),
            (false, false) => Some((
                format!("`{:?}` compares `{}` with no value, and some are here", self.operator, self.key),
                "leave `values` out, or write `In`",
            )),
            _ => None,
        }
    }
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_domain = |prefix: &str| {
        prefix.len() <= PREFIX_BYTES_MAX
            && prefix.split('.').all(|part| {
                let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
                !part.is_empty()
                    && part.bytes().all(is_part)
                    && !part.starts_with('-')
                    && !part.ends_with('-')
            })
    };
    !name.is_empty() && is_value(name) && prefix.is_none_or(is_domain)
}

fn is_value(value: &str) -> bool {
    let is_outer = |byte: &u8| byte.is_ascii_alphanumeric();
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let bytes = value.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && bytes.iter().all(|byte| is_inner(*byte))
        && bytes.first().is_none_or(is_outer)
        && bytes.last().is_none_or(is_outer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> PodSelector {
        serde_json::from_value(json).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn every_operator_compares_as_kubernetes_does() {
        let pod = labels(&[("app", "shop"), ("tier", "web")]);
        for (json, expected) in [
            (serde_json::json!({"matchLabels": {"app": "shop"}}), true),
            (serde_json::json!({"matchLabels": {"app": "shop", "tier": "db"}}), false),
            (
                serde_json::json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["db", "web"]}]}),
                true,
            ),
            (
                serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}),
                false,
            ),
            (
                serde_json::json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}),
                false,
            ),
            (
                serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}),
                true,
            ),
            (serde_json::json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), true),
            (serde_json::json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false),
        ] {
            assert_eq!(selector(json.clone()).matches(&pod), expected, "{json}");
        }
    }

    #[test]
    fn what_kubernetes_would_refuse_is_named() {
        for (json, named) in [
            (serde_json::json!({"matchLabels": {}}), "every pod"),
            (serde_json::json!({"matchLabels": {"a b": "c"}}), "`a b`"),
            (serde_json::json!({"matchLabels": {"A.io/b": "c"}}), "`A.io/b`"),
            (serde_json::json!({"matchLabels": {"a": "-c"}}), "`-c`"),
            (serde_json::json!({"matchExpressions": [{"key": "a", "operator": "In"}]}), "with no value"),
            (
                serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
                "some are here",
            ),
        ] {
            let (reason, _) = selector(json.clone()).fault().unwrap_or_else(|| panic!("{json}"));
            assert!(reason.contains(named), "{json}: {reason}");
        }
        let good = serde_json::json!({"matchLabels": {"app.kubernetes.io/name": "shop_1.x", "empty": ""}});
        assert_eq!(selector(good).fault(), None);
    }
}
