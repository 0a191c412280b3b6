//! What expressions give for an event: values, and errors that name what was wrong with it.

use sidestream_event::{Event, Map, Timestamp, Value};
use sidestream_expr::{EvalError, Program, Type};

fn event() -> Event {
    let labels: Map = [("route", "/cart"), ("zone", "b")].into_iter().collect();
    let mut body = Map::new();
    body.insert("status", 503);
    body.insert("seconds", 0.25);
    body.insert("path", "/api/wörld");
    body.insert("labels", labels);
    body.insert("sizes", Value::from(vec![Value::from(3), Value::from(5), Value::from(8)]));
    body.insert("max", i64::MAX);
    body.insert("nan", f64::NAN);
    body.insert("nothing", Value::Null);
    let mut event = Event::new(body);
    event.meta.key = Some("cart-7".into());
    event.meta.source = "access".into();
    event.meta.sequence = 41;
    event.meta.time = Timestamp::from_nanos(1_769_860_800_500_000_000); // 2026-01-31T12:00:00.5Z
    let headers = [("Content-Type", "text/plain"), ("X-Hop", "1"), ("x-hop", "2")];
    event.meta.context_mut().headers = headers.map(|(name, value)| (name.into(), value.into())).to_vec();
    event
}

fn eval(source: &str) -> Result<Value, EvalError> {
    match Program::compile(source, &Type::Dyn) {
        Ok(program) => program.eval(&event()),
        Err(problems) => panic!("{source}: {problems:?}"),
    }
}

#[track_caller]
fn gives(source: &str, value: impl Into<Value>) {
    assert_eq!(eval(source), Ok(value.into()), "{source}");
}

#[track_caller]
fn fails(source: &str, message: &str) {
    match eval(source) {
        Err(error) => assert_eq!(error.to_string(), message, "{source}"),
        Ok(value) => panic!("{source} gives {value}"),
    }
}

#[test]
fn fields_are_read_by_name_and_by_index() {
    gives("event.status", 503);
    gives("event['status']", 503);
    gives("event.labels.route", "/cart");
    gives("event[event.labels.route == '/cart' ? 'path' : 'status']", "/api/wörld");
    gives("event.sizes[1] + event.sizes[event.sizes.size() - 1]", 13);
    gives("event.sizes[2.0]", 8);
    gives("has(event.user) || has(event.labels.route)", true);
    gives("has(event.labels.user)", false);
}

#[test]
fn the_envelope_is_read_as_meta() {
    gives("meta.key", "cart-7");
    gives("meta.source + '/' + string(meta.sequence)", "access/41");
    gives("meta.traceparent == null", true);
    gives("meta.headers['content-type']", "text/plain");
    gives("meta.headers['x-hop']", "1");
    gives("has(meta.headers.accept) || 'accept' in meta.headers", false);
    gives("meta.time", "2026-01-31T12:00:00.500Z");
    gives("meta.time.getHours() + meta.time.getDate()", 43);
    gives("meta.time - timestamp('2026-01-31T11:59:00Z')", "60.5s");
    gives("meta.time > timestamp('2026-01-31T12:00:00Z') && event.status >= 500", true);
    gives("size(meta)", 6);
    gives("size(meta.headers)", 2);
}

#[test]
fn a_missing_field_is_named_beside_those_that_are_there() {
    fails(
        "event.user == 'root'",
        "no such field `user`; there are status, seconds, path, labels, sizes, max, nan, nothing",
    );
    fails("event.labels.user", "no such field `user`; there are route, zone");
    fails("event.sizes[3]", "no index 3 in a list of 3");
    fails("event.sizes[-1]", "no index -1 in a list of 3");
    fails("event.status.code", "`.` does not take int");
    fails("meta.time.getHours() > 6 && event.status", "`&&` does not take bool and int");
    fails("meta.headers.accept", "no such field `accept`");
    fails(
        "timestamp(event.user) > meta.time",
        "no such field `user`; there are status, seconds, path, labels, sizes, max, nan, nothing",
    );
}

#[test]
fn an_answer_of_one_side_outweighs_the_error_of_the_other() {
    gives("event.user == 'root' || event.status >= 500", true);
    gives("event.status < 500 && event.user == 'root'", false);
    gives("event.user == 'root' && event.status < 500", false);
    gives("event.sizes.exists(x, 10 / (x - 3) == 5)", true);
    gives("event.sizes.all(x, 10 / (x - 3) > 5)", false);
    fails(
        "event.user == 'root' || event.status < 500",
        "no such field `user`; there are status, seconds, path, labels, sizes, max, nan, nothing",
    );
    fails("event.sizes.all(x, 10 / (x - 3) > 0)", "division of a whole number by zero");
}

