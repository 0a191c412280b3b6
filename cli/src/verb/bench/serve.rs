//! A server of its own, for a bench that needs no other.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use sidestream_crds::compile;
use sidestream_plan::{Dnpipe, Size};
use sidestream_sidecar::{Dnpipes, Sidecar, SidecarConfig};

use super::load::Load;
use crate::server::{Failed, Server, socket_of};

/// Whether to serve, and what.
#[derive(Debug, Default, Args)]
pub(super) struct Serve {
    /// Serve the dnpipes in this process too, from this folder, and make those that are missing: no server is needed
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data_dir", "socket", "at", "pool"])]
    serve: Option<PathBuf>,
    /// Of dnpipes that --serve makes: when a push is acknowledged; Device by default
    #[arg(long, value_name = "WHEN", requires = "serve", value_parser = ["Device", "PageCache", "Memory"])]
    durability: Option<String>,
    /// Of dnpipes that --serve makes: how many partitions; 1 by default
    #[arg(long, value_name = "N", requires = "serve")]
    partitions: Option<u32>,
    /// Of dnpipes that --serve makes: how many bytes of records each partition keeps; 4Gi by default
    #[arg(long, value_name = "SIZE", requires = "serve")]
    keep: Option<Size>,
}

/// What is served until the bench is over.
pub(super) struct Serving {
    dnpipes: Dnpipes,
    folder: PathBuf,
    _sidecar: Sidecar,
}

impl Serve {
    /// Serves, where that is asked for. Blocks until it does.
    pub(super) fn open(&self, load: &Load) -> Result<Option<Serving>, Failed> {
        let Some(folder) = &self.serve else { return Ok(None) };
        let wanted = self.dnpipes(load)?;
        let config = SidecarConfig { workers: Some(1), ..SidecarConfig::default() };
        let sidecar = Sidecar::start(config)
            .map_err(|error| Failed::Refused(format!("cannot start the worker threads: {error}")))?;
        let refused = |error: sidestream_sidecar::ServeDnpipesError| Failed::Refused(error.to_string());
        let dnpipes = Dnpipes::open(sidecar.world(), folder).map_err(refused)?;
        let there = dnpipes.names();
        let is_shaped = self.durability.is_some() || self.partitions.is_some() || self.keep.is_some();
        if let Some(own) = wanted.iter().find(|own| is_shaped && there.contains(&own.full_name())) {
            return Err(Failed::Wrong(format!(
                "{} is in {} already, and stays what it is; leave --durability, --partitions and --keep out, or name another \
                 folder or dnpipe",
                own.full_name(),
                folder.display()
            )));
        }
        let missing: Vec<Dnpipe> =
            wanted.into_iter().filter(|own| !there.contains(&own.full_name())).collect();
        dnpipes.apply(&missing).map_err(refused)?;
        Ok(Some(Serving { dnpipes, folder: folder.clone(), _sidecar: sidecar }))
    }

    /// What they are to be, as if it were in a file.
    fn dnpipes(&self, load: &Load) -> Result<Vec<Dnpipe>, Failed> {
        let durability = self.durability.as_deref().unwrap_or("Device");
        let (partitions, keep) =
            (self.partitions.unwrap_or(1), self.keep.map(Size::bytes).unwrap_or(4 << 30));
        let mut made = Vec::new();
        for dnpipe in &load.dnpipes {
            let (namespace, name) = dnpipe.split_once('/').unwrap_or(("default", dnpipe));
            let resource = serde_json::json!({
                "apiVersion": "sidestream.dev/v1alpha1",
                "kind": "Dnpipe",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"partitions": partitions, "durability": durability, "retention": {"bytes": keep.to_string()}},
            });
            // JSON is YAML.
            let compiled = compile(resource.to_string().as_bytes(), "what is asked for");
            if let Some(wrong) = compiled.diagnostics.iter().find(|own| own.is_error()) {
                return Err(Failed::Wrong(format!("{dnpipe}: {}; {}", wrong.reason, wrong.cure)));
            }
            made.extend(compiled.dnpipes.into_iter().filter_map(|own| own.plan));
        }
        Ok(made)
    }
}

impl Serving {
    /// The way to it.
    pub(super) fn server(&self) -> Server {
        Server::local(socket_of(&self.folder))
    }

    pub(super) fn close(&self) {
        self.dnpipes.close(CLOSES_WITHIN);
    }
}

const CLOSES_WITHIN: Duration = Duration::from_secs(2);
