//! Resources of `cases/` beside the objects that are made of them, as YAML. `UPDATE_CASES=1` writes them anew: read them.

use std::{fs, path::Path};

use sidestream_crds::{Pipeline, compile};
use sidestream_desired::{Facts, anchors, objects, revision};

#[test]
fn every_resource_is_run_by_the_objects_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let is_update = std::env::var_os("UPDATE_CASES").is_some();
    let mut stale = Vec::new();
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".yaml").filter(|name| !name.ends_with(".objects")) else {
            continue;
        };
        seen += 1;
        let made = made_of(&fs::read(&path).unwrap(), name);
        let expected = folder.join(format!("{name}.objects.yaml"));
        if fs::read_to_string(&expected).ok().as_deref() != Some(&made) {
            stale.push(name.to_owned());
            if is_update {
                fs::write(expected, made).unwrap();
            }
        }
    }
    assert!(seen > 0, "no cases in {}", folder.display());
    assert!(
        is_update || stale.is_empty(),
        "not as in cases/: {}; UPDATE_CASES=1 writes them anew",
        stale.join(", ")
    );
}

#[test]
fn the_anchors_are_one_config_map() {
    let made = serde_json::to_value(anchors("shop", "-----BEGIN CERTIFICATE-----\n", "Stable")).unwrap();
    assert_eq!(made["metadata"]["name"], "sidestream-trust");
    assert_eq!(made["data"]["anchors.pem"], "-----BEGIN CERTIFICATE-----\n");
    assert!(made["metadata"].get("ownerReferences").is_none());
}

fn made_of(text: &[u8], name: &str) -> String {
    let facts = Facts {
        sidecar_image: "sidestream.dev/sidecar:0.1.0".into(),
        image_pull_policy: None,
        operator: "sidestream-operator.sidestream-system.svc:9443".into(),
        operator_id: "spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator".into(),
    };
    let compiled = compile(text, name);
    assert!(compiled.is_ok(), "{name}: {:?}", compiled.diagnostics);
    let mut documents = Vec::new();
    for compiled in &compiled.pipelines {
        let mut resource: Pipeline = compiled.resource.clone();
        resource.metadata.uid = Some("6f3f0c7e-0000-4000-8000-000000000001".into());
        resource.metadata.namespace.get_or_insert("default".into());
        documents.push(revision(&resource, &compiled.sidecars, 1));
        let all = &compiled.sidecars;
        documents.extend(all.iter().flat_map(|sidecar| objects(&resource, sidecar, all, &facts)));
    }
    let documents: Vec<String> = documents
        .iter()
        .map(|object| serde_yaml::to_string(&serde_json::to_value(object).unwrap()).unwrap())
        .collect();
    documents.join("---\n")
}
