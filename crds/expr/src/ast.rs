//! Reading the cel crate's tree: what its macros were before the parser expanded them, and what is written as a name.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, operators},
};

/// A loop over the values of a list or the names of a map, as it was written: `range.kind(variable, ...)`.
pub(crate) struct Loop<'e> {
    pub(crate) range: &'e IdedExpr,
    pub(crate) variable: &'e str,
    pub(crate) kind: LoopKind,
    /// What each value must meet: of every kind but `map`, where it may be left out.
    pub(crate) condition: Option<&'e IdedExpr>,
    /// What `map` makes of each value.
    pub(crate) transform: Option<&'e IdedExpr>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

impl<'e> Loop<'e> {
    /// The loop that the crate's macro made `it` from (cel-0.15 `parser/macros.rs`).
    pub(crate) fn of(it: &'e ComprehensionExpr) -> Option<Self> {
        let made = |kind, condition, transform| {
            Some(Self { range: &it.iter_range, variable: &it.iter_var, kind, condition, transform })
        };
        let Expr::Call(step) = &it.loop_step.expr else { return None };
        match (&it.accu_init.expr, step.func_name.as_str(), step.args.as_slice()) {
            (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_AND, [_, condition]) => {
                made(LoopKind::All, Some(condition), None)
            }
            (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_OR, [_, condition]) => {
                made(LoopKind::Exists, Some(condition), None)
            }
            (Expr::Literal(LiteralValue::Int(_)), operators::CONDITIONAL, [condition, _, _]) => {
                made(LoopKind::ExistsOne, Some(condition), None)
            }
            (Expr::List(_), operators::CONDITIONAL, [condition, appended, _]) => {
                let item = appended_item(appended)?;
                if matches!(&item.expr, Expr::Ident(name) if *name == it.iter_var) {
                    // `filter(x, p)` and `map(x, p, x)` are the same.
                    made(LoopKind::Filter, Some(condition), None)
                } else {
                    made(LoopKind::Map, Some(condition), Some(item))
                }
            }
            (Expr::List(_), operators::ADD, _) => {
                made(LoopKind::Map, None, Some(appended_item(&it.loop_step)?))
            }
            _ => None,
        }
    }
}

/// The `x` of `@result + [x]`.
fn appended_item(step: &IdedExpr) -> Option<&IdedExpr> {
    let Expr::Call(CallExpr { args, .. }) = &step.expr else { return None };
    match &args.get(1)?.expr {
        Expr::List(list) => list.elements.first(),
        _ => None,
    }
}

/// The text of a text literal.
pub(crate) fn text_literal(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// A name, fields of it, and literals, as they are written; `None` for anything longer.
pub(crate) fn written(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", written(&select.operand)?, select.field))
        }
        Expr::Literal(LiteralValue::Int(number)) => Some(number.inner().to_string()),
        Expr::Literal(LiteralValue::String(text)) => Some(format!("{:?}", text.inner())),
        Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operators::INDEX => {
            Some(format!("{}[{}]", written(&args[0])?, written(&args[1])?))
        }
        _ => None,
    }
}

impl LoopKind {
    /// The name of the macro.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LoopKind::All => operators::ALL,
            LoopKind::Exists => operators::EXISTS,
            LoopKind::ExistsOne => operators::EXISTS_ONE,
            LoopKind::Filter => operators::FILTER,
            LoopKind::Map => operators::MAP,
        }
    }
}
