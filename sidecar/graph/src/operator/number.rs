//! Which texts are numbers: those JSON would call one, so that `007` and `1e5x` stay the texts they are.

use sidestream_event::{Text, Value};

/// The number `text` is, or the text itself.
pub(super) fn number_or_text(text: &str) -> Value {
    number(text).unwrap_or_else(|| Value::Text(Text::from(text)))
}

/// The number `text` is, written as JSON writes numbers (RFC 8259, section 6). Whole numbers beyond 64 bits become
/// floats; what is beyond a float is no number.
pub(super) fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if whole == 0 || (whole > 1 && digits[0] == b'0') {
        return None;
    }
    let mut at = whole;
    if digits.get(at) == Some(&b'.') {
        at += 1 + some_digits(&digits[at + 1..])?;
    }
    if matches!(digits.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(digits.get(at), Some(b'+' | b'-')));
        at += some_digits(&digits[at..])?;
    }
    if at != digits.len() {
        return None;
    }
    if at == whole
        && let Ok(number) = text.parse()
    {
        return Some(Value::Int(number));
    }
    text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float)
}

fn some_digits(bytes: &[u8]) -> Option<usize> {
    let count = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_json_calls_numbers() {
        for text in ["0", "12", "-12", "1.5", "1e5", "1E+5", "-1.25e-3", "9223372036854775808"] {
            let read = sidestream_event::json::read(text.as_bytes()).unwrap();
            assert_eq!(number(text).unwrap().to_string(), read.to_string(), "{text}");
        }
        for text in [
            "", "-", "007", "+1", "1.", ".5", "1e", "1e+", "0x1", "1 ", "NaN", "inf", "1e999", "1_000",
            "1.2.3",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!(number_or_text("007"), Value::from("007"));
    }
}
