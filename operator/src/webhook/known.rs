//! Which Secrets a pod of the user's needs, known before it is made.
//!
//! ```text
//! watch Pipelines ─▶ compiled once for each change ─▶ of each sidecar in the user's pods: its selector and its Secrets
//! /mutate ─ namespace, labels ─────────────────────▶ Secrets, or none where not all Pipelines have been seen, or the watch fails
//! ```
//!
//! Every replica has its own, because every replica answers. It may lag behind the API server for a moment: a pod that is made
//! in that moment lacks a Secret, and the status of the Pipeline says so.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, ResourceExt,
    core::{ApiResource, DynamicObject, TypeMeta},
    runtime::{WatchStreamExt, watcher},
};
use sidestream_crds::{Diagnostic, Host, Pipeline, SidecarPlan, compile_resource};
use sidestream_desired::{Secrets, read_revision, revision_name};

use crate::observed::PAGE;

/// What is known. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Known(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Whether all that there are have been seen, as far as a watch shows it that does not fail.
    is_whole: bool,
    /// By namespace and name, where any of its sidecars runs in pods of the user's.
    pipelines: HashMap<String, BTreeMap<String, Vec<Hosted>>>,
}

/// A sidecar in pods of the user's.
struct Hosted {
    host: Host,
    secrets: Secrets,
}

