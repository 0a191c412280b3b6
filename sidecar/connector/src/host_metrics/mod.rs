//! Figures of this machine, as samples `{name, labels, value}` named like the node exporter's.
//!
//! Every interval is one batch. The figures are read on a thread that may block: a file system over a network whose
//! server is gone holds up this source and nothing else.

#[cfg(target_os = "linux")]
mod figures;
#[cfg(target_os = "linux")]
mod filesystem;
#[cfg(target_os = "linux")]
mod sampler;

use sidestream_plan::stage;

use crate::{BuildError, Source};

/// The source of a stage.
#[cfg(target_os = "linux")]
pub(crate) fn source(stage: &stage::HostMetrics) -> Result<Source, BuildError> {
    Ok(Source::Async(Box::new(sampler::Sampler::new(stage)?)))
}

/// The source of a stage: none here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn source(_: &stage::HostMetrics) -> Result<Source, BuildError> {
    let reason =
        "reads /proc, which only Linux has; scrape this machine's exporter with `prometheus` instead".into();
    Err(BuildError { field: "hostMetrics", reason })
}
