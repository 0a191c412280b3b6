//! The validating webhook: `kubectl apply` of a Pipeline that does not compile is answered with every diagnostic.
//!
//! A courtesy, not a gate: the API server goes on without it where this program is away (`failurePolicy: Ignore`), and
//! what comes in that way is refused in the status. The configuration is the chart's; all that is written into it is
//! whom to trust, again whenever the roots change.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Json, Router, extract::DefaultBodyLimit, routing::post};
use futures_util::StreamExt;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{ValidatingWebhook, ValidatingWebhookConfiguration},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use sidestream_crds::{Severity, compile};
use sidestream_desired::FIELD_MANAGER;
use sidestream_trust::Identity;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_rustls::server::TlsStream;

use crate::{control::accept, trust::Roots};

/// The largest review: an object has at most 1.5 MiB, and comes with its predecessor.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Connections that wait to be served.
const WAITING_MAX: usize = 64;
/// The longest warning, in bytes: what `kubectl` shows well.
const WARNING_BYTES_MAX: usize = 256;

/// How long a configuration that could not be written is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// Serves `/validate` until `stop` resolves.
///
/// # Errors
/// Where the server itself fails.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (take, connections) = mpsc::channel(WAITING_MAX);
    let accepting = tokio::spawn(accept(listener, identity, b"http/1.1", take));
    let router = Router::new()
        .route("/validate", post(|Json(review): Json<Value>| async move { Json(answer(&review)) }))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let served = axum::serve(Connections { connections, address }, router).with_graceful_shutdown(stop).await;
    accepting.abort();
    served
}

/// The answer to an AdmissionReview.
fn answer(review: &Value) -> Value {
    let object = &review["request"]["object"];
    // The same text that `sidestream check` would read, so that the same is said of it.
    let found = compile(&serde_json::to_vec(object).unwrap_or_default(), "").diagnostics;
    let said = |severity: Severity| {
        let of_severity = found.iter().filter(move |diagnostic| diagnostic.severity == severity).cloned();
        of_severity.map(|mut diagnostic| {
            // A place in what the API server sends is none in what the user wrote.
            (diagnostic.file, diagnostic.place) = (None, None);
            diagnostic.to_string()
        })
    };
    let errors: Vec<String> = said(Severity::Error).collect();
    let warnings: Vec<String> = said(Severity::Warning).map(one_line).collect();
    let mut response = json!({
        "uid": review["request"]["uid"],
        "allowed": errors.is_empty(),
        "warnings": warnings,
    });
    if !errors.is_empty() {
        let message = format!("it does not compile:\n{}", errors.join("\n"));
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// As a header of HTTP may be.
fn one_line(text: String) -> String {
    let mut text: String = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    text.truncate(text.floor_char_boundary(WARNING_BYTES_MAX));
    text
}

/// Writes the roots of the moment into the configuration `name`, where there is one, for as long as it is polled.
pub(crate) async fn vouch(client: Client, name: String, mut roots: watch::Receiver<Arc<Roots>>) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let mut configurations = std::pin::pin!(watcher::watch_object(api.clone(), &name).default_backoff());
    let mut current = None;
    let mut has_failed = false;
    loop {
        tokio::select! {
            seen = configurations.next() => match seen {
                Some(Ok(seen)) => current = seen,
                Some(Err(error)) => {
                    tracing::info!(%error, name, "the webhook's configuration cannot be seen");
                    continue;
                }
                None => return,
            },
            changed = roots.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if has_failed => {}
        }
        has_failed = false;
        let pem = roots.borrow_and_update().anchors.to_pem().into_bytes();
        let Some(webhooks) = current.as_ref().and_then(|found| found.webhooks.as_ref()) else { continue };
        let trusts = |webhook: &ValidatingWebhook| {
            webhook.client_config.ca_bundle.as_ref().is_some_and(|bundle| bundle.0 == pem)
        };
        if webhooks.iter().all(trusts) {
            continue;
        }
        let webhooks: Vec<Value> = webhooks
            .iter()
            .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": ByteString(pem.clone())}}))
            .collect();
        // A strategic merge: the chart's fields stay the chart's.
        let patch = Patch::Strategic(json!({ "webhooks": webhooks }));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match api.patch(&name, &params, &patch).await {
            Ok(_) => tracing::info!(name, "the API server trusts the webhook"),
            Err(error) => {
                has_failed = true;
                tracing::warn!(%error, name, "the API server does not trust the webhook");
            }
        }
    }
}

/// Connections that have shaken hands, as axum takes them.
struct Connections {
    connections: mpsc::Receiver<io::Result<TlsStream<TcpStream>>>,
    address: SocketAddr,
}

impl axum::serve::Listener for Connections {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.connections.recv().await {
                Some(Ok(connection)) => {
                    let address = connection.get_ref().0.peer_addr().unwrap_or(self.address);
                    return (connection, address);
                }
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(stages: Value) -> Value {
        let object = json!({
            "apiVersion": "sidestream.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": "hello", "namespace": "shop", "uid": "1", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"stages": stages},
        });
        answer(&json!({"request": {"uid": "7", "object": object}}))["response"].clone()
    }

    #[test]
    fn what_compiles_is_let_through() {
        let response = review(json!([
            {"name": "tick", "source": {"generator": {"rate": 10}}},
            {"name": "show", "sink": {"console": {}}},
        ]));
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("7"), &json!(true)), "{response}");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let response = review(json!([
            {"name": "tick", "source": {"generator": {"rate": 10}}},
            {"name": "show", "from": ["tik"], "sink": {"console": {}}},
            {"name": "slow", "from": ["tick"], "process": {"filter": {"keep": "event.("}}},
        ]));
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains("unknown-stage") && message.contains("spec.stages[2]"), "{message}");
        assert!(!message.contains("-->"), "no place of a text that nobody wrote: {message}");
    }
}
