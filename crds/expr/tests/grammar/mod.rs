//! Expressions and events made at random, for the properties.
//! Some tests use some of it.
#![allow(dead_code, reason = "each test that uses this uses a part of it")]

use proptest::prelude::*;
use sidestream_event::{Event, Map, Value};

/// One expression, in the words of a user and in those of the judge.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) ours: String,
    pub(crate) judged: String,
}

impl Written {
    fn same(text: impl Into<String>) -> Self {
        let ours = text.into();
        Self { judged: ours.clone(), ours }
    }

    /// Fills `template`'s `{0}`, `{1}`, ... with `parts`, for both.
    fn of(template: &str, parts: &[&Written]) -> Self {
        let fill = |word: fn(&Written) -> &String| {
            parts.iter().enumerate().fold(template.to_string(), |text, (place, part)| {
                text.replace(&format!("{{{place}}}"), word(part))
            })
        };
        Self { ours: fill(|part| &part.ours), judged: fill(|part| &part.judged) }
    }
}

fn literal() -> impl Strategy<Value = Written> {
    let plain = prop_oneof![
        Just("0".to_string()),
        (-5_i64..5).prop_map(|number| number.to_string()),
        Just("9223372036854775807".to_string()),
        Just("-9223372036854775808".to_string()),
        Just("9007199254740993".to_string()),
        Just("0.0".to_string()),
        Just("-1.5".to_string()),
        Just("9223372036854775808.0".to_string()),
        Just("double('NaN')".to_string()),
        Just("double('-inf')".to_string()),
        Just("true".to_string()),
        Just("false".to_string()),
        Just("null".to_string()),
        Just("''".to_string()),
        Just("'a'".to_string()),
        Just("'héllo wörld'".to_string()),
        Just("'12'".to_string()),
        Just("b'a'".to_string()),
        Just("[]".to_string()),
        Just("[1, 2.0, 'a']".to_string()),
        Just("{'k': 1}".to_string()),
    ];
    // Behind `dyn` the checker lets through what fails when it runs.
    (plain, 0..4)
        .prop_map(|(text, shown)| Written::same(if shown == 0 { text } else { format!("dyn({text})") }))
}

/// What only the interpreter does: programs with it are not lowered.
fn rare() -> impl Strategy<Value = Written> {
    prop_oneof![
        Just("3u"),
        Just("uint(7)"),
        Just("duration('90s')"),
        Just("timestamp('2026-01-31T12:00:00.5Z')"),
        Just("timestamp(0).getHours()"),
        Just("type(event.a) == int"),
        Just("bytes('é')"),
    ]
    .prop_map(Written::same)
}

fn read() -> impl Strategy<Value = Written> {
    let field = prop_oneof![
        4 => "[a-h]".prop_map(|name| format!("event.{name}")),
        1 => "[a-h]".prop_map(|name| format!("event['{name}']")),
        1 => "[a-h]".prop_map(|name| format!("has(event.{name})")),
        1 => Just("event.m.k".to_string()),
        1 => Just("has(event.m.k)".to_string()),
        1 => Just("event.l[0]".to_string()),
        1 => Just("event.l".to_string()),
        1 => Just("event.m".to_string()),
    ];
    field.prop_map(Written::same)
}

/// Expressions with a variable `x` of a loop around them, and expressions that stand alone.
pub(crate) fn expression(rarely: u32) -> BoxedStrategy<Written> {
    let in_loop = tree(rarely, 2).prop_map(|made| Written::of("[event.b, event.a].map(x, {0})", &[&made]));
    prop_oneof![in_loop, tree(rarely, 0)].boxed()
}

