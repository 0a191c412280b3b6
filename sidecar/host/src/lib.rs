//! The machine: its clock and its entropy, real or simulated.
//!
//! Everything that asks what time it is asks a [`Clock`], so that a test can step time and a simulation with one seed
//! can own it.

mod clock;
mod random;

pub use clock::{Clock, Moment, SimulatedClock};
pub use random::Random;
