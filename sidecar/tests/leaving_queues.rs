//! What waits on the disk for a stage or an edge that a new plan does not have is delivered beside that plan.

mod world;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value as Json, json};
use sidestream_plan::stage::PodSpill;
use sidestream_sidecar::{
    Fleet, Flow, Output, Pipeline, Processor, Registry, Sidecar,
    observe::{self, Observed},
};
use world::{
    Seen, asked, compiled, custom,
    peers::{address, authority, joined, until},
    plan, seen, sidecar, start, tick,
};

const GRACE: Duration = Duration::from_secs(60);

/// A sink that spills what nobody takes at `address`.
fn tells(name: &str, address: SocketAddr) -> Json {
    json!({
        "name": name, "input": {"capacity": 100, "overflow": "Spill"},
        "sink": {"webhook": {"url": format!("http://{address}/")}}, "onError": {"retry": {"max": "100ms"}}
    })
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A web server: the numbers it was sent, in order.
#[derive(Clone, Default)]
struct Hub(Arc<Mutex<Vec<i64>>>);

impl Hub {
    fn open(address: SocketAddr) -> Hub {
        let (hub, listener) = (Hub::default(), TcpListener::bind(address).unwrap());
        let keeps = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, keeps) = (stream.unwrap(), keeps.clone());
                std::thread::spawn(move || while keeps.take(&mut stream).is_some() {});
            }
        });
        hub
    }

    /// Takes one request.
    fn take(&self, stream: &mut (impl Read + Write)) -> Option<()> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length:").nth(1)?.lines().next()?.trim().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).unwrap();
        let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        let numbers = body.split("\"sequence\":").skip(1).map(|rest| digits(rest).parse::<i64>().unwrap());
        self.0.lock().unwrap().extend(numbers);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()
    }

    fn numbers(&self) -> Vec<i64> {
        self.0.lock().unwrap().clone()
    }

    /// How far it has come; each came in its order, if some more than once.
    fn next(&self) -> i64 {
        let mut next = 0;
        for number in self.numbers() {
            assert!(number <= next, "event {number} came before {next}");
            next = next.max(number + 1);
        }
        next
    }
}

fn names(pipeline: &Pipeline) -> Vec<String> {
    pipeline.plan().stages.iter().map(|stage| stage.name.clone()).collect()
}

fn with_disk(folder: &Path) -> Sidecar {
    let sidecar = sidecar();
    sidecar.world().spill_in(folder, PodSpill::DEFAULT);
    sidecar
}

#[test]
fn what_waits_for_a_stage_that_has_another_name_now_is_delivered_beside_the_new_plan() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(folder.path());
    let (old, new) = (free_address(), free_address());
    let stages = |tell: Json| {
        let forever = json!({"name": "tock", "source": {"generator": {"rate": 1}}});
        let none = json!({"name": "none", "sink": {"blackhole": {}}});
        compiled("spilling", &[tick(20_000), tell, forever, none])
    };
    let pipeline = start(&sidecar, stages(tells("tell", old)), &mut Registry::default());
    until("all of it is on the disk", || pipeline.ledger().completed >= 20_000);
    let renamed = stages(tells("inform", new));
    pipeline.reload(renamed.clone(), &mut Registry::default()).expect("a good plan");
    assert!(sidecar.world().spilled_for_nobody().is_empty(), "somebody takes it");
    assert!(names(&pipeline).contains(&"tell:spilled".to_owned()), "{:?}", names(&pipeline));
    // Changes meanwhile change nothing about it.
    for _ in 0..3 {
        pipeline.reload(renamed.clone(), &mut Registry::default()).expect("a good plan");
    }
    let hub = Hub::open(old);
    until("all of it has come", || hub.next() == 20_000);
    until("the plan is as it was asked for", || names(&pipeline).len() == renamed.stages.len());
    assert_eq!(*pipeline.plan(), renamed);
    assert!(pipeline.ledger().is_balanced());
}

#[test]
fn what_waits_for_a_stage_that_is_gone_and_back_is_taken_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(folder.path());
    let none = json!({"name": "none", "sink": {"blackhole": {}}});
    let plan = compiled("spilling", &[tick(20_000), tells("tell", free_address())]);
    let pipeline = start(&sidecar, plan, &mut Registry::default());
    until("all of it is on the disk", || pipeline.ledger().completed == 20_000);
    let without = compiled("spilling", &[tick(20_000), none]);
    pipeline.reload(without.clone(), &mut Registry::default()).expect("the stage may go");
    assert_eq!(*pipeline.wanted(), without);
    assert_eq!(names(&pipeline), ["tell:spill", "tell:spilled", "tell", "tick", "none"]);
    let address = free_address();
    let hub = Hub::open(address);
    let back = compiled("spilling", &[tick(20_000), tells("tell", address)]);
    pipeline.reload(back.clone(), &mut Registry::default()).expect("the stage is back");
    assert_eq!(*pipeline.plan(), back);
    until("all of it has come", || hub.next() == 20_000);
    assert!(pipeline.ledger().is_balanced());
    assert!(sidecar.world().spilled_for_nobody().is_empty());
}

