//! The controllers: what a leader does with the resources.
//!
//! ```text
//! watch Pipelines ────────────┐
//! watch what was made ────────┼──▶ queue (one look at a time for each Pipeline) ──▶ reconcile
//! sidecars speak, roots turn ─┘            ▲                                            │
//!                                          └── after a while, where it failed ──────────┘
//! ```

mod backoff;
mod dnpipe;
mod events;
mod introduce;
mod order;
mod owners;
mod pipeline;
mod rotation;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        Config, Controller, WatchStreamExt,
        controller::{Action, Error},
        events::{Recorder, Reporter},
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use sidestream_crds::Pipeline;
use sidestream_desired::{FIELD_MANAGER, Facts};
use sidestream_host::Clock;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use crate::{
    apply::{Applier, ApplyError},
    control::Fleet,
    metrics::Metrics,
    observed::Observed,
    trust::Roots,
    user_pods::UserPods,
    webhook::{Vouched, vouch},
};

pub use backoff::Backoff;
pub use dnpipe::{Pools, reconcile_pool};
pub use pipeline::{Context, reconcile};
pub use rotation::{Rotation, Sources};

/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);

type Guarded = DeserializeGuard<Pipeline>;

/// What a leader needs.
#[derive(Clone)]
pub struct Leader {
    /// The API server.
    pub client: Client,
    /// The sidecars.
    pub fleet: Fleet,
    /// Whom to trust.
    pub roots: watch::Sender<Arc<Roots>>,
    /// The operator's own namespace.
    pub namespace: String,
    /// What the configurations of the webhooks are called, where there are some.
    pub webhook_configuration: Option<String>,
    /// What objects say about the world.
    pub facts: Facts,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// The name of this replica, for events.
    pub own: String,
    /// Looks at once.
    pub concurrency: u16,
    /// How long everything must have been ready for a step of a rotation.
    pub rotation_dwell: Duration,
}

impl Leader {
    /// Leads until dropped.
    pub async fn lead(self) {
        let (observed, user_pods) = (Observed::default(), UserPods::default());
        let ((ready, mut is_ready), (seen, mut are_seen)) = (watch::channel(false), watch::channel(false));
        let observing = observed.clone().watch(self.client.clone(), ready);
        let seeing = user_pods.clone().watch(self.client.clone(), seen);
        let working = async {
            // Before everything has been seen, everything would look absent.
            let _ = is_ready.wait_for(|ready| *ready).await;
            let _ = are_seen.wait_for(|ready| *ready).await;
            let Self { client, namespace, webhook_configuration, roots, fleet, clock, .. } = self.clone();
            let vouched = webhook_configuration.as_ref().map(|_| Vouched::default());
            let vouching = async {
                if let Some((name, vouched)) = webhook_configuration.as_ref().zip(vouched.as_ref()) {
                    vouch(client.clone(), name, &roots, vouched).await;
                }
            };
            let told = Sources {
                fleet,
                observed: observed.clone(),
                user_pods: user_pods.clone(),
                vouched: vouched.clone(),
            };
            let dwell = self.rotation_dwell;
            let rotating = Rotation::new(client.clone(), &namespace, roots.clone(), told, dwell, clock).run();
            let applier = Applier::new(client.clone(), observed.clone());
            let introducing = introduce::everywhere(applier, user_pods.clone(), roots.subscribe());
            let pools = self.pools(observed.clone());
            let piping = self.control(observed.clone(), user_pods.clone());
            tokio::join!(piping, pools.control(), rotating, vouching, introducing);
        };
        tokio::join!(observing, seeing, working);
    }

    /// What looks after pools of dnpipes.
    fn pools(&self, observed: Observed) -> Pools {
        Pools {
            client: self.client.clone(),
            applier: Applier::new(self.client.clone(), observed.clone()),
            observed,
            fleet: self.fleet.clone(),
            roots: self.roots.subscribe(),
            facts: self.facts.clone(),
            recorder: self.recorder(),
            began: self.clock.now(),
            clock: self.clock.clone(),
            backoff: Backoff::default(),
            concurrency: self.concurrency,
        }
    }

    /// Who tells people.
    fn recorder(&self) -> Recorder {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(self.own.clone()) };
        Recorder::new(self.client.clone(), reporter)
    }

    async fn control(self, observed: Observed, user_pods: UserPods) {
        let context = Arc::new(Context {
            client: self.client.clone(),
            applier: Applier::new(self.client.clone(), observed.clone()),
            observed: observed.clone(),
            user_pods: user_pods.clone(),
            fleet: self.fleet.clone(),
            roots: self.roots.subscribe(),
            facts: self.facts.clone(),
            recorder: self.recorder(),
            began: self.clock.now(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            backoff: Backoff::default(),
            going: Default::default(),
            holds: Default::default(),
            partings: Default::default(),
        });
        let (pipelines, writer) = reflector::store::<Guarded>();
        let changes = watcher(Api::<Guarded>::all(self.client.clone()), watcher::Config::default())
            .default_backoff()
            .modify(|pipeline| pipeline.meta_mut().managed_fields = None)
            .reflect(writer)
            .touched_objects();
        let expecting = expect(pipelines.clone(), self.fleet.clone());
        let controlling = Controller::for_stream(changes, pipelines.clone())
            .with_config(Config::default().debounce(DEBOUNCE).concurrency(self.concurrency))
            .reconcile_on(spoken(self.fleet.clone()))
            .reconcile_on(touched(observed, user_pods.clone(), pipelines.clone()))
            .reconcile_on(hosted(user_pods, pipelines.clone()))
            .reconcile_all_on(WatchStream::from_changes(self.roots.subscribe()).map(drop))
            .run(look, retry, context.clone())
            .for_each(|ended| {
                context.metrics.pipelines(pipelines.len());
                match ended {
                    Ok((pipeline, _)) => tracing::debug!(%pipeline, "looked at"),
                    Err(Error::ObjectNotFound(gone)) => {
                        let name = format!("{}/{}", gone.namespace.unwrap_or_default(), gone.name);
                        context.withdraw(&name);
                        context.backoff.forget(&name);
                    }
                    // Told where it happened.
                    Err(Error::ReconcilerFailed(..)) => {}
                    Err(error) => tracing::warn!(%error, "the queue of pipelines"),
                }
                std::future::ready(())
            });
        tokio::join!(controlling, expecting);
    }
}

