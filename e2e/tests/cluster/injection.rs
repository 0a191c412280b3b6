//! Sidecars in a user's own pods, and what the API server asks before it takes a Pipeline.

use std::env;

use serde_json::Value;
use sidestream_e2e::eventually;

use crate::{
    no_operator::{POD, operator, scale},
    world::{Namespace, SOON, kubectl},
};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn events_go_from_a_users_pods_to_a_hub_and_back_and_a_later_pipeline_restarts_nothing() {
    let shop = Namespace::new("e2e-injection");
    shop.apply(&pipeline("orders"));
    shop.apply(&deployment());
    shop.wait_ready("orders");

    let pods = pods(&shop);
    assert_eq!(pods.len(), 2);
    for pod in &pods {
        let sidecars = pod["spec"]["initContainers"].as_array().expect("a sidecar");
        assert_eq!((sidecars.len(), &sidecars[0]["name"]), (1, &"sidestream".into()));
    }
    let shown = || shop.metric("orders", "hub", "sidestream_stage_events_out_total", "stage=\"even\"");
    eventually("events arrive in the hub", SOON, || match shown()? {
        few if few < 300.0 => Err(format!("{few} events")),
        enough => Ok(enough),
    });
    eventually("events come back", SOON, || match events_in(&shop, &pods, "show")? {
        few if few < 100.0 => Err(format!("{few} events")),
        enough => Ok(enough),
    });

    let before = shop.who_runs("app=shopfront");
    shop.apply(&pipeline("later"));
    shop.wait_ready("later");
    assert_eq!(shop.who_runs("app=shopfront"), before, "no pod was made, no container was restarted");
    let its = || shop.metric("later", "hub", "sidestream_stage_events_out_total", "stage=\"even\"");
    eventually("its events arrive, too", SOON, || match its()? {
        0.0 => Err("none".into()),
        some => Ok(some),
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_pod_starts_with_its_sidecar_where_there_is_no_pipeline_yet() {
    let shop = Namespace::new("e2e-no-pipeline");
    shop.apply(&deployment());
    shop.kubectl(&["rollout", "status", "deployment/shopfront", "--timeout=60s"]).expect("it runs");
    let before = shop.who_runs("app=shopfront");
    shop.apply(&pipeline("orders"));
    shop.wait_ready("orders");
    assert_eq!(shop.who_runs("app=shopfront"), before);
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_pod_that_a_sidecar_would_be_in_the_way_of_is_refused_with_the_reason() {
    let shop = Namespace::new("e2e-refusal");
    let clash = deployment().replace("containerPort: 8080", "containerPort: 9464");
    shop.apply(&clash);
    eventually("its ReplicaSet is told why", SOON, || {
        let events = shop.get(&["events", "--field-selector", "reason=FailedCreate"])?;
        match events.to_string() {
            told if told.contains("container `shop` has port 9464") => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn without_an_operator_only_new_pods_that_ask_for_a_sidecar_wait_and_what_runs_starts_again_by_itself() {
    let shop = Namespace::alone("e2e-no-injector");
    shop.apply(&pipeline("orders"));
    shop.apply(&deployment());
    shop.wait_ready("orders");
    scale(0);
    operator(&["wait", "--for=delete", "pod", "--selector", POD, "--timeout=60s"]);

    let other = deployment().replace("shopfront", "other").replace(", sidestream.dev/inject: enabled", "");
    shop.apply(&other);
    shop.kubectl(&["rollout", "status", "deployment/other", "--timeout=60s"]).expect("it asks for nothing");
    shop.kubectl(&["scale", "deployment/shopfront", "--replicas=3"]).expect("scaled");
    eventually("its ReplicaSet is told why", SOON, || {
        let events = shop.get(&["events", "--field-selector", "reason=FailedCreate"])?;
        match events.to_string() {
            told if told.contains("inject.sidestream.dev") => Ok(()),
            other => Err(other),
        }
    });
    // A Pipeline is taken unseen: the status is for what is wrong with it.
    shop.apply(&pipeline("unseen").replace("event.sequence % 2", "event.sequence % 'two'"));
    let first = pods(&shop)[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let before = events_in(&shop, &pods(&shop), "show").expect("it runs");
    eventually("events go on", SOON, || match events_in(&shop, &pods(&shop), "show")? {
        after if after > before + 100.0 => Ok(()),
        after => Err(format!("{after} events")),
    });

    scale(1);
    shop.kubectl(&["delete", "pod", &first]).expect("deleted");
    shop.kubectl(&["rollout", "status", "deployment/shopfront", "--timeout=90s"]).expect("all three run");
    shop.wait_ready("orders");
    assert_eq!(pods(&shop).iter().filter(|pod| pod["spec"]["initContainers"].is_array()).count(), 3);
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn kubectl_apply_of_a_pipeline_that_does_not_compile_is_answered_with_what_is_wrong() {
    let shop = Namespace::new("e2e-validation");
    let bad = pipeline("bad").replace("event.sequence % 2", "event.sequence % 'two'");
    let bad = bad.replace("name: show, sidecar", "name: show, from: [evne], sidecar");
    let said = eventually("the webhook answers", SOON, || {
        match kubectl(&["--namespace", &shop.name, "apply", "-f", "-"], &bad) {
            Err(said) => Ok(said),
            // The operator has only just begun, and the API server does not trust it yet.
            Ok(_) => shop.kubectl(&["delete", "pipeline", "bad"]).and(Err("it was taken".into())),
        }
    });
    for part in ["unknown-stage", "`even`", "spec.stages[1].process.filter.keep", "validate.sidestream.dev"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

pub(crate) fn pipeline(name: &str) -> String {
    format!(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  sidecars:
  - {{name: app, inject: {{podSelector: {{matchLabels: {{app: shopfront}}}}}}}}
  - {{name: hub, workload: {{}}}}
  stages:
  - {{name: numbers, sidecar: app, source: {{generator: {{rate: 200}}}}}}
  - {{name: even, sidecar: hub, process: {{filter: {{keep: \"event.sequence % 2 == 0\"}}}}}}
  - {{name: show, sidecar: app, sink: {{blackhole: {{}}}}}}
"
    )
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_job_ends_when_its_own_container_has_and_everything_of_its_sidecar_is_delivered() {
    if env::var("SIDESTREAM_E2E_HOST").is_err() {
        println!("skipped: no image of a program that ends is known on this cluster");
        return;
    }
    let shop = Namespace::new("e2e-job");
    shop.apply(&pipeline("orders").replace("name: show, sidecar: app", "name: show"));
    let pod = deployment().split_once("  template:").expect("a template").1.to_owned();
    let pod = pod.replace("localhost/pause:1", "localhost/kubectl:1\n        args: [version, --client]");
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once}\nspec:\n  template:";
    shop.apply(&format!("{job}{pod}      restartPolicy: Never\n"));
    shop.kubectl(&["wait", "--for=condition=complete", "job/once", "--timeout=60s"]).expect("it completes");
    let said = shop.kubectl(&["logs", "job/once", "--container=sidestream"]).expect("a log");
    assert!(!said.contains("in_flight"), "{said}");
}

/// A program of the user's that knows nothing of us: it sleeps.
pub(crate) fn deployment() -> String {
    let image = match env::var("SIDESTREAM_E2E_HOST") {
        Ok(_) => "localhost/pause:1",
        Err(_) => "registry.k8s.io/pause:3.10",
    };
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: shopfront}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: shopfront}}}}
  template:
    metadata: {{labels: {{app: shopfront, sidestream.dev/inject: enabled}}}}
    spec:
      securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: shop
        image: {image}
        ports: [{{containerPort: 8080}}]
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    )
}

fn pods(shop: &Namespace) -> Vec<Value> {
    let pods = shop.get(&["pods", "--selector", "app=shopfront"]).expect("pods can be listed");
    pods["items"].as_array().expect("a list").clone()
}

/// Events that came into a stage in the user's pods.
fn events_in(shop: &Namespace, pods: &[Value], stage: &str) -> Result<f64, String> {
    let names = pods.iter().map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned());
    let names: Vec<String> = names.collect();
    shop.metric_of(&names, "sidestream_stage_events_in_total", &format!("stage=\"{stage}\""))
}
