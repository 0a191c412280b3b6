//! The labels and annotations of what the operator makes.

use std::collections::BTreeMap;

/// [`MANAGER`], on everything the operator makes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGER: &str = "sidestream";
/// The name of the Pipeline.
pub const PIPELINE: &str = "sidestream.dev/pipeline";
/// The name of the sidecar in it.
pub const SIDECAR: &str = "sidestream.dev/sidecar";
/// The name of the pool of dnpipes.
pub const POOL: &str = "sidestream.dev/pool";
/// On a pod of the user's that asks for a sidecar: [`INJECT_ENABLED`]. On a namespace that wants none: `disabled`.
pub const INJECT: &str = "sidestream.dev/inject";
/// The value of [`INJECT`] that asks.
pub const INJECT_ENABLED: &str = "enabled";
/// An annotation of a pod of the user's: pools beside `default` in which its containers look for dnpipes, by their names, with
/// commas between them.
pub const POOLS: &str = "sidestream.dev/pools";
/// An annotation of a pod of the user's: how much its sidecar may spill, as `4Gi`.
pub const SPILL: &str = "sidestream.dev/spill";
/// An annotation: a hash of what was applied, so that what is up to date is not written again.
pub const APPLIED: &str = "sidestream.dev/applied";

/// What selects the pods of a sidecar.
pub fn selector(pipeline: &str, sidecar: &str) -> BTreeMap<String, String> {
    [(PIPELINE, pipeline), (SIDECAR, sidecar)].map(|(key, value)| (key.into(), value.into())).into()
}

/// What is on every object of a pipeline.
pub fn of_pipeline(pipeline: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, MANAGER), (PIPELINE, pipeline)].map(|(key, value)| (key.into(), value.into())).into()
}

/// What is on every object of a sidecar.
pub fn of_sidecar(pipeline: &str, sidecar: &str) -> BTreeMap<String, String> {
    let mut labels = of_pipeline(pipeline);
    labels.extend(selector(pipeline, sidecar));
    labels
}

/// What selects the servers of a pool.
pub fn pool_selector(pool: &str) -> BTreeMap<String, String> {
    [(POOL.to_owned(), pool.to_owned())].into()
}

/// What is on every object of a pool.
pub fn of_pool(pool: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, MANAGER), (POOL, pool)].map(|(key, value)| (key.into(), value.into())).into()
}
