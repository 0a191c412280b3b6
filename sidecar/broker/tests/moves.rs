//! A dnpipe goes from one server to another: all of it, once, whoever crashes when.

mod local;

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use local::{Local, name, values};
use sidestream_broker::{
    Broker, Copied, DnpipeSpec, Frozen, GroupSpec, HOLD, Home, JoinOptions, Limits, MoveError, Owner,
    PushError,
};
use sidestream_conformance::{From, Service};
use sidestream_event::{
    native::{Conditions, DnpipeName},
    record::{BatchWriter, Header, MESSAGE_ID},
};

/// The server that has the dnpipe, reached by calls of which the test may have one fail, or its answer.
struct Reached<'a> {
    broker: &'a Broker,
    /// How many calls are left, and whether the one after them is done and only its answer lost.
    calls: Mutex<(u32, bool)>,
}

impl<'a> Reached<'a> {
    fn always(broker: &'a Broker) -> Reached<'a> {
        Reached { broker, calls: Mutex::new((u32::MAX, false)) }
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, MoveError>> + Send) -> Result<T, MoveError> {
        let lost = || MoveError::Lost { reason: "a test".into() };
        let (left, is_done) = {
            let mut calls = self.calls.lock().unwrap();
            let before = *calls;
            calls.0 = calls.0.saturating_sub(1);
            before
        };
        match left {
            0 if is_done => {
                self.calls.lock().unwrap().1 = false;
                drop(call.await);
                Err(lost())
            }
            0 => Err(lost()),
            _ => call.await,
        }
    }
}

impl Owner for Reached<'_> {
    async fn copy_out(
        &self,
        name: &DnpipeName,
        partition: u32,
        from: Option<u64>,
        max_bytes: usize,
    ) -> Result<Copied, MoveError> {
        self.call(self.broker.copy_out(name, partition, from, max_bytes)).await
    }

    async fn freeze(&self, name: &DnpipeName, to: u32) -> Result<Frozen, MoveError> {
        self.call(self.broker.freeze(name, to, HOLD)).await
    }

    async fn frozen_state(
        &self,
        name: &DnpipeName,
        token: u64,
        from: u64,
        max_bytes: usize,
    ) -> Result<Bytes, MoveError> {
        self.call(std::future::ready(self.broker.frozen_state(name, token, from, max_bytes))).await
    }

    async fn release(&self, name: &DnpipeName, token: u64, to: u32) -> Result<(), MoveError> {
        self.call(self.broker.release(name, token, to)).await
    }

    async fn thaw(&self, name: &DnpipeName, token: u64) -> Result<(), MoveError> {
        let thaw = async {
            self.broker.thaw(name, token).await;
            Ok(())
        };
        self.call(thaw).await
    }
}

const PRODUCER: u64 = 0xb0b;

/// A batch of one record with a number of its own.
fn numbered(sequence: u64) -> Bytes {
    batch(&format!("{sequence}"), sequence, None)
}

fn batch(value: &str, sequence: u64, id: Option<&str>) -> Bytes {
    let mut writer = BatchWriter::new();
    let headers: Vec<(&str, &[u8])> = id.iter().map(|id| (MESSAGE_ID, id.as_bytes())).collect();
    writer.push(0, None, &headers, value.as_bytes()).unwrap();
    let header = Header { producer_id: PRODUCER, first_sequence: sequence, ..Header::default() };
    writer.finish(header).unwrap()
}

async fn push(broker: &Broker, partition: u32, batch: Bytes) -> Result<(u64, bool), PushError> {
    let pushed = broker.push(&name("orders"), partition, batch, Conditions::default())?.await?;
    Ok((pushed.base_offset, pushed.is_repeat))
}

