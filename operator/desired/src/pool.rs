//! The Kubernetes objects that serve a pool of dnpipes: pure, from its members to YAML.
//!
//! ```text
//! Dnpipes of one namespace and pool ──▶ in the order they are applied:
//!     Service         headless: where the servers are found
//!     ServiceAccount  whom they run as, hence their SPIFFE ID: who calls them knows it from the pool's name
//!     NetworkPolicy   which namespaces may connect
//!     PodDisruptionBudget
//!     StatefulSet     the servers, each with a volume of its own
//! ```
//!
//! The pool belongs to all of its members: each is an owner of every object, and with the last of them the objects go. The
//! volumes never go by themselves: what is on them is somebody's.

use k8s_openapi::{
    api::{
        core::v1::{Service, ServiceAccount, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::{Resource, core::DynamicObject};
use serde_json::Value;
use sidestream_crds::{Dnpipe, names};
use sidestream_plan::Dnpipe as Kept;

use crate::{Facts, labels, object, ports};

mod placement;
mod policy;
mod set;

pub use placement::homes;

/// What a pool without quotas asks of its volume.
const VOLUME_BYTES: u64 = 10 << 30;
/// The least volume: a journal has its segments and a reserve.
const VOLUME_BYTES_MIN: u64 = 1 << 30;

/// The dnpipes of a namespace that share servers and volumes.
#[derive(Clone, Debug)]
pub struct Pool<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The name that its members give it.
    pub name: &'a str,
    /// The resources, which own it.
    pub owners: &'a [&'a Dnpipe],
    /// What its servers keep.
    pub members: &'a [&'a Kept],
    /// The volume of each server.
    pub claim: &'a Claim,
    /// How many servers there are.
    pub servers: u32,
}

/// What a server asks of its volume. It is asked once: Kubernetes takes no other claim for a set that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The class; none: the cluster's default.
    pub class: Option<String>,
    /// How large: `10Gi`.
    pub size: String,
}

impl Claim {
    /// For a pool that is made for `members`: room for their quotas and a quarter more for what a journal keeps beside them;
    /// 10 GiB where one of them has none.
    pub fn for_members<'a>(members: impl IntoIterator<Item = &'a Dnpipe>) -> Claim {
        let (mut class, mut bytes) = (None, 0_u64);
        for member in members {
            let storage = member.spec.storage.clone().unwrap_or_default();
            class = class.or(storage.storage_class_name);
            let quota = storage.size.map_or(VOLUME_BYTES, |size| size.bytes());
            bytes = bytes.saturating_add(quota);
        }
        let bytes = bytes.saturating_add(bytes / 4).max(VOLUME_BYTES_MIN);
        Claim { class, size: quantity(bytes) }
    }
}

/// Whole mebibytes, as the API server would write them: in the largest unit that has no fraction.
fn quantity(bytes: u64) -> String {
    let (mut amount, mut units) = (bytes.div_ceil(1 << 20), ["Mi", "Gi", "Ti"].into_iter());
    let mut unit = units.next();
    while amount % 1024 == 0
        && let Some(larger) = units.next()
    {
        (amount, unit) = (amount / 1024, Some(larger));
    }
    format!("{amount}{}", unit.unwrap_or_default())
}

/// Everything that serves `pool`, in the order it is to be applied. Its owners come from an API server.
pub fn pool_objects(pool: &Pool<'_>, facts: &Facts) -> Vec<DynamicObject> {
    vec![
        pool.finish(service(pool)),
        pool.finish(ServiceAccount {
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }),
        pool.finish(policy::build(pool)),
        pool.finish(budget(pool)),
        pool.finish(set::build(pool, facts)),
    ]
}

/// The name of the content of what a server keeps.
pub fn dnpipe_hash(dnpipe: &Kept) -> String {
    object::short_hash(&serde_json::to_value(dnpipe).unwrap_or(Value::Null))
}

impl Pool<'_> {
    /// What every object of it is called.
    fn object_name(&self) -> String {
        names::pool(self.name)
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(labels::pool_selector(self.name)), ..LabelSelector::default() }
    }

    fn finish<K: serde::Serialize + k8s_openapi::Metadata<Ty = ObjectMeta>>(
        &self,
        mut object: K,
    ) -> DynamicObject {
        *object.metadata_mut() = ObjectMeta {
            name: Some(self.object_name()),
            namespace: Some(self.namespace.into()),
            labels: Some(labels::of_pool(self.name)),
            // None of them controls it: an object has one controller at most.
            owner_references: Some(self.owners.iter().filter_map(|owner| owner.owner_ref(&())).collect()),
            ..ObjectMeta::default()
        };
        object::seal(&object)
    }
}

/// The servers are in it before they are ready: who waits for one must be able to find it.
fn service(pool: &Pool<'_>) -> Service {
    let port = |name: &str, number: i32, target: &str| ServicePort {
        name: Some(name.into()),
        port: number,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(target.into())),
        ..ServicePort::default()
    };
    Service {
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::pool_selector(pool.name)),
            ports: Some(vec![
                port(ports::DNPIPES_SERVICE_NAME, ports::DNPIPES, ports::DNPIPES_NAME),
                port(ports::METRICS_NAME, ports::METRICS, ports::METRICS_NAME),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// One server at a time goes when a node is drained.
fn budget(pool: &Pool<'_>) -> PodDisruptionBudget {
    PodDisruptionBudget {
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pool.selector()),
            // A pod that does not work must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

#[cfg(test)]
mod tests {
    use sidestream_crds::{DnpipeSpec, Storage};

    use super::*;

    fn member(size: Option<&str>, class: Option<&str>) -> Dnpipe {
        let size = size.map(|size| size.parse().unwrap());
        let storage = Storage { size, storage_class_name: class.map(str::to_owned), reclaim: None };
        Dnpipe::new("d", DnpipeSpec { storage: Some(storage), ..DnpipeSpec::default() })
    }

    #[test]
    fn a_volume_has_room_for_the_quotas_and_for_what_is_beside_them() {
        let claim = |members: &[Dnpipe]| Claim::for_members(members);
        let two = claim(&[member(Some("4Gi"), None), member(Some("4Gi"), Some("fast"))]);
        assert_eq!(two, Claim { class: Some("fast".into()), size: "10Gi".into() });
        assert_eq!(claim(&[member(None, None)]).size, "12800Mi");
        assert_eq!(claim(&[member(Some("1Mi"), None)]).size, "1Gi", "less would not hold a journal");
    }
}
