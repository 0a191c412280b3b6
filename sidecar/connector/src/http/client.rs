//! One endpoint that is asked over HTTP/1.1, in the clear or over TLS.
//!
//! ```text
//!   Endpoint ── request, bearer token ──▶ peer
//!            ◀── 2xx: the body, at most `limit` bytes ── or Trouble: the URL, what happened, the likely cure
//! ```
//!
//! One time limit covers connection, request and whole answer. Redirects are not followed: a token sent to one peer is
//! meant for no other. It never tries again by itself; whoever asks knows what a second try would mean.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, Uri,
    body::{Body, Incoming},
    header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{self, Builder, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use sidestream_host::Clock;
use sidestream_plan::SecretRef;

use super::{
    tls,
    trouble::{self, Kind, Trouble},
};
use crate::{BuildError, Environment};

/// A URL, and the means to ask it.
pub(crate) struct Endpoint {
    url: Uri,
    shown: Arc<str>,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    clock: Clock,
    client: Client,
}

enum Client {
    Plain(legacy::Client<HttpConnector, Full<Bytes>>),
    Tls(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Endpoint {
    /// The endpoint at `url`; each request to it may take `timeout` and carries the token, where there is one.
    pub(crate) fn new(
        url: &str,
        credentials: Option<&SecretRef>,
        timeout: Duration,
        env: &Environment,
    ) -> Result<Self, BuildError> {
        Self::trusting(url, credentials, timeout, env, tls::settings)
    }

    fn trusting(
        url: &str,
        credentials: Option<&SecretRef>,
        timeout: Duration,
        env: &Environment,
        tls: impl FnOnce() -> Arc<ClientConfig>,
    ) -> Result<Self, BuildError> {
        let url = checked(url)?;
        if timeout.is_zero() {
            return Err(BuildError {
                field: "timeout",
                reason: "0s leaves no time to answer; write `10s`".into(),
            });
        }
        let authorization = credentials.map(|reference| bearer(&env.secrets.get(reference)?)).transpose()?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(timeout));
        connector.set_nodelay(true);
        let client = if url.scheme_str() == Some("https") {
            connector.enforce_http(false);
            Client::Tls(settings().build(HttpsConnector::from((connector, tls()))))
        } else {
            Client::Plain(settings().build(connector))
        };
        Ok(Self {
            shown: trouble::shown(&url),
            url,
            authorization,
            timeout,
            clock: env.clock.clone(),
            client,
        })
    }

    /// `host:port`, the port named even where the URL leaves it out.
    pub(crate) fn instance(&self) -> String {
        let default = if self.url.scheme_str() == Some("https") { 443 } else { 80 };
        format!("{}:{}", self.url.host().unwrap_or_default(), self.url.port_u16().unwrap_or(default))
    }

    /// GETs the body of a 2xx answer, which may be at most `limit` bytes long.
    pub(crate) async fn get(&self, headers: &HeaderMap, limit: usize) -> Result<Bytes, Trouble> {
        let request = self.request(Method::GET, headers, Bytes::new());
        let answer = async { read(self.exchange(request).await?, limit).await };
        self.within_time(answer).await
    }

    /// Sends `body`; any 2xx status is success, whatever the answer says besides.
    pub(crate) async fn send(&self, method: Method, headers: &HeaderMap, body: Bytes) -> Result<(), Trouble> {
        let request = self.request(method, headers, body);
        let answer = self.within_time(self.exchange(request)).await?;
        // An answer read to its end leaves a connection that can be used again; a long or slow one is not worth it.
        let _ = tokio::time::timeout(REST_WAIT, read(answer, REST_BYTES_MAX)).await;
        Ok(())
    }

    fn request(&self, method: Method, headers: &HeaderMap, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers.clone();
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    async fn within_time<T>(&self, answer: impl Future<Output = Result<T, Kind>>) -> Result<T, Trouble> {
        let answer = tokio::time::timeout(self.timeout, answer).await;
        let answer = answer.unwrap_or(Err(Kind::TimedOut(self.timeout)));
        answer.map_err(|kind| Trouble { url: self.shown.clone(), kind })
    }

    /// Sends a request and gives the body of a 2xx answer, unread.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Incoming, Kind> {
        let answer = match &self.client {
            Client::Plain(client) => client.request(request).await,
            Client::Tls(client) => client.request(request).await,
        };
        let answer = answer.map_err(|error| match error.is_connect() {
            true => trouble::unreachable(&error),
            false => trouble::broken_off(&error),
        })?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| self.retry_after(value));
        let location =
            answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Err(Kind::Answered { status: answer.status(), retry_after, location, said: said(answer).await })
    }

    /// `Retry-After` in either form: seconds, or a date (RFC 9110, section 10.2.3); at most an hour.
    fn retry_after(&self, value: &HeaderValue) -> Option<Duration> {
        let text = value.to_str().ok()?.trim();
        let wait = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let at = httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                at.saturating_sub(Duration::from_nanos(u64::try_from(self.clock.wall_nanos()).unwrap_or(0)))
            }
        };
        Some(wait.min(RETRY_AFTER_MAX))
    }
}

/// An absolute URL with a host, and without a user in it.
fn checked(text: &str) -> Result<Uri, BuildError> {
    let refuse = |reason| BuildError { field: "url", reason };
    let url: Uri = text.parse().map_err(|error| {
        refuse(format!("`{text}` is no URL ({error}); write one such as `http://127.0.0.1:9100/metrics`"))
    })?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return Err(refuse(format!(
            "`{text}` is no URL of a web server; write one such as `https://host:9093/path`"
        )));
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(refuse("a URL may hold no user or password; put a token into `credentials`".into()));
    }
    Ok(url)
}

