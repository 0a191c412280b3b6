//! What is in the events that a stage gives, from what is in those it takes.

use std::collections::HashMap;

use sidestream_expr::{Field, Shape, Type};
use sidestream_plan::{
    Kind, Process, Source,
    stage::{Parse, Quantile, Window},
};

/// The body of the events that a stage of this kind gives when it takes bodies of `input`; `results` are the types of
/// its expressions, by the path of each below the kind.
pub(super) fn output(kind: &Kind, input: &Type, results: &HashMap<String, Type>) -> Type {
    let result = |at: &str| results.get(at).cloned().map_or(Type::Dyn, stored);
    match kind {
        Kind::Source(source) => of_source(source),
        Kind::Sink(_) => Type::Dyn,
        Kind::Process(process) => match process {
            Process::Map(_) => result("body"),
            Process::Set(set) => set.fields.keys().fold(input.clone(), |body, name| {
                let field = Field { kind: result(&format!("fields.{name}")), always: true };
                put(body, name, field)
            }),
            Process::Unset(unset) => unset.fields.iter().fold(input.clone(), |body, name| take(body, name).0),
            // All at once, so that two fields can swap their names.
            Process::Rename(rename) => {
                let mut body = input.clone();
                let mut taken = Vec::new();
                for (old, new) in &rename.fields {
                    let (rest, field) = take(body, old);
                    body = rest;
                    taken.extend(field.map(|field| (new, field)));
                }
                taken.into_iter().fold(body, |body, (new, field)| put(body, new, field))
            }
            Process::Split(_) => match result("list") {
                Type::List(of) => *of,
                _ => Type::Dyn,
            },
            Process::Batch(_) => Type::list(input.clone()),
            Process::Window(window) => of_window(window, result("by")),
            Process::Threshold(threshold) => {
                let shape = Shape::closed()
                    .with("state", Type::Text)
                    .with("value", Type::Float)
                    .with("bound", Type::Float);
                Type::Map(if threshold.by.is_some() { shape.with("by", result("by")) } else { shape })
            }
            Process::Parse(parse) => of_parse(parse),
            Process::Encode(_) => Type::Text,
            Process::Custom(_) => Type::Dyn,
            Process::Filter(_) | Process::Merge(_) | Process::Dedupe(_) => input.clone(),
            Process::Sample(_) | Process::Throttle(_) => input.clone(),
        },
    }
}

/// Whether these are the events of a window with `by`: then a threshold has a state for each `by` unless it says
/// otherwise.
pub(super) fn has_keys_of_a_window(input: &Type) -> bool {
    let Type::Map(shape) = input else { return false };
    !shape.is_open()
        && ["by", "start", "end"].iter().all(|name| shape.get(name).is_some_and(|field| field.always))
}

/// The field that holds the text to parse; none where it is the body.
pub(super) fn text_field(parse: &Parse) -> Option<&str> {
    match parse {
        Parse::Json(of) | Parse::Logfmt(of) | Parse::Prometheus(of) => of.field.as_deref(),
        Parse::Csv(csv) => csv.field.as_deref(),
        Parse::Regex(regex) => regex.field.as_deref(),
    }
}

fn of_source(source: &Source) -> Type {
    match source {
        Source::Generator(generator) => {
            let shape = Shape::closed()
                .with("sequence", Type::Int)
                .with("key", Type::Text)
                .with("value", Type::Float);
            Type::Map(if generator.payload.is_some() { shape.with("payload", Type::Text) } else { shape })
        }
        Source::Stdin(_) | Source::File(_) | Source::Dnpipe(_) => Type::Text,
        Source::HostMetrics(_) | Source::Prometheus(_) => of_samples(),
        Source::Http(_) | Source::Push(_) | Source::Edge(_) | Source::Spill(_) => Type::Dyn,
    }
}

fn of_samples() -> Type {
    let labels = Type::Map(Shape::of(Type::Text));
    Type::Map(Shape::closed().with("name", Type::Text).with("labels", labels).with("value", Type::Float))
}

fn of_parse(parse: &Parse) -> Type {
    Type::Map(match parse {
        // A line of JSON may be a list or a number too.
        Parse::Json(_) => return Type::Dyn,
        Parse::Logfmt(_) => Shape::open(),
        Parse::Csv(csv) => {
            csv.columns.iter().fold(Shape::closed(), |shape, name| shape.with(name.as_str(), Type::Dyn))
        }
        Parse::Regex(regex) => {
            let Ok(compiled) = regex::Regex::new(&regex.pattern) else { return Type::Map(Shape::open()) };
            // A group in a branch that was not taken has no text.
            let names = compiled.capture_names().flatten();
            names.fold(Shape::closed(), |shape, name| shape.with_optional(name, Type::Text))
        }
        Parse::Prometheus(_) => return of_samples(),
    })
}

