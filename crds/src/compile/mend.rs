//! The rest of a resource that has wrong fields, looked at all the same: who mends one mistake should not meet the next.
//!
//! ```text
//! value, what is wrong with its fields --put_right--> a value that can be read --> Pipeline --compile_sound--> diagnostics
//!                                          \-> Doubts: what was not as it was written ----------> those to believe ◀─┘
//! ```
//!
//! A field that is wrong is taken out, or gets the least value its schema lets pass; a stage whose kind is not known gets
//! one of which nothing is known. What the compiler then says is told where it would be said of the resource as it was
//! meant, whatever was meant: never where it may only follow from a field that is not there.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{
    diagnostic::{Code, Diagnostic},
    path::{Path, Step},
    pipeline::STAGES_MAX,
    structure::{ROLES, is_duration, is_size, role_of},
};

/// A value in which every field is as its schema asks, and what of it is made up.
pub(super) struct Mended {
    pub(super) value: Value,
    pub(super) doubts: Doubts,
}

/// What is not as it was written.
#[derive(Default)]
pub(super) struct Doubts {
    /// Fields that were taken out, or made up.
    fields: Vec<Path>,
    /// Fields that are as they were written, and wrong: that was said.
    told: Vec<Path>,
    /// Stages of which it is not known what they do.
    kinds: BTreeSet<usize>,
    /// Stages of which it is not known what they take.
    inputs: BTreeSet<usize>,
    /// A stage has a name that is not known.
    names: bool,
    sidecars: bool,
    /// Something is missing beside stages and sidecars: it may have been the `onError` of all.
    others: bool,
}

/// Mends what `found` says of `value`, and what is at `refused`; nothing where too little is left to look at.
pub(super) fn mend(
    mut value: Value,
    schema: &Value,
    found: &[Diagnostic],
    refused: &[Path],
) -> Option<Mended> {
    let stages = value.pointer("/spec/stages")?.as_array()?.len();
    if stages == 0 || stages > STAGES_MAX {
        return None;
    }
    let mut doubts = Doubts::default();
    for path in refused {
        doubts.replace(&mut value, schema, path);
    }
    for diagnostic in found.iter().filter(|found| found.is_error()) {
        doubts.mend(&mut value, schema, diagnostic);
    }
    doubts.settle_roles(&mut value);
    Some(Mended { value, doubts })
}

impl Doubts {
    /// Whether nothing is known of the events that a stage takes.
    pub(super) fn takes_unknown(&self, stage: usize) -> bool {
        self.inputs.contains(&stage)
    }

    /// Whether nothing is known of the events that a stage gives.
    pub(super) fn gives_unknown(&self, stage: usize) -> bool {
        self.kinds.contains(&stage)
    }

    /// Whether a diagnostic of the mended value is true of the written one.
    pub(super) fn believes(&self, found: &Diagnostic) -> bool {
        let is_made_up = |field: &Path| found.path.steps().starts_with(field.steps());
        // What is said of a map may follow from any field of it that is missing.
        let is_around = |field: &Path| field.steps().starts_with(found.path.steps());
        // And of a kind's settings, one may be wrong only beside another.
        let is_beside = |field: &Path| match field.steps() {
            [around @ .., _] if around.len() > STAGE_STEPS => found.path.steps().starts_with(around),
            _ => false,
        };
        let is_expression = matches!(found.code, Code::BadExpression | Code::UnfitExpression);
        let is_from = matches!(found.path.steps().last(), Some(Step::Field(name)) if name == "from");
        let follows =
            |field: &Path| is_made_up(field) || is_around(field) || (is_beside(field) && !is_expression);
        let is_told =
            |field: &Path| is_made_up(field) || (is_around(field) && found.path.steps().len() > STAGE_STEPS);
        found.is_error()
            && !self.fields.iter().any(follows)
            && !self.told.iter().any(is_told)
            && match found.code {
                Code::UnknownStage => !self.names,
                // Of an empty `from`: nobody sends dead letters.
                Code::NoInput if is_from => self.inputs.is_empty() && !self.names && !self.others,
                Code::OtherwiseAlone => self.inputs.is_empty() && self.kinds.is_empty() && !self.names,
                Code::UnknownSidecar => !self.sidecars,
                // Of the graph as a whole, where each stage runs, and how many there are.
                Code::NoSidecar | Code::SpreadState | Code::NoService | Code::SamePods | Code::LongName => {
                    !self.sidecars && self.inputs.is_empty() && self.kinds.is_empty()
                }
                // Of everything together.
                Code::UnprovenDelivery => false,
                _ => true,
            }
    }

