//! The authority of the installation: the roots to trust, and the one that issues.
//!
//! They live in one Secret of the operator's own namespace, which every replica follows. What phase a rotation is in is
//! said by what is there, so a crash leaves nothing to repair:
//!
//! ```text
//!                 issues   trusted       next
//!   Stable        old      old           -
//!   Distribute    old      old, new      new     until every sidecar trusts both
//!   Issue         new      new, old      -       until every certificate comes from the new one
//!   Stable        new      new           -
//! ```
//!
//! Each step is one write of that Secret, refused where somebody else wrote it meanwhile.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams, runtime::watcher};
use sha2::{Digest, Sha256};
use sidestream_desired::labels;
use sidestream_host::{Clock, Random};
use sidestream_trust::{Anchors, Authority, Identity, SpiffeId, TrustError};
use tokio::{sync::watch, time::sleep};

/// The Secret.
pub const CA_SECRET: &str = "sidestream-ca";
/// An annotation on it: a new value asks for a new root.
pub const ROTATE: &str = "sidestream.dev/rotate";
/// An annotation on it: the value of [`ROTATE`] that has been answered.
pub const ROTATED: &str = "sidestream.dev/rotated";

/// How long to wait before the Secret is read or written again after an error.
const RETRY: Duration = Duration::from_secs(5);

/// The roots at one moment.
#[derive(Debug)]
pub struct Roots {
    /// Grows with every change of [`Roots::anchors`].
    pub generation: u64,
    /// Issues certificates.
    pub issuer: Authority,
    /// Everybody to trust.
    pub anchors: Anchors,
    /// Will issue, once everybody trusts it.
    pub next: Option<Authority>,
    /// That of the Secret they are from.
    pub(crate) metadata: ObjectMeta,
}

/// Where a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is one root.
    Stable,
    /// A new root is made known.
    Distribute,
    /// The new root issues; the old one is still trusted.
    Issue,
}

impl Phase {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Stable => "Stable",
            Phase::Distribute => "Distribute",
            Phase::Issue => "Issue",
        }
    }
}

/// Why there are no roots.
#[derive(Debug)]
pub enum AuthorityError {
    /// The API server would not give or take the Secret.
    Kube(kube::Error),
    /// The Secret has not what it should.
    Secret {
        /// Which key of it.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A root could not be made.
    Trust(TrustError),
}

impl Roots {
    /// One new root.
    ///
    /// # Errors
    /// Where the trust domain is none.
    pub fn create(trust_domain: &str, clock: &Clock) -> Result<Self, TrustError> {
        let issuer = Authority::create(trust_domain, clock)?;
        let anchors = issuer.anchors();
        Ok(Self { generation: 1, issuer, anchors, next: None, metadata: ObjectMeta::default() })
    }

    /// Where a rotation is.
    pub fn phase(&self) -> Phase {
        match (&self.next, self.anchors.certificates().len()) {
            (Some(_), _) => Phase::Distribute,
            (None, 1) => Phase::Stable,
            (None, _) => Phase::Issue,
        }
    }

    /// A number that names the root that issues: the first 64 bits of its SHA-256.
    pub fn issuer_number(&self) -> u64 {
        let digest = Sha256::digest(self.issuer.anchor());
        u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
    }

    /// The same roots again.
    pub(crate) fn copy(&self, clock: &Clock) -> Result<Self, AuthorityError> {
        Self::from_secret(&self.to_secret(), self.issuer.trust_domain(), clock)
    }

    pub(crate) fn to_secret(&self) -> Secret {
        let mut data = BTreeMap::from([
            ("generation", self.generation.to_string()),
            ("issuer.crt", self.issuer.certificate_pem()),
            ("issuer.key", self.issuer.key_pem()),
            ("anchors.pem", self.anchors.to_pem()),
        ]);
        if let Some(next) = &self.next {
            data.insert("next.crt", next.certificate_pem());
            data.insert("next.key", next.key_pem());
        }
        let data =
            data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect();
        let mut metadata = self.metadata.clone();
        metadata.managed_fields = None;
        metadata.labels.get_or_insert_default().insert(labels::MANAGED_BY.into(), labels::MANAGER.into());
        Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Secret::default() }
    }

    fn from_secret(secret: &Secret, trust_domain: &str, clock: &Clock) -> Result<Self, AuthorityError> {
        let generation = text(secret, "generation")?
            .parse()
            .map_err(|_| AuthorityError::Secret { key: "generation", reason: "it is no number".into() })?;
        let issuer = authority(secret, ["issuer.crt", "issuer.key"], trust_domain, clock)?;
        let anchors = Anchors::from_pem(text(secret, "anchors.pem")?)
            .map_err(|error| AuthorityError::Secret { key: "anchors.pem", reason: error.to_string() })?;
        let has_next = secret.data.as_ref().is_some_and(|data| data.contains_key("next.crt"));
        let next =
            has_next.then(|| authority(secret, ["next.crt", "next.key"], trust_domain, clock)).transpose()?;
        Ok(Self { generation, issuer, anchors, next, metadata: secret.metadata.clone() })
    }
}

