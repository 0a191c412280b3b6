//! The sidecars of one pipeline as processes of this machine, joined by edges.

mod process;

use process::{Folder, Running, folder, run, sidestream, text};

const TWO: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: two, namespace: shop}
spec:
  sidecars:
  - {name: app, inject: {podSelector: {matchLabels: {app: shopfront}}}}
  - {name: hub, workload: {}}
  stages:
  - {name: tick, sidecar: app, source: {generator: {count: 1000, rate: 2000}}}
  - {name: show, sidecar: hub, sink: {console: {format: JSON}}}
";

fn start(folder: &Folder, sidecar: &str) -> Running {
    let file = folder.path("two.yaml");
    run(&file, &["--sidecar", sidecar, "--peers", folder.path("").to_str().unwrap()])
}

#[test]
fn events_go_from_one_process_to_the_other_whichever_comes_first() {
    let folder = folder();
    folder.write("two.yaml", TWO);
    let mut app = start(&folder, "app");
    let hub = start(&folder, "hub");
    assert!(app.end().success(), "{}", app.err());
    hub.until_out("\"sequence\":999");
    assert_eq!(hub.out().lines().count(), 1000);
    assert!(app.err().contains("accepted=1000 completed=1000"), "{}", app.err());
}

#[cfg(unix)]
#[test]
fn what_signs_is_for_its_user_alone_and_a_place_is_free_when_its_process_has_gone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = folder();
    folder.write("two.yaml", TWO);
    let mut app = start(&folder, "app");
    let mut hub = start(&folder, "hub");
    assert!(app.end().success(), "{}", app.err());
    let mode = std::fs::metadata(folder.path("authority.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let seats = || std::fs::read_dir(folder.path("two-hub-spl.shop.svc")).unwrap().count();
    assert_eq!(seats(), 1);
    hub.until_out("\"sequence\":999");
    hub.signal("TERM");
    assert!(hub.end().success(), "{}", hub.err());
    assert_eq!(seats(), 0);
}

#[test]
fn a_sidecar_that_is_none_is_named_with_those_there_are() {
    let folder = folder();
    let file = folder.write("two.yaml", TWO);
    let peers = folder.path("");
    let ended =
        sidestream(&["run", file.to_str().unwrap(), "--sidecar", "web", "--peers", peers.to_str().unwrap()]);
    let err = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{err}");
    assert!(err.contains("no sidecar `web`; it has `app`, `hub`"), "{err}");
    let ended = sidestream(&["run", file.to_str().unwrap(), "--sidecar", "hub"]);
    assert!(text(&ended.stderr).contains("--peers <DIR>"), "{}", text(&ended.stderr));
}
