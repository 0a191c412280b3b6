//! Which member of a group gets which partition: evenly, and each keeps what it has as far as that goes. Pure.

use std::collections::BTreeMap;

/// For each partition, by its place in `owners`, the member that should have it. `owners` are those that have them now;
/// `members` come in the order in which the first of them get one more where it can't be even.
pub(crate) fn assign(owners: &[Option<&str>], members: &[&str]) -> Vec<Option<String>> {
    let mut wanted: Vec<Option<String>> = vec![None; owners.len()];
    if members.is_empty() {
        return wanted;
    }
    let (each, more) = (owners.len() / members.len(), owners.len() % members.len());
    let mut has: BTreeMap<&str, usize> = members.iter().map(|member| (*member, 0)).collect();
    // Who has most keeps one more, so that as few as possible move.
    let mut by_most: Vec<&str> = members.to_vec();
    let count = |member: &str| owners.iter().filter(|owner| **owner == Some(member)).count();
    by_most.sort_by_key(|member| std::cmp::Reverse(count(member)));
    let share: BTreeMap<&str, usize> =
        by_most.iter().enumerate().map(|(at, member)| (*member, each + usize::from(at < more))).collect();
    for (place, owner) in owners.iter().enumerate() {
        let Some(owner) = owner else { continue };
        if let Some(count) = has.get_mut(owner).filter(|count| **count < share[owner]) {
            *count += 1;
            wanted[place] = Some((*owner).to_owned());
        }
    }
    let mut next = by_most.iter().flat_map(|member| {
        let missing = share[member] - has[member];
        std::iter::repeat_n(*member, missing)
    });
    for place in wanted.iter_mut().filter(|place| place.is_none()) {
        *place = next.next().map(str::to_owned);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_newcomer_takes_only_its_share() {
        let owners = vec![Some("a"); 4];
        let wanted = assign(&owners, &["a", "b"]);
        let of = |member: &str| wanted.iter().filter(|own| own.as_deref() == Some(member)).count();
        assert_eq!((of("a"), of("b")), (2, 2));
    }

    proptest! {
        #[test]
        fn everyone_has_as_many_and_as_few_move_as_can_be(
            partitions in 1usize..20,
            before in prop::collection::btree_set("[a-h]", 0..8),
            after in prop::collection::btree_set("[a-h]", 1..8),
        ) {
            let before: Vec<&str> = before.iter().map(String::as_str).collect();
            let after: Vec<&str> = after.iter().map(String::as_str).collect();
            let first = assign(&vec![None; partitions], &before);
            let owners: Vec<Option<&str>> = first.iter().map(|own| own.as_deref()).collect();
            let wanted = assign(&owners, &after);
            let count = |of: &[Option<String>], member: &str| of.iter().filter(|own| own.as_deref() == Some(member)).count();
            let counts: Vec<_> = after.iter().map(|member| count(&wanted, member)).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), partitions, "each partition has one of the members");
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            let moved = owners.iter().zip(&wanted).filter(|(old, new)| old.is_some() && **old != new.as_deref()).count();
            // Those of members that left must move, and what a member has beyond its share.
            let must: usize = before
                .iter()
                .map(|member| {
                    let has = count(&first, member);
                    let keeps = if after.contains(member) { count(&wanted, member) } else { 0 };
                    has.saturating_sub(keeps)
                })
                .sum();
            prop_assert_eq!(moved, must);
            prop_assert_eq!(assign(&wanted.iter().map(|own| own.as_deref()).collect::<Vec<_>>(), &after), wanted);
        }
    }
}