    fn mend(&mut self, value: &mut Value, schema: &Value, found: &Diagnostic) {
        let path = &found.path;
        match found.code {
            Code::UnknownField => self.remove(value, path),
            // One of several, or the one that there is, is not to be trusted: the map around it is.
            Code::UnknownKind => self.replace(value, schema, &parent(path)),
            Code::NoKind | Code::TwoKinds if stage_of(path).is_some_and(|(_, rest)| rest.is_empty()) => {
                for role in ROLES {
                    self.remove(value, &path.field(role));
                }
            }
            Code::MissingField => {
                let wanted = schema_at(schema, path).and_then(|schema| schema["required"].as_array());
                for name in wanted.into_iter().flatten().filter_map(Value::as_str) {
                    if at(value, path).is_some_and(|map| map.get(name).is_none()) {
                        self.replace(value, schema, &path.field(name));
                    }
                }
            }
            // It can be read as it is.
            Code::BadText | Code::BadLength | Code::BadCount => self.told.push(path.clone()),
            _ => self.replace(value, schema, path),
        }
    }

    /// Takes a field out where it may be absent, and makes it up where it may not.
    fn replace(&mut self, value: &mut Value, schema: &Value, path: &Path) {
        let Some((last, around)) = path.steps().split_last() else { return };
        let around = Path::from(around);
        let is_required = match last {
            Step::Element(_) => true,
            Step::Field(name) => schema_at(schema, &around).is_some_and(|schema| {
                schema["required"].as_array().is_some_and(|names| names.iter().any(|own| own == name))
            }),
        };
        if !is_required {
            return self.remove(value, path);
        }
        let Some(wanted) = schema_at(schema, path) else { return };
        let made_up = least(wanted, self.fields.len());
        match (at_mut(value, &around), last) {
            (Some(Value::Object(map)), Step::Field(name)) => drop(map.insert(name.clone(), made_up)),
            (Some(Value::Array(list)), Step::Element(index)) if *index < list.len() => list[*index] = made_up,
            _ => return,
        }
        self.note(path);
    }

    fn remove(&mut self, value: &mut Value, path: &Path) {
        if let Some((Step::Field(name), around)) = path.steps().split_last()
            && let Some(map) = at_mut(value, &Path::from(around)).and_then(Value::as_object_mut)
            && map.remove(name).is_some()
        {
            self.note(path);
        }
    }

    fn note(&mut self, path: &Path) {
        self.fields.push(path.clone());
        match stage_of(path) {
            Some((stage, [Step::Field(field), ..])) if ROLES.contains(&field.as_str()) => {
                self.kinds.insert(stage);
            }
            Some((_, [Step::Field(field)])) if field == "name" => self.names = true,
            Some((stage, [Step::Field(_), ..])) => drop(self.inputs.insert(stage)),
            Some((stage, _)) => {
                self.names = true;
                self.kinds.insert(stage);
                self.inputs.insert(stage);
            }
            None if path.to_string().starts_with("spec.sidecars") => self.sidecars = true,
            None => self.others = true,
        }
    }

    /// Gives every stage without one a role, and a kind of which nothing is known.
    fn settle_roles(&mut self, value: &mut Value) {
        let spec = value["spec"].clone();
        for (index, stage) in spec["stages"].as_array().into_iter().flatten().enumerate() {
            let roles: Vec<&str> = ROLES.into_iter().filter(|role| !stage[role].is_null()).collect();
            let role = match roles.as_slice() {
                [role] if stage[role].as_object().is_some_and(|kind| kind.len() == 1) => continue,
                [role] => *role,
                _ => self.role_meant(index, &spec),
            };
            let kind = match role {
                "source" => json!({"push": {}}),
                "sink" => json!({"blackhole": {}}),
                _ => json!({"custom": {"processor": "unknown"}}),
            };
            let path = Path::stage(index);
            if let Some(Value::Object(stage)) = at_mut(value, &path) {
                roles.iter().for_each(|role| drop(stage.remove(*role)));
                stage.insert(role.into(), kind);
            }
            self.fields.push(path.field(role));
            self.kinds.insert(index);
        }
    }

