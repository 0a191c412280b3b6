//! What sidecars were told before this replica began to lead, as far as they say it.

use std::sync::Arc;

use sidestream_control::{Plan, Suspend};

use super::{Account, Addressee, Fleet, Said, Session, addressee, namespace_of};

/// What a connected sidecar says it runs of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Whom it runs as.
    pub account: Account,
    /// Its pod.
    pub pod: String,
    /// The name of the content of its plan.
    pub hash: String,
    /// What of it stands still.
    pub suspend: Suspend,
}

impl Fleet {
    /// Whether this replica has said who runs something of `pipeline`.
    pub fn is_published(&self, pipeline: &str) -> bool {
        self.lock().published.contains(pipeline)
    }

    /// Whether it is told nothing for the sake of `pipeline`.
    pub fn is_held(&self, addressee: &Addressee, pipeline: &str) -> bool {
        self.lock().held.get(pipeline).is_some_and(|held| held.contains(addressee))
    }

    /// What runs of `pipeline` in sidecars of its namespace that say so, and have been told nothing of it.
    pub fn untold(&self, pipeline: &str) -> Vec<Runs> {
        let inner = self.lock();
        let is_told = |session: &Session| {
            let told = |pod| inner.plans.get(&addressee(&session.account, pod));
            let own = [told(None), told(Some(session.pod.clone()))];
            own.into_iter().flatten().any(|plans| plans.contains_key(pipeline))
        };
        let near = inner.sessions.values().filter(|own| own.account.0 == namespace_of(pipeline));
        let runs = near.filter(|session| !is_told(session)).filter_map(|session| {
            let (hash, suspend) = session.said.get(pipeline)?.runs()?;
            Some(Runs { account: session.account.clone(), pod: session.pod.clone(), hash, suspend })
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

impl Said {
    /// Which plan it runs, and what of that stands still; none where it refused one, and did not say which it goes on with.
    fn runs(&self) -> Option<(String, Suspend)> {
        match (&self.drained, &self.halting, &self.applied) {
            (Some((hash, _)), ..) => Some((hash.clone(), Suspend::Stop)),
            (_, Some((hash, _)), _) => Some((hash.clone(), Suspend::StopSources)),
            (_, _, Some((hash, None))) => Some((hash.clone(), Suspend::Run)),
            _ => None,
        }
    }
}
