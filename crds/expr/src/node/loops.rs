//! Loops over the values of a list or the names of a map: `all`, `exists`, `exists_one`, `filter`, `map`.

use sidestream_event::Value;

use super::{Node, Scope, Turn};
use crate::{ast::LoopKind, error::Fault, operand::Operand};

/// A loop; in its condition and transform, variable 0 is its item.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) kind: LoopKind,
    pub(crate) range: Node,
    /// Of every kind but `map`, where it may be left out.
    pub(crate) condition: Option<Node>,
    /// Of `map`.
    pub(crate) transform: Option<Node>,
}

impl Loop {
    pub(super) fn makes_list(&self) -> bool {
        matches!(self.kind, LoopKind::Map | LoopKind::Filter)
    }

    /// What `all`, `exists` and `exists_one` say.
    pub(super) fn truth<'a>(&'a self, scope: &Scope<'_, 'a>) -> Result<bool, Fault<'a>> {
        let condition = self.condition.as_ref().expect("lowered with one");
        let (mut decided, mut met, mut fault) = (false, 0_usize, None);
        self.each(scope, &mut |scope, _| {
            match (self.kind, condition.truth(scope)) {
                (_, Err(Fault::TooMuchWork)) => return Err(Fault::TooMuchWork),
                (LoopKind::ExistsOne, Err(error)) => return Err(error),
                // An item that decides alone outweighs the errors of others.
                (_, Err(error)) => fault = Some(error),
                (LoopKind::All, Ok(false)) | (LoopKind::Exists, Ok(true)) => decided = true,
                (_, Ok(true)) => met += 1,
                (_, Ok(false)) => {}
            }
            Ok(!decided)
        })?;
        match (self.kind, fault) {
            (LoopKind::ExistsOne, _) => Ok(met == 1),
            (kind, _) if decided => Ok(kind == LoopKind::Exists),
            (_, Some(fault)) => Err(fault),
            (kind, None) => Ok(kind == LoopKind::All),
        }
    }

    /// What `filter` and `map` make.
    pub(super) fn list<'a>(&'a self, scope: &Scope<'_, 'a>) -> Result<Operand<'a>, Fault<'a>> {
        let mut made = Vec::new();
        self.each(scope, &mut |scope, item| {
            let wanted = match &self.condition {
                Some(condition) => condition.truth(scope)?,
                None => true,
            };
            if wanted {
                made.push(match &self.transform {
                    Some(transform) => transform.value(scope)?.into_value(),
                    None => item.clone().into_value(),
                });
            }
            Ok(true)
        })?;
        Ok(Operand::Made(Value::from(made)))
    }

    /// Calls `turn` for each item, until it says false.
    fn each<'a>(&'a self, around: &Scope<'_, 'a>, turn: &mut OneTurn<'_, 'a>) -> Result<(), Fault<'a>> {
        match self.range.value(around)? {
            Operand::List(list) => turns(around, list.iter().map(Operand::from), turn),
            Operand::Map(map) => turns(around, map.iter().map(|(name, _)| Operand::Text(name)), turn),
            Operand::Made(Value::List(list)) => turns(around, list.into_iter().map(Operand::from), turn),
            Operand::Made(Value::Map(map)) => {
                turns(around, map.iter().map(|(name, _)| Operand::Made(Value::Text(name.clone()))), turn)
            }
            other => Err(Fault::NoOverload { operation: self.kind.name(), left: other.kind(), right: None }),
        }
    }
}

/// What a loop does with one item in scope; false ends the loop.
type OneTurn<'t, 'a> = dyn FnMut(&Scope<'_, 'a>, &Operand<'a>) -> Result<bool, Fault<'a>> + 't;

fn turns<'a>(
    around: &Scope<'_, 'a>,
    items: impl Iterator<Item = Operand<'a>>,
    turn: &mut OneTurn<'_, 'a>,
) -> Result<(), Fault<'a>> {
    for item in items {
        around.spend(1)?;
        let inside = Scope {
            event: around.event,
            work_left: around.work_left,
            turn: Some(Turn { item: &item, around }),
        };
        if !turn(&inside, &item)? {
            break;
        }
    }
    Ok(())
}
