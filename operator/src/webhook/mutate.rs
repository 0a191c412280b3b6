//! `/mutate`: a pod that asks for a sidecar gets one when it is made.
//!
//! What is added is decided by [`sidestream_desired::inject`], from the pod and from the Secrets that the pipelines of its
//! namespace name for it. Pods of the cluster's own namespaces and of the operator's are left alone, whatever they ask for
//! and whatever the configuration says.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};
use serde_json::Value;
use sidestream_crds::Pipeline;
use sidestream_desired::{Facts, Secrets, inject};
use tokio::time::timeout;

use super::{
    Answer,
    known::{Known, running},
    reviewed,
};
use crate::metrics::Metrics;

/// Where nothing is ever added: what these run must not depend on what is added to it.
const NEVER: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// On the mirror of a pod that a node runs by itself, which nothing can be added to.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// How long the API server may take to say which pipelines there are; it waits five seconds for the whole answer.
const LIST_MAX: Duration = Duration::from_secs(2);

/// Adds sidecars.
pub struct Injector {
    client: Client,
    facts: Facts,
    own_namespace: String,
    metrics: Metrics,
    known: Known,
}

impl Injector {
    /// Adds what `facts` say, to pods of all but the operator's own namespace.
    pub fn new(client: Client, facts: Facts, own_namespace: &str, metrics: Metrics) -> Self {
        Self { client, facts, own_namespace: own_namespace.into(), metrics, known: Known::default() }
    }

    /// Has it know the Pipelines of the cluster beforehand, for as long as this is polled.
    pub fn follow(&self) -> impl Future<Output = ()> + Send + 'static {
        self.known.clone().follow(self.client.clone())
    }

    /// The AdmissionReview that answers `review`, of a pod.
    pub async fn review(&self, review: &Value) -> Value {
        reviewed(review, self.answer(&review["request"]).await)
    }

    /// What is said about the pod in a request.
    async fn answer(&self, request: &Value) -> Answer {
        let namespace = request["namespace"].as_str().unwrap_or_default();
        let pod = &request["object"];
        let Some(labels) = self.asks(namespace, pod) else { return Answer::default() };
        let mut answer = Answer::default();
        let secrets = match self.known.secrets(namespace, &labels) {
            Some(secrets) => secrets,
            // Until all Pipelines have been seen, those of the namespace are asked for.
            None => match timeout(LIST_MAX, self.asked(namespace, &labels)).await {
                Ok(Ok(secrets)) => secrets,
                not => {
                    let reason = not.map_or_else(
                        |_| "the API server took too long".to_owned(),
                        |asked| asked.err().unwrap_or_default(),
                    );
                    // Better without a Secret, which the status then tells, than no pod.
                    let warning = "the sidecar has no Secrets until the pod is made anew";
                    answer.warnings.push(format!("{warning}: {reason}"));
                    Secrets::new()
                }
            },
        };
        let result = match inject::injection(pod, secrets, &self.facts) {
            Ok(Some(injection)) => {
                answer.patch = Some(injection.patch(pod));
                "injected"
            }
            Ok(None) => "present",
            Err(refusal) => {
                answer.refusal = Some(refusal.to_string());
                "refused"
            }
        };
        self.metrics.injection(result);
        let name = pod["metadata"]["name"].as_str().or(pod["metadata"]["generateName"].as_str());
        tracing::info!(
            namespace,
            pod = name.unwrap_or_default(),
            result,
            refusal = answer.refusal,
            "a pod that asks for a sidecar"
        );
        answer
    }

    /// The labels of `pod`, if it asks for a sidecar and may have one.
    fn asks(&self, namespace: &str, pod: &Value) -> Option<BTreeMap<String, String>> {
        let is_ours = namespace == self.own_namespace || NEVER.contains(&namespace);
        let is_mirror = pod["metadata"]["annotations"].get(MIRROR).is_some();
        let labels = serde_json::from_value(pod["metadata"]["labels"].clone()).ok()?;
        (!is_ours && !is_mirror && inject::is_wanted(&labels)).then_some(labels)
    }

    /// The Secrets that the pipelines of a namespace name for a pod with these labels.
    async fn asked(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Result<Secrets, String> {
        let resource = ApiResource::erase::<Pipeline>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let listed = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut pipelines = Vec::new();
        for mut object in listed {
            object.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
            pipelines.push(running(object, &self.client).await?);
        }
        Ok(inject::secrets_of(labels, pipelines.iter().map(Vec::as_slice)))
    }
}
