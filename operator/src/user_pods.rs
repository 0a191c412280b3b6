//! The pods of the user's that ask for a sidecar: as little of each as decisions need.
//!
//! One watch feeds it, of pods with the label `sidestream.dev/inject: enabled` alone. What changes stirs the namespace:
//! each of its pipelines may have such pods. They are only ever looked at; to make them is the user's, to give them a
//! sidecar the webhook's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    core::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt, watcher},
};
use sidestream_crds::SidecarPlan;
use sidestream_desired::{Secrets, inject, labels, ports};
use sidestream_plan::Plan;
use tokio::sync::watch;

use crate::{control::Account, observed::PAGE, stirred::Stirred};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserPod {
    /// Its name.
    pub name: String,
    /// Whom it runs as.
    pub account: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it got what it asks for.
    pub has_sidecar: bool,
    /// The Secrets that its sidecar has mounted.
    pub secrets: Secrets,
    /// The ports that its other containers say they have.
    pub ports: BTreeSet<i32>,
    /// Whether its containers run.
    pub is_running: bool,
    /// Whether it is being removed.
    pub is_leaving: bool,
}

impl UserPod {
    /// Whether its sidecar is to run `plan`. Where a stage listened on a port of the app's, that could not when the pod is
    /// next made: the sidecar is first up.
    pub fn runs(&self, plan: &Plan) -> bool {
        self.has_sidecar && self.clash(plan).is_none()
    }

    /// The port on which both a stage of `plan` and another container listen.
    pub fn clash(&self, plan: &Plan) -> Option<i32> {
        if self.ports.is_empty() {
            return None;
        }
        ports::listened(plan).intersection(&self.ports).next().copied()
    }
}

/// The pods that host each sidecar of a pipeline, by its name.
pub type Hosting = BTreeMap<String, Vec<UserPod>>;

/// All such pods. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct UserPods {
    /// By namespace and name.
    pods: Arc<Mutex<HashMap<String, BTreeMap<String, UserPod>>>>,
    stirred: Stirred,
    /// The namespaces where there were none before.
    entered: Stirred,
}

