//! A sidecar and an operator over a real socket: TLS, a token that becomes a certificate, plans and acknowledgements.

mod world;

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde_json::{Value, json};
use sidestream_control::{
    Applied, CertifyClient, CertifyRequest, CertifyResponse, Hello, Orders, Plan, Report, SidecarReport,
    SyncClient,
};
use sidestream_host::Clock;
use sidestream_operator::{
    control::{self, Addressee, Certifier, Fleet, Syncer},
    lease::Leadership,
    metrics::Metrics,
    trust::{Roots, own_identity},
};
use sidestream_trust::{Anchors, Identity, Request, SpiffeId, anonymous_client_config, server_name};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use world::Server;

const POD: &str = "/api/v1/namespaces/shop/pods/hub-1";

/// An operator that listens.
struct Operator {
    address: std::net::SocketAddr,
    roots: watch::Sender<Arc<Roots>>,
    leadership: watch::Sender<Leadership>,
    fleet: Fleet,
    server: Server,
    clock: Clock,
}

fn operator_id() -> SpiffeId {
    SpiffeId::of_service_account("cluster.local", "sidestream-system", "sidestream-operator").unwrap()
}

impl Operator {
    async fn start() -> Self {
        let clock = Clock::machine();
        let roots = Roots::create("cluster.local", &clock).unwrap();
        let identity = own_identity(&roots, &operator_id(), &[], Duration::from_secs(3600), &clock).unwrap();
        let roots = watch::Sender::new(Arc::new(roots));
        let leadership = watch::Sender::new(Leadership::Own);
        let (fleet, server) = (Fleet::default(), Server::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let day = Duration::from_secs(86_400);
        let certifier =
            Certifier::new(server.client(), roots.subscribe(), day, clock.clone(), Metrics::default());
        let syncer = Syncer::new(fleet.clone(), roots.subscribe(), leadership.subscribe());
        tokio::spawn(async move {
            control::serve(listener, identity, certifier, syncer, std::future::pending()).await.unwrap();
        });
        let uid = json!({"metadata": {"name": "hub-1"}, "spec": {"serviceAccountName": "alarms-hub-spl"}, "status": {"phase": "Running"}});
        server.put(POD, uid);
        Self { address, roots, leadership, fleet, server, clock }
    }

    fn pod_uid(&self) -> String {
        self.server.get(POD).unwrap()["metadata"]["uid"].as_str().unwrap().into()
    }

    /// What the API server will say of any token.
    fn says(&self, audience: &str, extra: Value) {
        self.server.say_of_tokens(json!({
            "authenticated": true,
            "audiences": [audience],
            "user": {"username": "system:serviceaccount:shop:alarms-hub-spl", "extra": extra},
        }));
    }

    fn says_good(&self) {
        self.says("sidestream.dev", bound("hub-1", &self.pod_uid()));
    }

    fn anchors(&self) -> Anchors {
        self.roots.borrow().anchors.clone()
    }

    async fn channel(&self, config: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
        let address = self.address;
        let connect = move |_| {
            let config = config.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                TlsConnector::from(config).connect(server_name(), socket).await.map(TokioIo::new)
            }
        };
        Endpoint::from_static("http://operator").connect_with_connector(tower::service_fn(connect)).await
    }

    async fn nameless(&self) -> Channel {
        let config = anonymous_client_config(&self.anchors(), &operator_id(), &[b"h2"], &self.clock).unwrap();
        self.channel(config).await.unwrap()
    }

    async fn certify(&self, request: &Request, pod: &str) -> Result<CertifyResponse, Status> {
        let ask = CertifyRequest { csr_der: request.der().to_vec(), token: "token".into(), pod: pod.into() };
        Ok(CertifyClient::new(self.nameless().await).certify(ask).await?.into_inner())
    }

    async fn identity(&self) -> Identity {
        self.says_good();
        let request = Request::new().unwrap();
        let answer = self.certify(&request, "hub-1").await.unwrap();
        let chain = answer.chain_der.into_iter().map(Into::into).collect();
        let anchors = Anchors::new(answer.anchors_der.into_iter().map(Into::into)).unwrap();
        Identity::new(request.complete(chain, anchors).unwrap(), &self.clock)
    }
}

