//! Pools of dnpipes: what is made for them, what their servers are told, and what their users are.

mod world;

use std::sync::Arc;

use kube::core::DynamicObject;
use serde_json::{Value, json};
use sidestream_control::{Owner, Pool, Report, Served, Serving};
use sidestream_host::Clock;
use sidestream_operator::{
    apply::Applier,
    control::{Connected, Fleet},
    controllers::{Backoff, Context, Pools, reconcile_pool},
    observed::Observed,
};
use world::{Operator, Server};

const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/dnpipes-default";
const SERVICE: &str = "/api/v1/namespaces/shop/services/dnpipes-default";
const ACCOUNT: &str = "/api/v1/namespaces/shop/serviceaccounts/dnpipes-default";

/// An operator that looks after one pool of `shop`.
struct Keeper {
    server: Server,
    pools: Pools,
}

impl Keeper {
    fn new(server: &Server) -> Keeper {
        let (client, observed, clock) = (server.client(), Observed::default(), Clock::machine());
        let Context { facts, recorder, .. } = Operator::new(server).context;
        let pools = Pools {
            applier: Applier::new(client.clone(), observed.clone()),
            observed,
            fleet: Fleet::default(),
            roots: world::roots(),
            facts,
            recorder,
            began: clock.now(),
            clock,
            backoff: Backoff::default(),
            concurrency: 1,
            client,
        };
        pools.fleet.expect([]);
        Keeper { server: server.clone(), pools }
    }

    /// Looks until there is nothing left to write, with watches that have caught up. True: all was as it should be.
    async fn settle(&self) -> bool {
        for _ in 0..10 {
            self.server.show(&self.pools.observed);
            let members: Vec<_> = (self.server.everything().into_iter())
                .filter(|(path, _)| path.contains("/dnpipes/"))
                .map(|(_, object)| Arc::new(serde_json::from_value::<DynamicObject>(object).unwrap()))
                .collect();
            let before = self.server.writes().len();
            let is_well = reconcile_pool(&self.pools, "shop", "default", &members).await.unwrap();
            if self.server.writes().len() == before {
                return is_well;
            }
        }
        panic!("it never settles: {:#?}", self.server.writes());
    }

    fn connect(&self) -> Connected {
        self.connect_server(0)
    }

    fn connect_server(&self, number: u32) -> Connected {
        let pod = format!("dnpipes-default-{number}");
        self.pools.fleet.connect(("shop".into(), "dnpipes-default".into()), pod)
    }
}

fn dnpipe(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "sidestream.dev/v1alpha1", "kind": "Dnpipe", "metadata": {"name": name}, "spec": spec})
}

fn path(name: &str) -> String {
    format!("/apis/sidestream.dev/v1alpha1/namespaces/shop/dnpipes/{name}")
}

fn apply(server: &Server, name: &str, spec: Value) {
    server.put(&path(name), dnpipe(name, spec));
}

