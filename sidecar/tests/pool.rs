//! The servers of a pool, as three of them in one process: dnpipes go from one to the other under load, over mTLS, and nobody who
//! pushes, pulls or handles records notices more than a wait.

mod servers;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use servers::{DNPIPES, PARTITIONS, SOON, Servers};
use sidestream_client::{
    Address, Client, ClientError, Delivery, From, GroupConfig, Producer, ProducerConfig, ReaderConfig,
    Record, Refusal,
};
use sidestream_sidecar::Registry;
use tokio::sync::watch;

/// Pushes numbers to each partition in turn until told to stop, and says how many.
async fn push(producer: Producer, mut stop: watch::Receiver<bool>, so_far: watch::Sender<u64>) -> u64 {
    let mut next = 0;
    while !*stop.borrow_and_update() {
        let mut promises = Vec::new();
        for partition in 0..PARTITIONS {
            let record = Record::new(next.to_string());
            promises.push(producer.push_to(partition, record).await.expect("taken in"));
        }
        for promise in promises {
            assert_eq!(promise.await.expect("acknowledged").offset, next, "dense, and nothing twice");
        }
        next += 1;
        so_far.send_replace(next);
        // Who handles them is to keep up.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    next
}

/// Follows a dnpipe until everything has come that was pushed, in order.
async fn follow(client: Client, name: String, mut pushed: watch::Receiver<Option<u64>>) {
    let config = ReaderConfig { follow: true, ..ReaderConfig::default() };
    let mut reader = client.reader(&name, From::First(0), config).await.expect("a reader");
    let mut next = [0; PARTITIONS as usize];
    loop {
        let end = *pushed.borrow_and_update();
        if end.is_some_and(|end| next.iter().all(|next| *next >= end)) {
            return;
        }
        tokio::select! {
            record = reader.next() => {
                let record = record.expect("pulled").expect("it follows");
                let place = &mut next[record.partition as usize];
                assert_eq!((record.offset, &record.value[..]), (*place, place.to_string().as_bytes()));
                *place += 1;
            }
            _ = pushed.changed(), if end.is_none() => {}
        }
    }
}

/// Handles records of a group until all that were pushed are handled, and says how many came more than once.
async fn handle(client: Client, name: String, mut pushed: watch::Receiver<Option<u64>>) -> u64 {
    let mut member = client.join(&name, "billing", GroupConfig::default()).await.expect("a member");
    let (mut handled, mut again) = (BTreeSet::new(), 0);
    loop {
        let end = *pushed.borrow_and_update();
        if end.is_some_and(|end| handled.len() as u64 >= end * u64::from(PARTITIONS)) {
            member.leave().await.expect("left");
            return again;
        }
        let Some(first) = member.next_within(200).await.expect("delivered") else { continue };
        let more = std::iter::from_fn(|| member.ready()).collect::<Vec<_>>();
        let mut ranges: Vec<(u32, Range<u64>)> = Vec::new();
        for Delivery { record, .. } in std::iter::once(first).chain(more) {
            let follows = |(partition, range): &&mut (u32, Range<u64>)| {
                *partition == record.partition && range.end == record.offset
            };
            match ranges.last_mut().filter(follows) {
                Some((_, range)) => range.end += 1,
                None => ranges.push((record.partition, record.offset..record.offset + 1)),
            }
        }
        for (partition, range) in ranges {
            match member.ack_range(partition, range.clone()).await {
                Ok(()) => {
                    for offset in range {
                        again += u64::from(!handled.insert((partition, offset)));
                    }
                }
                // They are not this member's any more, and come again.
                Err(ClientError::Refused(Refusal::NotMember { .. } | Refusal::Bad { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Those who use the dnpipes, each from another server on.
struct Users {
    stop: watch::Sender<bool>,
    pushed: Vec<(watch::Sender<Option<u64>>, tokio::task::JoinHandle<u64>)>,
    so_far: Vec<watch::Receiver<u64>>,
    others: Vec<tokio::task::JoinHandle<()>>,
}

impl Users {
    fn begin(servers: &Servers) -> Users {
        let (stop, _) = watch::channel(false);
        let (mut pushed, mut so_far, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let sockets = servers.sidecar.world().sockets();
        for (at, name) in DNPIPES.iter().enumerate() {
            let name = format!("shop/{name}");
            let client = |add: usize| servers.client((at + add) % servers.running.len());
            let (count, _) = watch::channel(None);
            let (pusher, stop, dnpipe) = (client(0), stop.subscribe(), name.clone());
            let (progress, seen) = watch::channel(0);
            so_far.push(seen);
            let pushing = sockets.spawn(async move {
                let config = ProducerConfig::default();
                push(pusher.producer(&dnpipe, config).await.expect("a producer"), stop, progress).await
            });
            others.push(sockets.spawn(follow(client(1), name.clone(), count.subscribe())));
            let (member, until) = (client(2), count.subscribe());
            others.push(sockets.spawn(async move {
                let again = handle(member, name.clone(), until).await;
                println!("{name}: {again} records were delivered once more");
            }));
            pushed.push((count, pushing));
        }
        Users { stop, pushed, so_far, others }
    }

    /// Waits until each has pushed some more.
    fn go_on(&mut self, servers: &Servers) {
        servers.sidecar.world().sockets().block_on(async {
            for so_far in &mut self.so_far {
                let enough = *so_far.borrow() + 50;
                let pushed = tokio::time::timeout(SOON, so_far.wait_for(|count| *count >= enough)).await;
                pushed.expect("in time").expect("they go on");
            }
        });
    }

    /// Waits until everything that was pushed has been pulled and handled.
    fn end(self, servers: &Servers) {
        let Users { stop, pushed, others, .. } = self;
        servers.sidecar.world().sockets().block_on(async {
            let ending = async {
                stop.send_replace(true);
                for (count, pushing) in pushed {
                    let pushed = pushing.await.expect("every push was acknowledged");
                    println!("{} records", pushed * u64::from(PARTITIONS));
                    assert!(pushed > 0);
                    count.send_replace(Some(pushed));
                }
                for other in others {
                    other.await.expect("everything came, in order");
                }
            };
            tokio::time::timeout(SOON, ending).await.expect("everything comes in time");
        });
    }
}

#[test]
fn a_pool_grows_and_shrinks_under_load_and_loses_nothing() {
    let mut servers = Servers::start(1, 3);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let mut users = Users::begin(&servers);
    users.go_on(&servers);
    servers.settle(Servers::spread, 3, |_, _| {});
    users.go_on(&servers);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    users.go_on(&servers);
    servers.settle(Servers::spread, 3, |_, _| {});
    users.go_on(&servers);
    users.end(&servers);
    // Who asks the wrong one is told the right one, and what is known of the groups is there.
    let (returns, first) = ("shop/returns", servers.client(0));
    let owner = servers.address(1);
    servers.sidecar.world().sockets().block_on(async {
        let view =
            first.list().await.unwrap().into_iter().find(|own| own.name.to_string() == returns).unwrap();
        assert!(view.partitions.iter().all(|own| own.end > 0), "its owner was asked: {view:?}");
        let groups = first.groups(returns).await.unwrap();
        assert_eq!(groups.iter().map(|group| group.lag_records).sum::<u64>(), 0, "{groups:?}");
        let raw = servers.client(0).describe(returns).await.unwrap();
        assert_eq!(raw.partitions.len(), PARTITIONS as usize);
        println!("{returns} is at {owner}");
    });
}

#[test]
fn servers_that_stop_while_dnpipes_move_leave_each_of_them_with_one() {
    let mut servers = Servers::start(2, 3);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let users = Users::begin(&servers);
    let mut restarts = 0;
    for turn in 0..4 {
        let home = if turn % 2 == 0 { Servers::spread } else { Servers::everything_at_first };
        servers.settle(home, if turn % 2 == 0 { 3 } else { 1 }, |servers, round| {
            if round % 7 == turn && restarts < 4 * (turn + 1) {
                servers.restart((round / 7 + turn) % 3);
                restarts += 1;
            }
        });
    }
    println!("{restarts} servers were stopped and started while dnpipes moved");
    assert!(restarts > 0);
    users.end(&servers);
}

#[test]
fn stages_follow_their_dnpipes_from_server_to_server() {
    let mut servers = Servers::start(3, 2);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let (identity, host) = (servers.identity("billing-main-spl"), servers.address(0));
    let sidecar = world::sidecar();
    sidecar.world().use_pools(Arc::new(move |namespace, pool| {
        assert_eq!((namespace, pool), ("shop", "default"));
        let (host, identity) = (host.clone(), identity.clone());
        Ok(Address::Peer { host, identity, expected: Servers::id("dnpipes-default") })
    }));
    let source = json!({"source": {"dnpipe": {"name": "orders", "namespace": "shop", "group": "billing"}}});
    let sink = json!({"sink": {"dnpipe": {"name": "returns", "namespace": "shop"}}});
    let plan = world::plan(&[("in", &[], source), ("out", &[0], sink)], &[&[0], &[1]]);
    let pipeline = world::start(&sidecar, plan, &mut Registry::default());

    let till = servers.client(0);
    let push = |servers: &Servers, numbers: Range<u64>| {
        servers.sidecar.world().sockets().block_on(async {
            let producer = till.producer("shop/orders", ProducerConfig::default()).await.unwrap();
            for number in numbers {
                producer.push(Record::new(number.to_string())).await.unwrap().await.expect("acknowledged");
            }
        });
    };
    push(&servers, 0..50);
    let second = |name: &str| u32::from(name != "notes");
    servers.settle(second, 2, |_, _| {});
    push(&servers, 50..100);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    push(&servers, 100..150);

    let expected: BTreeSet<u64> = (0..150).collect();
    let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
    let come = async {
        let mut reader = till.reader("shop/returns", From::First(0), follow).await.unwrap();
        let mut results = BTreeSet::new();
        while results != expected {
            let record = reader.next().await.unwrap().expect("it follows");
            results.insert(std::str::from_utf8(&record.value).unwrap().parse().unwrap());
        }
    };
    let come = servers.sidecar.world().sockets().block_on(async { tokio::time::timeout(SOON, come).await });
    come.expect("every result is there");
    drop(pipeline.drain(SOON));
}

#[test]
fn a_server_that_starts_again_does_not_claim_what_it_never_had() {
    let mut servers = Servers::start(5, 2);
    servers.settle(Servers::everything_at_first, 2, |_, _| {});
    servers.restart(1);
    // It has heard nothing since.
    let with_first = BTreeMap::from([(0, 0)]);
    let having = servers.having();
    assert!(having.len() == DNPIPES.len() && having.values().all(|at| *at == with_first), "{having:?}");
    let having = servers.running[1].as_ref().unwrap().0.serving();
    assert_eq!(having.kept, 0);
}

#[test]
fn nobody_but_a_server_of_the_pool_may_move_a_dnpipe() {
    let mut servers = Servers::start(4, 1);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let till = servers.client(0);
    let dnpipe = "shop/orders".parse().unwrap();
    let request = sidestream_client::MoveRequest::Freeze { dnpipe, to: 1 };
    let refused = servers.sidecar.world().sockets().block_on(till.move_step(request));
    let Err(ClientError::Refused(Refusal::NotAllowed { who, .. })) = refused else { panic!("{refused:?}") };
    assert!(who.ends_with("/sa/till"), "{who}");
}