#[test]
fn arithmetic_is_exact_or_an_error() {
    fails("event.max + 1", "`+` overflows 64 bits");
    fails("-(-event.max - 1)", "`-` overflows 64 bits");
    fails("event.status / 0", "division of a whole number by zero");
    fails("event.status % (event.status - 503)", "division of a whole number by zero");
    gives("event.seconds / 0.0", f64::INFINITY);
    fails("event.seconds * event.status", "`*` does not take float and int; convert the int: `double(x)`");
    gives("event.seconds * double(event.status)", 125.75);
    gives("event.status / 100 * 100 + event.status % 100", 503);
    fails("uint(1) - 2u", "`-` overflows 64 bits");
    fails("uint(1) + event.status", "`+` does not take uint and int");
    fails("uint(1) * event.path", "`*` does not take uint and text");
    fails("int(event.nan)", "`int` cannot convert `NaN`");
    fails("int(event.path)", "`int` cannot convert `/api/wörld`");
}

#[test]
fn numbers_compare_across_kinds_and_a_nan_with_nothing() {
    gives("event.seconds < 1", true);
    gives("event.status == 503.0", true);
    for sign in ["<", "<=", ">", ">=", "=="] {
        gives(&format!("event.nan {sign} 1.0 || 1 {sign} event.nan || event.nan {sign} event.nan"), false);
    }
    gives("event.nan != event.nan", true);
    gives("timestamp(0) < meta.time && event.nan > 0.0", false); // interpreted, and no different
    gives("event.nothing == null", true);
    fails("event.nothing > 1", "`>` does not take null and int");
}

#[test]
fn text_is_counted_in_code_points_and_searched() {
    gives("size(event.path)", 10);
    gives("event.path.size() == size('/api/wörld')", true);
    gives("event.path.startsWith('/api') && event.path.endsWith('ld') && event.path.contains('wö')", true);
    gives("event.path.matches('^/api/[a-zö]+$')", true);
    gives("event.path.matches('^api')", false);
    gives("string(meta.time).matches('^2026-01')", true); // interpreted, with its pattern compiled once
    gives("event.path + '?' + string(event.seconds)", "/api/wörld?0.25");
}

#[test]
fn loops_go_over_values_and_names() {
    gives("event.sizes.map(x, x * 2)", vec![Value::from(6), Value::from(10), Value::from(16)]);
    gives("event.sizes.filter(x, x % 2 == 1).map(x, {'size': x})[1].size", 5);
    gives("event.sizes.map(x, x > 3, string(x))", vec![Value::from("5"), Value::from("8")]);
    gives("event.labels.exists(name, event.labels[name] == 'b')", true);
    gives("event.sizes.exists_one(x, x > 5) && !event.sizes.exists_one(x, x > 3)", true);
    gives("event.sizes.all(a, event.sizes.exists(b, a == b && [a].exists(c, c == b)))", true);
    gives("[1, 2].map(event, event + 1)[0]", 2);
}

#[test]
fn what_is_made_is_a_value_of_an_event() {
    gives("{'a': event.status, 'b': [1, 'x', null]}.b[1]", "x");
    gives("uint(7)", 7);
    gives("[1u, 2u].map(x, x + 1u)", vec![Value::from(2), Value::from(3)]);
    fails("uint('18446744073709551615')", "`uint` overflows 64 bits");
    gives("duration('90s')", "90s");
    gives("duration('-1.5s')", "-1.5s");
    gives("duration('1h') + duration('1ms')", "3600.001s");
    gives("type(event.status) == int && type(event.seconds) == double", true);
    assert_eq!(eval("b'ab' + b'c'"), Ok(Value::Bytes("abc".into())));
}

#[test]
fn a_number_or_a_condition_that_is_none_is_an_error_with_its_kind() {
    let program = |source| Program::compile(source, &Type::Dyn).expect(source);
    assert_eq!(program("event.status").eval_f64(&event()), Ok(503.0));
    assert_eq!(program("event.seconds").eval_f64(&event()), Ok(0.25));
    assert_eq!(program("uint(event.status)").eval_f64(&event()), Ok(503.0));
    assert_eq!(program("event.path").eval_f64(&event()), Err(EvalError::NotANumber { kind: "text" }));
    assert_eq!(program("event.status").test(&event()), Err(EvalError::NotABool { kind: "int" }));
    assert_eq!(program("event.status && true").test(&event()), Err(EvalError::NotABool { kind: "int" }));
    assert_eq!(program("event").eval_f64(&Event::new(2.5)), Ok(2.5));
    assert_eq!(
        program("event.contains('b') && timestamp(0) < meta.time").test(&Event::new("abc")),
        Ok(false)
    );
}