/// One look, timed and counted.
async fn look(pipeline: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let name = pipeline::full_name(&pipeline);
    let begun = context.clock.now();
    let result = reconcile(&pipeline, &context).await;
    let took = context.clock.now().since(begun);
    match &result {
        Ok(_) => context.metrics.reconciled("ok", took),
        Err(error) => {
            context.metrics.reconciled(error.name(), took);
            tracing::warn!(pipeline = name, %error, "is looked at again later");
        }
    }
    let early = pipeline::EARLY.saturating_sub(begun.since(context.began));
    Ok(match result? {
        // An object that is somebody else's is not watched: whether it is still there must be asked.
        false => Action::requeue(context.backoff.failed(&name)),
        true => {
            context.backoff.forget(&name);
            if early.is_zero() { Action::await_change() } else { Action::requeue(early) }
        }
    })
}

fn retry(pipeline: Arc<Guarded>, _: &ReconcileError, context: Arc<Context>) -> Action {
    Action::requeue(context.backoff.failed(&pipeline::full_name(&pipeline)))
}

/// Says which pipelines there are, once that is known, so that sidecars are told full sets of plans.
async fn expect(pipelines: Store<Guarded>, fleet: Fleet) {
    if pipelines.wait_until_ready().await.is_ok() {
        fleet.expect(pipelines.state().iter().map(|pipeline| pipeline::full_name(pipeline)));
    }
}

/// The pipelines of which sidecars have something to say.
fn spoken(fleet: Fleet) -> impl stream::Stream<Item = ObjectRef<Guarded>> + Send {
    stream::unfold(fleet, |fleet| async move { Some((fleet.stirred().await, fleet)) })
        .flat_map(|names| stream::iter(names.into_iter().map(|name| reference(&name))))
}

/// The pipelines whose objects have changed; what is shared in a namespace belongs to all of its pipelines, and to the
/// user's pods in it.
fn touched(
    observed: Observed,
    user_pods: UserPods,
    pipelines: Store<Guarded>,
) -> impl stream::Stream<Item = ObjectRef<Guarded>> + Send {
    stream::unfold(observed, |observed| async move { Some((observed.stirred().await, observed)) }).flat_map(
        move |groups| {
            let mut references = Vec::new();
            for group in groups {
                match group.strip_suffix('/') {
                    Some(namespace) => {
                        user_pods.enter_again(namespace);
                        references.extend(all_of(namespace, &pipelines));
                    }
                    None => references.push(reference(&group)),
                }
            }
            stream::iter(references)
        },
    )
}

/// The pipelines whose pods in the user's hands may have changed: all of a namespace.
fn hosted(
    user_pods: UserPods,
    pipelines: Store<Guarded>,
) -> impl stream::Stream<Item = ObjectRef<Guarded>> + Send {
    stream::unfold(user_pods, |pods| async move { Some((pods.stirred().await, pods)) }).flat_map(
        move |namespaces| {
            let references: Vec<_> =
                namespaces.iter().flat_map(|namespace| all_of(namespace, &pipelines)).collect();
            stream::iter(references)
        },
    )
}

fn all_of(namespace: &str, pipelines: &Store<Guarded>) -> Vec<ObjectRef<Guarded>> {
    let all = pipelines.state();
    let of_namespace = all.iter().filter(|pipeline| pipeline.meta().namespace.as_deref() == Some(namespace));
    of_namespace.map(|pipeline| ObjectRef::from_obj(&**pipeline)).collect()
}

/// Of `namespace/name`.
fn reference(name: &str) -> ObjectRef<Guarded> {
    let (namespace, name) = name.split_once('/').unwrap_or_default();
    ObjectRef::new(name).within(namespace)
}

/// Why a look ended early.
#[derive(Debug)]
pub enum ReconcileError {
    /// The API server would not be asked.
    Read(Box<kube::Error>),
    /// An object is not as desired.
    Apply(ApplyError),
    /// The status could not be written.
    Status(Box<kube::Error>),
}

impl ReconcileError {
    fn read(error: kube::Error) -> Self {
        Self::Read(Box::new(error))
    }

    /// What it is called in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Apply(error) => error.name(),
            Self::Status(_) => "status",
        }
    }
}

impl From<ApplyError> for ReconcileError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(error)
    }
}

impl fmt::Display for ReconcileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(out, "the API server cannot be asked: {error}"),
            Self::Apply(error) => error.fmt(out),
            Self::Status(error) => write!(out, "the API server refused the status: {error}"),
        }
    }
}

impl std::error::Error for ReconcileError {}
