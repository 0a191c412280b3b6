//! Injection where there is no webhook: into the template of pods in a manifest.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sidestream_crds::CompiledPipeline;

use super::{Refusal, injection, is_wanted, secrets_of};
use crate::{Facts, labels};

/// Adds to the pods of `object`, whatever makes them, what the webhook would add to each, with the Secrets that those of
/// `pipelines` name that are in its namespace: `namespace` where it names none. It also gives them the label by which
/// pipelines find them. True where something was added.
///
/// # Errors
/// Where a sidecar would get in the way of what is there.
pub fn into_manifest(
    object: &mut Value,
    namespace: &str,
    pipelines: &[CompiledPipeline],
    facts: &Facts,
) -> Result<bool, Refusal> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace).to_owned();
    let Some(pod) = template(object) else { return Ok(false) };
    let labels = &mut pod["metadata"]["labels"];
    if labels.get(labels::INJECT).is_none() {
        if !labels.is_object() {
            *labels = json!({});
        }
        labels[labels::INJECT] = labels::INJECT_ENABLED.into();
    }
    let labels: BTreeMap<String, String> =
        serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap_or_default();
    // It says that it wants none.
    if !is_wanted(&labels) {
        return Ok(false);
    }
    let is_near = |pipeline: &&CompiledPipeline| {
        pipeline.resource.metadata.namespace.as_deref().unwrap_or("default") == namespace
    };
    let near = pipelines.iter().filter(is_near).map(|pipeline| pipeline.sidecars.as_slice());
    let Some(injection) = injection(pod, secrets_of(&labels, near), facts)? else { return Ok(false) };
    injection.apply(pod);
    Ok(true)
}

/// The pod in `object`, or the template of the pods it makes.
fn template(object: &mut Value) -> Option<&mut Value> {
    let path = match object["kind"].as_str()? {
        "Pod" => "",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            "/spec/template"
        }
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer_mut(path).filter(|pod| pod["spec"].is_object())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            sidecar_image: "sidecar".into(),
            image_pull_policy: None,
            operator: "o:9443".into(),
            operator_id: "spiffe://t/ns/o/sa/o".into(),
        }
    }

    fn of(kind: &str, mut labels: Value) -> Value {
        let pod = json!({"metadata": {"labels": labels.take()}, "spec": {"containers": [{"name": "a"}]}});
        match kind {
            "Pod" => json!({"kind": kind, "metadata": pod["metadata"], "spec": pod["spec"]}),
            "CronJob" => json!({"kind": kind, "spec": {"jobTemplate": {"spec": {"template": pod}}}}),
            _ => json!({"kind": kind, "spec": {"template": pod}}),
        }
    }

    #[test]
    fn whatever_makes_pods_gets_them_with_a_sidecar_and_the_label() {
        for kind in ["Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"] {
            let mut object = of(kind, Value::Null);
            assert_eq!(into_manifest(&mut object, "default", &[], &facts()), Ok(true), "{kind}");
            let text = object.to_string();
            assert!(text.contains(r#""sidestream.dev/inject":"enabled""#), "{text}");
            assert!(text.contains(r#""restartPolicy":"Always""#), "{text}");
            assert_eq!(into_manifest(&mut object, "default", &[], &facts()), Ok(false), "{kind}");
        }
    }

    #[test]
    fn what_makes_no_pods_or_says_no_stays_as_it_is() {
        for object in [
            json!({"kind": "Service", "spec": {}}),
            json!({"kind": "Deployment", "spec": {}}),
            of("Deployment", json!({"sidestream.dev/inject": "disabled"})),
        ] {
            let mut same = object.clone();
            assert_eq!(into_manifest(&mut same, "default", &[], &facts()), Ok(false));
            assert_eq!(same, object);
        }
    }
}
