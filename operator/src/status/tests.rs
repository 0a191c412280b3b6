use sidestream_crds::compile;

use super::*;

const HELLO: &[u8] = b"kind: Pipeline\nmetadata: {name: hello}\nspec:\n  stages:\n  - {name: tick, source: {generator: {}}}\n  - {name: show, sink: {console: {}}}\n";

fn sidecars() -> Vec<SidecarPlan> {
    compile(HELLO, "hello").pipelines.remove(0).sidecars
}

fn pods(wanted: i32, ready: i32) -> Option<Pods> {
    Some(Pods { wanted, updated: wanted, ready, all: wanted, is_current: true })
}

fn told(connected: usize, applied: usize, ready: usize) -> Acknowledged {
    Acknowledged { connected, applied, ready, ..Acknowledged::default() }
}

fn part(sidecar: &SidecarPlan, pods: Option<Pods>, said: Acknowledged) -> Part<'_> {
    Part { sidecar, crew: Crew::Made(pods), said }
}

fn of(
    pods: Option<Pods>,
    told: Acknowledged,
    is_early: bool,
    before: Option<&PipelineStatus>,
) -> PipelineStatus {
    let sidecars = sidecars();
    let running = Running {
        hash: "h",
        is_suspended: false,
        parting: vec![],
        sidecars: vec![part(&sidecars[0], pods, told)],
    };
    let known = Known { generation: Some(3), errors: &[], running: Some(running), conflict: None, is_early };
    status(&known, before, Timestamp::UNIX_EPOCH)
}

fn ready_reason(status: &PipelineStatus) -> (&str, &str) {
    let (is, reason, _) = said(Some(status), "Ready").unwrap();
    (is, reason)
}

#[test]
fn ready_means_that_every_pod_runs_the_plan_and_its_stages_work() {
    for (pods, told, expected) in [
        (None, told(0, 0, 0), ("False", "Creating")),
        (pods(2, 1), told(1, 1, 1), ("False", "PodsNotReady")),
        (pods(0, 0), told(0, 0, 0), ("False", "ScaledToZero")),
        (pods(2, 2), told(1, 1, 1), ("Unknown", "NotConnected")),
        (pods(2, 2), told(2, 1, 1), ("False", "PlanPending")),
        (pods(2, 2), told(2, 2, 1), ("False", "StagesNotReady")),
        (pods(2, 2), told(2, 2, 2), ("True", "Running")),
    ] {
        assert_eq!(ready_reason(&of(pods, told.clone(), false, None)), expected, "{pods:?} {told:?}");
    }
}

/// The conditions `Ready` and `ResolvedRefs` of a pipeline in these pods of the user's.
fn of_users(pods: &[UserPod], said: Acknowledged) -> [(String, String); 2] {
    let text = String::from_utf8_lossy(HELLO).replace(
        "spec:\n",
        "spec:\n  sidecars: [{name: app, inject: {podSelector: {matchLabels: {app: front}}}}]\n",
    );
    let text = text.replace(
        "console: {}",
        "webhook: {url: 'http://a', credentials: {secretRef: {name: am, key: token}}}",
    );
    let text = text.replace(
        "generator: {}",
        "prometheus: {url: 'http://a', credentials: {secretRef: {name: other, key: token}}}",
    );
    let compiled = compile(text.as_bytes(), "hello");
    assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
    let sidecars = &compiled.pipelines[0].sidecars;
    let part = Part { sidecar: &sidecars[0], crew: Crew::Users(pods), said };
    let running = Running { hash: "h", is_suspended: false, parting: vec![], sidecars: vec![part] };
    let known =
        Known { generation: None, errors: &[], running: Some(running), conflict: None, is_early: false };
    let status = status(&known, None, Timestamp::UNIX_EPOCH);
    ["Ready", "ResolvedRefs"].map(|kind| {
        let (_, reason, message) = said_of(&status, kind);
        (reason.to_owned(), message.to_owned())
    })
}

