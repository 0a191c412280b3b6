//! An API server in memory: enough of one to reconcile against, which can die at any write.
//!
//! It knows GET, POST, PATCH (server-side apply by one manager), PUT and DELETE of single objects, uids, resource
//! versions, generations, preconditions and the garbage collection of what an object owned.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{
    Client,
    client::Body,
    core::{DeserializeGuard, DynamicObject},
    runtime::events::{Recorder, Reporter},
};
use serde_json::{Value, json};
use sidestream_control::{Counts, Drained, Leaving, Report};
use sidestream_crds::Pipeline;
use sidestream_desired::Facts;
use sidestream_host::Clock;
use sidestream_operator::{
    apply::{Applier, key_of},
    control::{Connected, Fleet},
    controllers::{Backoff, Context, reconcile},
    metrics::Metrics,
    observed::{Observed, group_of, of_dynamic},
    trust::Roots,
    user_pods::UserPods,
};
use tokio::sync::watch;

pub mod two;

/// The simplest Pipeline.
pub const HELLO: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  stages:
  - {name: tick, source: {generator: {rate: 10}}}
  - {name: show, sink: {console: {}}}
";

/// The server. Clones are the same one.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// By path: `/api/v1/namespaces/shop/services/hello-main-spl`.
    objects: BTreeMap<String, Value>,
    /// Grows with every change.
    version: u64,
    /// Method and path of every write that arrived.
    writes: Vec<String>,
    /// Dies at this write, counted from the last revival.
    dies: Option<(usize, Death)>,
    is_dead: bool,
    /// What is said of any token.
    token_review: Value,
    /// How many times Pipelines have been listed.
    lists: usize,
    /// Whether watches break, those that go on too.
    breaks_watches: watch::Sender<bool>,
}

/// When a write is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// It does not arrive.
    Before,
    /// It arrives; its answer does not.
    After,
}

type Answer = (StatusCode, Value);

impl Server {
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        Client::new(service, "default")
    }

    /// Everything is asked anew from here: `dies` says at which write the asker ends.
    pub fn revive(&self, dies: Option<(usize, Death)>) {
        let mut inner = self.0.lock().unwrap();
        (inner.dies, inner.is_dead) = (dies, false);
        inner.writes.clear();
    }

    /// The status of every TokenReview from now on.
    pub fn say_of_tokens(&self, status: Value) {
        self.0.lock().unwrap().token_review = status;
    }

    /// How many times Pipelines have been listed so far, watches not counted.
    pub fn lists(&self) -> usize {
        self.0.lock().unwrap().lists
    }

    /// From now on every watch breaks, those that go on too.
    pub fn breaks_watches(&self) {
        self.0.lock().unwrap().breaks_watches.send_replace(true);
    }

    pub fn writes(&self) -> Vec<String> {
        self.0.lock().unwrap().writes.clone()
    }

    /// A user writes a Pipeline.
    pub fn user_applies(&self, yaml: &str) {
        let resource: Value = serde_yaml::from_str(yaml).unwrap();
        let name = resource["metadata"]["name"].as_str().unwrap().to_owned();
        let path = format!("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/{name}");
        self.put(&path, resource);
    }

    pub fn user_deletes(&self, name: &str) {
        self.0
            .lock()
            .unwrap()
            .delete(&format!("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/{name}"));
    }

    /// Somebody removes an object.
    pub fn delete(&self, path: &str) {
        self.0.lock().unwrap().delete(path);
    }

    /// Somebody makes an object.
    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().write(path, object);
    }

    /// The pods of a workload, as many as there should be, are ready.
    pub fn makes_ready(&self, path: &str) {
        let mut workload = self.get(path).unwrap();
        let pods = workload["spec"]["replicas"].as_i64().unwrap_or(1);
        workload["status"] = json!({
            "observedGeneration": workload["metadata"]["generation"],
            "replicas": pods, "updatedReplicas": pods, "readyReplicas": pods,
        });
        self.put(path, workload);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Every object as it is.
    pub fn everything(&self) -> BTreeMap<String, Value> {
        self.0.lock().unwrap().objects.clone()
    }

    /// Every object, without what differs from run to run.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        let mut objects = self.0.lock().unwrap().objects.clone();
        objects.retain(|path, _| !path.contains("/events/"));
        for object in objects.values_mut() {
            strip(object);
        }
        objects
    }

    pub fn pipeline(&self, name: &str) -> Option<DeserializeGuard<Pipeline>> {
        let path = format!("/apis/sidestream.dev/v1alpha1/namespaces/shop/pipelines/{name}");
        self.get(&path).map(|object| serde_json::from_value(object).unwrap())
    }

    /// What watches would have shown by now.
    pub fn show(&self, observed: &Observed) {
        for object in self.0.lock().unwrap().objects.values() {
            let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
            let labels = object.metadata.labels.clone().unwrap_or_default();
            if labels.get("app.kubernetes.io/managed-by").is_some_and(|manager| manager == "sidestream") {
                observed.remember(&group_of(&object.metadata), key_of(&object), of_dynamic(&object));
            }
        }
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        if query.contains("watch=") {
            // It shows nothing while it goes on.
            let mut breaks = self.0.lock().unwrap().breaks_watches.subscribe();
            let _ = breaks.wait_for(|breaks| *breaks).await;
            return Err(std::io::Error::other("broken"));
        }
        let mut inner = self.0.lock().unwrap();
        let is_write = parts.method != Method::GET;
        let death =
            inner.dies.filter(|(at, _)| is_write && *at == inner.writes.len()).map(|(_, death)| death);
        inner.is_dead |= death.is_some();
        let is_lost = inner.is_dead && death != Some(Death::After);
        if is_lost {
            return Err(std::io::Error::other("dead"));
        }
        if is_write {
            inner.writes.push(format!("{} {path}", parts.method));
        }
        let (code, value) = inner.handle(&parts.method, &path, &query, body);
        if inner.is_dead {
            return Err(std::io::Error::other("dead"));
        }
        let response = Response::builder().status(code).header("content-type", "application/json");
        Ok(response.body(Body::from(serde_json::to_vec(&value).unwrap())).unwrap())
    }
}

