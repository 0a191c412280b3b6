//! The same dnpipes by HTTP, as `curl` would ask.

mod world;

use std::time::Duration;

use serde_json::{Value, json};
use sidestream_broker::{
    DnpipeSpec,
    access::{Rule, Verbs},
};
use sidestream_client::{From, ProducerConfig, ReaderConfig, Record};
use sidestream_event::{
    native::Conditions,
    record::{BatchWriter, Header, RECORD_BYTES_MAX},
};
use sidestream_gateway::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};
use world::{World, world};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn ask(world: &World, method: &str, path: &str, heads: &str, body: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{heads}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that has refused does not read the rest.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    // Where something was not read the end comes as a reset, behind the answer.
    let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer { status: head[9..12].parse().unwrap(), body: body.to_owned() }
}

async fn get(world: &World, path: &str) -> Answer {
    ask(world, "GET", path, "", b"").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_by_http_is_pulled_by_it_and_by_the_native_protocol() {
    let world = world(Limits::default()).await;
    let stored = ask(
        &world,
        "POST",
        "/v1/dnpipes/shop/notes/records?key=k",
        "sidestream-header-source: till-3\r\n",
        b"hello",
    )
    .await;
    assert_eq!((stored.status, stored.json()), (200, json!({"partition": 0, "offset": 0, "epoch": 0})));
    ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", &[0xff, 0]).await;
    let pulled = get(&world, "/v1/dnpipes/shop/notes/records").await.json();
    assert_eq!((&pulled["next"], &pulled["first"], &pulled["end"]), (&json!(2), &json!(0), &json!(2)));
    let first = &pulled["records"][0];
    assert_eq!(
        (&first["value"], &first["key"], &first["headers"]),
        (&json!("hello"), &json!("k"), &json!({"source": "till-3"}))
    );
    assert!(first["time"].as_i64().unwrap() > 1_600_000_000_000_000_000);
    assert_eq!(pulled["records"][1]["base64"], "/wA=");
    let last = get(&world, "/v1/dnpipes/shop/notes/records?from=last:1&max=1").await.json();
    assert_eq!(last["records"].as_array().unwrap().len(), 1);
    assert_eq!(last["records"][0]["offset"], 1);
    let mut reader =
        world.local().reader("shop/notes", From::First(0), ReaderConfig::default()).await.unwrap();
    let record = reader.next().await.unwrap().unwrap();
    assert_eq!((&record.value[..], record.key.as_deref()), (&b"hello"[..], Some(&b"k"[..])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_headers_that_are_no_text_come_as_they_are() {
    let world = world(Limits::default()).await;
    let producer = world.local().producer("shop/notes", ProducerConfig::default()).await.unwrap();
    let record = Record::new("hello").key(&[0xff, 0][..]).header("trace", &[0xfe][..]).header("by", "till");
    let _ = producer.push(record).await.unwrap().await.unwrap();
    let pulled = get(&world, "/v1/dnpipes/shop/notes/records").await.json();
    let mut record = pulled["records"][0].clone();
    record.as_object_mut().unwrap().remove("time");
    let expected = json!({
        "offset": 0, "keyBase64": "/wA=", "headers": {"by": "till"}, "headersBase64": {"trace": "/g=="}, "value": "hello"
    });
    assert_eq!(record, expected);
    let described = get(&world, "/v1/openapi.json").await.json();
    let fields = &described["components"]["schemas"]["Record"]["properties"];
    assert!(fields["keyBase64"].is_object() && fields["headersBase64"].is_object(), "{fields}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_told_so_whatever_of_it_is() {
    let world = world(Limits::default()).await;
    let key = "k".repeat(4000);
    let path = "/v1/dnpipes/shop/notes/records";
    let keyed = format!("{path}?key={key}");
    let header = format!("sidestream-header-note: {key}\r\n");
    let (most, less) = (vec![b'x'; RECORD_BYTES_MAX], vec![b'x'; RECORD_BYTES_MAX - 2000]);
    for (path, heads, body) in [(path, "", &most), (&*keyed, "", &less), (path, &*header, &less)] {
        let answer = ask(&world, "POST", path, heads, body).await;
        let said = answer.json();
        assert_eq!((answer.status, &said["code"]), (413, &json!("too-large")), "{said}");
        let error = said["error"].as_str().unwrap();
        assert!(error.contains("push less at a time") && !error.contains("client"), "{error}");
    }
    assert_eq!(ask(&world, "POST", path, "", &less).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_compressed_is_pulled_by_http_and_by_the_native_protocol() {
    let world = world(Limits::default()).await;
    let config = ProducerConfig { is_compressed: true, ..ProducerConfig::default() };
    let producer = world.local().producer("shop/notes", config).await.unwrap();
    let value = "much of the same, ".repeat(1000);
    assert_eq!(producer.push(Record::new(value.clone())).await.unwrap().await.unwrap().offset, 0);
    let pulled = get(&world, "/v1/dnpipes/shop/notes/records").await.json();
    assert_eq!(pulled["records"][0]["value"], json!(value));
    let mut reader =
        world.local().reader("shop/notes", From::First(0), ReaderConfig::default()).await.unwrap();
    assert_eq!(&reader.next().await.unwrap().unwrap().value[..], value.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_is_listed_described_and_reset() {
    let world = world(Limits::default()).await;
    ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", b"x").await;
    let listed = get(&world, "/v1/dnpipes").await.json();
    assert_eq!((&listed[0]["name"], &listed[1]["name"]), (&json!("notes"), &json!("orders")));
    let notes = get(&world, "/v1/dnpipes/shop/notes").await.json();
    assert_eq!(
        (&notes["durability"], &notes["partitions"]),
        (&json!("Device"), &json!([{"first": 0, "end": 1}]))
    );
    assert_eq!(
        ask(&world, "POST", "/v1/dnpipes/shop/notes/reset", "", b"").await.json(),
        json!({"epoch": 1})
    );
    assert_eq!(get(&world, "/v1/dnpipes/shop/notes/records").await.json()["records"], json!([]));
    let wrong = ask(&world, "POST", "/v1/dnpipes/shop/notes/records?ifEpoch=0", "", b"x").await;
    assert_eq!((wrong.status, &wrong.json()["code"]), (409, &json!("wrong-epoch")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_has_a_status_a_code_and_a_cure() {
    let world = world(Limits::default()).await;
    let cases = [
        ("GET", "/v1/dnpipes/shop/none", 404, "unknown-dnpipe"),
        ("GET", "/v1/dnpipes/shop/No_Name", 400, "bad-request"),
        ("GET", "/v1/dnpipes/shop/notes/records?from=7", 416, "out-of-range"),
        ("GET", "/v1/dnpipes/shop/notes/records?from=x", 400, "bad-request"),
        ("GET", "/v1/dnpipes/shop/notes/records?partition=9", 404, "unknown-partition"),
        ("POST", "/v1/dnpipes/shop/none/records", 404, "unknown-dnpipe"),
        ("GET", "/else", 404, "unknown-path"),
    ];
    for (method, path, status, code) in cases {
        let answer = ask(&world, method, path, "", b"x").await;
        assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{path}");
        assert!(answer.json()["error"].as_str().unwrap().contains(';'), "{path}");
    }
    assert_eq!(ask(&world, "POST", "/v1/dnpipes/shop/notes/records?kex=1", "", b"x").await.status, 400);
    assert_eq!(ask(&world, "DELETE", "/v1/dnpipes/shop/notes", "", b"").await.status, 405);
    let large = ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", &vec![b'x'; 2 << 20]).await;
    assert_eq!(large.status, 413);
    let quota = DnpipeSpec { quota_bytes: Some(1000), ..DnpipeSpec::new("shop/small".parse().unwrap()) };
    world.apply(quota).await;
    let full = ask(&world, "POST", "/v1/dnpipes/shop/small/records", "", &[b'x'; 2000]).await;
    assert_eq!((full.status, &full.json()["code"]), (507, &json!("full")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_gets_events_and_goes_on_where_it_was() {
    let world = world(Limits::default()).await;
    for value in ["a", "b"] {
        ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", value.as_bytes()).await;
    }
    let follow = async |heads: &str| {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        let head = format!("GET /v1/dnpipes/shop/notes/events HTTP/1.1\r\nhost: x\r\n{heads}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let until = async |stream: &mut UnixStream, wanted: &str| {
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while !text.contains(wanted) {
            let count = timeout(LONG, stream.read(&mut bytes)).await.unwrap().unwrap();
            assert!(count > 0, "it was closed after {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        text
    };
    let mut first = follow("").await;
    let text = until(&mut first, "\"value\":\"b\"").await;
    assert!(text.contains("text/event-stream") && text.contains("id: 0") && text.contains("id: 1"), "{text}");
    ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", b"c").await;
    until(&mut first, "\"value\":\"c\"").await;
    let mut again = follow("last-event-id: 1\r\n").await;
    let text = until(&mut again, "\"value\":\"c\"").await;
    assert!(!text.contains("\"value\":\"b\""), "{text}");
    ask(&world, "POST", "/v1/dnpipes/shop/notes/reset", "", b"").await;
    ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", b"d").await;
    let text = until(&mut first, "\"value\":\"d\"").await;
    assert!(text.contains("event: reset\ndata: 1"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_names_every_path_and_is_openapi() {
    let world = world(Limits::default()).await;
    let described = get(&world, "/v1/openapi.json").await.json();
    assert!(described["openapi"].as_str().unwrap().starts_with("3."));
    let paths: Vec<_> = described["paths"].as_object().unwrap().keys().cloned().collect();
    let own = "/v1/dnpipes/{namespace}/{name}";
    let mut expected = vec![
        "/v1/dnpipes".to_owned(),
        own.into(),
        format!("{own}/events"),
        format!("{own}/records"),
        format!("{own}/reset"),
    ];
    expected.sort();
    assert_eq!(paths, expected);
    assert!(described["paths"][format!("{own}/records")]["post"]["responses"]["507"].is_object());
    let described = get(&world, "/v1/dnpipes.proto").await;
    assert!(described.body.contains("service Dnpipes {"), "{}", described.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_http_over_tls_a_caller_may_what_its_name_may() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let push_only = Verbs { push: true, ..Verbs::NONE };
    let rule = Rule { verbs: push_only, namespace: Some("web".into()), service_account: None };
    world.permit("shop/notes", vec![rule]).await;
    let ask = async |method: &str, path: &str| {
        let identity = world.identity("web", "front");
        let config = identity.client_config(&World::id("shop", "dnpipes"), &[b"http/1.1"]).unwrap();
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let mut stream = connector.connect(sidestream_trust::server_name(), tcp).await.unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Some ends do not say goodbye.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let pushed = ask("POST", "/v1/dnpipes/shop/notes/records").await;
    assert!(pushed.starts_with("HTTP/1.1 200"), "{pushed}");
    for path in ["/v1/dnpipes/shop/notes/records", "/v1/dnpipes/shop/notes/events"] {
        let refused = ask("GET", path).await;
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("ns/web/sa/front"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_and_a_follower_that_does_not_read_are_ended() {
    let limits = Limits {
        frame: Duration::from_millis(200),
        silence: Duration::from_millis(300),
        connections_max: 2,
        ..Limits::default()
    };
    let world = world(limits).await;
    let mut slow = UnixStream::connect(world.socket()).await.unwrap();
    slow.write_all(b"GET /v1/dnpipes HTTP/1.1\r\nhost").await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, slow.read_to_end(&mut rest)).await.unwrap().unwrap();
    for _ in 0..10 {
        let mut writer = BatchWriter::new();
        for _ in 0..4 {
            writer.push(0, None, &[] as &[(&str, &str)], &[b'x'; 500_000]).unwrap();
        }
        let batch = writer.finish(Header::default()).unwrap();
        let name = "shop/notes".parse().unwrap();
        world.broker.push(&name, 0, batch, Conditions::default()).unwrap().await.unwrap();
    }
    let mut deaf = UnixStream::connect(world.socket()).await.unwrap();
    deaf.write_all(b"GET /v1/dnpipes/shop/notes/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // It is let in, and then takes nothing more.
    let mut begun = [0; 12];
    timeout(LONG, deaf.read_exact(&mut begun)).await.unwrap().unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let ended = async {
        while world.gateway.connections() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, ended).await.expect("it gives its place back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_whole_in_time_gives_its_connection_back() {
    let world = world(Limits { frame: Duration::from_millis(200), ..Limits::default() }).await;
    let mut slow = UnixStream::connect(world.socket()).await.unwrap();
    slow.write_all(b"POST /v1/dnpipes/shop/notes/records HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab")
        .await
        .unwrap();
    let mut rest = Vec::new();
    timeout(LONG, slow.read_to_end(&mut rest)).await.unwrap().unwrap();
    let answer = String::from_utf8(rest).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("too-slow"), "{answer}");
    assert!(
        get(&world, "/v1/dnpipes/shop/notes/records").await.json()["records"].as_array().unwrap().is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_take_room_among_the_large_frames() {
    let world = world(Limits { frame: LONG, frames_kib_max: 1500, ..Limits::default() }).await;
    let mut first = UnixStream::connect(world.socket()).await.unwrap();
    let head = b"POST /v1/dnpipes/shop/notes/records HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    first.write_all(head).await.unwrap();
    let world = std::sync::Arc::new(world);
    // Until the first has its room the others have theirs.
    let waiting = loop {
        let own = world.clone();
        let mut second = tokio::spawn(async move {
            ask(&own, "POST", "/v1/dnpipes/shop/notes/records", "", &[b'x'; 900_000]).await.status
        });
        match timeout(Duration::from_secs(1), &mut second).await {
            Ok(status) => assert_eq!(status.unwrap(), 200),
            Err(_) => break second,
        }
    };
    first.write_all(&vec![b'x'; 1_000_000]).await.unwrap();
    let mut told = [0; 12];
    timeout(LONG, first.read_exact(&mut told)).await.unwrap().unwrap();
    assert_eq!((&told[..], waiting.await.unwrap()), (&b"HTTP/1.1 200"[..], 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_answer_has_ten_thousand_records_at_most_and_tells_where_to_go_on() {
    let world = world(Limits::default()).await;
    let producer =
        world.local().producer("shop/notes", sidestream_client::ProducerConfig::default()).await.unwrap();
    for _ in 0..12_000 {
        drop(producer.push(sidestream_client::Record::new("x")).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut found = Vec::new();
    let mut next = 0;
    while next < 12_000 {
        let path = format!("/v1/dnpipes/shop/notes/records?max=4000000000&from={next}");
        let pulled = get(&world, &path).await.json();
        let records = pulled["records"].as_array().unwrap();
        assert!((1..=10_000).contains(&records.len()), "{}", records.len());
        found.extend(records.iter().map(|record| record["offset"].as_u64().unwrap()));
        next = pulled["next"].as_u64().unwrap();
    }
    assert!(found.into_iter().eq(0..12_000));
    let few = get(&world, "/v1/dnpipes/shop/notes/records?max=7").await.json();
    assert_eq!((few["records"].as_array().unwrap().len(), &few["next"]), (7, &json!(7)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_push_is_told_so_before_its_body_is_read() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let rule = Rule { verbs: Verbs { pull: true, ..Verbs::NONE }, namespace: None, service_account: None };
    world.permit("shop/notes", vec![rule]).await;
    let config =
        world.identity("web", "front").client_config(&World::id("shop", "dnpipes"), &[b"http/1.1"]).unwrap();
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let mut stream = connector.connect(sidestream_trust::server_name(), tcp).await.unwrap();
    let head = b"POST /v1/dnpipes/shop/notes/records HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut told = [0; 12];
    timeout(LONG, stream.read_exact(&mut told)).await.unwrap().unwrap();
    assert_eq!(&told, b"HTTP/1.1 403");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_behind_a_reset_is_told_so_and_goes_on() {
    let world = world(Limits::default()).await;
    for value in ["a", "b", "c"] {
        ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", value.as_bytes()).await;
    }
    ask(&world, "POST", "/v1/dnpipes/shop/notes/reset", "", b"").await;
    ask(&world, "POST", "/v1/dnpipes/shop/notes/records", "", b"after").await;
    let follow = async |last: u64, wanted: &str| {
        let mut stream = UnixStream::connect(world.socket()).await.unwrap();
        let head =
            format!("GET /v1/dnpipes/shop/notes/events HTTP/1.1\r\nhost: x\r\nlast-event-id: {last}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut text, mut bytes) = (String::new(), [0; 4096]);
        while !text.contains(wanted) {
            let count = timeout(LONG, stream.read(&mut bytes)).await.unwrap().unwrap();
            assert!(count > 0, "it was closed after {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        text
    };
    let text = follow(0, "\"value\":\"after\"").await;
    assert!(text.contains("event: reset\ndata: 1"), "{text}");
    follow(u64::MAX, "out-of-range").await;
}
