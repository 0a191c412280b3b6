//! What an expression reads of an event: for whoever must know whether a change of the event can change its value.

use std::collections::BTreeSet;

use cel::{
    IdedExpr,
    common::ast::{CallExpr, Expr, operators},
};

use crate::{ast::text_literal, parse};

/// The fields that `source` reads, each as its names from `event` or `meta` down: `event.labels["a.b"]` is `event`, `labels`
/// and `a.b`. A field may stand for everything below it. None where `source` is no expression.
pub fn reads(source: &str) -> Option<BTreeSet<Vec<String>>> {
    let parsed = parse::parse(source).ok()?;
    let mut found = BTreeSet::new();
    collect(parsed.tree(), &mut found);
    Some(found)
}

/// A variable of a loop that is called as the event counts as the event: too much is found then, never too little.
fn collect(tree: &IdedExpr, found: &mut BTreeSet<Vec<String>>) {
    match field(tree) {
        Some(path) => drop(found.insert(path)),
        None => parse::children(tree).into_iter().for_each(|child| collect(child, found)),
    }
}

/// A field that is named outright.
fn field(tree: &IdedExpr) -> Option<Vec<String>> {
    let below = |of, name: &str| {
        let mut path = field(of)?;
        path.push(name.to_owned());
        Some(path)
    };
    match &tree.expr {
        Expr::Ident(name) if name == "event" || name == "meta" => Some(vec![name.clone()]),
        Expr::Select(select) => below(&select.operand, &select.field),
        Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operators::INDEX => {
            below(args.first()?, text_literal(args.get(1)?)?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Vec<String> {
        reads(source).expect("an expression").into_iter().map(|path| path.join("/")).collect()
    }

    #[test]
    fn a_field_is_found_by_its_names_however_it_is_written() {
        assert_eq!(of("event.labels['a.b'] + meta.key"), ["event/labels/a.b", "meta/key"]);
        assert_eq!(of("has(event.id) ? event.id : 'none'"), ["event/id"]);
        assert_eq!(of("[event.a, {'x': event.b.c}]"), ["event/a", "event/b/c"]);
        assert_eq!(of("1 + 1"), [""; 0]);
    }

    #[test]
    fn what_is_reached_by_a_value_stands_for_all_below_what_it_is_reached_in() {
        assert_eq!(of("event.list[event.at].name"), ["event/at", "event/list"]);
        assert_eq!(of("event.tags.exists(tag, tag.name == 'x')"), ["event/tags"]);
        assert_eq!(of("size(event)"), ["event"]);
    }

    #[test]
    fn what_is_no_expression_reads_nothing_that_could_be_told() {
        assert_eq!(reads("event."), None);
    }
}
