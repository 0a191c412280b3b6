//! The operator dies before and after every write of a rotation, and the next one completes it.

mod world;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use sidestream_host::Clock;
use sidestream_operator::{
    control::Fleet,
    controllers::{Rotation, Sources},
    observed::Observed,
    trust::{CA_SECRET, Phase, ROTATE, ROTATED, Roots, load_or_create},
    user_pods::UserPods,
};
use tokio::sync::watch;
use world::{Death, Server};

const PATH: &str = "/api/v1/namespaces/shop/secrets/sidestream-ca";

/// What an operator that has just begun knows: what the Secret says.
async fn read(server: &Server) -> Roots {
    load_or_create(&server.client(), "shop", "cluster.local", &Clock::machine()).await.unwrap()
}

/// An operator without sidecars, so that every step may be taken at once.
fn rotation(server: &Server, known: Roots) -> (Rotation, watch::Receiver<Arc<Roots>>) {
    let (roots, told) = watch::channel(Arc::new(known));
    let sources = Sources::new(Fleet::default(), Observed::default(), UserPods::default());
    (Rotation::new(server.client(), "shop", roots, sources, Duration::ZERO, Clock::machine()), told)
}

/// Roots of which somebody asks for new ones.
async fn asked() -> (Server, Roots) {
    let server = Server::default();
    let old = read(&server).await;
    let mut secret = server.get(PATH).unwrap();
    secret["metadata"]["annotations"][ROTATE] = json!("now");
    server.put(PATH, secret);
    server.revive(None);
    (server, old)
}

/// Steps until there is none left, and says which they were.
async fn complete(server: &Server) -> Vec<Phase> {
    let (mut rotation, mut told) = rotation(server, read(server).await);
    let mut phases = Vec::new();
    loop {
        let issues = told.borrow_and_update().issuer.anchor().clone();
        let Some(phase) = rotation.turn().await.unwrap() else { return phases };
        phases.push(phase);
        let anchors = read(server).await.anchors;
        assert!(
            anchors.certificates().contains(&issues) || phase == Phase::Stable,
            "{phase:?}: what was issued a moment ago is trusted no more"
        );
    }
}

#[tokio::test]
async fn a_rotation_whose_operator_dies_at_any_write_is_completed_by_the_next() {
    let (server, _) = asked().await;
    assert_eq!(complete(&server).await, [Phase::Distribute, Phase::Issue, Phase::Stable]);
    let writes = server.writes().len();
    assert_eq!(writes, 3);
    let mut points = 0;
    for at in 0..writes {
        for death in [Death::Before, Death::After] {
            let (server, old) = asked().await;
            server.revive(Some((at, death)));
            let (mut dying, _told) = rotation(&server, read(&server).await);
            while dying.turn().await.is_ok() {}
            server.revive(None);
            complete(&server).await;
            let end = read(&server).await;
            assert_eq!((end.phase(), end.generation), (Phase::Stable, old.generation + 2), "{at} {death:?}");
            assert_ne!(end.issuer_number(), old.issuer_number(), "{at} {death:?}");
            assert!(end.anchors.certificates().contains(end.issuer.anchor()), "{at} {death:?}");
            let secret = server.get(PATH).unwrap();
            assert_eq!(secret["metadata"]["annotations"][ROTATED], "now", "{at} {death:?}");
            assert!(secret["data"].get("next.key").is_none(), "{at} {death:?}: a key is left");
            assert!(complete(&server).await.is_empty(), "{at} {death:?}: it goes on for ever");
            points += 1;
        }
    }
    println!("{points} deaths");
}

#[tokio::test]
async fn an_operator_that_knows_less_than_the_secret_says_writes_nothing() {
    let (server, _) = asked().await;
    for steps in 1..=3 {
        let (mut late, _told) = rotation(&server, read(&server).await);
        let (mut other, _told) = rotation(&server, read(&server).await);
        assert!(other.turn().await.unwrap().is_some(), "step {steps}");
        let written = server.get(PATH);
        assert!(late.turn().await.is_err(), "step {steps}");
        assert_eq!(server.get(PATH), written, "step {steps}");
    }
    assert_eq!(read(&server).await.phase(), Phase::Stable);
    assert!(PATH.ends_with(CA_SECRET));
}
