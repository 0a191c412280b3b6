//! Dnpipes that are encrypted on the disk: what lies there, who can read it, and what a reset, a wrong key, damage and a move do.

mod local;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use local::{OneKey, batch, key_ref, name, values};
use sidestream_broker::{
    ApplyError, Broker, DnpipeSpec, GroupError, GroupSpec, HOLD, JoinOptions, KeyError, KeyRef, Keys, Limits,
    MoveError, NoKeys, PullError, PushError, ResetError, Retention,
};
use sidestream_conformance::{From, Push};
use sidestream_event::{
    native::Conditions,
    record::{Flags, HEADER_BYTES, Header, RecordError},
};
use sidestream_host::{
    Clock,
    disk::{Disk, SimDisk, sim::Fault},
};
use sidestream_log::{Journal, PartitionId, Settings};

struct World {
    disk: SimDisk,
    broker: Broker,
    journal: Journal,
}

async fn open(disk: &SimDisk, keys: impl Keys + 'static) -> World {
    open_with(disk, keys, Settings::default().cache_bytes).await
}

async fn open_with(disk: &SimDisk, keys: impl Keys + 'static, cache_bytes: usize) -> World {
    let settings =
        Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, cache_bytes, ..Settings::default() };
    let clock = Clock::machine();
    let (journal, recovered) = Journal::open(Arc::new(disk.clone()), settings, clock.clone()).unwrap();
    let opening = Broker::open_with(journal.clone(), &recovered, clock, Arc::new(keys));
    World { disk: disk.clone(), broker: opening.await.unwrap(), journal }
}

async fn world() -> World {
    open(&SimDisk::new(), OneKey(7)).await
}

fn orders() -> DnpipeSpec {
    DnpipeSpec { encryption: Some(key_ref()), ..DnpipeSpec::new(name("orders")) }
}

impl World {
    /// The process ends as it should; what it has is on the disk that is given back.
    async fn close(self) -> SimDisk {
        self.journal.close().await;
        self.disk
    }

    async fn crash(self, keys: impl Keys + 'static) -> World {
        let disk = self.disk.cut(|_| 0);
        open(&disk, keys).await
    }

    async fn push(&self, value: impl ToString) -> Result<u64, PushError> {
        self.push_all(Push::one("orders", value)).await
    }

    async fn push_all(&self, push: Push) -> Result<u64, PushError> {
        let pushing = self.broker.push(&name(&push.dnpipe), push.partition, batch(&push), push.only_if)?;
        Ok(pushing.await?.base_offset)
    }

    async fn all(&self, dnpipe: &str) -> Vec<String> {
        let (mut found, mut from) = (Vec::new(), From::First(0));
        loop {
            let pulled = self.broker.pull(&name(dnpipe), 0, from, Limits::default(), None).await.unwrap();
            if pulled.batches.is_empty() {
                return found;
            }
            let own = values(&pulled.batches, &[(pulled.from, pulled.next, 0)]);
            found.extend(own.into_iter().map(|(_, value, _)| value));
            from = From::Offset(pulled.next);
        }
    }

    fn partition(&self) -> PartitionId {
        self.broker.describe(&name("orders")).unwrap().partitions[0].journal
    }
}

/// All bytes of all files.
fn bytes(disk: &SimDisk) -> Vec<u8> {
    let read = |file: String| {
        let file = disk.open(&file).unwrap();
        file.read(0, file.length().unwrap() as usize).unwrap().to_vec()
    };
    let mut names = disk.list().unwrap();
    names.sort();
    names.into_iter().flat_map(read).collect()
}

