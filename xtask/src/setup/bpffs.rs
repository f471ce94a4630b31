//! The file system that pins of eBPF maps and programs live in.

use std::process::Command;

use anyhow::Context as _;

use super::ByHand;
use crate::{process, root};

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Mounts bpffs where it is missing.
///
/// # Errors
/// When the mount table cannot be read or the mount fails.
pub(super) fn ensure() -> anyhow::Result<ByHand> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if is_mounted(&mounts) {
        return Ok(ByHand::new());
    }
    let arguments = ["-t", "bpf", "bpf", MOUNT_POINT];
    if !root::is_root() {
        return Ok(vec![format!("mount {}", arguments.join(" "))]);
    }
    eprintln!("setup: mounting bpffs at {MOUNT_POINT}");
    process::run(Command::new("mount").args(arguments))?;
    Ok(ByHand::new())
}

/// Whether a table in the format of proc_mounts(5) has bpffs at [`MOUNT_POINT`].
fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(MOUNT_POINT) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::is_mounted;

    #[test]
    fn only_a_bpf_file_system_at_the_usual_place_counts() {
        assert!(is_mounted(
            "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n"
        ));
        assert!(!is_mounted("sysfs /sys sysfs rw 0 0\n"));
        assert!(!is_mounted("bpf /run/bpf bpf rw 0 0\n"));
    }
}
