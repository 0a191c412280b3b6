//! Apps that want more of what all of them share than there is: the others get theirs.

use std::{sync::Arc, time::Duration};

use sidestream_client::{Address, ClientError, Record, Refusal};
use sidestream_event::{
    native::{Answer, Conditions, Frames, Request, Verdict, write_frame},
    record::BATCH_BYTES_MAX,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    pod::{Pod, peer},
    raw::{Raw, Scripted},
    servers::{SOON, Servers},
};

fn describe(dnpipe: &str) -> Request {
    Request::Describe { dnpipe: dnpipe.parse().unwrap() }
}

#[test]
fn lines_have_a_bound_together_and_who_has_none_is_told_to_try_again() {
    // On a machine that is so slow that a line is given up before it is opened, once more.
    assert!((0..5).any(|_| lines_are_few()), "fewer are opened than may be");
}

/// Of connections that each have lines to many servers, each has one, and the others are few.
fn lines_are_few() -> bool {
    const CONNECTIONS: usize = 10;
    let (pod, listener) = Scripted::pod();
    pod.run(async {
        let (lines, mut opened) = mpsc::channel(2048);
        tokio::spawn(async move {
            loop {
                let _ = lines.send(Scripted::accept(&listener).await).await;
            }
        });
        let (mut open, mut refused) = (Vec::new(), 0);
        for _ in 0..CONNECTIONS {
            let (mut app, _) = Raw::open(&pod).await;
            for number in 0..16 {
                app.ask(number, &describe(&format!("ns{number}/orders"))).await;
            }
            app.ask(16, &Request::Ping).await;
            let (mut frames, mut is_over) = (Frames::default(), false);
            while !is_over {
                let Some(frame) = frames.next_frame().unwrap() else {
                    assert!(app.0.read_buf(frames.buffer()).await.unwrap() > 0, "it was closed");
                    continue;
                };
                match frame.read().unwrap() {
                    Answer::Pong => is_over = true,
                    Answer::Refused(Refusal::Busy) => refused += 1,
                    Answer::Refused(Refusal::Stopping) => return false,
                    other => panic!("{other:?}"),
                }
            }
            open.push(app);
        }
        // One of each connection, and 64 more.
        let few = CONNECTIONS * 16 - CONNECTIONS - 64;
        assert!(refused >= few, "{refused} are refused, and {few} should be");
        let mut all = Vec::new();
        while refused == few && all.len() < CONNECTIONS + 64 {
            let Ok(Some(line)) = timeout(SOON / 10, opened.recv()).await else { return false };
            all.push(line);
        }
        // When the others are gone there is room again.
        let mut last = open.pop().unwrap();
        drop(open);
        loop {
            last.ask(17, &describe("more/orders")).await;
            tokio::select! {
                Some(_) = opened.recv() => break,
                answers = last.answers(1) => {
                    let Answer::Refused(refusal) = &answers[0].1 else { panic!("{answers:?}") };
                    assert!(matches!(refusal, Refusal::Busy | Refusal::Stopping), "{refusal}");
                }
            }
        }
        refused == few
    })
}

#[test]
fn while_one_server_does_not_answer_what_is_for_another_passes() {
    // On a machine that is so slow that the silent one is given up before, once more.
    assert!((0..5).any(|_| passes_a_server_that_does_not_answer()), "what is for another waits as well");
}

fn passes_a_server_that_does_not_answer() -> bool {
    let pod = Pod::start(&[]);
    let (silent, other) = (pod.volume.path().join("silent.sock"), pod.volume.path().join("other.sock"));
    let (_silent, listener) =
        pod.run(async { (UnixListener::bind(&silent).unwrap(), UnixListener::bind(&other).unwrap()) });
    pod.sidecar.world().use_pools(Arc::new(move |namespace, _| {
        Ok(Address::Local(if namespace == "shop" { silent.clone() } else { other.clone() }))
    }));
    pod.run(async {
        let (mut app, _) = Raw::open(&pod).await;
        for number in 0..20 {
            app.ask(number, &describe("shop/orders")).await;
        }
        for (number, name) in [(20, "web/orders"), (21, "web/returns")] {
            app.ask(number, &describe(name)).await;
        }
        let asked = async {
            let mut server = Scripted::accept(&listener).await;
            (server.asked().await, server.asked().await)
        };
        tokio::select! {
            asked = asked => {
                assert_eq!(asked, ((20, describe("web/orders")), (21, describe("web/returns"))));
                true
            }
            answers = app.answers(1) => {
                assert_eq!(answers[0].1, Answer::Refused(Refusal::Stopping));
                false
            }
        }
    })
}

#[test]
fn large_frames_that_are_announced_and_do_not_come_keep_no_other_from_its_room_for_long() {
    let mut servers = Servers::start(24, 1);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    let (dnpipe, only_if) = ("shop/orders".parse().unwrap(), Conditions::default());
    let push = Request::Push { dnpipe, partition: 0, only_if };
    pod.run(async {
        let mut greedy = Vec::new();
        for number in 0..60 {
            let (mut raw, verdict) = Raw::open(&pod).await;
            assert_eq!(verdict, Verdict::Welcome { version: 1 });
            let mut begun = Vec::new();
            write_frame(1, &push, BATCH_BYTES_MAX, &mut begun).unwrap();
            // Some go on for a while.
            begun.resize(begun.len() + if number % 6 == 0 { 20_000 } else { 0 }, 7);
            raw.0.write_all(&begun).await.unwrap();
            greedy.push(raw);
        }
        for _ in 0..2 {
            let mut stream = UnixStream::connect(pod.path()).await.unwrap();
            let head =
                "POST /v1/dnpipes/shop/orders/records HTTP/1.1\r\nhost: x\r\ncontent-length: 1048576\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            greedy.push(Raw(stream));
        }
        let pushing = async {
            let producer = pod.client(SOON).producer("shop/orders", Default::default()).await.unwrap();
            producer.push(Record::new(vec![b'x'; 1_000_000])).await.unwrap().await.unwrap();
        };
        timeout(SOON / 5, pushing).await.expect("it has its room");
    });
}

#[test]
fn what_no_pool_knows_is_not_there_though_one_that_is_named_has_never_answered() {
    let mut default = Servers::start(25, 1);
    default.settle(Servers::everything_at_first, 1, |_, _| {});
    let pod = Pod::start(&["heavi"]);
    let (first, identity) = (default.address(0), default.identity("till"));
    let nobody = pod.volume.path().join("nobody.sock");
    pod.sidecar.world().use_pools(Arc::new(move |_, pool| match pool {
        "heavi" => Ok(Address::Local(nobody.clone())),
        _ => Ok(peer(&first, &identity)),
    }));
    pod.run(async {
        let patient = pod.client(SOON / 5);
        let unknown = patient.describe("shop/nothing").await;
        let Err(ClientError::Refused(Refusal::UnknownDnpipe(name))) = unknown else { panic!("{unknown:?}") };
        assert_eq!(name.to_string(), "shop/nothing");
        let (status, unknown) = loop {
            let (status, answer) = pod.http_now("GET", "/v1/dnpipes/shop/nothing", "").await;
            if status != 503 || answer["code"] != "stopping" {
                break (status, answer);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((status, &unknown["code"]), (404, &"unknown-dnpipe".into()), "{unknown}");
        let why = unknown["error"].as_str().unwrap();
        assert!(why.contains("`heavi`") && why.contains("sidestream.dev/pools"), "{why}");
        patient.describe("shop/orders").await.expect("what there is is found");
    });
}
