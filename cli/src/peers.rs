//! One sidecar of a pipeline as a process of its own, joined to the others by edges.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use sidestream_crds::{SidecarPlan, compile, names};
use sidestream_plan::{Kind, Plan, Sink, Source, stage::Account};
use sidestream_sidecar::{Dnpipes, JoinError, Neighbours, Seat, World};

use crate::{
    arguments::{Address, folder},
    files::read,
};

/// Which of the processes this is.
#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// Run only this sidecar of the pipeline; the others are processes of their own
    #[arg(long, value_name = "NAME", requires = "peers", group = "seat")]
    sidecar: Option<String>,
    /// Where to serve dnpipes to those who prove who they are, beside the local socket
    #[arg(long, value_name = "ADDR", requires = "peers", group = "seat")]
    listen: Option<Address>,
    /// A folder of your own that all of them name: certificates are made there, and addresses are found
    #[arg(long, value_name = "DIR", value_parser = folder, requires = "seat")]
    peers: Option<PathBuf>,
}

/// Whom the server of dnpipes on this machine proves to be.
pub(crate) fn dnpipes_account() -> Account {
    Account { namespace: "default".into(), name: "dnpipes".into() }
}

/// What a sidecar runs, and as whom.
pub(crate) struct Part {
    pub(crate) plan: Plan,
    account: Account,
    service: String,
}

impl Peers {
    /// The part of this process, where it is one of several. The files compile.
    pub(crate) fn part(&self, files: &[PathBuf]) -> Result<Option<Part>, String> {
        let Some(name) = &self.sidecar else { return Ok(None) };
        let mut found = Vec::new();
        for file in files {
            let text = read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            found.extend(compile(&text, &file.display().to_string()).pipelines);
        }
        let [pipeline] = found.try_into().map_err(|found: Vec<_>| {
            format!("--sidecar is for one pipeline, and there are {}; name its file alone", found.len())
        })?;
        let known: Vec<_> = pipeline.sidecars.iter().map(|own| format!("`{}`", own.name)).collect();
        let whose = pipeline.sidecars.iter().find(|own| own.name == *name);
        let mut plan = whose
            .map(|own| own.plan.clone())
            .ok_or_else(|| format!("the pipeline has no sidecar `{name}`; it has {}", known.join(", ")))?;
        let (namespace, own) = plan.pipeline.split_once('/').unwrap_or_default();
        let (namespace, own) = (namespace.to_owned(), own.to_owned());
        name_senders(&mut plan, &pipeline.sidecars, |sender| names::account(&namespace, &own, sender));
        let account = names::account(&namespace, &own, name);
        let service = names::service(&namespace, &own, name);
        Ok(Some(Part { plan, account, service }))
    }

    /// Opens the door of dnpipes over TCP, where one is asked for, and says where it is.
    pub(crate) fn listen(&self, dnpipes: &Dnpipes, world: &World) -> Result<Option<SocketAddr>, String> {
        let (Some(folder), Some(Address(address))) = (&self.peers, &self.listen) else { return Ok(None) };
        let identity = Neighbours::at(folder).identity(world.sockets(), world.clock(), &dnpipes_account());
        let identity = identity.map_err(|error| error.to_string())?;
        dnpipes.listen(address, identity).map(Some).map_err(|error| error.to_string())
    }

    /// Whether dnpipes are to be served over TCP.
    pub(crate) fn listens(&self) -> bool {
        self.listen.is_some()
    }

    /// Takes the seat of `part` among the processes that share the folder.
    pub(crate) fn join(&self, part: &Part, world: &World) -> Result<Option<Seat>, JoinError> {
        let Some(folder) = &self.peers else { return Ok(None) };
        Neighbours::at(folder).join(world, &part.account, &part.service).map(Some)
    }
}

/// On a cluster the pods say whom injected sidecars run as; here the processes run as their sidecars are called.
fn name_senders(plan: &mut Plan, sidecars: &[SidecarPlan], account: impl Fn(&str) -> Account) {
    let sends = |plan: &Plan, name: &str| {
        let mut kinds = plan.stages.iter().map(|stage| &stage.kind);
        kinds.any(|kind| matches!(kind, Kind::Sink(Sink::Edge(sink)) if sink.edge == name))
    };
    for stage in &mut plan.stages {
        if let Kind::Source(Source::Edge(source)) = &mut stage.kind
            && source.from.is_empty()
        {
            let senders = sidecars.iter().filter(|own| sends(&own.plan, &source.edge));
            source.from = senders.map(|own| account(&own.name)).collect();
        }
    }
}