fn tree(rarely: u32, variables: u32) -> BoxedStrategy<Written> {
    let leaf =
        prop_oneof![6 => read(), 4 => literal(), variables => Just(Written::same("x")), rarely => rare()];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let one = prop_oneof![
            Just("!({0})"),
            Just("-({0})"),
            Just("size({0})"),
            Just("({0}).size()"),
            Just("int({0})"),
            Just("double({0})"),
            Just("string({0})"),
            Just("bool({0})"),
            Just("({0}).matches('^[a-z1]+$')"),
            Just("({0}).k"),
            Just("({0})[0]"),
            Just("[{0}]"),
            Just("{'k': {0}}"),
        ];
        let two = prop_oneof![
            3 => Just("({0}) && ({1})"),
            3 => Just("({0}) || ({1})"),
            3 => Just("({0}) == ({1})"),
            1 => Just("({0}) != ({1})"),
            1 => Just("({0}) - ({1})"),
            1 => Just("({0}) * ({1})"),
            1 => Just("({0}) / ({1})"),
            1 => Just("({0}) % ({1})"),
            2 => Just("({0}) in ({1})"),
            1 => Just("({0})[{1}]"),
            1 => Just("({0}).contains({1})"),
            1 => Just("({0}).startsWith({1})"),
            1 => Just("({0}).endsWith({1})"),
            1 => Just("[{0}, {1}]"),
            2 => Just("({0}).all(x, {1})"),
            2 => Just("({0}).exists(x, {1})"),
            2 => Just("({0}).exists_one(x, {1})"),
            2 => Just("({0}).filter(x, {1})"),
            2 => Just("({0}).map(x, {1})"),
        ];
        let settled = prop_oneof![
            Just(("<", "lt")),
            Just(("<=", "le")),
            Just((">", "gt")),
            Just((">=", "ge")),
            Just(("+", "add")),
        ];
        let made = prop_oneof![
            2 => (one, inner.clone()).prop_map(|(template, a)| Written::of(template, &[&a])),
            4 => (two, inner.clone(), inner.clone()).prop_map(|(template, a, b)| Written::of(template, &[&a, &b])),
            3 => (settled, inner.clone(), inner.clone()).prop_map(|((sign, name), a, b)| Written {
                ours: format!("({}) {sign} ({})", a.ours, b.ours),
                judged: format!("{name}({}, {})", a.judged, b.judged),
            }),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| Written::of("({0}) ? ({1}) : ({2})", &[&a, &b, &c])),
            1 => (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| Written::of("({0}).map(x, {1}, {2})", &[&a, &b, &c])),
        ];
        (made, 0..3).prop_map(|(made, shown)| if shown == 0 { made } else { Written::of("dyn({0})", &[&made]) })
    })
    .boxed()
}

/// Expressions of each kind whose parts are of the kinds they should be, most of the time: most have a value.
#[derive(Clone)]
struct Typed {
    truth: BoxedStrategy<Written>,
    int: BoxedStrategy<Written>,
    float: BoxedStrategy<Written>,
    text: BoxedStrategy<Written>,
    list: BoxedStrategy<Written>,
}

impl Typed {
    fn leaves() -> Self {
        let of = |choices: &'static [&'static str]| {
            proptest::sample::select(choices).prop_map(Written::same).boxed()
        };
        Self {
            truth: of(&["event.p", "true", "has(event.e)", "has(event.s)", "event.e == 1", "'k' in event.m"]),
            int: of(&["event.i", "event.j", "1", "2", "-7", "event.n[0]", "9223372036854775807", "event.i"]),
            float: of(&["event.u", "event.v", "1.5", "0.0", "double('NaN')", "event.u"]),
            text: of(&["event.s", "event.t", "'é'", "'12'", "'a'", "''", "event['s']"]),
            list: of(&["event.n", "[1, 2, 3]", "[]", "event.n"]),
        }
    }

    /// One level more; `any` now and then stands where something of a kind should.
    fn deeper(&self, any: &BoxedStrategy<Written>) -> Self {
        let slip = |kind: &BoxedStrategy<Written>| {
            let hidden = any.clone().prop_map(|any| Written::of("dyn({0})", &[&any]));
            prop_oneof![30 => kind.clone(), 1 => hidden].boxed()
        };
        let (truth, int, float, text, list) =
            (slip(&self.truth), slip(&self.int), slip(&self.float), slip(&self.text), slip(&self.list));
        let one = |template: &'static str, a: &BoxedStrategy<Written>| {
            a.clone().prop_map(move |a| Written::of(template, &[&a])).boxed()
        };
        let two = |template: &'static str, a: &BoxedStrategy<Written>, b: &BoxedStrategy<Written>| {
            (a.clone(), b.clone()).prop_map(move |(a, b)| Written::of(template, &[&a, &b])).boxed()
        };
        let settled = |sign: &'static str,
                       name: &'static str,
                       a: &BoxedStrategy<Written>,
                       b: &BoxedStrategy<Written>| {
            let both = (a.clone(), b.clone());
            both.prop_map(move |(a, b)| Written {
                ours: format!("({} {sign} {})", a.ours, b.ours),
                judged: format!("{name}({}, {})", a.judged, b.judged),
            })
            .boxed()
        };
        let number = prop_oneof![int.clone(), float.clone()].boxed();
        let choice = |kind: &BoxedStrategy<Written>| {
            (truth.clone(), kind.clone(), kind.clone())
                .prop_map(|(a, b, c)| Written::of("({0} ? {1} : {2})", &[&a, &b, &c]))
                .boxed()
        };
        Self {
            truth: prop_oneof![
                self.truth.clone(),
                two("({0} && {1})", &truth, &truth),
                two("({0} || {1})", &truth, &truth),
                one("!{0}", &truth),
                settled("<", "lt", &number, &number),
                settled(">=", "ge", &int, &number),
                settled("<=", "le", &text, &text),
                settled(">", "gt", &float, &int),
                two("({0} == {1})", &number, &number),
                two("({0} != {1})", &text, &text),
                two("({0} == {1})", &list, &list),
                two("({0} in {1})", &number, &list),
                two("{0}.startsWith({1})", &text, &text),
                two("{0}.endsWith({1})", &text, &text),
                two("{0}.contains({1})", &text, &text),
                one("{0}.matches('^[a-zé]*$')", &text),
                two("{0}.all(x, dyn(x) == {1})", &list, &int),
                two("{0}.exists(x, dyn(x) == {1})", &list, &number),
                two("{0}.exists_one(x, {1})", &list, &truth),
                choice(&truth),
            ]
            .boxed(),
            int: prop_oneof![
                self.int.clone(),
                settled("+", "add", &int, &int),
                two("({0} - {1})", &int, &int),
                two("({0} * {1})", &int, &int),
                two("({0} / {1})", &int, &int),
                two("({0} % {1})", &int, &int),
                one("-({0})", &int),
                one("int({0})", &float),
                one("size({0})", &text),
                one("{0}.size()", &list),
                two("{0}[{1}]", &list, &int),
                choice(&int),
            ]
            .boxed(),
            float: prop_oneof![
                self.float.clone(),
                settled("+", "add", &float, &float),
                two("({0} - {1})", &float, &float),
                two("({0} * {1})", &float, &float),
                two("({0} / {1})", &float, &float),
                one("-({0})", &float),
                one("double({0})", &int),
                choice(&float),
            ]
            .boxed(),
            text: prop_oneof![
                self.text.clone(),
                settled("+", "add", &text, &text),
                one("string({0})", &number),
                one("string({0})", &truth),
                choice(&text),
            ]
            .boxed(),
            list: prop_oneof![
                self.list.clone(),
                settled("+", "add", &list, &list),
                two("[{0}, {1}]", &number, &int),
                two("{0}.map(x, [x, {1}])", &list, &text),
                two("{0}.filter(x, dyn(x) != {1})", &list, &int),
                two("{0}.map(x, {1})", &list, &int),
                choice(&list),
            ]
            .boxed(),
        }
    }

    fn any(&self) -> BoxedStrategy<Written> {
        prop_oneof![
            3 => self.truth.clone(),
            1 => self.int.clone(),
            1 => self.float.clone(),
            1 => self.text.clone(),
            1 => self.list.clone(),
        ]
        .boxed()
    }
}

