//! The product driven from outside, beside real peers.
