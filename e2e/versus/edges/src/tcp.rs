//! Plain TCP with threads that block: a frame is its length, when it was due, and the events end to end. What the machine
//! itself can do.

use std::{
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use bytes::Bytes;

use crate::{Arrive, Frame, PAYLOAD, Push};

pub(crate) fn start(hops: usize, arrive: Arrive) -> Push {
    let (mut to, last) = listen();
    thread::spawn(move || receive(last.accept().expect("a caller").0, &arrive));
    for _ in 1..hops {
        let (address, relay) = listen();
        let mut next = connect(to);
        thread::spawn(move || pass(relay.accept().expect("a caller").0, &mut next));
        to = address;
    }
    let mut first = connect(to);
    let mut text = Vec::new();
    Box::new(move |frame| {
        text.clear();
        text.extend((frame.events.len() as u32).to_le_bytes());
        text.extend(frame.due.to_le_bytes());
        frame.events.iter().for_each(|event| text.extend(&event[..]));
        first.write_all(&text).expect("it takes all");
    })
}

fn listen() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    (listener.local_addr().expect("an address").to_string(), listener)
}

fn connect(address: String) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// In the middle: bytes as they come.
fn pass(mut from: TcpStream, to: &mut TcpStream) {
    let mut some = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut some) {
        to.write_all(&some[..length]).expect("it takes all");
    }
}

fn receive(from: TcpStream, arrive: &Arrive) {
    let mut from = BufReader::with_capacity(64 << 10, from);
    let mut head = [0; 12];
    while from.read_exact(&mut head).is_ok() {
        let (count, due) = head.split_at(4);
        let count = u32::from_le_bytes(count.try_into().expect("four bytes")) as usize;
        let due = u64::from_le_bytes(due.try_into().expect("eight bytes"));
        let mut text = vec![0; count * PAYLOAD];
        from.read_exact(&mut text).expect("the rest");
        let text = Bytes::from(text);
        let events = (0..count).map(|event| text.slice(event * PAYLOAD..(event + 1) * PAYLOAD)).collect();
        arrive(Frame { due, events });
    }
}
