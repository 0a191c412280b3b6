//! `sidestream-sidecar`: the data plane of a pod.
//!
//! ```text
//!   settings ─▶ enrol ─▶ resume what ran ─▶ ( orders ─▶ obey )* ─▶ drain
//! ```
//!
//! It is live from its first moment and ready once it runs what it was told to; peers and the operator may be away.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use sidestream_edge::{Dns, Peering, PeeringConfig};
use sidestream_plan::{Size, stage::PodSpill};
#[cfg(unix)]
use sidestream_sidecar::AppSocket;
use sidestream_sidecar::{
    Asked, Fleet, Secrets, Sidecar, SidecarConfig, Signals, World,
    cluster::{self, Duty, PlanCache, PoolServer, Settings},
    observe::{self, Observed},
};
use sidestream_trust::SpiffeId;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Runs what the operator says, in a pod. For a laptop there is `sidestream run`.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The operator's control server
    #[arg(
        long,
        env = "SIDESTREAM_OPERATOR",
        default_value = "sidestream-operator.sidestream-system.svc:9443"
    )]
    operator: String,
    /// Who the operator is
    #[arg(
        long,
        env = "SIDESTREAM_OPERATOR_ID",
        default_value = "spiffe://cluster.local/ns/sidestream-system/sa/sidestream-operator"
    )]
    operator_id: SpiffeId,
    /// This pod's name
    #[arg(long, env = "POD_NAME")]
    pod: String,
    /// This pod's namespace
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// The machine the pod runs on: receivers on the same one are preferred
    #[arg(long, env = "NODE_NAME", default_value = "")]
    node: String,
    /// The file of the pod's token for the operator
    #[arg(long, env = "SIDESTREAM_TOKEN", default_value = "/var/run/sidestream/token/token")]
    token: PathBuf,
    /// The file of the first anchors
    #[arg(long, env = "SIDESTREAM_ANCHORS", default_value = "/var/run/sidestream/trust/anchors.pem")]
    anchors: PathBuf,
    /// A folder in memory for key and certificate
    #[arg(long, env = "SIDESTREAM_IDENTITY", default_value = "/var/run/sidestream/identity")]
    identity: PathBuf,
    /// A folder for the plans
    #[arg(long, env = "SIDESTREAM_CACHE", default_value = "/var/cache/sidestream")]
    cache: PathBuf,
    /// Folder of secrets: the key KEY of the secret NAME is the file DIR/NAME/KEY
    #[arg(long, env = "SIDESTREAM_SECRETS", default_value = "/var/run/sidestream/secrets")]
    secrets: PathBuf,
    /// Where to serve /metrics, /livez and /readyz
    #[arg(long, env = "SIDESTREAM_METRICS", default_value = "0.0.0.0:9464")]
    metrics: String,
    /// Where to listen for edges from other sidecars
    #[arg(long, env = "SIDESTREAM_EDGES", default_value = "0.0.0.0:7443")]
    edges: SocketAddr,
    /// A folder for dnpipes, where this is a server of some
    #[arg(long, env = "SIDESTREAM_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How much may be spilled to the disk in all; the folder for the plans has to have half as much again, and 16Mi
    #[arg(long, env = "SIDESTREAM_SPILL_MAX", value_name = "SIZE", default_value_t = PodSpill::DEFAULT.spilled())]
    spill_max: Size,
    /// Where such a server listens
    #[arg(long, env = "SIDESTREAM_DNPIPES", value_name = "ADDR", default_value = "0.0.0.0:7420")]
    dnpipes: String,
    /// A socket to open for the other containers of the pod: their door to dnpipes, as who the pod is
    #[arg(long, env = "SIDESTREAM_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Pools, beside `default`, in which to look for dnpipes that are asked for there: their names, with commas between them
    #[arg(long, env = "SIDESTREAM_POOLS", value_name = "POOLS", default_value = "")]
    pools: String,
    /// How long to go on delivering when told to stop
    #[arg(long, env = "SIDESTREAM_GRACE", value_name = "SPAN", default_value = "25s")]
    grace: sidestream_plan::Duration,
    /// Worker threads; one for each core the container may use by default
    #[arg(long, env = "SIDESTREAM_WORKERS")]
    workers: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let levels =
        Targets::new().with_target("sidestream", tracing::Level::INFO).with_default(tracing::Level::WARN);
    let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(layer.with_filter(levels)).init();
    // An error means that somebody has named the provider already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until told to stop. Says whether everything that was accepted was delivered.
