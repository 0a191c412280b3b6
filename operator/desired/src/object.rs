//! What every object has in common: type, name, owner, labels, and a hash of what it asks for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::DynamicObject};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Of, labels};

/// The metadata of an object of a sidecar.
pub(crate) fn metadata(of: &Of<'_>) -> ObjectMeta {
    let pipeline = of.pipeline.metadata.name.as_deref().unwrap_or_default();
    ObjectMeta {
        name: Some(of.name()),
        namespace: of.pipeline.metadata.namespace.clone(),
        labels: Some(labels::of_sidecar(pipeline, &of.sidecar.name)),
        owner_references: of.pipeline.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The object as it is applied, with the hash of its content.
pub(crate) fn finish<K: serde::Serialize + k8s_openapi::Metadata<Ty = ObjectMeta>>(
    mut object: K,
    of: &Of<'_>,
) -> DynamicObject {
    *object.metadata_mut() = metadata(of);
    seal(&object)
}

/// Writes the hash of an object's content into it.
pub(crate) fn seal(object: &impl serde::Serialize) -> DynamicObject {
    let value = serde_json::to_value(object).expect("an object is a tree of text and numbers");
    let hash = short_hash(&value);
    let mut object: DynamicObject = serde_json::from_value(value).expect("an object has a type and metadata");
    object.metadata.annotations.get_or_insert_default().insert(labels::APPLIED.into(), hash);
    object
}

/// The hash of what was applied to make `object` what it is; none where somebody else made it.
pub fn applied_hash(object: &ObjectMeta) -> Option<&str> {
    object.annotations.as_ref()?.get(labels::APPLIED).map(String::as_str)
}

/// Whether everything `desired` says is so in `live`, which may say more: defaults, and what others own.
///
/// Lists must have equal lengths; maps need not.
pub fn is_contained(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            desired.iter().all(|(key, value)| is_contained(value, live.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len()
                && desired.iter().zip(live).all(|(desired, live)| is_contained(desired, live))
        }
        // An empty map or list that the server left out.
        (Value::Object(desired), Value::Null) => desired.is_empty(),
        (Value::Array(desired), Value::Null) => desired.is_empty(),
        // The server writes 20.0 as 20.
        (Value::Number(desired), Value::Number(live)) => desired == live || desired.as_f64() == live.as_f64(),
        (desired, live) => desired == live,
    }
}

/// The first 64 bits of the SHA-256 of `value`, in hexadecimal. Keys are sorted, so equal values have equal hashes.
pub(crate) fn short_hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_adds_is_no_difference() {
        let desired = json!({"spec": {"ports": [{"name": "edge"}], "selector": {}}});
        let live = json!({"spec": {"ports": [{"name": "edge", "protocol": "TCP"}], "clusterIP": "None"}});
        assert!(is_contained(&json!({"rate": 20.0}), &json!({"rate": 20})));
        assert!(is_contained(&desired, &live));
    }

    #[test]
    fn what_somebody_changed_removed_or_added_to_a_list_is() {
        let desired = json!({"spec": {"ports": [{"name": "edge"}], "type": "ClusterIP"}});
        for live in [
            json!({"spec": {"ports": [{"name": "edg"}], "type": "ClusterIP"}}),
            json!({"spec": {"ports": [{"name": "edge"}]}}),
            json!({"spec": {"ports": [{"name": "edge"}, {"name": "mine"}], "type": "ClusterIP"}}),
        ] {
            assert!(!is_contained(&desired, &live), "{live}");
        }
    }
}
