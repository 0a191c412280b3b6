//! The servers of a pool: how many there are to be, who has what, and who is to have it.
//!
//! ```text
//!   servers 1 ──▶ 3   the set grows at once, and dnpipes go to the new ones
//!   servers 3 ──▶ 1   dnpipes leave the last ones, and the set shrinks by those that say that they are empty
//! ```
//!
//! Who has a dnpipe its server says; while that one is silent, the status of the resource has what was last said.

use std::collections::BTreeMap;

use kube::ResourceExt;
use sidestream_control::{Owner, Served, Serving};
use sidestream_crds::{SERVERS_MAX, names};
use sidestream_desired::homes;
use sidestream_plan::Dnpipe as Kept;

use super::Member;
use crate::control::Account;

/// The servers of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Servers {
    /// How many the members ask for.
    pub(super) wanted: u32,
    /// How many there are to be for now.
    pub(super) replicas: u32,
    /// By dnpipe, who has it.
    pub(super) owners: BTreeMap<String, Owner>,
    /// By dnpipe, the number of the server that is to have it.
    pub(super) homes: BTreeMap<String, u32>,
}

impl Servers {
    /// As they are to be, where `running` are asked of the cluster now and `serving` is what those that are connected say.
    pub(super) fn of(
        account: &Account,
        members: &[Member],
        running: u32,
        serving: &[(String, Option<std::sync::Arc<Serving>>)],
    ) -> Servers {
        let sound = members.iter().filter(|own| own.contradicts.is_none());
        let kept: Vec<&Kept> = sound.clone().filter_map(|own| own.kept.as_ref()).collect();
        let asked = sound.filter(|own| own.kept.is_some()).filter_map(|own| own.resource.spec.servers);
        let wanted = asked.filter_map(|count| u32::try_from(count).ok()).max().unwrap_or(1).max(1);
        let owners = owners(account, members, serving);
        let homes = homes(&kept, wanted, |name| owners.get(name).map(|owner| owner.server));
        let is_empty = |server: u32| {
            let pod = pod(account, server);
            let says = serving.iter().find(|(name, _)| *name == pod).and_then(|(_, says)| says.as_ref());
            says.is_some_and(|says| says.kept == 0) && owners.values().all(|owner| owner.server != server)
        };
        // A set loses its last ones.
        let replicas =
            (wanted..running).rev().find(|server| !is_empty(*server)).map_or(wanted, |last| last + 1);
        // Also one that the set does not count: what it has is on its volume.
        let keeps = serving.iter().filter(|(_, says)| says.as_ref().is_some_and(|says| says.kept > 0));
        let keeping = keeps.filter_map(|(pod, _)| number(account, pod));
        let having = owners.values().map(|owner| owner.server).chain(keeping);
        let replicas = having.map(|server| server.saturating_add(1)).fold(replicas, u32::max);
        Servers { wanted, replicas, owners, homes }
    }

    /// Where each is, for those that are there until what they have is elsewhere.
    pub(super) fn addresses(&self, account: &Account, pool: &str) -> Vec<String> {
        let service = names::pool_service(&account.0, pool);
        let at = |server| format!("{}.{service}:{}", pod(account, server), names::DNPIPES_PORT);
        (0..self.replicas).map(at).collect()
    }
}

/// The pod of a server.
pub(super) fn pod(account: &Account, server: u32) -> String {
    format!("{}-{server}", account.1)
}

fn number(account: &Account, pod: &str) -> Option<u32> {
    pod.strip_prefix(&account.1)?.strip_prefix('-')?.parse().ok()
}

fn owners(
    account: &Account,
    members: &[Member],
    serving: &[(String, Option<std::sync::Arc<Serving>>)],
) -> BTreeMap<String, Owner> {
    // No pool has more: what says so is not true, and would have volumes made.
    let can_be = |server: &u32| *server < SERVERS_MAX.unsigned_abs();
    let last_said = members.iter().filter_map(|own| {
        let pod = own.resource.status.as_ref()?.server.as_deref()?;
        let server = number(account, pod).filter(can_be)?;
        Some((own.resource.full_name(), Owner { server, term: 0 }))
    });
    let mut owners: BTreeMap<String, Owner> = last_said.collect();
    let (mut heard, mut told): (BTreeMap<String, Owner>, BTreeMap<String, Owner>) = Default::default();
    let uids: BTreeMap<String, Option<String>> =
        members.iter().map(|own| (own.resource.full_name(), own.resource.uid())).collect();
    // One that has not heard yet that its dnpipe was deleted, and another made, speaks of that one.
    let is_meant = |own: &Served| {
        let uid = uids.get(&own.dnpipe).and_then(Option::as_ref);
        own.uid.is_empty() || uid == Some(&own.uid)
    };
    for (pod, says) in serving {
        let (Some(server), Some(says)) = (number(account, pod), says) else { continue };
        for own in says.dnpipes.iter().filter(|own| own.error.is_none() && is_meant(own)) {
            // One that gave it away says to whom, who may have gone with it before it could speak.
            let (owner, knows) = match own.elsewhere {
                true => (own.at.filter(can_be).map(|server| Owner { server, term: own.term }), &mut told),
                false => (Some(Owner { server, term: own.term }), &mut heard),
            };
            let Some(owner) = owner else { continue };
            let known = knows.entry(own.dnpipe.clone()).or_insert(owner);
            if owner.term > known.term {
                *known = owner;
            }
        }
    }
    for (dnpipe, owner) in told {
        // Of one that never moved nobody gave anything away: that is what this program told them, once.
        if owner.term == 0 && owners.contains_key(&dnpipe) {
            continue;
        }
        let known = heard.entry(dnpipe).or_insert(owner);
        if owner.term > known.term {
            *known = owner;
        }
    }
    owners.extend(heard);
    owners
}
