//! Sets of offsets, kept as ranges that neither touch nor overlap. Pure.

use std::{collections::BTreeMap, ops::Range};

/// A set of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// End by start.
    by_start: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds the offsets of `range`.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Those that overlap or touch: they begin at or before the end, and end at or after the start.
        while let Some((own_start, own_end)) = self.last_from(end).filter(|(_, own_end)| *own_end >= start) {
            self.by_start.remove(&own_start);
            (start, end) = (start.min(own_start), end.max(own_end));
        }
        self.by_start.insert(start, end);
    }

    /// Removes the offsets of `range`.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((own_start, own_end)) =
            self.last_from(range.end - 1).filter(|(_, own_end)| *own_end > range.start)
        {
            self.by_start.remove(&own_start);
            if own_end > range.end {
                self.by_start.insert(range.end, own_end);
            }
            if own_start < range.start {
                self.by_start.insert(own_start, range.start);
            }
        }
    }

    /// The range that begins exactly at `start`, taken out.
    pub(crate) fn take_from(&mut self, start: u64) -> Option<Range<u64>> {
        self.by_start.remove(&start).map(|end| start..end)
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.by_start.iter().map(|(start, end)| *start..*end)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_start.len()
    }

    /// The offset behind the last one, if there is any.
    pub(crate) fn end(&self) -> Option<u64> {
        self.by_start.last_key_value().map(|(_, end)| *end)
    }

    fn last_from(&self, most: u64) -> Option<(u64, u64)> {
        self.by_start.range(..=most).next_back().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_the_set_they_stand_for(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 0..60),
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (is_added, start, length) in steps {
                let range = start..start + length;
                if is_added {
                    ranges.insert(range.clone());
                    set.extend(range);
                } else {
                    ranges.remove(range.clone());
                    range.for_each(|offset| _ = set.remove(&offset));
                }
                let all: Vec<_> = ranges.iter().flatten().collect();
                prop_assert_eq!(all, set.iter().copied().collect::<Vec<_>>());
                let bounds: Vec<_> = ranges.iter().collect();
                prop_assert!(bounds.windows(2).all(|pair| pair[0].end < pair[1].start), "they touch: {:?}", bounds);
            }
        }
    }
}
