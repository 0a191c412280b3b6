//! What came of a request instead of a good answer: which URL, what happened, the likely cure.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use hyper::{StatusCode, Uri};

use crate::Undelivered;

/// A request that got no good answer.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// The URL without its query, which may hold what is no log's business.
    pub(super) url: Arc<str>,
    pub(crate) kind: Kind,
}

/// What happened to a request.
#[derive(Debug)]
pub(crate) enum Kind {
    /// No connection: what the system said, with the likely cure.
    Unreachable(String),
    /// No whole answer within the time.
    TimedOut(Duration),
    /// The connection ended, or what came was no HTTP.
    BrokenOff(String),
    /// The answer is longer than this many bytes.
    TooLarge(usize),
    /// An answer other than 2xx.
    Answered {
        status: StatusCode,
        /// The beginning of what the peer said about it, on one line.
        said: String,
        /// Where a redirect points.
        location: Option<String>,
        /// How long the peer asked to be left alone.
        retry_after: Option<Duration>,
    },
}

impl Trouble {
    /// Whether the peer may take the same request later: no answer, or 408, 429, 5xx.
    pub(crate) fn may_pass(&self) -> bool {
        match &self.kind {
            Kind::Answered { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
            // An endless answer says nothing about the request either way.
            Kind::Unreachable(_) | Kind::TimedOut(_) | Kind::BrokenOff(_) | Kind::TooLarge(_) => true,
        }
    }

    /// The status, where there was an answer.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match &self.kind {
            Kind::Answered { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// This, as what a sink says when it wants to be asked again.
    pub(crate) fn into_retry(self) -> Undelivered {
        let reason = self.to_string();
        let after = match self.kind {
            Kind::Answered { retry_after, .. } => retry_after,
            _ => None,
        };
        Undelivered::Retry { reason, after }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.url;
        match &self.kind {
            Kind::Unreachable(why) => write!(out, "cannot reach {url}: {why}"),
            Kind::TimedOut(limit) => write!(
                out,
                "{url} did not answer within {}; is it overloaded, or is a firewall in between? `timeout` sets the limit",
                sidestream_plan::Duration::from(*limit)
            ),
            Kind::BrokenOff(why) => write!(out, "{url} broke off: {why}"),
            Kind::TooLarge(limit) => write!(
                out,
                "{url} answered with more than {} bytes; is it the right URL?",
                sidestream_plan::Size::from_bytes(*limit as u64)
            ),
            Kind::Answered { status, said, location, .. } => {
                write!(out, "{url} answered {status}")?;
                if !said.is_empty() {
                    write!(out, ": {said}")?;
                }
                match (status.as_u16(), location) {
                    (300..=399, Some(location)) => {
                        write!(out, "; redirects are not followed: write {location} as `url`")
                    }
                    (401 | 403, _) => out.write_str("; check `credentials`"),
                    (404 | 405, _) => out.write_str("; check the path of `url`"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// The form of a URL that goes into messages.
pub(super) fn shown(url: &Uri) -> Arc<str> {
    let (scheme, authority) =
        (url.scheme_str().unwrap_or("http"), url.authority().map_or("", |own| own.as_str()));
    format!("{scheme}://{authority}{}", url.path()).into()
}

/// Why there is no connection, and what to do about it.
pub(super) fn unreachable(error: &(dyn Error + 'static)) -> Kind {
    Kind::Unreachable(match root(error) {
        Root::Tls(rustls::Error::InvalidCertificate(why)) => format!(
            "its certificate is not trusted ({why}); add its authority to this machine's, or name a PEM file in SSL_CERT_FILE"
        ),
        Root::Tls(rustls::Error::InvalidMessage(_)) => {
            "it speaks no TLS; does the URL begin with http:// ?".into()
        }
        Root::Tls(error) => format!("TLS: {error}"),
        Root::Said(Some(io::ErrorKind::ConnectionRefused), _) => {
            "connection refused; is it running, and is the port right?".into()
        }
        Root::Said(Some(io::ErrorKind::TimedOut), _) => {
            "no connection within the time; is a firewall in between?".into()
        }
        Root::Said(_, said) if said.contains("lookup address") => {
            format!("{said}; is the host's name right?")
        }
        Root::Said(_, said) => said,
    })
}

/// Why a connection ended early.
pub(super) fn broken_off(error: &(dyn Error + 'static)) -> Kind {
    Kind::BrokenOff(match root(error) {
        Root::Tls(error) => format!("TLS: {error}"),
        Root::Said(_, said) => said,
    })
}

/// The innermost cause: the one that says something.
enum Root<'a> {
    Tls(&'a rustls::Error),
    /// What it says, and the kind of the last error of the system on the way to it.
    Said(Option<io::ErrorKind>, String),
}

fn root<'a>(error: &'a (dyn Error + 'static)) -> Root<'a> {
    let (mut cause, mut kind) = (error, None);
    loop {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Root::Tls(tls);
        }
        let inner = match cause.downcast_ref::<io::Error>() {
            // Its `source` is that of the error it wraps, which would be passed over.
            Some(io) => {
                kind = Some(io.kind());
                io.get_ref().map(|inner| inner as &(dyn Error + 'static))
            }
            None => cause.source(),
        };
        match inner {
            Some(inner) => cause = inner,
            None => return Root::Said(kind, cause.to_string()),
        }
    }
}