/// The roots of the installation; made where there are none yet.
///
/// # Errors
/// Where the API server does not let us, or the Secret is not ours to read.
pub async fn load_or_create(
    client: &Client,
    namespace: &str,
    trust_domain: &str,
    clock: &Clock,
) -> Result<Roots, AuthorityError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    loop {
        if let Some(secret) = api.get_opt(CA_SECRET).await.map_err(AuthorityError::Kube)? {
            return Roots::from_secret(&secret, trust_domain, clock);
        }
        let roots = Roots::create(trust_domain, clock).map_err(AuthorityError::Trust)?;
        if let Some(roots) = create(&api, namespace, roots, trust_domain, clock).await? {
            tracing::info!(secret = CA_SECRET, "made a new root");
            return Ok(roots);
        }
    }
}

/// None where somebody else was first.
async fn create(
    api: &Api<Secret>,
    namespace: &str,
    mut roots: Roots,
    trust_domain: &str,
    clock: &Clock,
) -> Result<Option<Roots>, AuthorityError> {
    roots.metadata = ObjectMeta {
        name: Some(CA_SECRET.into()),
        namespace: Some(namespace.into()),
        annotations: roots.metadata.annotations.take(),
        ..ObjectMeta::default()
    };
    match api.create(&PostParams::default(), &roots.to_secret()).await {
        Ok(secret) => Roots::from_secret(&secret, trust_domain, clock).map(Some),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(None),
        Err(error) => Err(AuthorityError::Kube(error)),
    }
}

/// Follows the Secret for as long as the process lives, and puts it back where somebody removes it.
pub async fn follow(client: Client, namespace: String, roots: watch::Sender<Arc<Roots>>, clock: Clock) {
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    let mut secrets = std::pin::pin!(watcher::watch_object(api.clone(), CA_SECRET));
    while let Some(seen) = secrets.next().await {
        let current = roots.borrow().clone();
        let trust_domain = current.issuer.trust_domain();
        match seen {
            Ok(Some(secret)) if secret.metadata.resource_version == current.metadata.resource_version => {}
            Ok(Some(secret)) => match Roots::from_secret(&secret, trust_domain, &clock) {
                Ok(new) => adopt(&roots, new),
                Err(error) => tracing::error!(%error, "the roots are kept as they are"),
            },
            Ok(None) => put_back(&api, &namespace, &roots, &clock).await,
            Err(error) => {
                tracing::warn!(%error, secret = CA_SECRET, "cannot be followed now");
                sleep(RETRY).await;
            }
        }
    }
}

/// Somebody has removed the Secret: it must be there again before this process ends.
async fn put_back(api: &Api<Secret>, namespace: &str, roots: &watch::Sender<Arc<Roots>>, clock: &Clock) {
    loop {
        let current = roots.borrow().clone();
        let put = async {
            create(api, namespace, current.copy(clock)?, current.issuer.trust_domain(), clock).await
        };
        match put.await {
            Ok(Some(_)) => return tracing::warn!(secret = CA_SECRET, "put back what somebody had removed"),
            // It is there; the watch shows it.
            Ok(None) => return,
            Err(error) => tracing::error!(%error, "the roots are in memory only"),
        }
        sleep(RETRY).await;
    }
}

/// These are the roots from now on, unless newer ones are known. It is news only where they differ: each replica hears of
/// its own writes, too, and late.
pub(crate) fn adopt(roots: &watch::Sender<Arc<Roots>>, new: Roots) {
    roots.send_if_modified(|current| {
        if new.generation < current.generation {
            let (read, known) = (new.generation, current.generation);
            tracing::warn!(
                read,
                known,
                "an older `generation` in the Secret `{CA_SECRET}` is not taken over; to restore a backup, raise it"
            );
            return false;
        }
        // A larger resource version of the same object is newer (Kubernetes enhancement 5504).
        let version = |roots: &Roots| roots.metadata.resource_version.as_ref()?.parse::<u64>().ok();
        if new.metadata.uid == current.metadata.uid && version(&new) < version(current) {
            return false;
        }
        let essence = |roots: &Roots| (roots.generation, roots.issuer_number(), roots.phase());
        let is_news = essence(current) != essence(&new) || current.anchors != new.anchors;
        *current = Arc::new(new);
        is_news
    });
}

/// The operator's own certificate, from `roots`.
///
/// # Errors
/// Where a name cannot stand in a certificate.
pub fn own_identity(
    roots: &Roots,
    id: &SpiffeId,
    dns_names: &[String],
    lifetime: Duration,
    clock: &Clock,
) -> Result<Identity, TrustError> {
    let mut own = roots.issuer.credentials(id, dns_names, lifetime)?;
    own = with_anchors(own, &roots.anchors)?;
    Ok(Identity::new(own, clock))
}

