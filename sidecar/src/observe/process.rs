//! What this process takes from its machine.

use serde::{Deserialize, Serialize};

/// Figures of this process; zero where the operating system does not say (it is asked on Linux alone).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Processor time used, of user and system together.
    pub cpu_seconds: f64,
    /// Memory in RAM.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Open files and sockets.
    pub open_fds: u64,
    /// How many may be open.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
    /// When it was started, in seconds since 1970-01-01T00:00:00Z.
    pub start_seconds: f64,
}

impl Process {
    /// Reads the figures now; `None` where the operating system does not say.
    #[cfg(target_os = "linux")]
    pub fn read() -> Option<Process> {
        use procfs::{CurrentSI, KernelStats, process};

        let own = process::Process::myself().ok()?;
        let stat = own.stat().ok()?;
        let ticks = procfs::ticks_per_second() as f64;
        let max_fds = match own.limits().ok()?.max_open_files.soft_limit {
            process::LimitValue::Value(files) => files,
            process::LimitValue::Unlimited => u64::MAX,
        };
        Some(Process {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            open_fds: own.fd_count().ok()? as u64,
            max_fds,
            threads: stat.num_threads.max(0) as u64,
            start_seconds: KernelStats::current().ok()?.btime as f64 + stat.starttime as f64 / ticks,
        })
    }

    /// Reads the figures now; `None` where the operating system does not say.
    #[cfg(not(target_os = "linux"))]
    pub fn read() -> Option<Process> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own_size_and_start() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 100_000 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_fds >= 3 && process.open_fds < process.max_fds);
        assert!(process.threads >= 1);
        let now = sidestream_host::Clock::machine().wall_nanos() as f64 / 1e9;
        assert!((0.0..86_400.0).contains(&(now - process.start_seconds)), "{}", process.start_seconds);
    }
}
