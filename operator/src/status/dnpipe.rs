//! Every condition of a Dnpipe, worded once.
//!
//! | condition | reasons |
//! |---|---|
//! | `Accepted` | `Compiled`, `Invalid`, `PoolConflict` |
//! | `Ready` | `Serving`, `NotAccepted`, `NameConflict`, `Creating`, `PodsNotReady`, `NotConnected`, `Pending`, `Refused` |
//! | `Durable` | the disk that runs (`Uring`, `File`), `Volatile`, `Unknown` |
//! | `Placed` | `Settled`, `Moving`, `Stuck`, `Unknown` |
//! | `Room` | `Enough`, `NearlyFull`, `Unknown` |

use k8s_openapi::jiff::Timestamp;
use sidestream_control::{Served, Serving};
use sidestream_crds::{Diagnostic, DnpipeStatus};
use sidestream_plan::{Dnpipe, dnpipe::Durability};

use super::{Is, Said, condition, made, said_in};
use crate::observed::Pods;

/// What a status is made of.
#[derive(Debug)]
pub struct Known<'a> {
    /// The generation of the spec that was looked at.
    pub generation: Option<i64>,
    /// What the compiler found wrong; empty where it accepts the spec.
    pub errors: &'a [Diagnostic],
    /// Where it contradicts the others of its pool.
    pub contradicts: Option<String>,
    /// What its servers are told to keep, and the hash of that; none where it stays as it is.
    pub kept: Option<(&'a Dnpipe, &'a str)>,
    /// An object of the pool's that is somebody else's.
    pub conflict: Option<&'a str>,
    /// The pods of the pool; none where they are not known yet.
    pub pods: Option<Pods>,
    /// The servers of the pool that are connected.
    pub servers: &'a [Server<'a>],
    /// The pod of the server that has it, as was last said.
    pub owner: Option<String>,
    /// The pod of the server that is to have it.
    pub home: Option<String>,
    /// Whether the servers may not have had the time to connect to this replica yet.
    pub is_early: bool,
}

/// A server that is connected.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its pod.
    pub pod: &'a str,
    /// What it says of itself; none where it has said nothing yet.
    pub says: Option<&'a Serving>,
    /// What it says of the dnpipe; none where it does not know of it.
    pub served: Option<&'a Served>,
}

/// The status of a Dnpipe called `name` (`namespace/name`) that had `before`.
pub fn status(known: &Known<'_>, name: &str, before: Option<&DnpipeStatus>, now: Timestamp) -> DnpipeStatus {
    let none = DnpipeStatus::default();
    let before = before.unwrap_or(&none);
    // Those that only know of it have nothing to add up.
    let served = || known.servers.iter().filter_map(|server| server.served).filter(|own| !own.elsewhere);
    let is_heard = served().next().is_some();
    let sum = |of: fn(&Served) -> u64| {
        let sum: u64 = served().map(of).sum();
        i64::try_from(sum).unwrap_or(i64::MAX).min(AMOUNT_MAX)
    };
    let has_groups = known.kept.is_some_and(|(kept, _)| !kept.groups.is_empty()) || sum(|own| own.lag) > 0;
    let partitions = known.kept.and_then(|(kept, _)| i32::try_from(kept.partitions).ok());
    // What nobody says at the moment was last said before.
    let or = |now: Option<i64>, before: Option<i64>| if is_heard { now } else { before };
    let said = [
        accepted(known),
        ready(known, name, before),
        durable(known, before),
        placed(known),
        room(known, before),
    ];
    DnpipeStatus {
        observed_generation: known.generation,
        partitions: partitions.or(before.partitions),
        epoch: or(served().map(|own| i64::from(own.epoch)).max(), before.epoch),
        records: or(Some(sum(|own| own.records)), before.records),
        server: known.owner.clone().or_else(|| before.server.clone()),
        lag: or(has_groups.then(|| sum(|own| own.lag)), before.lag),
        size: if is_heard { Some(size(sum(|own| own.bytes))) } else { before.size.clone() },
        conditions: said
            .into_iter()
            .map(|said| condition(said, known.generation, &before.conditions, now))
            .collect(),
    }
}

