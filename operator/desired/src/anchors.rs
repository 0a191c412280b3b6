//! The ConfigMap of the roots to trust: what a sidecar that has no certificate yet verifies the operator by.

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::core::DynamicObject;

use crate::{labels, object};

/// Its name, in every namespace that has a Pipeline.
pub const TRUST_CONFIG_MAP: &str = "sidestream-trust";
/// The key that has the roots, PEM.
pub const ANCHORS_KEY: &str = "anchors.pem";

/// The annotation that says where a rotation of the roots is: `Stable`, `Distribute` or `Issue`.
pub const ROTATION: &str = "sidestream.dev/rotation";

/// The ConfigMap for `namespace`, with the roots and the `phase` of their rotation. It has no owner: it is shared by all pipelines of the namespace.
pub fn anchors(namespace: &str, pem: &str, phase: &str) -> DynamicObject {
    let labels = [(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned())];
    object::seal(&ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST_CONFIG_MAP.into()),
            namespace: Some(namespace.into()),
            labels: Some(labels.into()),
            annotations: Some([(ROTATION.to_owned(), phase.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(ANCHORS_KEY.to_owned(), pem.to_owned())].into()),
        ..ConfigMap::default()
    })
}
