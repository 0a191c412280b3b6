//! The operator may do what it does and nothing else: its rights beside what the API server wrote down of a whole run.

use std::{
    collections::BTreeSet,
    env,
    fmt::{Display, Formatter, Result as Formatted},
    fs,
};

use serde_json::Value;

use crate::world::kubectl;

const OPERATOR: &str = "system:serviceaccount:sidestream-system:sidestream-operator";

/// Granted though no request shows its use, and why.
const UNSEEN: &[(&str, &str)] = &[(
    "update pipelines/finalizers.sidestream.dev",
    "asked for by the admission of owner references that block a deletion, which is no request of its own",
)];

/// A verb on a kind of object.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    verb: String,
}

/// Runs last, see `e2e/run.sh`: the other tests are what it reads about.
#[test]
#[ignore = "needs a cluster: make e2e"]
fn the_operator_was_denied_nothing_and_has_no_right_it_did_not_use() {
    let Ok(log) = env::var("SIDESTREAM_E2E_AUDIT") else {
        println!("skipped: this cluster was not raised here, so its audit log is not ours");
        return;
    };
    let log = fs::read_to_string(log).expect("an audit log");
    let asked = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event a line"));
    let asked: Vec<_> = asked.filter(|event| event["user"]["username"] == OPERATOR).collect();
    assert!(asked.len() > 50, "{} requests of the operator in the log", asked.len());

    // Not by its status: a namespace that is being deleted refuses what is put into it with the same one.
    let decision = |event: &Value| event["annotations"]["authorization.k8s.io/decision"].clone();
    let denied: Vec<_> = asked.iter().filter(|event| decision(event) == "forbid").collect();
    assert!(denied.is_empty(), "denied: {}", denied[0]);

    let used: BTreeSet<Right> = asked.iter().flat_map(used_by).collect();
    let unseen = |right: &Right| UNSEEN.iter().any(|(name, _)| *name == right.to_string());
    let unused: Vec<_> =
        granted().into_iter().filter(|right| !used.contains(right) && !unseen(right)).collect();
    assert!(unused.is_empty(), "granted, never used: {}", list(&unused));
}

fn used_by(event: &Value) -> Vec<Right> {
    let object = &event["objectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut resource = text(&object["resource"]);
    if let Some(sub) = object["subresource"].as_str() {
        resource = format!("{resource}/{sub}");
    }
    let right = |verb: &str| Right {
        group: text(&object["apiGroup"]),
        resource: resource.clone(),
        verb: verb.into(),
    };
    // A patch that made the object needed both.
    let made = event["verb"] == "patch" && event["responseStatus"]["code"] == 201;
    let mut rights = vec![right(&text(&event["verb"]))];
    rights.extend(made.then(|| right("create")));
    rights
}

fn granted() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for role in ["clusterrole/sidestream-operator", "role/sidestream-operator"] {
        let role =
            kubectl(&["--namespace", "sidestream-system", "get", role, "-o", "json"], "").expect("a role");
        let role: Value = serde_json::from_str(&role).expect("JSON");
        for rule in role["rules"].as_array().expect("rules") {
            let texts = |key: &str| -> Vec<String> {
                rule[key]
                    .as_array()
                    .expect(key)
                    .iter()
                    .map(|text| text.as_str().expect(key).to_owned())
                    .collect()
            };
            for group in texts("apiGroups") {
                for resource in texts("resources") {
                    for verb in texts("verbs") {
                        rights.insert(Right { group: group.clone(), resource: resource.clone(), verb });
                    }
                }
            }
        }
    }
    rights
}

fn list(rights: &[Right]) -> String {
    rights.iter().map(Right::to_string).collect::<Vec<_>>().join(", ")
}

impl Display for Right {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        write!(f, "{} {}.{}", self.verb, self.resource, self.group)
    }
}