impl Inner {
    fn handle(&mut self, method: &Method, path: &str, query: &str, body: Value) -> Answer {
        match *method {
            // The one kind that is listed.
            Method::GET if path.ends_with("/pipelines") => {
                self.lists += 1;
                let (start, end) = path.rsplit_once('/').unwrap_or_default();
                // Of one namespace, or of all of them.
                let is_of = |own: &str| own.starts_with(start) && own.contains(&format!("/{end}/"));
                let items: Vec<&Value> =
                    (self.objects.iter()).filter(|(path, _)| is_of(path)).map(|(_, object)| object).collect();
                ok(
                    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": self.version.to_string()}, "items": items}),
                )
            }
            Method::GET => {
                self.objects.get(path).map_or_else(|| refuse(404, "NotFound"), |found| ok(found.clone()))
            }
            Method::POST if path.ends_with("/tokenreviews") => {
                // Like the API server's, it knows only the audiences that were asked for.
                let mut answer = body;
                let mut status = self.token_review.clone();
                let asked = answer["spec"]["audiences"].as_array().cloned().unwrap_or_default();
                if let Some(audiences) = status["audiences"].as_array_mut() {
                    audiences.retain(|audience| asked.contains(audience));
                }
                answer["status"] = status;
                ok(answer)
            }
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) {
                    return refuse(409, "AlreadyExists");
                }
                ok(self.write(&path, body))
            }
            Method::PUT => {
                let (read, live) = (&body["metadata"]["resourceVersion"], self.objects.get(path));
                let is_stale = live.is_some_and(|live| *read != live["metadata"]["resourceVersion"]);
                if read.is_string() && is_stale {
                    return refuse(409, "Conflict");
                }
                ok(self.write(path, body))
            }
            Method::PATCH => self.apply(path, query.contains("force=true"), body),
            Method::DELETE => {
                let wanted = body["preconditions"]["uid"].as_str();
                match self.objects.get(path) {
                    None => refuse(404, "NotFound"),
                    Some(found) if wanted.is_some_and(|uid| found["metadata"]["uid"] != uid) => {
                        refuse(409, "Conflict")
                    }
                    Some(_) => {
                        self.delete(path);
                        ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
                    }
                }
            }
            _ => refuse(405, "MethodNotAllowed"),
        }
    }

    fn apply(&mut self, path: &str, is_forced: bool, body: Value) -> Answer {
        if let Some(path) = path.strip_suffix("/status") {
            let Some(mut live) = self.objects.get(path).cloned() else { return refuse(404, "NotFound") };
            live["status"] = body["status"].clone();
            return ok(self.write(path, live));
        }
        match self.objects.get(path) {
            None if body["metadata"]["uid"].is_string() => refuse(409, "Conflict"),
            Some(live)
                if !is_forced
                    || body["metadata"]["uid"].is_string()
                        && body["metadata"]["uid"] != live["metadata"]["uid"] =>
            {
                refuse(409, "Conflict")
            }
            _ => ok(self.write(path, body)),
        }
    }

    fn write(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let before = self.objects.get(path).cloned().unwrap_or(Value::Null);
        let metadata = &mut object["metadata"];
        metadata["namespace"] = "shop".into();
        metadata["resourceVersion"] = self.version.to_string().into();
        metadata["uid"] = match &before["metadata"]["uid"] {
            Value::Null => format!("uid-{}", self.version).into(),
            known => known.clone(),
        };
        let generation = before["metadata"]["generation"].as_i64().unwrap_or_default();
        let is_changed = before["spec"] != object["spec"];
        object["metadata"]["generation"] = (generation + i64::from(is_changed)).into();
        if object.get("status").is_none() && !before["status"].is_null() {
            object["status"] = before["status"].clone();
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn delete(&mut self, path: &str) {
        let Some(gone) = self.objects.remove(path) else { return };
        // An object goes with the last of its owners.
        self.objects.retain(|_, object| {
            let owners = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut);
            let Some(owners) = owners.filter(|owners| !owners.is_empty()) else { return true };
            owners.retain(|owner| owner["uid"] != gone["metadata"]["uid"]);
            !owners.is_empty()
        });
    }
}

