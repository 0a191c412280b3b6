//! A dnpipe that another server of the pool has: every door says who that is, and a client goes there by itself.

mod world;

use std::{future::Future, time::Duration};

use sidestream_broker::{
    Broker, Copied, DnpipeSpec, Frozen, HOLD, MoveError, Owner,
    access::{Rule, Verbs},
};
use sidestream_client::{
    Bytes, Client, ClientConfig, ClientError, From, MoveRequest, ProducerConfig, ReaderConfig, Record,
    Refusal,
};
use sidestream_event::native::DnpipeName;
use sidestream_gateway::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use world::{World, world};

fn far() -> DnpipeSpec {
    let verbs = Verbs { push: true, pull: true, reset: true };
    let clerk = Rule { verbs, namespace: None, service_account: Some("clerk".into()) };
    DnpipeSpec { partitions: 2, access: vec![clerk], ..DnpipeSpec::new("shop/far".parse().unwrap()) }
}

/// A server that knows of `shop/far`, and that server 1 has it.
async fn with_far(owner: &str) -> World {
    let world = world(Limits::default()).await;
    world.broker.name_servers(["here:7420".to_owned(), owner.to_owned()]);
    world.broker.place_elsewhere(&far().name, 1, 1);
    world.apply(far()).await;
    world
}

/// Of a request over HTTP: the status and the body.
async fn http(world: &World, method: &str, path: &str) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_says_which_server_has_it_to_those_who_may_know() {
    let world = with_far("there:7420").await;
    let address = world.listen().await;
    let impatient = |mut client: Client| {
        let config = ClientConfig { patience: Duration::ZERO, ..ClientConfig::default() };
        client = Client::new(client.address().clone(), config);
        client
    };
    let clerk = impatient(world.peer(address, "shop", "clerk"));
    let not_owner = ClientError::Refused(Refusal::NotOwner { owner: Some("there:7420".into()) });
    assert_eq!(clerk.reset("shop/far").await, Err(not_owner.clone()));
    let refused = impatient(world.peer(address, "shop", "clerk")).groups("shop/far").await;
    assert_eq!(refused.err(), Some(not_owner.clone()));
    let refused = impatient(world.peer(address, "shop", "clerk")).describe("shop/far").await;
    assert_eq!(refused.err(), Some(not_owner), "what describes it names its server, which is asked");
    let till = impatient(world.peer(address, "shop", "till"));
    let refused = till.reset("shop/far").await;
    assert!(matches!(refused, Err(ClientError::Refused(Refusal::NotAllowed { .. }))), "{refused:?}");

    let (status, body) = http(&world, "GET", "/v1/dnpipes/shop/far/records").await;
    assert_eq!((status, &body["code"], &body["owner"]), (421, &"not-owner".into(), &"there:7420".into()));
    let (status, _) = http(&world, "POST", "/v1/dnpipes/shop/far/reset").await;
    assert_eq!(status, 421);
    assert_eq!(http(&world, "GET", "/v1/dnpipes/shop/notes/records").await.0, 200);
    let (_, all) = http(&world, "GET", "/v1/dnpipes").await;
    let named = |name: &str| all.as_array().unwrap().iter().find(|own| own["name"] == name).unwrap().clone();
    assert_eq!(named("far")["partitions"][1]["owner"], "there:7420");
    assert_eq!(named("notes")["partitions"][0].get("owner"), None);
}

/// The server that a dnpipe comes from, in this process.
struct Near<'a>(&'a Broker);

impl Owner for Near<'_> {
    fn copy_out(
        &self,
        name: &DnpipeName,
        partition: u32,
        from: Option<u64>,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Copied, MoveError>> + Send {
        self.0.copy_out(name, partition, from, max_bytes)
    }

    fn freeze(&self, name: &DnpipeName, to: u32) -> impl Future<Output = Result<Frozen, MoveError>> + Send {
        self.0.freeze(name, to, HOLD)
    }

    async fn frozen_state(
        &self,
        name: &DnpipeName,
        token: u64,
        from: u64,
        max_bytes: usize,
    ) -> Result<Bytes, MoveError> {
        self.0.frozen_state(name, token, from, max_bytes)
    }

    fn release(
        &self,
        name: &DnpipeName,
        token: u64,
        to: u32,
    ) -> impl Future<Output = Result<(), MoveError>> + Send {
        self.0.release(name, token, to)
    }

    async fn thaw(&self, name: &DnpipeName, token: u64) -> Result<(), MoveError> {
        self.0.thaw(name, token).await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_where_it_came_to_waits_for_what_was_handed_out_where_it_was() {
    let there = world(Limits::default()).await;
    let here = with_far("there:7420").await;
    there.apply(far()).await;
    let name = far().name;
    let producer = there.local().producer("shop/far", ProducerConfig::default()).await.unwrap();
    for number in 0..100 {
        drop(producer.push(Record::new(number.to_string())).await.unwrap());
    }
    producer.flush().await.unwrap();
    let follow = ReaderConfig { follow: true, ..ReaderConfig::default() };
    let mut reader = there.local().reader("shop/far", From::First(0), follow).await.unwrap();
    reader.next().await.unwrap().expect("it has fetched more than it hands out");
    here.broker.bring(&name, 2, 0, 1, &Near(&there.broker)).await.unwrap();
    assert_eq!(here.local().reset("shop/far").await, Ok(1));
    assert_eq!(reader.ready(), None, "nothing older is handed out anywhere");
    assert!(here.broker.here_for(&name).unwrap() >= Duration::from_millis(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_servers_of_the_pool_may_have_it_stand_still() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let freeze = || MoveRequest::Freeze { dnpipe: "shop/notes".parse().unwrap(), to: 1 };
    let refused = world.peer(address, "shop", "clerk").move_step(freeze()).await;
    assert!(matches!(refused, Err(ClientError::Refused(Refusal::NotAllowed { .. }))), "{refused:?}");
    world.peer(address, "shop", "dnpipes").move_step(freeze()).await.expect("they are who this one is");
}
