//! What the Kubernetes objects of a sidecar, and of a pool of dnpipes, are called.

use sidestream_plan::stage::Account;

/// The sidecar of a pipeline that names none.
pub const ONLY_SIDECAR: &str = "main";

/// The longest name of a Service, in bytes (RFC 1035, section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// The longest name of a StatefulSet, in bytes: its pods wear it in a label, with a hash of ten characters behind it.
pub const SET_BYTES_MAX: usize = LABEL_BYTES_MAX - 11;

/// The name of every object that is made for a sidecar: `latency-watch-hub-spl`.
pub fn object(pipeline: &str, sidecar: &str) -> String {
    format!("{pipeline}-{sidecar}-spl")
}

/// The service account its pods run as.
pub fn account(namespace: &str, pipeline: &str, sidecar: &str) -> Account {
    Account { namespace: namespace.into(), name: object(pipeline, sidecar) }
}

/// The headless Service that has its pods' addresses, to be looked up in the cluster's domain.
pub fn service(namespace: &str, pipeline: &str, sidecar: &str) -> String {
    format!("{}.{namespace}.svc", object(pipeline, sidecar))
}

/// The name of every object that is made for a pool of dnpipes: `dnpipes-default`.
pub fn pool(pool: &str) -> String {
    format!("dnpipes-{pool}")
}

/// The service account its servers run as.
pub fn pool_account(namespace: &str, pool: &str) -> Account {
    Account { namespace: namespace.into(), name: self::pool(pool) }
}

/// The headless Service that has its servers' addresses.
pub fn pool_service(namespace: &str, pool: &str) -> String {
    format!("{}.{namespace}.svc", self::pool(pool))
}

/// The port of dnpipes on the cluster.
pub const DNPIPES_PORT: u16 = 7420;
