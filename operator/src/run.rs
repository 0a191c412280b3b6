//! The life of the process: who it is, what it serves, when it leads, how it ends.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use kube::{
    Client,
    client::{Body, ClientBuilder},
};
use sidestream_host::Clock;
use sidestream_trust::{SpiffeId, TrustError};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tower::util::MapRequestLayer;

use crate::{
    control::{self, Certifier, Fleet, Syncer},
    controllers::Leader,
    lease::{Elector, Leadership},
    metrics::{self, Health, Metrics},
    settings::Settings,
    trust::{self, AuthorityError},
    webhook::{self, Injector},
};

/// How long requests are still answered after this replica has said that it is not ready: until the cluster has heard
/// that, they come here.
const LINGER: Duration = Duration::from_secs(5);
/// How long what is under way may take to end.
const END_MAX: Duration = Duration::from_secs(10);

/// Runs until `stop` resolves.
///
/// # Errors
/// Where it cannot start, or a server of its own fails.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let (clock, metrics, fleet) = (Clock::machine(), Metrics::default(), Fleet::default());
    let client = connect(&metrics).await?;

    // Who this is, and whom it vouches for.
    let roots = trust::load_or_create(&client, &settings.namespace, &settings.trust_domain, &clock).await?;
    let (trust_domain, namespace) = (&settings.trust_domain, &settings.namespace);
    let id = SpiffeId::of_service_account(trust_domain, namespace, &settings.service_account)
        .map_err(|error| RunError::Name(error.to_string()))?;
    let (names, lifetime) = (settings.dns_names(), settings.leaf_lifetime());
    let identity = trust::own_identity(&roots, &id, &names, lifetime, &clock)?;
    let roots = watch::Sender::new(Arc::new(roots));
    let news = || roots.subscribe();

    // When it leads.
    let elector = Elector::new(
        client.clone(),
        &settings.namespace,
        &settings.pod_name,
        &settings.own_address(),
        &clock,
    );
    let leadership = elector.leadership();
    let leader = Leader {
        client: client.clone(),
        fleet: fleet.clone(),
        roots: roots.clone(),
        namespace: settings.namespace.clone(),
        webhook_configuration: settings.webhook_configuration.clone(),
        facts: settings.facts(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        own: settings.pod_name.clone(),
        concurrency: settings.concurrency,
        rotation_dwell: settings.rotation_dwell(),
    };

    // What it serves.
    let (stopping, stopped) = watch::channel(false);
    let (closing, closed) = watch::channel(false);
    let ended = || until(stopped.clone());
    let answers_end = || until(closed.clone());
    let (listener, reviews) = (bind(settings.control_listen).await?, bind(settings.webhook_listen).await?);
    let certifier = Certifier::new(client.clone(), news(), lifetime, clock.clone(), metrics.clone());
    let syncer = Syncer::new(fleet.clone(), news(), leadership.clone());
    let controlled = control::serve(listener, identity.clone(), certifier, syncer, ended());
    let injector = Injector::new(client.clone(), settings.facts(), &settings.namespace, metrics.clone());
    let knowing = tokio::spawn(injector.follow());
    let reviewed = webhook::serve(reviews, identity.clone(), injector, answers_end());
    let (serving, is_serving) = watch::channel(true);
    let health = Health { metrics, fleet: fleet.clone(), leadership: leadership.clone(), is_serving };
    let answered = metrics::serve(settings.metrics_listen, health, answers_end());
    tracing::info!(%id, control = %settings.control_listen, metrics = %settings.metrics_listen, "serving");

    let electing = tokio::spawn(elector.run(ended()));
    let following = tokio::spawn(trust::follow(client, settings.namespace.clone(), roots.clone(), clock));
    let renewing = tokio::spawn(trust::renew(identity, roots.subscribe(), names, lifetime));
    let leading = tokio::spawn(lead_whenever_elected(leader, fleet, leadership));
    let mut controlled = std::pin::pin!(controlled);
    let mut answered = std::pin::pin!(answered);
    let mut reviewed = std::pin::pin!(reviewed);
    let result = tokio::select! {
        () = stop => Ok(()),
        served = &mut controlled => served.map_err(RunError::Serve),
        served = &mut reviewed => served.map_err(|error| RunError::Listen(settings.webhook_listen.to_string(), error)),
        served = &mut answered => served.map_err(|error| RunError::Listen(settings.metrics_listen.to_string(), error)),
    };

    // Nothing is written any more before the Lease is given back.
    leading.abort();
    serving.send_replace(false);
    stopping.send_replace(true);
    let _ = leading.await;
    let electing = async { drop(timeout(END_MAX, electing).await) };
    if result.is_ok() {
        // The API server fails what it asks here and is not answered: a pod is not made.
        let servers = async { drop(tokio::join!(controlled, reviewed, answered)) };
        tokio::join!(electing, wind_down(servers, &closing, LINGER));
    } else {
        electing.await;
    }
    following.abort();
    knowing.abort();
    renewing.abort();
    tracing::info!("ended");
    result
}