fn accepted(known: &Known<'_>) -> Said {
    if !known.errors.is_empty() {
        let message: Vec<String> = known.errors.iter().map(ToString::to_string).collect();
        return ("Accepted", Is::False, "Invalid", message.join("\n"));
    }
    match &known.contradicts {
        Some(how) => ("Accepted", Is::False, "PoolConflict", how.clone()),
        None => ("Accepted", Is::True, "Compiled", "the spec compiles".into()),
    }
}

fn ready(known: &Known<'_>, name: &str, before: &DnpipeStatus) -> Said {
    let no = |reason, message| ("Ready", Is::False, reason, message);
    if let Some(conflict) = known.conflict {
        return no("NameConflict", conflict.to_owned());
    }
    let Some((kept, hash)) = known.kept else {
        let goes_on = "what is asked for cannot be; where it was served before, it goes on as it was";
        return no("NotAccepted", goes_on.into());
    };
    let at = sidestream_crds::names::pool_service(&kept.namespace, &kept.pool);
    let port = sidestream_crds::names::DNPIPES_PORT;
    let serves = ("Ready", Is::True, "Serving", format!("`{name}` is served at {at}:{port}"));
    // Of several servers it needs one: the others may come and go.
    let of_owner = known.servers.iter().filter_map(|server| server.served).find(|own| !own.elsewhere);
    if known.pods.is_some_and(|pods| pods.wanted > 1)
        && of_owner.is_some_and(|own| own.error.is_none() && own.hash == hash)
    {
        return serves;
    }
    let wanted = match made(&sidestream_crds::names::pool(&kept.pool), known.pods) {
        Ok(wanted) => wanted,
        Err((reason, message)) => return no(reason, message),
    };
    if known.servers.len() < wanted {
        // A replica that has just become the leader does not know yet what the servers will say.
        if known.is_early && was_serving(known, before) {
            return serves;
        }
        let message = format!("{} of {wanted} servers are connected to the operator", known.servers.len());
        return ("Ready", Is::Unknown, "NotConnected", message);
    }
    for Server { pod, served, .. } in known.servers {
        match served {
            Some(Served { error: Some(error), .. }) => {
                return no("Refused", format!("server `{pod}` does not make it so: {error}"));
            }
            Some(served) if served.hash == hash => {}
            _ => return no("Pending", format!("server `{pod}` has not said yet that it serves it")),
        }
    }
    match of_owner {
        Some(_) => serves,
        // On its way it is with nobody for a moment.
        None if known.owner != known.home && was_serving(known, before) => serves,
        None => no("Pending", "no server has said that it has it: it goes from one to another".into()),
    }
}

fn was_serving(known: &Known<'_>, before: &DnpipeStatus) -> bool {
    let is_so = said_in(&before.conditions, "Ready").is_some_and(|(is, _, _)| is == "True");
    is_so && before.observed_generation == known.generation
}

/// Where it is, and where it is to be.
fn placed(known: &Known<'_>) -> Said {
    let unknown = |message: &str| ("Placed", Is::Unknown, "Unknown", message.to_owned());
    let Some(home) = &known.home else { return unknown("nothing says where it is to be") };
    let Some(owner) = &known.owner else { return unknown("no server has said yet that it has it") };
    if owner == home {
        return ("Placed", Is::True, "Settled", format!("server `{owner}` has it"));
    }
    let to_come = known.servers.iter().find(|server| server.pod == home);
    let stuck = to_come.and_then(|server| server.served).and_then(|own| own.stuck.as_ref());
    match (to_come, stuck) {
        (_, Some(why)) => {
            ("Placed", Is::False, "Stuck", format!("it does not go from server `{owner}` to `{home}`: {why}"))
        }
        (None, _) => {
            let message =
                format!("it is to go from server `{owner}` to `{home}`, which is not connected yet");
            ("Placed", Is::False, "Moving", message)
        }
        (Some(_), None) => {
            ("Placed", Is::False, "Moving", format!("it goes from server `{owner}` to `{home}`"))
        }
    }
}

