use sidestream_control::{Anchored, Applied, Drained, Halting};

use super::*;

fn account(name: &str) -> Account {
    ("shop".into(), name.into())
}

/// Every pod of an account.
fn all(name: &str) -> Addressee {
    addressee(&account(name), None)
}

fn plan(hash: &str) -> Arc<Plan> {
    Arc::new(Plan { pipeline: "shop/p".into(), hash: hash.into(), ..Plan::default() })
}

fn applied(hash: &str, error: Option<&str>) -> Report {
    let error = error.map(str::to_owned);
    Report::Applied(Applied { pipeline: "shop/p".into(), hash: hash.into(), error })
}

#[test]
fn nobody_is_told_anything_before_it_is_known_which_pipelines_there_are() {
    let fleet = Fleet::default();
    let mut hub = fleet.connect(account("hub"), "hub-1".into());
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    assert_eq!(hub.plans(), None);
    hub.changes.mark_unchanged();
    fleet.expect(["shop/p".into(), "shop/q".into(), "other/r".into()]);
    assert!(hub.changes.has_changed().unwrap());
    assert_eq!(hub.plans().unwrap().len(), 1);
}

#[tokio::test]
async fn a_new_plan_wakes_only_the_sidecars_that_run_it() {
    let fleet = Fleet::default();
    fleet.expect([]);
    let (mut hub, mut door) =
        (fleet.connect(account("hub"), "hub-1".into()), fleet.connect(account("door"), "door-1".into()));
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    assert!(hub.changes.has_changed().unwrap() && !door.changes.has_changed().unwrap());
    assert_eq!((hub.plans().unwrap().len(), door.plans().unwrap().len()), (1, 0));

    hub.changes.mark_unchanged();
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    assert!(!hub.changes.has_changed().unwrap(), "the same plan again is no news");

    fleet.publish("shop/p", vec![(all("door"), plan("2"))]);
    assert!(hub.changes.has_changed().unwrap() && door.changes.has_changed().unwrap());
    assert_eq!((hub.plans().unwrap().len(), door.plans().unwrap().len()), (0, 1));
    door.changes.mark_unchanged();
}

#[tokio::test]
async fn an_acknowledgement_counts_for_the_plan_it_names_while_its_sidecar_is_connected() {
    let fleet = Fleet::default();
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    let (one, two) =
        (fleet.connect(account("hub"), "hub-1".into()), fleet.connect(account("hub"), "hub-2".into()));
    one.report(applied("1", None));
    one.report(Report::Ready(Ready { pipeline: "shop/p".into(), ready: true, ..Ready::default() }));
    two.report(applied("1", Some("no such kind")));
    assert_eq!(fleet.stirred().await, ["shop/p"]);
    let told = fleet.acknowledged(&[all("hub")], "shop/p", "1");
    assert_eq!((told.connected, told.applied, told.ready), (2, 1, 1));
    assert_eq!(told.refused, Some(("hub-2".into(), "no such kind".into())));
    assert_eq!(fleet.acknowledged(&[all("hub")], "shop/p", "2").applied, 0);
    drop(one);
    assert_eq!(fleet.acknowledged(&[all("hub")], "shop/p", "1").connected, 1);
}

#[test]
fn what_has_drained_and_is_told_to_run_has_not_drained_when_it_is_told_to_stop_again() {
    let told = |suspend: Suspend| {
        let plan = Plan { suspend: suspend.into(), ..(*plan("1")).clone() };
        vec![(all("hub"), Arc::new(plan))]
    };
    let fleet = Fleet::default();
    fleet.expect([]);
    fleet.publish("shop/p", told(Suspend::Stop));
    let hub = fleet.connect(account("hub"), "hub-1".into());
    let drained = || fleet.acknowledged(&[all("hub")], "shop/p", "1").drained;
    hub.report(Report::Drained(Drained {
        pipeline: "shop/p".into(),
        hash: "1".into(),
        counts: Some(Counts::default()),
    }));
    assert!(hub.hand_out().is_some());
    assert_eq!(drained(), 1);
    fleet.publish("shop/p", told(Suspend::Run));
    assert_eq!(drained(), 1, "it has not been told yet");
    assert!(hub.hand_out().is_some());
    fleet.publish("shop/p", told(Suspend::Stop));
    assert_eq!(drained(), 0);
}

#[test]
fn what_has_drained_does_not_run_and_what_runs_has_not_drained() {
    let fleet = Fleet::default();
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    let hub = fleet.connect(account("hub"), "hub-1".into());
    let told = |report| {
        hub.report(report);
        let told = fleet.acknowledged(&[all("hub")], "shop/p", "1");
        (told.applied, told.drained, told.counts.completed)
    };
    let counts = Counts { accepted: 5, completed: 5, ..Counts::default() };
    let drained = |counts| Report::Drained(Drained { pipeline: "shop/p".into(), hash: "1".into(), counts });
    assert_eq!(told(applied("1", None)), (1, 0, 0));
    assert_eq!(told(drained(Some(Counts { in_flight: 1, ..counts }))), (0, 0, 5));
    assert_eq!(told(drained(Some(counts))), (0, 1, 5));
    assert_eq!(told(applied("1", None)), (1, 0, 0));
}

