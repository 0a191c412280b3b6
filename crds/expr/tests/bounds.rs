//! No text makes the compiler panic, and no event makes an expression run away.

use proptest::{prelude::*, test_runner::Config};
use sidestream_event::{Event, Map, Value};
use sidestream_expr::{EvalError, Program, Shape, Type};

mod grammar;

fn cases(usual: u32) -> Config {
    let set = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    Config { cases: set.unwrap_or(usual), failure_persistence: None, ..Config::default() }
}

/// Compiles, holds what comes of it to its promises, and evaluates it.
fn survives(source: &str) {
    let shape = Shape::open().with("i", Type::Int).with("s", Type::Text).with("n", Type::list(Type::Int));
    for event in [Type::Dyn, Type::Map(shape)] {
        match Program::compile(source, &event) {
            Ok(program) => {
                assert_eq!(program.source(), source);
                let _ = program.eval(&Event::new(Map::new()));
                let _ = program.test(&Event::new(7));
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "{source}");
                for problem in problems {
                    assert!(problem.at.is_none_or(|at| source.is_char_boundary(at)), "{source}: {problem:?}");
                    assert!(!problem.message.is_empty());
                }
            }
        }
    }
}

/// Words of the language and of no language, in any order.
fn soup() -> impl Strategy<Value = String> {
    let words = &[
        "event",
        "meta",
        ".",
        "a",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "<",
        "<=",
        "==",
        "!=",
        "in",
        "1",
        "1u",
        "1.5",
        "9223372036854775808",
        "'x'",
        "\"",
        "'",
        "'''",
        "r'\\",
        "b'\\x",
        "'\\u12'",
        "true",
        "null",
        "has(",
        ".all(x,",
        ".map(x, x,",
        ".exists(",
        "size(",
        "matches(",
        "timestamp('x')",
        "//",
        "\n",
        "é",
        "\u{0}",
        "`",
        "@",
        "_",
        "0x",
        "1e",
        "1e999",
        "=",
        "&",
        "\\",
        "$",
        "x",
        "dyn(",
        "optional.of(",
        "Foo{",
        ".?",
        "[?",
        "google.protobuf.Duration",
        "type(",
        "int",
        "in in",
    ];
    proptest::collection::vec(proptest::sample::select(&words[..]), 0..24).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn random_text_is_refused_or_compiled_and_never_panics(source in any::<String>()) {
        survives(&source);
    }

    #[test]
    fn random_bytes_read_as_text_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_soup_of_words_never_panics(source in soup()) {
        survives(&source);
        survives(&source.replace(' ', ""));
    }

    #[test]
    fn an_expression_with_a_slip_never_panics(
        written in grammar::expression(2),
        at in any::<prop::sample::Index>(),
        slip in any::<char>(),
        instead in any::<bool>(),
    ) {
        let mut chars: Vec<char> = written.ours.chars().collect();
        let at = at.index(chars.len());
        if instead {
            chars[at] = slip;
        } else {
            chars.remove(at);
        }
        survives(&chars.into_iter().collect::<String>());
    }
}

#[test]
fn the_deepest_expression_let_in_runs_on_the_stack_of_a_worker() {
    let deepest = |grow: fn(usize) -> String| {
        let fits = |levels: &usize| Program::compile(&grow(*levels), &Type::Dyn).is_ok();
        grow((1..60).take_while(fits).last().expect("one level fits"))
    };
    let sources = [
        deepest(|levels| format!("{}1{}", "size([".repeat(levels), "])".repeat(levels))),
        deepest(|levels| format!("{}1", "1 + ".repeat(levels))),
        deepest(|levels| format!("uint(1){}", " + 1u".repeat(levels))),
        deepest(|levels| format!("[1u]{}", ".filter(x, x > 0u)".repeat(levels))),
        deepest(|levels| format!("{}1u{}", "[".repeat(levels), "]".repeat(levels))),
        deepest(|levels| format!("{}1u", "event.a ? 1u : ".repeat(levels))),
        deepest(|levels| format!("timestamp(0) == meta.time || event{}", ".a".repeat(levels))),
    ];
    let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
        for source in sources {
            let program = Program::compile(&source, &Type::Dyn).expect("compiled before");
            let _ = program.eval(&Event::new([("a", false)].into_iter().collect::<Map>()));
        }
    });
    worker.expect("a thread").join().expect("no overflow");
}

#[test]
fn loops_within_loops_end_at_the_limit_of_work() {
    let many: Vec<Value> = (0..1000).map(Value::from).collect();
    let long: Value = "x".repeat(100_000).into();
    let event = Event::new([("many", Value::from(many)), ("long", long)].into_iter().collect::<Map>());
    let runs_away = [
        "event.many.all(a, event.many.all(b, event.many.all(c, a + b + c >= 0)))",
        "event.many.map(a, event.many.map(b, event.many))",
        "event.many.all(a, !event.long.contains('y'))",
        "event.many.all(a, !event.long.matches('^x*y$'))",
        "size(event.many.map(a, event.long + event.long)) > 0",
        "event.many.all(a, event.many == event.many)",
        "event.many.all(a, event.many.all(b, uint(a) >= 0u))",
        "event.many.map(a, event.long + event.long + string(uint(a)))",
    ];
    for source in runs_away {
        let program = Program::compile(source, &Type::Dyn).expect(source);
        assert_eq!(program.eval(&event), Err(EvalError::TooMuchWork), "{source}");
    }
    let fine = Program::compile("event.many.all(a, event.many.exists(b, b == 7) && a < 1000)", &Type::Dyn);
    assert_eq!(fine.expect("compiles").test(&event), Ok(true));
    let nested = "[1].all(a, [1].all(b, [1].all(c, [1].all(d, [1].all(e, true)))))";
    let problems = Program::compile(nested, &Type::Dyn).expect_err("five loops");
    assert_eq!(problems[0].message, "more than 4 loops inside one another");
}

#[test]
fn a_pattern_too_large_to_compile_is_refused_at_once() {
    let source = "event.a.matches('(a{1000}){1000}')";
    let problems = Program::compile(source, &Type::Dyn).expect_err(source);
    assert!(
        problems[0].message.starts_with("the pattern is no regular expression: Compiled regex exceeds"),
        "{problems:?}"
    );
}
