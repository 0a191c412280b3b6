use super::*;

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(seconds * 1_000_000_000)
}

fn group(partitions: usize) -> Group {
    Group::new(GroupSpec::new("billing"), &vec![0; partitions])
}

fn owners(state: &State) -> Vec<&str> {
    state.slots.iter().map(|slot| slot.owner.as_deref().unwrap_or("-")).collect()
}

/// Hands out a record of each partition that `member` has.
fn claim_all(state: &mut State, member: &str, now: Moment) {
    for partition in state.owned(member) {
        state.slots[partition as usize].share.claim(10, 1, now, now + Duration::from_secs(30));
    }
}

#[test]
fn a_newcomer_gets_a_partition_when_what_is_out_of_it_has_come_back_and_nobody_else_notices() {
    let group = group(4);
    let mut state = group.lock();
    state.join("a", JoinOptions::default(), at(0));
    claim_all(&mut state, "a", at(0));
    state.join("b", JoinOptions::default(), at(1));
    assert_eq!(owners(&state), ["a", "a", "a", "a"], "all that a has is still out");
    assert_eq!(
        (state.owned("a"), state.owned("b")),
        (vec![0, 1], vec![]),
        "a is handed nothing more of what b gets"
    );
    state.slots[2].share.settle(0..1);
    assert!(state.hand_over());
    assert_eq!((owners(&state), state.owned("b")), (vec!["a", "a", "b", "a"], vec![2]));
    state.slots[3].share.settle(0..1);
    state.hand_over();
    assert_eq!(owners(&state), ["a", "a", "b", "b"]);
}

#[test]
fn what_a_member_had_that_leaves_is_due_to_the_others_at_once() {
    let group = group(2);
    let mut state = group.lock();
    state.join("a", JoinOptions::default(), at(0));
    state.join("b", JoinOptions::default(), at(0));
    claim_all(&mut state, "a", at(0));
    let had = state.owned("a")[0] as usize;
    state.leave("a", at(1));
    assert_eq!(owners(&state), ["b", "b"]);
    let again = state.slots[had].share.claim(10, 1, at(1), at(40));
    assert_eq!((again[0].range.clone(), again[0].delivery), (0..1, 2));
}

#[test]
fn a_member_that_is_silent_is_gone_and_one_that_waits_is_not() {
    let group = group(2);
    let mut state = group.lock();
    state.join("a", JoinOptions::default(), at(0));
    state.join("b", JoinOptions::default(), at(0));
    state.members.get_mut("a").unwrap().waiting = 1;
    assert!(!state.expire(at(29)));
    assert!(state.expire(at(30)));
    assert_eq!(owners(&state), ["a", "a"]);
    assert!(!state.expire(at(1000)));
}

#[test]
fn who_joins_under_the_same_name_takes_over() {
    let group = group(1);
    let mut state = group.lock();
    let first = state.join("a", JoinOptions::default(), at(0));
    claim_all(&mut state, "a", at(0));
    let second = state.join("a", JoinOptions::default(), at(1));
    assert_ne!(first, second);
    assert_eq!(owners(&state), ["a"]);
    assert_eq!(state.slots[0].share.claim(10, 1, at(1), at(40))[0].delivery, 2);
}

#[test]
fn a_group_that_was_written_down_goes_on_where_it_was() {
    let own = group(2);
    {
        let mut state = own.lock();
        state.join("a", JoinOptions::default(), at(0));
        state.slots[0].share.claim(10, 4, at(0), at(30));
        state.slots[0].share.settle(0..1);
        state.slots[0].share.settle(2..4);
        state.slots[0].redriven = 7;
    }
    let mut saved = Saved::new(GroupSpec::new("billing"));
    saved.cursors = vec![0, 5];
    let Change::Share { partition, share, burying, redriven, .. } =
        own.lock().change(&"shop/orders".parse().unwrap(), 0)
    else {
        panic!("not a share");
    };
    saved.shares.insert(partition, (share, burying, redriven));
    let opened = Group::open(saved, 2, at(0));
    let mut state = opened.lock();
    assert_eq!((state.slots[0].share.cursor(), state.slots[1].share.cursor()), (1, 5));
    assert_eq!((state.slots[0].redriven, owners(&state)), (7, vec!["-", "-"]));
    let again: Vec<_> =
        state.slots[0].share.claim(10, 9, at(0), at(30)).into_iter().map(|claim| claim.range).collect();
    assert_eq!(again, [1..2, 4..10]);
}
