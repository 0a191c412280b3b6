//! Certify: a token of the pod becomes a certificate for it.
//!
//! The API server says whose the token is; the names in the certificate are computed from that, never from what was
//! asked for. A token for another audience, of no pod, or of a pod that is gone or has ended, is refused.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    core::v1::Pod,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use sidestream_control::{Certify, CertifyRequest, CertifyResponse, TOKEN_AUDIENCE};
use sidestream_desired::labels;
use sidestream_host::Clock;
use sidestream_trust::SpiffeId;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use super::limit::Limit;
use crate::{metrics::Metrics, trust::Roots};

/// Where the API server says which pod a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Requests to the API server at once on behalf of callers; more wait their turn.
const REVIEWS_MAX: usize = 32;
/// A token is about 1 KiB, a request for a P-256 key less.
const TOKEN_BYTES_MAX: usize = 16 << 10;
const CSR_BYTES_MAX: usize = 16 << 10;

/// The service.
pub struct Certifier {
    client: Client,
    roots: watch::Receiver<std::sync::Arc<Roots>>,
    lifetime: Duration,
    clock: Clock,
    metrics: Metrics,
    turns: Semaphore,
    limit: Limit,
}

/// A pod, as the API server vouches for it.
#[derive(Debug, PartialEq, Eq)]
struct Bearer {
    namespace: String,
    account: String,
    pod: String,
    pod_uid: String,
}

impl Certifier {
    /// Issues certificates from the root of the moment, good for `lifetime`.
    pub fn new(
        client: Client,
        roots: watch::Receiver<std::sync::Arc<Roots>>,
        lifetime: Duration,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let turns = Semaphore::new(REVIEWS_MAX);
        Self { client, roots, lifetime, clock, metrics, turns, limit: Limit::default() }
    }

    async fn issue(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        if request.token.len() > TOKEN_BYTES_MAX || request.csr_der.len() > CSR_BYTES_MAX {
            return Err(Status::invalid_argument("the token or the request is larger than any can be"));
        }
        let _turn = self.turns.acquire().await;
        let bearer = self.review(request.token).await?;
        if bearer.pod != request.pod {
            let reason = format!("the token is bound to pod `{}`, not to `{}`", bearer.pod, request.pod);
            return Err(Status::permission_denied(reason));
        }
        if !self.limit.permits(&bearer.pod_uid, self.clock.now()) {
            return Err(Status::resource_exhausted(
                "the pod has asked too often; it may ask again in a minute",
            ));
        }
        let pod = self.living_pod(&bearer).await?;
        let roots = self.roots.borrow().clone();
        let authority = &roots.issuer;
        let id = SpiffeId::of_service_account(authority.trust_domain(), &bearer.namespace, &bearer.account)
            .map_err(|error| Status::permission_denied(error.to_string()))?;
        let chain = authority
            .issue(&request.csr_der, &id, &dns_names(&bearer, &pod), self.lifetime)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let now = self.clock.wall_nanos().div_euclid(1_000_000_000);
        tracing::info!(%id, pod = bearer.pod, "issued a certificate");
        Ok(CertifyResponse {
            chain_der: chain.iter().map(|der| der.to_vec()).collect(),
            anchors_der: roots.anchors.certificates().iter().map(|der| der.to_vec()).collect(),
            not_after_seconds: now.saturating_add(lifetime).min(authority.not_after_seconds()),
            generation: roots.generation,
            issuer: roots.issuer_number(),
        })
    }

    /// Asks the API server whose token this is. Only our own audience will do: no other is asked for.
    async fn review(&self, token: String) -> Result<Bearer, Status> {
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec { token: Some(token), audiences: Some(vec![TOKEN_AUDIENCE.into()]) },
            status: None,
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(unavailable)?
            .status
            .unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(Status::unauthenticated("the API server does not know the token, or it has expired"));
        }
        if !status.audiences.unwrap_or_default().iter().any(|audience| audience == TOKEN_AUDIENCE) {
            return Err(Status::unauthenticated(format!(
                "the token is not for the audience `{TOKEN_AUDIENCE}`"
            )));
        }
        bearer(&status.user.unwrap_or_default())
    }

    /// The pod of the token, if it is still the same and has not ended.
    async fn living_pod(&self, bearer: &Bearer) -> Result<Pod, Status> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &bearer.namespace);
        let gone = || Status::permission_denied(format!("pod `{}` of the token is gone", bearer.pod));
        let pod = api.get_opt(&bearer.pod).await.map_err(unavailable)?.ok_or_else(gone)?;
        if pod.metadata.uid.as_deref() != Some(&bearer.pod_uid) {
            return Err(gone());
        }
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        if account != Some(&bearer.account) {
            return Err(Status::permission_denied(
                "the pod runs as another service account than the token's",
            ));
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Err(Status::permission_denied(format!("pod `{}` has ended", bearer.pod)));
        }
        Ok(pod)
    }
}

