//! The functions this house puts in the place of operators of the crate, and what an evaluation has left to spend.

use std::{
    cell::Cell,
    cmp::Ordering,
    sync::{Arc, LazyLock},
};

use cel::{
    Env, ExecutionError, Value as CelValue,
    common::{
        types::{CelBool, CelBytes, CelList, CelString, DYN_TYPE},
        value::{CowVal, Val},
    },
};

use crate::{EvalError, limits};

pub(super) const LESS: &str = "@less";
pub(super) const LESS_OR_EQUAL: &str = "@less_or_equal";
pub(super) const MORE: &str = "@more";
pub(super) const MORE_OR_EQUAL: &str = "@more_or_equal";
pub(super) const ADD: &str = "@add";
pub(super) const TURNS: &str = "@turns";
pub(super) const MATCHES: &str = "@matches";

thread_local! {
    /// Units of work the evaluation on this thread has left.
    pub(super) static WORK_LEFT: Cell<u32> = const { Cell::new(0) };
}

/// The standard library, and this house's functions.
pub(super) static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    let two = || vec![DYN_TYPE, DYN_TYPE];
    let added = env
        .add_overload(LESS, LESS, two(), |args| ordered("_<_", &args, Ordering::is_lt))
        .and_then(|()| {
            env.add_overload(LESS_OR_EQUAL, LESS_OR_EQUAL, two(), |args| {
                ordered("_<=_", &args, Ordering::is_le)
            })
        })
        .and_then(|()| env.add_overload(MORE, MORE, two(), |args| ordered("_>_", &args, Ordering::is_gt)))
        .and_then(|()| {
            env.add_overload(MORE_OR_EQUAL, MORE_OR_EQUAL, two(), |args| {
                ordered("_>=_", &args, Ordering::is_ge)
            })
        })
        .and_then(|()| env.add_overload(ADD, ADD, two(), add))
        .and_then(|()| env.add_overload(TURNS, TURNS, vec![DYN_TYPE], turns));
    added.expect("no user or library can declare a name with `@`");
    Arc::new(env)
});

/// A comparison in which a NaN is unordered and no error.
fn ordered<'b, 'v>(
    operation: &str,
    args: &[CowVal<'b, 'v>],
    holds: fn(Ordering) -> bool,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (left, right) = (args[0].as_ref(), args[1].as_ref());
    let found = match left.as_comparer().map(|left| left.compare(right)) {
        Some(Ok(found)) => holds(found),
        _ if numbers_with_nan(left, right) => false,
        _ => return Err(refused(operation, left, right)),
    };
    Ok(CowVal::owned(CelBool::from(found)))
}

fn numbers_with_nan(left: &dyn Val, right: &dyn Val) -> bool {
    let number = |val: &dyn Val| match CelValue::try_from(val) {
        Ok(CelValue::Float(number)) => Some(number),
        Ok(CelValue::Int(_) | CelValue::UInt(_)) => Some(0.0),
        _ => None,
    };
    matches!((number(left), number(right)), (Some(a), Some(b)) if a.is_nan() || b.is_nan())
}

/// `+`, paid for by what it copies; the crate alone would also add the names of a map to a list.
fn add<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (left, right) = (args[0].as_ref(), args[1].as_ref());
    let size = |val: &dyn Val| {
        let text = val.downcast_ref::<CelString>().map(|text| text.len());
        let bytes = val.downcast_ref::<CelBytes>().map(|bytes| bytes.len());
        let list = val.as_sizer().map(|list| usize::try_from(*list.size().inner()).unwrap_or(usize::MAX));
        text.or(bytes).or(list).unwrap_or(0)
    };
    spend(limits::work(size(left).saturating_add(size(right))))?;
    let list_and_other =
        left.downcast_ref::<CelList>().is_some() && right.downcast_ref::<CelList>().is_none();
    match left.as_adder() {
        Some(adder) if !list_and_other => {
            adder.add(right).map(|sum| CowVal::Owned(sum.into_owned())).map_err(|error| match error {
                ExecutionError::UnsupportedBinaryOperator(..) => refused("_+_", left, right),
                other => other,
            })
        }
        _ => Err(refused("_+_", left, right)),
    }
}

/// The range of a loop, paid for.
fn turns<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let range = args.remove(0);
    let turns = range.as_sizer().map_or(0, |range| *range.size().inner());
    spend(u32::try_from(turns).unwrap_or(u32::MAX).saturating_mul(limits::INTERPRETED_TURN))?;
    Ok(range)
}

fn spend(work: u32) -> Result<(), ExecutionError> {
    let left = WORK_LEFT.get().checked_sub(work);
    WORK_LEFT.set(left.unwrap_or(0));
    left.map(drop).ok_or_else(|| ExecutionError::function_error(TURNS, EvalError::TooMuchWork))
}

fn refused(operation: &str, left: &dyn Val, right: &dyn Val) -> ExecutionError {
    let kinds = [left, right].map(|val| val.get_type().name().to_string());
    ExecutionError::no_such_overload(operation, kinds.to_vec())
}