/// Offsets and values of a partition.
async fn all(broker: &Broker, partition: u32) -> Vec<(u64, String)> {
    let (mut found, mut from) = (Vec::new(), From::First(0));
    loop {
        let limits = Limits { max_bytes: 64 << 10, ..Limits::default() };
        let pulled = broker.pull(&name("orders"), partition, from, limits, None).await.unwrap();
        if pulled.batches.is_empty() {
            return found;
        }
        let records = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
        found.extend(records.into_iter().map(|(offset, value, _)| (offset, value)));
        from = From::Offset(pulled.next);
    }
}

fn spec(partitions: u32) -> DnpipeSpec {
    DnpipeSpec {
        partitions,
        dedupe_window: Some(Duration::from_secs(3600)),
        groups: vec![GroupSpec::new("billing")],
        ..DnpipeSpec::new(name("orders"))
    }
}

/// Two servers, the first of which has the dnpipe.
async fn pair(partitions: u32) -> [Local; 2] {
    let servers = [Local::simulated(1).await, Local::simulated(2).await];
    servers[0].broker().apply(spec(partitions)).await.unwrap();
    tell(&servers, partitions).await;
    servers
}

/// What servers are told at every start: that the dnpipe began with the first one, and what it is to be.
async fn tell(servers: &[Local; 2], partitions: u32) {
    for server in servers {
        let broker = server.broker();
        broker.name_servers(["first:7420".to_owned(), "second:7420".to_owned()]);
        broker.place_elsewhere(&name("orders"), 0, 0);
        broker.apply(spec(partitions)).await.unwrap();
    }
}

async fn bring(servers: &[Local; 2], to: usize, partitions: u32) -> Result<(), MoveError> {
    let from = 1 - to;
    let owner = Reached::always(servers[from].broker());
    servers[to].broker().bring(&name("orders"), partitions, to as u32, from as u32, &owner).await
}