#[test]
fn what_stops_part_by_part_is_forgotten_when_it_runs_again_and_heard_whole_or_not_at_all() {
    let fleet = Fleet::default();
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    let hub = fleet.connect(account("hub"), "hub-1".into());
    let open = |report| {
        hub.report(report);
        fleet.acknowledged(&[all("hub")], "shop/p", "1").open
    };
    let halting = |open: &[&str]| {
        let open = open.iter().map(|edge| (*edge).to_owned()).collect();
        Report::Halting(Halting { pipeline: "shop/p".into(), hash: "1".into(), open })
    };
    assert!(open(applied("1", None)).is_empty());
    assert_eq!(open(halting(&["a->b"])), [["a->b"]]);
    assert_eq!(open(halting(&["x"; EDGES_SAID_MAX + 1])), [["a->b"]], "it is not listened to");
    assert_eq!(open(halting(&[])), [Vec::<String>::new()]);
    assert!(open(applied("1", None)).is_empty(), "it runs again");
    open(halting(&[]));
    let drained = Drained { pipeline: "shop/p".into(), hash: "1".into(), counts: None };
    assert!(open(Report::Drained(drained)).is_empty());
}

#[test]
fn what_a_sidecar_says_counts_for_its_own_account_even_before_its_plans_are_known() {
    let fleet = Fleet::default();
    let (hub, stranger) =
        (fleet.connect(account("hub"), "hub-1".into()), fleet.connect(account("door"), "door-1".into()));
    hub.report(applied("1", None));
    stranger.report(applied("1", None));
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    assert_eq!(fleet.acknowledged(&[all("hub")], "shop/p", "1").applied, 1);
}

#[test]
fn a_pod_that_connects_anew_is_one_pod_and_an_account_has_no_end_of_them() {
    let fleet = Fleet::default();
    let anchored = |generation| Report::Anchored(Anchored { generation, issuer: 1 });
    let before = fleet.connect(account("hub"), "hub-1".into());
    before.report(anchored(1));
    let mut now = fleet.connect(account("hub"), "hub-1".into());
    now.report(anchored(2));
    before.report(anchored(3));
    assert!(fleet.anchored().is_empty(), "it is not known to run anything");
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    assert_eq!(fleet.anchored()[&account("hub")], [Some((2, 1))]);
    drop(before);
    assert!(fleet.connected() == 1 && now.changes.has_changed().is_ok());

    let others: Vec<_> =
        (2..=SESSIONS_MAX + 1).map(|n| fleet.connect(account("hub"), format!("hub-{n}"))).collect();
    assert_eq!(fleet.connected(), SESSIONS_MAX);
    now.changes.mark_unchanged();
    assert!(now.changes.has_changed().is_err(), "the oldest has ended");
    drop(others);
    assert_eq!(fleet.connected(), 0);
}

#[test]
fn a_pipeline_that_cannot_be_looked_at_withholds_its_own_plans_only() {
    let fleet = Fleet::default();
    fleet.expect(["shop/p".into(), "shop/broken".into()]);
    let (hub, other) =
        (fleet.connect(account("hub"), "hub-1".into()), fleet.connect(account("other"), "other-1".into()));
    assert_eq!(hub.plans(), None);
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    assert!(hub.changes.has_changed().unwrap());
    assert_eq!(hub.plans().unwrap().len(), 1);
    assert_eq!(other.plans(), None, "it may be of the pipeline that was not looked at");
    fleet.withdraw("shop/broken", |_| None, false);
    assert_eq!(other.plans().unwrap().len(), 0);
}

#[test]
fn a_pod_of_the_users_is_told_full_sets_and_only_as_whom_it_runs_as() {
    let fleet = Fleet::default();
    let pod = |name: &str| addressee(&account("till"), Some(name.into()));
    let (one, two) =
        (fleet.connect(account("till"), "front-1".into()), fleet.connect(account("till"), "front-2".into()));
    let stranger = fleet.connect(account("default"), "front-1".into());
    fleet.expect(["shop/p".into(), "shop/q".into()]);
    fleet.publish("shop/p", vec![(pod("front-1"), plan("1"))]);
    assert_eq!(one.plans(), None, "the other pipeline may select it, too");
    fleet.publish("shop/q", vec![(pod("front-1"), plan("2")), (pod("front-2"), plan("2"))]);
    let told = |connected: &Connected| connected.plans().unwrap().len();
    assert_eq!((told(&one), told(&two), told(&stranger)), (2, 1, 0));
    assert_eq!(fleet.pods_told().len(), 2);

    one.report(applied("1", None));
    stranger.report(applied("1", None));
    let said = fleet.acknowledged(&[pod("front-1"), pod("front-2")], "shop/p", "1");
    assert_eq!((said.connected, said.applied), (2, 1));
    fleet.withdraw("shop/q", |_| None, false);
    assert_eq!((told(&one), told(&two)), (1, 0));
}

