//! Whatever way an expression is evaluated, it gives what the cel crate's interpreter gives: the same value, or an error
//! where that has an error. Expressions are made from a grammar, well-typed or not; events hold what is hard: NaN, the
//! ends of 64 bits, missing fields, text of more than ASCII.
//!
//! The judge is the crate alone, with events brought to it here and not by this library, and with two functions in the
//! place of operators where this house settles otherwise: a NaN is unordered, and only a list is added to a list.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use cel::{
    Context, Env, ExecutionError, Value as CelValue,
    common::{
        types::{CelBool, DYN_TYPE, Kind},
        value::{CowVal, Val},
    },
};
use proptest::{prelude::*, test_runner::Config};
use sidestream_event::{Event, Value};
use sidestream_expr::{Program, Type};

mod grammar;

use grammar::{Written, event, expression, sound_expression};

/// The value the judge gives, as a value of an event; `None` where it has an error.
fn judge(judged: &str, event: &Event) -> Option<Value> {
    let env = Arc::new(judges_environment());
    let program = env.compile(judged).expect("parsed before, but for the names of functions");
    let mut context = Context::with_env(env);
    context.add_variable_from_value("event", bring(&event.body));
    take(program.execute(&context).ok()?)
}

fn judges_environment() -> Env {
    fn order<'b, 'v>(
        args: &[CowVal<'b, 'v>],
        holds: fn(Ordering) -> bool,
    ) -> Result<CowVal<'b, 'v>, ExecutionError> {
        let (left, right) = (args[0].as_ref(), args[1].as_ref());
        let number = |val: &dyn Val| matches!(val.get_type().kind(), Kind::Int | Kind::UInt | Kind::Double);
        let found = match left.as_comparer().ok_or(ExecutionError::MissingArgumentOrTarget)?.compare(right) {
            Ok(found) => holds(found),
            Err(_) if number(left) && number(right) => false,
            Err(error) => return Err(error),
        };
        Ok(CowVal::owned(CelBool::from(found)))
    }
    fn add<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
        let kind = |place: usize| args[place].get_type().kind();
        if kind(0) == Kind::List && kind(1) != Kind::List {
            return Err(ExecutionError::MissingArgumentOrTarget);
        }
        let adder = args[0].as_adder().ok_or(ExecutionError::MissingArgumentOrTarget)?;
        Ok(CowVal::Owned(adder.add(args[1].as_ref())?.into_owned()))
    }
    let mut env = Env::stdlib();
    let two = || vec![DYN_TYPE, DYN_TYPE];
    env.add_overload("lt", "lt", two(), |args| order(&args, Ordering::is_lt)).unwrap();
    env.add_overload("le", "le", two(), |args| order(&args, Ordering::is_le)).unwrap();
    env.add_overload("gt", "gt", two(), |args| order(&args, Ordering::is_gt)).unwrap();
    env.add_overload("ge", "ge", two(), |args| order(&args, Ordering::is_ge)).unwrap();
    env.add_overload("add", "add", two(), add).unwrap();
    env
}

fn bring(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Int(number) => CelValue::Int(*number),
        Value::Float(number) => CelValue::Float(*number),
        Value::Text(text) => CelValue::from(text.as_str()),
        Value::Bytes(bytes) => CelValue::Bytes(Arc::new(bytes.to_vec())),
        Value::List(list) => CelValue::from(list.iter().map(bring).collect::<Vec<_>>()),
        Value::Map(map) => CelValue::from(
            map.iter().map(|(name, value)| (name.to_string(), bring(value))).collect::<HashMap<_, _>>(),
        ),
    }
}

fn take(value: CelValue) -> Option<Value> {
    Some(match value {
        CelValue::Null => Value::Null,
        CelValue::Bool(value) => Value::Bool(value),
        CelValue::Int(number) => Value::Int(number),
        CelValue::UInt(number) => Value::Int(i64::try_from(number).ok()?),
        CelValue::Float(number) => Value::Float(number),
        CelValue::String(text) => Value::from(text.as_str()),
        CelValue::Bytes(bytes) => Value::Bytes(bytes.to_vec().into()),
        CelValue::Timestamp(time) => {
            Value::from(time.to_utc().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
        }
        CelValue::Duration(span) => Value::from(format!("{}s", span.num_seconds())), // whole, in these expressions
        CelValue::List(list) => Value::from(list.iter().cloned().map(take).collect::<Option<Vec<_>>>()?),
        CelValue::Map(map) => {
            let fields = map.map.iter().map(|(name, value)| Some((name.to_string(), take(value.clone())?)));
            fields.collect::<Option<Vec<_>>>()?.into_iter().collect()
        }
        _ => return None,
    })
}

/// Equal, with a NaN equal to itself and numbers of one kind only.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| alike(a, b)))
        }
        (a, b) => a == b,
    }
}

/// What an agreement was about.
#[derive(Default)]
struct Seen {
    lowered: bool,
    value: bool,
}

fn agree(written: &Written, event: &Event) -> Result<Seen, TestCaseError> {
    let Ok(program) = Program::compile(&written.ours, &Type::Dyn) else { return Ok(Seen::default()) };
    let (ours, judged) = (program.eval(event), judge(&written.judged, event));
    match (&ours, &judged) {
        (Ok(a), Some(b)) if alike(a, b) => {}
        (Err(_), None) => {}
        _ => {
            return Err(TestCaseError::fail(format!(
                "{} gives {ours:?}, and the crate {judged:?}",
                written.ours
            )));
        }
    }
    let truth =
        ours.as_ref().ok().and_then(|value| if let Value::Bool(truth) = value { Some(*truth) } else { None });
    prop_assert_eq!(program.test(event).ok(), truth);
    let number = ours.as_ref().ok().and_then(Value::as_f64);
    prop_assert_eq!(program.eval_f64(event).ok().map(f64::to_bits), number.map(f64::to_bits));
    Ok(Seen { lowered: program.is_lowered(), value: ours.is_ok() })
}

/// Cases of a run: `PROPTEST_CASES` where it is set.
fn cases(usual: u32) -> Config {
    let set = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    Config { cases: set.unwrap_or(usual), failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_sound_expression_gives_what_the_crate_gives(written in sound_expression(), event in event()) {
        agree(&written, &event)?;
    }

    #[test]
    fn a_lowered_expression_gives_what_the_crate_gives(written in expression(0), event in event()) {
        agree(&written, &event)?;
    }

    #[test]
    fn an_interpreted_expression_gives_what_the_crate_gives(written in expression(6), event in event()) {
        agree(&written, &event)?;
    }
}

#[test]
fn the_properties_are_about_values_and_errors_both() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen_of = |grammar: BoxedStrategy<Written>| {
        let (mut lowered, mut values) = (0, 0);
        for _ in 0..300 {
            let case = (grammar.clone(), event()).new_tree(&mut runner).expect("a grammar without filters");
            let (written, event) = case.current();
            let seen = agree(&written, &event).expect("as the properties above");
            lowered += usize::from(seen.lowered);
            values += usize::from(seen.value);
        }
        (lowered, values)
    };
    let (lowered, values) = seen_of(sound_expression());
    assert!(
        lowered > 250 && values > 100,
        "of 300 sound ones, {lowered} were lowered and {values} had a value"
    );
    let (lowered, values) = seen_of(expression(0));
    assert!(lowered - values > 100, "of 300 others, {lowered} were lowered and {values} had a value");
}
