//! HTTP at both ends of a pipeline: what connectors ask others with, and the server that others ask.

mod client;
mod request;
mod server;
mod tls;
mod trouble;

pub(crate) use client::Endpoint;
pub(crate) use server::Server;
pub(crate) use trouble::Trouble;
