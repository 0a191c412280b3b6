//! Who is let in, by name, and what becomes of who is not.

mod world;

use sidestream_broker::access::{Rule, Verbs};
use sidestream_client::{
    Address, Client, ClientConfig, ClientError, From, ProducerConfig, ReaderConfig, Record, Refusal,
};
use sidestream_gateway::Limits;
use sidestream_host::Clock;
use sidestream_trust::{Authority, Identity};
use world::{DAY, World, world};

fn refused(error: &ClientError) -> String {
    match error {
        ClientError::Refused(refusal) => refusal.code().to_owned(),
        other => other.to_string(),
    }
}

async fn push(client: &Client, dnpipe: &str) -> Result<u64, ClientError> {
    let producer = client.producer(dnpipe, ProducerConfig::default()).await?;
    Ok(producer.push(Record::new("x")).await?.await?.offset)
}

async fn pull(client: &Client, dnpipe: &str) -> Result<usize, ClientError> {
    let mut reader = client.reader(dnpipe, From::First(0), ReaderConfig::default()).await?;
    let mut count = 0;
    while reader.next().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rules_a_dnpipe_is_its_namespaces_own() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let own = world.peer(address, "shop", "till");
    assert_eq!(push(&own, "shop/notes").await, Ok(0));
    assert_eq!(pull(&own, "shop/notes").await, Ok(1));
    assert_eq!(own.list().await.unwrap().len(), 2);
    let foreign = world.peer(address, "web", "till");
    for error in
        [push(&foreign, "shop/notes").await.unwrap_err(), pull(&foreign, "shop/notes").await.unwrap_err()]
    {
        assert_eq!(refused(&error), "not-allowed");
        assert!(error.to_string().contains("spiffe://cluster.local/ns/web/sa/till"), "{error}");
    }
    assert_eq!(refused(&foreign.reset("shop/notes").await.unwrap_err()), "not-allowed");
    assert_eq!(refused(&foreign.verify(None).await.unwrap_err()), "not-allowed");
    assert!(foreign.list().await.unwrap().is_empty(), "it sees none that it may not use");
    assert_eq!(pull(&own, "shop/notes").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_let_exactly_whom_they_name_do_exactly_what_they_say() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let rule = |verbs, account: &str| Rule {
        verbs,
        namespace: Some("web".into()),
        service_account: Some(account.into()),
    };
    let (push_only, pull_only) = (Verbs { push: true, ..Verbs::NONE }, Verbs { pull: true, ..Verbs::NONE });
    world.permit("shop/notes", vec![rule(push_only, "front"), rule(pull_only, "audit")]).await;
    let (front, audit) = (world.peer(address, "web", "front"), world.peer(address, "web", "audit"));
    assert_eq!(push(&front, "shop/notes").await, Ok(0));
    assert_eq!(refused(&pull(&front, "shop/notes").await.unwrap_err()), "not-allowed");
    assert_eq!(pull(&audit, "shop/notes").await, Ok(1));
    assert_eq!(refused(&push(&audit, "shop/notes").await.unwrap_err()), "not-allowed");
    for client in [&front, &audit] {
        assert_eq!(refused(&client.reset("shop/notes").await.unwrap_err()), "not-allowed");
    }
    assert_eq!(
        refused(&audit.join("shop/orders", "g", Default::default()).await.err().unwrap()),
        "not-allowed"
    );
    // With rules, its own namespace is let in no more than they say.
    assert_eq!(
        refused(&push(&world.peer(address, "shop", "till"), "shop/notes").await.unwrap_err()),
        "not-allowed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_is_taken_away_counts_on_connections_that_are_open() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let client = world.peer(address, "shop", "till");
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    producer.push(Record::new("x")).await.unwrap().await.unwrap();
    let nobody = Rule { verbs: Verbs::NONE, namespace: None, service_account: None };
    world.permit("shop/notes", vec![nobody]).await;
    let error = producer.push(Record::new("x")).await.unwrap().await.unwrap_err();
    assert_eq!(refused(&error), "not-allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_opens_nothing_on_either_side() {
    let world = world(Limits::default()).await;
    let address = world.listen().await;
    let clock = Clock::machine();
    let other = Authority::create("cluster.local", &clock).unwrap();
    let identity = Identity::new(other.credentials(&World::id("shop", "till"), &[], DAY).unwrap(), &clock);
    let expected = World::id("shop", "dnpipes");
    let stranger = Client::new(
        Address::Peer { host: address.to_string(), identity, expected },
        ClientConfig { patience: std::time::Duration::ZERO, ..ClientConfig::default() },
    );
    assert!(matches!(stranger.list().await, Err(ClientError::NotTrusted(_))));
    // The right authority, and another name than the one that is expected.
    let (host, identity) = (address.to_string(), world.identity("shop", "till"));
    let expected = World::id("shop", "somebody");
    let client = Client::new(Address::Peer { host, identity, expected }, ClientConfig::default());
    let error = client.list().await.unwrap_err();
    assert!(matches!(&error, ClientError::NotTrusted(reason) if reason.contains("dnpipes")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_by_its_name() {
    let world = world(Limits::default()).await;
    let client = world.local();
    let error = client.describe("shop/none").await.unwrap_err();
    assert_eq!(error, ClientError::Refused(Refusal::UnknownDnpipe("shop/none".parse().unwrap())));
    assert!(matches!(client.describe("Shop/None").await, Err(ClientError::Name(_))));
    let error = client.seek("shop/notes", "none", None, From::First(0)).await.unwrap_err();
    assert_eq!(refused(&error), "unknown-group");
    let producer = client.producer("shop/notes", ProducerConfig::default()).await.unwrap();
    let error = producer.push_to(7, Record::new("x")).await.unwrap().await.unwrap_err();
    assert_eq!(refused(&error), "unknown-partition");
}
