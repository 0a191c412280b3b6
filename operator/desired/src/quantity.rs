//! Amounts as Kubernetes writes them: `100m`, `64Mi`, `1e3`
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).

use serde_json::Value;

/// The suffixes and what they multiply by; the longest that fits is meant.
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// The amount that `value` says, which may be a number or a text; none where it is neither.
pub(crate) fn parse(value: &Value) -> Option<f64> {
    let Value::String(text) = value else { return value.as_f64() };
    // `1e3` is a number, `1E` has a suffix.
    if let Ok(number) = text.parse::<f64>() {
        return Some(number);
    }
    let (suffix, factor) = SUFFIXES.into_iter().find(|(suffix, _)| text.ends_with(suffix))?;
    Some(text.strip_suffix(suffix)?.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_amount_written_in_two_ways_is_the_same() {
        for (one, other) in [
            (json!("1"), json!("1000m")),
            (json!(2), json!("2")),
            (json!("1Gi"), json!("1024Mi")),
            (json!("1e3"), json!("1k")),
            (json!("0.5"), json!("500m")),
        ] {
            assert_eq!(parse(&one), parse(&other), "{one} {other}");
        }
        assert_eq!((parse(&json!("much")), parse(&Value::Null)), (None, None));
    }
}
