//! The `webhook` sink.

use std::{collections::BTreeMap, time::Duration};

use sidestream_connector::{AsyncSink, Secrets, build};
use sidestream_event::Value;
use sidestream_plan::{
    SecretKey, SecretRef, Sink,
    stage::{Webhook, WebhookMethod},
};

use crate::{
    peer::{Act, Peer, header},
    world::{batch, env, refused, retried, sink},
};

fn webhook(url: String) -> Webhook {
    Webhook { url, method: None, headers: None, credentials: None, batch_size: None, timeout: None }
}

fn to(peer: &Peer) -> Box<dyn AsyncSink> {
    sink(Sink::Webhook(webhook(peer.url("/hook"))))
}

fn numbers(count: i64) -> sidestream_event::Batch {
    batch((0..count).map(Value::from))
}

fn wrong(stage: Webhook) -> String {
    match build::sink(&Sink::Webhook(stage), &env(Secrets::default())) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was built"),
    }
}

#[tokio::test]
async fn a_batch_is_one_request_with_a_json_array_of_bodies() {
    let peer = Peer::new([Act::Answer(204, "")]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("hook")).unwrap();
    std::fs::write(folder.path().join("hook/token"), "s3cret\n").unwrap();
    let stage = Webhook {
        method: Some(WebhookMethod::PUT),
        headers: Some(BTreeMap::from([("X-Team".into(), "shop".into())])),
        credentials: Some(SecretRef { secret_ref: SecretKey { name: "hook".into(), key: "token".into() } }),
        ..webhook(peer.url("/hook?q=1"))
    };
    let Ok(sidestream_connector::Sink::Async(mut sink)) =
        build::sink(&Sink::Webhook(stage), &env(Secrets::at(folder.path())))
    else {
        panic!("an async sink");
    };
    sink.deliver(&batch([Value::from("a\"b"), [("n", 1)].into_iter().collect()])).await.unwrap();
    let asked = &peer.asked()[0];
    assert!(asked.head.starts_with("PUT /hook?q=1 HTTP/1.1"), "{}", asked.head);
    assert_eq!(asked.body, r#"["a\"b",{"n":1}]"#);
    assert_eq!(header(&asked.head, "authorization"), Some("Bearer s3cret"));
    assert_eq!(header(&asked.head, "x-team"), Some("shop"));
    assert_eq!(header(&asked.head, "content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_retry_does_not_send_the_delivered_part_again() {
    let peer = Peer::new([Act::Answer(200, "ok"), Act::Answer(503, "later"), Act::Answer(200, "ok")]).await;
    let mut sink = sink(Sink::Webhook(Webhook { batch_size: Some(2), ..webhook(peer.url("/")) }));
    let batch = numbers(5);
    let (reason, _) = retried(sink.deliver(&batch).await);
    assert!(reason.contains("503 Service Unavailable: later"), "{reason}");
    sink.deliver(&batch).await.unwrap();
    assert_eq!(peer.bodies(), ["[0,1]", "[2,3]", "[2,3]", "[4]"]);
}

#[tokio::test]
async fn a_batch_that_comes_instead_of_the_failed_one_is_sent_whole() {
    let script = [Act::Answer(200, ""), Act::Answer(500, ""), Act::Answer(200, ""), Act::Answer(500, "")];
    let peer = Peer::new(script.into_iter().chain([Act::Answer(200, "")])).await;
    let mut sink = sink(Sink::Webhook(Webhook { batch_size: Some(1), ..webhook(peer.url("/")) }));
    retried(sink.deliver(&numbers(2)).await);
    let other = batch([Value::from(7), Value::from(8)]);
    retried(sink.deliver(&other).await);
    sink.give_up();
    sink.deliver(&other).await.unwrap();
    assert_eq!(peer.bodies(), ["[0]", "[1]", "[7]", "[8]", "[7]", "[8]"]);
}

#[tokio::test]
async fn a_refused_request_refuses_its_events_and_no_others_even_across_a_retry() {
    let script = [Act::Answer(422, "no\nsuch\tthing"), Act::Answer(503, ""), Act::Answer(200, "")];
    let peer = Peer::new(script).await;
    let mut sink = sink(Sink::Webhook(Webhook { batch_size: Some(2), ..webhook(peer.url("/hook")) }));
    let batch = numbers(4);
    retried(sink.deliver(&batch).await);
    let refused = refused(sink.deliver(&batch).await);
    assert_eq!(refused.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
    assert!(
        refused[0].1.ends_with("/hook answered 422 Unprocessable Entity: no such thing"),
        "{}",
        refused[0].1
    );
    assert_eq!(peer.asked().len(), 3);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_the_peers_wish_is_honoured() {
    for status in [408, 429, 500, 503] {
        let peer = Peer::new([Act::With(status, "retry-after: 7\r\n", "")]).await;
        let (_, after) = retried(to(&peer).deliver(&numbers(1)).await);
        assert_eq!(after, Some(Duration::from_secs(7)), "{status}");
    }
    let date = Act::With(503, "retry-after: Fri, 31 Dec 2100 23:59:59 GMT\r\n", "");
    let (_, after) = retried(to(&Peer::new([date]).await).deliver(&numbers(1)).await);
    assert_eq!(after, Some(Duration::from_secs(3600)), "a wish of years is cut to an hour");
    let past = Act::With(503, "retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n", "");
    assert_eq!(retried(to(&Peer::new([past]).await).deliver(&numbers(1)).await).1, Some(Duration::ZERO));
    let garbage = Act::With(503, "retry-after: soon\r\n", "");
    assert_eq!(retried(to(&Peer::new([garbage]).await).deliver(&numbers(1)).await).1, None);
}

#[tokio::test]
async fn redirects_and_refusals_name_the_cure() {
    let said = async |act| refused(to(&Peer::new([act]).await).deliver(&numbers(1)).await).remove(0).1;
    let moved = said(Act::With(301, "location: https://elsewhere/hook\r\n", "")).await;
    assert!(moved.contains("redirects are not followed: write https://elsewhere/hook as `url`"), "{moved}");
    assert!(said(Act::Answer(401, "")).await.ends_with("check `credentials`"));
    assert!(said(Act::Answer(404, "")).await.ends_with("check the path of `url`"));
}

#[tokio::test]
async fn a_misbehaving_peer_is_tried_again_with_a_reason_that_names_it() {
    let retried = async |act| {
        let peer = Peer::new([act]).await;
        let (reason, after) = retried(to(&peer).deliver(&numbers(1)).await);
        assert!(reason.contains(&peer.url("/hook")), "{reason}");
        assert_eq!(after, None);
        reason
    };
    assert!(retried(Act::Reset).await.contains("broke off"));
    assert!(retried(Act::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())).await.contains("broke off"));
    assert!(retried(Act::Raw(Vec::new())).await.contains("broke off"));
    assert!(retried(Act::Endless("HTTP/1.1 200 OK\r\nx: ", vec![b'x'; 1 << 16])).await.contains("broke off"));
    assert!(
        retried(Act::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec()))
            .await
            .contains("broke off")
    );
}

#[tokio::test]
async fn a_silent_peer_is_left_after_the_time_limit() {
    let peer = Peer::new([Act::Silence]).await;
    let half_second = Some(sidestream_plan::Duration::from_millis(500));
    let mut sink = sink(Sink::Webhook(Webhook { timeout: half_second, ..webhook(peer.url("/hook")) }));
    let (reason, _) = retried(sink.deliver(&numbers(1)).await);
    assert!(reason.contains("/hook did not answer within 500ms"), "{reason}");
}

#[tokio::test]
async fn a_good_status_is_a_delivery_whatever_the_answers_body_does() {
    let endless = Act::Endless("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 1 << 16]);
    let cut_off = Act::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec());
    let long_refusal = Act::Endless("HTTP/1.1 400 No\r\n\r\n", vec![b'x'; 1 << 16]);
    let peer = Peer::new([endless, cut_off, long_refusal]).await;
    let mut sink = to(&peer);
    sink.deliver(&numbers(1)).await.unwrap();
    sink.deliver(&numbers(1)).await.unwrap();
    let reason = refused(sink.deliver(&numbers(1)).await).remove(0).1;
    assert!(reason.len() < 400, "what the peer says is cut: {reason}");
}

#[tokio::test]
async fn nobody_listening_is_said_with_its_cure() {
    let peer = Peer::new([Act::Answer(200, "")]).await;
    let mut sink = to(&peer);
    drop(peer);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (reason, _) = retried(sink.deliver(&numbers(1)).await);
    assert!(reason.contains("connection refused; is it running, and is the port right?"), "{reason}");
}

#[tokio::test]
async fn a_stage_that_cannot_work_is_refused_with_the_field_and_the_cure() {
    let with = |name: &str, value: &str| Webhook {
        headers: Some(BTreeMap::from([(name.to_owned(), value.to_owned())])),
        ..webhook("http://127.0.0.1:1/".into())
    };
    assert!(
        wrong(webhook("ftp://host/".into())).starts_with("`url`: `ftp://host/` is no URL of a web server")
    );
    assert!(wrong(webhook("http://user:word@host/".into())).contains("put a token into `credentials`"));
    assert!(wrong(webhook("http://ho st/".into())).starts_with("`url`"));
    assert!(wrong(with("Content-Length", "3")).starts_with("`headers`"));
    assert!(wrong(with("na me", "3")).contains("no name of a header"));
    assert!(wrong(with("x", "a\nb")).contains("the value of `x`"));
    let zero =
        Webhook { timeout: Some(sidestream_plan::Duration::from_secs(0)), ..webhook("http://h/".into()) };
    assert!(wrong(zero).starts_with("`timeout`"));
}