/// As the servers have measured it. What none of them says at the moment stays as it was said.
fn durable(known: &Known<'_>, before: &DnpipeStatus) -> Said {
    let said = known.servers.iter().filter_map(|server| Some((server.pod, server.says?)));
    // The weakest of them is what a push can count on.
    let Some((pod, serving)) = said.min_by_key(|(_, serving)| serving.volatile.is_none()) else {
        return as_before("Durable", before, known_reason, "no server has said yet what its disk does");
    };
    if let Some(why) = &serving.volatile {
        return ("Durable", Is::False, "Volatile", format!("server `{pod}`: {why}"));
    }
    let durability = known.kept.map(|(kept, _)| kept.durability).unwrap_or_default();
    let when = match durability {
        Durability::Device => "when the device has it",
        Durability::PageCache => "when the kernel has it, and the device has it within a second",
        Durability::Memory => "when the kernel has it",
    };
    let Serving { disk, disk_reason, .. } = serving;
    let message = format!("a push is answered {when}; server `{pod}` writes by {disk}: {disk_reason}");
    ("Durable", Is::True, known_reason(disk), message)
}

/// Whether pushes find room for a while yet.
fn room(known: &Known<'_>, before: &DnpipeStatus) -> Said {
    let has_it =
        |server: &&Server<'_>| server.served.is_some_and(|own| !own.elsewhere && own.error.is_none());
    let Some(&Server { pod, says: Some(says), served: Some(served) }) = known.servers.iter().find(has_it)
    else {
        return as_before("Room", before, room_reason, "no server has said yet how much room there is");
    };
    let quota = known.kept.and_then(|(kept, _)| kept.quota).map(|quota| quota.bytes());
    let of_quota = quota.map(|quota| (percent(served.bytes, quota), "its quota".to_owned()));
    let used = says.volume_bytes.saturating_sub(says.volume_free_bytes);
    let of_volume = (says.volume_bytes > 0)
        .then(|| (percent(used, says.volume_bytes), format!("the volume of server `{pod}`")));
    let fullest = of_quota.into_iter().chain(of_volume).max();
    match fullest {
        Some((percent, what)) if percent >= NEARLY_FULL_PERCENT => {
            let message = format!(
                "{percent} % of {what} is in use, and pushes are refused when it is full: a reset, a shorter `retention` or more of \
                 it makes room"
            );
            ("Room", Is::False, "NearlyFull", message)
        }
        _ => {
            let message = format!("less than {NEARLY_FULL_PERCENT} % of what it may have is in use");
            ("Room", Is::True, "Enough", message)
        }
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

fn room_reason(reason: &str) -> &'static str {
    if reason == "NearlyFull" { "NearlyFull" } else { "Enough" }
}

/// What no server says at the moment is as it was said.
fn as_before(
    kind: &'static str,
    before: &DnpipeStatus,
    known: fn(&str) -> &'static str,
    unsaid: &str,
) -> Said {
    match said_in(&before.conditions, kind).filter(|(is, _, _)| *is != "Unknown") {
        Some((is, reason, message)) => {
            let is = if is == "True" { Is::True } else { Is::False };
            (kind, is, known(reason), message.to_owned())
        }
        None => (kind, Is::Unknown, "Unknown", unsaid.to_owned()),
    }
}

/// The disk, as a reason is written.
fn known_reason(disk: &str) -> &'static str {
    match disk {
        "uring" | "Uring" => "Uring",
        "file" | "File" => "File",
        "Volatile" => "Volatile",
        _ => "Measured",
    }
}

/// From so much on it is said that there is little room.
const NEARLY_FULL_PERCENT: u64 = 80;
/// The largest amount that every reader of JSON reads as it is.
const AMOUNT_MAX: i64 = (1 << 53) - 1;

/// A size for people: three digits at least where there are so many.
fn size(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["", "Ki", "Mi", "Gi", "Ti"];
    let (mut amount, mut unit) = (bytes, 0);
    while amount >= 10_240 && unit + 1 < UNITS.len() {
        (amount, unit) = (amount / 1024, unit + 1);
    }
    format!("{amount}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0"), (10_239, "10239"), (10_240, "10Ki"), (3 << 30, "3072Mi"), (1 << 50, "1024Ti")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
