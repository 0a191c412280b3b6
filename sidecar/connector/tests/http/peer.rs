//! A peer on the loopback that does what a script says, byte by byte, and remembers what it was asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the peer does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with this status and body, and closes.
    Answer(u16, &'static str),
    /// Answers with these headers too.
    With(u16, &'static str, &'static str),
    /// Writes these bytes and closes.
    Raw(Vec<u8>),
    /// Writes these bytes again and again until the other side has had enough.
    Endless(&'static str, Vec<u8>),
    /// Closes at once, with a reset.
    Reset,
    /// Takes the request and says nothing.
    Silence,
}

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: String,
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Peer {
    /// A peer that acts by `script`, and after its end by the last act of it.
    pub(crate) async fn new(script: impl IntoIterator<Item = Act>) -> Self {
        Self::at("127.0.0.1:0", script).await
    }

    pub(crate) async fn at(address: &str, script: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, script.clone(), heard.clone()));
            }
        });
        Self { address, asked, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn bodies(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.body).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, script: Arc<Mutex<VecDeque<Act>>>, heard: Arc<Mutex<Vec<Asked>>>) {
    let Some(asked) = read_message(&mut socket).await else {
        return;
    };
    heard.lock().unwrap().push(asked);
    let act = {
        let mut script = script.lock().unwrap();
        if script.len() > 1 { script.pop_front().unwrap() } else { script[0].clone() }
    };
    let _ = match act {
        Act::Answer(status, body) => socket.write_all(answer(status, "", body).as_bytes()).await,
        Act::With(status, headers, body) => socket.write_all(answer(status, headers, body).as_bytes()).await,
        Act::Raw(bytes) => socket.write_all(&bytes).await,
        Act::Endless(head, bytes) => {
            let mut written = socket.write_all(head.as_bytes()).await;
            while written.is_ok() {
                written = socket.write_all(&bytes).await;
            }
            written
        }
        Act::Reset => socket.set_zero_linger(),
        Act::Silence => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(())
        }
    };
    let _ = socket.shutdown().await;
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// One HTTP message with a content length, or with a body up to the end of the stream where it has none and is an answer.
pub(crate) async fn read_message(socket: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
            let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            while bytes.len() < end + 4 + length {
                let count = socket.read(&mut buffer).await.ok()?;
                if count == 0 {
                    return None;
                }
                bytes.extend_from_slice(&buffer[..count]);
            }
            let body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
            return Some(Asked { head, body });
        }
        let count = socket.read(&mut buffer).await.ok()?;
        if count == 0 {
            return None;
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// The value of a header in the head of a message.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Sends a request of one's own and gives the answer's status and all of it.
pub(crate) async fn request(address: SocketAddr, head: &str, body: &[u8]) -> (u16, Asked) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("{head}\r\nhost: here\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses by the head alone may close before the body is out.
    let _ = socket.write_all(body).await;
    let answer = read_message(&mut socket).await.expect("an answer");
    let status = answer.head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

/// A port nobody listens on, below those the system gives out by itself, so that it stays free until it is used.
pub(crate) fn free_port() -> u16 {
    static NEXT: Mutex<u16> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    loop {
        *next += 1;
        let port = 20_000 + (std::process::id() % 100) as u16 * 100 + *next;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