fn bearer(token: &str) -> Result<HeaderValue, BuildError> {
    if token.is_empty() {
        return Err(BuildError {
            field: "credentials",
            reason: "the secret is empty; write a token into it".into(),
        });
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| BuildError {
        field: "credentials",
        reason: "the token holds a line break or another character that no header may hold".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn settings() -> Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(1)
        .http1_max_buf_size(BUFFER_BYTES_MAX);
    builder
}

async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, Kind> {
    let said = body.size_hint().exact();
    if said.is_some_and(|length| length > limit as u64) {
        return Err(Kind::TooLarge(limit));
    }
    let mut whole = BytesMut::with_capacity(said.map_or(0, |length| length as usize));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| trouble::broken_off(&error))?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > limit {
                return Err(Kind::TooLarge(limit));
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole.freeze())
}

/// The beginning of what a peer says about its refusal, on one line. A peer that says too much, or breaks off while it
/// does, has given its status all the same.
async fn said(answer: Response<Incoming>) -> String {
    let mut body = answer.into_body();
    let mut heard = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            heard.extend_from_slice(&data[..data.len().min(SAID_BYTES_MAX - heard.len())]);
        }
        if heard.len() == SAID_BYTES_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&heard);
    let words: Vec<_> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(SAID_CHARS_MAX).collect()
}

/// Shorter than servers commonly keep an idle connection (5 s), so that a request seldom meets one just being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// What one connection may buffer; also the longest head of an answer.
const BUFFER_BYTES_MAX: usize = 64 << 10;
const SAID_BYTES_MAX: usize = 1 << 10;
const SAID_CHARS_MAX: usize = 200;
const REST_BYTES_MAX: usize = 64 << 10;
const REST_WAIT: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::Secrets;

    fn env() -> Environment {
        Environment {
            pipeline: "a/b".into(),
            clock: Clock::machine(),
            secrets: Secrets::default(),
            dnpipes: None,
            exactly_once: None,
            compile: Arc::new(|_| Err("no expression here".into())),
        }
    }

    /// A TLS server that answers `a 1` to everyone; its port and its certificate.
    async fn secured() -> (u16, CertificateDer<'static>) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = own.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let settings = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(settings));
            while let Ok((socket, _)) = listener.accept().await {
                if let Ok(mut socket) = acceptor.accept(socket).await {
                    let _ = socket.read(&mut [0; 1024]).await;
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n").await;
                    let _ = socket.shutdown().await;
                }
            }
        });
        (port, certificate)
    }

    async fn get(url: &str, trusted: Option<CertificateDer<'static>>) -> Result<Bytes, String> {
        let mut authorities = RootCertStore::empty();
        authorities.add_parsable_certificates(trusted);
        let settings = || Arc::new(tls::trusting(authorities));
        let endpoint = Endpoint::trusting(url, None, Duration::from_secs(2), &env(), settings).unwrap();
        endpoint.get(&HeaderMap::new(), 100).await.map_err(|trouble| trouble.to_string())
    }

    #[tokio::test]
    async fn a_peer_is_asked_over_tls_when_its_authority_is_trusted() {
        let (port, certificate) = secured().await;
        let body = get(&format!("https://127.0.0.1:{port}/"), Some(certificate)).await.unwrap();
        assert_eq!(body, "a 1\n");
    }

    #[tokio::test]
    async fn a_peer_nobody_vouches_for_is_not_asked_and_the_cure_is_said() {
        let (port, certificate) = secured().await;
        let (_, other) = secured().await;
        for trusted in [None, Some(other)] {
            let said = get(&format!("https://127.0.0.1:{port}/"), trusted).await.unwrap_err();
            assert!(
                said.starts_with(&format!(
                    "cannot reach https://127.0.0.1:{port}/: its certificate is not trusted"
                )),
                "{said}"
            );
            assert!(said.ends_with("name a PEM file in SSL_CERT_FILE"), "{said}");
        }
        let said = get(&format!("https://localhost:{port}/"), Some(certificate)).await.unwrap_err();
        assert!(said.contains("not trusted"), "a certificate of another name: {said}");
    }

    #[tokio::test]
    async fn a_url_with_the_wrong_scheme_is_told_apart() {
        let (port, certificate) = secured().await;
        assert!(get(&format!("http://127.0.0.1:{port}/"), None).await.unwrap_err().contains("broke off"));
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = plain.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = plain.accept().await.unwrap();
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let said = get(&format!("https://{address}/"), Some(certificate)).await.unwrap_err();
        assert!(said.contains("does the URL begin with http:// ?"), "{said}");
    }

    #[tokio::test]
    async fn a_host_without_an_address_is_said_with_its_cure() {
        let said = get("http://no-such-host.invalid/", None).await.unwrap_err();
        assert!(said.contains("is the host's name right?"), "{said}");
    }

    #[test]
    fn an_instance_always_has_its_port_and_a_message_never_the_query() {
        let endpoint = |url| Endpoint::new(url, None, Duration::from_secs(1), &env()).unwrap();
        assert_eq!(endpoint("http://host/").instance(), "host:80");
        assert_eq!(endpoint("http://[::1]:9100/metrics").instance(), "[::1]:9100");
        assert_eq!(&*endpoint("http://host/a?token=s3cret").shown, "http://host/a");
    }
}
