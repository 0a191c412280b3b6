//! What a stranger meets at the listeners: TLS 1.3 with a certificate of ours, or nothing.

use std::{
    env,
    process::{Command, Stdio},
};

use crate::world::{Namespace, kubectl};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn every_listener_speaks_tls_1_3_only_and_shows_who_it_is() {
    if env::var("SIDESTREAM_E2E_HOST").is_err() {
        println!("skipped: pods of this cluster are not reached from this machine");
        return;
    }
    let shop = Namespace::new("e2e-handshake");
    shop.apply_example("two-sidecars.yaml");
    shop.wait_ready("two-sidecars");

    let hub = shop.pods("two-sidecars", "hub").remove(0);
    let edge =
        shop.kubectl(&["get", "pod", &hub, "-o", "jsonpath={.status.podIP}:7443"]).expect("an address");
    let operator = ["--namespace", "sidestream-system", "get", "service", "sidestream-operator"];
    let control = kubectl(&[&operator[..], &["-o", "jsonpath={.spec.clusterIP}:9443"]].concat(), "");
    let control = control.expect("an address");

    let hub_identity = "URI:spiffe://cluster.local/ns/e2e-handshake/sa/two-sidecars-hub-spl";
    let operator_identity = "URI:spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator";
    for (address, identity) in [(&edge, hub_identity), (&control, operator_identity)] {
        let spoken = handshake(address, "-tls1_3");
        assert!(spoken.contains("New, TLSv1.3, Cipher is TLS_"), "{address}: {spoken}");
        assert!(certificate(&spoken).contains(identity), "{address}: {}", certificate(&spoken));
        for old in ["-tls1_2", "-tls1_1", "-tls1"] {
            let spoken = handshake(address, old);
            assert!(spoken.contains("no peer certificate available"), "{address} {old}: {spoken}");
            assert!(spoken.contains("New, (NONE), Cipher is (NONE)"), "{address} {old}: {spoken}");
        }
    }
}

/// What `openssl s_client` says of a handshake without a certificate of one's own.
fn handshake(address: &str, version: &str) -> String {
    // At security level 0 it offers what it would otherwise refuse to offer, so that the refusal is the listener's.
    let said = Command::new("timeout")
        .args(["10", "openssl", "s_client", "-connect", address, version, "-cipher", "ALL:@SECLEVEL=0"])
        .stdin(Stdio::null())
        .output()
        .expect("openssl starts");
    String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
}

/// The names in the certificate that the listener showed.
fn certificate(spoken: &str) -> String {
    use std::io::Write;
    let mut openssl = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl starts");
    openssl.stdin.take().expect("a pipe").write_all(spoken.as_bytes()).expect("openssl reads");
    String::from_utf8_lossy(&openssl.wait_with_output().expect("openssl ends").stdout).into_owned()
}
