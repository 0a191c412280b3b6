//! One question over HTTP/1.1, on a connection of its own.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use sidestream_sidecar::observe::Snapshot;

/// The figures of the process that serves at `address`.
pub(super) fn snapshot(address: &str) -> io::Result<Snapshot> {
    let body = get(address, "/stages")?;
    serde_json::from_slice(&body)
        .map_err(|_| io::Error::other("what answers there is no sidestream of this version"))
}

/// The body of `path`.
fn get(address: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // The connection ends with the answer, so that reading to its end is reading all of it.
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    body_of(&answer)
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the address names no machine");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn body_of(answer: &[u8]) -> io::Result<Vec<u8>> {
    let no_http = || io::Error::other("what answers there does not speak HTTP");
    let head_end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(no_http)?;
    let head = std::str::from_utf8(&answer[..head_end]).map_err(|_| no_http())?;
    let status = head.split(' ').nth(1).ok_or_else(no_http)?;
    if status != "200" {
        return Err(io::Error::other(format!("it answers with status {status}")));
    }
    Ok(answer[head_end + 4..].to_vec())
}

const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_is_well_has_a_body() {
        assert_eq!(body_of(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{}").unwrap(), b"{}");
        assert!(body_of(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().to_string().contains("404"));
        assert!(body_of(b"SSH-2.0").unwrap_err().to_string().contains("HTTP"));
    }
}
