//! What the checker lets through, knowing every type, never fails for its types when it runs.

use proptest::{prelude::*, test_runner::Config};
use sidestream_expr::{EvalError, Program, Shape, Type};

mod grammar;

/// What is always so of the events of the grammar.
fn shape() -> Type {
    Type::Map(
        Shape::open()
            .with("i", Type::Int)
            .with("j", Type::Int)
            .with("u", Type::Float)
            .with("v", Type::Float)
            .with("s", Type::Text)
            .with("t", Type::Text)
            .with("p", Type::Bool)
            .with("n", Type::list(Type::Int))
            .with("m", Type::Map(Shape::open())),
    )
}

proptest! {
    #![proptest_config(Config { cases: 2000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_checked_expression_never_fails_for_its_types(
        written in grammar::sound_expression(),
        event in grammar::event(),
    ) {
        // `dyn` and lists of several kinds hide what is known; that is what they are for.
        let known = !written.ours.contains("dyn(") && !written.ours.contains('[');
        if known && let Ok(program) = Program::compile(&written.ours, &shape()) && program.is_checked() {
            match program.eval(&event) {
                Err(error @ (EvalError::NoOverload { .. } | EvalError::NotABool { .. } | EvalError::NoSuchField { .. })) => {
                    prop_assert!(false, "{} was checked, and: {error}", written.ours);
                }
                Ok(value) => prop_assert!(admits(program.result(), value.kind()), "{} gives {value}", written.ours),
                Err(_) => {}
            }
        }
    }
}

fn admits(result: &Type, kind: &str) -> bool {
    match result {
        Type::Dyn => true,
        Type::List(_) => kind == "list",
        other => other.to_string() == kind,
    }
}
