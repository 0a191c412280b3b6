//! A sidecar and an operator over one pipe: what is sent is what arrives.

use std::pin::Pin;

use hyper_util::rt::TokioIo;
use prost::Message;
use sidestream_control::{
    Anchors, Applied, Hello, Orders, Plan, Plans, Report, SidecarOrders, SidecarReport, Suspend, Sync,
    SyncClient, SyncServer,
};
use sidestream_plan::{
    Delivery, Input, Kind, Latency, OnError, PLAN_VERSION, Priority, Run, Sink, Source, Stage,
    stage::{Blackhole, Generator},
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Endpoint};

fn plan() -> sidestream_plan::Plan {
    let stage = |name: &str, from: Vec<usize>, kind| Stage {
        name: name.into(),
        from,
        when: None,
        otherwise: false,
        priority: Priority::Normal,
        input: Input::default(),
        on_error: OnError::default(),
        kind,
    };
    sidestream_plan::Plan {
        version: PLAN_VERSION,
        pipeline: "shop/hello".into(),
        kinds: vec!["sink/blackhole".into(), "source/generator".into()],
        latency: Latency::Park,
        delivery: Delivery::default(),
        stages: vec![
            stage("tick", vec![], Kind::Source(Source::Generator(Generator::default()))),
            stage("drop", vec![0], Kind::Sink(Sink::Blackhole(Blackhole::default()))),
        ],
        runs: vec![Run { stages: vec![0] }, Run { stages: vec![1] }],
    }
}

/// Sends one plan, and then back as orders whatever pipeline and hash it is told of.
struct Operator;

#[tonic::async_trait]
impl Sync for Operator {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<SidecarOrders, Status>> + Send>>;

    async fn sync(
        &self,
        reports: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let orders = reports.into_inner().map(|report| match report?.report {
            Some(Report::Hello(hello)) => {
                assert_eq!(hello.kinds, ["source/generator"]);
                Ok(Orders::Plans(Plans { plans: vec![Plan::wrap(&plan(), "h1", "main", Suspend::Run)] })
                    .into())
            }
            Some(Report::Applied(applied)) => {
                Ok(Orders::Anchors(Anchors { generation: 7, der: vec![applied.hash.into()], issuer: 1 })
                    .into())
            }
            other => Err(Status::invalid_argument(format!("{other:?}"))),
        });
        Ok(Response::new(Box::pin(orders)))
    }
}

#[tokio::test]
async fn a_plan_goes_down_and_its_acknowledgement_comes_back_up() {
    let (near, far) = tokio::io::duplex(64 << 10);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(SyncServer::new(Operator))
            .serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(far))),
    );
    let mut near = Some(near);
    let channel = Endpoint::from_static("http://operator")
        .connect_with_connector(tower::service_fn(move |_| {
            let near = near.take();
            async { near.map(TokioIo::new).ok_or_else(|| std::io::Error::other("the one pipe is gone")) }
        }))
        .await
        .unwrap();

    let (say, reports) = mpsc::channel(4);
    let mut orders = SyncClient::new(channel).sync(ReceiverStream::new(reports)).await.unwrap().into_inner();
    let hello = Hello { pod: "p".into(), kinds: vec!["source/generator".into()], ..Hello::default() };
    say.send(Report::Hello(hello).into()).await.unwrap();
    let Some(Orders::Plans(plans)) = orders.message().await.unwrap().unwrap().orders else {
        panic!("no plans")
    };
    assert_eq!(plans.plans[0].unwrap().unwrap(), plan());

    let applied = Applied { pipeline: "shop/hello".into(), hash: plans.plans[0].hash.clone(), error: None };
    say.send(Report::Applied(applied).into()).await.unwrap();
    let Some(Orders::Anchors(anchors)) = orders.message().await.unwrap().unwrap().orders else {
        panic!("no anchors")
    };
    assert_eq!((anchors.generation, anchors.der), (7, vec![b"h1".to_vec()]));
}

#[test]
fn a_plan_of_a_later_version_is_refused_with_a_report() {
    let mut wrapped = Plan::wrap(&sidestream_plan::Plan { version: 99, ..plan() }, "h", "main", Suspend::Run);
    let refusal = wrapped.unwrap().unwrap_err().to_string();
    assert!(refusal.contains("of version 99") && refusal.contains("upgrade the sidecar"), "{refusal}");
    wrapped.body = br#"{"version": 1, "kinds": ["process/teleport"], "stages": 3}"#.to_vec();
    let refusal = wrapped.unwrap().unwrap_err().to_string();
    assert!(refusal.contains("process/teleport"), "{refusal}");
}

/// A plan as programs of 0.1.0 and before read and wrote it.
#[derive(Clone, PartialEq, prost::Message)]
struct Before {
    #[prost(string, tag = "1")]
    pipeline: String,
    #[prost(bool, tag = "5")]
    suspend: bool,
}

#[test]
fn what_stands_still_is_understood_across_one_version() {
    let read = |suspend| {
        let mut plan = Plan::wrap(&plan(), "h", "main", suspend);
        plan.closed = vec!["a->b".into()];
        Before::decode(plan.encode_to_vec().as_slice()).unwrap().suspend
    };
    // An older sidecar that is told to stop its sources stops everything: what it knows of standing still.
    assert_eq!([Suspend::Run, Suspend::Stop, Suspend::StopSources].map(read), [false, true, true]);
    let of_before = |suspend| {
        let before = Before { pipeline: "shop/hello".into(), suspend };
        Plan::decode(before.encode_to_vec().as_slice()).unwrap().stance()
    };
    assert_eq!([false, true].map(of_before), [Suspend::Run, Suspend::Stop]);
    assert_eq!(Plan { suspend: 9, ..Plan::default() }.stance(), Suspend::Stop);
}
