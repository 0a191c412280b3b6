//! From a pod's token to a certificate, and a new one before that ends.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use sidestream_control::{CertifyClient, CertifyRequest, CertifyResponse};
use sidestream_host::{Clock, Random};
use sidestream_trust::{Anchors, Credentials, Identity, Request, anonymous_client_config};
use tokio::sync::Notify;

use super::{
    ClusterError, Settings,
    call::{ALPN, call},
};
use crate::backoff::Backoff;

/// This process, known to the operator.
#[derive(Clone)]
pub struct Enrolled {
    /// Who it is; replaced as certificates are renewed.
    pub identity: Identity,
    /// Which of the operator's roots issued the certificate.
    pub issuer: Arc<tokio::sync::watch::Sender<u64>>,
    renew: Arc<Notify>,
    settings: Settings,
}

/// Gets an identity: the one that an earlier container of this pod left, if it is good for a while yet, or else a new
/// one, for which it asks until there is one. From then on it is renewed for as long as the runtime lives.
pub async fn enrol(settings: &Settings, clock: &Clock) -> Enrolled {
    let (credentials, issuer) = match left_behind(settings, clock) {
        Some(kept) => kept,
        None => insist(settings, clock).await,
    };
    let enrolled = Enrolled {
        identity: Identity::new(credentials, clock),
        issuer: Arc::new(tokio::sync::watch::Sender::new(issuer)),
        renew: Arc::default(),
        settings: settings.clone(),
    };
    tracing::info!(id = %enrolled.identity.id(), seconds_left = enrolled.identity.seconds_left(), "enrolled");
    tokio::spawn(keep_renewed(enrolled.clone(), clock.clone()));
    enrolled
}

impl Enrolled {
    /// Asks for a new certificate now rather than when the one there is has aged: its issuer is no longer the one in use.
    pub fn renew_now(&self) {
        self.renew.notify_one();
    }

    /// Believes `anchors`, also after the container starts again.
    pub fn believe(&self, anchors: Anchors) {
        self.identity.believe(anchors);
        keep(&self.settings, &self.identity.credentials(), *self.issuer.borrow());
    }
}

async fn keep_renewed(enrolled: Enrolled, clock: Clock) {
    let mut random = Random::from_entropy();
    loop {
        tokio::select! {
            () = tokio::time::sleep(enrolled.identity.renew_in(&mut random)) => {}
            () = enrolled.renew.notified() => {}
        }
        let (credentials, issuer) = insist(&enrolled.settings, &clock).await;
        enrolled.identity.replace(credentials);
        enrolled.issuer.send_replace(issuer);
        tracing::info!(seconds_left = enrolled.identity.seconds_left(), issuer, "renewed the certificate");
    }
}

/// Asks until there is an answer.
async fn insist(settings: &Settings, clock: &Clock) -> (Credentials, u64) {
    let mut backoff = Backoff::new(None);
    loop {
        match ask(settings, clock).await {
            Ok((credentials, issuer)) => {
                keep(settings, &credentials, issuer);
                return (credentials, issuer);
            }
            Err(error) => {
                let wait = backoff.next(None).unwrap_or(Duration::from_secs(30));
                tracing::warn!(again_in_ms = wait.as_millis() as u64, "no certificate yet: {error}");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn ask(settings: &Settings, clock: &Clock) -> Result<(Credentials, u64), ClusterError> {
    let anchors = believed(settings)?;
    let token = read(&settings.token)?.trim().to_owned();
    let tls = anonymous_client_config(&anchors, &settings.operator_id, ALPN, clock)?;
    let channel = call(settings, tls).await?;
    let request = Request::new()?;
    let asked = CertifyRequest { csr_der: request.der().to_vec(), token, pod: settings.pod.clone() };
    let answer = CertifyClient::new(channel).certify(asked).await.map_err(ClusterError::Refused)?;
    let CertifyResponse { chain_der, anchors_der, issuer, .. } = answer.into_inner();
    let anchors = Anchors::new(anchors_der.into_iter().map(Into::into))?;
    Ok((request.complete(chain_der.into_iter().map(Into::into).collect(), anchors)?, issuer))
}

/// Every authority that was ever named: those the pod was given, and those heard of since.
fn believed(settings: &Settings) -> Result<Anchors, ClusterError> {
    let given = Anchors::from_pem(&read(&settings.anchors)?)?;
    let heard = fs::read_to_string(settings.identity.join(ANCHORS)).ok();
    let heard = heard.and_then(|text| Anchors::from_pem(&text).ok());
    let all = given.certificates().iter().chain(heard.iter().flat_map(|anchors| anchors.certificates()));
    Ok(Anchors::new(all.cloned())?)
}

/// What an earlier container of this pod left, where it does not end soon.
fn left_behind(settings: &Settings, clock: &Clock) -> Option<(Credentials, u64)> {
    let text = |file| fs::read_to_string(settings.identity.join(file)).ok();
    let anchors = Anchors::from_pem(&text(ANCHORS)?).ok()?;
    let credentials = Credentials::from_pem(&text(LEAF)?, anchors).ok()?;
    let seconds_left = credentials.not_after_seconds() - clock.wall_nanos().div_euclid(1_000_000_000);
    let issuer = text(ISSUER)?.trim().parse().ok()?;
    (seconds_left > SOON_SECONDS).then_some((credentials, issuer))
}

/// Leaves what the next container of this pod needs. Where that fails, it will have to ask.
fn keep(settings: &Settings, credentials: &Credentials, issuer: u64) {
    let files = [
        (LEAF, credentials.to_pem()),
        (ANCHORS, credentials.anchors().to_pem()),
        (ISSUER, issuer.to_string()),
    ];
    for (file, text) in files {
        if let Err(error) = write(&settings.identity, file, &text) {
            let path = settings.identity.join(file).display().to_string();
            tracing::warn!(path, "the identity will not survive this container: {error}");
        }
    }
}

/// Writes a file whole or not at all, for this user's eyes only.
fn write(folder: &Path, file: &str, text: &str) -> io::Result<()> {
    use std::io::Write;

    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let new = folder.join(format!("{file}.new"));
    options.open(&new)?.write_all(text.as_bytes())?;
    fs::rename(new, folder.join(file))
}

fn read(path: &Path) -> Result<String, ClusterError> {
    fs::read_to_string(path).map_err(|error| ClusterError::File { path: path.to_owned(), error })
}

const LEAF: &str = "leaf.pem";
const ANCHORS: &str = "anchors.pem";
const ISSUER: &str = "issuer";
/// A certificate that ends sooner is not worth starting with.
const SOON_SECONDS: i64 = 60;
