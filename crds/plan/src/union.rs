//! A union is an object with exactly one key: `{filter: {...}}`.

/// Declares an enum of stage kinds: its serde form is the object with one key, its schema says so in the structural way
/// Kubernetes accepts (`minProperties: 1, maxProperties: 1`), and the names are listed for diagnostics.
///
/// Variants after `in code` can be made by the Rust API alone: they have no schema.
macro_rules! union {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[$case_doc:meta])* $case:ident($kind:ty) = $key:literal,)+ }
     $(in code { $($(#[$code_doc:meta])* $code:ident($code_kind:ty) = $code_key:literal,)+ })?) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$case_doc])* #[serde(rename = $key)] $case($kind),)+
            $($($(#[$code_doc])* #[serde(rename = $code_key)] $code($code_kind),)+)?
        }

        impl $name {
            /// The keys a resource may use, in the order of the reference.
            pub const KINDS: &'static [&'static str] = &[$($key),+];

            /// The key of this kind.
            pub fn kind(&self) -> &'static str {
                match self {
                    $($name::$case(_) => $key,)+
                    $($($name::$code(_) => $code_key,)+)?
                }
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let description = [$($doc),*].map(str::trim).join("\n");
                schemars::json_schema!({
                    "type": "object",
                    "description": description,
                    "properties": { $($key: generator.subschema_for::<$kind>()),+ },
                    "additionalProperties": false,
                    "minProperties": 1,
                    "maxProperties": 1,
                })
            }
        }
    };
}

pub(crate) use union;
