//! The quick reader against serde_json: what it takes, serde_json takes, as the same value.

use proptest::prelude::*;

use super::{super::tests::any_value, *};

fn read_over(text: &str, mut value: Value) -> Option<Value> {
    read(text, &mut value).map(|()| value)
}

/// What serde_json reads, told apart where values compare as equal: `-0.0` from `0.0`, and the order of fields.
fn slow(text: &str) -> Option<String> {
    serde_json::from_str(text).ok().map(|value: Value| format!("{value:?}"))
}

fn quick(text: &str) -> Option<String> {
    read_over(text, Value::Null).map(|value| format!("{value:?}"))
}

fn written(value: &Value) -> String {
    value.to_string()
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_serde_json_does(value in any_value()) {
        let text = written(&value);
        prop_assert_eq!(quick(&text), slow(&text));
    }

    #[test]
    fn nothing_is_taken_that_serde_json_refuses(
        text in r#"([\[\]{},: \n"a0-9.eE+-]|true|false|null|"a"|"b":|\\[ntu"x]|\\ud83[0-9a-f]\\ude00|é|\t){0,24}"#
    ) {
        if let Some(taken) = quick(&text) {
            prop_assert_eq!(Some(taken), slow(&text));
        }
    }

    #[test]
    fn nor_where_one_character_of_a_good_text_is_another(
        value in any_value(), at in any::<prop::sample::Index>(), other in any::<char>(),
    ) {
        let mut text: Vec<char> = written(&value).chars().collect();
        let at = at.index(text.len());
        text[at] = other;
        let text: String = text.into_iter().collect();
        if let Some(taken) = quick(&text) {
            prop_assert_eq!(Some(taken), slow(&text));
        }
    }

    #[test]
    fn reading_over_another_value_is_reading_anew(old in any_value(), new in any_value()) {
        let (old, new) = (written(&old), written(&new));
        let stale = read_over(&old, Value::Null).unwrap();
        let held = stale.clone();
        let shared = read_over(&new, stale).map(|value| format!("{value:?}"));
        prop_assert_eq!(&shared, &slow(&new));
        prop_assert_eq!(Some(format!("{held:?}")), slow(&old), "a value that is shared never changes");
        prop_assert_eq!(read_over(&new, held).map(|value| format!("{value:?}")), shared);
    }
}

#[test]
fn numbers_are_what_serde_json_makes_of_them() {
    let numbers = "0 -0 -0.0 7 -7 00 - 1. .5 +1 1e5 1E+5 1e 1e- 0.1 1.5e300 1e400 -1e400 0e0 0x1 1.5.5 0.1e-400 \
        999999999999999999 1000000000000000000 9223372036854775807 9223372036854775808 -9223372036854775808 \
        -9223372036854775809 18446744073709551615 18446744073709551616 123456789012345678901234567890 \
        2.2250738585072014e-308";
    for text in numbers.split(' ').chain(["", " ", "1 2", "\t1\r\n"]) {
        assert_eq!(quick(text), slow(text), "{text}");
    }
}

#[test]
fn strings_are_what_serde_json_makes_of_them() {
    let strings = r#""" "a" "1234567" "12345678" "123456789é\\" "\"\\\/\b\f\n\r\t" "\u00e9" "\u00E9" "\ud83d\ude00" "\ud83d"
        "\ude00" "\ud83dx" "\ud83d\u0041" "\u12" "\u12é4" "\u+123" "\x" "open "open\ "open\" "a"b""#;
    let others = ["\"tab\there\"", "\"line\nhere\"", "\"\u{1f}\"", "\"\u{7f}\"", "\"long and plain, \u{0}\""];
    for text in strings.split_ascii_whitespace().chain(others) {
        assert_eq!(quick(text), slow(text), "{text}");
    }
}

#[test]
fn reading_over_an_event_of_the_same_kind_keeps_its_storage() {
    let place = |value: &Value| value.field("time").and_then(Value::as_text).map(str::as_ptr);
    let first = read_over(r#"{"time":"2026-11-21T00:00:00Z","n":1}"#, Value::Null).unwrap();
    let old = place(&first);
    let second = read_over(r#"{"time":"2026-11-21T00:00:01Z","n":2}"#, first).unwrap();
    assert_eq!(place(&second), old);
    assert_eq!(second.to_string(), r#"{"time":"2026-11-21T00:00:01Z","n":2}"#);
}

#[test]
fn depth_is_left_to_serde_json() {
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(quick(&nested(100)).is_some());
    assert!(quick(&nested(101)).is_none());
}
