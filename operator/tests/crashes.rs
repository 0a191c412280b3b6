//! The operator dies before and after every write, and the next one brings about the same objects.

mod world;

use std::collections::BTreeMap;

use serde_json::Value;
use world::{Death, HELLO, Operator, Server};

const FASTER: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  stages:
  - {name: tick, source: {generator: {rate: 20}}}
  - {name: display, sink: {console: {}}}
";
/// Two sidecars, so many pods of the one, and whether they are to stand still.
macro_rules! two {
    ($pods:literal, $suspend:literal) => {
        concat!(
            "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  suspend: ",
            $suspend,
            "
  sidecars:
  - {name: door, workload: {replicas: ",
            $pods,
            "}}
  - {name: hub, workload: {}}
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: show, sidecar: hub, sink: {console: {}}}
"
        )
    };
}
const TWO: &str = two!(2, false);
const SCALED: &str = two!(5, false);
const SUSPENDED: &str = two!(2, true);
const BROKEN: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  stages:
  - {name: tick, source: {generator: {rate: 10}}}
  - {name: show, from: [tock], sink: {console: {}}}
";

/// The hub brings the events of a key together, in so many pods: in several, each owns a share of the keys.
macro_rules! together_in {
    ($pods:literal) => {
        concat!(
            "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: hello}
spec:
  sidecars:
  - {name: door, workload: {}}
  - {name: hub, workload: {replicas: ",
            $pods,
            "}}
  stages:
  - {name: tick, sidecar: door, source: {generator: {rate: 10}}}
  - {name: once, sidecar: hub, process: {dedupe: {by: event.key, window: 1m}}}
  - {name: show, sink: {console: {}}}
"
        )
    };
}
const TOGETHER: &str = together_in!(1);
const OWNED: &str = together_in!(2);
const OWNED_BY_MORE: &str = together_in!(3);

/// What a user does; the last step is the one during which the operator dies. `None` deletes. Then the workloads that
/// there are in the end.
type Story = (&'static str, &'static [Option<&'static str>], &'static [&'static str]);

const STORIES: [Story; 13] = [
    ("create", &[Some(HELLO)], &["main"]),
    ("edit and rename a stage", &[Some(HELLO), Some(FASTER)], &["main"]),
    ("go back", &[Some(HELLO), Some(FASTER), Some(HELLO)], &["main"]),
    ("one sidecar becomes two others", &[Some(HELLO), Some(TWO)], &["door", "hub"]),
    ("two sidecars become one", &[Some(TWO), Some(HELLO)], &["main"]),
    ("scale", &[Some(TWO), Some(SCALED)], &["door", "hub"]),
    ("suspend", &[Some(TWO), Some(SUSPENDED)], &["door", "hub"]),
    ("go on", &[Some(SUSPENDED), Some(TWO)], &["door", "hub"]),
    ("share the keys among more", &[Some(OWNED), Some(OWNED_BY_MORE)], &["door", "hub"]),
    // What was before stays until what comes is there, which nothing here says.
    ("become owners of keys", &[Some(TOGETHER), Some(OWNED)], &["door", "hub", "hub"]),
    ("own keys no more", &[Some(OWNED), Some(TWO)], &["door", "hub", "hub"]),
    ("break", &[Some(HELLO), Some(BROKEN)], &["main"]),
    ("delete and make anew", &[Some(TWO), None, Some(HELLO)], &["main"]),
];

fn act(server: &Server, step: Option<&str>) {
    match step {
        Some(yaml) => server.user_applies(yaml),
        None => server.user_deletes("hello"),
    }
}

/// Of the path of an object of `hello`.
fn is_workload((kind, _): &(&str, &str)) -> bool {
    kind.ends_with("/deployment") || kind.ends_with("/statefulset")
}

/// Everything but the last step, undisturbed.
async fn before(steps: &[Option<&str>]) -> Server {
    let server = Server::default();
    for step in &steps[..steps.len() - 1] {
        act(&server, *step);
        Operator::new(&server).seeing().settle("hello").await;
    }
    act(&server, steps[steps.len() - 1]);
    server
}

async fn undisturbed(steps: &[Option<&str>]) -> (BTreeMap<String, Value>, usize) {
    let server = before(steps).await;
    server.revive(None);
    let operator = Operator::new(&server).seeing();
    operator.settle_for_good("hello").await;
    (server.objects(), server.writes().len())
}

#[tokio::test]
async fn an_operator_that_dies_at_any_write_leaves_what_the_next_one_completes() {
    let mut points = 0;
    for (story, steps, workloads) in STORIES {
        let (expected, writes) = undisturbed(steps).await;
        assert!(writes > 0, "{story}: nothing is written");
        let found: Vec<_> =
            expected.keys().filter_map(|path| path.split_once("s/hello-").filter(is_workload)).collect();
        let found: Vec<_> = found.into_iter().filter_map(|(_, name)| name.strip_suffix("-spl")).collect();
        assert_eq!(found, workloads, "{story}");
        for at in 0..writes {
            for death in [Death::Before, Death::After] {
                for is_lagging in [false, true] {
                    let server = before(steps).await;
                    server.revive(Some((at, death)));
                    let dying = Operator::new(&server).seeing();
                    while dying.look("hello").await && server.writes().len() <= at {
                        server.show(&dying.context.observed);
                        dying.let_holds_end();
                    }
                    server.revive(None);
                    let next = Operator::new(&server);
                    if is_lagging {
                        // Its first look knows nothing of what is there.
                        next.look("hello").await;
                    }
                    next.settle_for_good("hello").await;
                    let found = server.objects();
                    assert_eq!(
                        serde_yaml::to_string(&found).unwrap(),
                        serde_yaml::to_string(&expected).unwrap(),
                        "{story}: died {death:?} write {at}, lagging: {is_lagging}"
                    );
                    points += 1;
                }
            }
        }
    }
    println!("{points} deaths");
    assert!(points > 100, "only {points} deaths");
}

#[tokio::test]
async fn a_second_look_writes_nothing_whether_or_not_it_remembers_the_first() {
    for (story, steps, _) in STORIES {
        let server = before(steps).await;
        let first = Operator::new(&server).seeing();
        first.settle("hello").await;
        for (memory, operator) in [
            ("the same", first),
            ("a new one", Operator::new(&server).seeing()),
            ("a blind one", Operator::new(&server)),
        ] {
            server.revive(None);
            assert!(operator.look("hello").await);
            if memory != "a blind one" {
                assert_eq!(server.writes(), [""; 0], "{story}: {memory}");
            }
            // One that does not see which revisions there are may number its own anew, and nothing else.
            let others: Vec<_> =
                server.writes().into_iter().filter(|write| !write.contains("controllerrevisions")).collect();
            assert!(
                others.iter().all(|write| write.ends_with("/status") || write.contains("/events")),
                "{others:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_settled_pipeline_is_not_even_asked_about() {
    let server = Server::default();
    server.user_applies(HELLO);
    let operator = Operator::new(&server).seeing();
    operator.settle("hello").await;
    // Dead: any request would fail.
    server.revive(Some((0, Death::Before)));
    assert!(operator.look("hello").await);
}
