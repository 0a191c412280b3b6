//! Which server of a pool is to have which dnpipe: as many each as can be, and as few move as can be. Pure.
//!
//! A dnpipe is whole with one server. Those that are joined by dead letters are with the same one, because a letter goes from the
//! one to the other in one journal.

use std::collections::{BTreeMap, BTreeSet};

use sidestream_plan::Dnpipe as Kept;

/// For each of `members`, by its full name, the number of the server that is to have it, of servers `0..servers`. `owner` is who
/// has it now; none where nobody does yet: it begins with the first.
pub fn homes(members: &[&Kept], servers: u32, owner: impl Fn(&str) -> Option<u32>) -> BTreeMap<String, u32> {
    let servers = servers.max(1);
    let units = units(members);
    let now: Vec<u32> = units.iter().map(|unit| whose(unit, &owner)).collect();
    let has = |server: u32| now.iter().filter(|own| **own == server).count();
    let (each, more) = (units.len() / servers as usize, units.len() % servers as usize);
    // Who has most keeps one more, so that as few as possible move.
    let mut by_most: Vec<u32> = (0..servers).collect();
    by_most.sort_by_key(|server| std::cmp::Reverse(has(*server)));
    let mut room: BTreeMap<u32, usize> =
        by_most.iter().enumerate().map(|(at, server)| (*server, each + usize::from(at < more))).collect();
    let mut home: Vec<Option<u32>> = now
        .iter()
        .map(|own| {
            let left = room.get_mut(own).filter(|left| **left > 0)?;
            *left -= 1;
            Some(*own)
        })
        .collect();
    let mut free = by_most.iter().flat_map(|server| std::iter::repeat_n(*server, room[server]));
    for home in home.iter_mut().filter(|home| home.is_none()) {
        *home = free.next();
    }
    let named = units.into_iter().zip(home);
    named
        .flat_map(|(unit, home)| unit.into_iter().map(move |name| (name, home.unwrap_or_default())))
        .collect()
}

/// Who has most of a unit: while it moves, where it began to go; of equals the first.
fn whose(unit: &BTreeSet<String>, owner: impl Fn(&str) -> Option<u32>) -> u32 {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for name in unit {
        *counts.entry(owner(name).unwrap_or_default()).or_default() += 1;
    }
    let most = counts.iter().max_by_key(|(server, count)| (**count, std::cmp::Reverse(**server)));
    most.map_or(0, |(server, _)| *server)
}

/// The dnpipes that stay together, in the order of their first names.
fn units(members: &[&Kept]) -> Vec<BTreeSet<String>> {
    let mut units: BTreeMap<String, BTreeSet<String>> =
        members.iter().map(|own| (own.full_name(), BTreeSet::from([own.full_name()]))).collect();
    for own in members {
        let letters = own.groups.iter().filter_map(|group| group.dead_letter.as_ref());
        for other in letters.map(|name| format!("{}/{name}", own.namespace)) {
            let find = |name: &String| {
                units.iter().find(|(_, unit)| unit.contains(name)).map(|(key, _)| key.clone())
            };
            // One that is not of this pool is nowhere here.
            if let (Some(one), Some(other)) = (find(&own.full_name()), find(&other))
                && one != other
            {
                let (kept, gone) = if one < other { (one, other) } else { (other, one) };
                let more = units.remove(&gone).unwrap_or_default();
                units.entry(kept).or_default().extend(more);
            }
        }
    }
    units.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, letters: Option<&str>) -> Kept {
        let mut groups = Vec::new();
        if let Some(letters) = letters {
            groups.push(serde_json::json!({"name": "g", "maxDeliveries": 3, "deadLetter": letters}));
        }
        let json = serde_json::json!({
            "namespace": "shop", "name": name, "pool": "default", "partitions": 1, "durability": "Device",
            "retention": {}, "access": [], "groups": groups,
        });
        serde_json::from_value(json).unwrap()
    }

    /// Moves them one after the other as they are to be, looking anew after each, and says how often.
    fn settle(members: &[&Kept], servers: u32, owners: &mut BTreeMap<String, u32>) -> usize {
        for moves in 0..100 {
            let homes = homes(members, servers, |name| owners.get(name).copied());
            assert!(homes.values().all(|home| *home < servers));
            let next = homes.into_iter().find(|(name, home)| owners.get(name).copied().unwrap_or(0) != *home);
            let Some((name, home)) = next else { return moves };
            owners.insert(name, home);
        }
        panic!("they never rest: {owners:?}");
    }

    fn counts(members: &[&Kept], servers: u32, owners: &BTreeMap<String, u32>) -> Vec<usize> {
        let of = |name: &str| owners.get(name).copied().unwrap_or(0);
        (0..servers).map(|at| members.iter().filter(|own| of(&own.full_name()) == at).count()).collect()
    }

    #[test]
    fn each_server_has_as_many_as_the_others_and_as_few_move_as_can_be() {
        let all: Vec<Kept> = (0..7).map(|at| member(&format!("d{at}"), None)).collect();
        let members: Vec<&Kept> = all.iter().collect();
        let mut owners = BTreeMap::new();
        assert_eq!(settle(&members, 1, &mut owners), 0);
        assert_eq!(settle(&members, 3, &mut owners), 4);
        assert_eq!(counts(&members, 3, &owners), [3, 2, 2]);
        assert_eq!(settle(&members, 2, &mut owners), 2, "only what the last one had moves");
        assert_eq!(counts(&members, 2, &owners), [4, 3]);
        settle(&members, 1, &mut owners);
        assert_eq!(counts(&members, 1, &owners), [7]);
        assert_eq!(settle(&members, 9, &mut owners), 6, "some servers have nothing");
    }

    #[test]
    fn those_that_are_joined_by_dead_letters_are_together_whatever_the_order() {
        let all =
            [member("a", Some("dead")), member("b", None), member("c", Some("dead")), member("dead", None)];
        let members: Vec<&Kept> = all.iter().collect();
        let mut owners = BTreeMap::new();
        settle(&members, 2, &mut owners);
        let of = |name: &str| owners.get(name).copied().unwrap_or(0);
        assert!(of("shop/a") == of("shop/c") && of("shop/c") == of("shop/dead"), "{owners:?}");
        assert_ne!(of("shop/a"), of("shop/b"));
        // One that names what is not there is alone.
        assert_eq!(homes(&[&member("x", Some("nowhere"))], 3, |_| None).len(), 1);
    }
}