fn said_of<'a>(status: &'a PipelineStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
    said(Some(status), kind).unwrap()
}

fn user_pod(name: &str) -> UserPod {
    let secrets = ["am", "other"].map(|name| (name.to_owned(), ["token".to_owned()].into())).into();
    UserPod { name: name.into(), has_sidecar: true, secrets, ..UserPod::default() }
}

#[test]
fn of_the_users_pods_those_without_a_sidecar_are_named_and_those_with_one_are_waited_for() {
    let reason = |pods: &[UserPod], said| of_users(pods, said)[0].0.clone();
    assert_eq!(reason(&[], told(0, 0, 0)), "NoPods");
    let both = [user_pod("a"), UserPod { has_sidecar: false, ..user_pod("b") }];
    let [(ready, message), _] = of_users(&both, told(1, 1, 1));
    assert!(ready == "NotInjected" && message.contains(": b"), "{message}");
    let leaving = [user_pod("a"), UserPod { is_leaving: true, has_sidecar: false, ..user_pod("b") }];
    assert_eq!(reason(&leaving, told(1, 1, 1)), "Running");
    assert_eq!(reason(&[user_pod("a")], told(0, 0, 0)), "NotConnected");
    assert_eq!(reason(&[user_pod("a")], told(1, 0, 0)), "PlanPending");
}

#[test]
fn a_secret_that_is_first_named_after_injection_asks_for_a_restart_of_the_pod_by_name() {
    let other = [("other".to_owned(), ["token".to_owned()].into())].into();
    let old = UserPod { secrets: other, ..user_pod("old") };
    let [_, (reason, message)] = of_users(&[user_pod("new"), old], told(2, 2, 2));
    assert!(
        reason == "NeedsRestart" && message.contains("`old`") && message.contains("Secret am"),
        "{message}"
    );
    assert!(!message.contains("other"), "which it has: {message}");
    assert!(!message.contains("`new`"), "{message}");
    assert_eq!(of_users(&[user_pod("new")], told(1, 1, 1))[1].0, "Resolved");
}

#[test]
fn a_new_leader_does_not_call_unready_what_it_has_not_heard_of_yet() {
    let before = of(pods(1, 1), told(1, 1, 1), false, None);
    assert_eq!(ready_reason(&of(pods(1, 1), told(0, 0, 0), true, Some(&before))), ("True", "Running"));
    assert_eq!(
        ready_reason(&of(pods(1, 1), told(0, 0, 0), false, Some(&before))),
        ("Unknown", "NotConnected")
    );
}

#[test]
fn the_same_again_is_the_same_status() {
    let before = of(pods(1, 1), told(1, 1, 1), false, None);
    let sidecars = sidecars();
    let running = Running {
        hash: "h",
        is_suspended: false,
        parting: vec![],
        sidecars: vec![part(&sidecars[0], pods(1, 1), told(1, 1, 1))],
    };
    let known =
        Known { generation: Some(3), errors: &[], running: Some(running), conflict: None, is_early: false };
    let later = Timestamp::from_second(1_000_000).unwrap();
    assert_eq!(status(&known, Some(&before), later), before);
}

#[test]
fn suspended_is_drained_only_when_every_pod_has_said_so() {
    let sidecars = sidecars();
    let of = |drained| {
        let told = Acknowledged { drained, ..told(2, 2, 0) };
        let running = Running {
            hash: "h",
            is_suspended: true,
            parting: vec![],
            sidecars: vec![part(&sidecars[0], pods(2, 2), told)],
        };
        let known =
            Known { generation: None, errors: &[], running: Some(running), conflict: None, is_early: false };
        let status = status(&known, None, Timestamp::UNIX_EPOCH);
        said(Some(&status), "Drained").unwrap().0.to_owned()
    };
    assert_eq!((of(1), of(2)), ("False".into(), "True".into()));
}