/// Which of two servers has the dnpipe.
fn having(servers: &[Local; 2]) -> Vec<usize> {
    (0..2).filter(|at| servers[*at].broker().list().contains(&name("orders"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_known_of_a_dnpipe_goes_with_it() {
    let servers = pair(2).await;
    let (first, second) = (servers[0].broker(), servers[1].broker());
    let orders = name("orders");
    for sequence in 0..5 {
        push(first, 0, numbered(sequence)).await.unwrap();
    }
    assert_eq!(first.reset(&orders).await, Ok(1));
    for sequence in 5..9 {
        push(first, 0, numbered(sequence)).await.unwrap();
    }
    push(first, 0, batch("once", 9, Some("m1"))).await.unwrap();
    push(first, 1, numbered(0)).await.unwrap();
    let membership = first.join(&orders, "billing", "ann", JoinOptions::default()).await.unwrap();
    let limits = Limits { max_records: 5, ..Limits::default() };
    let claimed = first.next(&membership, limits, None).await.unwrap();
    assert!(!claimed.deliveries.is_empty());
    first.ack(&membership, 0, std::slice::from_ref(&(5..7))).await.unwrap();

    bring(&servers, 1, 2).await.unwrap();
    assert_eq!((having(&servers), second.home(&orders)), (vec![1], Some(Home::Here { term: 1 })));
    assert_eq!(first.home(&orders), Some(Home::Away { server: 1, term: 1 }));
    assert_eq!(first.elsewhere(&orders).unwrap().owner.as_deref(), Some("second:7420"));
    let refused = push(first, 0, numbered(10)).await;
    assert_eq!(refused, Err(PushError::Unknown(orders.clone())), "the one before takes nothing more");

    let expected: Vec<(u64, String)> =
        (5..9).map(|at| (at, at.to_string())).chain([(9, "once".to_owned())]).collect();
    assert_eq!(all(second, 0).await, expected, "with the offsets they had, and nothing older than the reset");
    assert_eq!(all(second, 1).await, [(0, "0".to_owned())]);
    assert_eq!(second.epoch(&orders), Some(1));
    assert_eq!(push(second, 0, numbered(8)).await, Ok((8, true)), "a repeat is a repeat there too");
    assert_eq!(push(second, 0, batch("twice", 10, Some("m1"))).await, Ok((9, true)), "also by its id");
    assert_eq!(push(second, 0, numbered(12)).await, Err(PushError::OutOfSequence { expected: 11 }));

    let membership = second.join(&orders, "billing", "bob", JoinOptions::default()).await.unwrap();
    let mut offsets = Vec::new();
    while offsets.len() < 4 {
        let claimed =
            second.next(&membership, Limits::default(), Some(Duration::from_secs(60))).await.unwrap();
        for delivery in claimed.deliveries {
            let given = values(&delivery.batches, &delivery.ranges);
            offsets.extend(given.into_iter().map(|(offset, _, _)| (delivery.partition, offset)));
        }
    }
    offsets.sort_unstable();
    assert_eq!(offsets, [(0, 7), (0, 8), (0, 9), (1, 0)], "what was acknowledged is not delivered again");
    push(second, 1, numbered(1)).await.unwrap();
    assert_eq!(all(second, 1).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_while_it_moves_to_and_fro_is_there_once_and_in_order() {
    let servers = Arc::new(pair(1).await);
    let pushing = {
        let servers = servers.clone();
        tokio::spawn(async move {
            let mut at = 0;
            for sequence in 0..600 {
                loop {
                    match push(servers[at].broker(), 0, numbered(sequence)).await {
                        Ok((offset, is_repeat)) => {
                            assert_eq!((offset, is_repeat), (sequence, false));
                            break;
                        }
                        Err(PushError::Unknown(_)) => at = 1 - at,
                        Err(PushError::Moving) => {}
                        Err(error) => panic!("{error}"),
                    }
                    tokio::task::yield_now().await;
                }
            }
        })
    };
    let mut moves = 0;
    while !pushing.is_finished() || moves < 4 {
        let to = 1 - having(&servers)[0];
        bring(&servers, to, 1).await.unwrap();
        moves += 1;
        // Those who push are to have a turn, too.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    pushing.await.unwrap();
    let at = having(&servers)[0];
    let expected: Vec<(u64, String)> = (0..600).map(|at| (at, at.to_string())).collect();
    assert_eq!(all(servers[at].broker(), 0).await, expected);
    println!("moved {moves} times under way");
}

/// Every call of a move fails in turn, or has its answer lost; then either server, or both, lose their power.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_crashes_at_whichever_step_one_server_has_all_of_it_in_the_end() {
    let (mut cases, mut was_with_nobody) = (0, 0);
    for calls in 0.. {
        let mut is_over = false;
        for is_done in [false, true] {
            for who in [vec![], vec![0], vec![1], vec![0, 1]] {
                let mut servers = pair(2).await;
                for sequence in 0..20 {
                    push(servers[0].broker(), 0, numbered(sequence)).await.unwrap();
                }
                let owner = Reached { broker: servers[0].broker(), calls: Mutex::new((calls, is_done)) };
                let outcome = servers[1].broker().bring(&name("orders"), 2, 1, 0, &owner).await;
                is_over |= outcome.is_ok();
                for at in &who {
                    servers = crash(servers, *at).await;
                }
                tell(&servers, 2).await;
                let between = having(&servers);
                assert!(between.len() < 2, "two have it after {calls} calls and a crash of {who:?}");
                was_with_nobody += u32::from(between.is_empty());
                if let [at] = between[..] {
                    // Who has it goes on as if there were no other, unless it stands still for that one.
                    match push(servers[at].broker(), 0, numbered(20)).await {
                        Ok(pushed) => assert_eq!(pushed, (20, false)),
                        Err(error) => assert_eq!(error, PushError::Moving),
                    }
                }
                bring(&servers, 1, 2).await.unwrap();
                assert_eq!(having(&servers), [1]);
                let (offset, _) = push(servers[1].broker(), 0, numbered(20)).await.unwrap();
                assert_eq!(offset, 20);
                // And through another power cut, of both.
                servers = crash(crash(servers, 0).await, 1).await;
                tell(&servers, 2).await;
                assert_eq!(having(&servers), [1]);
                let expected: Vec<(u64, String)> = (0..21).map(|at| (at, at.to_string())).collect();
                assert_eq!(all(servers[1].broker(), 0).await, expected);
                cases += 1;
            }
        }
        if is_over {
            break;
        }
    }
    println!(
        "{cases} cases; in {was_with_nobody} nobody served it until the answer to the release was heard"
    );
    assert!(was_with_nobody > 0, "the answer to a release is among what was lost");
}

async fn crash(servers: [Local; 2], which: usize) -> [Local; 2] {
    let [first, second] = servers;
    match which {
        0 => [first.crash().await, second],
        _ => [first, second.crash().await],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_that_ended_is_no_ground_for_a_release() {
    let servers = pair(1).await;
    let (first, orders) = (servers[0].broker(), name("orders"));
    let stale = |outcome| matches!(outcome, Err(MoveError::Stale { .. }));
    let one = first.freeze(&orders, 1, HOLD).await.unwrap();
    assert_eq!(push(first, 0, numbered(0)).await, Err(PushError::Moving));
    assert!(first.reset(&orders).await.is_err(), "nor is it reset");
    let another = first.freeze(&orders, 1, HOLD).await.unwrap();
    assert!(stale(first.release(&orders, one.token, 1).await), "another freeze is on");
    assert!(stale(first.release(&orders, another.token, 0).await), "it is for another server");
    first.thaw(&orders, another.token).await;
    assert!(stale(first.release(&orders, another.token, 1).await), "it was ended");
    push(first, 0, numbered(0)).await.unwrap();

    let short = first.freeze(&orders, 1, Duration::ZERO).await.unwrap();
    first.maintain().await;
    push(first, 0, numbered(1)).await.expect("nobody came back, so it goes on");
    assert!(stale(first.release(&orders, short.token, 1).await), "it ended by itself");

    let before = first.freeze(&orders, 1, HOLD).await.unwrap();
    let servers = crash(servers, 0).await;
    let first = servers[0].broker();
    push(first, 0, numbered(2)).await.expect("a start knows of no freeze");
    let after = first.freeze(&orders, 1, HOLD).await.unwrap();
    assert_ne!(before.token, after.token);
    assert!(stale(first.release(&orders, before.token, 1).await), "it was before a crash");
    first.release(&orders, after.token, 1).await.unwrap();
    first.release(&orders, after.token, 1).await.expect("asking again has the same answer");
    assert!(stale(first.release(&orders, after.token, 0).await));
    let servers = crash(servers, 0).await;
    servers[0].broker().release(&orders, after.token, 1).await.expect("also after a crash");
}

/// Brings the dnpipe to the second server up to the release, of which only the answer is lost if `is_done`.
async fn ready(servers: &[Local; 2], is_done: bool) -> u64 {
    for calls in 0.. {
        let owner = Reached { broker: servers[0].broker(), calls: Mutex::new((calls, is_done)) };
        let broker = servers[1].broker();
        assert!(broker.bring(&name("orders"), 1, 1, 0, &owner).await.is_err());
        if let Some(Home::Ready { token, .. }) = broker.home(&name("orders")) {
            return token;
        }
    }
    unreachable!("there are only so many calls")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ready_and_not_wanted_any_more_is_with_one_of_them_all_the_same() {
    let orders = name("orders");
    for is_done in [false, true] {
        let servers = pair(1).await;
        let (first, second) = (servers[0].broker(), servers[1].broker());
        push(first, 0, numbered(0)).await.unwrap();
        let token = ready(&servers, is_done).await;
        assert_eq!(second.arrivals(), std::slice::from_ref(&orders), "it is not empty");
        assert_eq!(having(&servers).is_empty(), is_done);
        first.thaw(&orders, token).await;
        second.end_arrival(&orders, 1, &Reached::always(first)).await.unwrap();
        let at = usize::from(is_done);
        assert_eq!((having(&servers), second.arrivals()), (vec![at], vec![]));
        assert_eq!(push(servers[at].broker(), 0, numbered(1)).await, Ok((1, false)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_not_heard_of_the_others_does_not_say_that_there_is_no_such_dnpipe() {
    let alone = Local::simulated(1).await;
    let (broker, orders) = (alone.broker(), name("orders"));
    assert_eq!(broker.elsewhere(&orders), None, "there are no others");
    broker.share();
    assert_eq!(broker.elsewhere(&orders).map(|own| own.owner), Some(None), "whose it is it does not know");
    broker.hear();
    assert_eq!(broker.elsewhere(&orders), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_in_a_reset_while_it_was_copied_does_not_come() {
    let servers = pair(1).await;
    let (first, second, orders) = (servers[0].broker(), servers[1].broker(), name("orders"));
    push(first, 0, numbered(0)).await.unwrap();
    second.begin_arrival(&orders, 1).await.unwrap();
    let copied = first.copy_out(&orders, 0, None, 1 << 20).await.unwrap();
    assert_eq!(second.take_in(&orders, 0, copied).await, Ok(1));
    push(first, 0, numbered(1)).await.unwrap();
    first.reset(&orders).await.unwrap();
    push(first, 0, numbered(2)).await.unwrap();
    assert!(matches!(first.copy_out(&orders, 0, Some(1), 1 << 20).await, Err(MoveError::Stale { .. })));
    bring(&servers, 1, 1).await.unwrap();
    assert_eq!(all(second, 0).await, [(2, "2".to_owned())]);
}

/// As many records as before, with the same offsets, and others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_copied_of_a_dnpipe_that_was_made_anew_does_not_come() {
    let servers = pair(1).await;
    let (first, second, orders) = (servers[0].broker(), servers[1].broker(), name("orders"));
    push(first, 0, batch("old", 0, None)).await.unwrap();
    second.begin_arrival(&orders, 1).await.unwrap();
    let copied = first.copy_out(&orders, 0, None, 1 << 20).await.unwrap();
    second.take_in(&orders, 0, copied).await.unwrap();
    first.remove(&orders).await.unwrap();
    first.apply(spec(1)).await.unwrap();
    push(first, 0, batch("new", 0, None)).await.unwrap();
    let frozen = first.freeze(&orders, 1, HOLD).await.unwrap();
    let state = first.frozen_state(&orders, frozen.token, 0, usize::MAX).unwrap();
    let confirmed = second.confirm_arrival(&orders, 0, &frozen, &state).await;
    assert!(matches!(confirmed, Err(MoveError::Stale { .. })), "{confirmed:?}");
    first.thaw(&orders, frozen.token).await;
    bring(&servers, 1, 1).await.unwrap();
    assert_eq!(all(second, 0).await, [(0, "new".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_did_not_come_keep_a_dnpipe_where_it_is() {
    let servers = pair(1).await;
    let (first, second, orders) = (servers[0].broker(), servers[1].broker(), name("orders"));
    push(first, 0, numbered(0)).await.unwrap();
    second.begin_arrival(&orders, 1).await.unwrap();
    let copied = first.copy_out(&orders, 0, None, 1 << 20).await.unwrap();
    let again = copied.clone();
    second.take_in(&orders, 0, copied).await.unwrap();
    let other_life = Copied { life: again.life + 1, batches: Vec::new(), ..again.clone() };
    let stale = |outcome| matches!(outcome, Err(MoveError::Stale { .. }));
    assert!(stale(second.take_in(&orders, 0, again).await.map(drop)), "it does not follow itself");
    assert!(stale(second.take_in(&orders, 0, other_life).await.map(drop)), "its server began anew");
    push(first, 0, numbered(1)).await.unwrap();
    let frozen = first.freeze(&orders, 1, HOLD).await.unwrap();
    let state = first.frozen_state(&orders, frozen.token, 0, usize::MAX).unwrap();
    assert!(stale(second.confirm_arrival(&orders, 0, &frozen, &state).await));
    assert_eq!(having(&servers), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_past_is_not_served_beside_what_became_of_it() {
    let servers = pair(1).await;
    let (first, orders) = (servers[0].broker(), name("orders"));
    push(first, 0, numbered(0)).await.unwrap();
    // What others say of the time before it came is old, and what they say of later is not.
    first.place_elsewhere(&orders, 1, 0);
    push(first, 0, numbered(1)).await.unwrap();
    let joined = first.join(&orders, "billing", "ann", JoinOptions::default()).await.unwrap();
    first.place_elsewhere(&orders, 1, 3);
    assert_eq!(push(first, 0, numbered(2)).await, Err(PushError::Unknown(orders.clone())));
    assert!(first.next(&joined, Limits::default(), None).await.is_err());
    assert_eq!(first.home(&orders), Some(Home::Away { server: 1, term: 3 }));
    // Nothing of it is thrown away.
    let servers = crash(servers, 0).await;
    assert_eq!(all(servers[0].broker(), 0).await.len(), 2);
}

/// Dead letters and those they are from move one after the other, in whichever order: meanwhile letters wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_that_are_due_while_dnpipes_move_are_there_once() {
    for order in [["orders", "dead"], ["dead", "orders"]] {
        let servers = [Local::simulated(5).await, Local::simulated(6).await];
        let billing = GroupSpec {
            max_deliveries: Some(1),
            dead_letter: Some(name("dead")),
            backoff: Duration::from_millis(1),
            ..GroupSpec::new("billing")
        };
        let specs = [
            DnpipeSpec { groups: vec![billing], ..DnpipeSpec::new(name("orders")) },
            DnpipeSpec::new(name("dead")),
        ];
        for spec in specs {
            servers[0].broker().apply(spec.clone()).await.unwrap();
            servers[1].broker().place_elsewhere(&spec.name, 0, 0);
        }
        let (first, second) = (servers[0].broker(), servers[1].broker());
        for sequence in 0..3 {
            push(first, 0, numbered(sequence)).await.unwrap();
        }
        let member = first.join(&name("orders"), "billing", "ann", JoinOptions::default()).await.unwrap();
        let claimed = first.next(&member, Limits::default(), None).await.unwrap();
        assert!(!claimed.deliveries.is_empty());
        first.give_back(&member, 0, std::slice::from_ref(&(0..3))).await.unwrap();
        let owner = Reached::always(first);
        for dnpipe in order {
            let moved = async {
                // Letters that are on their way are waited for.
                while let Err(error) = second.bring(&name(dnpipe), 1, 1, 0, &owner).await {
                    assert!(matches!(error, MoveError::Busy { .. }), "{error}");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), moved).await.expect("it comes");
        }
        let letters = async {
            let mut letters = Vec::new();
            while letters.len() < 3 {
                let from = From::Offset(letters.len() as u64);
                let wait = Some(Duration::from_secs(1));
                let pulled = second.pull(&name("dead"), 0, from, Limits::default(), wait).await.unwrap();
                let found = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
                letters.extend(found.into_iter().map(|(_, value, _)| value));
            }
            letters
        };
        let letters = tokio::time::timeout(Duration::from_secs(60), letters).await.expect("all come");
        assert_eq!(letters, ["0", "1", "2"], "moved in the order {order:?}");
        let redriven = second.redrive(&name("orders"), "billing").await.unwrap();
        assert_eq!((redriven.records, redriven.gone), (3, 0));
    }
}
