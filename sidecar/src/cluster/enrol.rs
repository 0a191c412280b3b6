//! From a pod's token to a certificate, and a new one before that ends.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sidestream_control::{CertifyClient, CertifyRequest, CertifyResponse};
use sidestream_host::{Clock, Random};
use sidestream_trust::{Anchors, Credentials, Identity, Request, anonymous_client_config};
use tokio::sync::{Notify, watch};

use super::{
    ClusterError, Settings,
    call::{ALPN, call},
    whole::write_whole,
};
use crate::backoff::Backoff;

/// This process, known to the operator.
#[derive(Clone)]
pub struct Enrolled {
    /// Who it is; replaced as certificates are renewed.
    pub identity: Identity,
    /// Which of the operator's roots issued the certificate.
    pub issuer: Arc<watch::Sender<u64>>,
    renew: Arc<Notify>,
    /// Held while the identity is replaced and kept, so that what is older never follows what is newer.
    heard: Arc<Mutex<Heard>>,
    settings: Settings,
}

/// The newest that was heard of the operator's roots.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Heard {
    generation: u64,
    /// The root that issues; none before anybody has said.
    issuer: Option<u64>,
}

/// A certificate as it comes, with what the operator says about its roots.
struct Answer {
    credentials: Credentials,
    issuer: u64,
    generation: u64,
}

/// Gets an identity: the one that an earlier container of this pod left, if it is good for a while yet, or else a new
/// one, for which it asks until there is one. From then on it is renewed for as long as the runtime lives.
pub async fn enrol(settings: &Settings, clock: &Clock) -> Enrolled {
    let enrolled = match left_behind(settings, clock) {
        Some((credentials, issuer)) => {
            let is_outdated = !is_mounted(settings, credentials.anchors());
            let enrolled = Enrolled::new(settings, credentials, issuer, Heard::default(), clock);
            // The roots have turned while nobody looked: what is kept serves until the operator says more.
            if is_outdated {
                enrolled.renew_now();
            }
            enrolled
        }
        None => {
            let Answer { credentials, issuer, generation } = insist(settings, clock).await;
            let heard = Heard { generation, issuer: Some(issuer) };
            let enrolled = Enrolled::new(settings, credentials, issuer, heard, clock);
            keep(settings, &enrolled.identity.credentials(), issuer);
            enrolled
        }
    };
    tracing::info!(id = %enrolled.identity.id(), seconds_left = enrolled.identity.seconds_left(), "enrolled");
    tokio::spawn(keep_renewed(enrolled.clone(), clock.clone()));
    enrolled
}

impl Enrolled {
    fn new(
        settings: &Settings,
        credentials: Credentials,
        issuer: u64,
        heard: Heard,
        clock: &Clock,
    ) -> Enrolled {
        Enrolled {
            identity: Identity::new(credentials, clock),
            issuer: Arc::new(watch::Sender::new(issuer)),
            renew: Arc::default(),
            heard: Arc::new(Mutex::new(heard)),
            settings: settings.clone(),
        }
    }

    /// Asks for a new certificate now rather than when the one there is has aged: it may not be believed any more.
    pub fn renew_now(&self) {
        self.renew.notify_one();
    }

    /// Believes `anchors`, also after the container starts again, and wants a certificate of the root `issuer`; unless
    /// anchors of a later generation are known. Gives the generation that is believed.
    pub fn believe(&self, generation: u64, anchors: Anchors, issuer: u64) -> u64 {
        let mut heard = self.lock();
        if generation < heard.generation {
            tracing::debug!(generation, known = heard.generation, "older anchors are not taken over");
            return heard.generation;
        }
        *heard = Heard { generation, issuer: Some(issuer) };
        self.identity.believe(anchors);
        keep(&self.settings, &self.identity.credentials(), *self.issuer.borrow());
        drop(heard);
        if !self.is_as_wanted() {
            self.renew_now();
        }
        generation
    }

