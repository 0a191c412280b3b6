//! What the operator costs and how fast it is: a process of its own beside a real API server.
//!
//! `cargo bench -p sidestream-operator --bench load [-- PIPELINES IDLE_SECONDS]`, 1000 and 300 unless said. Nobody makes
//! pods there, so the bench puts them down and is the sidecar in each, with a token, a certificate and a session as a real
//! one. In this order: Pipelines are created, some are edited, nothing happens, sidecars connect, a plan changes that 50
//! of them run. It needs what `make e2e` builds of Kubernetes, and says so where that is missing. `SIDESTREAM_OPERATOR`
//! names another program than cargo's, as the static one of the image. Prints JSON lines.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a bench measures real time")]

mod api_server;
mod operator;
mod sidecars;

use std::time::{Duration, Instant};

use api_server::ApiServer;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::wait::await_condition,
};
use operator::Operator;
use serde_json::{Value, json};
use sidecars::Sidecar;
use sidestream_crds::Pipeline;

/// Pipelines of a namespace.
const TOGETHER: usize = 100;
const CREATED_EVERY: Duration = Duration::from_millis(50);
const EDITED_EVERY: Duration = Duration::from_millis(200);
const EDITED: usize = 200;
/// Sidecars that connect, each of another Pipeline.
const CONNECTED: usize = 200;
/// Sidecars of one Pipeline whose plan changes, and how often it does.
const WIDE: usize = 50;
const CHANGES: usize = 11;
/// For this long after it began to lead, an operator looks again by itself.
const EARLY: Duration = Duration::from_secs(65);

#[tokio::main]
async fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut numbers = std::env::args().filter_map(|text| text.parse::<u64>().ok());
    let pipelines = usize::try_from(numbers.next().unwrap_or(1000)).expect("it fits").max(CONNECTED);
    let idle = Duration::from_secs(numbers.next().unwrap_or(300));
    let Some(server) = ApiServer::start() else {
        eprintln!("left out: needs the programs of the cluster, which `make e2e` builds on Linux with Go");
        return;
    };
    let client = server.client().await;
    let operator = Operator::start(&server);
    let began = Instant::now();
    let names: Vec<_> = (0..pipelines).map(name).collect();
    server.make_namespaces(names.iter().map(|(namespace, _)| namespace.as_str()));

    let before = operator.reconciles();
    one_after_the_other(CREATED_EVERY, &names, |name| apply(&client, name, pipeline(1, None))).await;
    operator.settles(pipelines).await;
    let created = operator.reconciles().since(&before);
    say("reconcile p99, Pipelines created 20 a second", created.quantile(0.99) * 1e3, "ms");

    let before = operator.reconciles();
    one_after_the_other(EDITED_EVERY, &names[..EDITED], |name| apply(&client, name, pipeline(2, None))).await;
    operator.settles(pipelines).await;
    let edited = operator.reconciles().since(&before);
    say("reconcile p99, Pipelines edited 5 a second", edited.quantile(0.99) * 1e3, "ms");

    tokio::time::sleep(EARLY.saturating_sub(began.elapsed())).await;
    let before = server.writes();
    tokio::time::sleep(idle).await;
    let (writes, renewals) = server.writes().since(&before);
    say(&format!("API writes in {} idle seconds", idle.as_secs()), writes as f64, "writes");
    eprintln!("besides, the Lease was renewed {renewals} times");
    let resident = operator.resident_bytes();
    say(
        &format!("resident memory, {pipelines} Pipelines and no sidecar"),
        resident as f64 / 1_048_576.0,
        "MiB",
    );

    let sidecars = connect(&client, names[..CONNECTED].iter().map(|name| (name, 0)).collect()).await;
    operator.settles(pipelines).await;
    let each = (operator.resident_bytes() - resident) as f64 / CONNECTED as f64;
    say(&format!("resident memory, for each of {CONNECTED} connected sidecars"), each / 1024.0, "KiB");

    let (told, acknowledged) = changes(&client, &server, &names[0].0).await;
    say(&format!("plan change told to {WIDE} sidecars, median"), median(&told), "ms");
    say(&format!("plan change acknowledged by {WIDE} sidecars, median"), median(&acknowledged), "ms");
    let most = acknowledged.iter().copied().fold(0.0, f64::max);
    say(&format!("plan change acknowledged by {WIDE} sidecars, longest of {CHANGES}"), most, "ms");
    drop(sidecars);
}

