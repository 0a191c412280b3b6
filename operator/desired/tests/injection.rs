//! Injection can't hurt the app: each test is a clause of that.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sidestream_crds::{SidecarPlan, compile};
use sidestream_desired::{
    Facts, Secrets,
    inject::{self, Refusal, injection},
    objects,
};

fn facts() -> Facts {
    Facts {
        sidecar_image: "sidestream.dev/sidecar:0.1.0".into(),
        image_pull_policy: None,
        operator: "sidestream-operator.sidestream-system.svc:9443".into(),
        operator_id: "spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator".into(),
    }
}

/// A pod as a ReplicaSet makes it, with `more` in its spec.
fn pod(more: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "shopfront-5d9c-",
            "labels": {"app": "shopfront", "sidestream.dev/inject": "enabled"},
            "annotations": {"mine": "yes"},
        },
        "spec": {
            "serviceAccountName": "till",
            "terminationGracePeriodSeconds": 30,
            "initContainers": [{"name": "migrate", "image": "shop"}],
            "containers": [{
                "name": "shop",
                "image": "shop",
                "ports": [{"name": "metrics", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "metrics"}},
                "aFieldOfTomorrow": {"x": 1},
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    });
    for (field, value) in more.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn with_sidecar(pod: &Value) -> Value {
    let mut changed = pod.clone();
    injection(pod, Secrets::new(), &facts()).unwrap().expect("it had none").apply(&mut changed);
    changed
}

/// The container that was added.
fn added(pod: &Value) -> Value {
    with_sidecar(pod)["spec"]["initContainers"][0].clone()
}

fn resources(container: Value) -> Value {
    added(&pod(json!({"initContainers": [], "containers": [container]})))["resources"].clone()
}

#[test]
fn the_sidecar_is_first_up_and_last_down() {
    let spec = &with_sidecar(&pod(json!({})))["spec"];
    let names: Vec<&Value> =
        spec["initContainers"].as_array().unwrap().iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["sidestream", "migrate"]);
    assert_eq!(spec["initContainers"][0]["restartPolicy"], "Always");
}

#[test]
fn what_is_there_stays_as_it_is() {
    for pod in [pod(json!({})), pod(json!({"initContainers": null, "volumes": null}))] {
        let mut changed = with_sidecar(&pod);
        let is_ours = |part: &Value| part["name"].as_str().unwrap().starts_with("sidestream");
        for field in ["initContainers", "volumes"] {
            changed["spec"][field].as_array_mut().unwrap().retain(|part| !is_ours(part));
            if pod["spec"][field].is_null() {
                assert_eq!(changed["spec"][field], json!([]));
                changed["spec"][field] = Value::Null;
            }
        }
        assert_eq!(changed, pod);
    }
}

#[test]
fn the_app_starts_as_soon_as_the_sidecars_process_listens_with_or_without_an_operator() {
    let changed = with_sidecar(&pod(json!({})));
    let container = &changed["spec"]["initContainers"][0];
    assert_eq!(container["startupProbe"]["httpGet"], json!({"path": "/livez", "port": 9464}));
    // What the kubelet would wait for before it starts anything.
    let volumes = changed["spec"]["volumes"].as_array().unwrap();
    for source in volumes.iter().flat_map(|volume| [&volume["configMap"], &volume["secret"]]) {
        assert!(source.is_null() || source["optional"] == true, "{source}");
    }
}

#[test]
fn a_sidecar_that_is_not_ready_or_slow_does_not_take_the_app_out_of_its_services() {
    let container = added(&pod(json!({})));
    assert!(container["readinessProbe"].is_null() && container["livenessProbe"].is_null(), "{container}");
}

