//! What a user may have meant.

use crate::path::shortened;

/// The name among `known` that `written` is a slip of the finger away from.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing costs the product of the lengths; nobody slips into a name of a kilobyte.
    if written.len() > 128 {
        return None;
    }
    let lower = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::osa_distance(&lower, &name.to_lowercase()), name))
        .min()
        .filter(|(edits, name)| {
            *edits <= (written.len().max(name.len()) / 3).max(1) && *edits < written.len()
        })
        .map(|(_, name)| name)
}

/// What to write instead of `written`: the name that is near, or else all of them.
pub(crate) fn instead<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
    none: &str,
) -> String {
    match nearest(written, known.clone()) {
        Some(name) => format!("write `{}`", shortened(name)),
        None => one_of(known).unwrap_or_else(|| none.into()),
    }
}

/// `write a, b or c`; none where there is nothing to choose from.
pub(crate) fn one_of<'a>(known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut names: Vec<String> = known.into_iter().map(|name| format!("`{}`", shortened(name))).collect();
    let last = names.pop()?;
    Some(match names.is_empty() {
        true => format!("write {last}"),
        false => format!("write {} or {last}", names.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_and_a_different_word_is_not() {
        let known = ["tumbling", "sliding", "by", "emit"];
        assert_eq!(nearest("tumblign", known), Some("tumbling"));
        assert_eq!(nearest("Emit", known), Some("emit"));
        assert_eq!(nearest("every", known), None);
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest(&"tumbling".repeat(100), known), None);
    }

    #[test]
    fn where_nothing_is_near_everything_is_offered() {
        assert_eq!(instead("tik", ["tick", "show"], ""), "write `tick`");
        assert_eq!(instead("zzz", ["tick", "show"], ""), "write `tick` or `show`");
        assert_eq!(instead("zzz", [], "leave it out"), "leave it out");
    }
}