fn say(what: &str, value: f64, unit: &str) {
    println!(
        "{}",
        json!({"bench": format!("operator: {what}"), "who": "sidestream", "value": value, "unit": unit})
    );
    eprintln!("{what}: {value:.1} {unit}");
}

/// Namespace and name of the Pipeline with this number.
fn name(number: usize) -> (String, String) {
    (format!("bench-{}", number / TOGETHER), format!("p{number}"))
}

/// A small one, of which every `edit` is another plan.
fn pipeline(edit: usize, replicas: Option<usize>) -> Value {
    let mut spec = json!({"stages": [
        {"name": "requests", "source": {"http": {"listen": "0.0.0.0:8080", "path": "/events"}}},
        {"name": "some", "process": {"filter": {"keep": format!("event.sequence % {} == 0", edit + 1)}}},
        {"name": "minute", "process": {"window": {"tumbling": "1m", "by": "event.route", "emit": {"max": "event.millis"}}}},
        {"name": "out", "sink": {"webhook": {"url": "http://collector.example/events"}}},
    ]});
    if let Some(replicas) = replicas {
        spec["sidecars"] = json!([{"name": "main", "workload": {"replicas": replicas}}]);
    }
    spec
}

async fn apply(client: &Client, (namespace, name): &(String, String), spec: Value) -> Pipeline {
    let object = json!({
        "apiVersion": "sidestream.dev/v1alpha1", "kind": "Pipeline",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    let api: Api<Pipeline> = Api::namespaced(client.clone(), namespace);
    api.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(&object)).await.expect("applied")
}

/// Does something for each name, open loop: late or not, the next one is due when it is.
async fn one_after_the_other<'a, F: Future>(
    every: Duration,
    names: &'a [(String, String)],
    mut act: impl FnMut(&'a (String, String)) -> F,
) {
    let mut due = tokio::time::interval(every);
    for name in names {
        due.tick().await;
        act(name).await;
    }
}

/// A sidecar in a pod of each of these Pipelines; the number tells pods of one Pipeline apart.
async fn connect(client: &Client, pods: Vec<(&(String, String), usize)>) -> Vec<Sidecar> {
    let mut sidecars = Vec::new();
    for ((namespace, pipeline), number) in pods {
        let account = format!("{pipeline}-main-spl");
        sidecars.push(Sidecar::connect(client, namespace, &account, &format!("{account}-{number}")).await);
    }
    for sidecar in &mut sidecars {
        sidecar.has_another_plan_than("").await;
    }
    sidecars
}

/// How long each change of a plan takes, in milliseconds: until the last of the sidecars has it, and until the status says
/// that all of them run it.
async fn changes(client: &Client, server: &ApiServer, namespace: &str) -> (Vec<f64>, Vec<f64>) {
    let wide = (namespace.to_owned(), "wide".to_owned());
    let api: Api<Pipeline> = Api::namespaced(client.clone(), namespace);
    apply(client, &wide, pipeline(1, Some(WIDE))).await;
    server.pods_are_ready(namespace, "wide-main-spl", WIDE).await;
    let mut sidecars = connect(client, (0..WIDE).map(|number| (&wide, number)).collect()).await;
    await_condition(api.clone(), "wide", is_ready_at(1)).await.expect("a watch");
    let (mut told, mut acknowledged) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let generation = i64::try_from(change).expect("few") + 2;
        let before = sidecars[0].plan();
        let begun = Instant::now();
        let milliseconds = || begun.elapsed().as_secs_f64() * 1e3;
        let is_said = async {
            await_condition(api.clone(), "wide", is_ready_at(generation)).await.expect("a watch");
            milliseconds()
        };
        let are_told = async {
            apply(client, &wide, pipeline(2 + change, Some(WIDE))).await;
            for sidecar in &mut sidecars {
                sidecar.has_another_plan_than(&before).await;
            }
            milliseconds()
        };
        let (said, heard) = tokio::join!(is_said, are_told);
        acknowledged.push(said);
        told.push(heard);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    (told, acknowledged)
}

/// Whether the status says of a generation that every stage runs, which is when every pod has said so.
fn is_ready_at(generation: i64) -> impl Fn(Option<&Pipeline>) -> bool {
    move |pipeline| {
        let status = pipeline.and_then(|pipeline| pipeline.status.clone()).unwrap_or_default();
        let mut conditions = status.conditions.iter();
        status.observed_generation == Some(generation)
            && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