#[test]
fn a_guaranteed_pod_stays_guaranteed_and_another_gets_a_bound_on_memory() {
    let fixed = json!({"cpu": "1", "memory": "1Gi"});
    let same = json!({"cpu": "1000m", "memory": "1024Mi"});
    for guaranteed in [json!({"limits": fixed}), json!({"limits": fixed, "requests": same})] {
        let own = resources(json!({"name": "shop", "resources": guaranteed}));
        assert!(own["limits"]["cpu"].is_string() && own["limits"] == own["requests"], "{guaranteed}: {own}");
    }
    for other in [json!({}), json!({"requests": fixed}), json!({"limits": {"memory": "1Gi"}})] {
        let own = resources(json!({"name": "shop", "resources": other}));
        assert!(own["limits"]["cpu"].is_null() && own["limits"]["memory"].is_string(), "{other}: {own}");
    }
    let as_a_whole = pod(json!({"resources": {"limits": fixed}}));
    assert!(added(&as_a_whole)["resources"].is_null(), "its containers share what the pod has");
}

#[test]
fn where_a_quota_may_want_limits_of_processors_the_sidecar_has_one_too() {
    let limited = json!({"name": "shop", "resources": {"limits": {"cpu": "2"}}});
    let free = json!({"name": "migrate"});
    assert_eq!(resources(limited.clone())["limits"]["cpu"], "1");
    let one_is_free = pod(json!({"initContainers": [free], "containers": [limited]}));
    assert!(added(&one_is_free)["resources"]["limits"]["cpu"].is_null());
}

#[test]
fn ports_that_the_app_has_are_known_and_the_sidecars_own_are_none_of_them() {
    let ports = json!([{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]);
    let pod = with_sidecar(&pod(json!({"containers": [{"name": "shop", "ports": ports}]})));
    assert_eq!(inject::declared_ports(&pod["spec"]), [8080].into());
}

#[test]
fn what_it_writes_has_a_bound() {
    let changed = with_sidecar(&pod(json!({})));
    let volumes = changed["spec"]["volumes"].as_array().unwrap();
    let ours = volumes.iter().filter(|volume| volume["name"].as_str().unwrap().starts_with("sidestream-"));
    let folders: Vec<&Value> = ours.map(|volume| &volume["emptyDir"]).filter(|own| !own.is_null()).collect();
    assert_eq!(folders.len(), 2);
    assert!(folders.iter().all(|folder| folder["sizeLimit"].is_string()), "{folders:?}");
    assert!(folders.iter().any(|folder| folder["medium"] == "Memory"), "the key touches no disk");
}

/// With `volumes` in a pod of one container that has `mounts`, and an annotation.
fn with_socket(volumes: Value, mounts: Value) -> Value {
    let container = json!({"name": "shop", "volumeMounts": mounts});
    let mut pod = pod(json!({"containers": [container], "volumes": volumes}));
    pod["metadata"]["annotations"]["sidestream.dev/pools"] = "heavy".into();
    pod
}

fn socket_volumes(pod: &Value) -> Vec<&Value> {
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    volumes.iter().filter(|volume| volume["name"] == "sidestream-dnpipes").collect()
}

#[test]
fn only_containers_that_mount_its_volume_have_the_socket_and_other_pods_have_none() {
    let mount = json!([{"name": "sidestream-dnpipes", "mountPath": "/dnpipes", "readOnly": true}]);
    let declared = json!([{"name": "sidestream-dnpipes", "emptyDir": {}}]);
    let of_sidecar = json!({"name": "sidestream-dnpipes", "mountPath": "/var/run/sidestream/dnpipes"});
    for pod in [with_socket(declared.clone(), mount.clone()), with_socket(json!([]), mount.clone())] {
        let changed = with_sidecar(&pod);
        let sidecar = &changed["spec"]["initContainers"][0];
        assert!(sidecar["volumeMounts"].as_array().unwrap().contains(&of_sidecar), "{sidecar}");
        let variable = |name: &str| {
            let mut all = sidecar["env"].as_array().unwrap().iter();
            all.find(|own| own["name"] == name).map(|own| own["value"].clone())
        };
        let path = "/var/run/sidestream/dnpipes/sidestream.sock";
        assert_eq!(variable("SIDESTREAM_SOCKET"), Some(path.into()));
        assert_eq!(variable("SIDESTREAM_POOLS"), Some("heavy".into()));
        assert_eq!(changed["spec"]["containers"], pod["spec"]["containers"]);
        assert!(!changed["spec"]["initContainers"][1].to_string().contains("sidestream-dnpipes"));
        assert_eq!(socket_volumes(&changed).len(), 1);
    }
    let undeclared = with_sidecar(&with_socket(json!([]), mount));
    let bound = json!({"medium": "Memory", "sizeLimit": "1Mi"});
    assert_eq!(socket_volumes(&undeclared)[0]["emptyDir"], bound, "what it can hold has a bound");
    let declared_as = with_sidecar(&with_socket(declared.clone(), json!([])));
    assert_eq!(socket_volumes(&declared_as), [&declared[0]], "what the user says of it stays");
    let neither = with_sidecar(&with_socket(json!([]), json!([])));
    let said = neither["spec"].to_string();
    assert!(!said.contains("sidestream-dnpipes") && !said.contains("SIDESTREAM_SOCKET"), "{said}");
}

#[test]
fn a_socket_that_other_pods_could_reach_is_refused() {
    let mount = json!([{"name": "sidestream-dnpipes", "mountPath": "/dnpipes"}]);
    for source in
        [json!({"hostPath": {"path": "/run"}}), json!({"persistentVolumeClaim": {"claimName": "c"}})]
    {
        let mut volume = source;
        volume["name"] = "sidestream-dnpipes".into();
        let refusal = injection(&with_socket(json!([volume]), mount.clone()), Secrets::new(), &facts());
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal, Refusal::SocketVolume);
        assert!(refusal.to_string().contains("`sidestream-dnpipes`"), "{refusal}");
    }
}

