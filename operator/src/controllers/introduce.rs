//! The roots to trust, wherever pods of the user's ask for a sidecar: also where there is no pipeline yet, so that when the
//! first one comes, its sidecars have long been certified.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use sidestream_desired::anchors;
use tokio::{sync::watch, time::sleep};

use crate::{apply::Applier, trust::Roots, user_pods::UserPods};

/// How long a namespace that takes no ConfigMap is left alone.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps the ConfigMap of every namespace with such pods up to date, until dropped.
pub(super) async fn everywhere(
    applier: Applier,
    user_pods: UserPods,
    mut roots: watch::Receiver<Arc<Roots>>,
) {
    // Each namespace waits by itself: one that is being removed holds up no other.
    let mut later: FuturesUnordered<BoxFuture<'static, String>> = FuturesUnordered::new();
    loop {
        let namespaces = tokio::select! {
            namespaces = user_pods.entered() => namespaces,
            changed = roots.changed() => match changed {
                Ok(()) => user_pods.namespaces(),
                Err(_) => return,
            },
            Some(namespace) = later.next() => {
                user_pods.enter_again(&namespace);
                continue;
            }
        };
        for namespace in namespaces {
            let trust = {
                let roots = roots.borrow();
                anchors(&namespace, &roots.anchors.to_pem(), roots.phase().name())
            };
            match applier.apply(&format!("{namespace}/"), &trust).await {
                Ok(_) => {}
                // A person must remove it; a pipeline of the namespace says so.
                Err(error) if error.is_anothers() => {
                    tracing::warn!(namespace, %error, "sidecars cannot trust")
                }
                Err(error) => {
                    tracing::warn!(namespace, %error, "sidecars cannot trust yet");
                    later.push(Box::pin(async move {
                        sleep(RETRY).await;
                        namespace
                    }));
                }
            }
        }
    }
}
