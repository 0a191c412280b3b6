//! Everything that holds of an edge over TCP holds of one over QUIC: the same tests, and strangers who call by UDP.
#![allow(
    clippy::duplicate_mod,
    reason = "each of the files brings its world along, since it also runs by itself"
)]

#[path = "../delivery.rs"]
mod delivery;
#[path = "../../../trust/tests/world/forged.rs"]
mod forged;
#[path = "../world/log.rs"]
mod log;
#[path = "../../../trust/tests/world/outdated.rs"]
mod outdated;
#[path = "../refusals.rs"]
mod refusals;
#[path = "../routing.rs"]
mod routing;
mod strangers;
mod weather;

use sidestream_edge::Transport;

const TRANSPORT: Transport = Transport::Quic;