/// Renews the operator's own certificate in time, and whenever the roots change.
pub async fn renew(
    identity: Identity,
    mut roots: watch::Receiver<Arc<Roots>>,
    dns_names: Vec<String>,
    lifetime: Duration,
) {
    let mut random = Random::from_entropy();
    loop {
        tokio::select! {
            () = sleep(identity.renew_in(&mut random).max(RETRY)) => {}
            changed = roots.changed() => if changed.is_err() { return },
        }
        let current = roots.borrow_and_update().clone();
        let renewed = current.issuer.credentials(&identity.id(), &dns_names, lifetime);
        match renewed.and_then(|own| with_anchors(own, &current.anchors)) {
            Ok(own) => {
                identity.replace(own);
                tracing::info!(phase = ?current.phase(), "renewed the certificate of the control server");
            }
            Err(error) => tracing::error!(%error, "the certificate of the control server is not renewed"),
        }
    }
}

/// While roots rotate, more are trusted than the one that issued.
fn with_anchors(
    own: sidestream_trust::Credentials,
    anchors: &Anchors,
) -> Result<sidestream_trust::Credentials, TrustError> {
    sidestream_trust::Credentials::from_pem(&own.to_pem(), anchors.clone())
}

fn authority(
    secret: &Secret,
    [certificate, key]: [&'static str; 2],
    trust_domain: &str,
    clock: &Clock,
) -> Result<Authority, AuthorityError> {
    Authority::from_pem(text(secret, certificate)?, text(secret, key)?, trust_domain, clock)
        .map_err(|error| AuthorityError::Secret { key: certificate, reason: error.to_string() })
}

fn text<'a>(secret: &'a Secret, key: &'static str) -> Result<&'a str, AuthorityError> {
    let wrong = |reason: &str| AuthorityError::Secret { key, reason: reason.into() };
    let bytes =
        secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| wrong("it is not there"))?;
    std::str::from_utf8(&bytes.0).map_err(|_| wrong("it is no text"))
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube(error) => write!(out, "the Secret `{CA_SECRET}` cannot be read or written: {error}"),
            Self::Secret { key, reason } => write!(
                out,
                "key `{key}` of the Secret `{CA_SECRET}` cannot be used: {reason}; restore it, or remove the Secret to \
                 start with a new root"
            ),
            Self::Trust(error) => write!(out, "no root can be made: {error}"),
        }
    }
}

impl std::error::Error for AuthorityError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_read_back_as_they_are_written_in_every_phase() {
        let clock = Clock::machine();
        let mut roots = Roots::create("cluster.local", &clock).unwrap();
        for phase in [Phase::Stable, Phase::Distribute, Phase::Issue] {
            assert_eq!(roots.phase(), phase);
            let read = Roots::from_secret(&roots.to_secret(), "cluster.local", &clock).unwrap();
            assert_eq!((read.phase(), read.issuer_number()), (phase, roots.issuer_number()));
            assert_eq!((read.generation, &read.anchors), (roots.generation, &roots.anchors));
            match phase {
                Phase::Stable => {
                    let next = Authority::create("cluster.local", &clock).unwrap();
                    roots.anchors =
                        Anchors::new([roots.issuer.anchor().clone(), next.anchor().clone()]).unwrap();
                    (roots.next, roots.generation) = (Some(next), 2);
                }
                Phase::Distribute => roots.issuer = roots.next.take().unwrap(),
                Phase::Issue => {}
            }
        }
    }

    #[test]
    fn what_is_heard_late_does_not_undo_what_is_known() {
        let clock = Clock::machine();
        let at = |generation, version: &str| {
            let mut roots = Roots::create("cluster.local", &clock).unwrap();
            roots.generation = generation;
            roots.metadata.resource_version = Some(version.into());
            roots
        };
        let roots = watch::Sender::new(Arc::new(at(2, "20")));
        let told = |new: Roots| {
            let number = new.issuer_number();
            adopt(&roots, new);
            roots.borrow().issuer_number() == number
        };
        assert!(!told(at(1, "30")), "of an older generation");
        assert!(!told(at(2, "9")), "of an earlier write");
        assert!(told(at(2, "100")) && told(at(3, "101")));
    }

    #[test]
    fn a_secret_without_its_key_is_refused_with_the_name_of_what_is_missing() {
        let clock = Clock::machine();
        let mut secret = Roots::create("cluster.local", &clock).unwrap().to_secret();
        secret.data.as_mut().unwrap().remove("issuer.key");
        let error = Roots::from_secret(&secret, "cluster.local", &clock).unwrap_err().to_string();
        assert!(error.contains("`issuer.key`") && error.contains("not there"), "{error}");
    }
}
