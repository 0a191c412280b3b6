//! Reference pages, from the schema and the table of codes: what they say is what the compiler does.

use std::fmt::Write;

use serde_json::Value;
use sidestream_plan::{Process, Sink, Source};

use crate::{
    crd::{IS_CEL, dnpipe_schema, pipeline_schema},
    diagnostic::{Code, FileCode, Severity},
};

/// `docs/reference/pipeline.md`: every field of a Pipeline.
pub fn pipeline_page() -> String {
    // Of the structs, not of the file that is generated with this page.
    let schema = pipeline_schema();
    let spec = &schema["properties"]["spec"];
    let stage = &spec["properties"]["stages"]["items"];
    let mut page = Page::default();
    page.text("# Pipeline");
    page.text(GENERATED);
    page.text(&format!("{} This is a whole one:", description(spec)));
    page.yaml(include_str!("../cases/ok/hello.yaml"));
    page.text("A file may hold several, with `---` between them. Where a field is unknown, missing or of the wrong type, \
        [`sidestream check`](diagnostics.md) says so, for all of them at once. No text is longer than 4 KiB.");
    page.text(VALUES);
    page.text("## `spec`");
    page.fields(spec, &["stages", "sidecars"]);
    let sidecar = &spec["properties"]["sidecars"]["items"];
    page.text("## A sidecar");
    page.text(&description(sidecar));
    page.fields(sidecar, &[]);
    page.text(KEYED);
    page.text("## A stage");
    page.text(&description(stage));
    page.fields(stage, &["source", "process", "sink"]);
    let kinds = [("source", Source::KINDS), ("process", Process::KINDS), ("sink", Sink::KINDS)];
    for (role, names) in kinds {
        page.text(&format!("## `{role}`: {}", description(&stage["properties"][role]).trim_end_matches('.')));
        for name in names {
            let kind = &stage["properties"][role]["properties"][name];
            page.text(&format!("### `{name}`"));
            page.text(&description(kind));
            if let Some(example) = example(role, name) {
                page.yaml(example);
            }
            page.fields(kind, &[]);
        }
    }
    page.0
}

/// `docs/reference/dnpipe.md`: every field of a Dnpipe.
pub fn dnpipe_page() -> String {
    let schema = dnpipe_schema();
    let spec = &schema["properties"]["spec"];
    let mut page = Page::default();
    page.text("# Dnpipe");
    page.text(GENERATED);
    page.text(&format!("{} This is a whole one:", description(spec)));
    page.yaml(include_str!("../cases/ok/orders.yaml"));
    page.text(DNPIPE);
    page.text("## `spec`");
    page.fields(spec, &[]);
    page.text("And this has every field:");
    page.yaml(include_str!("../cases/ok/every-field-of-a-dnpipe.yaml"));
    page.0
}