#[test]
fn how_much_it_may_spill_is_the_pods_to_say_and_its_volume_has_room_for_that() {
    let says = |size: Option<&str>| {
        let mut pod = pod(json!({}));
        size.inspect(|size| pod["metadata"]["annotations"]["sidestream.dev/spill"] = json!(size));
        pod
    };
    let volume = |pod: &Value| {
        let pod = with_sidecar(pod);
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let cache = volumes.iter().find(|volume| volume["name"] == "sidestream-cache").unwrap();
        cache["emptyDir"]["sizeLimit"].clone()
    };
    let told = |pod: &Value| {
        let sidecar = added(pod);
        let told = sidecar["env"].as_array().unwrap().iter();
        told.filter(|own| own["name"] == "SIDESTREAM_SPILL_MAX")
            .map(|own| own["value"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!((volume(&says(None)), told(&says(None))), (json!("64Mi"), vec![]));
    assert_eq!((volume(&says(Some("4Gi"))), told(&says(Some("4Gi")))), (json!("6160Mi"), vec![json!("4Gi")]));
    for (wrong, reason) in [("much", "`much` is no size"), ("1Mi", "16Mi is the least")] {
        let refusal = injection(&says(Some(wrong)), Secrets::new(), &facts()).expect_err(wrong).to_string();
        assert!(refusal.contains("sidestream.dev/spill") && refusal.contains(reason), "{refusal}");
    }
}

#[test]
fn what_would_get_in_the_way_is_refused_with_its_name() {
    let ports = |ports: Value| pod(json!({"containers": [{"name": "shop", "ports": ports}]}));
    for (pod, expected) in [
        (pod(json!({"hostNetwork": true})), Refusal::HostNetwork),
        (pod(json!({"os": {"name": "windows"}})), Refusal::Windows),
        (ports(json!([{"containerPort": 9464}])), Refusal::Port { container: "shop".into(), port: 9464 }),
        (
            ports(json!([{"containerPort": 7443, "protocol": "UDP"}])),
            Refusal::Port { container: "shop".into(), port: 7443 },
        ),
        (
            pod(json!({"containers": [{"name": "sidestream"}]})),
            Refusal::Name { what: "container", name: "sidestream".into() },
        ),
        (
            pod(json!({"volumes": [{"name": "sidestream-cache"}]})),
            Refusal::Name { what: "volume", name: "sidestream-cache".into() },
        ),
    ] {
        let refusal = injection(&pod, Secrets::new(), &facts()).unwrap_err();
        assert_eq!(refusal, expected);
        assert!(refusal.to_string().contains("take the label `sidestream.dev/inject` off"), "{refusal}");
    }
    let datagrams = ports(json!([{"containerPort": 9464, "protocol": "UDP"}]));
    assert!(injection(&datagrams, Secrets::new(), &facts()).is_ok());
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>
#[test]
fn it_is_let_in_where_only_restricted_pods_are() {
    let container = added(&pod(json!({"securityContext": {"runAsUser": 0}})));
    let own = &container["securityContext"];
    assert_eq!(own["allowPrivilegeEscalation"], false);
    assert_eq!(own["runAsNonRoot"], true);
    assert_ne!(own["runAsUser"], 0, "whatever the pod says of its other containers");
    assert_eq!(own["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(own["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(own["readOnlyRootFilesystem"], true);
    let changed = with_sidecar(&pod(json!({})));
    let kinds = ["configMap", "emptyDir", "projected", "secret"];
    for volume in changed["spec"]["volumes"].as_array().unwrap() {
        assert!(kinds.iter().any(|kind| volume[kind].is_object()), "{volume}");
    }
}

#[test]
fn nobody_else_in_the_pod_gets_its_token_and_it_reads_that_whatever_the_pods_group_is() {
    let changed = with_sidecar(&pod(json!({})));
    let spec = &changed["spec"];
    let mounts = |container: &Value| container["volumeMounts"].to_string().contains("sidestream-token");
    assert!(mounts(&spec["initContainers"][0]));
    assert!(!mounts(&spec["initContainers"][1]) && !mounts(&spec["containers"][0]));
    let volumes = spec["volumes"].as_array().unwrap();
    let token = volumes.iter().find(|volume| volume["name"] == "sidestream-token").unwrap();
    assert_eq!(token["projected"]["defaultMode"], 0o444);
    assert_eq!(token["projected"]["sources"][0]["serviceAccountToken"]["audience"], "sidestream.dev");
}

#[test]
fn it_is_done_before_the_pod_is_over() {
    for (of_pod, expected) in [(json!(30), "25s"), (json!(6), "1s"), (json!(0), "1s"), (Value::Null, "25s")] {
        let container = added(&pod(json!({"terminationGracePeriodSeconds": of_pod})));
        let variables = container["env"].as_array().unwrap();
        let grace = variables.iter().find(|own| own["name"] == "SIDESTREAM_GRACE").unwrap();
        assert_eq!(grace["value"], expected);
    }
}

#[test]
fn names_of_ports_that_services_may_go_by_are_none_of_its() {
    let container = added(&pod(json!({})));
    for port in container["ports"].as_array().unwrap() {
        let name = port["name"].as_str().unwrap();
        assert!(name.starts_with("spl-") && name.len() <= 15, "{name}");
    }
}

#[test]
fn a_second_time_changes_nothing() {
    let once = with_sidecar(&pod(json!({})));
    assert_eq!(injection(&once, Secrets::new(), &facts()), Ok(None));
}

#[test]
fn as_a_patch_it_is_the_same() {
    let mount = json!([{"name": "sidestream-dnpipes", "mountPath": "/dnpipes"}]);
    for pod in
        [pod(json!({})), pod(json!({"initContainers": null, "volumes": null})), with_socket(json!([]), mount)]
    {
        let patch = injection(&pod, Secrets::new(), &facts()).unwrap().unwrap().patch(&pod);
        let mut patched = pod.clone();
        for step in patch.as_array().unwrap() {
            add(&mut patched, step["path"].as_str().unwrap(), step["value"].clone());
        }
        assert_eq!(patched, with_sidecar(&pod));
    }
}

/// The one operation of RFC 6902 that is used.
fn add(document: &mut Value, path: &str, value: Value) {
    let (parent, last) = path.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => list.insert(last.parse().unwrap(), value),
        parent => parent[last] = value,
    }
}

#[test]
fn only_a_pod_that_says_so_asks_for_one() {
    let labels = |value: &str| BTreeMap::from([("sidestream.dev/inject".to_owned(), value.to_owned())]);
    assert!(inject::is_wanted(&labels("enabled")));
    for other in ["disabled", "true", ""] {
        assert!(!inject::is_wanted(&labels(other)), "{other}");
    }
    assert!(!inject::is_wanted(&BTreeMap::new()));
}

fn sidecars(name: &str, app: &str, secret: &str) -> Vec<SidecarPlan> {
    let text = format!(
        "
kind: Pipeline
metadata: {{name: {name}, namespace: shop}}
spec:
  sidecars:
  - {{name: app, inject: {{podSelector: {{matchLabels: {{app: {app}}}}}}}}}
  - {{name: hub, workload: {{}}}}
  stages:
  - {{name: scrape, sidecar: app, source: {{prometheus: {{url: 'http://127.0.0.1/', credentials: {{secretRef: {{name: {secret}, key: token}}}}}}}}}}
  - {{name: show, sidecar: hub, sink: {{blackhole: {{}}}}}}
"
    );
    let compiled = compile(text.as_bytes(), name);
    assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
    compiled.pipelines.into_iter().next().unwrap().sidecars
}

#[test]
fn one_sidecar_serves_every_pipeline_that_selects_the_pod_and_a_later_one_changes_nothing_in_it() {
    let labels = BTreeMap::from([("app".to_owned(), "shopfront".to_owned())]);
    let pipelines = [
        sidecars("one", "shopfront", "a"),
        sidecars("two", "shopfront", "b"),
        sidecars("else", "other", "c"),
    ];
    let secrets = inject::secrets_of(&labels, pipelines.iter().map(Vec::as_slice));
    assert_eq!(secrets.keys().collect::<Vec<_>>(), ["a", "b"]);
    let pod = pod(json!({}));
    let mut changed = pod.clone();
    injection(&pod, secrets.clone(), &facts()).unwrap().unwrap().apply(&mut changed);
    assert_eq!(inject::mounted_secrets(&changed["spec"]), secrets);
    let containers = changed["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(containers.iter().filter(|container| container["name"] == "sidestream").count(), 1);
    // But for the Secrets, what a pod gets does not depend on which pipelines there are.
    let mut own = containers[0].clone();
    own["volumeMounts"].as_array_mut().unwrap().truncate(4);
    assert_eq!(own, added(&pod));
}

#[test]
fn no_object_says_how_pods_of_the_users_are_scaled_disrupted_or_reached() {
    let compiled = compile(include_bytes!("../cases/injected.yaml"), "injected");
    let own = &compiled.pipelines[0];
    let kinds = |name: &str| -> Vec<String> {
        let sidecar = own.sidecars.iter().find(|sidecar| sidecar.name == name).unwrap();
        let made = objects(&own.resource, sidecar, &own.sidecars, &facts());
        made.into_iter().map(|object| object.types.unwrap().kind).collect()
    };
    assert_eq!(kinds("app"), ["Service"]);
    assert_eq!(kinds("hub").len(), 5);
    let only_sends = &sidecars("one", "shopfront", "a");
    assert!(objects(&own.resource, &only_sends[0], only_sends, &facts()).is_empty());
}