impl Known {
    /// The Secrets for a pod with these labels. None while that is not known.
    pub(super) fn secrets(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Option<Secrets> {
        let state = self.lock();
        let mut secrets = Secrets::new();
        for sidecars in state.pipelines.get(namespace).into_iter().flat_map(BTreeMap::values) {
            // A pod hosts one sidecar of a pipeline at most: the first that selects it.
            let selects =
                |own: &&Hosted| own.host.selector().is_some_and(|selector| selector.matches(labels));
            for (name, keys) in sidecars.iter().find(selects).into_iter().flat_map(|own| &own.secrets) {
                secrets.entry(name.clone()).or_default().extend(keys.iter().cloned());
            }
        }
        state.is_whole.then_some(secrets)
    }

    /// Keeps it up, until dropped.
    pub(super) async fn follow(self, client: Client) {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<Pipeline>(&()));
        let config = watcher::Config { page_size: Some(PAGE), ..watcher::Config::default() };
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        // A new list replaces what was known: what is not in it is gone.
        let mut listed: HashSet<(String, String)> = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(pipeline)) => {
                    listed.insert((pipeline.namespace().unwrap_or_default(), pipeline.name_any()));
                    self.see(pipeline, &client).await;
                }
                Ok(watcher::Event::InitDone) => self.is_whole(&listed),
                // What comes after a list comes in order: where this has been seen, so has all before it.
                Ok(watcher::Event::Apply(pipeline)) => {
                    self.see(pipeline, &client).await;
                    self.lock().is_whole = true;
                }
                Ok(watcher::Event::Delete(pipeline)) => {
                    self.forget(&pipeline.namespace().unwrap_or_default(), &pipeline.name_any());
                    self.lock().is_whole = true;
                }
                Err(error) => {
                    // It may have missed something: who asks is to ask the API server.
                    self.lock().is_whole = false;
                    tracing::warn!(%error, "pipelines cannot be watched now for the pods that are made");
                }
            }
        }
    }

    /// This is how a Pipeline is.
    async fn see(&self, pipeline: DynamicObject, client: &Client) {
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        match running(pipeline, client).await {
            Ok(sidecars) => self.learn(&namespace, name, &sidecars),
            // What was known of it is as good as anything.
            Err(error) => tracing::warn!(namespace, name, error, "what runs of a pipeline is not known"),
        }
    }

    fn learn(&self, namespace: &str, name: String, sidecars: &[SidecarPlan]) {
        let hosted = sidecars.iter().filter(|own| own.host.selector().is_some());
        let hosted: Vec<Hosted> =
            hosted.map(|own| Hosted { host: own.host.clone(), secrets: own.plan.secrets() }).collect();
        if hosted.is_empty() {
            return self.forget(namespace, &name);
        }
        self.lock().pipelines.entry(namespace.to_owned()).or_default().insert(name, hosted);
    }

    fn forget(&self, namespace: &str, name: &str) {
        let mut state = self.lock();
        let Some(of_namespace) = state.pipelines.get_mut(namespace) else { return };
        of_namespace.remove(name);
        if of_namespace.is_empty() {
            state.pipelines.remove(namespace);
        }
    }

    /// These are all there are.
    fn is_whole(&self, listed: &HashSet<(String, String)>) {
        let mut state = self.lock();
        for (namespace, pipelines) in &mut state.pipelines {
            pipelines.retain(|name, _| listed.contains(&(namespace.clone(), name.clone())));
        }
        state.pipelines.retain(|_, pipelines| !pipelines.is_empty());
        state.is_whole = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sidecars of a Pipeline as they run: a spec that does not compile changes nothing.
pub(super) async fn running(
    mut pipeline: DynamicObject,
    client: &Client,
) -> Result<Vec<SidecarPlan>, String> {
    pipeline.types.get_or_insert_with(TypeMeta::resource::<Pipeline>);
    let last_good = pipeline.data["status"]["plan"].as_str().map(str::to_owned);
    let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    let compiled = pipeline.try_parse::<Pipeline>().ok().map(|pipeline| compile_resource(&pipeline));
    let (own, is_sound) = compiled.map_or_else(Default::default, |(compiled, found)| {
        (compiled.sidecars, !found.iter().any(Diagnostic::is_error))
    });
    match last_good {
        Some(hash) if !is_sound => {
            let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
            let revision =
                api.get_opt(&revision_name(&name, &hash)).await.map_err(|error| error.to_string())?;
            // It may be gone.
            Ok(revision.as_ref().and_then(read_revision).unwrap_or(own))
        }
        _ => Ok(own),
    }
}

#[cfg(test)]
mod tests {
    use sidestream_crds::compile;

    use super::*;

    fn sidecars(name: &str, secret: &str) -> Vec<SidecarPlan> {
        let text = format!(
            "{{kind: Pipeline, metadata: {{name: {name}, namespace: shop}}, spec: {{
            sidecars: [{{name: app, inject: {{podSelector: {{matchLabels: {{app: front}}}}}}}}],
            stages: [{{name: tick, source: {{generator: {{}}}}}}, {{name: page, sink: {{webhook: {{url: 'http://a',
            credentials: {{secretRef: {{name: {secret}, key: token}}}}}}}}}}]}}}}"
        );
        let compiled = compile(text.as_bytes(), name);
        assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
        compiled.pipelines.into_iter().flat_map(|pipeline| pipeline.sidecars).collect()
    }

    #[test]
    fn nothing_is_said_before_all_is_known_and_what_is_gone_is_forgotten() {
        let known = Known::default();
        let labels = [("app".to_owned(), "front".to_owned())].into();
        let names = |known: &Known| {
            known.secrets("shop", &labels).map(|secrets| secrets.into_keys().collect::<Vec<_>>())
        };
        known.learn("shop", "a".into(), &sidecars("a", "am"));
        known.learn("shop", "b".into(), &sidecars("b", "bm"));
        assert_eq!(names(&known), None);
        let all = ["a", "b"].map(|name| ("shop".to_owned(), name.to_owned())).into();
        known.is_whole(&all);
        assert_eq!(names(&known).unwrap(), ["am", "bm"]);
        let others = [("app".to_owned(), "back".to_owned())].into();
        assert_eq!(known.secrets("shop", &others), Some(Secrets::new()));
        assert_eq!(known.secrets("other", &labels), Some(Secrets::new()));
        known.learn("shop", "a".into(), &sidecars("a", "cm"));
        assert_eq!(names(&known).unwrap(), ["bm", "cm"]);
        known.forget("shop", "a");
        known.is_whole(&HashSet::new());
        assert_eq!(names(&known).unwrap(), Vec::<String>::new());
    }
}
