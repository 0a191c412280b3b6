//! Both ends of the socket's conversations, frame by frame in the hands of a test.

use std::sync::Arc;

use sidestream_client::Address;
use sidestream_event::native::{Answer, Frames, PREAMBLE_BYTES, Preamble, Request, Verdict, write_frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use crate::pod::Pod;

/// A connection, byte by byte in the hands of the test.
pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    pub(crate) async fn open(pod: &Pod) -> (Raw, Verdict) {
        loop {
            let mut stream = UnixStream::connect(pod.path()).await.unwrap();
            let sent = stream.write_all(&Preamble { oldest: 1, newest: 1 }.write()).await;
            let mut verdict = [0; PREAMBLE_BYTES];
            // On a slow machine a greeting may take longer than is waited for.
            if sent.is_ok() && stream.read_exact(&mut verdict).await.is_ok() {
                return (Raw(stream), Verdict::read(&verdict).unwrap());
            }
        }
    }

    pub(crate) async fn ask(&mut self, number: u32, request: &Request) {
        let mut out = Vec::new();
        write_frame(number, request, 0, &mut out).unwrap();
        self.0.write_all(&out).await.unwrap();
    }

    /// The next answers.
    pub(crate) async fn answers(&mut self, count: usize) -> Vec<(u32, Answer)> {
        let (mut frames, mut answers) = (Frames::default(), Vec::new());
        while answers.len() < count {
            match frames.next_frame().unwrap() {
                Some(frame) => answers.push((frame.request, frame.read().unwrap())),
                None => assert!(self.0.read_buf(frames.buffer()).await.unwrap() > 0, "it was closed"),
            }
        }
        answers
    }

    /// Waits until the other end closes it.
    pub(crate) async fn closed(&mut self) {
        let mut sink = [0; 4096];
        while !matches!(self.0.read(&mut sink).await, Ok(0) | Err(_)) {}
    }
}

/// A server in the hands of the test, to which a pod has a line.
pub(crate) struct Scripted {
    pub(crate) stream: UnixStream,
    frames: Frames,
}

impl Scripted {
    /// A pod whose only server this is to be, and where that listens.
    pub(crate) fn pod() -> (Pod, UnixListener) {
        let pod = Pod::start(&[]);
        let at = pod.volume.path().join("server.sock");
        let listener = pod.run(async { UnixListener::bind(&at).unwrap() });
        pod.sidecar.world().use_pools(Arc::new(move |_, _| Ok(Address::Local(at.clone()))));
        (pod, listener)
    }

    pub(crate) async fn accept(listener: &UnixListener) -> Scripted {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut preamble = [0; PREAMBLE_BYTES];
        stream.read_exact(&mut preamble).await.unwrap();
        stream.write_all(&Verdict::Welcome { version: 1 }.write()).await.unwrap();
        Scripted { stream, frames: Frames::default() }
    }

    pub(crate) async fn asked(&mut self) -> (u32, Request) {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return (frame.request, frame.read().unwrap());
            }
            assert!(self.stream.read_buf(self.frames.buffer()).await.unwrap() > 0, "the line has ended");
        }
    }

    pub(crate) async fn answer(&mut self, number: u32, answer: &Answer) {
        let mut out = Vec::new();
        write_frame(number, answer, 0, &mut out).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }
}
