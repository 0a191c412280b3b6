//! What is wrong with an expression is told before any event: all of it, where it is, and what to write instead.

use sidestream_expr::{Program, Shape, Type};

/// A request, as an access log has it.
fn request() -> Type {
    let labels = Shape::of(Type::Text);
    Type::Map(
        Shape::closed()
            .with("status", Type::Int)
            .with("path", Type::Text)
            .with("seconds", Type::Float)
            .with("ok", Type::Bool)
            .with("sizes", Type::list(Type::Int))
            .with("labels", Type::Map(labels))
            .with_optional("user", Type::Text)
            .with("raw", Type::Dyn),
    )
}

fn complaints(source: &str, event: &Type) -> Vec<String> {
    match Program::compile(source, event) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .iter()
            .map(|problem| format!("{}: {problem}", problem.at.map_or("?".into(), |at| at.to_string())))
            .collect(),
    }
}

#[track_caller]
fn refuses(source: &str, expected: &[&str]) {
    assert_eq!(complaints(source, &request()), expected, "{source}");
}

#[track_caller]
fn accepts(source: &str, result: &Type) {
    match Program::compile(source, &request()) {
        Ok(program) => assert_eq!(program.result(), result, "{source}"),
        Err(problems) => panic!("{source}: {problems:?}"),
    }
}

#[test]
fn an_unknown_name_is_told_with_the_name_that_was_meant() {
    refuses("status >= 500", &["0: there is no `status`; write `event.status`"]);
    refuses("key == 'a'", &["0: there is no `key`; write `meta.key`"]);
    refuses("evnt.status > 1", &["0: there is no `evnt`; write `event`"]);
    refuses("statsu >= 500", &["0: there is no `statsu`; write `event.status`"]);
    refuses("zzzzzz", &["0: there is no `zzzzzz`; an expression reads `event` and `meta`"]);
    assert_eq!(complaints("zzzzzz", &Type::Dyn), ["0: there is no `zzzzzz`; write `event.zzzzzz`"]);
}

#[test]
fn an_unknown_field_is_told_with_the_field_that_was_meant_or_the_fields_there_are() {
    refuses("event.statsu > 1", &["6: there is no field `statsu`; did you mean `status`?"]);
    refuses("event['Path'] == ''", &["5: there is no field `Path`; did you mean `path`?"]);
    refuses("has(event.usr)", &["10: there is no field `usr`; did you mean `user`?"]);
    refuses(
        "event.colour == 1",
        &["6: there is no field `colour`; there are labels, ok, path, raw, seconds, sizes, status, user"],
    );
    refuses("meta.kye == null", &["5: there is no field `kye`; did you mean `key`?"]);
    refuses("event.path.length > 1", &["11: `event.path` is text, which has no fields"]);
}

#[test]
fn an_unknown_function_is_told_with_the_function_that_was_meant() {
    refuses(
        "event.path.startswith('/')",
        &["11: there is no function `startswith`; did you mean `startsWith`?"],
    );
    refuses("event.path.frobnicate('/')", &["11: there is no function `frobnicate`"]);
    refuses(
        "startsWith(event.path, '/')",
        &["0: there is no `startsWith(text, text)`; there is `text.startsWith(text)`"],
    );
    refuses(
        "event.status.contains('5')",
        &["13: there is no `int.contains(text)`; there is `text.contains(text)`"],
    );
    refuses(
        "event.sizes.all(x > 0)",
        &["12: `all` is not called like this; write `event.list.all(x, x > 0)`"],
    );
}

#[test]
fn arithmetic_of_int_and_float_is_told_with_the_conversion() {
    refuses("event.seconds * 1000", &["14: `*` does not take float and int; write `1000.0`"]);
    refuses(
        "event.seconds + event.status",
        &["14: `+` does not take float and int; write `double(event.status)`"],
    );
    refuses(
        "event.status / 2.0 > 1.0",
        &["13: `/` does not take int and float; write `double(event.status)`"],
    );
    refuses(
        "event.seconds % 2.0",
        &["14: `%` does not take float and float; `%` is for whole numbers: write `int(x)`"],
    );
    refuses(
        "'took ' + event.seconds",
        &["8: `+` does not take text and float; write `string(event.seconds)`"],
    );
}

#[test]
fn a_comparison_that_cannot_hold_is_told() {
    refuses("event.status == '500'", &["13: int `==` text is always false; write 500 without quotes"]);
    refuses("event.path > 5", &["11: `>` does not take text and int; write `int(event.path)`"]);
    refuses("event.ok != 'yes'", &["9: bool `!=` text is always true; write `string(event.ok)`"]);
    refuses("event.sizes > 5", &["12: `>` does not take list of int and int"]);
    refuses(
        "'/api' in event.path",
        &["7: `in` looks into a list or a map, and this is text; write `event.path.contains(\"/api\")`"],
    );
    refuses("'a' in event.sizes", &["4: text is never in a list of int"]);
    refuses(
        "event.sizes[0] + event.sizes['a']",
        &["29: a list is indexed by a whole number, and this is text"],
    );
}