/// Expressions of up to four levels, of which most have a value.
pub(crate) fn sound_expression() -> BoxedStrategy<Written> {
    let (mut typed, slip) = (Typed::leaves(), prop_oneof![read(), literal()].boxed());
    for _ in 0..4 {
        typed = typed.deeper(&slip);
    }
    typed.any()
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>()].prop_map(Value::from),
        (-3_i32..3).prop_map(|number| Value::from(f64::from(number) / 2.0)),
        prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(-0.0), Just(1e300), any::<f64>()]
            .prop_map(Value::from),
        "[ab1é水]{0,3}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..3).prop_map(|bytes| Value::Bytes(bytes.into())),
    ];
    scalar.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            // One field: the crate goes over maps in no order of its own.
            inner.prop_map(|value| [("k", value)].into_iter().collect::<Value>()),
        ]
    })
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let field = |name: &'static str| value().prop_map(move |value| (name, value));
    let int = || prop_oneof![4 => -20_i64..20, 1 => Just(i64::MIN), 1 => Just(i64::MAX)];
    let float =
        || prop_oneof![4 => (-8..8).prop_map(|n| f64::from(n) / 2.0), 1 => Just(f64::NAN), 1 => any::<f64>()];
    // `e` and `h` are never there.
    let body = (
        (field("a"), field("b"), field("c"), field("d"), field("f"), field("g")),
        (int(), int(), float(), float(), "[aé1]{0,2}", "[aé1]{0,20}", any::<bool>()),
        proptest::collection::vec(int(), 1..4),
        proptest::collection::vec(value(), 0..3),
        proptest::option::of(value()),
    );
    body.prop_map(|((a, b, c, d, f, g), (i, j, u, v, s, t, p), n, list, k)| {
        let mut body: Map = [a, b, c, d, f, g].into_iter().collect();
        let typed: [(&str, Value); 8] = [
            ("i", i.into()),
            ("j", j.into()),
            ("u", u.into()),
            ("v", v.into()),
            ("s", s.into()),
            ("t", t.into()),
            ("p", p.into()),
            ("n", n.into_iter().map(Value::from).collect::<Vec<_>>().into()),
        ];
        for (name, value) in typed {
            body.insert(name, value);
        }
        body.insert("l", Value::from(list));
        body.insert("m", k.into_iter().map(|value| ("k", value)).collect::<Map>());
        Event::new(body)
    })
}
