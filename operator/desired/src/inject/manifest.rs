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
    let mut labels = labels_of(pod)?;
    labels.entry(labels::INJECT.into()).or_insert_with(|| labels::INJECT_ENABLED.into());
    // It says that it wants none.
    if !is_wanted(&labels) {
        return Ok(false);
    }
    let is_near = |pipeline: &&CompiledPipeline| {
        pipeline.resource.metadata.namespace.as_deref().unwrap_or("default") == namespace
    };
    let near = pipelines.iter().filter(is_near).map(|pipeline| pipeline.sidecars.as_slice());
    let injection = injection(pod, secrets_of(&labels, near), facts)?;
    pod["metadata"]["labels"] = json!(labels);
    let Some(injection) = injection else { return Ok(false) };
    injection.apply(pod);
    Ok(true)
}

/// The labels of `pod`; none where it has none.
fn labels_of(pod: &Value) -> Result<BTreeMap<String, String>, Refusal> {
    let malformed = |part: &str, expected| Refusal::Malformed { part: part.into(), expected };
    let metadata = &pod["metadata"];
    if !metadata.is_object() && !metadata.is_null() {
        return Err(malformed("metadata", "an object"));
    }
    let labels: Option<_> = serde_json::from_value(metadata["labels"].clone())
        .map_err(|_| malformed("metadata.labels", "an object of texts"))?;
    Ok(labels.unwrap_or_default())
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
    fn what_is_no_pod_is_refused_by_the_part_that_is_wrong() {
        for (pod, part) in [
            (json!({"metadata": "hello", "spec": {}}), "metadata"),
            (json!({"metadata": {"labels": ["hello"]}, "spec": {}}), "metadata.labels"),
            (json!({"metadata": {"labels": {"app": 1}}, "spec": {}}), "metadata.labels"),
            (json!({"spec": {"initContainers": "hello"}}), "spec.initContainers"),
            (json!({"spec": {"volumes": {"name": "hello"}}}), "spec.volumes"),
        ] {
            let mut object = json!({"kind": "Deployment", "spec": {"template": pod}});
            let same = object.clone();
            let refusal = into_manifest(&mut object, "default", &[], &facts()).unwrap_err();
            assert!(refusal.to_string().contains(&format!("`{part}`")), "{refusal}");
            assert_eq!(object, same);
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
