//! Where in a file a field is.
//!
//! Values carry no places, since only mistakes need one: for each, the document is read again, down to the field, and
//! there reading is made to fail. The parser's error then has the place.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Chunk, KeyReader};
use crate::{
    diagnostic::Place,
    path::{Path, Step},
};

/// Where in the file the value of a field is, or its name; for one that is not there, what it would be in.
pub(crate) fn locate(chunk: Chunk<'_>, path: &Path, at_name: bool) -> Option<Place> {
    let finder = Finder { steps: path.steps(), at_name };
    let error = finder.deserialize(serde_yaml::Deserializer::from_str(chunk.text)).err()?;
    let at = error.location()?;
    chunk.place(at.line(), at.column())
}

/// Goes down a path and fails where it ends: the place of the error is the place of the field.
struct Finder<'a> {
    steps: &'a [Step],
    at_name: bool,
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

/// What is not descended into fails by the visitor's defaults, which is what is wanted.
impl<'de> Visitor<'de> for Finder<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("this place")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<(), A::Error> {
        if let Some((Step::Element(index), steps)) = self.steps.split_first() {
            for _ in 0..*index {
                input.next_element::<IgnoredAny>()?;
            }
            input.next_element_seed(Finder { steps, ..self })?;
        }
        Err(A::Error::custom("here"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<(), A::Error> {
        if let Some((Step::Field(name), steps)) = self.steps.split_first() {
            let fail_at = (self.at_name && steps.is_empty()).then_some(name.as_str());
            while let Some(key) = input.next_key_seed(KeyReader { fail_at })? {
                if key == *name {
                    input.next_value_seed(Finder { steps, ..self })?;
                } else {
                    input.next_value::<IgnoredAny>()?;
                }
            }
        }
        Err(A::Error::custom("here"))
    }
}
