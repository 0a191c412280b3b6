//! The servers of pools of dnpipes: what each pool is to keep, and what its servers say of it.
//!
//! The account of a server belongs to one pool. It is told when the pool has been looked at, and hears nothing before: whoever
//! has heard nothing goes on with what it keeps.

use std::sync::Arc;

use sidestream_control::{Pool, Serving};

use super::{Account, Connected, Fleet, Inner, NAME_BYTES_MAX, addressee, shortened};

/// Dnpipes that one server may speak of.
const DNPIPES_SAID_MAX: usize = 1 << 14;

impl Fleet {
    /// From now on the servers that run as `account` keep this.
    pub fn publish_pool(&self, account: &Account, pool: Pool) {
        let mut inner = self.lock();
        if inner.pools.get(account).is_none_or(|before| **before != pool) {
            inner.pools.insert(account.clone(), Arc::new(pool));
            inner.wake(&[addressee(account, None)].into());
        }
    }

    /// Nobody is told of the pool any more: it is gone, or somebody else has its account.
    pub fn withdraw_pool(&self, account: &Account) {
        self.lock().pools.remove(account);
    }

    /// What the connected servers of a pool say, by pod; of one that has said nothing yet, none.
    pub fn serving(&self, account: &Account) -> Vec<(String, Option<Arc<Serving>>)> {
        let inner = self.lock();
        let whom = addressee(account, None);
        let sessions = inner.sessions_of(&whom);
        sessions.map(|session| (session.pod.clone(), session.serving.clone())).collect()
    }

    /// The pools of which something has been said since the last call, each by the namespace and the name of its account;
    /// waits until there are some.
    pub async fn stirred_pools(&self) -> Vec<Account> {
        let names = self.stirred_pools.next().await;
        let account = |name: &String| name.split_once('/').map(|(of, own)| (of.to_owned(), own.to_owned()));
        names.iter().filter_map(account).collect()
    }

    pub(super) fn stir_pool(&self, inner: &Inner, account: &Account) {
        if inner.pools.contains_key(account) {
            self.stirred_pools.add([stirred_name(account)]);
        }
    }
}

impl Connected {
    /// What it is to keep, where it is a server of dnpipes and that is news to it.
    pub fn hand_out_pool(&mut self) -> Option<Pool> {
        let pool = self.fleet.lock().pools.get(&self.own[0].account).cloned()?;
        if self.pool_told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &pool)) {
            return None;
        }
        self.pool_told = Some(pool.clone());
        Some((*pool).clone())
    }
}

pub(super) fn stirred_name((namespace, account): &Account) -> String {
    format!("{namespace}/{account}")
}

/// What is kept of a report, whoever sent it.
pub(super) fn within_bounds(mut serving: Serving) -> Serving {
    serving.disk.truncate(serving.disk.floor_char_boundary(NAME_BYTES_MAX));
    serving.disk_reason = shortened(serving.disk_reason);
    serving.volatile = serving.volatile.map(shortened);
    serving.dnpipes.truncate(DNPIPES_SAID_MAX);
    let are_short = |texts: [&String; 3]| texts.into_iter().all(|text| text.len() <= NAME_BYTES_MAX);
    serving.dnpipes.retain(|own| are_short([&own.dnpipe, &own.hash, &own.uid]));
    for own in &mut serving.dnpipes {
        own.error = own.error.take().map(shortened);
        own.stuck = own.stuck.take().map(shortened);
    }
    serving
}