/// Lets `servers` go on for a while before they are told to close, and to an end after that.
async fn wind_down(servers: impl Future<Output = ()>, closing: &watch::Sender<bool>, linger: Duration) {
    let mut servers = std::pin::pin!(servers);
    if timeout(linger, &mut servers).await.is_err() {
        closing.send_replace(true);
        let _ = timeout(END_MAX, servers).await;
    }
}

/// Resolves when it is so.
async fn until(mut so: watch::Receiver<bool>) {
    let _ = so.wait_for(|so| *so).await;
}

async fn bind(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|error| RunError::Listen(address.to_string(), error))
}

/// Leads while this replica holds the Lease; nothing of it outlives that.
async fn lead_whenever_elected(leader: Leader, fleet: Fleet, mut leadership: watch::Receiver<Leadership>) {
    while leadership.wait_for(|leader| *leader == Leadership::Own).await.is_ok() {
        let mut news = leadership.clone();
        tokio::select! {
            () = leader.clone().lead() => {}
            _ = news.wait_for(|leader| *leader != Leadership::Own) => {}
        }
        fleet.clear();
    }
}

/// A client that counts what it asks.
async fn connect(metrics: &Metrics) -> Result<Client, RunError> {
    let config = kube::Config::infer().await.map_err(|error| RunError::Cluster(error.to_string()))?;
    let metrics = metrics.clone();
    let counted = MapRequestLayer::new(move |request: Request<Body>| {
        metrics.api_request(request.method().as_str());
        request
    });
    let builder = ClientBuilder::try_from(config).map_err(|error| RunError::Cluster(error.to_string()))?;
    Ok(builder.with_layer(&counted).build())
}

/// Why the operator ended.
#[derive(Debug)]
pub enum RunError {
    /// There is no cluster to be found.
    Cluster(String),
    /// There are no roots.
    Authority(AuthorityError),
    /// The operator's own name cannot be one.
    Name(String),
    /// The operator has no certificate.
    Trust(TrustError),
    /// An address cannot be listened on.
    Listen(String, std::io::Error),
    /// The control server failed.
    Serve(tonic::transport::Error),
}

impl From<AuthorityError> for RunError {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error)
    }
}

impl From<TrustError> for RunError {
    fn from(error: TrustError) -> Self {
        Self::Trust(error)
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(reason) => {
                write!(out, "no cluster is found: {reason}; run in a pod, or set KUBECONFIG")
            }
            Self::Authority(error) => error.fmt(out),
            Self::Name(reason) => write!(out, "the operator's own name is none: {reason}"),
            Self::Trust(error) => write!(out, "the operator has no certificate: {error}"),
            Self::Listen(address, error) => write!(out, "`{address}` cannot be listened on: {error}"),
            Self::Serve(error) => write!(out, "the control server failed: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn who_still_asks_a_replica_that_ends_is_answered() {
        let (closing, closed) = watch::channel(false);
        let (ask, mut asked) = mpsc::channel::<oneshot::Sender<()>>(1);
        let servers = async move {
            let mut closed = std::pin::pin!(until(closed));
            loop {
                tokio::select! {
                    Some(answer) = asked.recv() => drop(answer.send(())),
                    () = &mut closed => return,
                }
            }
        };
        let asking = async {
            let (answer, answered) = oneshot::channel();
            ask.send(answer).await.unwrap();
            answered.await.unwrap();
            assert!(!*closing.borrow(), "it has not closed yet");
        };
        tokio::join!(wind_down(servers, &closing, Duration::from_millis(200)), asking);
        assert!(*closing.borrow());
    }
}
