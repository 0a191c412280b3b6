//! The queues under test behind one face, and what both benches need: pinning, medians, JSON lines.
//!
//! Every contender carries `u64` from one thread to one other, both pinned, and is only ever asked to *try*: the loop
//! around it, and what it does when refused, is the same for all. Where a crate has a batch call of its own, the batch
//! cells use it; where it has none, they loop over single calls.
#![allow(dead_code, reason = "each bench uses its part")]

pub(crate) mod contenders;

use std::{fmt::Write as _, time::Duration};

use rustix::thread::{CpuSet, sched_setaffinity};

/// One queue, from one sender to one receiver.
pub(crate) trait Contender {
    /// What the tables call it.
    const NAME: &'static str;
    type Tx: Send + 'static;
    type Rx: Send + 'static;

    fn open(slots: usize) -> (Self::Tx, Self::Rx);

    fn send(tx: &mut Self::Tx, item: u64) -> bool;

    fn recv(rx: &mut Self::Rx) -> Option<u64>;

    /// Sends `first`, `first + 1`, ... up to `n` items. Returns how many.
    #[inline]
    fn send_batch(tx: &mut Self::Tx, first: u64, n: usize) -> usize {
        (0..n).take_while(|i| Self::send(tx, first + *i as u64)).count()
    }

    /// Receives up to `n` items and adds them to `sum`. Returns how many.
    #[inline]
    fn recv_batch(rx: &mut Self::Rx, n: usize, sum: &mut u64) -> usize {
        let mut taken = 0;
        while taken < n
            && let Some(item) = Self::recv(rx)
        {
            *sum = sum.wrapping_add(item);
            taken += 1;
        }
        taken
    }
}

/// Puts this thread on one core for good.
pub(crate) fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("a machine with at least two cores");
}

/// The middle one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One figure for programs, on stdout.
pub(crate) fn report(bench: &str, who: &str, value: f64, unit: &str) {
    println!(r#"{{"bench":"{bench}","who":"{who}","value":{value:.3},"unit":"{unit}"}}"#);
}

/// A table for people, on stderr.
pub(crate) fn table(title: &str, columns: &[&str], rows: &[(String, Vec<f64>)]) {
    let mut text = format!("\n{title}\n{:<18}", "");
    columns.iter().for_each(|column| write!(text, "{column:>16}").unwrap());
    for (name, values) in rows {
        write!(text, "\n{name:<18}").unwrap();
        values.iter().for_each(|value| write!(text, "{value:>16.1}").unwrap());
    }
    eprintln!("{text}");
}

/// The first argument that is a number, else `otherwise`: `cargo bench --bench hop -- 3` for three rounds.
pub(crate) fn rounds(otherwise: usize) -> usize {
    std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(otherwise)
}

/// Whether `name` is among the contenders asked for: `-- 3 sidestream rtrb`. Asking for none asks for all.
pub(crate) fn wanted(name: &str) -> bool {
    let mut asked =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-') && arg.parse::<u32>().is_err());
    let mut any = false;
    asked.any(|arg| {
        any = true;
        name.starts_with(&arg)
    }) || !any
}

/// Nanoseconds, as a float.
pub(crate) fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}
