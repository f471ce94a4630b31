//! What the agent's maps hold: looked at through the pins, without asking the agent.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::maps::MapData;
use kubelb_agent::bpf::maps::Maps;
use kubelb_agent::bpf::pins::existing_maps;
use kubelb_common::backend::flag;
use kubelb_common::maps::PINNED;

/// The pinned maps, for reading.
pub(crate) struct View {
    directory: PathBuf,
    maps: Maps,
}

impl View {
    pub(crate) fn open(bpffs: &Path) -> anyhow::Result<Self> {
        let directory = existing_maps(bpffs)?;
        let maps = Maps::open(&directory, false)?;
        Ok(Self { directory, maps })
    }

    /// Backends in use for which `wanted` flags are all set.
    pub(crate) fn backends(&self, wanted: u16) -> usize {
        let wanted = wanted | flag::IN_USE;
        let rows = self.maps.backends.iter();
        rows.filter(|row| row.view().flags & wanted == wanted).count()
    }

    /// Whether new flows may go to this address.
    pub(crate) fn serves(&self, address: Ipv4Addr) -> bool {
        self.maps.backends.iter().any(|row| {
            let view = row.view();
            view.flags & (flag::IN_USE | flag::DRAINING) == flag::IN_USE
                && IpAddr::from(view.address) == IpAddr::V4(address)
        })
    }

    /// Memory of all maps, by the kernel's count, and how much of it is there once for each CPU.
    pub(crate) fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let (mut all, mut per_cpu) = (0, 0);
        for name in PINNED {
            let map = MapData::from_pin(self.directory.join(name)).with_context(|| format!("no map {name}"))?;
            let fd = std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
            let field = |field: &str| {
                let rest = info.lines().find_map(|line| line.strip_prefix(field))?;
                rest.trim().parse::<u64>().ok()
            };
            let bytes = field("memlock:").with_context(|| format!("the size of {name} is not known"))?;
            all += bytes;
            // BPF_MAP_TYPE_PERCPU_ARRAY of linux/bpf.h.
            if field("map_type:") == Some(6) {
                per_cpu += bytes;
            }
        }
        Ok((all, per_cpu))
    }
}