#[tonic::async_trait]
impl Certify for Certifier {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        let pod = request.pod.clone();
        let result = self.issue(request).await;
        self.metrics.certificate(result.is_ok());
        if let Err(refusal) = &result {
            tracing::info!(pod, reason = refusal.message(), "refused a certificate");
        }
        result.map(Response::new)
    }
}

/// Whom a review names, if that is a service account and the token is bound to a pod.
fn bearer(user: &UserInfo) -> Result<Bearer, Status> {
    let name = user.username.as_deref().unwrap_or_default();
    let (namespace, account) = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(|| Status::permission_denied("the token is not a service account's"))?;
    let extra = |key: &str| user.extra.as_ref()?.get(key)?.first().cloned();
    let (Some(pod), Some(pod_uid)) = (extra(POD_NAME), extra(POD_UID)) else {
        return Err(Status::permission_denied("the token is not bound to a pod; use a projected one"));
    };
    Ok(Bearer { namespace: namespace.into(), account: account.into(), pod, pod_uid })
}

/// The names under which the pod is found: that of its headless Service, where it is one of ours.
fn dns_names(bearer: &Bearer, pod: &Pod) -> Vec<String> {
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key);
    if let Some(pool) = label(labels::POOL)
        && sidestream_crds::names::pool(pool) == bearer.account
    {
        return vec![sidestream_crds::names::pool_service(&bearer.namespace, pool)];
    }
    let (Some(pipeline), Some(sidecar)) = (label(labels::PIPELINE), label(labels::SIDECAR)) else {
        return vec![];
    };
    // Labels are the pod's author's to write; the account is what the API server vouches for.
    if sidestream_crds::names::object(pipeline, sidecar) != bearer.account {
        return vec![];
    }
    vec![sidestream_crds::names::service(&bearer.namespace, pipeline, sidecar)]
}

fn unavailable(error: kube::Error) -> Status {
    tracing::warn!(%error, "the API server could not be asked about a token");
    Status::unavailable("the API server cannot be asked about the token now; try again")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn user(name: &str, extra: &[(&str, &str)]) -> UserInfo {
        let extra: BTreeMap<String, Vec<String>> =
            extra.iter().map(|(key, value)| ((*key).into(), vec![(*value).into()])).collect();
        UserInfo { username: Some(name.into()), extra: Some(extra), ..UserInfo::default() }
    }

    #[test]
    fn a_token_bound_to_a_pod_names_its_service_account() {
        let user = user("system:serviceaccount:shop:alarms-hub-spl", &[(POD_NAME, "hub-1"), (POD_UID, "u")]);
        let found = bearer(&user).unwrap();
        assert_eq!((found.namespace.as_str(), found.account.as_str()), ("shop", "alarms-hub-spl"));
    }

    #[test]
    fn a_person_and_a_token_without_a_pod_are_refused() {
        assert!(bearer(&user("alice", &[(POD_NAME, "p"), (POD_UID, "u")])).is_err());
        let refusal = bearer(&user("system:serviceaccount:shop:x", &[(POD_NAME, "p")])).unwrap_err();
        assert!(refusal.message().contains("not bound to a pod"), "{refusal}");
    }

    #[test]
    fn a_pod_that_only_wears_our_labels_gets_no_name_of_ours() {
        let mut pod = Pod::default();
        pod.metadata.labels = Some(labels::selector("alarms", "hub"));
        let bearer = |account: &str| Bearer {
            namespace: "shop".into(),
            account: account.into(),
            pod: "p".into(),
            pod_uid: "u".into(),
        };
        assert_eq!(dns_names(&bearer("alarms-hub-spl"), &pod), ["alarms-hub-spl.shop.svc"]);
        assert!(dns_names(&bearer("mine"), &pod).is_empty());
        pod.metadata.labels = Some(labels::of_pool("heavy"));
        assert_eq!(dns_names(&bearer("dnpipes-heavy"), &pod), ["dnpipes-heavy.shop.svc"]);
        assert!(dns_names(&bearer("mine"), &pod).is_empty());
    }
}