impl UserPods {
    /// Watches them until dropped; `ready` becomes true when all there are have been seen.
    pub async fn watch(self, client: Client, ready: watch::Sender<bool>) {
        let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<Pod>(&()));
        let selector = format!("{}={}", labels::INJECT, labels::INJECT_ENABLED);
        let config =
            watcher::Config { page_size: Some(PAGE), ..watcher::Config::default().labels(&selector) };
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        // A new list replaces what was known: what is not in it is gone.
        let mut listed: HashSet<(String, String)> = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.insert((pod.namespace().unwrap_or_default(), pod.name_any()));
                    self.see(&pod);
                }
                Ok(watcher::Event::InitDone) => {
                    self.keep_only(&listed);
                    ready.send_replace(true);
                }
                Ok(watcher::Event::Apply(pod)) => self.see(&pod),
                Ok(watcher::Event::Delete(pod)) => {
                    self.forget(&pod.namespace().unwrap_or_default(), &pod.name_any());
                }
                Err(error) => tracing::warn!(%error, "pods that ask for a sidecar cannot be watched now"),
            }
        }
    }

    /// This is how a pod is.
    pub fn see(&self, pod: &DynamicObject) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let Some(seen) = of(pod) else { return self.forget(&namespace, &name) };
        let mut pods = self.lock();
        let is_first = !pods.contains_key(&namespace);
        let before = pods.entry(namespace.clone()).or_default().insert(name, seen.clone());
        drop(pods);
        if is_first {
            self.enter(&namespace);
        }
        if before.as_ref() != Some(&seen) {
            self.stirred.add([namespace]);
        }
    }

    fn forget(&self, namespace: &str, name: &str) {
        let mut pods = self.lock();
        let Some(of_namespace) = pods.get_mut(namespace) else { return };
        let was_known = of_namespace.remove(name).is_some();
        if of_namespace.is_empty() {
            pods.remove(namespace);
        }
        drop(pods);
        if was_known {
            self.stirred.add([namespace.to_owned()]);
        }
    }

    fn keep_only(&self, listed: &HashSet<(String, String)>) {
        let known: Vec<(String, String)> = (self.lock().iter())
            .flat_map(|(namespace, pods)| pods.keys().map(|name| (namespace.clone(), name.clone())))
            .collect();
        for (namespace, name) in known.into_iter().filter(|pod| !listed.contains(pod)) {
            self.forget(&namespace, &name);
        }
    }

    /// The pods of `namespace` that host each of `sidecars`, all those of a pipeline. A pod hosts one of them at most.
    pub fn hosting(&self, namespace: &str, sidecars: &[SidecarPlan]) -> Hosting {
        let hosts = sidecars.iter().filter(|own| own.host.selector().is_some());
        let mut hosting: Hosting = hosts.map(|own| (own.name.clone(), Vec::new())).collect();
        if hosting.is_empty() {
            return hosting;
        }
        for pod in self.lock().get(namespace).into_iter().flat_map(BTreeMap::values) {
            if let Some(own) = inject::hosted(&pod.labels, sidecars) {
                hosting.entry(own.name.clone()).or_default().push(pod.clone());
            }
        }
        hosting
    }

    /// How many pods of each account run, of those that are `told` something.
    pub fn running(&self, told: &HashSet<(Account, String)>) -> HashMap<Account, usize> {
        let mut running = HashMap::new();
        for (namespace, pods) in &*self.lock() {
            for pod in pods.values().filter(|pod| pod.is_running && !pod.is_leaving) {
                let account = (namespace.clone(), pod.account.clone());
                if told.contains(&(account.clone(), pod.name.clone())) {
                    *running.entry(account).or_default() += 1;
                }
            }
        }
        running
    }

    /// The namespaces in which pods ask for a sidecar for the first time; waits until there are some.
    pub async fn entered(&self) -> Vec<String> {
        self.entered.next().await
    }

    /// Names a namespace as if pods asked there for the first time, if some do.
    pub fn enter_again(&self, namespace: &str) {
        if self.lock().contains_key(namespace) {
            self.enter(namespace);
        }
    }

    fn enter(&self, namespace: &str) {
        self.entered.add([namespace.to_owned()]);
    }

    /// The namespaces that have such pods.
    pub fn namespaces(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The namespaces whose pods have changed since the last call; waits until there are some.
    pub async fn stirred(&self) -> Vec<String> {
        self.stirred.next().await
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, UserPod>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is remembered of a pod; none where it has ended.
fn of(pod: &DynamicObject) -> Option<UserPod> {
    let (spec, status) = (&pod.data["spec"], &pod.data["status"]);
    let phase = status["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    Some(UserPod {
        name: pod.name_any(),
        account: spec["serviceAccountName"].as_str().unwrap_or("default").to_owned(),
        labels: pod.labels().clone(),
        has_sidecar: inject::has_sidecar(spec),
        secrets: inject::mounted_secrets(spec),
        ports: inject::declared_ports(spec),
        is_running: phase == "Running",
        is_leaving: pod.metadata.deletion_timestamp.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use sidestream_crds::compile;
    use tokio::time::timeout;

    use super::*;

    const ORDERS: &[u8] = b"
kind: Pipeline
metadata: {name: orders, namespace: shop}
spec:
  sidecars:
  - {name: front, inject: {podSelector: {matchLabels: {app: front}}}}
  - {name: web, inject: {podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}}
  stages:
  - {name: tick, sidecar: front, source: {generator: {}}}
  - {name: show, sink: {console: {}}}
  - {name: tock, sidecar: web, source: {generator: {}}}
  - {name: hide, sink: {blackhole: {}}}
";

    fn pod(name: &str, labels: serde_json::Value, phase: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "spec": {"serviceAccountName": "till", "containers": []},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn names(pods: &UserPods, sidecar: &str) -> Vec<String> {
        let sidecars = compile(ORDERS, "orders").pipelines.remove(0).sidecars;
        pods.hosting("shop", &sidecars)[sidecar].iter().map(|pod| pod.name.clone()).collect()
    }

    #[test]
    fn a_pod_hosts_the_first_sidecar_that_selects_it_until_it_ends() {
        let pods = UserPods::default();
        pods.see(&pod("a", json!({"app": "front", "tier": "1"}), "Running"));
        pods.see(&pod("b", json!({"tier": "1"}), "Running"));
        pods.see(&pod("c", json!({"app": "back"}), "Running"));
        assert_eq!((names(&pods, "front"), names(&pods, "web")), (vec!["a".into()], vec!["b".into()]));
        pods.see(&pod("a", json!({"app": "front"}), "Succeeded"));
        assert!(names(&pods, "front").is_empty());
    }

    #[tokio::test]
    async fn only_what_matters_stirs() {
        let pods = UserPods::default();
        pods.see(&pod("a", json!({"app": "front"}), "Pending"));
        assert_eq!(pods.stirred().await, ["shop"]);
        let mut same = pod("a", json!({"app": "front"}), "Pending");
        same.metadata.resource_version = Some("7".into());
        pods.see(&same);
        let silence = timeout(Duration::from_millis(20), pods.stirred()).await;
        assert!(silence.is_err(), "nothing that matters has changed");
        pods.see(&pod("a", json!({"app": "front"}), "Running"));
        assert_eq!(pods.stirred().await, ["shop"]);
        pods.keep_only(&HashSet::new());
        assert_eq!(pods.stirred().await, ["shop"], "what a new list does not have is gone");
        assert!(names(&pods, "front").is_empty());
    }

    #[test]
    fn pods_that_are_told_something_are_counted_by_whom_they_run_as() {
        let pods = UserPods::default();
        pods.see(&pod("a", json!({}), "Running"));
        pods.see(&pod("b", json!({}), "Pending"));
        pods.see(&pod("c", json!({}), "Running"));
        let account: Account = ("shop".into(), "till".into());
        let told = ["a", "b"].map(|name| (account.clone(), name.to_owned())).into();
        assert_eq!(pods.running(&told), [(account, 1)].into());
    }
}
