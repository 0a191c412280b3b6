//! The CustomResourceDefinition: the schema that the API server enforces, and that [`crate::structure`] reports on.
//!
//! It comes from the structs by `schemars` and `kube`; what is done to it here keeps the API server from complaining and
//! states the bounds that hold everywhere. There is one schema, so a file that `sidestream check` takes is one that a
//! cluster takes.

use std::sync::LazyLock;

use kube::CustomResourceExt;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    dnpipe::{Dnpipe, DnpipeSpec, DnpipeStatus},
    pipeline::{Pipeline, PipelineSpec, PipelineStatus, TEXT_BYTES_MAX},
};

/// The CustomResourceDefinition of `Pipeline`.
pub fn pipeline_crd() -> Value {
    definition::<Pipeline, PipelineSpec, PipelineStatus>()
}

/// The CustomResourceDefinition of `Dnpipe`.
pub fn dnpipe_crd() -> Value {
    definition::<Dnpipe, DnpipeSpec, DnpipeStatus>()
}

fn definition<Resource: CustomResourceExt, Spec: JsonSchema, Status: JsonSchema>() -> Value {
    let mut crd = serde_json::to_value(Resource::crd()).expect("a definition is a tree of text and numbers");
    for (part, raw) in [("spec", raw_schema::<Spec>()), ("status", raw_schema::<Status>())] {
        let schema = crd
            .pointer_mut(&format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}"))
            .expect("this resource has a spec and a status");
        tidy(schema);
        describe(schema, &raw);
    }
    crd
}

/// The definition of `Pipeline` as YAML, as it is checked in.
pub fn pipeline_crd_yaml() -> String {
    generated_yaml("pipeline", &pipeline_crd())
}

/// The definition of `Dnpipe` as YAML, as it is checked in.
pub fn dnpipe_crd_yaml() -> String {
    generated_yaml("dnpipe", &dnpipe_crd())
}

fn generated_yaml(file: &str, crd: &Value) -> String {
    let yaml = crate::yaml::to_yaml(crd);
    format!("# Generated from crds/src/{file}.rs by `make generate`. Do not edit.\n{yaml}")
}

/// The schema of a whole Pipeline as people write it.
pub(crate) fn pipeline_schema() -> Value {
    as_written(pipeline_crd())
}

/// The schema of a whole Dnpipe as people write it. Its name begins that of a Service.
pub(crate) fn dnpipe_schema() -> Value {
    let mut schema = as_written(dnpipe_crd());
    let name = &mut schema["properties"]["metadata"]["properties"]["name"];
    name["description"] =
        "Its name, unique in the namespace: lower-case letters, digits and `-`, at most 59 of them.".into();
    name["maxLength"] = DNPIPE_NAME_MAX.into();
    name["pattern"] = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$".into();
    schema
}

/// `apiVersion` may be left out, `metadata` is what we read of it.
fn as_written(mut crd: Value) -> Value {
    let mut schema =
        crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema").expect("a definition has a schema").take();
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}, "nullable": true});
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["properties"]["status"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    schema["properties"]["metadata"] = json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "required": ["name"],
        "properties": {
            "name": {
                "description": "Its name, unique in the namespace: lower-case letters, digits, `-` and `.`.",
                "type": "string", "minLength": 1, "maxLength": 253,
                "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            },
            "namespace": {
                "description": "Its namespace: lower-case letters, digits and `-`; `default` by default.",
                "type": "string", "minLength": 1, "maxLength": 63, "nullable": true,
                "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            },
            "labels": texts.clone(),
            "annotations": texts,
        },
    });
    schema["required"] = json!(["kind", "metadata", "spec"]);
    schema
}

/// The schema of a Pipeline as JSON, as it is checked in.
pub fn pipeline_schema_json() -> String {
    pretty(&pipeline_schema())
}

/// The schema of a Dnpipe as JSON, as it is checked in.
pub fn dnpipe_schema_json() -> String {
    pretty(&dnpipe_schema())
}

fn pretty(schema: &Value) -> String {
    let json = serde_json::to_string_pretty(schema).expect("a schema is a tree of text and numbers");
    format!("{json}\n")
}

