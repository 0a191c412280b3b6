//! The figures themselves: from /proc to samples.
//!
//! A group that this kernel does not show, as in some sandboxes, is skipped and reported once.

use procfs::{Current, CurrentSI, DiskStat, LoadAverage, Meminfo, ProcResult, net::DeviceStatus};
use sidestream_event::{Batch, Map, Text};
use sidestream_plan::stage::HostMetricsGroup;

use super::filesystem;

pub(super) struct Figures {
    groups: Vec<Group>,
    /// The processor times read before: of all processors first, then of each.
    busy_before: Vec<CpuTimes>,
}

struct Group {
    kind: HostMetricsGroup,
    reported: bool,
}

/// Time a processor has spent, in ticks since the machine came up.
#[derive(Clone, Copy, Debug)]
struct CpuTimes {
    busy: u64,
    all: u64,
}

impl Figures {
    pub(super) fn new(groups: &[HostMetricsGroup]) -> Self {
        let groups = groups.iter().map(|kind| Group { kind: *kind, reported: false }).collect();
        Self { groups, busy_before: Vec::new() }
    }

    /// Adds a sample of every figure to `batch`.
    pub(super) fn read(&mut self, batch: &mut Batch) {
        for group in &mut self.groups {
            let read = match group.kind {
                HostMetricsGroup::Load => LoadAverage::current().map(|load| add_load(&load, batch)),
                HostMetricsGroup::Cpu => cpu_times().map(|times| {
                    add_busy_ratios(&self.busy_before, &times, batch);
                    self.busy_before = times;
                }),
                HostMetricsGroup::Memory => Meminfo::current().map(|memory| add_memory(&memory, batch)),
                HostMetricsGroup::Disk => procfs::diskstats().map(|disks| add_disks(&disks, batch)),
                HostMetricsGroup::Filesystem => {
                    procfs::mounts().map(|mounts| filesystem::add(&mounts, batch))
                }
                HostMetricsGroup::Network => procfs::net::dev_status().map(|devices| {
                    let mut devices: Vec<_> = devices.into_values().collect();
                    devices.sort_by(|one, other| one.name.cmp(&other.name));
                    add_network(&devices, batch);
                }),
            };
            if let Err(error) = read
                && !std::mem::replace(&mut group.reported, true)
            {
                tracing::warn!(group = ?group.kind, %error, "these figures are not shown by this kernel; they are left out");
            }
        }
    }
}

/// Adds one sample.
pub(super) fn add(batch: &mut Batch, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
    let body = batch.next().body.reset_map();
    body.push_new("name".into(), name.into());
    let labels: Map = labels.iter().map(|(label, value)| (Text::from(*label), *value)).collect();
    body.push_new("labels".into(), labels.into());
    body.push_new("value".into(), value.into());
}

fn add_load(load: &LoadAverage, batch: &mut Batch) {
    for (name, value) in [("node_load1", load.one), ("node_load5", load.five), ("node_load15", load.fifteen)]
    {
        // The kernel writes two decimals, which a 32-bit float blurs.
        add(batch, name, &[], (f64::from(value) * 100.0).round() / 100.0);
    }
}

fn cpu_times() -> ProcResult<Vec<CpuTimes>> {
    let stats = procfs::KernelStats::current()?;
    let times = std::iter::once(&stats.total).chain(&stats.cpu_time).map(|time| {
        // Guest time is counted as user time too.
        let busy = time.user + time.nice + time.system;
        let busy = busy + [time.irq, time.softirq, time.steal].into_iter().flatten().sum::<u64>();
        CpuTimes { busy, all: busy + time.idle + time.iowait.unwrap_or(0) }
    });
    Ok(times.collect())
}

/// The busy share since `before`; nothing the first time.
fn add_busy_ratios(before: &[CpuTimes], now: &[CpuTimes], batch: &mut Batch) {
    for (index, (before, now)) in before.iter().zip(now).enumerate() {
        let (busy, all) = (now.busy.saturating_sub(before.busy), now.all.saturating_sub(before.all));
        if all == 0 {
            continue;
        }
        let cpu = if index == 0 { "all".to_owned() } else { (index - 1).to_string() };
        add(batch, "node_cpu_busy_ratio", &[("cpu", &cpu)], (busy as f64 / all as f64).min(1.0));
    }
}

fn add_memory(memory: &Meminfo, batch: &mut Batch) {
    let figures = [
        ("node_memory_MemTotal_bytes", Some(memory.mem_total)),
        ("node_memory_MemFree_bytes", Some(memory.mem_free)),
        ("node_memory_MemAvailable_bytes", memory.mem_available),
        ("node_memory_Buffers_bytes", Some(memory.buffers)),
        ("node_memory_Cached_bytes", Some(memory.cached)),
        ("node_memory_Dirty_bytes", Some(memory.dirty)),
        ("node_memory_Slab_bytes", Some(memory.slab)),
        ("node_memory_Shmem_bytes", memory.shmem),
        ("node_memory_AnonPages_bytes", memory.anon_pages),
        ("node_memory_SwapTotal_bytes", Some(memory.swap_total)),
        ("node_memory_SwapFree_bytes", Some(memory.swap_free)),
    ];
    for (name, bytes) in figures {
        if let Some(bytes) = bytes {
            add(batch, name, &[], bytes as f64);
        }
    }
}

