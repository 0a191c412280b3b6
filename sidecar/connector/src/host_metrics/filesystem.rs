//! Size and free space of mounted file systems.

use procfs::MountEntry;
use rustix::fs::statvfs;
use sidestream_event::Batch;

use super::figures;

/// Adds the samples of every file system that stores something.
pub(super) fn add(mounts: &[MountEntry], batch: &mut Batch) {
    for mount in mounts.iter().filter(|mount| stores_something(mount)) {
        // Unmounted since the list was read, or not ours to ask about.
        let Ok(space) = statvfs(&mount.fs_file) else { continue };
        let labels = [
            ("device", mount.fs_spec.as_str()),
            ("fstype", mount.fs_vfstype.as_str()),
            ("mountpoint", mount.fs_file.as_str()),
        ];
        let bytes = |blocks: u64| blocks as f64 * space.f_frsize as f64;
        figures::add(batch, "node_filesystem_size_bytes", &labels, bytes(space.f_blocks));
        figures::add(batch, "node_filesystem_free_bytes", &labels, bytes(space.f_bfree));
        figures::add(batch, "node_filesystem_avail_bytes", &labels, bytes(space.f_bavail));
        figures::add(batch, "node_filesystem_files", &labels, space.f_files as f64);
        figures::add(batch, "node_filesystem_files_free", &labels, space.f_ffree as f64);
    }
}

/// What the node exporter counts, and the root also where a container engine made it.
fn stores_something(mount: &MountEntry) -> bool {
    let is_under = |folder: &str| {
        let rest = mount.fs_file.strip_prefix(folder);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if mount.fs_file == "/" {
        return mount.fs_vfstype != "rootfs";
    }
    !WITHOUT_STORAGE.contains(&mount.fs_vfstype.as_str())
        && !SYSTEM_FOLDERS.iter().any(|folder| is_under(folder))
}

const SYSTEM_FOLDERS: &[&str] =
    &["/dev", "/proc", "/sys", "/run/credentials", "/var/lib/docker", "/var/lib/containers/storage"];
const WITHOUT_STORAGE: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "procfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];

#[cfg(test)]
mod tests {
    use procfs::FromBufRead;

    use super::*;

    #[test]
    fn only_what_stores_something_is_counted() {
        let text = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /data ext4 rw 0 0\n\
                    tmpfs /dev/shm tmpfs rw 0 0\ntmpfs /tmp tmpfs rw 0 0\noverlay /var/lib/docker/x overlay rw 0 0\n";
        let mounts = Vec::<MountEntry>::from_buf_read(text.as_bytes()).unwrap();
        let counted: Vec<_> =
            mounts.iter().filter(|mount| stores_something(mount)).map(|m| m.fs_file.as_str()).collect();
        assert_eq!(counted, ["/", "/data", "/tmp"]);
    }

    #[test]
    fn the_root_of_this_machine_has_a_size() {
        let mut batch = Batch::default();
        add(&procfs::mounts().unwrap(), &mut batch);
        let root = batch.events().iter().find(|event| {
            event.body.at("labels.mountpoint").and_then(|at| at.as_text()) == Some("/")
                && event.body.field("name").and_then(|name| name.as_text())
                    == Some("node_filesystem_size_bytes")
        });
        if let Some(root) = root {
            assert!(root.body.field("value").unwrap().as_f64().unwrap() > 0.0);
        }
    }
}
