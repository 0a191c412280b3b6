//! What DNS may say, and what an edge makes of it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use sidestream_edge::{Dns, Place, Resolve};
use tokio::net::UdpSocket;

/// What a server answers to a question.
#[derive(Clone)]
enum Answer {
    Records { answers: Vec<Record>, additionals: Vec<Record> },
    Failure(ResponseCode),
    Silence,
}

/// A DNS server on loopback with a few answers; everything else does not exist.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<(String, RecordType), Answer>>>,
}

impl Server {
    async fn start() -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let answers: Arc<Mutex<HashMap<(String, RecordType), Answer>>> = Arc::default();
        let known = answers.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let mut message = Message::from_vec(&buffer[..length]).unwrap();
                let question = &message.queries[0];
                let key = (question.name().to_string(), question.query_type());
                let answer = known.lock().unwrap().get(&key).cloned();
                message.metadata.message_type = MessageType::Response;
                match answer.unwrap_or(Answer::Failure(ResponseCode::NXDomain)) {
                    Answer::Records { answers, additionals } => {
                        (message.answers, message.additionals) = (answers, additionals);
                    }
                    Answer::Failure(code) => message.metadata.response_code = code,
                    Answer::Silence => continue,
                }
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Server { address, answers }
    }

    fn says(&self, name: &str, kind: RecordType, answer: Answer) {
        self.answers.lock().unwrap().insert((name.to_owned(), kind), answer);
    }

    fn dns(&self) -> Dns {
        Dns::at(self.address, "example.org")
    }
}

fn records(answers: Vec<Record>) -> Answer {
    Answer::Records { answers, additionals: Vec::new() }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, last: u8) -> Record {
    Record::from_rdata(name(owner), 5, RData::A(Ipv4Addr::new(10, 0, 0, last).into()))
}

fn srv(target: &str, port: u16) -> Record {
    Record::from_rdata(name(SRV_NAME), 5, RData::SRV(SRV::new(0, 50, port, name(target))))
}

fn at(last: u8, port: u16) -> Place {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port).into()
}

const SERVICE: &str = "hub-spl.shop.svc";
const FULL: &str = "hub-spl.shop.svc.example.org.";
const SRV_NAME: &str = "_sidestream-edge._tcp.hub-spl.shop.svc.example.org.";

#[tokio::test]
async fn the_records_of_the_named_port_say_address_and_port() {
    let server = Server::start().await;
    let targets = ["10-0-0-1.hub-spl.shop.svc.example.org.", "10-0-0-2.hub-spl.shop.svc.example.org."];
    server.says(
        SRV_NAME,
        RecordType::SRV,
        Answer::Records {
            answers: vec![srv(targets[0], 7443), srv(targets[1], 9000)],
            additionals: vec![a(targets[0], 1)],
        },
    );
    // The second comes without its address, which is asked for.
    server.says(targets[1], RecordType::A, records(vec![a(targets[1], 2)]));
    assert_eq!(server.dns().resolve(SERVICE).await.unwrap(), [at(1, 7443), at(2, 9000)]);
}

#[tokio::test]
async fn the_pods_of_a_stateful_set_are_known_by_their_numbers() {
    let server = Server::start().await;
    let targets = ["hub-spl-1.hub-spl.shop.svc.example.org.", "hub-spl-0.hub-spl.shop.svc.example.org."];
    let answers = targets.iter().map(|target| srv(target, 7443)).collect();
    let additionals = vec![a(targets[0], 1), a(targets[1], 2)];
    server.says(SRV_NAME, RecordType::SRV, Answer::Records { answers, additionals });
    let numbered = |place: Place, ordinal| Place { ordinal: Some(ordinal), ..place };
    let found = server.dns().resolve(SERVICE).await.unwrap();
    assert_eq!(found, [numbered(at(1, 7443), 1), numbered(at(2, 7443), 0)]);
}

#[tokio::test]
async fn without_a_named_port_the_addresses_of_the_service_serve_with_the_usual_port() {
    let server = Server::start().await;
    server.says(FULL, RecordType::A, records(vec![a(FULL, 1), a(FULL, 2)]));
    let mut found = server.dns().resolve(SERVICE).await.unwrap();
    found.sort_unstable();
    assert_eq!(found, [at(1, 7443), at(2, 7443)]);
}

#[tokio::test]
async fn a_service_without_pods_or_without_a_name_is_an_empty_answer() {
    let server = Server::start().await;
    assert_eq!(server.dns().resolve(SERVICE).await.unwrap(), []);
    server.says(SRV_NAME, RecordType::SRV, records(Vec::new()));
    server.says(FULL, RecordType::A, records(Vec::new()));
    assert_eq!(server.dns().resolve(SERVICE).await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_fails_or_is_silent_gives_no_answer_and_is_asked_again() {
    let server = Server::start().await;
    let dns = server.dns();
    for trouble in [Answer::Failure(ResponseCode::ServFail), Answer::Silence] {
        for kind in [RecordType::SRV, RecordType::A, RecordType::AAAA] {
            server.says(SRV_NAME, kind, trouble.clone());
            server.says(FULL, kind, trouble.clone());
        }
        assert!(dns.resolve(SERVICE).await.is_err());
    }
    server.says(SRV_NAME, RecordType::SRV, Answer::Failure(ResponseCode::NXDomain));
    server.says(FULL, RecordType::AAAA, records(Vec::new()));
    server.says(FULL, RecordType::A, records(vec![a(FULL, 3)]));
    assert_eq!(dns.resolve(SERVICE).await.unwrap(), [at(3, 7443)]);
}

#[tokio::test]
async fn a_forged_answer_of_a_thousand_records_is_cut_short() {
    let server = Server::start().await;
    let dns = server.dns();
    let many = (0..1000u32).map(|n| {
        let ip = Ipv4Addr::from((10u32 << 24) + n);
        Record::from_rdata(name(FULL), 5, RData::A(ip.into()))
    });
    server.says(FULL, RecordType::A, records(many.collect()));
    assert!(dns.resolve(SERVICE).await.unwrap().len() <= 256);
}
