//! A member of a group that is one for as long as its stream lasts.

use std::time::Duration;

use sidestream_gateway::proto::{self, consume_request};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::dial::Dnpipes;

const NOTES: &str = "shop/notes";
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

/// A member on a stream, and what it says.
pub(crate) struct Member {
    pub(crate) says: mpsc::Sender<proto::ConsumeRequest>,
    pub(crate) told: Streaming<proto::ConsumeResponse>,
}

impl Member {
    pub(crate) async fn begin(
        client: &mut Dnpipes,
        name: &str,
        delivery: proto::Delivery,
        credit: Option<proto::Credit>,
    ) -> Member {
        Member::of(NOTES, client, name, delivery, credit).await
    }

    pub(crate) async fn of(
        dnpipe: &str,
        client: &mut Dnpipes,
        name: &str,
        delivery: proto::Delivery,
        credit: Option<proto::Credit>,
    ) -> Member {
        let member = proto::Member { dnpipe: dnpipe.into(), group: "billing".into(), name: name.into() };
        let begin = consume_request::Begin { member: Some(member), delivery: delivery.into(), credit };
        let (says, said) = mpsc::channel(16);
        let request = Some(consume_request::Request::Begin(begin));
        says.send(proto::ConsumeRequest { request }).await.unwrap();
        let told = client.consume(ReceiverStream::new(said)).await.unwrap().into_inner();
        Member { says, told }
    }

    pub(crate) async fn say(&self, request: consume_request::Request) {
        self.says.send(proto::ConsumeRequest { request: Some(request) }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> proto::ConsumeResponse {
        timeout(LONG, self.told.message()).await.expect("it comes").unwrap().expect("it goes on")
    }

    /// That many records, each with the number of its delivery.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<(u64, u32)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let shares = self.next().await.shares;
            taken.extend(
                shares.into_iter().flat_map(|share| share.records).map(|own| (own.offset, own.delivery)),
            );
        }
        taken
    }
}
