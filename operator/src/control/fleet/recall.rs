//! What sidecars were told before this replica began to lead, as far as they say it.

use std::sync::Arc;

use sidestream_control::Plan;

use super::{Account, Addressee, Fleet, Session, addressee};

/// What a connected sidecar says it runs of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Whom it runs as.
    pub account: Account,
    /// Its pod.
    pub pod: String,
    /// The name of the content of its plan.
    pub hash: String,
}

impl Fleet {
    /// Whether it has been said by this replica who runs something of `pipeline`.
    pub fn is_published(&self, pipeline: &str) -> bool {
        self.lock().addressees.contains_key(pipeline)
    }

    /// Whether it is told nothing for the sake of `pipeline`.
    pub fn is_held(&self, addressee: &Addressee, pipeline: &str) -> bool {
        self.lock().held.get(pipeline).is_some_and(|held| held.contains(addressee))
    }

    /// What runs of `pipeline` in sidecars that say so, and have been told nothing of it.
    pub fn untold(&self, pipeline: &str) -> Vec<Runs> {
        let inner = self.lock();
        let is_told = |session: &Session| {
            let told = |pod| inner.plans.get(&addressee(&session.account, pod));
            let own = [told(None), told(Some(session.pod.clone()))];
            own.into_iter().flatten().any(|plans| plans.contains_key(pipeline))
        };
        let runs = inner.sessions.values().filter_map(|session| {
            let (hash, None) = session.said.get(pipeline)?.applied.clone()? else { return None };
            let (account, pod) = (session.account.clone(), session.pod.clone());
            (!is_told(session)).then_some(Runs { account, pod, hash })
        });
        runs.collect()
    }

    /// What `own` was told before this replica began to lead. It is told nothing else until `pipeline` is published.
    pub fn recall(&self, pipeline: &str, own: Addressee, plan: Arc<Plan>) {
        let mut inner = self.lock();
        inner.plans.entry(own.clone()).or_default().entry(pipeline.to_owned()).or_insert(plan);
        inner.addressees.entry(pipeline.to_owned()).or_default().insert(own.clone());
        inner.held.entry(pipeline.to_owned()).or_default().insert(own);
    }
}