fn holds(disk: &SimDisk, text: &str) -> bool {
    bytes(disk).windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn what_is_pushed_is_read_by_everybody_and_by_nobody_on_the_disk() {
    let world = world().await;
    world.broker.apply(orders()).await.unwrap();
    world.broker.apply(DnpipeSpec::new(name("open"))).await.unwrap();
    for n in 0..50 {
        world.push(format!("a-secret-of-{n}")).await.unwrap();
        world.push_all(Push::one("open", format!("no-secret-{n}"))).await.unwrap();
    }
    let all: Vec<_> = (0..50).map(|n| format!("a-secret-of-{n}")).collect();
    assert_eq!(world.all("orders").await, all);
    let world = world.crash(OneKey(7)).await;
    assert_eq!(world.all("orders").await, all);
    world.push("one more").await.unwrap();
    assert_eq!(world.all("orders").await.len(), 51);
    assert_eq!(world.journal.verify().await.unwrap().damage, [], "sums need no key");
    let disk = world.close().await;
    assert!(holds(&disk, "no-secret-49") && !holds(&disk, "a-secret") && !holds(&disk, "one more"));
}

#[tokio::test]
async fn without_the_key_or_with_another_a_dnpipe_is_locked_and_loses_nothing() {
    /// The key that is there now; none is.
    #[derive(Clone, Default)]
    struct Now(Arc<Mutex<Option<u8>>>);
    impl Keys for Now {
        fn get(&self, _: &KeyRef) -> Result<Vec<u8>, String> {
            self.0.lock().unwrap().map(|key| vec![key; 32]).ok_or_else(|| "nobody gave it".into())
        }
    }
    let world = world().await;
    let window = Some(Duration::from_secs(3600));
    world.broker.apply(DnpipeSpec { dedupe_window: window, ..orders() }).await.unwrap();
    world.broker.apply(DnpipeSpec::new(name("open"))).await.unwrap();
    let push = |n: u64| Push { message_id: Some(format!("id {n}")), ..Push::one("orders", n) };
    for n in 0..20 {
        assert_eq!(world.push_all(push(n)).await, Ok(n));
    }
    let keys = Now::default();
    let mut world = world.crash(keys.clone()).await;
    let member = world.broker.join(&name("orders"), "g", "m", JoinOptions::default()).await.unwrap();
    for (key, says) in [(None, "nobody gave it"), (Some(8), "is not the one")] {
        *keys.0.lock().unwrap() = key;
        let applied = world.broker.apply(orders()).await.unwrap_err();
        let said = applied.to_string();
        assert!(said.contains(says) && said.contains("key `key` of Secret `wrapping`"), "{said}");
        let pull = async |from| {
            let pulled = world.broker.pull(&name("orders"), 0, from, Limits::default(), None).await;
            pulled.unwrap_err()
        };
        let PushError::Locked(locked) = world.push_all(push(30)).await.unwrap_err() else { panic!("a push") };
        assert_eq!(pull(From::First(0)).await, PullError::Locked(locked.clone()));
        assert_eq!(pull(From::Last(0)).await, PullError::Locked(locked.clone()), "nor is it waited for more");
        let next = world.broker.next(&member, Limits::default(), None).await;
        assert_eq!(next.err(), Some(GroupError::Pull(PullError::Locked(locked.clone()))));
        assert_eq!(locked.key, key_ref());
        let said = locked.to_string();
        let names = ["the dnpipe is locked", says, "key `key` of Secret `wrapping`", "; put "];
        assert!(names.iter().all(|part| said.contains(part)) && !said.contains("disk"), "{said}");
        if key.is_none() {
            let reset = world.broker.reset(&name("orders")).await;
            assert_eq!(
                reset,
                Err(ResetError::Write(PushError::Locked(locked))),
                "there is no key for what follows"
            );
        }
        world.push_all(Push::one("open", "the others are served")).await.unwrap();
        // Its state can be written anew meanwhile.
        world.broker.maintain().await;
    }
    world = world.crash(keys.clone()).await;
    *keys.0.lock().unwrap() = Some(7);
    world.broker.maintain().await;
    let all: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(world.all("orders").await, all);
    assert_eq!(world.push_all(push(13)).await, Ok(13), "ids are known again");
    assert_eq!(world.push_all(push(20)).await, Ok(20));
    let member = world.broker.join(&name("orders"), "g", "m", JoinOptions::default()).await.unwrap();
    let claimed = world.broker.next(&member, Limits::default(), None).await.unwrap();
    assert_eq!(claimed.deliveries[0].ranges[0].0, 0, "nothing was skipped");
}

#[tokio::test]
async fn after_a_reset_nobody_can_read_what_was_there_wherever_its_bytes_are() {
    let world = world().await;
    world.broker.apply(orders()).await.unwrap();
    for n in 0..5 {
        world.push(format!("old {n}")).await.unwrap();
    }
    let partition = world.partition();
    let sealed = world.journal.read(partition, 0, 1 << 20).await.unwrap().batches;
    assert!(sealed.iter().all(|batch| batch.header.flags.has(Flags::SEALED)));
    assert_eq!(world.broker.reset(&name("orders")).await.unwrap(), 1);
    world.push("new").await.unwrap();
    assert_eq!(world.all("orders").await, ["new"]);
    // The old bytes with the new place's key: as a disk would show them that kept them.
    let fresh = world.journal.read(partition, 5, 1 << 20).await.unwrap().batches;
    let older = Header { reset_epoch: 1, ..sealed[0].header };
    let forged = world.journal.append(partition, older, &sealed[0].body, sidestream_log::Durability::Device);
    let forged = forged.unwrap().await.unwrap().base_offset;
    assert_eq!(forged, fresh.last().unwrap().header.next_offset());
    let pulled = world.broker.pull(&name("orders"), 0, From::Offset(forged), Limits::default(), None).await;
    assert_eq!(pulled.err(), Some(PullError::Damaged { from: forged, to: forged + 1 }));
    let world = world.crash(OneKey(7)).await;
    assert_eq!(world.broker.epoch(&name("orders")), Some(1));
    let pulled =
        world.broker.pull(&name("orders"), 0, From::First(0), Limits::default(), None).await.unwrap();
    assert_eq!(values(&pulled.batches, &[(5, 6, 0)]).len(), 1);
}

#[tokio::test]
async fn a_flipped_bit_costs_its_batch_alone() {
    let world = world().await;
    world.broker.apply(orders()).await.unwrap();
    for n in 0..30 {
        world.push(format!("value {n}")).await.unwrap();
    }
    let place = world.journal.read(world.partition(), 13, 1).await.unwrap().batches[0].header.place;
    let disk = world.close().await;
    let file =
        disk.list().unwrap().into_iter().find(|file| file.starts_with(&format!("{:08x}.", place >> 32)));
    let at = place as u32 as usize + HEADER_BYTES + 3;
    disk.corrupt(&file.unwrap(), |bytes| bytes[at] ^= 4);
    let world = open(&disk, OneKey(7)).await;
    let pull =
        async |from| world.broker.pull(&name("orders"), 0, From::Offset(from), Limits::default(), None).await;
    let before = pull(0).await.unwrap();
    assert_eq!((before.next, values(&before.batches, &[(0, 13, 0)]).len()), (13, 13));
    assert_eq!(pull(13).await.err(), Some(PullError::Damaged { from: 13, to: 14 }));
    assert_eq!(values(&pull(14).await.unwrap().batches, &[(14, 30, 0)]).len(), 16);
}

#[tokio::test]
async fn message_ids_and_dead_letters_are_known_through_a_crash() {
    let world = world().await;
    let letters = DnpipeSpec { encryption: Some(key_ref()), ..DnpipeSpec::new(name("letters")) };
    world.broker.apply(letters).await.unwrap();
    let group = GroupSpec {
        max_deliveries: Some(1),
        dead_letter: Some(name("letters")),
        backoff: Duration::from_millis(1),
        ..GroupSpec::new("g")
    };
    let window = Some(Duration::from_secs(3600));
    let spec = DnpipeSpec { dedupe_window: window, groups: vec![group], ..orders() };
    world.broker.apply(spec).await.unwrap();
    let push =
        |n: u64| Push { message_id: Some(format!("id {n}")), ..Push::one("orders", format!("letter {n}")) };
    for n in 0..3 {
        assert_eq!(world.push_all(push(n)).await, Ok(n));
    }
    let world = world.crash(OneKey(7)).await;
    assert_eq!(world.push_all(push(1)).await, Ok(1), "it was there already");
    let member = world.broker.join(&name("orders"), "g", "m", JoinOptions::default()).await.unwrap();
    let patience = Some(Duration::from_secs(60));
    let claimed = world.broker.next(&member, Limits::default(), patience).await.unwrap();
    assert_eq!(claimed.deliveries[0].ranges, [(0, 3, 1)]);
    world.broker.leave(member).await.unwrap();
    let member = world.broker.join(&name("orders"), "g", "m", JoinOptions::default()).await.unwrap();
    // What was given once goes to the letters now; whoever asks sees to it.
    let none = world.broker.next(&member, Limits::default(), Some(Duration::from_millis(50))).await.unwrap();
    assert_eq!(none.deliveries.len(), 0);
    let (letters, mut end) = (name("letters"), 0);
    while end < 3 {
        let pulled =
            world.broker.pull(&letters, 0, From::Offset(end), Limits::default(), patience).await.unwrap();
        assert!(pulled.next > end, "no letter came");
        end = pulled.next;
    }
    assert_eq!(world.all("letters").await, ["letter 0", "letter 1", "letter 2"]);
    assert!(!holds(&world.close().await, "letter 1"));
}

#[tokio::test]
async fn encryption_can_be_switched_on_and_off_and_its_key_be_another() {
    /// The second key wraps with other bytes; the first is gone later.
    struct Two(bool);
    impl Keys for Two {
        fn get(&self, key: &KeyRef) -> Result<Vec<u8>, String> {
            match (key.name.as_str(), self.0) {
                ("second", _) => Ok(vec![2; 32]),
                (_, true) => Ok(vec![1; 32]),
                _ => Err("it was thrown away".into()),
            }
        }
    }
    let world = open(&SimDisk::new(), Two(true)).await;
    let second = KeyRef { name: "second".into(), key: "key".into() };
    let plain = DnpipeSpec::new(name("orders"));
    let steps = [None, Some(key_ref()), Some(second.clone()), None, Some(second)];
    for (encryption, value) in steps.into_iter().zip(["one", "two", "three", "four", "five"]) {
        world.broker.apply(DnpipeSpec { encryption, ..plain.clone() }).await.unwrap();
        world.push(value).await.unwrap();
    }
    let all = ["one", "two", "three", "four", "five"];
    assert_eq!(world.all("orders").await, all);
    let world = world.crash(Two(false)).await;
    assert_eq!(world.all("orders").await, all);
    let flags = world.journal.read(world.partition(), 0, 1 << 20).await.unwrap().batches;
    let flags: Vec<_> = flags.iter().map(|batch| batch.header.flags.has(Flags::SEALED)).collect();
    assert_eq!(flags, [false, true, true, false, true]);
    let first = DnpipeSpec { encryption: Some(key_ref()), ..plain };
    let refused = world.broker.apply(first).await.unwrap_err();
    assert!(matches!(refused, ApplyError::Key(KeyError::Missing { .. })), "{refused}");
    assert_eq!(world.push("six").await, Ok(5));
}

#[tokio::test]
async fn nobody_pushes_what_only_a_server_makes() {
    let world = world().await;
    world.broker.apply(orders()).await.unwrap();
    let body = [7; 100];
    let mut bytes = vec![0; HEADER_BYTES];
    let header = Header {
        length: (HEADER_BYTES + body.len()) as u32,
        count: 1,
        flags: Flags::SEALED,
        body_crc: crc32c::crc32c(&body),
        ..Header::default()
    };
    header.write(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(&body);
    let refused = world.broker.push(&name("orders"), 0, bytes.into(), Conditions::default()).err();
    assert_eq!(refused, Some(PushError::BadBatch(RecordError::UnknownFlags { found: 4 })));
}

#[tokio::test]
async fn a_dnpipe_that_moves_brings_its_key_to_a_server_that_can_read_it_and_to_no_other() {
    let (from, to) = (world().await, world().await);
    let without = open(&SimDisk::new(), NoKeys).await;
    from.broker.apply(orders()).await.unwrap();
    for n in 0..10 {
        from.push(format!("value {n}")).await.unwrap();
    }
    for (target, number) in [(&without, 1), (&to, 2)] {
        target.broker.place_elsewhere(&name("orders"), 0, 0);
        target.broker.begin_arrival(&name("orders"), 1).await.unwrap();
        let copied = from.broker.copy_out(&name("orders"), 0, None, 1 << 20).await.unwrap();
        assert!(
            copied.batches.iter().all(|batch| batch.header.flags.has(Flags::SEALED)),
            "as they lie there"
        );
        target.broker.take_in(&name("orders"), 0, copied).await.unwrap();
        let frozen = from.broker.freeze(&name("orders"), number, HOLD).await.unwrap();
        let state = from.broker.frozen_state(&name("orders"), frozen.token, 0, 1 << 20).unwrap();
        let confirmed = target.broker.confirm_arrival(&name("orders"), 0, &frozen, &state).await;
        if number == 1 {
            let refused = confirmed.unwrap_err();
            assert!(matches!(&refused, MoveError::Key(KeyError::Missing { .. })), "{refused}");
            assert!(refused.to_string().contains("key `key` of Secret `wrapping`"), "{refused}");
            from.broker.thaw(&name("orders"), frozen.token).await;
            assert_eq!(from.push("value 10").await, Ok(10), "it goes on where it is");
        } else {
            confirmed.unwrap();
            from.broker.release(&name("orders"), frozen.token, number).await.unwrap();
            target.broker.own(&name("orders")).await.unwrap();
        }
    }
    let all: Vec<_> = (0..11).map(|n| format!("value {n}")).collect();
    assert_eq!(to.all("orders").await, all);
    let to = to.crash(OneKey(7)).await;
    assert_eq!(to.all("orders").await, all);
    assert_eq!(to.push("value 11").await, Ok(11));
}

/// A push in between is for an epoch that did not come; the next try has another key for the epoch of the same number.
#[tokio::test]
async fn after_a_reset_that_failed_and_was_asked_for_again_all_that_is_pushed_can_be_read() {
    let world = world().await;
    world.broker.apply(orders()).await.unwrap();
    world.push("old").await.unwrap();
    (0..20).for_each(|at| world.disk.fail(at, Fault::Io));
    assert!(world.broker.reset(&name("orders")).await.is_err());
    // As a client does that is told of a failure.
    for _ in 0..20 {
        world.broker.maintain().await;
        let _ = world.push("between").await;
    }
    while let Err(error) = world.broker.reset(&name("orders")).await {
        assert!(matches!(error, ResetError::Write(_)), "{error}");
        world.broker.maintain().await;
    }
    for n in 0..3 {
        world.push(n).await.unwrap();
    }
    assert_eq!(world.all("orders").await, ["0", "1", "2"]);
    let world = world.crash(OneKey(7)).await;
    assert_eq!(world.all("orders").await, ["0", "1", "2"]);
}

#[tokio::test]
async fn what_nobody_can_read_for_now_is_not_let_go_of() {
    let world = world().await;
    let retention = Retention { time: Some(Duration::ZERO), bytes: None };
    world.broker.apply(orders()).await.unwrap();
    world.push("kept").await.unwrap();
    world.broker.apply(DnpipeSpec { retention, ..orders() }).await.unwrap();
    let world = world.crash(NoKeys).await;
    for _ in 0..3 {
        world.broker.maintain().await;
    }
    let (first, end) = {
        let found = world.broker.describe(&name("orders")).unwrap();
        (found.partitions[0].first, found.partitions[0].end)
    };
    assert_eq!((first, end), (0, 1));
}

#[tokio::test]
async fn where_the_key_is_there_and_the_disk_fails_it_is_the_disk_that_is_named() {
    /// The key that there is by now.
    struct Late(Arc<Mutex<Option<u8>>>);
    impl Keys for Late {
        fn get(&self, _: &KeyRef) -> Result<Vec<u8>, String> {
            self.0.lock().unwrap().map(|key| vec![key; 32]).ok_or_else(|| "nobody gave it".into())
        }
    }
    let late = Arc::new(Mutex::new(None));
    let world = world().await;
    let deduped = DnpipeSpec { dedupe_window: Some(Duration::from_secs(3600)), ..orders() };
    world.broker.apply(deduped.clone()).await.unwrap();
    let push = |n: u64| Push { message_id: Some(format!("id {n}")), ..Push::one("orders", n) };
    world.push_all(push(0)).await.unwrap();
    let world = open_with(&world.disk.cut(|_| 0), Late(late.clone()), 0).await;
    assert!(matches!(world.push_all(push(0)).await, Err(PushError::Locked(_))));
    *late.lock().unwrap() = Some(7);
    (0..20).for_each(|at| world.disk.fail(at, Fault::Io));
    let applied = world.broker.apply(deduped).await;
    assert!(matches!(applied, Err(ApplyError::Key(KeyError::Unread { .. }))), "{applied:?}");
    let pushed = world.push_all(push(0)).await;
    let is_of_disk = |reason: &str| reason.contains("ids of messages") && !reason.contains("Secret");
    assert!(matches!(&pushed, Err(PushError::Failed { reason }) if is_of_disk(reason)), "{pushed:?}");
    for _ in 0..20 {
        world.broker.maintain().await;
    }
    assert_eq!(world.push_all(push(0)).await, Ok(0), "its id is known");
    assert_eq!(world.push_all(push(1)).await, Ok(1));
}
