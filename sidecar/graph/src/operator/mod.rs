//! The operators: what a stage can do to events, a file each.
//!
//! [`build`] makes one from its place in the plan. Each works on its batch in place and follows four rules: an event it
//! cannot handle fails alone, with the reason and the likely cure; nothing an event says may make it panic; what it
//! remembers is bounded; and time comes from [`Output`](crate::Output) alone.

mod batch;
mod build;
mod dedupe;
mod encode;
mod expression;
mod filter;
mod key;
mod keyed;
mod map;
mod merge;
mod number;
mod parse;
mod path;
mod rename;
mod sample;
mod set;
mod split;
#[cfg(test)]
mod testing;
mod text;
mod threshold;
mod throttle;
mod unset;
mod window;

pub use build::{BuildError, build};
pub use key::KeyHash;

/// How many keys an operator remembers where its settings do not say: with keys of a few tens of bytes, some tens of MiB.
const KEYS_MAX: usize = 100_000;