    /// What a stage is meant to be that does not say it: what was written of it, and what others say of it.
    fn role_meant(&self, index: usize, spec: &Value) -> &'static str {
        let path = Path::stage(index);
        let written = self.fields.iter().filter_map(|field| field.steps().strip_prefix(path.steps()));
        let role = written.filter_map(|rest| match rest {
            [Step::Field(name), ..] => ROLES.into_iter().find(|role| name == role).or_else(|| role_of(name)),
            _ => None,
        });
        let roles: BTreeSet<&'static str> = role.collect();
        if let (1, Some(role)) = (roles.len(), roles.first().copied()) {
            return role;
        }
        let stages = || spec["stages"].as_array().into_iter().flatten();
        let stage = &spec["stages"][index];
        let is_own = |name: &Value| name.is_string() && *name == stage["name"];
        let takes_letters = stages().chain([spec]).any(|other| is_own(&other["onError"]["deadLetter"]));
        let is_taken =
            stages().any(|other| other["from"].as_array().is_some_and(|from| from.iter().any(is_own)));
        let has_input = ["from", "when", "otherwise", "input"].iter().any(|field| !stage[field].is_null());
        let is_sink = (takes_letters || !stage["onError"]["retry"].is_null()) && !is_taken;
        if is_sink {
            "sink"
        } else if index == 0 && !has_input {
            "source"
        } else {
            "process"
        }
    }
}

/// The least value that a schema lets pass, as far as reading it goes; `number` tells names that are made up apart.
fn least(schema: &Value, number: usize) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    match schema["type"].as_str().unwrap_or_default() {
        "object" => {
            let properties = schema["properties"].as_object();
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let mut names: Vec<&str> = required.collect();
            if schema["minProperties"] == 1 && names.is_empty() {
                names.extend(properties.and_then(|properties| properties.keys().next()).map(String::as_str));
            }
            let field = |name: &str| {
                let schema = properties.and_then(|properties| properties.get(name));
                (name.to_owned(), schema.map_or(Value::Null, |schema| least(schema, number)))
            };
            Value::Object(names.into_iter().map(field).collect::<Map<_, _>>())
        }
        "array" => {
            let count = schema["minItems"].as_u64().unwrap_or(0).min(1);
            (0..count).map(|_| least(&schema["items"], number)).collect()
        }
        "string" if is_duration(pattern) => "1s".into(),
        "string" if is_size(pattern) => "1".into(),
        "string" => format!("unknown-{number}").into(),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| 0.into()),
        "boolean" => false.into(),
        _ => Value::Null,
    }
}

/// The stage that a path leads into, and the way from there.
fn stage_of(path: &Path) -> Option<(usize, &[Step])> {
    match path.steps() {
        [Step::Field(spec), Step::Field(stages), Step::Element(index), rest @ ..]
            if spec == "spec" && stages == "stages" =>
        {
            Some((*index, rest))
        }
        _ => None,
    }
}

fn parent(path: &Path) -> Path {
    path.steps().split_last().map_or_else(Path::top, |(_, around)| Path::from(around))
}

fn schema_at<'a>(schema: &'a Value, path: &Path) -> Option<&'a Value> {
    path.steps().iter().try_fold(schema, |schema, step| match step {
        Step::Field(name) => {
            let own = schema["properties"].get(name);
            own.or_else(|| schema.get("additionalProperties").filter(|inner| inner.is_object()))
        }
        Step::Element(_) => schema.get("items"),
    })
}

fn at<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.steps().iter().try_fold(value, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Element(index) => value.get(index),
    })
}

fn at_mut<'a>(value: &'a mut Value, path: &Path) -> Option<&'a mut Value> {
    path.steps().iter().try_fold(value, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Element(index) => value.get_mut(index),
    })
}

/// Steps to a stage: `spec`, `stages`, its index.
const STAGE_STEPS: usize = 3;