/// What a dnpipe means, beyond what its fields say.
const DNPIPE: &str = "\
A file may hold several, and Pipelines beside them, with `---` between. `sidestream run FILE --data-dir DIR` serves them on
this machine, `kubectl apply` has a [cluster serve them](../how-to/dnpipes-on-a-cluster.md); [the command line](cli.md) pushes
and pulls. Durations and sizes are written as [in a Pipeline](pipeline.md#values).

- **push** appends a record: a value, and where it is wanted a key and headers. It is answered with an offset when the record is
  as durable as `durability` says.
- **pull** delivers records from an offset, a time, the begin or the end on, or the next ones for a group whose cursor the server
  keeps. It removes nothing: a record is there for every participant until a reset.
- **reset** removes all records. After it has returned, no older record is delivered. Offsets go on; the *epoch* counts resets.

Order is total within a partition, and by default there is one. Nothing is dropped to make room: where `storage.size` or the
disk is full, a push is refused and says so.

While the key of a dnpipe with `encryption` is missing, or another one, that dnpipe is locked: pushes and pulls are refused as
`locked`, which says which key and where it belongs, and nothing of it is lost or let go. All others are served. Within a second or
so of the key it goes on; one that was not there yet is made then.";

/// `docs/reference/diagnostics.md`: every code.
pub fn diagnostics_page() -> String {
    let mut page = Page::default();
    page.text("# Diagnostics");
    page.text(GENERATED);
    page.text("What `sidestream check` and `sidestream run` say of a file, all of it at once: what is wrong, where, and what \
        to write instead. Only what may follow from a mistake alone is left unsaid until that is mended: that a stage whose \
        `from` cannot be read has no input, for instance. An error keeps everything from starting (exit status 2); a \
        warning and a note do not. A code never changes its meaning.");
    let mut table = String::from("| code | severity | meaning |\n|---|---|---|");
    for code in FileCode::ALL {
        let _ = write!(table, "\n| `{}` | {} | {} |", code.text(), Severity::Error, code.meaning());
    }
    for code in Code::ALL {
        let _ = write!(table, "\n| `{code}` | {} | {} |", code.severity(), code.meaning());
    }
    page.text(&table);
    page.0
}

/// What the types of fields are that have a form of their own.
const VALUES: &str = "\
## Values

| type | written as | such as |
|---|---|---|
| duration | one or more whole numbers, each with a unit: `d` `h` `m` `s` `ms` `us` `ns`; no fractions, no spaces | `250ms`, `5s`, `1h30m` |
| size | bytes, or a whole number with a unit: `k` `M` `G` `T` of 1000, `Ki` `Mi` `Gi` `Ti` of 1024 | `512`, `64Ki`, `10M` |
| expression | text in [CEL](expressions.md), over `event` and `meta` | `event.status >= 500` |

In a YAML flow map, quote an expression that has `:`, `,`, `{`, `[` or `#` in it.

## An event

What flows: a body, which is a map, a list, a text, a number or bytes, and what is known of it, which no stage has to name:
its time, the source it came from, its number there, its key, headers and W3C trace context. Expressions read the body as
`event` and the rest as [`meta`](expressions.md). A dead letter has two headers more, `sidestream-stage` and `sidestream-error`.";

/// What several pods of a sidecar do.
const KEYED: &str = "\
Of several pods any may get an event, unless a stage behind an edge brings the events of a key together: a `window`,
`threshold` or `throttle` with `by`, or a `dedupe`. Then [each pod owns a share of the keys](../how-to/share-keys-among-pods.md).";

const GENERATED: &str = "<!-- Generated from the types by `make generate`. Do not edit. -->";

/// One stage of every kind: `cases/ok/every-kind.yaml` has each on one line.
fn example(role: &str, kind: &str) -> Option<&'static str> {
    let stages = include_str!("../cases/ok/every-kind.yaml").lines().map(str::trim_start);
    let wanted = format!("{role}: {{{kind}: ");
    stages.filter(|line| line.starts_with("- ")).find(|line| line.contains(&wanted))
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn text(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    fn yaml(&mut self, yaml: &str) {
        self.text(&format!("```yaml\n{}\n```", yaml.trim_end()));
    }

    /// The fields of a map and of the maps in it. Of those named in `apart`, the page speaks elsewhere.
    fn fields(&mut self, schema: &Value, apart: &[&str]) {
        let mut rows = Vec::new();
        collect(schema, "", apart, &mut rows);
        if rows.is_empty() {
            return self.text("It has no fields: write `{}`.");
        }
        if schema["maxProperties"] == 1 && schema["properties"].is_object() {
            self.text("Exactly one of its fields is there.");
        }
        self.text(&format!("| field | type | bounds | meaning |\n|---|---|---|---|\n{}", rows.join("\n")));
    }
}

fn collect(schema: &Value, prefix: &str, apart: &[&str], rows: &mut Vec<String>) {
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    let properties = schema["properties"].as_object();
    let mut names: Vec<(&String, &Value)> = properties.into_iter().flatten().collect();
    names.sort_by_key(|(name, _)| !required(name));
    for (name, field) in names {
        let path = format!("{prefix}{name}");
        let mark = if required(name) { ", required" } else { "" };
        let meaning = description(field).replace("\n- ", "<br>• ").replace('\n', " ").replace('|', "\\|");
        rows.push(format!("| `{path}` | {}{mark} | {} | {meaning} |", type_name(field), bounds(field)));
        if !apart.contains(&name.as_str()) {
            collect(field, &format!("{path}."), &[], rows);
        }
    }
}

fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.trim_end_matches(IS_CEL).trim_end().into()
}

fn type_name(schema: &Value) -> String {
    let pattern = schema["pattern"].as_str().unwrap_or_default();
    let is_cel = schema["description"].as_str().is_some_and(|text| text.ends_with(IS_CEL));
    match schema["type"].as_str().unwrap_or_default() {
        "string" if schema["enum"].is_array() => "one of".into(),
        "string" if is_cel => "expression".into(),
        "string" if crate::structure::is_duration(pattern) => "duration".into(),
        "string" if crate::structure::is_size(pattern) => "size".into(),
        "string" => "text".into(),
        "integer" => "whole number".into(),
        "number" => "number".into(),
        "boolean" => "`true` or `false`".into(),
        "array" if schema["items"]["enum"].is_array() => "list of some of".into(),
        "array" => format!("list of {}", type_name(&schema["items"])),
        _ if schema["additionalProperties"].is_object() => {
            format!("map of {}", type_name(&schema["additionalProperties"]))
        }
        _ if schema["maxProperties"] == 1 => "exactly one of".into(),
        _ => "map".into(),
    }
}

fn bounds(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if schema["items"]["enum"].is_array() {
        return bounds(&schema["items"]);
    }
    let is_quantity = matches!(type_name(schema).as_str(), "duration" | "size" | "expression");
    let pairs = [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " elements"),
        ("minProperties", "maxProperties", " entries"),
    ];
    let said = pairs.into_iter().filter_map(|(least_name, most_name, what)| {
        let is_said = !(is_quantity || least_name == "minProperties" && schema["properties"].is_object());
        let (least, most) = (&schema[least_name], &schema[most_name]);
        match (least.is_null(), most.is_null() || is_unbounded(most)) {
            _ if !is_said => None,
            (true, true) => None,
            (false, true) if *least == 0 => None,
            (false, true) if *least == 1 && least_name == "minLength" => Some("not empty".into()),
            (false, true) => Some(format!("at least {least}{what}")),
            (true, false) => Some(format!("at most {most}{what}")),
            (false, false) if least == most => Some(format!("{least}{what}")),
            (false, false) => Some(format!("{least} to {most}{what}")),
        }
    });
    said.collect::<Vec<_>>().join(", ")
}

/// Bounds of machine words and of every text are not worth a column.
fn is_unbounded(most: &Value) -> bool {
    [i64::from(u32::MAX), i64::MAX, 4096].iter().any(|bound| *most == *bound)
}