fn ok(object: Value) -> Answer {
    (StatusCode::OK, object)
}

fn refuse(code: u16, reason: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason,
    });
    (StatusCode::from_u16(code).unwrap(), status)
}

/// Removes what says when and in which order things were done, not what they are.
fn strip(object: &mut Value) {
    let metadata = object["metadata"].as_object_mut().unwrap();
    for field in ["uid", "resourceVersion", "generation"] {
        metadata.remove(field);
    }
    // The hash of what was applied has the owner's uid in it.
    metadata.remove("annotations");
    for owner in metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten() {
        owner.as_object_mut().unwrap().remove("uid");
    }
    // That numbers grow is what counts.
    object.as_object_mut().unwrap().remove("revision");
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("observedGeneration");
        for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            let condition = condition.as_object_mut().unwrap();
            condition.remove("lastTransitionTime");
            condition.remove("observedGeneration");
        }
    }
}

/// An operator that has just begun to lead.
pub struct Operator {
    pub context: Context,
    server: Server,
}

impl Operator {
    /// Its memory is empty, as if its watches lagged.
    pub fn new(server: &Server) -> Self {
        let clock = Clock::machine();
        let client = server.client();
        let observed = Observed::default();
        let roots = ROOTS.with(|roots| roots.clone());
        let context = Context {
            applier: Applier::new(client.clone(), observed.clone()),
            observed,
            user_pods: UserPods::default(),
            fleet: Fleet::default(),
            roots: roots.subscribe(),
            facts: Facts {
                sidecar_image: "sidecar".into(),
                image_pull_policy: None,
                operator: "operator:9443".into(),
                operator_id: "spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator".into(),
            },
            recorder: Recorder::new(
                client.clone(),
                Reporter { controller: "c".into(), instance: Some("i".into()) },
            ),
            began: clock.now(),
            clock,
            metrics: Metrics::default(),
            backoff: Backoff::default(),
            going: Default::default(),
            holds: Default::default(),
            partings: Default::default(),
            client,
        };
        Self { context, server: server.clone() }
    }

    /// Its watches have caught up.
    pub fn seeing(self) -> Self {
        self.server.show(&self.context.observed);
        self
    }

    /// A pod of an account of the namespace `shop` connects.
    pub fn connect(&self, account: &str, pod: &str) -> Connected {
        self.context.fleet.connect(("shop".into(), account.into()), pod.into())
    }

    /// The pods of the sidecars `door` and `hub` of the pipeline `hello` connect.
    pub fn connect_door_and_hub(&self) -> (Connected, Connected) {
        (self.connect("hello-door-spl", "hello-door-spl-1"), self.connect("hello-hub-spl", "hello-hub-spl-1"))
    }

    /// Looks at a pipeline once. False where it could not finish.
    pub async fn look(&self, name: &str) -> bool {
        let Some(pipeline) = self.server.pipeline(name) else { return true };
        reconcile(&pipeline, &self.context).await.is_ok()
    }

    /// Looks until there is nothing left to write, with watches that have caught up.
    pub async fn settle(&self, name: &str) {
        for _ in 0..10 {
            self.server.show(&self.context.observed);
            let before = self.server.writes().len();
            assert!(self.look(name).await, "a look fails");
            if self.server.writes().len() == before {
                return;
            }
        }
        panic!("it never settles: {:#?}", self.server.writes());
    }

    /// The same, and once more when those that anything waits for have had their time.
    pub async fn settle_for_good(&self, name: &str) {
        self.settle(name).await;
        self.let_holds_end();
        self.settle(name).await;
    }

    /// Nothing is waited for any longer.
    pub fn let_holds_end(&self) {
        let now = self.context.clock.now();
        self.context.holds.lock().unwrap().values_mut().for_each(|until| *until = now);
        self.context.partings.lock().unwrap().values_mut().for_each(|until| *until = now);
    }
}

/// Whom every operator trusts.
pub fn roots() -> watch::Receiver<Arc<Roots>> {
    ROOTS.with(watch::Sender::subscribe)
}

/// It says which edges of earlier plans of `hello` still have something.
pub fn leaves(sidecar: &Connected, edges: &[&str]) {
    let edges = edges.iter().map(|edge| (*edge).to_owned()).collect();
    sidecar.report(Report::Leaving(Leaving { pipeline: "shop/hello".into(), edges }));
}

/// It says that it has drained this plan of `hello`.
pub fn drained(sidecar: &Connected, hash: &str) {
    let (pipeline, counts) = ("shop/hello".into(), Some(Counts::default()));
    sidecar.report(Report::Drained(Drained { pipeline, hash: hash.into(), counts }));
}

thread_local! {
    /// One root for all: each operator of an installation has the same.
    static ROOTS: watch::Sender<Arc<Roots>> =
        watch::Sender::new(Arc::new(Roots::create("cluster.local", &Clock::machine()).unwrap()));
}
