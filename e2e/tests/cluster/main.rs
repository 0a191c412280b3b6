//! The product on a real cluster, driven from outside with kubectl, as a user would. `make e2e` raises the cluster, installs
//! the chart and runs these; without it they are ignored.

#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "a test of real programs waits in real time")]

mod changes;
mod collector;
mod dnpipes;
mod edges;
mod edits;
mod flow;
mod handshake;
mod injection;
mod keyed;
mod monitoring;
mod no_api_server;
mod no_operator;
mod node_drained;
mod renamed;
mod restarts;
mod rights;
mod speed;
mod spilled;
mod suspend;
mod two_namespaces;
mod upgrade;
mod wire;
mod world;
