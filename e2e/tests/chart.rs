//! The chart renders what its values say, and refuses values that mean nothing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn chart_and_crates_have_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    for key in ["version", "appVersion"] {
        assert!(chart.contains(&format!("\n{key}: {version}\n")), "Chart.yaml: {key} is not {version}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let Some(helm) = helm() else { return };
    for wrong in [
        "injection.failurePolicy=Perhaps",
        "operator.replicas=0",
        "images.sidecra=x",
        "trustDomain=A_B",
        "images.pullPolicy=Sometimes",
        "x=1",
    ] {
        let said = render(&helm, &["--set", wrong]).expect_err(wrong);
        let name = wrong.split(['.', '=']).next().unwrap();
        assert!(said.contains(name), "{wrong}: {said}");
    }
}

#[test]
fn prometheus_is_told_of_us_only_where_its_operator_is() {
    let Some(helm) = helm() else { return };
    let apis = "monitoring.coreos.com/v1/PodMonitor,monitoring.coreos.com/v1/PrometheusRule";
    let with = render(&helm, &["--api-versions", apis]).unwrap();
    let without = render(&helm, &[]).unwrap();
    for kind in ["kind: PodMonitor", "kind: PrometheusRule"] {
        assert!(with.contains(kind) && !without.contains(kind), "{kind}");
    }
    // What the rules say to a person is theirs, not the chart's, to fill in.
    assert!(with.contains("{{ $labels.stage }}"));
}

#[test]
fn the_definition_of_a_pipeline_outlives_the_release_unless_it_is_told_not_to() {
    let Some(helm) = helm() else { return };
    let kept = "helm.sh/resource-policy: keep";
    assert!(render(&helm, &[]).unwrap().contains(kept));
    assert!(!render(&helm, &["--set", "crds.keep=false"]).unwrap().contains(kept));
    assert!(!render(&helm, &["--set", "crds.enabled=false"]).unwrap().contains("CustomResourceDefinition"));
}

#[test]
fn replicas_get_a_disruption_budget_when_there_are_several() {
    let Some(helm) = helm() else { return };
    assert!(!render(&helm, &[]).unwrap().contains("PodDisruptionBudget"));
    assert!(render(&helm, &["--set", "operator.replicas=2"]).unwrap().contains("PodDisruptionBudget"));
}

#[test]
fn only_pods_that_ask_for_a_sidecar_can_be_kept_waiting_for_one() {
    let Some(helm) = helm() else { return };
    let rendered = render(&helm, &[]).unwrap();
    let injects = document(&rendered, "kind: MutatingWebhookConfiguration");
    for part in [
        "objectSelector:\n    matchLabels: {sidestream.dev/inject: enabled}",
        "values: [kube-system, kube-public, kube-node-lease, sidestream-system]",
        "{key: sidestream.dev/inject, operator: NotIn, values: [disabled]}",
        "operations: [CREATE]",
        "failurePolicy: Fail",
        "timeoutSeconds: 5",
    ] {
        assert!(injects.contains(part), "{part}: {injects}");
    }
    let ignoring = render(&helm, &["--set", "injection.failurePolicy=Ignore"]).unwrap();
    assert!(document(&ignoring, "kind: MutatingWebhookConfiguration").contains("failurePolicy: Ignore"));
    assert!(!render(&helm, &["--set", "injection.enabled=false"]).unwrap().contains("kind: Mutating"));
}

#[test]
fn a_pipeline_is_never_kept_waiting_for_the_operator() {
    let Some(helm) = helm() else { return };
    let rendered = render(&helm, &[]).unwrap();
    let validates = document(&rendered, "kind: ValidatingWebhookConfiguration");
    for part in ["failurePolicy: Ignore", "timeoutSeconds: 5", "object.spec != oldObject.spec"] {
        assert!(validates.contains(part), "{part}: {validates}");
    }
    assert!(!render(&helm, &["--set", "validation.enabled=false"]).unwrap().contains("kind: Validating"));
}

/// The YAML document that has `text` in it.
fn document<'a>(rendered: &'a str, text: &str) -> &'a str {
    rendered.split("\n---").find(|document| document.contains(text)).unwrap_or_else(|| panic!("no {text}"))
}

/// What would be applied, or what Helm complained of.
fn render(helm: &Path, arguments: &[&str]) -> Result<String, String> {
    let said = Command::new(helm)
        .args(["template", "sidestream", "--namespace", "sidestream-system"])
        .arg(chart())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/sidestream")
}

/// The Helm that `make e2e` built, or the machine's own.
fn helm() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let built = cache.map(|cache| cache.join("sidestream/cluster/bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let found = built.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join("helm"));
    let found = found.into_iter().find(|helm| helm.is_file());
    if found.is_none() {
        println!("skipped: no helm; make e2e builds one");
    }
    found
}