#[test]
fn what_waits_before_an_edge_that_the_new_plan_does_not_have_is_sent_when_its_receivers_are_back() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, dns) = authority();
    let (app, hub) = (joined("app", &authority, &dns), joined("hub", &authority, &dns));
    app.world().spill_in(folder.path(), PodSpill::DEFAULT);
    let (service, to) = ("hub-spl.test.svc", json!({"namespace": "test", "name": "hub"}));
    let queue = json!({"spill": {"stage": "tick->show", "capacity": 100}});
    let edge = json!({"sink": {"edge": {"edge": "tick->show", "to": to, "service": service}}});
    let tick = world::generator(json!({"count": 20_000}));
    let stages = [
        ("tick", &[][..], tick.clone()),
        ("tick->show:spill", &[0], json!({"sink": queue})),
        ("tick->show:spilled", &[], json!({"source": queue})),
        ("tick->show", &[2], edge),
    ];
    let sending = start(&app, plan(&stages, &[&[0], &[2]]), &mut Registry::default());
    until("all of it is on the disk", || sending.ledger().completed == 20_000);
    let kept = json!({"sink": {"blackhole": {}}});
    let keeps = plan(&[("tick", &[], tick), ("kept", &[0], kept)], &[&[0, 1]]);
    sending.reload(keeps.clone(), &mut Registry::default()).expect("it waits for nobody");
    assert_eq!(sending.leaving_edges(), ["tick->show"]);

    let from = json!({"namespace": "test", "name": "app"});
    let source = json!({"source": {"edge": {"edge": "tick->show", "from": from}}});
    let (mut registry, seen) = seen();
    let takes = plan(&[("tick->show", &[], source), ("show", &[0], custom("seen"))], &[&[0, 1]]);
    let receiving = start(&hub, takes, &mut registry);
    dns.set(service, [address(&hub)]);
    until("it has delivered all", || sending.leaving_edges().is_empty());
    assert!(seen.numbers("sequence").into_iter().eq(0..20_000), "in order and once");
    until("it has ended", || sending.has_ended() || *sending.plan() == keeps);
    let drained = sending.drain(GRACE);
    assert!(drained.is_complete() && drained.ledger.completed == 20_000, "{drained:?}");
    assert!(receiving.drain(GRACE).is_complete());
}

/// Keeps what it sees while it is open.
struct Gate {
    seen: Seen,
    is_open: Arc<Mutex<bool>>,
}

impl Processor for Gate {
    fn process(&mut self, batch: &mut sidestream_event::Batch, output: &mut Output) -> Flow {
        match *self.is_open.lock().unwrap() {
            true => self.seen.process(batch, output),
            false => Flow::Hold(output.now() + Duration::from_millis(5)),
        }
    }
}

#[test]
fn a_stage_that_does_not_spill_any_more_takes_what_waited_for_it_before_all_else() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(folder.path());
    let (mut registry, seen, gate) = (Registry::default(), Seen::default(), Arc::<Mutex<bool>>::default());
    registry.processor("slow", Box::new(Gate { seen: seen.clone(), is_open: gate.clone() }));
    let stages = |input: Json| {
        let tick = json!({"name": "tick", "source": {"generator": {"rate": 20_000, "count": 100_000}}});
        let slow = json!({"name": "slow", "input": input, "process": {"custom": {"processor": "slow"}}});
        compiled("spilling", &[tick, slow, json!({"name": "none", "sink": {"blackhole": {}}})])
    };
    let spills = stages(json!({"capacity": 100, "overflow": "Spill"}));
    let pipeline = start(&sidecar, spills, &mut registry);
    until("some is on the disk", || pipeline.ledger().completed > 2_000);
    let blocks = stages(json!({}));
    pipeline.reload(blocks.clone(), &mut Registry::default()).expect("a good plan");
    *gate.lock().unwrap() = true;
    until("the plan is as it was asked for", || *pipeline.plan() == blocks);
    until("everything has come", || seen.events().len() == 100_000);
    assert!(seen.numbers("sequence").into_iter().eq(0..100_000), "in order and once");
    assert!(pipeline.ledger().is_balanced());
}

#[test]
fn a_pipeline_that_is_back_before_it_has_delivered_what_it_had_does_not_overtake_that() {
    let folder = tempfile::tempdir().unwrap();
    let sidecar = with_disk(folder.path());
    let observed = Observed::new(sidecar.world());
    let mut fleet = Fleet::new(sidecar.world(), &observed);
    let peer = free_address();
    let plan = compiled("spilling", &[tick(20_000), tells("tell", peer)]);
    fleet.start(plan.clone()).expect("a good plan");
    let server = observe::serve(observed, "127.0.0.1:0", sidecar.world()).expect("a free port");
    let says = |books: &str| asked(server.address(), "/ledger").contains(books);
    until("all of it is on the disk", || says("\"completed\":20000"));
    let drained = fleet.remove("test/spilling", Duration::from_millis(300)).expect("it ran");
    assert_eq!(drained.spilled, 20_000, "{drained:?}");
    let outcomes = fleet.change_to(vec![plan], GRACE);
    assert!(outcomes["test/spilling"].is_ok(), "{outcomes:?}");
    until("its source, which counts anew, has given all as well", || says("\"completed\":20000"));

    let hub = Hub::open(peer);
    until("everything has come", || {
        let numbers = hub.numbers();
        numbers.iter().filter(|number| **number == 19_999).count() >= 2
    });
    let mut came = hub.numbers();
    // What was being tried when the sink was stopped may come twice.
    came.dedup();
    let (mut next, mut rounds) = (0, 0);
    for number in came {
        assert!(number <= next, "event {number} of round {rounds} came before {next}");
        next = next.max(number + 1);
        if next == 20_000 {
            (next, rounds) = (0, rounds + 1);
        }
    }
    assert_eq!((next, rounds), (0, 2));
    assert!(fleet.drain(GRACE));
}
