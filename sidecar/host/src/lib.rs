//! The machine: its clock, its entropy and its disk, real or simulated.
//!
//! Everything that asks what time it is asks a [`Clock`], so that a test can step time and a simulation with one seed
//! can own it.

mod clock;
pub mod disk;
mod random;

pub use clock::{Clock, Moment, SimulatedClock};
pub use random::Random;
