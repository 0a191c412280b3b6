//! What a user changes on a running pipeline, and what that leaves alone.

use std::{thread, time::Duration};

use sidestream_e2e::eventually;

use crate::world::{Namespace, SOON};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_new_plan_runs_in_the_pods_that_are_there() {
    let shop = counting("e2e-new-plan");
    let before = shop.who_runs("");
    shop.apply(&count("  - {name: even, process: {filter: {keep: \"event.sequence % 2 == 0\"}}}"));
    eventually("the new stage sees events", SOON, || {
        match shop.metric("count", "main", "sidestream_stage_events_in_total", "stage=\"even\"")? {
            0.0 => Err("none".into()),
            some => Ok(some),
        }
    });
    assert_eq!(shop.who_runs(""), before, "no pod was made, no container was restarted");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_last_good_plan_runs_on_through_a_bad_edit_which_the_status_explains() {
    let shop = counting("e2e-bad-edit");
    let before = shop.who_runs("");
    // Past the webhook, as it comes in while no operator answers.
    shop.kubectl(&["label", "namespace", &shop.name, "sidestream.dev/validate=disabled"]).expect("labelled");
    shop.apply(&count("  - {name: even, process: {filter: {keep: \"event.sequence % 'two'\"}}}"));
    let accepted = eventually("the edit is judged", SOON, || {
        let pipeline = shop.get(&["pipeline/count"])?;
        let conditions = pipeline["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let accepted = conditions.into_iter().find(|condition| condition["type"] == "Accepted");
        accepted
            .filter(|accepted| accepted["status"] == "False")
            .ok_or_else(|| pipeline["status"].to_string())
    });
    assert!(accepted["message"].to_string().contains("spec.stages[1].process.filter.keep"), "{accepted}");
    let shown = || shop.metric("count", "main", "sidestream_stage_events_out_total", "stage=\"gone\"");
    let seen = shown().expect("a metric");
    thread::sleep(Duration::from_secs(3));
    assert!(shown().expect("a metric") > seen, "events flow as before");
    assert_eq!(shop.who_runs(""), before);
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_the_api_server_takes_and_no_program_can_read_is_explained_in_the_status() {
    let shop = counting("e2e-unreadable");
    shop.kubectl(&["label", "namespace", &shop.name, "sidestream.dev/validate=disabled"]).expect("labelled");
    shop.apply(&count("  - {name: once, process: {dedupe: {by: event.sequence, window: 99999999999999d}}}"));
    eventually("the edit is judged", SOON, || {
        let status = shop.get(&["pipeline/count"])?["status"].to_string();
        if status.contains("spec.stages[1].process.dedupe.window") { Ok(()) } else { Err(status) }
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn replicas_belong_to_who_scales_where_the_pipeline_does_not_name_them() {
    let shop = counting("e2e-scale");
    shop.kubectl(&["scale", "deployment/count-main-spl", "--replicas=2"]).expect("scaled");
    eventually("two pods", SOON, || match shop.pods("count", "main").len() {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
    // An edit makes the operator write its objects again.
    shop.apply(&count("  - {name: all, process: {filter: {keep: \"true\"}}}"));
    shop.wait_ready("count");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(shop.pods("count", "main").len(), 2);
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn nothing_stays_of_a_sidecar_that_was_renamed() {
    let shop = counting("e2e-rename");
    let renamed = count("").replace("  stages:", "  sidecars: [{name: other, workload: {}}]\n  stages:");
    shop.apply(&renamed);
    eventually("the new one runs alone", SOON, || {
        let kinds = "deployments,services,serviceaccounts,poddisruptionbudgets,networkpolicies";
        let objects = shop.get(&[kinds, "--selector", "sidestream.dev/pipeline=count"])?;
        let objects = objects["items"].as_array().expect("a list").iter();
        let names: Vec<_> = objects.map(|object| object["metadata"]["name"].to_string()).collect();
        let others = names.iter().filter(|name| *name == "\"count-other-spl\"").count();
        if others == 5 && names.len() == 5 { Ok(()) } else { Err(names.join(", ")) }
    });
    shop.wait_ready("count");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_last_three_plans_are_kept_to_go_back_to() {
    let shop = counting("e2e-plans");
    for divisor in 2..6 {
        let before = shop.get(&["pipeline/count"]).expect("it is there")["status"]["plan"].clone();
        shop.apply(&count(&format!(
            "  - {{name: some, process: {{filter: {{keep: \"event.sequence % {divisor} == 0\"}}}}}}"
        )));
        eventually("the plan is another", SOON, || match &shop.get(&["pipeline/count"])?["status"]["plan"] {
            plan if *plan == before => Err(plan.to_string()),
            _ => Ok(()),
        });
    }
    eventually("the oldest are gone", SOON, || {
        let kept = shop.get(&["controllerrevisions"])?["items"].as_array().expect("a list").len();
        if kept == 3 { Ok(()) } else { Err(format!("{kept} are there")) }
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_object_of_somebody_else_is_not_touched_and_the_status_names_it() {
    let shop = Namespace::new("e2e-foreign");
    shop.kubectl(&["create", "service", "clusterip", "count-main-spl", "--tcp=80"])
        .expect("somebody's service");
    let theirs =
        || shop.get(&["service/count-main-spl"]).expect("it is there")["metadata"]["resourceVersion"].clone();
    let before = theirs();
    shop.apply(&count(""));
    eventually("the status names it", SOON, || {
        let status = shop.get(&["pipeline/count"])?["status"].to_string();
        if status.contains("NameConflict") && status.contains("count-main-spl") {
            Ok(())
        } else {
            Err(status)
        }
    });
    assert_eq!(theirs(), before);

    shop.kubectl(&["delete", "service", "count-main-spl"]).expect("they give way");
    shop.wait_ready("count");
}

/// A running pipeline in one sidecar.
fn counting(name: &str) -> Namespace {
    let shop = Namespace::new(name);
    shop.apply(&count(""));
    shop.wait_ready("count");
    shop
}

fn count(more: &str) -> String {
    let text = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: count}
spec:
  stages:
  - {name: numbers, source: {generator: {rate: 100}}}
MORE
  - {name: gone, sink: {blackhole: {}}}
";
    text.replace("MORE\n", &if more.is_empty() { String::new() } else { format!("{more}\n") })
}
