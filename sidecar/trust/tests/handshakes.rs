//! Who believes whom: good peers meet, and every other is refused for its own reason before a payload passes.

mod world;

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::aws_lc_rs, sign::SingleCertAndKey};
use sidestream_trust::{Anchors, Authority, Callers, anonymous_client_config, reason as reason_of};
use world::{
    DAY,
    forged::{GOOD, Wrong},
    handshake, id, world,
};

#[test]
fn two_workloads_of_one_authority_meet_by_name() {
    let world = world();
    let (hub, app) = (world.identity("hub"), world.identity("app"));
    let met = handshake(
        hub.server_config(Callers::Proved, &[b"a"]).unwrap(),
        app.client_config(&id("hub"), &[b"a"]).unwrap(),
    )
    .unwrap();
    assert_eq!((met.server_id, met.client_id), (id("hub"), Some(id("app"))));
}

#[test]
fn a_nameless_caller_is_let_in_only_where_the_server_says_so() {
    let world = world();
    let hub = world.identity("hub");
    let nameless =
        || anonymous_client_config(&world.authority.anchors(), &id("hub"), &[], &world.clock).unwrap();
    let met = handshake(hub.server_config(Callers::ProvedOrNameless, &[]).unwrap(), nameless()).unwrap();
    assert_eq!(met.client_id, None);
    let (side, error) = handshake(hub.server_config(Callers::Proved, &[]).unwrap(), nameless()).unwrap_err();
    assert_eq!((side, error), ("server", rustls::Error::NoCertificatesPresented));
}

#[test]
fn every_bad_caller_is_refused_by_the_server_for_its_own_reason() {
    let world = world();
    let server = world.identity("hub").server_config(Callers::Proved, &[]).unwrap();
    let lax = world.identity("hub").server_config(Callers::ProvedOrNameless, &[]).unwrap();
    for Wrong { case, forged, of_client, .. } in world.forge().all() {
        for server in [&server, &lax] {
            let met = handshake(server.clone(), forged.client(&[]));
            if of_client == GOOD {
                assert_eq!(met.expect(case).client_id, Some(id("app")));
                continue;
            }
            let (side, error) = met.expect_err(case);
            assert_eq!(side, "server", "{case}: {error}");
            let said = reason_of(&error);
            assert!(said.contains(of_client), "{case}: {said}");
        }
    }
    // The same forge makes good leaves too, or the cases above would prove nothing.
    for good in [world.forge().leaf(|_| {}), world.forge().below(|_| {})] {
        handshake(server.clone(), good.client(&[])).unwrap();
    }
}

#[test]
fn every_bad_server_is_refused_by_the_client_for_its_own_reason() {
    let world = world();
    let client = world.identity("hub").client_config(&id("app"), &[]).unwrap();
    for Wrong { case, forged, of_server, .. } in world.forge().all() {
        let met = handshake(forged.server(&[]), client.clone());
        if of_server == GOOD {
            assert_eq!(met.expect(case).server_id, id("app"));
            continue;
        }
        let (side, error) = met.expect_err(case);
        assert_eq!(side, "client", "{case}: {error}");
        let said = reason_of(&error);
        assert!(said.contains(of_server), "{case}: {said}");
    }
    for good in [world.forge().leaf(|_| {}), world.forge().below(|_| {})] {
        handshake(good.server(&[]), client.clone()).unwrap();
    }
}

#[test]
fn a_server_must_be_the_one_expected_and_no_other_of_the_same_authority() {
    let world = world();
    let server = world.identity("other").server_config(Callers::Proved, &[]).unwrap();
    let client = world.identity("app").client_config(&id("hub"), &[]).unwrap();
    let (side, error) = handshake(server, client).unwrap_err();
    assert_eq!(side, "client");
    assert!(reason_of(&error).contains("/sa/other`, and"), "{error}");
}

#[test]
fn tls_1_2_is_refused_by_both_ends() {
    let world = world();
    let server = world.identity("hub").server_config(Callers::Proved, &[]).unwrap();
    let forged = world.forge().leaf(|_| {});
    let shown = Arc::new(SingleCertAndKey::from(forged.certified()));
    let old_client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_client_cert_resolver(shown.clone());
    let (side, error) = handshake(server, Arc::new(old_client)).unwrap_err();
    assert_eq!(side, "server");
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error:?}");
    let old_server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(shown);
    let client = world.identity("hub").client_config(&id("app"), &[]).unwrap();
    let (_, error) = handshake(Arc::new(old_server), client).unwrap_err();
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error:?}");
}

#[test]
fn a_leaf_is_good_until_it_ends_and_a_renewed_one_is_good_again() {
    let world = world();
    let (hub, app) = (world.identity("hub"), world.identity("app"));
    let meet = || {
        let server = hub.server_config(Callers::Proved, &[]).unwrap();
        handshake(server, app.client_config(&id("hub"), &[]).unwrap())
    };
    world.hand.advance(DAY - Duration::from_secs(1));
    meet().unwrap();
    world.hand.advance(Duration::from_secs(2));
    let (_, error) = meet().unwrap_err();
    assert!(format!("{error:?}").contains("Expired"), "{error:?}");
    for (identity, name) in [(&hub, "hub"), (&app, "app")] {
        identity.replace(world.authority.credentials(&id(name), &[], DAY).unwrap());
    }
    meet().unwrap();
}

#[test]
fn a_root_is_rotated_in_three_steps_and_peers_meet_at_each() {
    let world = world();
    let next = Authority::create("cluster.local", &world.clock).unwrap();
    let (hub, app) = (world.identity("hub"), world.identity("app"));
    let meet = || {
        let server = hub.server_config(Callers::Proved, &[]).unwrap();
        handshake(server, app.client_config(&id("hub"), &[]).unwrap())
    };
    let both = Anchors::new([world.authority.anchor().clone(), next.anchor().clone()]).unwrap();
    // Distribute: one after the other believes both.
    hub.believe(both.clone());
    meet().unwrap();
    app.believe(both.clone());
    meet().unwrap();
    // Issue: leaves come from the new root, one after the other.
    let renew = |name| {
        let request = sidestream_trust::Request::new().unwrap();
        let chain = next.issue(request.der(), &id(name), &[], DAY).unwrap();
        request.complete(chain, both.clone()).unwrap()
    };
    hub.replace(renew("hub"));
    meet().unwrap();
    app.replace(renew("app"));
    meet().unwrap();
    // Retire: one after the other forgets the old root.
    hub.believe(next.anchors());
    meet().unwrap();
    app.believe(next.anchors());
    meet().unwrap();
    // Who kept only the old root is alone now.
    let late = world.identity("late");
    let server = hub.server_config(Callers::Proved, &[]).unwrap();
    assert!(handshake(server, late.client_config(&id("hub"), &[]).unwrap()).is_err());
}
