//! What an authority gives out, and what it refuses to.

mod world;

use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use sidestream_host::Random;
use sidestream_trust::{Anchors, Authority, Credentials, Identity, Request, SpiffeId, TrustError, peer_id};
use world::{DAY, NOW, forged::uri, id, world};

#[test]
fn the_names_of_a_request_are_passed_over_and_those_of_the_issuer_stand() {
    let world = world();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.subject_alt_names.push(uri("spiffe://cluster.local/ns/kube-system/sa/admin"));
    let request = params.serialize_request(&key).unwrap();
    let chain = world.authority.issue(request.der(), &id("app"), &["app.shop.svc".to_owned()], DAY).unwrap();
    assert_eq!(peer_id(Some(&chain)).unwrap(), id("app"));
    let text = String::from_utf8_lossy(&chain[0]).into_owned();
    assert!(text.contains("app.shop.svc") && !text.contains("evil") && !text.contains("admin"));
}

#[test]
fn a_request_with_a_broken_signature_another_curve_or_no_sense_is_refused() {
    let world = world();
    let issue = |der: &[u8]| world.authority.issue(der, &id("app"), &[], DAY);
    let mut broken = Request::new().unwrap().der().to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(matches!(issue(&broken), Err(TrustError::Request(_))));
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let request = CertificateParams::default().serialize_request(&other).unwrap();
    let refused = issue(request.der()).unwrap_err();
    assert!(refused.to_string().contains("P-256"), "{refused}");
    assert!(matches!(issue(b""), Err(TrustError::Request(_))));
}

#[test]
fn a_name_outside_the_trust_domain_is_not_given_out() {
    let world = world();
    let foreign: SpiffeId = "spiffe://elsewhere.example/ns/shop/sa/app".parse().unwrap();
    let request = Request::new().unwrap();
    let refused = world.authority.issue(request.der(), &foreign, &[], DAY).unwrap_err();
    assert!(matches!(refused, TrustError::ForeignName { .. }), "{refused}");
    assert!(matches!(Authority::create("Not A Domain", &world.clock), Err(TrustError::TrustDomain { .. })));
}

#[test]
fn a_leaf_begins_five_minutes_ago_lasts_as_asked_and_never_longer_than_its_root() {
    let world = world();
    let day = world.authority.credentials(&id("app"), &[], DAY).unwrap();
    assert_eq!((day.not_before_seconds(), day.not_after_seconds()), (NOW - 300, NOW + 86_400));
    let age = world.authority.credentials(&id("app"), &[], DAY * 365 * 100).unwrap();
    assert_eq!(age.not_after_seconds(), world.authority.not_after_seconds());
}

#[test]
fn an_authority_and_credentials_survive_their_pem_texts() {
    let world = world();
    let (certificate, key) = (world.authority.certificate_pem(), world.authority.key_pem());
    let again = Authority::from_pem(&certificate, &key, "cluster.local", &world.clock).unwrap();
    let anchors = Anchors::from_pem(&certificate).unwrap();
    assert_eq!(anchors, again.anchors());
    assert_eq!(Anchors::from_pem(&anchors.to_pem()).unwrap(), anchors);
    let credentials = again.credentials(&id("app"), &[], DAY).unwrap();
    let kept = Credentials::from_pem(&credentials.to_pem(), anchors.clone()).unwrap();
    assert_eq!((kept.id(), kept.not_after_seconds()), (&id("app"), credentials.not_after_seconds()));
    // A key that is another's, a text that is cut, and a leaf in the root's place are each refused.
    let other = Authority::create("cluster.local", &world.clock).unwrap();
    let mixed = Authority::from_pem(&certificate, &other.key_pem(), "cluster.local", &world.clock);
    assert!(matches!(mixed, Err(TrustError::KeyOfAnother)));
    assert!(matches!(Anchors::from_pem("nothing"), Err(TrustError::Pem { .. })));
    let leaf = Authority::from_pem(&credentials.to_pem(), &key, "cluster.local", &world.clock);
    assert!(matches!(leaf, Err(TrustError::Anchor(_))));
}

#[test]
fn credentials_whose_key_is_another_s_or_whose_leaf_is_a_root_are_refused() {
    let world = world();
    let (mine, yours) = (Request::new().unwrap(), Request::new().unwrap());
    let chain = world.authority.issue(yours.der(), &id("app"), &[], DAY).unwrap();
    assert!(matches!(mine.complete(chain, world.authority.anchors()), Err(TrustError::KeyOfAnother)));
    let root = vec![world.authority.anchor().clone()];
    assert!(matches!(yours.complete(root, world.authority.anchors()), Err(TrustError::Leaf(_))));
}

#[test]
fn renewal_is_due_at_sixty_percent_of_a_life_give_or_take_a_tenth() {
    let world = world();
    let identity = world.identity("app");
    let mut random = Random::seeded(1);
    let life = DAY.as_secs_f64() + 300.0;
    let due: Vec<f64> =
        (0..200).map(|_| (identity.renew_in(&mut random).as_secs_f64() + 300.0) / life).collect();
    assert!(due.iter().all(|share| (0.499..0.701).contains(share)), "{due:?}");
    assert!(due.iter().any(|share| *share < 0.55) && due.iter().any(|share| *share > 0.65));
    world.hand.advance(DAY);
    assert_eq!((identity.renew_in(&mut random), identity.seconds_left()), (Duration::ZERO, 0));
}

#[test]
fn whoever_listens_hears_of_a_replacement() {
    let world = world();
    let identity: Identity = world.identity("app");
    let mut changes = identity.changes();
    assert!(!changes.has_changed().unwrap());
    identity.clone().replace(world.authority.credentials(&id("app"), &[], DAY).unwrap());
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_certificate_never_panics_and_never_becomes_somebody_else(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        thread_local! {
            static LEAF: Vec<u8> = {
                let world = world();
                let credentials = world.authority.credentials(&id("app"), &[], DAY).unwrap();
                let text = credentials.to_pem();
                Anchors::from_pem(&text[..text.find("-----BEGIN PRIVATE").unwrap()]).unwrap().certificates()[0].to_vec()
            };
        }
        let mut der = LEAF.with(Clone::clone);
        for (place, byte) in places {
            let at = place.index(der.len());
            der[at] = byte;
        }
        if is_cut {
            der.truncate(cut.index(der.len()));
        }
        // Who signed it is the chain's business; here only that reading is total.
        let _ = peer_id(Some(&[der.into()]));
    }
}
