//! `inject` gives what the webhook gives: both are compared with one file.

mod process;

use process::{sidestream, text};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../operator/desired/cases/injection");

#[test]
fn a_deployment_gets_what_the_webhook_would_add_to_its_pods() {
    let case = |name: &str| format!("{CASES}/{name}.yaml");
    let ended = sidestream(&["inject", "-f", &case("deployment"), "--pipeline", &case("pipelines")]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert_eq!(text(&ended.stdout), std::fs::read_to_string(case("injected")).unwrap());
    let again = sidestream(&["inject", "-f", &case("injected"), "--pipeline", &case("pipelines")]);
    assert_eq!(again.stdout, ended.stdout, "a second time changes nothing");
}

#[test]
fn a_deployment_that_mounts_the_volume_for_it_gets_a_socket_to_dnpipes() {
    let case = |name: &str| format!("{CASES}/{name}.yaml");
    let ended = sidestream(&["inject", "-f", &case("socket")]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert_eq!(text(&ended.stdout), std::fs::read_to_string(case("socket.injected")).unwrap());
}

#[test]
fn what_a_sidecar_would_get_in_the_way_of_is_named() {
    let folder = process::folder();
    let file = folder.write(
        "node.yaml",
        "kind: DaemonSet\nmetadata: {name: agent}\nspec: {template: {spec: {hostNetwork: true, containers: []}}}\n",
    );
    let ended = sidestream(&["inject", "-f", file.to_str().unwrap()]);
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("DaemonSet `agent`") && said.contains("hostNetwork"), "{said}");
}
