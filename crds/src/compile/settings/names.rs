//! Names that a user gives: of fields, columns, labels and headers.

use std::collections::BTreeSet;

use super::Settings;
use crate::{
    diagnostic::Code,
    path::{Path, quoted, shortened},
};

impl Settings<'_> {
    /// A header that would break the request apart (RFC 9110, sections 5.1 and 5.5).
    pub(super) fn header(&mut self, name: &str, value: &str) {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            let reason = format!("{} is no name of a header", quoted(name));
            self.say(
                Code::BadText,
                &["headers", name],
                reason,
                "write letters, digits and `-`, such as `X-Tenant`",
            );
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            let reason = "the value of a header has a line break or another control character in it";
            self.say(Code::BadText, &["headers", name], reason, "write it on one line");
        }
    }

    /// Names as every Alertmanager takes them, and none that is the name of the alert itself.
    pub(super) fn label_names<'n>(&mut self, field: &str, names: impl Iterator<Item = &'n String>) {
        for name in names {
            let is_name = |(at, c): (usize, char)| {
                c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit())
            };
            if name.is_empty() || !name.char_indices().all(is_name) {
                let reason = format!("{} is no name of a label", quoted(name));
                self.say(
                    Code::BadText,
                    &[field, name],
                    reason,
                    "write letters, digits and `_`, such as `by_route`",
                );
            } else if name == "alertname" {
                let reason = "`alertname` is the label that `name` sets";
                self.say(Code::RepeatedField, &[field, name], reason, "write it as `name` of the sink");
            }
        }
    }

    /// Dotted paths: each sound, none inside another, since either order of doing them would be a surprise.
    pub(super) fn fields<'n>(&mut self, names: impl IntoIterator<Item = (Path, &'n String)>) {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (path, name) in names {
            self.field_path(path.clone(), name);
            let outer =
                name.match_indices('.').map(|(dot, _)| &name[..dot]).find(|outer| seen.contains(outer));
            let inner = format!("{name}.");
            let clash = outer
                .or_else(|| seen.iter().copied().find(|other| other == name || other.starts_with(&inner)));
            let reason = match clash {
                Some(other) if other == name => format!("`{}` is there twice", shortened(name)),
                Some(other) => {
                    format!("one of `{}` and `{}` is in the other", shortened(other), shortened(name))
                }
                None => String::new(),
            };
            if clash.is_some() {
                self.report.say(Code::RepeatedField, path, reason, "keep one of them, or use two stages");
            }
            seen.insert(name);
        }
    }

    pub(super) fn unique(&mut self, field: &str, names: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            if !seen.insert(name) {
                let path = self.path.field(field).element(index);
                let reason = format!("`{}` is there twice", shortened(name));
                self.report.say(Code::RepeatedField, path, reason, "give every column a name of its own");
            }
        }
    }

    pub(super) fn field_path(&mut self, path: Path, name: &str) {
        if name.split('.').any(str::is_empty) {
            let reason = format!("{} has an empty name in it", quoted(name));
            self.report.say(
                Code::BadFieldPath,
                path,
                reason,
                "write names with single dots between them, such as `labels.route`",
            );
        }
    }
}
