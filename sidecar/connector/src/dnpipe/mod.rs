//! Dnpipes as source and sink: records in, records out, over a connection of their own to a server that this process was
//! told of.
//!
//! ```text
//!   record {key, headers, time, value} ──▶ event {meta: key, headers, time; body: text or bytes}
//!   event ──▶ record: text and bytes as they are, everything else as JSON
//! ```

mod in_flight;
mod numbered;
mod once;
mod packing;
mod places;
mod sink;
mod source;

use std::{fmt::Display, time::Duration};

pub(crate) use once::PushesOnce;
pub use places::ExactlyOnce;
use sidestream_client::{Client, ClientConfig, DnpipeName};
pub(crate) use sink::Pushes;
pub(crate) use source::Pulls;

use crate::{BuildError, Environment, Undelivered};

/// The dnpipe that a stage names: in the namespace of its pipeline, unless it says another.
fn named(name: &str, namespace: Option<&str>, env: &Environment) -> Result<DnpipeName, BuildError> {
    let own = env.pipeline.split_once('/').map_or("default", |(namespace, _)| namespace);
    DnpipeName::new(namespace.unwrap_or(own), name)
        .map_err(|bad| BuildError { field: "name", reason: bad.to_string() })
}

/// A client of the servers of a dnpipe's pool. It gives up soon: whoever runs the stage tries again, and says so.
fn client(dnpipe: &DnpipeName, pool: Option<&str>, env: &Environment) -> Result<Client, BuildError> {
    let servers = env.dnpipes.as_ref().ok_or_else(|| {
        let reason = "is a dnpipe, and this process serves none and knows of no server: write the Dnpipe into a file beside \
                      the Pipeline, or name a folder with --data-dir or --dnpipes";
        BuildError { field: "name", reason: reason.into() }
    })?;
    let address = servers(dnpipe.namespace(), pool.unwrap_or(DEFAULT_POOL));
    let address = address.map_err(|reason| BuildError { field: "pool", reason })?;
    Ok(Client::new(address, ClientConfig { patience: PATIENCE, clock: env.clock.clone() }))
}

/// What a sink says of a batch of which these events were refused, each with its reason, or of which not all is there
/// yet.
fn delivered(
    dnpipe: &DnpipeName,
    outcome: Result<Vec<(usize, String)>, impl Display>,
) -> Result<(), Undelivered> {
    match outcome {
        Ok(refused) if refused.is_empty() => Ok(()),
        Ok(mut refused) => {
            refused.sort_unstable_by_key(|(index, _)| *index);
            Err(Undelivered::Refused { events: refused })
        }
        Err(error) => Err(Undelivered::retry(format_args!("cannot push to dnpipe {dnpipe}: {error}"))),
    }
}

/// The pool of a dnpipe that names none.
const DEFAULT_POOL: &str = "default";
/// The header of a record that is an event's trace context.
const TRACEPARENT: &str = "traceparent";

const PATIENCE: Duration = Duration::from_secs(2);