fn add_disks(disks: &[DiskStat], batch: &mut Batch) {
    for disk in disks.iter().filter(|disk| is_whole_disk(&disk.name)) {
        let device = [("device", disk.name.as_str())];
        add(batch, "node_disk_read_bytes_total", &device, disk.sectors_read as f64 * SECTOR_BYTES);
        add(batch, "node_disk_written_bytes_total", &device, disk.sectors_written as f64 * SECTOR_BYTES);
        add(batch, "node_disk_reads_completed_total", &device, disk.reads as f64);
        add(batch, "node_disk_writes_completed_total", &device, disk.writes as f64);
        add(batch, "node_disk_io_now", &device, disk.in_progress as f64);
        add(batch, "node_disk_io_time_seconds_total", &device, disk.time_in_progress as f64 / 1000.0);
    }
}

/// Not a partition, a loop or a RAM disk, as the node exporter has it.
fn is_whole_disk(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == name.len() {
        return true;
    }
    let is_disk_letter = |prefix: &str| stem.strip_prefix(prefix).is_some_and(|letter| letter.len() == 1);
    let is_nvme_partition = stem.starts_with("nvme") && stem.ends_with('p');
    !(matches!(stem, "ram" | "zram" | "loop" | "fd")
        || ["hd", "sd", "vd", "xvd"].into_iter().any(is_disk_letter)
        || is_nvme_partition)
}

fn add_network(devices: &[DeviceStatus], batch: &mut Batch) {
    for device in devices {
        let label = [("device", device.name.as_str())];
        add(batch, "node_network_receive_bytes_total", &label, device.recv_bytes as f64);
        add(batch, "node_network_receive_packets_total", &label, device.recv_packets as f64);
        add(batch, "node_network_receive_errs_total", &label, device.recv_errs as f64);
        add(batch, "node_network_receive_drop_total", &label, device.recv_drop as f64);
        add(batch, "node_network_transmit_bytes_total", &label, device.sent_bytes as f64);
        add(batch, "node_network_transmit_packets_total", &label, device.sent_packets as f64);
        add(batch, "node_network_transmit_errs_total", &label, device.sent_errs as f64);
        add(batch, "node_network_transmit_drop_total", &label, device.sent_drop as f64);
    }
}

/// /proc/diskstats counts in sectors of 512 bytes, whatever the device's are (kernel, `Documentation/ABI/testing/procfs-diskstats`).
const SECTOR_BYTES: f64 = 512.0;

#[cfg(test)]
mod tests {
    use procfs::{FromBufRead, FromRead};

    use super::*;

    fn shown(batch: &Batch) -> Vec<String> {
        batch.events().iter().map(|event| event.body.to_string()).collect()
    }

    #[test]
    fn load_is_as_the_kernel_wrote_it() {
        let mut batch = Batch::default();
        add_load(&LoadAverage::from_read("0.52 1.58 12.59 2/1234 5678".as_bytes()).unwrap(), &mut batch);
        assert_eq!(shown(&batch)[0], r#"{"name":"node_load1","labels":{},"value":0.52}"#);
        assert_eq!(shown(&batch)[2], r#"{"name":"node_load15","labels":{},"value":12.59}"#);
    }

    #[test]
    fn the_busy_ratio_is_of_the_time_since_the_sample_before() {
        let times = |busy, all| CpuTimes { busy, all };
        let mut batch = Batch::default();
        add_busy_ratios(&[], &[times(50, 100)], &mut batch);
        assert!(batch.is_empty(), "the first time there is nothing before");
        add_busy_ratios(&[times(50, 100), times(10, 50)], &[times(75, 200), times(10, 50)], &mut batch);
        assert_eq!(shown(&batch), [r#"{"name":"node_cpu_busy_ratio","labels":{"cpu":"all"},"value":0.25}"#]);
    }

    #[test]
    fn disks_are_counted_in_bytes_and_partitions_are_left_out() {
        let text = "8 0 sda 10 0 4 5 20 0 8 5 1 1500 10\n8 1 sda1 1 1 1 1 1 1 1 1 1 1 1\n7 0 loop0 1 1 1 1 1 1 1 1 1 1 1\n";
        let disks = procfs::DiskStats::from_buf_read(text.as_bytes()).unwrap();
        let mut batch = Batch::default();
        add_disks(&disks.0, &mut batch);
        assert_eq!(batch.len(), 6);
        assert_eq!(
            shown(&batch)[0],
            r#"{"name":"node_disk_read_bytes_total","labels":{"device":"sda"},"value":2048.0}"#
        );
        assert_eq!(
            shown(&batch)[5],
            r#"{"name":"node_disk_io_time_seconds_total","labels":{"device":"sda"},"value":1.5}"#
        );
        for (name, expected) in
            [("nvme0n1", true), ("nvme0n1p2", false), ("dm-0", true), ("md127", true), ("xvda1", false)]
        {
            assert_eq!(is_whole_disk(name), expected, "{name}");
        }
    }

    #[test]
    fn a_group_this_kernel_does_not_show_leaves_the_others() {
        let mut figures =
            Figures::new(&[HostMetricsGroup::Load, HostMetricsGroup::Memory, HostMetricsGroup::Cpu]);
        let mut batch = Batch::default();
        figures.read(&mut batch);
        figures.read(&mut batch);
        let names: Vec<_> =
            batch.events().iter().filter_map(|event| event.body.field("name")?.as_text()).collect();
        assert!(names.contains(&"node_memory_MemTotal_bytes"), "{names:?}");
    }
}
