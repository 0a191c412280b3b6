//! Who sends over an edge: whom the pods of a sidecar run as.
//!
//! Of pods that the operator makes the compiler knows it. Those of the user's run as whoever the user said, which the pods
//! themselves show; so their accounts are written into the plans of those they send to, and receive from, on the cluster.

use std::collections::BTreeMap;

use sidestream_crds::SidecarPlan;
use sidestream_plan::{Kind, Sink, Source, stage::Account};

/// `sidecars` with the accounts of those that run in the user's pods written in, by the name of the sidecar.
///
/// A receiver lets in every account there is. A sender believes one receiver, so of several accounts it is the first.
pub fn with_accounts(
    sidecars: &[SidecarPlan],
    accounts: &BTreeMap<String, Vec<Account>>,
) -> Vec<SidecarPlan> {
    let mut all = sidecars.to_vec();
    for own in sidecars.iter().filter(|own| own.host.selector().is_some()) {
        let Some(accounts) = accounts.get(&own.name) else { continue };
        for stage in &own.plan.stages {
            let other_ends = all.iter_mut().flat_map(|other| &mut other.plan.stages);
            let other_ends = other_ends.filter(|other| other.name == stage.name);
            match &stage.kind {
                Kind::Sink(Sink::Edge(_)) => other_ends.for_each(|other| {
                    if let Kind::Source(Source::Edge(source)) = &mut other.kind {
                        source.from.clone_from(accounts);
                    }
                }),
                Kind::Source(Source::Edge(_)) => other_ends.for_each(|other| {
                    if let (Kind::Sink(Sink::Edge(sink)), Some(first)) = (&mut other.kind, accounts.first()) {
                        sink.to.clone_from(first);
                    }
                }),
                _ => {}
            }
        }
    }
    all
}

/// `sidecars`, whose edges let in these senders too, by the name of the edge.
pub fn with_senders(
    mut sidecars: Vec<SidecarPlan>,
    senders: &BTreeMap<String, Vec<Account>>,
) -> Vec<SidecarPlan> {
    for stage in sidecars.iter_mut().flat_map(|own| &mut own.plan.stages) {
        let Kind::Source(Source::Edge(source)) = &mut stage.kind else { continue };
        let others = senders.get(&source.edge).into_iter().flatten();
        let others: Vec<Account> = others.filter(|own| !source.from.contains(own)).cloned().collect();
        source.from.extend(others);
    }
    sidecars
}

#[cfg(test)]
mod tests {
    use sidestream_crds::compile;

    use super::*;

    const ORDERS: &[u8] = b"
kind: Pipeline
metadata: {name: orders, namespace: shop}
spec:
  sidecars:
  - {name: app, inject: {podSelector: {matchLabels: {app: front}}}}
  - {name: hub, workload: {}}
  stages:
  - {name: tick, sidecar: app, source: {generator: {}}}
  - {name: all, sidecar: hub, process: {filter: {keep: 'true'}}}
  - {name: show, sidecar: app, sink: {console: {}}}
";

    fn account(name: &str) -> Account {
        Account { namespace: "shop".into(), name: name.into() }
    }

    /// Who may send to the hub, and whom the hub sends to.
    fn neighbours(sidecars: &[SidecarPlan]) -> (Vec<Account>, Account) {
        let hub = sidecars.iter().find(|own| own.name == "hub").unwrap();
        let (_, source) = hub.plan.stage("tick->all").unwrap();
        let (_, sink) = hub.plan.stage("all->show").unwrap();
        match (&source.kind, &sink.kind) {
            (Kind::Source(Source::Edge(source)), Kind::Sink(Sink::Edge(sink))) => {
                (source.from.clone(), sink.to.clone())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_may_send_before_the_pods_are_known_and_then_whoever_they_run_as() {
        let sidecars = compile(ORDERS, "orders").pipelines.remove(0).sidecars;
        assert_eq!(neighbours(&sidecars).0, []);
        let accounts = BTreeMap::from([("app".to_owned(), vec![account("front"), account("till")])]);
        let known = with_accounts(&sidecars, &accounts);
        assert_eq!(neighbours(&known), (vec![account("front"), account("till")], account("front")));
        let app = known.iter().find(|own| own.name == "app").unwrap();
        let (_, back) = app.plan.stage("all->show").unwrap();
        let Kind::Source(Source::Edge(back)) = &back.kind else { panic!("{back:?}") };
        assert_eq!(back.from, [account("orders-hub-spl")], "of the operator's own pods the name is known");
    }
}
