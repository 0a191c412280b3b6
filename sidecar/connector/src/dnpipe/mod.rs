//! Dnpipes as source and sink: records in, records out, over a connection of their own to the server that this process was
//! told of.
//!
//! ```text
//!   record {key, headers, time, value} ──▶ event {meta: key, headers, time; body: text or bytes}
//!   event ──▶ record: text and bytes as they are, everything else as JSON
//! ```

mod in_flight;
mod numbered;
mod sink;
mod source;

use std::time::Duration;

use sidestream_client::{Client, ClientConfig, DnpipeName};
pub(crate) use sink::Pushes;
pub(crate) use source::Pulls;

use crate::{BuildError, Environment};

/// The dnpipe that a stage names: in the namespace of its pipeline, unless it says another.
fn named(name: &str, namespace: Option<&str>, env: &Environment) -> Result<DnpipeName, BuildError> {
    let own = env.pipeline.split_once('/').map_or("default", |(namespace, _)| namespace);
    DnpipeName::new(namespace.unwrap_or(own), name)
        .map_err(|bad| BuildError { field: "name", reason: bad.to_string() })
}

/// A client of the server of dnpipes. It gives up soon: whoever runs the stage tries again, and says so.
fn client(env: &Environment) -> Result<Client, BuildError> {
    let address = env.dnpipes.clone().ok_or_else(|| {
        let reason = "is a dnpipe, and this process serves none and knows of no server: write the Dnpipe into a file beside \
                      the Pipeline, or name a folder with --data-dir or --dnpipes";
        BuildError { field: "name", reason: reason.into() }
    })?;
    Ok(Client::new(address, ClientConfig { patience: PATIENCE, clock: env.clock.clone() }))
}

/// The header of a record that is an event's trace context.
const TRACEPARENT: &str = "traceparent";

const PATIENCE: Duration = Duration::from_secs(2);
