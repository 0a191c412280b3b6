//! What the API server asks of a CustomResourceDefinition, and what is checked in.

use std::{fs, path::Path};

use serde_json::Value;
use sidestream_crds::{Code, FileCode, dnpipe_crd, generated, pipeline_crd};

#[test]
fn generated_files_are_up_to_date() {
    for (file, text) in generated() {
        let checked_in = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file));
        assert!(checked_in.is_ok_and(|old| old == text), "{file} is stale; run `make generate`");
    }
}

#[test]
fn every_code_has_a_row_in_the_reference() {
    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/diagnostics.md")).unwrap();
    let codes = Code::ALL.iter().map(|code| code.text()).chain(FileCode::ALL.iter().map(|code| code.text()));
    for code in codes {
        assert!(page.contains(&format!("\n| `{code}` | ")), "{code}: `make generate` writes its row");
    }
}

/// kubectl keeps what it applied in an annotation, which has at most 256 KiB.
#[test]
fn the_definition_is_small_enough_for_kubectl_apply() {
    for crd in [pipeline_crd(), dnpipe_crd()] {
        let bytes = serde_json::to_string(&crd).unwrap().len();
        assert!(bytes <= 200_000, "{bytes} bytes");
    }
}

#[test]
fn the_definition_names_what_the_design_names() {
    let spec = &pipeline_crd()["spec"];
    assert_eq!(spec["group"], "sidestream.dev");
    assert_eq!(spec["scope"], "Namespaced");
    assert_eq!(spec["names"]["shortNames"], serde_json::json!(["spl"]));
    assert_eq!(spec["names"]["categories"], serde_json::json!(["sidestream"]));
    let version = &spec["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert!(version["subresources"]["status"].is_object());
    let columns: Vec<&str> = version["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Ready", "Stages", "Sidecars", "Edges", "Reason", "Plan", "Age"]);
}

#[test]
fn the_definition_of_a_dnpipe_names_what_the_design_names() {
    let spec = &dnpipe_crd()["spec"];
    assert_eq!(spec["names"]["plural"], "dnpipes");
    assert_eq!(spec["names"]["shortNames"], serde_json::json!(["dnp"]));
    assert_eq!(spec["names"]["categories"], serde_json::json!(["sidestream"]));
    let schema = &spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let rules = schema["x-kubernetes-validations"].as_array().unwrap();
    for fixed in ["oldSelf.partitions", "oldSelf.pool"] {
        assert!(rules.iter().any(|rule| rule["rule"].as_str().unwrap().contains(fixed)), "{fixed}");
    }
    let columns = spec["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
    let columns: Vec<&str> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(
        columns,
        [
            "Ready",
            "Partitions",
            "Records",
            "Size",
            "Lag",
            "Durable",
            "Epoch",
            "Pool",
            "Server",
            "Reason",
            "Age"
        ]
    );
}

/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>
#[test]
fn the_schema_is_structural_and_bounded() {
    let mut wrong = Vec::new();
    for crd in [pipeline_crd(), dnpipe_crd()] {
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        for part in ["spec", "status"] {
            check(&schema["properties"][part], part, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_union_takes_exactly_one_key() {
    let crd = pipeline_crd();
    let stage = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/stages/items/properties";
    let unions = ["source", "process", "sink", "process/properties/parse", "process/properties/encode"];
    for union in unions {
        let schema = crd.pointer(&format!("{stage}/{union}")).unwrap();
        assert_eq!((&schema["minProperties"], &schema["maxProperties"]), (&1.into(), &1.into()), "{union}");
    }
}

fn check(schema: &Value, path: &str, wrong: &mut Vec<String>) {
    let mut must = |holds: bool, what: &str| {
        if !holds {
            wrong.push(format!("{path}: {what}"));
        }
    };
    let has = |key: &str| !schema[key].is_null();
    must(schema["type"].is_string(), "has no type");
    must(!(has("properties") && has("additionalProperties")), "has properties and additionalProperties");
    must(
        schema["additionalProperties"] != false,
        "forbids additionalProperties, which the API server does not take",
    );
    must(!has("additionalProperties") || has("maxProperties"), "is a map without a limit");
    must(schema["type"] != "array" || (has("items") && has("maxItems")), "is a list without a limit");
    let is_text = schema["type"] == "string" && !has("enum") && !has("format");
    must(!is_text || has("maxLength"), "is a text without a limit");
    must(
        schema["type"] != "integer" || has("maximum") || path.ends_with("Generation"),
        "is a number without a limit",
    );
    for forbidden in
        ["$ref", "definitions", "oneOf", "anyOf", "allOf", "not", "uniqueItems", "patternProperties"]
    {
        must(!has(forbidden), forbidden);
    }
    let format = schema["format"].as_str();
    must(
        format.is_none_or(|format| ["int32", "int64", "double", "date-time"].contains(&format)),
        "has a format nobody knows",
    );
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        check(inner, &format!("{path}.{name}"), wrong);
        if path.starts_with("spec") && inner["description"].is_null() {
            wrong.push(format!("{path}.{name}: says nothing to `kubectl explain`"));
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            check(&schema[inner], &format!("{path}.{inner}"), wrong);
        }
    }
}
