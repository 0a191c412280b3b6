//! What a group promises to those who share work.

use std::collections::{BTreeMap, BTreeSet};

use super::{NOW, ORDERS, SOON, pull_all, push};
use crate::{Client, Dnpipe, From, Given, Member, Push, Refused, Service};

const BILLING: &str = "billing";

async fn join<C: Client>(client: &C, member: &str) -> C::Member {
    client.join(ORDERS, BILLING, member, false).await.unwrap()
}

async fn ack(member: &impl Member, given: &Given) {
    member.ack(given.partition, given.offset..given.offset + 1).await.unwrap();
}

async fn give_back(member: &impl Member, given: &Given) {
    member.give_back(given.partition, given.offset..given.offset + 1).await.unwrap();
}

fn values(given: &[Given]) -> Vec<&str> {
    given.iter().map(|given| given.value.as_str()).collect()
}

/// The next records, however long they take to be due.
async fn next(member: &impl Member) -> Vec<Given> {
    member.next(u64::MAX, SOON).await.unwrap()
}

/// Partitions have one owner each, also while members come: nothing is handled twice, and a partition's order is kept.
pub async fn members_share_the_work_and_each_record_is_handled_once<S: Service>(service: S) {
    const PARTITIONS: u32 = 4;
    const EACH: usize = 50;
    service.create(Dnpipe { partitions: PARTITIONS, ..Dnpipe::named(ORDERS) }).await;
    let client = service.client().await;
    let mut tasks = Vec::new();
    for name in ["a", "b", "c"] {
        let member = service.client().await.join(ORDERS, BILLING, name, false).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut handled = Vec::new();
            loop {
                let given = member.next(7, SOON).await.unwrap();
                let is_over = given.iter().any(|given| given.value == "end") || given.is_empty();
                for given in given.into_iter().filter(|given| given.value != "end") {
                    ack(&member, &given).await;
                    handled.push(given);
                }
                if is_over {
                    return (member, handled);
                }
            }
        }));
        for n in 0..EACH * PARTITIONS as usize / 3 {
            let partition = (n % PARTITIONS as usize) as u32;
            client.push(Push { partition, ..Push::one(ORDERS, n) }).await.unwrap();
        }
    }
    // Each has one of the partitions at least, and sees its end.
    for partition in 0..PARTITIONS {
        client.push(Push { partition, ..Push::one(ORDERS, "end") }).await.unwrap();
    }
    let (mut members, mut seen) = (Vec::new(), BTreeMap::<u32, Vec<u64>>::new());
    for task in tasks {
        let (member, handled) = task.await.unwrap();
        assert!(!handled.is_empty(), "a member without work");
        assert!(handled.iter().all(|given| given.delivery == 1), "a record came again that nobody gave back");
        handled.iter().for_each(|given| seen.entry(given.partition).or_default().push(given.offset));
        members.push(member);
    }
    for (partition, mut offsets) in seen {
        let count = offsets.len();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), count, "partition {partition}: handled twice");
    }
    for member in members {
        member.leave().await.unwrap();
    }
}

/// What could not be handled is not lost, and not in the way of the rest.
pub async fn what_is_given_back_comes_again<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..4 {
        push(&client, n).await;
    }
    let member = join(&client, "a").await;
    let given = next(&member).await;
    assert_eq!(values(&given), ["0", "1", "2", "3"]);
    give_back(&member, &given[1]).await;
    for given in [&given[0], &given[2], &given[3]] {
        ack(&member, given).await;
    }
    assert_eq!(client.lag(ORDERS, BILLING).await, Ok(1));
    push(&client, 4).await;
    let mut again = Vec::new();
    while again.len() < 2 {
        again.extend(next(&member).await);
    }
    again.sort_by_key(|given| given.offset);
    assert_eq!(
        again.iter().map(|given| (given.offset, given.delivery)).collect::<Vec<_>>(),
        [(1, 2), (4, 1)]
    );
    for given in &again {
        ack(&member, given).await;
    }
    assert_eq!(client.lag(ORDERS, BILLING).await, Ok(0));
    assert_eq!(member.next(9, NOW).await.unwrap(), []);
}

/// What one did not finish another gets, and who is gone can't finish it any more.
pub async fn what_a_member_had_that_leaves_goes_to_another<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    push(&client, "work").await;
    let first = join(&client, "a").await;
    let second = join(&service.client().await, "b").await;
    assert_eq!(values(&next(&first).await), ["work"]);
    assert_eq!(second.next(9, NOW).await.unwrap(), [], "there is one partition, and it is another's");
    first.leave().await.unwrap();
    let given = next(&second).await;
    assert_eq!((values(&given), given[0].delivery), (vec!["work"], 2));
    // The same for who is replaced by another of its name.
    let third = join(&service.client().await, "b").await;
    assert_eq!(second.ack(0, 0..1).await, Err(Refused::NotMember));
    let given = next(&third).await;
    assert_eq!((values(&given), given[0].delivery), (vec!["work"], 3));
    ack(&third, &given[0]).await;
}