    /// Goes by a new certificate. Its anchors are believed too, unless later ones are known and the two have a root in
    /// common: where they have none, the operator has begun anew, and so do the generations.
    fn take(&self, answer: Answer) -> Result<(), ClusterError> {
        let Answer { mut credentials, issuer, generation } = answer;
        let mut heard = self.lock();
        let current = self.identity.credentials();
        let known = current.anchors().certificates();
        let is_akin = credentials.anchors().certificates().iter().any(|root| known.contains(root));
        if is_akin && generation < heard.generation {
            credentials = Credentials::from_pem(&credentials.to_pem(), current.anchors().clone())?;
        } else if !is_akin || generation > heard.generation {
            *heard = Heard { generation, issuer: Some(issuer) };
        }
        keep(&self.settings, &credentials, issuer);
        self.identity.replace(credentials);
        self.issuer.send_replace(issuer);
        Ok(())
    }

    /// Whether the certificate comes from the root that issues now.
    fn is_as_wanted(&self) -> bool {
        let wanted = self.lock().issuer;
        wanted.is_none_or(|wanted| wanted == *self.issuer.borrow())
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep_renewed(enrolled: Enrolled, clock: Clock) {
    let mut random = Random::from_entropy();
    let mut backoff = Backoff::new(None);
    loop {
        let due = if enrolled.is_as_wanted() {
            backoff.reset();
            enrolled.identity.renew_in(&mut random)
        } else {
            // A replica that does not know the new root yet has issued it.
            backoff.next(None).unwrap_or(FLOOR)
        };
        tokio::select! {
            () = tokio::time::sleep(due) => {}
            () = enrolled.renew.notified() => {}
        }
        match enrolled.take(insist(&enrolled.settings, &clock).await) {
            Ok(()) => {
                let issuer = *enrolled.issuer.borrow();
                tracing::info!(
                    seconds_left = enrolled.identity.seconds_left(),
                    issuer,
                    "renewed the certificate"
                );
            }
            Err(error) => tracing::error!("the new certificate cannot be used: {error}"),
        }
        tokio::time::sleep(FLOOR.mul_f64(1.0 + random.next_f64())).await;
    }
}

/// Asks until there is an answer.
async fn insist(settings: &Settings, clock: &Clock) -> Answer {
    let mut backoff = Backoff::new(None);
    loop {
        match ask(settings, clock).await {
            Ok(answer) => return answer,
            Err(error) => {
                let wait = backoff.next(None).unwrap_or(Duration::from_secs(30));
                tracing::warn!(again_in_ms = wait.as_millis() as u64, "no certificate yet: {error}");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn ask(settings: &Settings, clock: &Clock) -> Result<Answer, ClusterError> {
    let anchors = believed(settings)?;
    let token = read(&settings.token)?.trim().to_owned();
    let tls = anonymous_client_config(&anchors, &settings.operator_id, ALPN, clock)?;
    let channel = call(&settings.operator, tls).await?;
    let request = Request::new()?;
    let asked = CertifyRequest { csr_der: request.der().to_vec(), token, pod: settings.pod.clone() };
    let answer = CertifyClient::new(channel).certify(asked).await.map_err(ClusterError::Refused)?;
    let CertifyResponse { chain_der, anchors_der, issuer, generation, .. } = answer.into_inner();
    let anchors = Anchors::new(anchors_der.into_iter().map(Into::into))?;
    let credentials = request.complete(chain_der.into_iter().map(Into::into).collect(), anchors)?;
    Ok(Answer { credentials, issuer, generation })
}

/// Whether `anchors` are the ones that the pod was given, as far as those can be read.
fn is_mounted(settings: &Settings, anchors: &Anchors) -> bool {
    let (Ok(given), kept) = (mounted(settings), anchors.certificates()) else { return true };
    let given = given.certificates();
    given.len() == kept.len() && given.iter().all(|root| kept.contains(root))
}

/// Every authority that was ever named: those the pod was given, and those heard of since.
fn believed(settings: &Settings) -> Result<Anchors, ClusterError> {
    let given = mounted(settings)?;
    let heard = fs::read_to_string(settings.identity.join(ANCHORS)).ok();
    let heard = heard.and_then(|text| Anchors::from_pem(&text).ok());
    let all = given.certificates().iter().chain(heard.iter().flat_map(|anchors| anchors.certificates()));
    Ok(Anchors::new(all.cloned())?)
}

/// The authorities that the pod was given.
fn mounted(settings: &Settings) -> Result<Anchors, ClusterError> {
    Ok(Anchors::from_pem(&read(&settings.anchors)?)?)
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
        let path = settings.identity.join(file);
        if let Err(error) = write_whole(&path, text.as_bytes()) {
            let path = path.display().to_string();
            tracing::warn!(path, "the identity will not survive this container: {error}");
        }
    }
}

fn read(path: &Path) -> Result<String, ClusterError> {
    fs::read_to_string(path).map_err(|error| ClusterError::File { path: path.to_owned(), error })
}

const LEAF: &str = "leaf.pem";
const ANCHORS: &str = "anchors.pem";
const ISSUER: &str = "issuer";
/// A certificate that ends sooner is not worth starting with.
const SOON_SECONDS: i64 = 60;
/// The least time between two renewals; up to twice that, so that not all come together.
const FLOOR: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use sidestream_trust::{Authority, SpiffeId};
    use tempfile::TempDir;

    use super::*;

    /// A process whose certificate is of root 1, with the second root of its operator.
    fn enrolled(clock: &Clock) -> (TempDir, Authority, Authority, Enrolled) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let settings = Settings {
            operator: "operator:9443".into(),
            operator_id: id(),
            pod: "hub-1".into(),
            namespace: "shop".into(),
            token: at("token"),
            anchors: at("given"),
            identity: folder.path().into(),
            cache: at("cache"),
        };
        let (old, new) = (authority(clock), authority(clock));
        let heard = Heard { generation: 1, issuer: Some(1) };
        let enrolled = Enrolled::new(&settings, answer(&old, &[&old], 1, 1).credentials, 1, heard, clock);
        (folder, old, new, enrolled)
    }

    fn id() -> SpiffeId {
        SpiffeId::of_service_account("cluster.local", "shop", "hub").unwrap()
    }

    fn authority(clock: &Clock) -> Authority {
        Authority::create("cluster.local", clock).unwrap()
    }

    fn anchors(roots: &[&Authority]) -> Anchors {
        Anchors::new(roots.iter().map(|root| root.anchor().clone())).unwrap()
    }

    fn answer(by: &Authority, roots: &[&Authority], issuer: u64, generation: u64) -> Answer {
        let issued = by.credentials(&id(), &[], Duration::from_secs(3600)).unwrap();
        let credentials = Credentials::from_pem(&issued.to_pem(), anchors(roots)).unwrap();
        Answer { credentials, issuer, generation }
    }

    fn kept(enrolled: &Enrolled) -> Anchors {
        Anchors::from_pem(&fs::read_to_string(enrolled.settings.identity.join(ANCHORS)).unwrap()).unwrap()
    }

    #[test]
    fn anchors_of_an_older_generation_do_not_come_back() {
        let clock = Clock::machine();
        let (_folder, old, new, enrolled) = enrolled(&clock);
        assert_eq!(enrolled.believe(3, anchors(&[&new]), 2), 3);
        assert_eq!(enrolled.believe(2, anchors(&[&old, &new]), 2), 3);
        assert_eq!(enrolled.identity.credentials().anchors(), &anchors(&[&new]));
        enrolled.take(answer(&new, &[&old, &new], 2, 2)).unwrap();
        assert_eq!(enrolled.identity.credentials().anchors(), &anchors(&[&new]));
        assert_eq!(kept(&enrolled), anchors(&[&new]));
    }

    #[test]
    fn a_certificate_of_a_root_that_does_not_issue_any_more_is_not_what_is_wanted() {
        let clock = Clock::machine();
        let (_folder, old, new, enrolled) = enrolled(&clock);
        enrolled.believe(2, anchors(&[&old, &new]), 2);
        assert!(!enrolled.is_as_wanted());
        enrolled.take(answer(&old, &[&old, &new], 1, 2)).unwrap();
        assert!(!enrolled.is_as_wanted(), "by a replica that is behind");
        enrolled.take(answer(&new, &[&old, &new], 2, 2)).unwrap();
        assert!(enrolled.is_as_wanted());
    }

    #[test]
    fn an_operator_with_nothing_but_new_roots_is_taken_at_its_word() {
        let clock = Clock::machine();
        let (_folder, old, new, enrolled) = enrolled(&clock);
        enrolled.believe(7, anchors(&[&old]), 1);
        enrolled.take(answer(&new, &[&new], 2, 1)).unwrap();
        assert_eq!(enrolled.identity.credentials().anchors(), &anchors(&[&new]));
        assert!(enrolled.is_as_wanted());
        assert_eq!(enrolled.believe(1, anchors(&[&new]), 2), 1);
    }
}
