//! Who this process is, now: credentials that are replaced while connections live.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use sidestream_host::{Clock, Random};
use tokio::sync::watch;

use crate::{Anchors, Callers, SpiffeId, TrustError, leaf::Leaf, pem, tls};

/// A private key, the chain of certificates for it, and whom to believe.
pub struct Credentials {
    leaf: Leaf,
    key: PrivateKeyDer<'static>,
    certified: Arc<CertifiedKey>,
    anchors: Anchors,
}

impl Credentials {
    /// Puts credentials together; `chain` is the leaf first. Refuses a leaf without exactly one SPIFFE ID, and a key
    /// that is not the leaf's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        anchors: Anchors,
    ) -> Result<Credentials, TrustError> {
        let leaf = Leaf::read(chain.first().ok_or(TrustError::Pem { wanted: "certificate" })?)?;
        let signing =
            aws_lc_rs::sign::any_supported_type(&key).map_err(|error| TrustError::Key(error.to_string()))?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| TrustError::KeyOfAnother)?;
        Ok(Credentials { leaf, key, certified: Arc::new(certified), anchors })
    }

    /// Credentials of a PEM text, as [`Credentials::to_pem`] writes it, that believe `anchors`.
    pub fn from_pem(text: &str, anchors: Anchors) -> Result<Credentials, TrustError> {
        Credentials::new(pem::certificates(text)?, pem::private_key(text)?, anchors)
    }

    /// Chain and private key as PEM: a secret, for a file in memory that only this process reads.
    pub fn to_pem(&self) -> String {
        let mut text = String::new();
        self.certified.cert.iter().for_each(|der| pem::write(pem::CERTIFICATE, der, &mut text));
        pem::write(pem::PRIVATE_KEY, self.key.secret_der(), &mut text);
        text
    }

    /// Whom they name.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// Whom they believe.
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// When they end: seconds since 1970-01-01T00:00:00Z.
    pub fn not_after_seconds(&self) -> i64 {
        self.leaf.not_after
    }

    /// When they begin: seconds since 1970-01-01T00:00:00Z.
    pub fn not_before_seconds(&self) -> i64 {
        self.leaf.not_before
    }
}

/// The credentials of this process, to be replaced at any time. Clones are the same identity.
///
/// TLS proves a peer in the handshake, so connections that live go on after a replacement; whoever wants them renewed
/// listens to [`Identity::changes`].
#[derive(Clone)]
pub struct Identity {
    current: Arc<Mutex<Arc<Credentials>>>,
    generation: watch::Sender<u64>,
    clock: Clock,
}

impl Identity {
    /// An identity that starts with `credentials`.
    pub fn new(credentials: Credentials, clock: &Clock) -> Identity {
        let current = Arc::new(Mutex::new(Arc::new(credentials)));
        Identity { current, generation: watch::Sender::new(0), clock: clock.clone() }
    }

    /// From now on shows `credentials`, and believes their anchors, in new handshakes.
    pub fn replace(&self, credentials: Credentials) {
        *self.lock() = Arc::new(credentials);
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// From now on believes `anchors` in new handshakes.
    pub fn believe(&self, anchors: Anchors) {
        {
            let mut current = self.lock();
            let old = &**current;
            *current = Arc::new(Credentials {
                leaf: old.leaf.clone(),
                key: old.key.clone_key(),
                certified: old.certified.clone(),
                anchors,
            });
        }
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The credentials now.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.lock().clone()
    }

    /// Who this process is.
    pub fn id(&self) -> SpiffeId {
        self.lock().id().clone()
    }

    /// How often it was replaced, and the news of it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Seconds until the credentials end; negative when they have ended.
    pub fn seconds_left(&self) -> i64 {
        self.lock().not_after_seconds() - self.clock.wall_nanos().div_euclid(1_000_000_000)
    }

    /// How long from now the credentials should be renewed: at 60 % of their life, give or take a tenth of it, so that
    /// those who began together do not ask together; zero when that is past.
    pub fn renew_in(&self, random: &mut Random) -> Duration {
        let (begin, end) = {
            let current = self.lock();
            (current.not_before_seconds(), current.not_after_seconds())
        };
        let share = RENEW_SHARE + (random.next_f64() * 2.0 - 1.0) * RENEW_JITTER;
        let at_nanos = begin as f64 * 1e9 + (end - begin) as f64 * 1e9 * share;
        Duration::from_nanos((at_nanos - self.clock.wall_nanos() as f64).max(0.0) as u64)
    }

    /// How a server of this identity shakes hands: TLS 1.3 only, no resumption, no early data; callers are proved
    /// as `callers` says. `alpn` lists the protocols it speaks, the best first. Made anew after every change.
    pub fn server_config(&self, callers: Callers, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TrustError> {
        let current = self.credentials();
        tls::server_config(&current.certified, &current.anchors, current.id(), callers, alpn, &self.clock)
    }

    /// How a client of this identity shakes hands with `expected` and nobody else: TLS 1.3 only, no resumption, no
    /// early data. Made anew after every change.
    pub fn client_config(
        &self,
        expected: &SpiffeId,
        alpn: &[&[u8]],
    ) -> Result<Arc<ClientConfig>, TrustError> {
        let current = self.credentials();
        tls::client_config(Some(&current.certified), &current.anchors, expected, alpn, &self.clock)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<Credentials>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Credentials").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Identity").field(&self.id().as_str()).finish()
    }
}

/// Renewal at 60 % of a day's leaf leaves more than nine hours for an authority that is away.
const RENEW_SHARE: f64 = 0.6;
const RENEW_JITTER: f64 = 0.1;
