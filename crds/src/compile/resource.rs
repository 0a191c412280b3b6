//! A file -> its resources, and their diagnostics put in order with the places they are at.

use std::collections::HashMap;

use serde_json::Value;

use super::{Compiled, CompiledPipeline, compile_sound, dnpipe, look_beyond, mend::Doubts, once};
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

/// The kinds of resource that are known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Known {
    Pipeline,
    Dnpipe,
}

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
                let mut found = compile_document(document, &mut names, &mut compiled);
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
    names: &mut HashMap<(Known, String), usize>,
    compiled: &mut Compiled,
) -> Vec<Diagnostic> {
    let mut found = std::mem::take(&mut document.diagnostics);
    if document.refused.contains(&Path::top()) {
        return found;
    }
    let full_name = full_name(&document.value);
    let kind = match known(&document.value) {
        Ok(kind) => kind,
        Err(refusal) => {
            found.push(*refusal);
            return found;
        }
    };
    let repeated = full_name.clone().and_then(|name| repeated(kind, name, names));
    let runs = repeated.is_none();
    match kind {
        Known::Pipeline => {
            let pipeline = pipeline(document, &mut found, runs).map(|own| {
                let shared = once::check_groups(&own.resource, &compiled.pipelines);
                let parts = (own.plan, own.sidecars);
                let (plan, sidecars) = if shared.is_empty() { parts } else { (None, Vec::new()) };
                found.extend(shared);
                CompiledPipeline { plan, sidecars, ..own }
            });
            compiled.pipelines.extend(pipeline);
        }
        Known::Dnpipe => compiled.dnpipes.extend(dnpipe::compile(document, &mut found, runs)),
    }
    found.extend(repeated);
    if let Some(name) = full_name {
        for diagnostic in &mut found {
            diagnostic.resource = Some(name.clone());
        }
    }
    found
}

/// A pipeline as far as it can be read, with its plan where it `runs`.
fn pipeline(document: Document<'_>, found: &mut Vec<Diagnostic>, runs: bool) -> Option<CompiledPipeline> {
    found.extend(structure::check(&document.value, &PIPELINE_SCHEMA, &document.refused, Origin::Text));
    if found.iter().any(Diagnostic::is_error) {
        let beyond = look_beyond(document.value, found, &document.refused);
        found.extend(beyond);
        return None;
    }
    match read_pipeline(document.value) {
        Ok(resource) => {
            let (parts, diagnostics) = compile_sound(&resource, &Doubts::default());
            found.extend(diagnostics);
            Some(CompiledPipeline::new(resource, parts.filter(|_| runs)))
        }
        Err(error) => {
            found.push(bad_metadata(&error));
            None
        }
    }
}

/// Only fields of `metadata` that we do not read ourselves come here.
pub(super) fn bad_metadata(error: &serde_json::Error) -> Diagnostic {
    let cure = "write it as Kubernetes does, or leave it out";
    Diagnostic::new(Code::WrongType, Path::top().field("metadata"), error.to_string(), cure)
}

fn repeated(kind: Known, name: String, names: &mut HashMap<(Known, String), usize>) -> Option<Diagnostic> {
    let (code, what) = match kind {
        Known::Pipeline => (Code::DuplicatePipeline, "pipeline"),
        Known::Dnpipe => (Code::DuplicateDnpipe, "dnpipe"),
    };
    let reason = format!("there is another {what} `{name}` above");
    let count = names.entry((kind, name)).or_insert(0);
    *count += 1;
    let path = Path::top().fields(&["metadata", "name"]);
    (*count > 1).then(|| Diagnostic::new(code, path, reason, "give it another name or namespace"))
}

/// What a document is, or what makes it a resource of somebody else. One that does not say is taken for a pipeline.
fn known(value: &Value) -> Result<Known, Box<Diagnostic>> {
    let top = Path::top();
    let Some(kind) = value.get("kind").and_then(Value::as_str) else { return Ok(Known::Pipeline) };
    let found = match kind {
        "Pipeline" => Known::Pipeline,
        "Dnpipe" => Known::Dnpipe,
        _ => {
            let reason = format!("{} is no kind of resource that is known here", quoted(kind));
            let cure = match nearest(kind, ["Pipeline", "Dnpipe"]) {
                Some(name) => format!("write `{name}`"),
                None => "keep resources of other kinds in files of their own; this one may have `kind: Pipeline` and \
                         `kind: Dnpipe`"
                    .into(),
            };
            return Err(Box::new(Diagnostic::new(Code::UnknownResource, top.field("kind"), reason, cure)));
        }
    };
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or(API_VERSION);
    if version != API_VERSION {
        let reason = format!("{} is no version of `{kind}`", quoted(version));
        let cure = format!("write `{API_VERSION}`, or leave it out");
        return Err(Box::new(Diagnostic::new(Code::UnknownVersion, top.field("apiVersion"), reason, cure)));
    }
    Ok(found)
}

fn full_name(value: &Value) -> Option<String> {
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str()?;
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("default");
    // What is too long for a name is no name to print with every diagnostic.
    (name.len() <= 253 && namespace.len() <= 63 && !name.contains(char::is_control))
        .then(|| format!("{namespace}/{name}"))
}

pub(super) fn read_pipeline(value: Value) -> Result<Pipeline, serde_json::Error> {
    read_resource(value)
}

/// A resource as Kubernetes has it, without the status, which is ours to write and not to read.
pub(super) fn read_resource<T: serde::de::DeserializeOwned>(
    mut value: Value,
) -> Result<T, serde_json::Error> {
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
