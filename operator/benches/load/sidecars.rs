//! The other end of the control protocol, as a sidecar plays it: a token becomes a certificate, a session brings plans, and
//! each is acknowledged at once.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ConfigMap, Pod, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};
use rustls::ClientConfig;
use serde_json::json;
use sidestream_control::{
    Anchored, Applied, CertifyClient, CertifyRequest, Hello, Orders, Ready, Report, SidecarOrders,
    SidecarReport, SyncClient, TOKEN_AUDIENCE,
};
use sidestream_host::Clock;
use sidestream_trust::{Anchors, Identity, Request, SpiffeId, anonymous_client_config, server_name};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::operator::CONTROL;

/// One that is connected for as long as this lives.
pub(crate) struct Sidecar {
    plan: watch::Receiver<String>,
    session: JoinHandle<()>,
}

impl Sidecar {
    /// In a new pod of this name, which runs as `account`.
    pub(crate) async fn connect(client: &Client, namespace: &str, account: &str, pod: &str) -> Sidecar {
        let clock = Clock::machine();
        let token = token(client, namespace, account, pod).await;
        let trust: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let trust = trust.get("sidestream-trust").await.expect("the anchors").data.expect("data");
        let anchors = Anchors::from_pem(&trust["anchors.pem"]).expect("anchors");

        let operator =
            SpiffeId::of_service_account("cluster.local", "sidestream-system", "sidestream-operator");
        let operator = operator.expect("a name");
        let nameless =
            anonymous_client_config(&anchors, &operator, &[b"h2"], &clock).expect("a configuration");
        let request = Request::new().expect("a key");
        let ask = CertifyRequest { csr_der: request.der().to_vec(), token, pod: pod.into() };
        let answer = CertifyClient::new(channel(nameless).await).certify(ask).await.expect("a certificate");
        let answer = answer.into_inner();
        let chain = answer.chain_der.into_iter().map(Into::into).collect();
        let identity = Identity::new(request.complete(chain, anchors).expect("credentials"), &clock);

        let channel = channel(identity.client_config(&operator, &[b"h2"]).expect("a configuration")).await;
        let (say, reports) = mpsc::channel(8);
        let hello = Hello { pod: pod.into(), namespace: namespace.into(), ..Hello::default() };
        say.send(Report::Hello(hello).into()).await.expect("room");
        let orders = SyncClient::new(channel).sync(ReceiverStream::new(reports)).await.expect("a session");
        let (heard, plan) = watch::channel(String::new());
        let session = tokio::spawn(obey(orders.into_inner(), say, answer.issuer, heard));
        Sidecar { plan, session }
    }

    /// The hash of the plan it runs.
    pub(crate) fn plan(&self) -> String {
        self.plan.borrow().clone()
    }

    pub(crate) async fn has_another_plan_than(&mut self, hash: &str) {
        self.plan.wait_for(|plan| plan != hash).await.expect("the session goes on");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.session.abort();
    }
}

async fn obey(
    mut orders: Streaming<SidecarOrders>,
    say: mpsc::Sender<SidecarReport>,
    issuer: u64,
    heard: watch::Sender<String>,
) {
    while let Ok(Some(order)) = orders.message().await {
        let mut answers = Vec::new();
        match order.orders {
            Some(Orders::Anchors(anchors)) => {
                answers.push(Report::Anchored(Anchored { generation: anchors.generation, issuer }));
            }
            Some(Orders::Plans(plans)) => {
                for plan in plans.plans {
                    heard.send_replace(plan.hash.clone());
                    let (pipeline, hash) = (plan.pipeline.clone(), plan.hash);
                    answers.push(Report::Applied(Applied { pipeline: plan.pipeline, hash, error: None }));
                    answers.push(Report::Ready(Ready { pipeline, ready: true, ..Ready::default() }));
                }
            }
            Some(Orders::Pool(_)) => {}
            Some(Orders::Elsewhere(_)) | None => return,
        }
        for answer in answers {
            if say.send(answer.into()).await.is_err() {
                return;
            }
        }
    }
}

/// Makes the pod, which stays pending, and a token that is bound to it.
async fn token(client: &Client, namespace: &str, account: &str, pod: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let spec = json!({
        "metadata": {"name": pod},
        "spec": {"serviceAccountName": account, "containers": [{"name": "sidestream", "image": "none"}]},
    });
    let made = serde_json::from_value(spec).expect("a pod");
    let made = pods.create(&PostParams::default(), &made).await.expect("a pod");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.into()),
        uid: made.metadata.uid,
    };
    let audiences = vec![TOKEN_AUDIENCE.into()];
    let spec = TokenRequestSpec { audiences, bound_object_ref: Some(bound), ..TokenRequestSpec::default() };
    let asked = TokenRequest { spec, ..TokenRequest::default() };
    let answer =
        accounts.create_token_request(account, &PostParams::default(), &asked).await.expect("a token");
    answer.status.expect("a status").token
}

async fn channel(config: Arc<ClientConfig>) -> Channel {
    let connect = move |_| {
        let config = config.clone();
        async move {
            let socket = TcpStream::connect(CONTROL).await?;
            TlsConnector::from(config).connect(server_name(), socket).await.map(TokioIo::new)
        }
    };
    let endpoint = Endpoint::from_static("http://operator");
    endpoint.connect_with_connector(tower::service_fn(connect)).await.expect("the operator answers")
}
