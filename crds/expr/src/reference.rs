//! The reference page of expressions: functions from the table that the checker reads, examples with what they give.

use std::{collections::BTreeSet, fmt::Write};

use sidestream_event::{Event, Text, Timestamp, Value, json};

use crate::{
    Program, Type,
    functions::{FUNCTIONS, MACROS, Overload, meaning},
    limits::{DEPTH_MAX, LOOPS_NESTED_MAX, SOURCE_BYTES_MAX},
};

/// `docs/reference/expressions.md`.
pub fn expressions_page() -> String {
    let mut page = String::from(HEAD);
    page += "\n## Functions\n\nWhat is before the dot is what the function is called on.\n\n| function | gives | meaning |\n|---|---|---|\n";
    let mut told = BTreeSet::new();
    for Overload { name, result, .. } in FUNCTIONS {
        if told.insert(name) {
            let all = FUNCTIONS.iter().filter(|overload| overload.name == *name);
            let calls: Vec<String> = all.map(|overload| format!("`{}`", overload.signature())).collect();
            // Writing to memory does not fail.
            let _ = writeln!(page, "| {} | {} | {} |", calls.join("<br>"), result.name(), meaning(name));
        }
    }
    page += "\nAnd these, of which the loops go over a list, or over the names of a map:\n\n| form | meaning |\n|---|---|\n";
    for (name, example) in MACROS {
        let _ = writeln!(page, "| `{example}` | {} |", meaning(name));
    }
    let _ = write!(
        page,
        "\n## Examples\n\nOf this event, with `meta.source` `access`:\n\n```json\n{BODY}\n```\n\n"
    );
    page += "| expression | gives |\n|---|---|\n";
    for example in EXAMPLES {
        let _ = writeln!(page, "| `{}` | {} |", escaped(example), escaped(&given(example)));
    }
    let _ = write!(
        page,
        "\n`sidestream eval '<expression>' --event '<JSON>'` tries one.\n\n## Bounds\n\nAn expression has at most \
         {SOURCE_BYTES_MAX} bytes, {DEPTH_MAX} levels and {LOOPS_NESTED_MAX} loops inside one another; one evaluation \
         that would loop for longer than some 10 ms ends as an error.\n"
    );
    page
}

/// What an expression gives for the event of the examples, in words.
fn given(source: &str) -> String {
    match Program::compile(source, &Type::Dyn).map(|program| program.eval(&sample())) {
        Ok(Ok(value)) => format!("`{value}`"),
        Ok(Err(error)) => format!("error: {error}"),
        Err(problems) => problems.iter().map(|problem| format!("mistake: {problem}")).collect(),
    }
}

fn sample() -> Event {
    let mut event = Event::new(json::read(BODY.as_bytes()).unwrap_or(Value::Null));
    event.meta.source = Text::from("access");
    event.meta.time = Timestamp::from_nanos(1_769_860_800_500_000_000);
    event
}

/// In a cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

const HEAD: &str = "\
# Expressions

<!-- Generated from crds/expr/src; `make generate` writes it. -->

