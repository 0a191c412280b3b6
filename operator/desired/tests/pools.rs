//! Dnpipes of `cases/pools/` beside the objects that serve their pool, as YAML. `UPDATE_CASES=1` writes them anew: read them.

use std::{fs, path::Path};

use sidestream_crds::{Dnpipe, compile};
use sidestream_desired::{Claim, Facts, Pool, pool_objects};

#[test]
fn every_pool_is_served_by_the_objects_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/pools");
    let made = made_of(&fs::read(folder.join("orders.yaml")).unwrap());
    let expected = folder.join("orders.objects.yaml");
    if std::env::var_os("UPDATE_CASES").is_some() {
        fs::write(&expected, &made).unwrap();
    }
    let expected = fs::read_to_string(&expected).unwrap_or_default();
    assert!(expected == made, "not as in cases/pools; UPDATE_CASES=1 writes it anew");
}

fn made_of(text: &[u8]) -> String {
    let facts = Facts {
        sidecar_image: "sidestream.dev/sidecar:0.1.0".into(),
        image_pull_policy: None,
        operator: "sidestream-operator.sidestream-system.svc:9443".into(),
        operator_id: "spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator".into(),
    };
    let compiled = compile(text, "orders");
    assert!(compiled.is_ok(), "{:?}", compiled.diagnostics);
    let mut resources: Vec<Dnpipe> = compiled.dnpipes.iter().map(|own| own.resource.clone()).collect();
    for (number, resource) in (1..).zip(&mut resources) {
        resource.metadata.uid = Some(format!("6f3f0c7e-0000-4000-8000-{number:012}"));
    }
    let owners: Vec<&Dnpipe> = resources.iter().collect();
    let members: Vec<_> = compiled.dnpipes.iter().filter_map(|own| own.plan.as_ref()).collect();
    let claim = Claim::for_members(owners.iter().copied());
    let (namespace, name, servers) = ("shop", "default", 1);
    let pool = Pool { namespace, name, owners: &owners, members: &members, claim: &claim, servers };
    let made = pool_objects(&pool, &facts);
    let documents: Vec<String> = made
        .iter()
        .map(|object| serde_yaml::to_string(&serde_json::to_value(object).unwrap()).unwrap())
        .collect();
    documents.join("---\n")
}
