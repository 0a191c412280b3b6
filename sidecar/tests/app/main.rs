//! The socket of the app: what is asked there reaches the servers that have it, over mTLS as who the pod is, whoever asks in
//! whatever language, and nobody who asks can hold up the others.
#![cfg(unix)]

mod pod;
mod raw;
mod room;
#[path = "../servers/mod.rs"]
mod servers;
mod strangers;
#[path = "../world/mod.rs"]
mod world;

use std::{
    collections::BTreeSet,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    sync::{Arc, mpsc},
};

use pod::{Pod, apart, peer, pull, push, read_some, texts};
use raw::{Raw, Scripted};
use servers::{SOON, Servers};
use sidestream_client::{ClientError, From, GroupConfig, ProducerConfig, ReaderConfig, Record, Refusal};
use sidestream_event::native::{Answer, Member, Request};
use sidestream_sidecar::AppSocket;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixSocket, UnixStream},
};

#[test]
fn one_connection_reaches_every_server_with_all_that_a_dnpipe_does() {
    let mut servers = Servers::start(11, 2);
    servers.settle(apart, 2, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    let app = pod.client(SOON);
    pod.run(async {
        for name in ["shop/orders", "shop/returns"] {
            push(&app, name, 0..20).await;
            assert_eq!(pull(&app, name).await, texts(0..20), "{name}");
            let mut member = app.join(name, "billing", GroupConfig::default()).await.unwrap();
            for _ in 0..20 {
                let delivery = member.next().await.unwrap();
                member.ack(&delivery).await.unwrap();
            }
            member.leave().await.unwrap();
            let groups = app.groups(name).await.unwrap();
            assert_eq!(groups[0].lag_records, 0, "{groups:?}");
            let view = app.describe(name).await.unwrap();
            assert!(view.partitions.iter().all(|own| own.owner.is_none()), "{view:?}");
            assert_eq!(app.reset(name).await, Ok(1));
            assert_eq!(pull(&app, name).await, Vec::<String>::new());
        }
        let mut all: Vec<String> = app.list().await.unwrap().iter().map(|own| own.name.to_string()).collect();
        all.sort();
        assert_eq!(all, ["shop/notes", "shop/orders", "shop/returns"]);
        let unknown = app.describe("shop/nothing").await;
        let Err(ClientError::Refused(Refusal::UnknownDnpipe(name))) = unknown else { panic!("{unknown:?}") };
        assert_eq!(name.to_string(), "shop/nothing");
    });
}

#[test]
fn who_speaks_http_is_led_to_the_server_that_has_it_without_hearing_of_it() {
    let mut servers = Servers::start(12, 2);
    servers.settle(apart, 2, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    pod.run(async {
        for name in ["orders", "returns"] {
            let path = format!("/v1/dnpipes/shop/{name}");
            assert_eq!(pod.http("HEAD", &path, "").await, (200, serde_json::Value::Null));
            for offset in 0..3 {
                let to = format!("{path}/records?partition=0");
                let (status, stored) = pod.http("POST", &to, &format!("value {offset}")).await;
                assert_eq!((status, &stored["offset"]), (200, &offset.into()), "{stored}");
            }
            let (status, pulled) = pod.http("GET", &format!("{path}/records?from=1"), "").await;
            assert_eq!((status, &pulled["records"][0]["value"]), (200, &"value 1".into()), "{pulled}");
            let (status, conflict) =
                pod.http("POST", &format!("{path}/records?partition=0&ifNext=1"), "x").await;
            assert_eq!((status, &conflict["code"]), (409, &"wrong-offset".into()), "{conflict}");
            let (status, reset) = pod.http("POST", &format!("{path}/reset"), "").await;
            assert_eq!((status, &reset["epoch"]), (200, &1.into()), "{reset}");
        }
        let (status, bad) = pod.http("GET", "/v1/dnpipes/Shop/orders", "").await;
        assert_eq!((status, &bad["code"]), (400, &"bad-request".into()), "{bad}");
        let (status, unknown) = pod.http("GET", "/v1/dnpipes/shop/nothing", "").await;
        assert_eq!((status, &unknown["code"]), (404, &"unknown-dnpipe".into()), "{unknown}");
        let (status, unknown) = pod.http("GET", "/nothing", "").await;
        assert_eq!((status, &unknown["code"]), (404, &"unknown-path".into()), "{unknown}");
        assert_eq!(pod.http("GET", "/v1/openapi.json", "").await.0, 200);
        // Refused before anything of it has come.
        let mut stream = UnixStream::connect(pod.path()).await.unwrap();
        let head =
            "POST /v1/dnpipes/shop/orders/records HTTP/1.1\r\nhost: x\r\ncontent-length: 1048577\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.contains("too-large") {
            read_some(&mut stream, &mut answer).await;
        }
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    });
}

#[test]
fn a_connection_of_http_is_kept_for_more_requests_and_a_follower_gets_records_as_they_come() {
    let mut servers = Servers::start(13, 2);
    servers.settle(apart, 2, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    pod.run(async {
        let mut follower = UnixStream::connect(pod.path()).await.unwrap();
        follower
            .write_all(b"GET /v1/dnpipes/shop/returns/events?from=start HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut seen = String::new();
        let mut pusher = UnixStream::connect(pod.path()).await.unwrap();
        for number in 0..5 {
            for name in ["orders", "returns"] {
                let push = format!(
                    "POST /v1/dnpipes/shop/{name}/records?partition=0 HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\nnumber{number}"
                );
                pusher.write_all(push.as_bytes()).await.unwrap();
                let mut answer = String::new();
                while !answer.contains("\"offset\"") {
                    read_some(&mut pusher, &mut answer).await;
                }
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            while !seen.contains(&format!("number{number}")) {
                read_some(&mut follower, &mut seen).await;
            }
        }
    });
}

#[test]
fn an_app_pushes_and_follows_while_its_dnpipe_moves_and_notices_no_more_than_a_wait() {
    let mut servers = Servers::start(14, 2);
    servers.settle(Servers::everything_at_first, 2, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    let (app, name) = (pod.client(SOON), "shop/returns");
    let following = pod.sockets().spawn({
        let app = pod.client(SOON);
        async move {
            let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
            let mut reader = app.reader(name, From::First(0), follow).await.unwrap();
            let mut values = Vec::new();
            while values.len() < 90 {
                let record = reader.next().await.unwrap().expect("it follows");
                values.push(String::from_utf8(record.value.to_vec()).unwrap());
            }
            values
        }
    });
    pod.run(push(&app, name, 0..30));
    servers.settle(apart, 2, |_, _| {});
    pod.run(push(&app, name, 30..60));
    servers.settle(Servers::everything_at_first, 2, |_, _| {});
    pod.run(push(&app, name, 60..90));
    assert_eq!(pod.run(following).unwrap(), texts(0..90), "each once and in order");
}

#[test]
fn large_records_of_many_apps_at_once_go_through_in_their_order_though_there_is_room_for_few() {
    const APPS: u32 = 6;
    let mut servers = Servers::start(22, 2);
    servers.settle(apart, 2, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    let value = |app: u32, number: u32| {
        let mut value = vec![app as u8; 700_000];
        value[1] = number as u8;
        value
    };
    let pushing = (0..APPS).map(|app| {
        let client = pod.client(SOON);
        pod.sockets().spawn(async move {
            for name in ["shop/orders", "shop/returns"] {
                let producer = client.producer(name, ProducerConfig::default()).await.unwrap();
                for number in 0..5 {
                    let record = Record::new(value(app, number));
                    drop(producer.push_to(0, record).await.expect("taken in"));
                }
                producer.flush().await.expect("acknowledged");
            }
        })
    });
    pod.run(futures_util::future::try_join_all(pushing)).expect("pushed");
    let pulling = (0..APPS).map(|_| {
        let client = pod.client(SOON);
        pod.sockets().spawn(async move {
            for name in ["shop/orders", "shop/returns"] {
                let mut reader = client.reader(name, From::First(0), ReaderConfig::default()).await.unwrap();
                let mut next = [0; APPS as usize];
                while let Some(record) = reader.next().await.expect("pulled") {
                    let app = record.value[0];
                    assert_eq!(record.value, value(app.into(), next[app as usize]));
                    next[app as usize] += 1;
                }
                assert_eq!(next, [5; APPS as usize]);
            }
        })
    });
    pod.run(futures_util::future::try_join_all(pulling)).expect("pulled");
}

#[test]
fn the_app_may_what_the_access_rules_let_its_pod_and_hears_who_may_not() {
    let mut servers = Servers::start(15, 1);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let pod = Pod::of(&servers, servers.identity_in("web", "stranger"));
    pod.run(async {
        let refused = pod.client(SOON).describe("shop/orders").await;
        let Err(ClientError::Refused(Refusal::NotAllowed { who, .. })) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(who, "spiffe://cluster.local/ns/web/sa/stranger");
        let (status, body) = pod.http("POST", "/v1/dnpipes/shop/orders/records", "x").await;
        assert_eq!((status, &body["code"]), (403, &"not-allowed".into()));
        assert!(body["error"].as_str().unwrap().contains(&who), "{body}");
        let freeze = sidestream_client::MoveRequest::Freeze { dnpipe: "shop/orders".parse().unwrap(), to: 1 };
        let refused = pod.client(SOON).move_step(freeze).await;
        assert!(matches!(refused, Err(ClientError::Refused(Refusal::NotAllowed { .. }))), "{refused:?}");
    });
}

#[test]
fn while_nobody_can_be_asked_the_app_is_told_to_try_again_and_then_goes_on() {
    let mut servers = Servers::start(16, 1);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    let pod = Pod::start(&[]);
    let stopping = Err(ClientError::Refused(Refusal::Stopping));
    assert_eq!(pod.asked(), stopping, "it has no certificate yet");
    let (status, body) = pod.run(pod.http_now("GET", "/v1/dnpipes/shop/orders", ""));
    assert_eq!((status, &body["code"]), (503, &"stopping".into()));
    pod.enrol(&servers, servers.identity("till"));
    pod.run(pod.client(SOON).describe("shop/orders")).expect("now there is somebody to ask");

    let address = servers.stop(0);
    assert_eq!(pod.asked(), stopping, "no server answers");
    assert!(pod.asked().unwrap_err().is_worth_retrying());
    let status = pod.run(async {
        loop {
            let (status, body) = pod.http_now("GET", "/v1/dnpipes/shop/orders", "").await;
            // A server that closes says so itself, or nothing at all.
            if body["code"] == "unreachable" {
                break status;
            }
            assert!(matches!(status, 502 | 503), "{status}: {body}");
        }
    });
    assert_eq!(status, 503);
    let app = pod.client(SOON);
    let pushing = pod.sockets().spawn(async move { push(&app, "shop/orders", 0..5).await });
    servers.open(0, &address);
    servers.settle(Servers::everything_at_first, 1, |_, _| {});
    pod.run(pushing).expect("its patience was enough");
    assert_eq!(pod.run(pod.http("GET", "/v1/dnpipes/shop/orders", "")).0, 200);
}

#[test]
fn a_dnpipe_is_found_in_whichever_of_its_pods_pools_it_is() {
    let mut heavy = Servers::start(17, 1);
    heavy.settle(Servers::everything_at_first, 1, |_, _| {});
    let mut default = heavy.beside(18, 1);
    default.tell_of_nothing();
    let pod = Pod::start(&["heavy"]);
    let (first, second, identity) = (default.address(0), heavy.address(0), heavy.identity("till"));
    pod.sidecar.world().use_pools(Arc::new(move |namespace, pool| {
        assert_eq!(namespace, "shop");
        Ok(peer(if pool == "heavy" { &second } else { &first }, &identity))
    }));
    pod.run(async {
        let (status, stored) = pod.http("POST", "/v1/dnpipes/shop/orders/records?partition=0", "0").await;
        assert_eq!(status, 200, "{stored}");
        let app = pod.client(SOON);
        push(&app, "shop/returns", 0..5).await;
        assert_eq!(pull(&app, "shop/orders").await, ["0"]);
        assert_eq!(pull(&app, "shop/returns").await, texts(0..5));
        let unknown = app.describe("shop/nothing").await;
        assert!(matches!(unknown, Err(ClientError::Refused(Refusal::UnknownDnpipe(_)))), "{unknown:?}");
        assert_eq!(pod.http("GET", "/v1/dnpipes/shop/nothing", "").await.0, 404);
    });
}

#[test]
fn the_members_of_an_app_that_hangs_up_leave_their_groups() {
    let (pod, listener) = Scripted::pod();
    pod.run(async {
        let (mut app, _) = Raw::open(&pod).await;
        let member = |name: &str| Member {
            dnpipe: "shop/orders".parse().unwrap(),
            group: "billing".into(),
            name: name.into(),
        };
        let join = |name: &str| Request::Join { member: member(name), auto_ack: false };
        for (number, name) in [(1, "stays"), (2, "leaves")] {
            app.ask(number, &join(name)).await;
        }
        let mut server = Scripted::accept(&listener).await;
        for (number, name) in [(1, "stays"), (2, "leaves")] {
            assert_eq!(server.asked().await, (number, join(name)));
            server.answer(number, &Answer::Joined { partitions: vec![0] }).await;
        }
        let leave = |name: &str| Request::Leave { member: member(name) };
        app.ask(3, &leave("leaves")).await;
        assert_eq!(server.asked().await, (3, leave("leaves")));
        server.answer(3, &Answer::Done).await;
        // That the server has answered is not that the app has heard it.
        app.answers(3).await;
        drop(app);
        let (number, asked) = server.asked().await;
        assert_eq!(asked, leave("stays"), "nobody else does it for it");
        server.answer(number, &Answer::Done).await;
        assert_eq!(server.stream.read(&mut [0; 16]).await.unwrap(), 0, "and then the line has ended");
    });
}

#[test]
fn who_hangs_up_before_it_hears_that_it_is_a_member_leaves_as_well() {
    let (pod, listener) = Scripted::pod();
    pod.run(async {
        let member =
            Member { dnpipe: "shop/orders".parse().unwrap(), group: "billing".into(), name: "till-1".into() };
        let (mut app, _) = Raw::open(&pod).await;
        let join = Request::JoinToHold { member: member.clone() };
        app.ask(1, &join).await;
        let mut server = Scripted::accept(&listener).await;
        assert_eq!(server.asked().await, (1, join));
        drop(app);
        assert_eq!(server.asked().await.1, Request::Leave { member });
    });
}

#[test]
fn a_member_with_a_name_goes_on_where_its_dnpipe_moves_and_its_server_is_replaced() {
    let mut servers = Servers::start(23, 2);
    servers.settle(Servers::everything_at_first, 2, |_, _| {});
    let pod = Pod::of(&servers, servers.identity("till"));
    let (app, name) = (pod.client(SOON), "shop/returns");
    let config = GroupConfig { member: Some("till-1".into()), ..GroupConfig::default() };
    let mut member = pod.run(app.join(name, "billing", config)).unwrap();
    let mut handled = |round: u32| {
        pod.run(async {
            push(&app, name, round * 10..(round + 1) * 10).await;
            // What was handed out before a move may come again.
            let mut missing: BTreeSet<String> = texts(round * 10..(round + 1) * 10).into_iter().collect();
            while !missing.is_empty() {
                let delivery = member.next().await.expect("it is a member again");
                missing.remove(std::str::from_utf8(&delivery.record.value).unwrap());
                member.ack(&delivery).await.expect("acknowledged");
            }
        });
    };
    handled(0);
    servers.settle(apart, 2, |_, _| {});
    handled(1);
    servers.restart(1);
    servers.settle(apart, 2, |_, _| {});
    handled(2);
}

fn describe() -> Request {
    Request::Describe { dnpipe: "shop/orders".parse().unwrap() }
}

#[test]
fn what_another_connection_hears_sends_nothing_past_what_is_not_answered() {
    let (pod, listener) = Scripted::pod();
    pod.run(async {
        let (mut first, _) = Raw::open(&pod).await;
        first.ask(1, &describe()).await;
        let mut server = Scripted::accept(&listener).await;
        assert_eq!(server.asked().await, (1, describe()));

        let (mut second, _) = Raw::open(&pod).await;
        second.ask(1, &describe()).await;
        let mut other = Scripted::accept(&listener).await;
        assert_eq!(other.asked().await, (1, describe()));
        other.answer(1, &Answer::Refused(Refusal::NotOwner { owner: Some("one:7420".into()) })).await;
        assert_eq!(second.answers(1).await, [(1, Answer::Refused(Refusal::NotOwner { owner: None }))]);

        first.ask(2, &describe()).await;
        tokio::select! {
            asked = server.asked() => assert_eq!(asked, (2, describe())),
            _ = Scripted::accept(&listener) => panic!("it went past the first"),
        }
        second.ask(2, &describe()).await;
        let mut owner = Scripted::accept(&listener).await;
        assert_eq!(owner.asked().await, (2, describe()), "who heard it goes there");
    });
}

#[test]
fn a_server_that_goes_away_ends_the_connection_where_what_is_lost_may_have_changed_something() {
    let (pod, listener) = Scripted::pod();
    let (stopping, busy) = (Answer::Refused(Refusal::Stopping), Answer::Refused(Refusal::Busy));
    let reset = Request::Reset { dnpipe: "shop/orders".parse().unwrap() };
    pod.run(async {
        let (mut app, _) = Raw::open(&pod).await;
        app.ask(1, &describe()).await;
        let mut server = Scripted::accept(&listener).await;
        assert_eq!(server.asked().await, (1, describe()));
        server.answer(1, &busy).await;
        assert_eq!(app.answers(1).await, [(1, busy)]);
        // Idle, and then amid what can be asked again, whether or not it was asked before anybody noticed.
        drop(server);
        let mut number = 2;
        let mut server = loop {
            app.ask(number, &describe()).await;
            tokio::select! {
                server = Scripted::accept(&listener) => break server,
                answers = app.answers(1) => assert_eq!(answers, [(number, stopping.clone())]),
            }
            number += 1;
        };
        assert_eq!(server.asked().await, (number, describe()));
        drop(server);
        assert_eq!(app.answers(1).await, [(number, stopping)]);
        app.ask(0, &reset).await;
        let mut server = Scripted::accept(&listener).await;
        assert_eq!(server.asked().await, (0, reset));
        drop(server);
        app.closed().await;
    });
}

#[test]
fn a_connection_with_a_member_ends_where_its_line_does_or_its_dnpipe_moves() {
    let (pod, listener) = Scripted::pod();
    let elsewhere = Answer::Refused(Refusal::NotOwner { owner: Some("one:7420".into()) });
    pod.run(async {
        for moves in [false, true] {
            let (mut app, _) = Raw::open(&pod).await;
            let member = Member {
                dnpipe: "shop/orders".parse().unwrap(),
                group: "billing".into(),
                name: "till-1".into(),
            };
            let join = Request::Join { member, auto_ack: false };
            app.ask(1, &join).await;
            let mut server = Scripted::accept(&listener).await;
            assert_eq!(server.asked().await, (1, join));
            server.answer(1, &Answer::Joined { partitions: vec![0] }).await;
            app.answers(1).await;
            if moves {
                app.ask(2, &describe()).await;
                assert_eq!(server.asked().await, (2, describe()));
                server.answer(2, &elsewhere).await;
            } else {
                drop(server);
            }
            app.closed().await;
        }
    });
}

#[test]
fn whoever_reaches_the_socket_may_use_it_and_the_next_process_takes_its_place() {
    let mut pod = Pod::start(&[]);
    let found = std::fs::symlink_metadata(pod.path()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o666, "containers run as users of their own");
    let next = AppSocket::open(pod.sidecar.world(), &pod.path(), "shop", &[]).unwrap();
    drop(pod.socket.replace(next));
    assert_eq!(
        pod.asked(),
        Err(ClientError::Refused(Refusal::Stopping)),
        "it is not the old one's to remove"
    );
    pod.socket = None;
    assert!(!pod.path().exists());
    // One that ended without a word.
    drop(std::os::unix::net::UnixListener::bind(pod.path()).unwrap());
    assert!(pod.path().exists());
    pod.socket = Some(AppSocket::open(pod.sidecar.world(), &pod.path(), "shop", &[]).unwrap());
    assert_eq!(pod.asked(), Err(ClientError::Refused(Refusal::Stopping)));
    assert_eq!(std::fs::read_dir(pod.volume.path()).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn a_socket_of_a_container_that_never_answers_keeps_nobody_from_opening_it() {
    let mut pod = Pod::start(&[]);
    pod.socket = None;
    let _squatter = pod.run(async {
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(pod.path()).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut waiting = Vec::new();
        // Until who connects has to wait.
        while let Ok(stream) = UnixStream::connect(pod.path()).await {
            waiting.push(stream);
        }
        (listener, waiting)
    });
    let ((opening, opened), world, path) = (mpsc::sync_channel(1), pod.sidecar.world().clone(), pod.path());
    std::thread::spawn(move || opening.send(AppSocket::open(&world, &path, "shop", &[])));
    pod.socket = Some(opened.recv_timeout(SOON).expect("it does not wait for it").unwrap());
    assert_eq!(pod.asked(), Err(ClientError::Refused(Refusal::Stopping)));
}
