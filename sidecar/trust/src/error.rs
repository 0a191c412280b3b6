//! What can go wrong, and whose fault it is.

use std::fmt;

use crate::{SpiffeError, SpiffeId};

/// Something given to this process cannot be used.
#[derive(Debug)]
pub enum TrustError {
    /// A PEM text holds no such block, or a broken one.
    Pem {
        /// What was looked for: `certificate` or `private key`.
        wanted: &'static str,
    },
    /// A private key is not one of a kind that is known, or is broken.
    Key(String),
    /// The key is not the one the certificate was issued to.
    KeyOfAnother,
    /// A certificate signing request was refused.
    Request(String),
    /// A name outside the authority's trust domain was asked for.
    ForeignName {
        /// The name.
        id: SpiffeId,
        /// The trust domain that the authority issues for.
        trust_domain: String,
    },
    /// A DNS name cannot stand in a certificate.
    DnsName(String),
    /// A trust domain cannot be one.
    TrustDomain {
        /// What was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A certificate cannot be used as a leaf.
    Leaf(Refusal),
    /// A certificate cannot be used as an anchor.
    Anchor(String),
    /// There is no anchor, so nobody could be believed.
    NoAnchors,
    /// The cryptography refused.
    Crypto(String),
}

/// Why a peer is not believed.
#[derive(Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It showed no certificate.
    NoCertificate,
    /// Its certificate cannot be read.
    Unreadable,
    /// Its certificate carries no URI name.
    NoSpiffeId,
    /// Its certificate carries more than one URI name.
    ManyNames {
        /// How many.
        count: usize,
    },
    /// The URI name of its certificate is no SPIFFE ID of a workload.
    NotSpiffe(SpiffeError),
    /// Its certificate is that of an authority, not of a workload.
    Authority,
    /// Its certificate is not made for this side of a handshake.
    Purpose {
        /// The key usage or extended key usage it lacks.
        lacks: &'static str,
    },
    /// Its key is an RSA key that is too short to prove anything.
    WeakKey {
        /// Its length.
        bits: usize,
    },
    /// It is somebody else.
    Unexpected {
        /// Who should be there.
        expected: SpiffeId,
        /// Who is.
        found: SpiffeId,
    },
    /// It belongs to another trust domain.
    ForeignTrustDomain {
        /// Who it is.
        found: SpiffeId,
        /// The trust domain of this process.
        trust_domain: String,
    },
}

impl fmt::Display for TrustError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustError::Pem { wanted } => write!(out, "the PEM text holds no readable {wanted}"),
            TrustError::Key(reason) => write!(out, "the private key cannot be used: {reason}"),
            TrustError::KeyOfAnother => {
                out.write_str("the private key is not the one the certificate was issued to")
            }
            TrustError::Request(reason) => {
                write!(out, "the certificate signing request is refused: {reason}")
            }
            TrustError::ForeignName { id, trust_domain } => {
                write!(
                    out,
                    "`{id}` is outside the trust domain `{trust_domain}` that this authority issues for"
                )
            }
            TrustError::DnsName(name) => write!(out, "{name:?} cannot stand in a certificate as a DNS name"),
            TrustError::TrustDomain { name, reason } => write!(out, "{name:?} is no trust domain: {reason}"),
            TrustError::Leaf(refusal) => write!(out, "the certificate cannot be used: {refusal}"),
            TrustError::Anchor(reason) => write!(out, "the certificate cannot be an anchor: {reason}"),
            TrustError::NoAnchors => out.write_str(
                "there is no anchor, so no peer could be believed; give the certificate of the authority",
            ),
            TrustError::Crypto(reason) => write!(out, "the cryptography refused: {reason}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoCertificate => out.write_str("the peer showed no certificate"),
            Refusal::Unreadable => out.write_str("the certificate cannot be read"),
            Refusal::NoSpiffeId => out.write_str("the certificate carries no SPIFFE ID"),
            Refusal::ManyNames { count } => {
                write!(out, "the certificate carries {count} URI names instead of one SPIFFE ID")
            }
            Refusal::NotSpiffe(error) => error.fmt(out),
            Refusal::Authority => out.write_str("the certificate is an authority's, not a workload's"),
            Refusal::Purpose { lacks } => {
                write!(out, "the certificate is not made for this: it lacks {lacks}")
            }
            Refusal::WeakKey { bits } => {
                write!(
                    out,
                    "the certificate's RSA key has {bits} bits, and 2048 are the least that is believed"
                )
            }
            Refusal::Unexpected { expected, found } => {
                write!(out, "the peer is `{found}`, and `{expected}` should be there")
            }
            Refusal::ForeignTrustDomain { found, trust_domain } => {
                write!(out, "the peer is `{found}`, which is outside the trust domain `{trust_domain}`")
            }
        }
    }
}

impl std::error::Error for TrustError {}
impl std::error::Error for Refusal {}

/// In words: this is how rustls shows a verifier's own reasons, also where only its text is passed on.
impl fmt::Debug for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl From<Refusal> for TrustError {
    fn from(refusal: Refusal) -> Self {
        TrustError::Leaf(refusal)
    }
}

impl From<rcgen::Error> for TrustError {
    fn from(error: rcgen::Error) -> Self {
        TrustError::Crypto(error.to_string())
    }
}

impl From<rustls::Error> for TrustError {
    fn from(error: rustls::Error) -> Self {
        TrustError::Crypto(error.to_string())
    }
}