/// Each group gets everything, in its own time, and pulls see all the same.
pub async fn groups_do_not_notice_each_other<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..3 {
        push(&client, n).await;
    }
    for group in ["one", "two"] {
        let member = client.join(ORDERS, group, "a", false).await.unwrap();
        let given = next(&member).await;
        assert_eq!(values(&given), ["0", "1", "2"]);
        member.ack(0, 0..3).await.unwrap();
        assert_eq!(client.lag(ORDERS, group).await, Ok(0));
    }
    assert_eq!(client.lag(ORDERS, "two").await, Ok(0));
    assert_eq!(pull_all(&client).await.values(), ["0", "1", "2"]);
}

/// A record that nobody can handle does not come for ever; nothing of it is lost, and it can be called back.
pub async fn what_nobody_takes_goes_to_the_dead_letters_once_and_comes_back_when_redriven<S: Service>(
    service: S,
) {
    service.create(Dnpipe::named("dead")).await;
    service.create(Dnpipe { groups: vec![(BILLING, 2, "dead")], ..Dnpipe::named(ORDERS) }).await;
    let client = service.client().await;
    for value in ["good", "poison", "fine"] {
        push(&client, value).await;
    }
    let member = join(&client, "a").await;
    let mut handled = BTreeSet::new();
    let mut deliveries = 0;
    while handled.len() < 2 || deliveries < 2 {
        for given in next(&member).await {
            if given.value == "poison" {
                deliveries += 1;
                assert_eq!(given.delivery, deliveries);
                give_back(&member, &given).await;
            } else {
                ack(&member, &given).await;
                handled.insert(given.value);
            }
        }
    }
    let letters = client.pull("dead", 0, From::First(0), 9, SOON).await.unwrap();
    assert_eq!(letters.values(), ["poison"]);
    // It is done for the group, and still in the dnpipe, like any other.
    while client.lag(ORDERS, BILLING).await != Ok(0) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(pull_all(&client).await.values(), ["good", "poison", "fine"]);
    assert_eq!(client.redrive(ORDERS, BILLING).await, Ok(1));
    let given = next(&member).await;
    assert_eq!((values(&given), given[0].offset, given[0].delivery), (vec!["poison"], 1, 1));
    ack(&member, &given[0]).await;
    assert_eq!(client.redrive(ORDERS, BILLING).await, Ok(0), "a letter is redriven once");
    assert_eq!(client.pull("dead", 0, From::First(0), 9, NOW).await.unwrap().values(), ["poison"]);
}

/// After a reset there is nothing left to be handled of what was before.
pub async fn a_reset_ends_what_a_group_had_not_handled<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..6 {
        push(&client, n).await;
    }
    let member = join(&client, "a").await;
    let given = member.next(3, SOON).await.unwrap();
    assert_eq!(values(&given), ["0", "1", "2"]);
    give_back(&member, &given[0]).await;
    client.reset(ORDERS).await.unwrap();
    push(&client, "new").await;
    assert_eq!(values(&next(&member).await), ["new"]);
    // An acknowledgement of what is gone does no harm.
    member.ack(0, 0..3).await.unwrap();
    member.ack(0, 6..7).await.unwrap();
    assert_eq!(client.lag(ORDERS, BILLING).await, Ok(0));
}

/// A cursor can be moved, back and forth.
pub async fn a_group_that_seeks_begins_there<S: Service>(service: S) {
    service.create(Dnpipe::named(ORDERS)).await;
    let client = service.client().await;
    for n in 0..5 {
        push(&client, n).await;
    }
    let member = join(&client, "a").await;
    for (to, expected) in [(From::First(0), 0..5), (From::Last(2), 3..5), (From::Offset(1), 1..5)] {
        client.seek(ORDERS, BILLING, to).await.unwrap();
        let expected: Vec<String> = expected.map(|n| n.to_string()).collect();
        assert_eq!(values(&next(&member).await), expected);
        member.ack(0, 0..5).await.unwrap();
    }
    client.seek(ORDERS, BILLING, From::Last(0)).await.unwrap();
    assert_eq!(member.next(9, NOW).await.unwrap(), []);
    assert_eq!(client.lag(ORDERS, BILLING).await, Ok(0));
}
