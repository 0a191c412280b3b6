//! The language: what a user may write, and what it means.

mod pipeline;
pub use pipeline::*;