#[test]
fn everything_wrong_is_told_at_once_and_in_order() {
    refuses(
        "event.statsu > 500 && path.startsWith('/') && event.seconds + 1 > 2.0",
        &[
            "6: there is no field `statsu`; did you mean `status`?",
            "22: there is no `path`; write `event.path`",
            "60: `+` does not take float and int; write `1.0`",
        ],
    );
}

#[test]
fn what_is_written_out_is_tried_when_compiled() {
    refuses(
        "event.path.matches('[a-')",
        &[
            "19: the pattern is no regular expression: unclosed character class; the syntax is RE2's; write it as r'...' to keep backslashes",
        ],
    );
    refuses(
        "event.path.matches(event.user)",
        &[
            "25: the pattern of `matches` is computed; write the pattern out: patterns are compiled once, before any event",
        ],
    );
    refuses(
        "meta.time > timestamp('yesterday')",
        &["22: this is no timestamp; write it as \"2026-01-31T12:00:00Z\""],
    );
    refuses(
        "meta.time - timestamp(0) > duration('5 minutes')",
        &["36: this is no duration; write it as \"1h30m\""],
    );
    refuses("{'a': 1, 'a': 2}", &["9: the field `a` is set twice"]);
    refuses(
        "{1: 2}",
        &["1: fields are named by text, and this is int; write `string(x)`, or quotes around the name"],
    );
    refuses("Foo{a: 1}", &["3: there is no message type `Foo`; write a map: `{\"name\": value}`"]);
    refuses(
        "meta.headers['Content-Type'] == 'a'",
        &[
            "12: no header is ever named `Content-Type`: their names are in lower case; write `meta.headers[\"content-type\"]`",
        ],
    );
}

#[test]
fn a_condition_must_be_true_or_false() {
    let refused = |source| {
        let problems = Program::compile_predicate(source, &request()).expect_err(source);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let wrong = "a condition must be true or false, and this is";
    assert_eq!(refused("event.status"), [format!("{wrong} int; compare it: `event.status != 0`")]);
    assert_eq!(refused("event.path"), [format!("{wrong} text; compare it: `event.path != \"\"`")]);
    assert_eq!(
        refused("event.sizes"),
        [format!("{wrong} list of int; compare its size: `size(event.sizes) > 0`")]
    );
    assert!(Program::compile_predicate("event.raw", &request()).is_ok());
    refuses("event.status && event.ok", &[&format!("6: {wrong} int; compare it: `event.status != 0`")]);
    refuses("event.path ? 1 : 2", &[&format!("6: {wrong} text; compare it: `event.path != \"\"`")]);
}

#[test]
fn types_flow_through_what_is_right() {
    accepts("event.status >= 499.5 && event.path.startsWith('/api')", &Type::Bool);
    accepts("event.seconds * 1000.0", &Type::Float);
    accepts("event.status == 1.0 || event.user == null", &Type::Bool);
    accepts("event.raw + 1", &Type::Int);
    accepts("event.raw.anything[0].goes", &Type::Dyn);
    accepts("event.labels.route", &Type::Text);
    accepts("'route' in event.labels", &Type::Bool);
    accepts("event.sizes.map(x, string(x))", &Type::list(Type::Text));
    accepts("event.sizes.filter(x, x > 3)[0]", &Type::Int);
    accepts("event.labels.exists(name, name.startsWith('app'))", &Type::Bool);
    accepts("event.ok ? 1 : 2.0", &Type::Dyn);
    accepts("meta.time - timestamp('2026-01-01T00:00:00Z')", &Type::Duration);
    accepts("meta.time.getHours('Europe/Berlin') > 6", &Type::Bool);
    accepts("meta.headers['content-type']", &Type::Text);
    accepts("type(event.raw) == string", &Type::Bool);
    accepts("{'a': event.status}.a", &Type::Int);
    accepts("size(event.path) + event.sizes.size()", &Type::Int);
    accepts("uint(event.status) % 2u == 0u", &Type::Bool);
    accepts("event.path.matches(r'^/\\d+$')", &Type::Bool);
}

#[test]
fn a_program_says_whether_all_it_reads_is_known() {
    let checked = |source, event: &Type| Program::compile(source, event).expect(source).is_checked();
    assert!(checked("event.status > 1", &request()));
    assert!(checked("event.labels.route == meta.key", &request()));
    assert!(checked("meta.headers.host.contains('x')", &Type::Dyn));
    assert!(!checked("event.raw > 1", &request()));
    assert!(!checked("event.status > 1", &Type::Dyn));
    assert!(!checked("event > 1", &Type::Dyn));
    assert!(checked("event > 1", &Type::Int));
    assert!(!checked("event.a", &Type::Map(Shape::open())));
    assert!(checked("event.a", &Type::Map(Shape::open().with("a", Type::Int))));
}
