//! Connectors that speak HTTP, against real sockets: peers that behave, and peers that do not.

mod alertmanager;
mod peer;
mod scrape;
mod serve;
mod webhook;
mod world;