Conditions, keys, values and new bodies are expressions: a stage's `when`, `keep` of `filter`, `by` of `window`, `fields` of
`set` and all others whose type is *expression* in the [reference of Pipelines](pipeline.md). The language is
[CEL](https://cel.dev), as in Kubernetes' own validation rules; what differs is said here.

## What can be read

| name | type | what it is |
|---|---|---|
| `event` | any | the body: most often a map, as `event.status` or `event['status']` |
| `meta.time` | timestamp | when it happened; where the source cannot tell, when it was taken in |
| `meta.source` | text | the source stage it came from |
| `meta.sequence` | int | its number at its source, from 0 |
| `meta.key` | text or null | what orders it |
| `meta.headers` | map of text | what came with it; names in lower case, of repeated ones the first |
| `meta.traceparent` | text or null | the W3C trace context it came with |

A dead letter's headers say which stage failed and why: `meta.headers['sidestream-stage']` and
`meta.headers['sidestream-error']`.

## Types

| type | written as | CEL calls it |
|---|---|---|
| null | `null` | `null_type` |
| bool | `true`, `false` | `bool` |
| int | `42`, `-1`, `0xff`: 64 bits, signed | `int` |
| float | `0.5`, `1e3`, `2.0` | `double` |
| text | `'a'`, `\"a\"`, `r'\\d'` without escapes | `string` |
| bytes | `b'ab'` | `bytes` |
| timestamp | `timestamp('2026-01-31T12:00:00Z')` | `timestamp` |
| duration | `duration('1h30m')` | `duration` |
| list | `[1, 2]` | `list` |
| map | `{'a': 1}` | `map` |

JSON's numbers are ints where they have neither fraction nor exponent and fit, else floats. In a new body a timestamp and a
duration become text. Unsigned numbers (`2u`, `uint(2)`) exist, and become ints.

## Operators

From those that bind most tightly:

| operators | on |
|---|---|
| `.name` `['name']` `[0]` | a map's field, a list's element |
| `!` | bool |
| `-` (one operand) | int, float |
| `*` `/` | two ints, or two floats |
| `%` | two ints |
| `+` | two ints, floats, texts, bytes, lists or durations; a timestamp and a duration |
| `-` | two ints, floats, durations or timestamps; a timestamp and a duration |
| `<` `<=` `>` `>=` | numbers of any kind; two texts, bytes, bools, timestamps or durations |
| `==` `!=` | anything: values of different kinds are not equal, but numbers are compared by what they are; what can never be equal is refused when it is compiled |
| `in` | a value in a list, a name in a map |
| `&&` | bools |
| `\\|\\|` | bools |
| `a ? b : c` | a bool before `?` |

Ints and floats do not mix in arithmetic: write `double(event.status) * 0.5`. A result beyond 64 bits and an int divided by
zero are errors; a float divided by zero is infinite, and a NaN is neither less than nor equal to anything.

## What is missing, and null

- Reading a field that is not there is an error, which names those that are: the event goes to the stage's dead letter, or
  is dropped and counted. `has(event.user)` asks first, and so does `'user' in event`.
- A field that is there and null is not missing: `has` says true, `event.user == null` is true, and every operator but `==`
  and `!=` refuses it.
- `&&` and `||` give their answer where one side decides it, whatever the error of the other: `has(event.user) &&
  event.user == 'root'` and `event.status >= 500 || event.user == 'root'` are safe.
- A condition (`when`, `keep`) must be true or false. Nothing else counts as either.

Where the fields of the events are known (after `parse` with columns, `map`, `window`, `generator`, `hostMetrics`,
`prometheus`), expressions are checked when the file is compiled; where they are not, `sidestream check` says so.
";

const BODY: &str = r#"{"status": 503, "seconds": 0.25, "path": "/cart", "user": null, "labels": {"zone": "b"}, "sizes": [3, 5, 8]}"#;

const EXAMPLES: &[&str] = &[
    "event.status >= 500 && event.path.startsWith('/ca')",
    "event.status / 100",
    "event.seconds * 2",
    "event.seconds * 2.0",
    "double(event.status) * 0.5",
    "event.path + '?' + string(event.status)",
    "event.labels.zone in ['a', 'b']",
    "has(event.labels.rack) ? event.labels.rack : 'none'",
    "event.labels.rack",
    "event.user == null",
    "event.user > 5",
    "event.sizes.filter(x, x > 3).map(x, x * 2)",
    "event.sizes.exists(x, x == 8)",
    "size(event.sizes) + size(event.path)",
    "{'source': meta.source, 'slow': event.seconds > 0.1}",
    "meta.time.getHours()",
    "meta.time - timestamp('2026-01-31T11:59:00Z') > duration('1m')",
    "event.path.matches('^/[a-z]+$')",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_and_loop_says_what_it_does() {
        let names =
            FUNCTIONS.iter().map(|overload| overload.name).chain(MACROS.iter().map(|(name, _)| *name));
        for name in names {
            assert!(!meaning(name).is_empty(), "{name}");
        }
        let page = expressions_page();
        assert!(page.contains("| `text.startsWith(text)` | bool | "), "{page}");
        assert_eq!(page.matches("| `text.matches(text)`<br>`matches(text, text)` | ").count(), 1);
    }

    #[test]
    fn every_name_of_the_envelope_is_there() {
        for name in ["time", "source", "sequence", "key", "headers", "traceparent"] {
            assert!(
                HEAD.contains(&format!("| `meta.{name}` | "))
                    && !given(&format!("meta.{name}")).contains("mistake")
            );
        }
    }

    #[test]
    fn every_example_is_an_expression() {
        for example in EXAMPLES {
            assert!(!given(example).starts_with("mistake"), "{example}: {}", given(example));
        }
    }
}
