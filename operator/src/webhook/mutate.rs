//! `/mutate`: a pod that asks for a sidecar gets one when it is made.
//!
//! What is added is decided by [`sidestream_desired::inject`], from the pod and from the Secrets that the pipelines of its
//! namespace name for it. Pods of the cluster's own namespaces and of the operator's are left alone, whatever they ask for
//! and whatever the configuration says.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, TypeMeta},
};
use serde_json::Value;
use sidestream_crds::{Diagnostic, Pipeline, SidecarPlan, compile_resource};
use sidestream_desired::{Facts, inject, read_revision, revision_name};
use tokio::time::timeout;

use super::{Answer, reviewed};
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
}

impl Injector {
    /// Adds what `facts` say, to pods of all but the operator's own namespace.
    pub fn new(client: Client, facts: Facts, own_namespace: &str, metrics: Metrics) -> Self {
        Self { client, facts, own_namespace: own_namespace.into(), metrics }
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
        let pipelines = timeout(LIST_MAX, self.pipelines(namespace)).await;
        let pipelines = pipelines.unwrap_or_else(|_| Err("the API server took too long".to_owned()));
        let pipelines = pipelines.unwrap_or_else(|reason| {
            // Better without a Secret, which the status then tells, than no pod.
            answer.warnings.push(format!("the sidecar has no Secrets until the pod is made anew: {reason}"));
            Vec::new()
        });
        let secrets = inject::secrets_of(&labels, pipelines.iter().map(Vec::as_slice));
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

    /// The sidecars of every pipeline of a namespace, as they run: a spec that does not compile changes nothing.
    async fn pipelines(&self, namespace: &str) -> Result<Vec<Vec<SidecarPlan>>, String> {
        let resource = ApiResource::erase::<Pipeline>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let listed = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for mut object in listed {
            object.types.get_or_insert_with(TypeMeta::resource::<Pipeline>);
            let last_good = object.data["status"]["plan"].as_str().map(str::to_owned);
            let name = object.name_any();
            let compiled = object.try_parse::<Pipeline>().ok().map(|pipeline| compile_resource(&pipeline));
            let (own, is_sound) = compiled.map_or_else(Default::default, |(compiled, found)| {
                (compiled.sidecars, !found.iter().any(Diagnostic::is_error))
            });
            all.push(match last_good {
                Some(hash) if !is_sound => {
                    self.kept(namespace, &revision_name(&name, &hash)).await?.unwrap_or(own)
                }
                _ => own,
            });
        }
        Ok(all)
    }

    /// What a revision keeps; none where it is gone.
    async fn kept(&self, namespace: &str, revision: &str) -> Result<Option<Vec<SidecarPlan>>, String> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), namespace);
        let revision = api.get_opt(revision).await.map_err(|error| error.to_string())?;
        Ok(revision.as_ref().and_then(read_revision))
    }
}
