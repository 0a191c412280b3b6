//! Partitions with records that no dnpipe names, since a start that could not read all of the state.
//!
//! ```text
//!   a start can't read all state ──▶ noted: partitions 4, 5 have records and no name     nothing is removed, nothing is
//!        │                                                                               made anew, the old state stays
//!        ▼
//!   the next start ──▶ reads it all: 4 and 5 have their name again
//!                 └──▶ can't either: state is written anew without it; 4 and 5 stay as they are
//! ```

use std::collections::BTreeSet;

use sidestream_log::PartitionId;

use crate::{Broker, error::ApplyError, limits, pipe::lock, state::Change};

/// What a start knows of them.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    /// Their numbers in the journal.
    pub(crate) partitions: BTreeSet<u32>,
    /// This start was the first that could not read what names them; the next one may.
    is_first: bool,
}

impl Broker {
    /// Removes partitions that nobody names: their making, or their removal, was not finished. Where not all of the state could
    /// be read they are noted instead, but for those without records. `noted` is what a start before this one could not read.
    /// Whether the state is to be written anew, for what is noted in it is over.
    pub(crate) fn keep_nameless(
        &self,
        unnamed: BTreeSet<PartitionId>,
        noted: Option<BTreeSet<u32>>,
        is_whole: bool,
    ) -> bool {
        let journal = &self.inner.journal;
        let has_records = |id: &PartitionId| journal.bounds(*id).is_some_and(|bounds| bounds.next > 0);
        let is_noted = |id: &PartitionId| noted.as_ref().is_some_and(|noted| noted.contains(&id.0));
        let (kept, orphans): (BTreeSet<PartitionId>, BTreeSet<PartitionId>) =
            unnamed.into_iter().partition(|id| is_noted(id) || !is_whole && has_records(id));
        if is_whole {
            orphans.into_iter().for_each(|orphan| drop(journal.remove(orphan)));
        }
        let partitions: BTreeSet<u32> = kept.into_iter().map(|id| id.0).collect();
        if !partitions.is_empty() {
            tracing::error!(
                ?partitions,
                "partitions with records have no name, for a part of the state of the dnpipes could not be read: as they may be of any dnpipe that is not known, none is made"
            );
        }
        let is_first = noted.is_none() && !partitions.is_empty();
        let is_over = noted.is_some_and(|noted| !is_whole || noted != partitions);
        *lock(&self.inner.nameless) = Nameless { partitions, is_first };
        is_over
    }

    /// What the next start must know of this, if anything.
    pub(crate) fn nameless_change(&self) -> Option<Change> {
        let partitions: Vec<u32> = lock(&self.inner.nameless).partitions.iter().copied().collect();
        (!partitions.is_empty()).then_some(Change::Nameless { partitions })
    }

    /// Whether what is written anew may take the place of what was there: not before a second start could not read it either,
    /// unless it would fill the disk.
    pub(crate) fn may_forget_state(&self) -> bool {
        let (state, journal) = (&self.inner.state, &self.inner.journal);
        let is_much = || state.since() >= limits::STATE_HELD_BYTES || journal.is_reserve_low();
        !lock(&self.inner.nameless).is_first || is_much()
    }

    /// No dnpipe is made while there are any: it may be one of theirs, and would begin again with offsets that were given.
    pub(crate) fn check_nameless(&self) -> Result<(), ApplyError> {
        match lock(&self.inner.nameless).partitions.len() {
            0 => Ok(()),
            partitions => Err(ApplyError::Nameless { partitions }),
        }
    }
}