#[test]
fn what_was_made_for_a_pipeline_that_is_gone_runs_it_to_its_own_end() {
    let fleet = Fleet::default();
    fleet.expect(["shop/p".into()]);
    fleet.publish("shop/p", vec![(all("hub"), plan("1"))]);
    let told = |fleet: &Fleet| fleet.connect(account("hub"), "hub-1".into()).plans().unwrap().len();
    let hub = fleet.connect(account("hub"), "hub-1".into());
    fleet.withdraw("shop/p", |_| Some(1), false);
    drop(hub);
    assert_eq!(told(&fleet), 1, "it has connected anew");
    fleet.withdraw("shop/p", |_| Some(1), false);
    assert_eq!(told(&fleet), 1, "there may be more of them");
    fleet.withdraw("shop/p", |_| None, false);
    assert_eq!(told(&fleet), 0);
}

/// Events go from `front` to `back`, and what becomes of them from there to `front` again.
fn parts() -> Vec<(String, Arc<Plan>)> {
    let pods = |label: &str| format!("inject: {{podSelector: {{matchLabels: {{app: {label}}}}}}}");
    let text = format!(
        "{{kind: Pipeline, metadata: {{name: p, namespace: shop}}, spec: {{sidecars: [{{name: front, {}}}, {{name: back, {}}}],
        stages: [{{name: tick, sidecar: front, source: {{generator: {{}}}}}},
        {{name: some, sidecar: back, process: {{sample: {{every: 2}}}}}},
        {{name: show, sidecar: front, sink: {{console: {{}}}}}}]}}}}",
        pods("front"),
        pods("back"),
    );
    let compiled = sidestream_crds::compile(text.as_bytes(), "p");
    let sidecars = compiled.pipelines.into_iter().flat_map(|pipeline| pipeline.sidecars);
    sidecars
        .map(|own| (own.name.clone(), Arc::new(Plan::wrap(&own.plan, "1", own.name.as_str(), Suspend::Run))))
        .collect()
}

#[test]
fn of_a_pipeline_that_is_gone_pods_of_the_users_take_what_is_on_its_way_to_them() {
    let fleet = Fleet::default();
    fleet.expect([]);
    let pod = |name: &str| addressee(&account("till"), Some(format!("{name}-1")));
    let connect = |name: &str| fleet.connect(account("till"), format!("{name}-1"));
    let (front, back) = (connect("front"), connect("back"));
    fleet.publish("shop/p", parts().into_iter().map(|(name, plan)| (pod(&name), plan)).collect());
    let withdraw = |is_over| fleet.withdraw("shop/p", |_| None, is_over);
    let told = |connected: &Connected| {
        connected.plans().unwrap().first().map(|plan| (plan.stance(), plan.closed.clone()))
    };
    let halting = |open: &[&str]| {
        let open = open.iter().map(|edge| (*edge).to_owned()).collect();
        Report::Halting(Halting { pipeline: "shop/p".into(), hash: "1".into(), open })
    };
    let drained = || {
        let counts = Some(Counts::default());
        Report::Drained(Drained { pipeline: "shop/p".into(), hash: "1".into(), counts })
    };
    assert!(withdraw(false));
    let halts = Some((Suspend::StopSources, vec![]));
    assert_eq!((told(&front), told(&back)), (halts.clone(), halts.clone()), "no source gives anything more");
    front.report(halting(&["tick->some"]));
    assert!(withdraw(false));
    assert_eq!(told(&back), halts);
    front.report(halting(&[]));
    assert!(withdraw(false));
    assert_eq!(told(&back), Some((Suspend::Stop, vec![])));
    back.report(drained());
    assert!(withdraw(false));
    assert_eq!((told(&front), told(&back)), (Some((Suspend::Stop, vec![])), None));
    front.report(drained());
    assert!(!withdraw(false), "nobody is waited for");
    assert_eq!(told(&front), None);

    // One that is not to be heard of holds up nobody for ever.
    fleet.publish("shop/p", parts().into_iter().map(|(name, plan)| (pod(&name), plan)).collect());
    assert!(told(&back).is_some_and(|(stance, _)| stance == Suspend::Run), "another of that name runs");
    assert!(withdraw(false) && !withdraw(true));
    assert_eq!((told(&front), told(&back)), (None, None));
}

#[test]
fn a_sidecar_that_talks_too_much_is_not_listened_to() {
    let fleet = Fleet::default();
    let hub = fleet.connect(account("hub"), "hub-1".into());
    for index in 0..10 * PIPELINES_SAID_MAX {
        let pipeline = format!("shop/{index}");
        hub.report(Report::Ready(Ready { pipeline, reason: "x".repeat(1 << 20), ..Ready::default() }));
    }
    let inner = fleet.lock();
    let said = &inner.sessions.values().next().unwrap().said;
    assert_eq!(said.len(), PIPELINES_SAID_MAX);
    assert!(said.values().all(|said| said.ready.as_ref().unwrap().reason.len() <= REASON_BYTES_MAX));
}