fn run(arguments: Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let (grace, spill) = (arguments.grace.get(), PodSpill::new(arguments.spill_max)?);
    let settings = arguments.settings();
    let secrets = Secrets::at(&arguments.secrets);
    let sidecar = Sidecar::start(SidecarConfig {
        workers: arguments.workers,
        secrets: secrets.clone(),
        ..SidecarConfig::default()
    })?;
    let world = sidecar.world();
    let mut signals = Signals::catch(world)?;
    let observed = Observed::new(world);
    // Before anybody is told that this process listens: then the containers beside it start.
    let _socket = arguments.open_socket(world);
    let _server = observe::serve(observed.clone(), &arguments.metrics, world)?;
    let number = number(&settings.pod);
    let mut server = arguments.data_dir.map(|folder| PoolServer::open(world, &folder, number)).transpose()?;
    server.iter().for_each(|server| observed.add_dnpipes(server.dnpipes().clone()));
    let enrolled = world.sockets().block_on(async {
        tokio::select! {
            enrolled = cluster::enrol(&settings, world.clock()) => Some(enrolled),
            () = told_to_stop(&mut signals) => None,
        }
    });
    let Some(enrolled) = enrolled else { return Ok(true) };
    let peering = world.sockets().block_on(Peering::start(PeeringConfig {
        listen: arguments.edges,
        identity: enrolled.identity.clone(),
        resolver: Arc::new(Dns::default()),
        clock: world.clock().clone(),
        node: arguments.node,
    }))?;
    world.take_part(peering.clone());
    world.use_pools(cluster::pools(enrolled.identity.clone()));
    if let Some(server) = &mut server {
        let address = server.listen(&arguments.dnpipes, enrolled.identity.clone())?;
        tracing::info!(%address, "serving dnpipes");
    }

    let cache = PlanCache::at(&settings.cache);
    world.spill_in(&settings.cache.join("spill"), spill);
    let orders = world.sockets().block_on(async { cluster::follow(settings, enrolled) });
    let fleet = Fleet::new(world, &observed);
    let (unfinished, unkept) = (None, None);
    let mut duty = Duty { orders, fleet, observed, secrets, cache, grace, unfinished, server, unkept };
    duty.resume();
    while let Some(order) = world.sockets().block_on(async {
        tokio::select! {
            biased;
            () = told_to_stop(&mut signals) => None,
            order = duty.next() => Some(order),
        }
    }) {
        duty.obey(order);
    }
    let complete = duty.drain();
    world.close_spills();
    world.sockets().block_on(peering.close(CLOSE));
    Ok(complete)
}

async fn told_to_stop(signals: &mut Signals) {
    while signals.next().await != Asked::Stop {}
}

impl Arguments {
    /// The socket for the other containers. Where it cannot be had, everything else goes on.
    #[cfg(unix)]
    fn open_socket(&self, world: &World) -> Option<AppSocket> {
        let path = self.socket.as_ref()?;
        let pools: Vec<&str> = self.pools.split(',').collect();
        let opened = AppSocket::open(world, path, &self.namespace, &pools);
        let path = path.display().to_string();
        match opened {
            Ok(socket) => {
                tracing::info!(path, "dnpipes for the containers that mount this");
                Some(socket)
            }
            Err(error) => {
                tracing::error!(path, "no socket for the other containers: {error}");
                None
            }
        }
    }

    #[cfg(not(unix))]
    fn open_socket(&self, _: &World) {}

    fn settings(&self) -> Settings {
        Settings {
            operator: self.operator.clone(),
            operator_id: self.operator_id.clone(),
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            token: self.token.clone(),
            anchors: self.anchors.clone(),
            identity: self.identity.clone(),
            cache: self.cache.clone(),
        }
    }
}

/// The number of a pod of a StatefulSet, which is at the end of its name.
fn number(pod: &str) -> u32 {
    pod.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// How long the other ends of edges may take to hear what is settled.
const CLOSE: Duration = Duration::from_secs(2);
