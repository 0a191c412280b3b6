//! A pod with a sidecar, and what its app does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::Value;
use sidestream_client::{
    Address, Client, ClientConfig, ClientError, From, ProducerConfig, ReaderConfig, Record,
};
use sidestream_sidecar::{AppSocket, Sidecar};
use sidestream_trust::Identity;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Handle,
    time::{sleep, timeout},
};

use crate::{
    servers::{SOON, Servers},
    world,
};

/// A pod of the namespace `shop`: its sidecar, and the volume with the socket.
pub(crate) struct Pod {
    pub(crate) volume: TempDir,
    pub(crate) socket: Option<AppSocket>,
    pub(crate) sidecar: Sidecar,
}

impl Pod {
    /// One that has no certificate yet.
    pub(crate) fn start(pools: &[&str]) -> Pod {
        let (volume, sidecar) = (tempfile::tempdir().unwrap(), world::sidecar());
        let path = volume.path().join("sidestream.sock");
        let socket = AppSocket::open(sidecar.world(), &path, "shop", pools).unwrap();
        Pod { volume, socket: Some(socket), sidecar }
    }

    /// One that is `identity` to the pool `default`, whose servers these are: it knows the first of them.
    pub(crate) fn of(servers: &Servers, identity: Identity) -> Pod {
        let pod = Pod::start(&[]);
        pod.enrol(servers, identity);
        pod
    }

    pub(crate) fn enrol(&self, servers: &Servers, identity: Identity) {
        let host = servers.address(0);
        self.sidecar.world().use_pools(Arc::new(move |_, pool| {
            assert_eq!(pool, "default");
            Ok(peer(&host, &identity))
        }));
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.volume.path().join("sidestream.sock")
    }

    pub(crate) fn client(&self, patience: Duration) -> Client {
        Client::new(Address::Local(self.path()), ClientConfig { patience, ..ClientConfig::default() })
    }

    pub(crate) fn sockets(&self) -> &Handle {
        self.sidecar.world().sockets()
    }

    /// Of a request over HTTP: the status and the body, when somebody could be asked.
    pub(crate) async fn http(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        loop {
            let (status, answer) = self.http_now(method, path, body).await;
            // A slow machine, or a dnpipe on its way: nothing was done.
            if status != 503 {
                assert!(
                    !answer.to_string().contains("127.1."),
                    "an address is of no use to the app: {answer}"
                );
                return (status, answer);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same, whoever can be asked.
    pub(crate) async fn http_now(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        loop {
            let mut stream = UnixStream::connect(self.path()).await.unwrap();
            // Where the greeting took too long, there is no answer.
            let (sent, mut answer) = (stream.write_all(request.as_bytes()).await, String::new());
            if sent.is_ok() && stream.read_to_string(&mut answer).await.is_ok_and(|count| count > 0) {
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                return (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default());
            }
        }
    }

    /// What becomes of a question that is asked once.
    pub(crate) fn asked(&self) -> Result<(), ClientError> {
        loop {
            let asked = self.run(self.client(Duration::ZERO).describe("shop/orders"));
            match asked.map(|_| ()) {
                // The machine is so slow that not even the socket answers in time.
                Err(ClientError::Lost(_) | ClientError::Silent { .. } | ClientError::Unreachable { .. }) => {}
                asked => return asked,
            }
        }
    }

    /// Does something to its end on the runtime, within the time that it may take on a machine that has much else to do.
    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.sockets().block_on(async { timeout(SOON, work).await.expect("in time") })
    }
}

pub(crate) fn peer(host: &str, identity: &Identity) -> Address {
    let (host, identity) = (host.to_owned(), identity.clone());
    Address::Peer { host, identity, expected: Servers::id("dnpipes-default") }
}

/// `orders` is with the first of two servers, everything else with the second.
pub(crate) fn apart(name: &str) -> u32 {
    u32::from(name != "orders")
}

pub(crate) async fn push(client: &Client, dnpipe: &str, values: std::ops::Range<u32>) {
    let producer = client.producer(dnpipe, ProducerConfig::default()).await.expect("a producer");
    for value in values {
        let promise = producer.push_to(0, Record::new(value.to_string())).await.expect("taken in");
        promise.await.expect("acknowledged");
    }
}

pub(crate) async fn pull(client: &Client, dnpipe: &str) -> Vec<String> {
    let mut reader = client.reader(dnpipe, From::First(0), ReaderConfig::default()).await.expect("a reader");
    let mut values = Vec::new();
    while let Some(record) = reader.next().await.expect("pulled") {
        values.push(String::from_utf8(record.value.to_vec()).unwrap());
    }
    values
}

pub(crate) fn texts(values: std::ops::Range<u32>) -> Vec<String> {
    values.map(|value| value.to_string()).collect()
}

pub(crate) async fn read_some(stream: &mut UnixStream, text: &mut String) {
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).await.unwrap();
    assert!(count > 0, "it was closed: {text}");
    text.push_str(&String::from_utf8_lossy(&bytes[..count]));
}
