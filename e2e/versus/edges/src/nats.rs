//! NATS core over TLS: a subject for each hop, a message for each event, all of them through one server. What it cannot
//! deliver in time it drops, which is its promise.

use std::path::{Path, PathBuf};

use async_nats::{Client, ConnectOptions};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::{runtime::Runtime, sync::mpsc};

use crate::{Arrive, Frame, PAYLOAD, Push, runtime};

/// Frames between who hands them over and the client.
const WAITING_MAX: usize = 1024;

pub(crate) fn start(hops: usize, address: &str, certificates: &Path, arrive: Arrive) -> Push {
    // There is one way of each length.
    let subject = move |hop: usize| format!("versus.{}.{hops}.{hop}", std::process::id());
    let place = || connect(address, certificates.to_owned());

    let (last, client) = place();
    take(last, &client, subject(hops), move |message| {
        arrive(read(message));
        std::future::ready(())
    });
    for hop in (1..hops).rev() {
        let (middle, client) = place();
        let next = client.clone();
        take(middle, &client, subject(hop), move |message| {
            let (next, to) = (next.clone(), subject(hop + 1));
            async move { next.publish(to, message).await.expect("the server takes it") }
        });
    }
    let (first, client) = place();
    let (push, mut frames) = mpsc::channel::<Frame>(WAITING_MAX);
    std::thread::spawn(move || {
        first.block_on(async {
            while let Some(frame) = frames.recv().await {
                for event in frame.events {
                    let mut message = BytesMut::with_capacity(8 + PAYLOAD);
                    message.put_u64_le(frame.due);
                    message.put(event);
                    client.publish(subject(1), message.freeze()).await.expect("the server takes it");
                }
            }
        });
    });
    Box::new(move |frame| push.blocking_send(frame).expect("the client goes on"))
}

/// A client on a runtime of its own.
fn connect(address: &str, certificates: PathBuf) -> (Runtime, Client) {
    let runtime = runtime();
    let options = ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(certificates.join("ca.crt"))
        .add_client_certificate(certificates.join("own.crt"), certificates.join("own.key"));
    let client = runtime.block_on(options.connect(address)).expect("the server answers");
    (runtime, client)
}

/// Gives every message of a subject to `handle`, from the moment the server knows of it.
fn take<F: Future<Output = ()> + Send>(
    runtime: Runtime,
    client: &Client,
    subject: String,
    mut handle: impl FnMut(Bytes) -> F + Send + 'static,
) {
    let mut messages = runtime.block_on(async {
        let messages = client.subscribe(subject).await.expect("a subscription");
        client.flush().await.expect("the server knows of it");
        messages
    });
    std::thread::spawn(move || {
        runtime.block_on(async {
            while let Some(message) = messages.next().await {
                handle(message.payload).await;
            }
        });
    });
}

fn read(mut message: Bytes) -> Frame {
    let event = message.split_off(8);
    let due = u64::from_le_bytes(message[..].try_into().expect("eight bytes"));
    Frame { due, events: vec![event] }
}
