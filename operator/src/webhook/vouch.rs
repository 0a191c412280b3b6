//! Whom the API server is to trust when it asks: written into the configurations of the webhooks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use sidestream_desired::FIELD_MANAGER;
use tokio::{sync::watch, time::sleep};

use crate::trust::Roots;

/// How long a configuration that could not be written is left alone.
const RETRY: Duration = Duration::from_secs(10);
/// One configuration of what changes objects, one of what only refuses them.
const KINDS: usize = 2;

/// Whom the configurations say to trust, as they were last seen. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vouched(Arc<Mutex<HashMap<String, Option<DynamicObject>>>>);

impl Vouched {
    /// Whether every configuration has been seen, and those that are there have exactly this to trust.
    pub(crate) fn is_for(&self, pem: &str) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_so = |own: &Option<DynamicObject>| own.as_ref().is_none_or(|own| patch(own, pem).is_none());
        seen.len() == KINDS && seen.values().all(is_so)
    }

    fn saw(&self, kind: &str, configuration: Option<DynamicObject>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.to_owned(), configuration);
    }
}

/// Writes the roots of the moment into the configurations called `name`, for as long as it is polled.
pub(crate) async fn vouch(client: Client, name: &str, roots: &watch::Sender<Arc<Roots>>, vouched: &Vouched) {
    let of = |resource: ApiResource| {
        let api = Api::all_with(client.clone(), &resource);
        vouch_in(api, resource.kind, name, roots.subscribe(), vouched)
    };
    tokio::join!(
        of(ApiResource::erase::<ValidatingWebhookConfiguration>(&())),
        of(ApiResource::erase::<MutatingWebhookConfiguration>(&())),
    );
}

async fn vouch_in(
    api: Api<DynamicObject>,
    kind: String,
    name: &str,
    mut roots: watch::Receiver<Arc<Roots>>,
    vouched: &Vouched,
) {
    let mut configurations = std::pin::pin!(watcher::watch_object(api.clone(), name).default_backoff());
    let mut current = None;
    let mut has_failed = false;
    loop {
        tokio::select! {
            seen = configurations.next() => match seen {
                Some(Ok(seen)) => {
                    vouched.saw(&kind, seen.clone());
                    current = seen;
                }
                Some(Err(error)) => {
                    tracing::info!(%error, kind, name, "cannot be seen");
                    continue;
                }
                None => return,
            },
            changed = roots.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if has_failed => {}
        }
        has_failed = false;
        let Some(configuration) = &current else { continue };
        let pem = roots.borrow_and_update().anchors.to_pem();
        let Some(patch) = patch(configuration, &pem) else { continue };
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        // A strategic merge: the chart's fields stay the chart's.
        match api.patch(name, &params, &Patch::Strategic(patch)).await {
            Ok(_) => tracing::info!(kind, name, "the API server trusts the webhook"),
            Err(error) => {
                has_failed = true;
                tracing::warn!(%error, kind, name, "the API server does not trust the webhook");
            }
        }
    }
}

/// What makes every webhook of `configuration` trusted by `pem`; none where each is.
fn patch(configuration: &DynamicObject, pem: &str) -> Option<Value> {
    let bundle = json!(ByteString(pem.as_bytes().to_vec()));
    let webhooks = configuration.data["webhooks"].as_array()?;
    if webhooks.iter().all(|webhook| webhook["clientConfig"]["caBundle"] == bundle) {
        return None;
    }
    let webhooks =
        webhooks.iter().map(|webhook| json!({"name": webhook["name"], "clientConfig": {"caBundle": bundle}}));
    Some(json!({ "webhooks": webhooks.collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trusted_already_is_not_written_again() {
        let mut configuration: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "sidestream-operator"},
            "webhooks": [{"name": "inject.sidestream.dev", "clientConfig": {"service": {"name": "s"}}}],
        }))
        .unwrap();
        let written = patch(&configuration, "pem").unwrap();
        assert_eq!(
            written,
            json!({"webhooks": [{"name": "inject.sidestream.dev", "clientConfig": {"caBundle": "cGVt"}}]})
        );
        configuration.data["webhooks"][0]["clientConfig"]["caBundle"] = "cGVt".into();
        assert_eq!(patch(&configuration, "pem"), None);
        assert!(patch(&configuration, "new").is_some());

        let vouched = Vouched::default();
        vouched.saw("MutatingWebhookConfiguration", Some(configuration));
        assert!(!vouched.is_for("pem"), "the other has not been seen");
        vouched.saw("ValidatingWebhookConfiguration", None);
        assert!(vouched.is_for("pem") && !vouched.is_for("new"));
    }
}