/// Status, reason and message of a condition.
fn condition(server: &Server, name: &str, kind: &str) -> (String, String, String) {
    let dnpipe = server.get(&path(name)).unwrap();
    let conditions = dnpipe["status"]["conditions"].as_array().unwrap().clone();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// The server does as it was told.
fn serves(server: &Connected, told: &Pool) {
    let served = told.dnpipes.iter().map(|own| Served {
        dnpipe: own.name.clone(),
        hash: own.hash.clone(),
        epoch: 2,
        records: 7,
        bytes: 1 << 20,
        ..Served::default()
    });
    let serving = Serving {
        disk: "file".into(),
        disk_reason: "io_uring is not permitted".into(),
        dnpipes: served.collect(),
        ..Serving::default()
    };
    server.report(Report::Serving(serving));
}

/// The server has these, each moved so often, and knows of the others; on its volume there are so many.
fn has(server: &Connected, told: &Pool, here: &[(&str, u32)], kept: u32) {
    let served = told.dnpipes.iter().map(|own| {
        let term = here.iter().find(|(name, _)| format!("shop/{name}") == own.name).map(|(_, term)| *term);
        let (dnpipe, hash) = (own.name.clone(), own.hash.clone());
        Served { dnpipe, hash, elsewhere: term.is_none(), term: term.unwrap_or(0), ..Served::default() }
    });
    server.report(Report::Serving(Serving { dnpipes: served.collect(), kept, ..Serving::default() }));
}

fn replicas(server: &Server) -> i64 {
    server.get(SET).unwrap()["spec"]["replicas"].as_i64().unwrap()
}

/// By dnpipe, the number of the server that is to have it.
fn homes(told: &Pool) -> Vec<(&str, u32)> {
    told.dnpipes.iter().map(|own| (own.name.trim_start_matches("shop/"), own.home)).collect()
}

fn names(pool: &Pool) -> Vec<&str> {
    pool.dnpipes.iter().map(|own| own.name.as_str()).collect()
}

#[tokio::test]
async fn a_dnpipe_is_ready_when_its_server_has_said_that_it_serves_it() {
    let server = Server::default();
    apply(&server, "orders", json!({}));
    let keeper = Keeper::new(&server);
    assert!(keeper.settle().await);
    assert_eq!(condition(&server, "orders", "Ready").1, "Creating");
    assert_eq!(condition(&server, "orders", "Durable").0, "Unknown");
    server.makes_ready(SET);
    let mut pod = keeper.connect();
    keeper.settle().await;
    assert_eq!(condition(&server, "orders", "Ready").1, "Pending");
    let told = pod.hand_out_pool().unwrap();
    assert_eq!(told.dnpipes[0].unwrap().unwrap().unwrap().partitions, 1);
    assert_eq!(pod.hand_out_pool(), None, "nothing is told twice");
    serves(&pod, &told);
    keeper.settle().await;
    let (is, reason, message) = condition(&server, "orders", "Ready");
    assert_eq!((is.as_str(), reason.as_str()), ("True", "Serving"));
    assert!(message.contains("dnpipes-default.shop.svc:7420"), "{message}");
    let (is, reason, message) = condition(&server, "orders", "Durable");
    assert_eq!((is.as_str(), reason.as_str()), ("True", "File"));
    assert!(message.contains("io_uring is not permitted"), "{message}");
    let status = server.get(&path("orders")).unwrap()["status"].clone();
    assert_eq!(
        (&status["records"], &status["size"], &status["epoch"]),
        (&7.into(), &"1024Ki".into(), &2.into())
    );
}

#[tokio::test]
async fn a_second_dnpipe_joins_the_pool_and_changes_nothing_that_runs() {
    let server = Server::default();
    apply(&server, "orders", json!({}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    server.makes_ready(SET);
    let before = server.get(SET).unwrap()["spec"].clone();
    let mut pod = keeper.connect();
    assert_eq!(names(&pod.hand_out_pool().unwrap()), ["shop/orders"]);
    apply(&server, "returns", json!({"storage": {"size": "50Gi"}}));
    keeper.settle().await;
    assert_eq!(server.get(SET).unwrap()["spec"], before, "also its volume, which it has for good");
    assert_eq!(names(&pod.hand_out_pool().unwrap()), ["shop/orders", "shop/returns"]);
    assert_eq!(server.get(SERVICE).unwrap()["metadata"]["ownerReferences"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_pool_goes_with_the_last_of_its_dnpipes_and_its_servers_hear_of_each() {
    let server = Server::default();
    apply(&server, "orders", json!({"storage": {"reclaim": "Delete"}}));
    apply(&server, "returns", json!({}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    let mut pod = keeper.connect();
    let told = pod.hand_out_pool().unwrap();
    assert!(told.dnpipes[0].is_removed_when_deleted && !told.dnpipes[1].is_removed_when_deleted);
    server.delete(&path("orders"));
    keeper.settle().await;
    assert_eq!(names(&pod.hand_out_pool().unwrap()), ["shop/returns"]);
    assert!(server.get(SET).is_some());
    server.delete(&path("returns"));
    assert_eq!(server.get(SET), None, "nobody owns it any more");
    keeper.settle().await;
    assert_eq!(names(&pod.hand_out_pool().unwrap()), Vec::<&str>::new());
    assert_eq!(server.get(SET), None);
}

#[tokio::test]
async fn an_edit_that_cannot_be_changes_nothing_of_what_is_served() {
    let server = Server::default();
    apply(&server, "orders", json!({"storage": {"reclaim": "Delete"}}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    let mut pod = keeper.connect();
    pod.hand_out_pool().unwrap();
    // The second is one that this version of the operator cannot read at all.
    let own = json!({"groups": [{"name": "billing", "maxDeliveries": 5, "deadLetter": "orders"}]});
    for bad in [own, json!({"servers": "many"})] {
        apply(&server, "orders", bad);
        keeper.settle().await;
        assert_eq!(condition(&server, "orders", "Accepted").1, "Invalid");
        let told = pod.hand_out_pool();
        // Told of the first, the server hears nothing new of the second.
        let stays =
            told.is_none_or(|told| names(&told) == ["shop/orders"] && told.dnpipes[0].body.is_empty());
        assert!(stays && server.get(SET).is_some());
    }
}

#[tokio::test]
async fn of_two_that_want_different_volumes_the_older_has_its_way_and_the_other_is_told() {
    let server = Server::default();
    apply(&server, "orders", json!({"storage": {"storageClassName": "fast"}}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    let mut pod = keeper.connect();
    pod.hand_out_pool().unwrap();
    apply(&server, "later", json!({"storage": {"storageClassName": "slow"}}));
    keeper.settle().await;
    let (is, reason, message) = condition(&server, "later", "Accepted");
    assert_eq!((is.as_str(), reason.as_str()), ("False", "PoolConflict"));
    assert!(message.contains("`slow`") && message.contains("`fast`"), "{message}");
    assert_eq!(condition(&server, "later", "Ready").1, "NotAccepted");
    let told = pod.hand_out_pool().unwrap();
    let of = |name: &str| told.dnpipes.iter().find(|own| own.name == name).unwrap();
    assert!(of("shop/later").body.is_empty() && !of("shop/orders").body.is_empty());
    assert_eq!(condition(&server, "orders", "Accepted").0, "True");
    assert_eq!(claim(&server)["storageClassName"], "fast");
}

fn claim(server: &Server) -> Value {
    server.get(SET).unwrap()["spec"]["volumeClaimTemplates"][0]["spec"].clone()
}

#[tokio::test]
async fn a_foreign_object_of_the_pools_name_is_named_left_alone_and_told_nothing() {
    let server = Server::default();
    server.put(
        ACCOUNT,
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "dnpipes-default"}}),
    );
    apply(&server, "orders", json!({}));
    let keeper = Keeper::new(&server);
    assert!(!keeper.settle().await, "whether it is still there must be asked");
    assert_eq!(condition(&server, "orders", "Ready").1, "NameConflict");
    assert_eq!(server.get(SET), None);
    assert_eq!(keeper.connect().hand_out_pool(), None);
}

#[tokio::test]
async fn what_a_new_leader_has_not_heard_yet_stays_as_it_was_said() {
    let server = Server::default();
    apply(&server, "orders", json!({}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    server.makes_ready(SET);
    let mut pod = keeper.connect();
    let told = pod.hand_out_pool().unwrap();
    serves(&pod, &told);
    keeper.settle().await;
    let before = server.get(&path("orders")).unwrap()["status"].clone();
    Keeper::new(&server).settle().await;
    assert_eq!(server.get(&path("orders")).unwrap()["status"], before);
}

#[tokio::test]
async fn what_a_server_refuses_is_told_with_its_reason() {
    let server = Server::default();
    apply(&server, "orders", json!({}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    server.makes_ready(SET);
    let pod = keeper.connect();
    let error = Some("the dnpipe has 1 partitions, which never changes".to_owned());
    let served = Served { dnpipe: "shop/orders".into(), error, ..Served::default() };
    let volatile = Some("its volume is a tmpfs".to_owned());
    pod.report(Report::Serving(Serving { dnpipes: vec![served], volatile, ..Serving::default() }));
    keeper.settle().await;
    let (_, reason, message) = condition(&server, "orders", "Ready");
    assert!(reason == "Refused" && message.contains("which never changes"), "{reason} {message}");
    assert_eq!(condition(&server, "orders", "Durable").1, "Volatile");
}

#[tokio::test]
async fn a_pool_grows_at_once_and_shrinks_by_those_that_say_that_they_are_empty() {
    let server = Server::default();
    for name in ["notes", "orders", "returns"] {
        apply(&server, name, json!({}));
    }
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    server.makes_ready(SET);
    let mut first = keeper.connect();
    let told = first.hand_out_pool().unwrap();
    assert_eq!(homes(&told), [("notes", 0), ("orders", 0), ("returns", 0)]);
    assert_eq!(told.servers, ["dnpipes-default-0.dnpipes-default.shop.svc:7420"]);
    has(&first, &told, &[("notes", 0), ("orders", 0), ("returns", 0)], 3);
    keeper.settle().await;
    assert_eq!(condition(&server, "orders", "Placed").1, "Settled");

    apply(&server, "orders", json!({"servers": 3}));
    keeper.settle().await;
    assert_eq!(replicas(&server), 3);
    let told = first.hand_out_pool().unwrap();
    assert_eq!(
        homes(&told),
        [("notes", 0), ("orders", 1), ("returns", 2)],
        "the pool has the most any asks for"
    );
    assert_eq!((told.servers.len(), told.wanted), (3, 3));
    let (is, reason, message) = condition(&server, "orders", "Placed");
    assert_eq!((is.as_str(), reason.as_str()), ("False", "Moving"));
    assert!(message.contains("`dnpipes-default-0` to `dnpipes-default-1`"), "{message}");
    assert_eq!(condition(&server, "orders", "Ready").0, "True", "it is served all the while");

    let (mut second, mut third) = (keeper.connect_server(1), keeper.connect_server(2));
    assert_eq!(homes(&second.hand_out_pool().unwrap()), homes(&told), "each hears all of it");
    third.hand_out_pool().unwrap();
    has(&first, &told, &[("notes", 0)], 1);
    has(&second, &told, &[("orders", 1)], 1);
    has(&third, &told, &[("returns", 1)], 1);
    keeper.settle().await;
    for (name, pod) in [("notes", 0), ("orders", 1), ("returns", 2)] {
        assert_eq!(condition(&server, name, "Placed").1, "Settled");
        let status = server.get(&path(name)).unwrap()["status"].clone();
        assert_eq!(status["server"], format!("dnpipes-default-{pod}"));
    }

    apply(&server, "orders", json!({}));
    keeper.settle().await;
    assert_eq!(replicas(&server), 3, "each of them has something");
    let told = first.hand_out_pool().unwrap();
    assert_eq!((homes(&told), told.wanted), (vec![("notes", 0), ("orders", 0), ("returns", 0)], 1));
    assert_eq!(told.servers.len(), 3, "those that are to be emptied are found");
    // The second is empty before the third; a set loses its last first.
    has(&first, &told, &[("notes", 0), ("orders", 2)], 2);
    has(&second, &told, &[], 0);
    keeper.settle().await;
    assert_eq!(replicas(&server), 3);
    has(&first, &told, &[("notes", 0), ("orders", 2), ("returns", 2)], 3);
    has(&third, &told, &[], 1);
    keeper.settle().await;
    assert_eq!(replicas(&server), 3, "what was deleted and stays is on its volume");
    has(&third, &told, &[], 0);
    keeper.settle().await;
    assert_eq!(replicas(&server), 1);
    assert_eq!(condition(&server, "returns", "Placed").1, "Settled");
}

#[tokio::test]
async fn a_server_that_is_silent_has_what_it_had_also_for_a_new_leader() {
    let server = Server::default();
    apply(&server, "orders", json!({"servers": 2}));
    apply(&server, "returns", json!({}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    let mut first = keeper.connect();
    let told = first.hand_out_pool().unwrap();
    assert!(
        told.dnpipes.iter().all(|own| own.owner.is_none()),
        "nobody has had it: it begins with the first"
    );
    let second = keeper.connect_server(1);
    has(&first, &told, &[("orders", 0)], 1);
    has(&second, &told, &[("returns", 1)], 1);
    keeper.settle().await;

    let keeper = Keeper::new(&server);
    keeper.settle().await;
    let told = keeper.connect().hand_out_pool().unwrap();
    let owner = |server| Some(Owner { server, term: 0 });
    assert_eq!(told.dnpipes.iter().map(|own| own.owner).collect::<Vec<_>>(), [owner(0), owner(1)]);
    apply(&server, "orders", json!({}));
    keeper.settle().await;
    assert_eq!(replicas(&server), 2, "whether the second is empty it has not said");
    // Of two that say that they have it the one to which it went later does.
    let (first, second) = (keeper.connect(), keeper.connect_server(1));
    has(&first, &told, &[("orders", 0), ("returns", 2)], 2);
    has(&second, &told, &[("returns", 1)], 1);
    keeper.settle().await;
    let told = keeper.connect().hand_out_pool().unwrap();
    assert_eq!(told.dnpipes[1].owner, Some(Owner { server: 0, term: 2 }));
}

#[tokio::test]
async fn a_dnpipe_that_cannot_come_says_why() {
    let server = Server::default();
    apply(&server, "orders", json!({"servers": 2}));
    apply(&server, "returns", json!({}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    let mut first = keeper.connect();
    let told = first.hand_out_pool().unwrap();
    has(&first, &told, &[("orders", 0), ("returns", 0)], 2);
    let second = keeper.connect_server(1);
    let stuck = Some("the disk is full".to_owned());
    let served = Served { dnpipe: "shop/returns".into(), elsewhere: true, stuck, ..Served::default() };
    second.report(Report::Serving(Serving { dnpipes: vec![served], ..Serving::default() }));
    keeper.settle().await;
    let (is, reason, message) = condition(&server, "returns", "Placed");
    assert!(is == "False" && reason == "Stuck" && message.contains("the disk is full"), "{reason} {message}");
}

#[tokio::test]
async fn a_set_that_is_made_anew_has_the_servers_that_had_something() {
    let server = Server::default();
    apply(&server, "orders", json!({"servers": 3}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    let mut first = keeper.connect();
    let told = first.hand_out_pool().unwrap();
    let third = keeper.connect_server(2);
    has(&first, &told, &[], 0);
    has(&third, &told, &[("orders", 1)], 1);
    keeper.settle().await;
    apply(&server, "orders", json!({}));
    server.delete(SET);
    Keeper::new(&server).settle().await;
    assert_eq!(replicas(&server), 3, "what the third has is on its volume");
}

/// It was given a dnpipe a moment before it went, and had said before that it has nothing.
#[tokio::test]
async fn a_server_that_went_with_what_it_was_given_is_made_again() {
    let server = Server::default();
    apply(&server, "orders", json!({}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    assert_eq!(replicas(&server), 1);
    let mut first = keeper.connect();
    let gave = |at: u32, term: u32| {
        let dnpipe = "shop/orders".to_owned();
        let served = Served { dnpipe, elsewhere: true, at: Some(at), term, ..Served::default() };
        first.report(Report::Serving(Serving { dnpipes: vec![served], ..Serving::default() }));
    };
    gave(u32::MAX - 1, 7);
    keeper.settle().await;
    assert_eq!(replicas(&server), 1, "no pool has so many");
    gave(2, 1);
    keeper.settle().await;
    assert_eq!(replicas(&server), 3);
    let told = first.hand_out_pool().unwrap();
    assert_eq!(told.dnpipes[0].owner, Some(Owner { server: 2, term: 1 }));
    assert_eq!(homes(&told), [("orders", 0)]);
    // What it was told once, before anything moved, says nothing against what was said since.
    let status = |server: &Server| server.get(&path("orders")).unwrap()["status"]["server"].clone();
    let again = Keeper::new(&server);
    let mut first = again.connect();
    let served = Served { dnpipe: "shop/orders".into(), elsewhere: true, at: Some(0), ..Served::default() };
    first.report(Report::Serving(Serving { dnpipes: vec![served], ..Serving::default() }));
    again.settle().await;
    assert_eq!(first.hand_out_pool().unwrap().dnpipes[0].owner, Some(Owner { server: 2, term: 0 }));
    assert_eq!(status(&server), "dnpipes-default-2");
}

#[tokio::test]
async fn a_dnpipe_says_how_far_its_groups_are_behind_and_that_there_is_little_room() {
    let server = Server::default();
    apply(&server, "orders", json!({"storage": {"size": "1Gi"}, "groups": [{"name": "billing"}]}));
    let keeper = Keeper::new(&server);
    keeper.settle().await;
    server.makes_ready(SET);
    let mut pod = keeper.connect();
    let told = pod.hand_out_pool().unwrap();
    let serve = |bytes: u64, volume_free_bytes: u64| {
        let (dnpipe, hash) = ("shop/orders".to_owned(), told.dnpipes[0].hash.clone());
        let served = Served { dnpipe, hash, bytes, lag: 7, ..Served::default() };
        let volume_bytes = 10 << 30;
        let dnpipes = vec![served];
        pod.report(Report::Serving(Serving {
            volume_bytes,
            volume_free_bytes,
            dnpipes,
            ..Serving::default()
        }));
    };
    let told_of = |reason: &str| {
        let events = server.everything().into_iter().filter(|(path, _)| path.contains("/events/"));
        events.filter(|(_, event)| event["reason"] == reason && event["type"] == "Warning").count()
    };
    serve(100 << 20, 9 << 30);
    keeper.settle().await;
    assert_eq!(server.get(&path("orders")).unwrap()["status"]["lag"], 7);
    assert_eq!(condition(&server, "orders", "Room").0, "True");
    assert_eq!(told_of("NearlyFull"), 0);

    serve(870 << 20, 9 << 30);
    keeper.settle().await;
    let (is, reason, message) = condition(&server, "orders", "Room");
    assert!(is == "False" && reason == "NearlyFull" && message.starts_with("84 % of its quota"), "{message}");
    assert_eq!(told_of("NearlyFull"), 1);

    serve(100 << 20, 1 << 30);
    keeper.settle().await;
    let (_, _, message) = condition(&server, "orders", "Room");
    assert!(message.starts_with("90 % of the volume of server `dnpipes-default-0`"), "{message}");
}
