//! A file -> its resources, and their diagnostics put in order with the places they are at.

use std::collections::HashMap;

use serde_json::Value;

use super::{Compiled, CompiledPipeline, compile_sound, look_beyond, mend::Doubts};
use crate::{
    crd::PIPELINE_SCHEMA,
    diagnostic::{Code, Diagnostic, Place},
    path::{Path, quoted},
    pipeline::Pipeline,
    structure::{self, Origin},
    suggest::nearest,
    yaml::{self, Chunk, Document},
};

const API_VERSION: &str = "sidestream.dev/v1alpha1";

/// Problems of a file that are listed; a file with more has one cause, and it is among the first.
const PROBLEMS_MAX: usize = 500;

/// Bytes of documents that are read again to find the places of problems: 2000 problems of an ordinary file.
const LOCATE_BYTES_MAX: usize = 8 << 20;

pub(super) fn compile_file(text: &[u8], file: &str) -> Compiled {
    let mut compiled = Compiled::default();
    let mut names = HashMap::new();
    match yaml::read(text) {
        Err(diagnostic) => compiled.diagnostics.push(*diagnostic),
        Ok(documents) => {
            let mut places = Places { bytes_left: LOCATE_BYTES_MAX };
            for document in documents {
                let chunk = document.chunk;
                let (pipeline, mut found) = compile_document(document, &mut names);
                compiled.pipelines.extend(pipeline);
                places.fill_in(&mut found, chunk);
                compiled.diagnostics.extend(found);
            }
        }
    }
    if compiled.diagnostics.len() > PROBLEMS_MAX {
        let more = compiled.diagnostics.len() - PROBLEMS_MAX;
        compiled.diagnostics.truncate(PROBLEMS_MAX);
        let reason = format!("there are {more} problems more");
        let cure = "mend those above first; most often they have one cause";
        compiled.diagnostics.push(Diagnostic::new(Code::TooManyProblems, Path::top(), reason, cure));
    }
    for diagnostic in &mut compiled.diagnostics {
        diagnostic.file = Some(file.into());
    }
    compiled
}

fn compile_document(
    mut document: Document<'_>,
    names: &mut HashMap<String, usize>,
) -> (Option<CompiledPipeline>, Vec<Diagnostic>) {
    let mut found = std::mem::take(&mut document.diagnostics);
    if document.refused.contains(&Path::top()) {
        return (None, found);
    }
    let full_name = full_name(&document.value);
    let about_kind = check_kind(&document.value);
    let is_pipeline = about_kind.is_none();
    found.extend(about_kind);
    if is_pipeline {
        found.extend(structure::check(&document.value, &PIPELINE_SCHEMA, &document.refused, Origin::Text));
    }
    let mut compiled = None;
    if is_pipeline && found.iter().any(Diagnostic::is_error) {
        let beyond = look_beyond(document.value, &found, &document.refused);
        found.extend(beyond);
    } else if is_pipeline {
        match read_pipeline(document.value) {
            Ok(resource) => {
                let (parts, diagnostics) = compile_sound(&resource, &Doubts::default());
                found.extend(diagnostics);
                compiled = Some(CompiledPipeline::new(resource, parts));
            }
            // Only fields of `metadata` that we do not read ourselves come here.
            Err(error) => {
                let cure = "write it as Kubernetes does, or leave it out";
                found.push(Diagnostic::new(
                    Code::WrongType,
                    Path::top().field("metadata"),
                    error.to_string(),
                    cure,
                ));
            }
        }
    }
    if let Some(name) = full_name.filter(|_| is_pipeline) {
        let count = names.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            let reason = format!("there is another pipeline `{name}` above");
            let path = Path::top().fields(&["metadata", "name"]);
            let cure = "give it another name or namespace";
            found.push(Diagnostic::new(Code::DuplicatePipeline, path, reason, cure));
            compiled = compiled.map(|compiled| CompiledPipeline::new(compiled.resource, None));
        }
        for diagnostic in &mut found {
            diagnostic.resource = Some(name.clone());
        }
    }
    (compiled, found)
}

/// What is wrong with `kind` or `apiVersion`, where that makes it a resource of somebody else.
fn check_kind(value: &Value) -> Option<Diagnostic> {
    let top = Path::top();
    let kind = value.get("kind")?.as_str()?;
    if kind != "Pipeline" {
        let reason = format!("{} is no kind of resource that is known here", quoted(kind));
        let cure = match nearest(kind, ["Pipeline"]) {
            Some(name) => format!("write `{name}`"),
            None => "keep resources of other kinds in files of their own; this one may have `kind: Pipeline`"
                .into(),
        };
        return Some(Diagnostic::new(Code::UnknownResource, top.field("kind"), reason, cure));
    }
    let version = value.get("apiVersion")?.as_str()?;
    if version != API_VERSION {
        let reason = format!("{} is no version of `Pipeline`", quoted(version));
        let cure = format!("write `{API_VERSION}`, or leave it out");
        return Some(Diagnostic::new(Code::UnknownVersion, top.field("apiVersion"), reason, cure));
    }
    None
}

fn full_name(value: &Value) -> Option<String> {
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str()?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("default");
    // What is too long for a name is no name to print with every diagnostic.
    (name.len() <= 253 && namespace.len() <= 63 && !name.contains(char::is_control))
        .then(|| format!("{namespace}/{name}"))
}

pub(super) fn read_pipeline(mut value: Value) -> Result<Pipeline, serde_json::Error> {
    if let Some(map) = value.as_object_mut() {
        map.entry("apiVersion").or_insert_with(|| API_VERSION.into());
        map.remove("status");
    }
    serde_json::from_value(value)
}

/// Finds places as long as it costs little.
struct Places {
    bytes_left: usize,
}

impl Places {
    fn fill_in(&mut self, found: &mut [Diagnostic], chunk: Chunk<'_>) {
        for diagnostic in found.iter_mut().filter(|diagnostic| diagnostic.place.is_none()) {
            let Some(left) = self.bytes_left.checked_sub(chunk.len()) else { break };
            self.bytes_left = left;
            let place = yaml::locate(chunk, &diagnostic.path, is_about_a_name(diagnostic.code));
            diagnostic.place = place.map(|place| go_inside(place, diagnostic.inside.as_ref()));
        }
        found.sort_by_key(|diagnostic| {
            let place = diagnostic
                .place
                .as_ref()
                .map_or((usize::MAX, usize::MAX), |place| (place.line, place.column));
            (place, diagnostic.path.clone())
        });
    }
}

/// The place inside an expression, where its text stands in the line as it is.
fn go_inside(mut place: Place, inside: Option<&(String, usize)>) -> Place {
    let Some((source, at)) = inside else { return place };
    let before: usize = place.text.chars().take(place.column - 1).map(char::len_utf8).sum();
    if let (Some(found), Some(head)) = (place.text[before..].find(source.as_str()), source.get(..*at)) {
        place.column += place.text[before..before + found].chars().count() + head.chars().count();
    }
    place
}

/// Whether it is the name of a field that is wrong, and not its value.
fn is_about_a_name(code: Code) -> bool {
    matches!(code, Code::UnknownField | Code::UnknownKind | Code::DuplicateKey | Code::InputOnSource)
}
