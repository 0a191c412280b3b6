//! What is known of a value before it runs.

use std::{collections::BTreeMap, fmt};

use sidestream_event::Text;

/// What is known of a value before it runs. Names in messages are those of [`sidestream_event::Value::kind`].
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything: found out when it runs.
    Dyn,
    /// `null`.
    Null,
    /// True or false.
    Bool,
    /// A whole number: CEL's `int`.
    Int,
    /// A number with a fraction: CEL's `double`.
    Float,
    /// Text: CEL's `string`.
    Text,
    /// Bytes.
    Bytes,
    /// A point in time. Events hold none in their bodies; `meta.time` and `timestamp(...)` are.
    Timestamp,
    /// A span of time: `duration("5s")`, or the difference of two timestamps.
    Duration,
    /// Values in order, each of the one type.
    List(Box<Type>),
    /// Named values.
    Map(Shape),
}

/// What is known of the fields of a map: names with types, and whether other names may occur.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    fields: BTreeMap<Text, Field>,
    others: Option<Box<Type>>,
}

/// What is known of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// What its value is.
    pub kind: Type,
    /// Whether every such map has it. Where it may be missing, reading it can fail when it runs, and `has` tells.
    pub always: bool,
}

impl Type {
    /// A list of `of`.
    pub fn list(of: Type) -> Self {
        Type::List(Box::new(of))
    }

    /// Whether this is a number, or may be one.
    pub fn may_be_number(&self) -> bool {
        matches!(self, Type::Dyn | Type::Int | Type::Float)
    }

    /// What is known of a value that is either of the two.
    pub fn or(self, other: Type) -> Type {
        match (self, other) {
            (one, other) if one == other => one,
            (Type::List(one), Type::List(other)) => Type::list(one.or(*other)),
            (Type::Map(one), Type::Map(other)) => Type::Map(one.or(other)),
            _ => Type::Dyn,
        }
    }
}

impl Shape {
    /// No fields; [`Shape::with`] adds them, and no others occur.
    pub fn closed() -> Self {
        Self::default()
    }

    /// Any fields of any type; [`Shape::with`] adds what is known of some.
    pub fn open() -> Self {
        Self::of(Type::Dyn)
    }

    /// Fields of any name, whose values are all of one type: the labels of a metric are `Shape::of(Type::Text)`.
    pub fn of(kind: Type) -> Self {
        Self { fields: BTreeMap::new(), others: Some(Box::new(kind)) }
    }

    /// With the field `name`, which is always there.
    pub fn with(mut self, name: impl Into<Text>, kind: Type) -> Self {
        self.fields.insert(name.into(), Field { kind, always: true });
        self
    }

    /// With the field `name`, which may be missing.
    pub fn with_optional(mut self, name: impl Into<Text>, kind: Type) -> Self {
        self.fields.insert(name.into(), Field { kind, always: false });
        self
    }

    /// Without the field `name`. In an open shape nothing can be said to be absent, so its type is merely forgotten.
    pub fn without(mut self, name: &str) -> Self {
        self.fields.remove(name);
        self
    }

    /// What is known of the field `name`; `None` where it cannot occur.
    pub fn get(&self, name: &str) -> Option<Field> {
        self.fields
            .get(name)
            .cloned()
            .or_else(|| self.others.as_deref().map(|kind| Field { kind: kind.clone(), always: false }))
    }

    /// The fields known by name, in the order of their names.
    pub fn fields(&self) -> impl Iterator<Item = (&Text, &Field)> {
        self.fields.iter()
    }

    /// The type of fields whose names are not known; `None` where there are no others.
    pub fn others(&self) -> Option<&Type> {
        self.others.as_deref()
    }

    /// Whether fields other than those known by name may occur.
    pub fn is_open(&self) -> bool {
        self.others.is_some()
    }

    /// What is known of a map that has either of the two shapes.
    pub fn or(self, other: Shape) -> Shape {
        let names: std::collections::BTreeSet<Text> =
            self.fields.keys().chain(other.fields.keys()).cloned().collect();
        let fields = names
            .into_iter()
            .map(|name| {
                let field = match (self.get(&name), other.get(&name)) {
                    (Some(one), Some(two)) => {
                        Field { always: one.always && two.always, kind: one.kind.or(two.kind) }
                    }
                    (Some(field), None) | (None, Some(field)) => Field { always: false, ..field },
                    (None, None) => unreachable!("the name came from one of the two"),
                };
                (name, field)
            })
            .collect();
        let others = match (self.others, other.others) {
            (Some(one), Some(two)) => Some(Box::new(one.or(*two))),
            (one, two) => one.or(two),
        };
        Shape { fields, others }
    }

    /// What a value at any name is: what a loop or an index that is computed finds.
    pub(crate) fn any_value(&self) -> Type {
        let mut kinds = self.fields.values().map(|field| &field.kind).chain(self.others.as_deref());
        let Some(first) = kinds.next() else { return Type::Dyn };
        kinds.fold(first.clone(), |all, kind| all.or(kind.clone()))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Float => "float",
            Type::Text => "text",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::List(of) if **of == Type::Dyn => "list",
            Type::List(of) => return write!(out, "list of {of}"),
            Type::Map(shape) => return write!(out, "map{shape}"),
        })
    }
}

/// The fields in braces, `?` after a name that may be missing, `...` where others may occur; nothing where any may.
impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.fields.is_empty() {
            return match self.others.as_deref() {
                Some(Type::Dyn) => Ok(()),
                Some(kind) => write!(out, " of {kind}"),
                None => out.write_str(" {}"),
            };
        }
        let known = self
            .fields
            .iter()
            .map(|(name, field)| format!("{name}{}: {}", if field.always { "" } else { "?" }, field.kind));
        let others = self.others.as_deref().map(|kind| match kind {
            Type::Dyn => "...".to_string(),
            kind => format!("...: {kind}"),
        });
        write!(out, " {{{}}}", known.chain(others).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_reads_as_a_person_would_write_it() {
        let shape = Shape::open()
            .with("status", Type::Int)
            .with_optional("labels", Type::Map(Shape::of(Type::Text)))
            .with("sizes", Type::list(Type::Float));
        assert_eq!(
            Type::Map(shape).to_string(),
            "map {labels?: map of text, sizes: list of float, status: int, ...}"
        );
        assert_eq!(Type::Map(Shape::open()).to_string(), "map");
        assert_eq!(Type::Map(Shape::closed()).to_string(), "map {}");
    }

    #[test]
    fn of_two_shapes_only_what_both_say_is_certain() {
        let one = Shape::closed().with("a", Type::Int).with("b", Type::Text);
        let two = Shape::closed().with("a", Type::Float);
        let both = one.or(two);
        assert_eq!(both.get("a"), Some(Field { kind: Type::Dyn, always: true }));
        assert_eq!(both.get("b"), Some(Field { kind: Type::Text, always: false }));
        assert_eq!(both.get("c"), None);
    }
}