/// The same, read from what is checked in: to make it of the structs takes milliseconds, which every start would pay.
pub(crate) static PIPELINE_SCHEMA: LazyLock<Value> =
    LazyLock::new(|| checked_in(include_str!("../pipelines.schema.json")));
/// See [`PIPELINE_SCHEMA`].
pub(crate) static DNPIPE_SCHEMA: LazyLock<Value> =
    LazyLock::new(|| checked_in(include_str!("../dnpipes.schema.json")));

fn checked_in(json: &str) -> Value {
    serde_json::from_str(json).expect("a test compares it with the structs")
}

/// The longest name of a dnpipe: with `-dnp` behind it, it is a label of DNS (RFC 1123, section 2.1).
const DNPIPE_NAME_MAX: usize = 59;

/// Ends the description of a text that is an expression.
pub(crate) const IS_CEL: &str = "A CEL expression.";

/// Formats that the API server knows; of any other it warns on every apply.
const FORMATS: [&str; 4] = ["int32", "int64", "double", "date-time"];

/// States bounds that the structs leave to their types, all the way down.
fn tidy(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    bound_number(schema);
    // Said of a struct without fields, and forbidden: an object of which nothing else is said has none anyway.
    if schema.get("additionalProperties") == Some(&json!(false)) {
        schema.remove("additionalProperties");
    }
    let is_free_text = schema.get("type") == Some(&json!("string")) && !schema.contains_key("enum");
    if is_free_text && schema.get("format").is_none() && !schema.contains_key("maxLength") {
        schema.insert("maxLength".into(), json!(TEXT_BYTES_MAX));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner) {
            tidy(inner);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
}

fn bound_number(schema: &mut Map<String, Value>) {
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    let most = match format {
        "uint32" => Some(json!(u32::MAX)),
        // The API server carries bounds as floats, and refuses every number where one is not a whole number to it.
        "uint64" => Some(json!((1_i64 << 53) - 1)),
        _ => None,
    };
    if let Some(most) = most {
        schema.entry("maximum").or_insert(most);
    }
    if schema.get("format").is_some_and(|format| !FORMATS.iter().any(|known| format == known)) {
        schema.insert("format".into(), json!("int64"));
    }
    // The definition carries bounds as floats; those of whole numbers read better whole.
    for bound in ["minimum", "maximum"] {
        let number = schema.get(bound).and_then(Value::as_f64);
        if let Some(number) = number.filter(|number| number.fract() == 0.0 && number.abs() < 1e15) {
            schema.insert(bound.into(), json!(number as i64));
        }
    }
}

/// The schema as the structs have it, before `kube` makes it structural.
fn raw_schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Puts back what the structural form loses: the description of a field before that of its type, and those of the values
/// it may have.
fn describe(schema: &mut Value, raw: &Value) {
    let own = raw["description"].as_str();
    let raw = without_null(raw);
    let mut description = own.or(raw["description"].as_str()).unwrap_or_default().to_string();
    for value in raw["oneOf"].as_array().into_iter().flatten() {
        if let (Some(name), Some(meaning)) = (value["const"].as_str(), value["description"].as_str()) {
            description.push_str(&format!("\n- {name}: {meaning}"));
        }
    }
    if raw["x-cel"] == true {
        description = format!("{description} {IS_CEL}").trim_start().into();
    }
    if !description.is_empty() {
        schema["description"] = description.into();
    }
    for (name, raw) in raw["properties"].as_object().into_iter().flatten() {
        describe(&mut schema["properties"][name], raw);
    }
    for inner in ["items", "additionalProperties"] {
        if raw[inner].is_object() && schema[inner].is_object() {
            describe(&mut schema[inner], &raw[inner]);
        }
    }
}

/// The schema of `T` in that of an `Option<T>`.
fn without_null(raw: &Value) -> &Value {
    let choices = raw["anyOf"].as_array();
    choices.and_then(|choices| choices.iter().find(|choice| choice["type"] != "null")).unwrap_or(raw)
}