fn bound(pod: &str, uid: &str) -> Value {
    json!({"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]})
}

/// A session of a sidecar in pod `hub-1`.
struct Session {
    say: mpsc::Sender<SidecarReport>,
    orders: Streaming<sidestream_control::SidecarOrders>,
}

impl Session {
    async fn open(operator: &Operator, identity: &Identity) -> Self {
        let config = identity.client_config(&operator_id(), &[b"h2"]).unwrap();
        let channel = operator.channel(config).await.unwrap();
        let (say, reports) = mpsc::channel(8);
        let hello = Hello { pod: "hub-1".into(), namespace: "shop".into(), ..Hello::default() };
        say.send(Report::Hello(hello).into()).await.unwrap();
        let orders = SyncClient::new(channel).sync(ReceiverStream::new(reports)).await.unwrap().into_inner();
        Self { say, orders }
    }

    async fn next(&mut self) -> Option<Orders> {
        let next =
            tokio::time::timeout(Duration::from_secs(10), self.orders.message()).await.expect("no order");
        next.unwrap()?.orders
    }

    async fn plans(&mut self) -> Vec<Plan> {
        loop {
            match self.next().await {
                Some(Orders::Plans(plans)) => return plans.plans,
                Some(_) => {}
                None => panic!("the session has ended"),
            }
        }
    }
}

#[tokio::test]
async fn a_token_of_a_living_pod_becomes_a_certificate_with_names_that_the_operator_computes() {
    let operator = Operator::start().await;
    let identity = operator.identity().await;
    assert_eq!(identity.id().as_str(), "spiffe://cluster.local/ns/shop/sa/alarms-hub-spl");
    assert!((86_000..=86_400).contains(&identity.seconds_left()), "{}", identity.seconds_left());
}

#[tokio::test]
async fn a_token_that_proves_too_little_becomes_nothing() {
    let operator = Operator::start().await;
    let request = Request::new().unwrap();
    let refusal = async |expected: &str, pod: &str| {
        let refusal = operator.certify(&request, pod).await.unwrap_err();
        assert!(refusal.message().contains(expected), "{expected}: {refusal}");
    };
    operator.server.say_of_tokens(json!({"authenticated": false}));
    refusal("does not know the token", "hub-1").await;
    operator.says("https://kubernetes.default.svc", bound("hub-1", &operator.pod_uid()));
    refusal("not for the audience `sidestream.dev`", "hub-1").await;
    operator.says("sidestream.dev", json!({}));
    refusal("not bound to a pod", "hub-1").await;
    operator.says("sidestream.dev", bound("hub-1", "another"));
    refusal("is gone", "hub-1").await;
    operator.says("sidestream.dev", bound("hub-9", "u"));
    refusal("is gone", "hub-9").await;
    operator.says_good();
    refusal("bound to pod `hub-1`, not to `hub-2`", "hub-2").await;
    let mut pod = operator.server.get(POD).unwrap();
    pod["status"]["phase"] = "Succeeded".into();
    operator.server.put(POD, pod);
    refusal("has ended", "hub-1").await;
}

#[tokio::test]
async fn nobody_is_kept_up_to_date_without_a_certificate() {
    let operator = Operator::start().await;
    let (_say, reports) = mpsc::channel::<SidecarReport>(1);
    let refusal =
        SyncClient::new(operator.nameless().await).sync(ReceiverStream::new(reports)).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unauthenticated);
    assert!(refusal.message().contains("no certificate"), "{refusal}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_does_not_even_shake_hands() {
    let operator = Operator::start().await;
    let stranger = sidestream_trust::Authority::create("cluster.local", &operator.clock).unwrap();
    let id = SpiffeId::of_service_account("cluster.local", "shop", "alarms-hub-spl").unwrap();
    let own = stranger.credentials(&id, &[], Duration::from_secs(60)).unwrap();
    let identity = Identity::new(own, &operator.clock);
    identity.believe(operator.anchors());
    let config = identity.client_config(&operator_id(), &[b"h2"]).unwrap();
    let failed = match operator.channel(config).await {
        Err(_) => true,
        // In TLS 1.3 a client learns of its refusal with the first answer.
        Ok(channel) => {
            let (_say, reports) = mpsc::channel::<SidecarReport>(1);
            SyncClient::new(channel).sync(ReceiverStream::new(reports)).await.is_err()
        }
    };
    assert!(failed);
    assert_eq!(operator.fleet.connected(), 0);
}

#[tokio::test]
async fn a_plan_reaches_its_sidecar_within_a_second_and_is_acknowledged() {
    let operator = Operator::start().await;
    let mut session = Session::open(&operator, &operator.identity().await).await;
    assert!(matches!(session.next().await, Some(Orders::Anchors(_))));

    let account = ("shop".to_owned(), "alarms-hub-spl".to_owned());
    let whom = Addressee { account, pod: None };
    let plan =
        |hash: &str| Arc::new(Plan { pipeline: "shop/alarms".into(), hash: hash.into(), ..Plan::default() });
    operator.fleet.publish("shop/alarms", vec![(whom.clone(), plan("1"))]);
    operator.fleet.expect([]);
    assert_eq!(session.plans().await[0].hash, "1");
    let begun = operator.clock.now();
    operator.fleet.publish("shop/alarms", vec![(whom.clone(), plan("2"))]);
    assert_eq!(session.plans().await[0].hash, "2");
    assert!(operator.clock.now().since(begun) < Duration::from_secs(1));

    let applied = Applied { pipeline: "shop/alarms".into(), hash: "2".into(), error: None };
    session.say.send(Report::Applied(applied).into()).await.unwrap();
    assert_eq!(operator.fleet.stirred().await, ["shop/alarms"]);
    assert_eq!(operator.fleet.acknowledged(&[whom], "shop/alarms", "2").applied, 1);

    operator.fleet.publish("shop/alarms", vec![]);
    assert!(session.plans().await.is_empty(), "a sidecar that is not in the pipeline any more stops");
}

#[tokio::test]
async fn who_does_not_lead_says_who_does_and_ends_the_session() {
    let operator = Operator::start().await;
    let identity = operator.identity().await;
    let mut session = Session::open(&operator, &identity).await;
    assert!(matches!(session.next().await, Some(Orders::Anchors(_))));
    operator.leadership.send_replace(Leadership::Other("10.0.0.9:9443".into()));
    for mut session in [session, Session::open(&operator, &identity).await] {
        let Some(Orders::Elsewhere(elsewhere)) = session.next().await else { panic!("not sent elsewhere") };
        assert_eq!(elsewhere.address, "10.0.0.9:9443");
        assert!(session.next().await.is_none());
    }
}

#[tokio::test]
async fn new_roots_reach_a_sidecar_that_is_connected() {
    let operator = Operator::start().await;
    let mut session = Session::open(&operator, &operator.identity().await).await;
    assert!(matches!(session.next().await, Some(Orders::Anchors(_))));
    let mut roots = Roots::create("cluster.local", &operator.clock).unwrap();
    roots.generation = 2;
    operator.roots.send_replace(Arc::new(roots));
    let Some(Orders::Anchors(anchors)) = session.next().await else { panic!("no anchors") };
    assert_eq!(anchors.generation, 2);
}
