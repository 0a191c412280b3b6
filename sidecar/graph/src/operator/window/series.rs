//! What a window knows of one key: a cell for each pane that has events of it.

use std::collections::VecDeque;

use sidestream_event::{Text, Value};

use super::{aggregate::Totals, rate::Sample};

/// What is known of one key.
pub(super) struct Series {
    /// The key itself.
    pub(super) by: Value,
    /// The source of its first event.
    pub(super) source: Text,
    /// Ascending by pane.
    cells: VecDeque<Cell>,
    /// The pane and the sample of a counter last seen in the cells that are gone.
    base: Option<(i64, Sample)>,
}

/// What is known of one key in one pane.
struct Cell {
    pane: i64,
    /// The number of its first event.
    sequence: u64,
    totals: Totals,
}

impl Series {
    pub(super) fn new(by: Value, source: Text) -> Self {
        Self { by, source, cells: VecDeque::new(), base: None }
    }

    /// Where the cell of `pane` is, or where it goes.
    pub(super) fn find(&self, pane: i64) -> Result<usize, usize> {
        match self.cells.back() {
            Some(last) if last.pane == pane => Ok(self.cells.len() - 1),
            Some(last) if last.pane < pane => Err(self.cells.len()),
            None => Err(0),
            _ => self.cells.binary_search_by_key(&pane, |cell| cell.pane),
        }
    }

    /// Makes a cell where `find` said.
    pub(super) fn insert(&mut self, index: usize, pane: i64, sequence: u64, totals: Totals) {
        self.cells.insert(index, Cell { pane, sequence, totals });
    }

    /// The totals of the cell that `find` found.
    pub(super) fn totals(&mut self, index: usize) -> &mut Totals {
        &mut self.cells[index].totals
    }

    /// Puts together the `span` panes before pane `end`. Gives the number of the first event in them; `None` where there
    /// is none.
    pub(super) fn sum_up(&self, end: i64, span: i64, totals: &mut Totals) -> Option<u64> {
        let start = end.saturating_sub(span);
        let mut cells =
            self.cells.iter().skip_while(|cell| cell.pane < start).take_while(|cell| cell.pane < end);
        let first = cells.next()?;
        // A sample longer ago than one window says nothing of this one.
        let base = self.base.filter(|(pane, _)| *pane >= start.saturating_sub(span));
        totals.reset(base.map(|(_, sample)| sample));
        totals.merge(&first.totals);
        cells.for_each(|cell| totals.merge(&cell.totals));
        Some(first.sequence)
    }

    /// Takes out the totals of a cell that no window of `span` panes which ends after `end` has in it.
    pub(super) fn retire(&mut self, end: i64, span: i64) -> Option<Totals> {
        let cell = self.cells.pop_front_if(|cell| cell.pane.saturating_add(span) <= end)?;
        if let Some(sample) = cell.totals.last_sample() {
            self.base = Some((cell.pane, sample));
        }
        Some(cell.totals)
    }

    /// Whether nothing in it is needed for windows that end after `end`.
    pub(super) fn is_over(&self, end: i64, span: i64) -> bool {
        let base_needed = self.base.is_some_and(|(pane, _)| pane.saturating_add(2 * span) > end);
        self.cells.is_empty() && !base_needed
    }
}
