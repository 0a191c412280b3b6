//! Dnpipes on a cluster: pushed from one pod, pulled from another, through DNS and mTLS, and there as long as their volume is.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use sidestream_e2e::eventually;

use crate::world::{Namespace, SOON, kubectl};

/// How long a server may take to come back elsewhere, with its volume.
const BACK: Duration = Duration::from_secs(120);
/// Whom the containers of ours run as.
const USER: u32 = 65532;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn what_one_pod_pushes_another_pulls_also_after_the_servers_pod_and_the_dnpipe_itself_were_deleted() {
    let shop = Shop::open(Namespace::new("e2e-dnpipes"));
    shop.apply("orders", "{}");
    shop.wait_ready("orders");
    shop.push("till", "orders", 0..100).expect("pushed");
    assert_eq!(shop.pull("clerk", "orders"), lines(0..100));

    let uid = |pod: serde_json::Value| pod["metadata"]["uid"].as_str().map(str::to_owned);
    let old = uid(shop.namespace.get(&["pod", SERVER]).expect("a server"));
    shop.namespace.kubectl(&["delete", "pod", SERVER, "--wait=false"]).expect("deleted");
    shop.push("till", "orders", 100..200).expect("the client goes on when the server is back");
    eventually("another server has come", BACK, || {
        let pod = shop.namespace.get(&["pod", SERVER])?;
        let is_ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        let status = pod["status"].to_string();
        if is_ready && uid(pod) != old { Ok(()) } else { Err(status) }
    });
    assert_eq!(shop.pull("clerk", "orders"), lines(0..200));

    // A second one joins the pool: nothing is made anew, nothing starts again, and only who may may.
    shop.wait_ready("orders");
    let before = shop.namespace.who_runs("sidestream.dev/pool=default");
    let clerk = "access: [{allow: [push, pull], from: {serviceAccount: clerk}}]";
    shop.apply("ledger", &format!("{{{clerk}}}"));
    shop.wait_ready("ledger");
    shop.push("clerk", "ledger", 0..3).expect("the clerk may");
    let refusal = shop.push("till", "ledger", 0..3).expect_err("nobody else may");
    assert!(refusal.contains("/sa/till` may not"), "{refusal}");
    assert_eq!(shop.pull("clerk", "ledger"), lines(0..3));
    assert_eq!(shop.namespace.who_runs("sidestream.dev/pool=default"), before);

    // The records of one that is deleted are nobody's, until it is made again.
    shop.namespace.kubectl(&["delete", "dnpipe", "orders"]).expect("deleted");
    eventually("its doors are closed", SOON, || match shop.ask("clerk", &["pull"], "orders", "") {
        Err(refusal) if refusal.contains("may not") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    shop.apply("orders", "{}");
    shop.wait_ready("orders");
    assert_eq!(shop.pull("clerk", "orders"), lines(0..200));
    let is_durable = "jsonpath={.status.conditions[?(@.type==\"Durable\")].message}";
    let said = shop.namespace.kubectl(&["get", "dnpipe", "orders", "-o", is_durable]).expect("a status");
    assert!(said.contains("when the device has it"), "{said}");
    // Which one it is, is the container runtime's to say: its profile allows io_uring, or it does not.
    let why =
        ["writes by uring: the probe of io_uring succeeded", "writes by file: io_uring is not to be had"];
    assert!(why.iter().any(|why| said.contains(why)), "{said}");
    println!("{said}\n{}", shop.namespace.kubectl(&["get", "dnp", "-o", "wide"]).expect("a table"));
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_dnpipe_moves_with_its_volume_off_a_node_that_is_drained() {
    let nodes = kubectl(&["get", "nodes", "-o", "name"], "").expect("nodes");
    if nodes.lines().count() < 2 || state().is_none() {
        println!("skipped: nowhere to go, or with a volume that may not");
        return;
    }
    let shop = Shop::open(Namespace::alone("e2e-dnpipes-drain"));
    shop.apply("orders", "{}");
    shop.wait_ready("orders");
    shop.push("till", "orders", 0..100).expect("pushed");
    let node = || shop.namespace.kubectl(&["get", "pod", SERVER, "-o", "jsonpath={.spec.nodeName}"]);
    let before = node().expect("a node");
    let only_pool = "--pod-selector=sidestream.dev/pool=default";
    let drained = kubectl(&["drain", &before, only_pool, "--delete-emptydir-data", "--timeout=60s"], "");
    let moved = eventually_else("the server runs elsewhere", || match node()? {
        after if after.is_empty() || after == before => Err(format!("on `{after}`")),
        after => Ok(after),
    });
    kubectl(&["uncordon", &before], "").expect("open again");
    drained.expect("drained, as the disruption budget lets it");
    println!("moved from {before} to {}", moved.expect("it moves"));
    assert_eq!(shop.pull("clerk", "orders"), lines(0..100));
    shop.push("till", "orders", 100..110).expect("pushed");
    assert_eq!(shop.pull("clerk", "orders"), lines(0..110));
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_pipeline_works_from_one_dnpipe_into_another_as_who_it_is() {
    let shop = Shop::open(Namespace::new("e2e-dnpipes-stages"));
    shop.apply("orders", "{}");
    let who = "access: [{allow: [push], from: {serviceAccount: billing-main-spl}}, {allow: [pull], from: {serviceAccount: clerk}}]";
    shop.apply("bills", &format!("{{{who}}}"));
    for name in ["orders", "bills"] {
        shop.wait_ready(name);
    }
    shop.namespace.apply(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: billing}
spec:
  stages:
  - {name: in, source: {dnpipe: {name: orders, group: billing}}}
  - {name: bill, process: {map: {body: \"'bill of ' + event\"}}}
  - {name: out, sink: {dnpipe: {name: bills}}}
",
    );
    shop.push("till", "orders", 0..100).expect("pushed");
    let expected: String = (0..100).map(|number| format!("bill of order {number}\n")).collect();
    let pulled = eventually("each order has a bill", BACK, || {
        let pulled = shop.ask("clerk", &["pull"], "bills", "")?;
        if pulled.lines().count() >= 100 { Ok(pulled) } else { Err(pulled) }
    });
    assert_eq!(pulled, expected);
    let refusal = shop.push("till", "bills", 0..1).expect_err("nobody else may push bills");
    assert!(refusal.contains("/sa/till` may not"), "{refusal}");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_pool_grows_to_three_servers_and_shrinks_to_one_under_load_and_loses_nothing() {
    let mut shop = Shop::open(Namespace::new("e2e-dnpipes-servers"));
    shop.add_volumes(2);
    for name in ["orders", "returns"] {
        shop.apply(name, "{}");
        shop.wait_ready(name);
    }
    let first = || {
        let pod = shop.namespace.get(&["pod", SERVER]).expect("a server");
        (pod["metadata"]["uid"].clone(), pod["status"]["containerStatuses"][0]["restartCount"].clone())
    };
    let before = first();
    let is_over = Mutex::new(false);
    let servers = || {
        let path = "jsonpath={range .items[*]}{.status.server}{\"\\n\"}{end}";
        shop.namespace.kubectl(&["get", "dnpipes", "-o", path])
    };
    let pushed = std::thread::scope(|scope| {
        let push = |name: &'static str| {
            let (shop, is_over) = (&shop, &is_over);
            move || {
                let mut next = 0;
                while !*is_over.lock().unwrap() {
                    shop.push("till", name, next..next + 50).expect("pushed, wherever it is");
                    next += 50;
                }
                next
            }
        };
        let pushing = [scope.spawn(push("orders")), scope.spawn(push("returns"))];
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            shop.apply("orders", "{servers: 3}");
            eventually("each of three has one of three dnpipes", 2 * BACK, || {
                let said = servers()?;
                let has: BTreeSet<&str> = said.lines().collect();
                if has.len() == 3 { Ok(()) } else { Err(said) }
            });
            println!("{}", shop.namespace.kubectl(&["get", "dnp", "-o", "wide"]).expect("a table"));
            shop.apply("orders", "{}");
            eventually("one has all of them, and is alone", 2 * BACK, || {
                let replicas = ["get", "statefulset", "dnpipes-default", "-o", "jsonpath={.spec.replicas}"];
                let (said, replicas) = (servers()?, shop.namespace.kubectl(&replicas)?);
                let is_alone = replicas == "1" && said.lines().all(|server| server == SERVER);
                if is_alone { Ok(()) } else { Err(format!("{replicas} replicas: {said}")) }
            });
        }));
        *is_over.lock().unwrap() = true;
        let pushed = pushing.map(|pushing| pushing.join().expect("every push was acknowledged"));
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        pushed
    });
    println!("pushed meanwhile: {pushed:?}");
    for (name, count) in ["orders", "returns"].into_iter().zip(pushed) {
        assert_eq!(shop.pull("clerk", name), lines(0..count), "each once and in order");
    }
    assert_eq!(first(), before, "the server that stays is not started again");
}

#[test]
#[ignore = "needs a cluster: make e2e"]
fn an_app_pushes_through_the_socket_of_its_sidecar_as_who_its_pod_is_and_another_pod_pulls() {
    let shop = Shop::open(Namespace::new("e2e-dnpipes-socket"));
    let who = "access: [{allow: [push], from: {serviceAccount: front}}, {allow: [pull], from: {serviceAccount: clerk}}]";
    shop.apply("orders", &format!("{{{who}}}"));
    shop.wait_ready("orders");
    // No pipeline selects it: that it has a sidecar is enough.
    shop.namespace.apply(&front(&shop.namespace.name));
    shop.wait_for("pod/front");
    let orders = format!("{}/orders", shop.namespace.name);
    let ask = |container: &str, verb: &str, patience: &str, input: &str| {
        let exec =
            ["--namespace", &shop.namespace.name, "exec", "-i", "front", "--container", container, "--"];
        let asked = ["/sidestream", verb, &orders, "--socket", SOCKET, "--patience", patience];
        kubectl(&[&exec[..], &asked].concat(), input)
    };
    let patience = format!("{}s", BACK.as_secs());
    ask("app", "push", &patience, &lines(0..100)).expect("pushed");
    assert_eq!(shop.pull("clerk", "orders"), lines(0..100));
    let refusal = ask("app", "pull", &patience, "").expect_err("its account may not");
    assert!(refusal.contains("/sa/front` may not pull"), "{refusal}");
    let refusal = ask("other", "push", "1s", &lines(0..1)).expect_err("it does not mount the volume");
    assert!(refusal.contains(SOCKET), "{refusal}");

    shop.namespace.kubectl(&["delete", "pod", SERVER, "--wait=false"]).expect("deleted");
    ask("app", "push", &patience, &lines(100..200)).expect("the client goes on when the server is back");
    assert_eq!(shop.pull("clerk", "orders"), lines(0..200));
}

const SERVER: &str = "dnpipes-default-0";
/// Where the app of [`front`] has the socket.
const SOCKET: &str = "/dnpipes/sidestream.sock";

/// The same as `eventually`, for who has something to put right before it fails.
fn eventually_else<T>(what: &str, mut so: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    for _ in 0..BACK.as_secs() {
        if let Ok(found) = so() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    so().map_err(|last| format!("{what}: {last}"))
}

/// A namespace with the pods of two users, `till` and `clerk`, and a volume for the pool.
struct Shop {
    namespace: Namespace,
    volume: Option<Volume>,
    more_volumes: Vec<Volume>,
}

impl Shop {
    fn open(namespace: Namespace) -> Shop {
        let volume = Volume::of(&namespace);
        let shop = Shop { namespace, volume, more_volumes: Vec::new() };
        // What the users' pods follow, so that they stay.
        shop.apply("idle", "{}");
        shop.wait_for("dnpipe/idle");
        for user in ["till", "clerk"] {
            shop.namespace.apply(&client(user, &shop.namespace.name));
        }
        for user in ["till", "clerk"] {
            shop.wait_for(&format!("pod/{user}"));
        }
        shop
    }

    /// Of the same class, for as many more servers.
    fn add_volumes(&mut self, count: usize) {
        let class = &self.namespace.name;
        let more = |state: PathBuf| {
            (0..count).map(move |number| Volume::make(&format!("{class}-{number}"), class, &state))
        };
        self.more_volumes = state().into_iter().flat_map(more).collect();
    }

    fn apply(&self, name: &str, spec: &str) {
        let inner = spec.trim_start_matches('{').trim_end_matches('}');
        let class = &self.namespace.name;
        let class = self.volume.as_ref().map(|_| format!("storage: {{storageClassName: {class}}}"));
        let fields: Vec<&str> =
            class.as_deref().into_iter().chain([inner]).filter(|own| !own.is_empty()).collect();
        self.namespace.apply(&format!(
            "{{apiVersion: sidestream.dev/v1alpha1, kind: Dnpipe, metadata: {{name: {name}}}, spec: {{{}}}}}",
            fields.join(", ")
        ));
    }

    fn wait_ready(&self, name: &str) {
        self.wait_for(&format!("dnpipe/{name}"));
    }

    fn wait_for(&self, object: &str) {
        if let Err(reason) =
            self.namespace.kubectl(&["wait", "--for=condition=Ready", object, "--timeout=120s"])
        {
            panic!(
                "{object}: {reason}\n{:?}",
                self.namespace.kubectl(&["get", object, "-o", "jsonpath={.status}"])
            );
        }
    }

    /// `sidestream VERB NAMESPACE/DNPIPE` in the pod of a user.
    fn ask(&self, user: &str, verb: &[&str], dnpipe: &str, input: &str) -> Result<String, String> {
        let dnpipe = format!("{}/{dnpipe}", self.namespace.name);
        let patience = format!("{}s", BACK.as_secs());
        let begin = ["--namespace", &self.namespace.name, "exec", "-i", user, "--", "/sidestream"];
        let end = [&dnpipe, "--pool", "default", "--patience", &patience];
        kubectl(&[&begin[..], verb, &end].concat(), input)
    }

    fn push(&self, user: &str, dnpipe: &str, numbers: std::ops::Range<u32>) -> Result<String, String> {
        self.ask(user, &["push"], dnpipe, &lines(numbers))
    }

    fn pull(&self, user: &str, dnpipe: &str) -> String {
        self.ask(user, &["pull"], dnpipe, "").expect("pulled")
    }
}

fn lines(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("order {number}\n")).collect()
}

/// A pod with the command line, as the how-to has it. It waits by following a dnpipe.
fn client(user: &str, namespace: &str) -> String {
    format!(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {user}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {user}}}
spec:
  serviceAccountName: {user}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, runAsUser: {USER}, runAsGroup: {USER}, fsGroup: {USER}, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: client
    image: sidestream.dev/cli:{version}
    args: [pull, {namespace}/idle, --follow, --pool, default, --patience, 1h]
    env:
    - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    volumeMounts:
    - {{name: token, mountPath: /var/run/sidestream/token}}
    - {{name: trust, mountPath: /var/run/sidestream/trust}}
    - {{name: identity, mountPath: /var/run/sidestream/identity}}
  volumes:
  - {{name: token, projected: {{sources: [{{serviceAccountToken: {{audience: sidestream.dev, path: token, expirationSeconds: 3600}}}}]}}}}
  - {{name: trust, configMap: {{name: sidestream-trust}}}}
  - {{name: identity, emptyDir: {{medium: Memory}}}}
",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// A pod with a sidecar, and two containers: of these, `app` mounts the socket. Both wait by following a dnpipe. They run as
/// another user than the sidecar does.
fn front(namespace: &str) -> String {
    let container = |name: &str, socket: &str, mounts: &str| {
        format!(
            "
  - name: {name}
    image: sidestream.dev/cli:{version}
    args: [pull, {namespace}/idle, --follow, --socket, {socket}, --patience, 1h]
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    volumeMounts: [{mounts}]",
            version = env!("CARGO_PKG_VERSION"),
        )
    };
    let mount = "{name: sidestream-dnpipes, mountPath: /dnpipes, readOnly: true}";
    let (app, other) = (container("app", SOCKET, mount), container("other", "/nowhere", ""));
    format!(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: front}}
---
apiVersion: v1
kind: Pod
metadata: {{name: front, labels: {{sidestream.dev/inject: enabled}}}}
spec:
  serviceAccountName: front
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, seccompProfile: {{type: RuntimeDefault}}}}
  containers:{app}{other}
  volumes:
  - {{name: sidestream-dnpipes, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
"
    )
}

/// The folder of the raised cluster. Another cluster has volumes of its own.
fn state() -> Option<PathBuf> {
    env::var_os("SIDESTREAM_E2E_HOST")?;
    Some(PathBuf::from(env::var_os("CLUSTER_STATE")?))
}

/// A volume that every node of the raised cluster reaches, as one on a network: its nodes are on one machine. Nobody there
/// makes volumes, and none comes with the cluster.
pub(crate) struct Volume {
    name: String,
}

impl Volume {
    /// One for the pool of a namespace, of a class that is called as the namespace is; none where the cluster has its own.
    pub(crate) fn of(namespace: &Namespace) -> Option<Volume> {
        state().map(|state| Volume::make(&namespace.name, &namespace.name, &state))
    }

    fn make(name: &str, class: &str, state: &Path) -> Volume {
        let folder = state.join("volumes").join(name);
        fs::create_dir_all(&folder).expect("a folder");
        // The kubelet gives a folder of a node's to nobody.
        chown(&folder, Some(USER), Some(USER)).expect("given to the server");
        let yaml = format!(
            "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  storageClassName: {class}
  capacity: {{storage: 100Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {{path: {}, type: Directory}}
",
            folder.display()
        );
        kubectl(&["apply", "-f", "-"], &yaml).expect("a volume");
        Volume { name: name.to_owned() }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Its folder goes with the cluster.
        let _ = kubectl(&["delete", "persistentvolume", &self.name, "--wait=false"], "");
    }
}
