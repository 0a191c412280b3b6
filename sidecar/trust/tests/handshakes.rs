//! Who believes whom: good peers meet, and every other is refused for its own reason before a payload passes.

mod world;

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use sidestream_trust::{Anchors, Authority, Callers, anonymous_client_config, reason as reason_of};
use world::{DAY, Forged, NOW, World, at, forge, good_leaf, handshake, id, pkcs8, uri, world};

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

/// Each client that must be refused by a server, and what the refusal must say.
fn bad_callers(world: &World) -> Vec<(&'static str, Forged, &'static str)> {
    let key = || KeyPair::generate().unwrap();
    let other = Authority::create("cluster.local", &world.clock).unwrap();
    let impostor = Authority::create("elsewhere.example", &world.clock).unwrap();
    let self_signed = {
        let key = key();
        let leaf = good_leaf("app").self_signed(&key).unwrap().der().clone();
        Forged { chain: vec![leaf], key: pkcs8(&key) }
    };
    let shape = |shape: fn(&mut CertificateParams)| world.forge(shape);
    vec![
        ("expired", shape(|leaf| leaf.not_after = at(NOW - 1)), "expired"),
        ("not yet valid", shape(|leaf| leaf.not_before = at(NOW + 60)), "not valid yet"),
        ("no name", shape(|leaf| leaf.subject_alt_names.clear()), "carries no SPIFFE ID"),
        (
            "a DNS name only",
            shape(|leaf| {
                leaf.subject_alt_names = vec![rcgen::SanType::DnsName("app.shop.svc".try_into().unwrap())]
            }),
            "carries no SPIFFE ID",
        ),
        (
            "two SPIFFE IDs",
            shape(|leaf| leaf.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/b"))),
            "2 URI names",
        ),
        (
            "a SPIFFE ID and another URI",
            shape(|leaf| leaf.subject_alt_names.push(uri("https://example.com/"))),
            "2 URI names",
        ),
        (
            "a URI of another scheme",
            shape(|leaf| leaf.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/app")]),
            "is no SPIFFE ID",
        ),
        (
            "a SPIFFE ID with a port",
            shape(|leaf| leaf.subject_alt_names = vec![uri("spiffe://cluster.local:1/ns/shop/sa/app")]),
            "is no SPIFFE ID",
        ),
        (
            "a SPIFFE ID without a path",
            shape(|leaf| leaf.subject_alt_names = vec![uri("spiffe://cluster.local")]),
            "is no SPIFFE ID",
        ),
        (
            "a name in another trust domain",
            shape(|leaf| leaf.subject_alt_names = vec![uri("spiffe://elsewhere.example/ns/shop/sa/app")]),
            "outside the trust domain",
        ),
        (
            "a trust domain that only starts alike",
            shape(|leaf| leaf.subject_alt_names = vec![uri("spiffe://cluster.local.evil/ns/shop/sa/app")]),
            "outside the trust domain",
        ),
        (
            "an authority",
            shape(|leaf| leaf.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            "CaUsedAsEndEntity",
        ),
        (
            "a leaf that may sign certificates",
            shape(|leaf| leaf.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "authority's",
        ),
        (
            "a leaf for signing revocations",
            shape(|leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)),
            "authority's",
        ),
        ("no key usage", shape(|leaf| leaf.key_usages.clear()), "lacks a key usage"),
        (
            "a key for encryption",
            shape(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            "lacks the key usage digitalSignature",
        ),
        (
            "no extended usage",
            shape(|leaf| leaf.extended_key_usages.clear()),
            "lacks the extended key usage clientAuth",
        ),
        (
            "a server's leaf",
            shape(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "InvalidPurpose",
        ),
        (
            "a leaf for signing code",
            shape(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
            "InvalidPurpose",
        ),
        ("an unknown authority", forge(&other, key(), |_| {}), "UnknownIssuer"),
        ("another trust domain's authority", forge(&impostor, key(), |_| {}), "UnknownIssuer"),
        ("self-signed", self_signed, "UnknownIssuer"),
        (
            "an unknown authority that sends its root",
            {
                let mut forged = forge(&other, key(), |_| {});
                forged.chain.push(other.anchor().clone());
                forged
            },
            "UnknownIssuer",
        ),
        (
            "the leaf of another key",
            {
                let mut forged = world.forge(|_| {});
                forged.key = pkcs8(&key());
                forged
            },
            "BadSignature",
        ),
        (
            "a chain cut in its middle",
            {
                let (below, middle) = below(&world.authority);
                drop(middle);
                below
            },
            "UnknownIssuer",
        ),
        (
            "bytes that are no certificate",
            Forged { chain: vec![CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])], key: pkcs8(&key()) },
            "BadEncoding",
        ),
        (
            "a leaf with a byte too many",
            {
                let mut forged = world.forge(|_| {});
                let mut der = forged.chain[0].to_vec();
                der.push(0);
                forged.chain = vec![CertificateDer::from(der)];
                forged
            },
            "BadEncoding",
        ),
        (
            "a leaf with a bit flipped",
            {
                let mut forged = world.forge(|_| {});
                let mut der = forged.chain[0].to_vec();
                let middle = der.len() - 100;
                der[middle] ^= 1;
                forged.chain = vec![CertificateDer::from(der)];
                forged
            },
            "",
        ),
    ]
}

/// A leaf under an authority that the given one made, and that authority's certificate.
fn below(root: &Authority) -> (Forged, CertificateDer<'static>) {
    let middle_key = KeyPair::generate().unwrap();
    let mut middle = good_leaf("middle");
    middle.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    middle.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    middle.distinguished_name.push(rcgen::DnType::CommonName, "middle");
    let params = middle.clone();
    let middle = forge(root, KeyPair::try_from(&pkcs8(&middle_key)).unwrap(), |leaf| *leaf = params.clone());
    let issuer = rcgen::Issuer::new(params, middle_key);
    let key = KeyPair::generate().unwrap();
    let leaf = good_leaf("app").signed_by(&key, &issuer).unwrap().der().clone();
    (Forged { chain: vec![leaf], key: pkcs8(&key) }, middle.chain[0].clone())
}

#[test]
fn every_bad_caller_is_refused_by_the_server_for_its_own_reason() {
    let world = world();
    let server = world.identity("hub").server_config(Callers::Proved, &[]).unwrap();
    let lax = world.identity("hub").server_config(Callers::ProvedOrNameless, &[]).unwrap();
    for (case, forged, reason) in bad_callers(&world) {
        for server in [&server, &lax] {
            let met = handshake(server.clone(), careless_client(&forged));
            let (side, error) = met.expect_err(case);
            assert_eq!(side, "server", "{case}: {error}");
            let said = format!("{} {error:?}", reason_of(&error));
            assert!(said.contains(reason), "{case}: {said}");
        }
    }
    // The whole of the chain that was cut is good.
    let (mut whole, middle) = below(&world.authority);
    whole.chain.push(middle);
    handshake(server.clone(), careless_client(&whole)).unwrap();
    // The same forge makes good leaves too, or the cases above would prove nothing.
    handshake(server, careless_client(&world.forge(|_| {}))).unwrap();
}

#[test]
fn every_bad_server_is_refused_by_the_client_for_its_own_reason() {
    let world = world();
    let client = world.identity("hub").client_config(&id("app"), &[]).unwrap();
    for (case, forged, reason) in bad_callers(&world) {
        // The leaf that is good for servers is good here; what it proves is shown by the next test.
        if case == "a server's leaf" {
            continue;
        }
        let (side, error) = handshake(careless_server(&forged), client.clone()).expect_err(case);
        let said = format!("{} {error:?}", reason_of(&error));
        assert_eq!(side, "client", "{case}: {error}");
        // A server's name is expected exactly, so a foreign one is unexpected rather than foreign.
        let reason = match reason {
            "outside the trust domain" => "should be there",
            reason => reason,
        };
        assert!(said.contains(&reason.replace("clientAuth", "serverAuth")), "{case}: {said}");
    }
    handshake(careless_server(&world.forge(|_| {})), client).unwrap();
}

#[test]
fn a_server_must_be_the_one_expected_and_no_other_of_the_same_authority() {
    let world = world();
    let server = world.identity("other").server_config(Callers::Proved, &[]).unwrap();
    let client = world.identity("app").client_config(&id("hub"), &[]).unwrap();
    let (side, error) = handshake(server, client).unwrap_err();
    assert_eq!(side, "client");
    assert!(reason_of(&error).contains("/sa/other`, and"), "{error}");
    let client_only =
        world.forge(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let client = world.identity("hub").client_config(&id("app"), &[]).unwrap();
    let (side, error) = handshake(careless_server(&client_only), client).unwrap_err();
    assert_eq!(side, "client");
    assert!(reason_of(&error).contains("server authentication"), "{error:?}");
}

#[test]
fn tls_1_2_is_refused_by_both_ends() {
    let world = world();
    let server = world.identity("hub").server_config(Callers::Proved, &[]).unwrap();
    let forged = world.forge(|_| {});
    let old_client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(forged.chain.clone(), forged.key.clone_key())
        .unwrap();
    let (side, error) = handshake(server, Arc::new(old_client)).unwrap_err();
    assert_eq!(side, "server");
    assert!(matches!(error, rustls::Error::PeerIncompatible(_)), "{error:?}");
    let old_server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(forged.chain, forged.key)
        .unwrap();
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

/// A client that shows anything and believes anybody.
fn careless_client(forged: &Forged) -> Arc<ClientConfig> {
    Arc::new(
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible))
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified(forged)))),
    )
}

fn careless_server(forged: &Forged) -> Arc<ServerConfig> {
    Arc::new(
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified(forged)))),
    )
}

fn certified(forged: &Forged) -> rustls::sign::CertifiedKey {
    let key: &PrivateKeyDer<'static> = &forged.key;
    rustls::sign::CertifiedKey::new(forged.chain.clone(), aws_lc_rs::sign::any_supported_type(key).unwrap())
}

#[derive(Debug)]
struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