fn of_window(window: &Window, by: Type) -> Type {
    let emit = &window.emit;
    let mut shape = Shape::closed().with("start", Type::Float).with("end", Type::Float);
    if window.by.is_some() {
        shape = shape.with("by", by);
    }
    if emit.count.is_some() {
        shape = shape.with("count", Type::Int);
    }
    let numbers = [("sum", &emit.sum), ("min", &emit.min), ("max", &emit.max), ("mean", &emit.mean)];
    for (name, _) in numbers.into_iter().filter(|(_, expression)| expression.is_some()) {
        shape = shape.with(name, Type::Float);
    }
    if emit.rate.is_some() {
        // Null where a window has one sample of a counter.
        shape = shape.with("rate", Type::Dyn);
    }
    let quantiles = emit.quantile.iter().flat_map(|quantile| quantile.at.iter().copied());
    Type::Map(quantiles.fold(shape, |shape, share| shape.with(Quantile::field(share).as_str(), Type::Float)))
}

/// What is left of a type in a body: points and spans of time become text.
fn stored(of: Type) -> Type {
    match of {
        Type::Timestamp | Type::Duration => Type::Text,
        Type::List(of) => Type::list(stored(*of)),
        Type::Map(shape) => {
            let others = shape.others().cloned().map(stored);
            let empty = others.map_or_else(Shape::closed, Shape::of);
            Type::Map(shape.fields().fold(empty, |out, (name, field)| {
                add(out, name, Field { kind: stored(field.kind.clone()), always: field.always })
            }))
        }
        plain => plain,
    }
}

/// `body` with the field at a dotted path; maps on the way are made where there are none.
fn put(body: Type, path: &str, field: Field) -> Type {
    let shape = match body {
        Type::Map(shape) => shape,
        Type::Dyn => Shape::open(),
        other => return other,
    };
    let Some((name, rest)) = path.split_once('.') else { return Type::Map(add(shape, path, field)) };
    let inner = shape.get(name).unwrap_or(Field { kind: Type::Map(Shape::closed()), always: field.always });
    let always = inner.always || field.always;
    let kind = put(inner.kind, rest, field);
    Type::Map(add(shape, name, Field { kind, always }))
}

/// `body` without the field at a dotted path, and that field.
fn take(body: Type, path: &str) -> (Type, Option<Field>) {
    let Type::Map(shape) = body else { return (body, None) };
    let Some((name, rest)) = path.split_once('.') else {
        let field = shape.get(path);
        return (Type::Map(shape.without(path)), field);
    };
    let Some(outer) = shape.get(name) else { return (Type::Map(shape), None) };
    let (kind, field) = take(outer.kind, rest);
    let field = field.map(|field| Field { always: field.always && outer.always, ..field });
    (Type::Map(add(shape, name, Field { kind, always: outer.always })), field)
}

/// A field that is not always written leaves the one that was there.
fn add(shape: Shape, name: &str, field: Field) -> Shape {
    match (field.always, shape.get(name)) {
        (true, _) => shape.with(name, field.kind),
        (false, Some(old)) if old.always => shape.with(name, old.kind.or(field.kind)),
        (false, _) => shape.with_optional(name, field.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(shape: Shape) -> Type {
        Type::Map(shape)
    }

    #[test]
    fn a_dotted_path_reaches_into_maps_and_makes_those_that_lack() {
        let body =
            put(map(Shape::closed().with("a", Type::Int)), "b.c", Field { kind: Type::Text, always: true });
        assert_eq!(body.to_string(), "map {a: int, b: map {c: text}}");
        let (rest, field) = take(body, "b.c");
        assert_eq!(rest.to_string(), "map {a: int, b: map {}}");
        assert_eq!(field, Some(Field { kind: Type::Text, always: true }));
    }

    #[test]
    fn of_a_body_nothing_is_known_of_a_set_field_is_known() {
        let body = put(Type::Dyn, "slow", Field { kind: Type::Bool, always: true });
        assert_eq!(body.to_string(), "map {slow: bool, ...}");
    }

    #[test]
    fn renamed_fields_can_swap_their_names() {
        let rename = sidestream_plan::stage::Rename {
            fields: [("a", "b"), ("b", "a"), ("none", "c")].map(|(old, new)| (old.into(), new.into())).into(),
        };
        let input = map(Shape::closed().with("a", Type::Int).with("b", Type::Text));
        let body = output(&Kind::Process(Process::Rename(rename)), &input, &HashMap::new());
        assert_eq!(body.to_string(), "map {a: text, b: int}");
    }

    #[test]
    fn a_time_is_text_once_it_is_in_a_body() {
        let body =
            stored(map(Shape::closed().with("at", Type::Timestamp).with("all", Type::list(Type::Duration))));
        assert_eq!(body.to_string(), "map {all: list of text, at: text}");
    }
}
