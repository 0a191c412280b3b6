//! In a pod of a cluster: the servers of a pool of dnpipes, and who this program is to them.
//!
//! It proves who it is as a sidecar does: with a token of its pod it gets a certificate from the operator. What the pod is to
//! mount for that is in `docs/how-to/dnpipes-on-a-cluster.md`.

use std::{env, path::PathBuf, str::FromStr, time::Duration};

use sidestream_client::{Address, ClientConfig};
use sidestream_crds::names;
use sidestream_sidecar::cluster::{Settings, enrol};
use tokio::{runtime::Runtime, time::timeout};

/// A pool of dnpipes: `heavy`, or with its namespace `shop/heavy`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pool {
    namespace: Option<String>,
    name: String,
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Pool, String> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let is_label = |text: &str| {
            let is_inner = |own: char| own.is_ascii_lowercase() || own.is_ascii_digit() || own == '-';
            !text.is_empty() && text.len() <= names::LABEL_BYTES_MAX && text.chars().all(is_inner)
        };
        if !is_label(name) || !namespace.is_none_or(is_label) {
            return Err("this is no pool; write NAME or NAMESPACE/NAME, such as `shop/default`".into());
        }
        Ok(Pool { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

impl Pool {
    /// Where its servers are, with a certificate of this pod's to show them. Waits for that as long as `config` has patience.
    pub(crate) fn address(&self, runtime: &Runtime, config: &ClientConfig) -> Result<Address, String> {
        let settings = settings()?;
        let namespace = self.namespace.as_ref().unwrap_or(&settings.namespace).clone();
        let account = names::pool_account(&namespace, &self.name);
        let operator = settings.operator_id.to_string();
        let domain = operator.trim_start_matches("spiffe://").split('/').next().unwrap_or_default();
        let expected = format!("spiffe://{domain}/ns/{}/sa/{}", account.namespace, account.name);
        let expected = expected.parse().map_err(|error| format!("`{expected}` is no name: {error}"))?;
        let host = format!("{}:{}", names::pool_service(&namespace, &self.name), names::DNPIPES_PORT);
        let patience = config.patience.max(ENROL_MIN);
        let enrolled = runtime.block_on(async { timeout(patience, enrol(&settings, &config.clock)).await });
        let enrolled = enrolled.map_err(|_| {
            format!(
                "no certificate from the operator at {} within {} s; look at its log, and at what this pod mounts",
                settings.operator,
                patience.as_secs()
            )
        })?;
        Ok(Address::Peer { host, identity: enrolled.identity, expected })
    }
}

/// As the container of a sidecar has them.
fn settings() -> Result<Settings, String> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let of_pod = |name: &str| {
        variable(name).ok_or_else(|| format!("--pool is for pods of a cluster: ${name} is to be set there"))
    };
    let id = variable("SIDESTREAM_OPERATOR_ID");
    let id = id.as_deref().unwrap_or("spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator");
    let operator = variable("SIDESTREAM_OPERATOR");
    let run = PathBuf::from("/var/run/sidestream");
    Ok(Settings {
        operator: operator.unwrap_or_else(|| "sidestream-operator.sidestream-system.svc:9443".into()),
        operator_id: id
            .parse()
            .map_err(|error| format!("$SIDESTREAM_OPERATOR_ID is no SPIFFE ID: {error}"))?,
        pod: of_pod("POD_NAME")?,
        namespace: of_pod("POD_NAMESPACE")?,
        token: run.join("token/token"),
        anchors: run.join("trust/anchors.pem"),
        identity: run.join("identity"),
        cache: PathBuf::from("/var/cache/sidestream"),
    })
}

/// A first certificate takes a few answers of the API server.
const ENROL_MIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_a_name_and_where_it_is_another_a_namespace() {
        let named = |namespace: Option<&str>, name: &str| {
            Ok(Pool { namespace: namespace.map(str::to_owned), name: name.to_owned() })
        };
        assert_eq!("default".parse(), named(None, "default"));
        assert_eq!("shop/heavy".parse(), named(Some("shop"), "heavy"));
        for bad in ["", "/", "shop/", "/heavy", "Heavy", "a/b/c", "a.b"] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
    }
}
