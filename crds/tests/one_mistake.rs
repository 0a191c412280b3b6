//! One wrong field of a good file is told where it is, and nothing else is said: whatever its absence would mean for the
//! rest, nobody wrote that.

use std::fs;

use serde_json::{Value, json};
use sidestream_crds::{Diagnostic, Path, Step, compile};

#[test]
fn a_field_of_another_type_is_told_at_its_place_alone() {
    for (name, good) in good_files() {
        for path in paths(&good) {
            let mut bad = good.clone();
            // Of every field the schema has another type than this.
            *at(&mut bad, &path) = json!([[[]]]);
            is_told_within(&name, &bad, &path);
        }
    }
}

#[test]
fn a_field_of_another_name_is_told_in_its_map_alone() {
    for (name, good) in good_files() {
        for path in paths(&good) {
            let Some((Step::Field(key), around)) = path.split_last() else { continue };
            let mut bad = good.clone();
            if let Some(map) = at(&mut bad, around).as_object_mut() {
                let value = map.remove(key).unwrap_or_default();
                map.insert(format!("{key}zzz"), value);
            }
            is_told_within(&name, &bad, around);
        }
    }
}

/// Everything that is said of `bad` is about what is under `around`, and something is said.
fn is_told_within(name: &str, bad: &Value, around: &[Step]) {
    let text = serde_json::to_vec(bad).unwrap();
    let found = compile(&text, name).diagnostics;
    let errors: Vec<&Diagnostic> = found.iter().filter(|found| found.is_error()).collect();
    let place = Path::from(around);
    let elsewhere: Vec<_> = errors.iter().filter(|error| !error.path.steps().starts_with(around)).collect();
    assert!(elsewhere.is_empty(), "{name}, a mistake in {place}, and it says:\n{}", elsewhere[0]);
    // A map of free names takes any.
    let is_free = around.iter().any(|step| {
        matches!(step, Step::Field(name) if ["fields", "labels", "annotations", "headers", "matchLabels", "metadata"].contains(&name.as_str()))
    });
    assert!(is_free || !errors.is_empty(), "{name}, a mistake in {place}, and nothing is said");
}

/// Every good file as its first resource, by name.
fn good_files() -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/ok");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml"));
    let first = |path: std::path::PathBuf| {
        let compiled = compile(&fs::read(&path).unwrap(), "good");
        let good = match compiled.pipelines.first() {
            Some(pipeline) => serde_json::to_value(&pipeline.resource).unwrap(),
            None => serde_json::to_value(&compiled.dnpipes[0].resource).unwrap(),
        };
        (path.file_stem().unwrap().to_string_lossy().into_owned(), good)
    };
    yaml.map(first).collect()
}

/// Every field and element below `spec`.
fn paths(good: &Value) -> Vec<Vec<Step>> {
    let mut paths = Vec::new();
    below(&good["spec"], &[Step::Field("spec".into())], &mut paths);
    paths
}

fn below(value: &Value, path: &[Step], paths: &mut Vec<Vec<Step>>) {
    let fields =
        value.as_object().into_iter().flatten().map(|(key, inner)| (Step::Field(key.clone()), inner));
    let elements = value.as_array().into_iter().flatten().enumerate();
    let elements = elements.map(|(index, inner)| (Step::Element(index), inner));
    for (step, inner) in fields.chain(elements) {
        let inside = [path, &[step]].concat();
        below(inner, &inside, paths);
        paths.push(inside);
    }
}

fn at<'a>(value: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Field(key) => &mut value[key.as_str()],
        Step::Element(index) => &mut value[*index],
    })
}
