//! From the pinned maps to a [`Report`]: works with and without a running agent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubelb_common::addr::UDP;
use kubelb_common::announce::MALFORMED_ROW;
use kubelb_common::backend::flag;
use kubelb_common::flow::{WAYS, tag};
use kubelb_common::frontend::Selection;
use kubelb_common::maps::{self as names, Note};
use kubelb_common::next_hop::NextHopView;
use kubelb_common::stats::{Drops, Reason, Traffic as Row};
use kubelb_xds::contract::reports as wire;

use crate::bpf::attach::{Mode, name_in};
use crate::bpf::maps::Maps;
use crate::bpf::store::{name_of, source_set_of, used_ports};
use crate::bpf::{BpfError, pins};
use crate::model::{Algorithm, PortRange, Protocol};
use crate::status::address::{AddressLinkReport, AddressReport};
use crate::status::{
    AgentInfo, BackendHealth, BackendReport, BackendState, Condition, FrontendReport, HalfOpenReport, InterfaceReport,
    MapReport, Report, SnatReport, Traffic,
};

/// Reads reports from the pins below a directory.
pub struct Reader {
    bpffs: PathBuf,
    maps: Maps,
}

impl Reader {
    /// Opens the pinned maps, read-only.
    ///
    /// # Errors
    /// When nothing is pinned there.
    pub fn open(bpffs: &Path) -> Result<Self, BpfError> {
        let maps = Maps::open(&pins::existing_maps(bpffs)?, false)?;
        Ok(Self {
            bpffs: bpffs.to_owned(),
            maps,
        })
    }

    /// Everything as it is now, without rates.
    #[must_use]
    pub fn read(&self) -> Report {
        let frontends = self.frontends();
        let flows = self.live_flows();
        Report {
            agent: self.agent(),
            xds: None,
            interfaces: self.interfaces(),
            addresses: self.addresses(),
            malformed_questions: self
                .maps
                .announced_row(MALFORMED_ROW)
                .map_or(0, |row| row.view().answered),
            snat: self.snat(),
            maps: self.fill(flows, frontends.len()),
            checks: None,
            drops: drops(&self.maps.drops_of_frontend(0)),
            frontends,
        }
    }

    /// What traffic each frontend has had, as managers are told. Costs less than [`Self::read`]: no flow is looked at.
    #[must_use]
    pub fn traffic(&self) -> BTreeMap<String, wire::Traffic> {
        let rows = (0u32..).zip(self.maps.frontends.iter()).skip(1);
        rows.filter(|(_, row)| row.is_active())
            .map(|(number, row)| {
                let sum = self.maps.traffic_of_frontend(number);
                let drops = drops(&self.maps.drops_of_frontend(number));
                let traffic = wire::Traffic {
                    new_flows: sum.flows,
                    active_flows: row.flows().load().into(),
                    packets_in: sum.packets_in,
                    bytes_in: sum.bytes_in,
                    packets_out: sum.packets_out,
                    bytes_out: sum.bytes_out,
                    drops: drops
                        .into_iter()
                        .map(|(reason, packets)| wire::Drops { reason, packets })
                        .collect(),
                };
                (name_of(&self.maps.names, number), traffic)
            })
            .collect()
    }

    /// A note of an agent that is gone says nothing.
    fn agent(&self) -> AgentInfo {
        let running = pins::is_held(&self.bpffs);
        let note = self.maps.note.first().filter(|_| running);
        let refusal = note
            .map(Note::text)
            .map(|(bytes, length)| String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned());
        AgentInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: note
                .and_then(|note| u32::try_from(note.pid()).ok())
                .filter(|pid| *pid != 0),
            running,
            config_error: refusal.filter(|text| !text.is_empty()),
        }
    }

    fn interfaces(&self) -> Vec<InterfaceReport> {
        let rows = self.maps.attachments.iter().filter_map(Result::ok);
        let mut interfaces: Vec<InterfaceReport> = rows
            .map(|(ifindex, row)| {
                let length = usize::try_from(row.reason_length).unwrap_or(0);
                InterfaceReport {
                    name: name_in(&row),
                    ifindex,
                    mode: Mode::of(row.mode).map_or("unknown", Mode::label).to_owned(),
                    reason: String::from_utf8_lossy(row.reason.get(..length).unwrap_or_default()).into_owned(),
                }
            })
            .collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        interfaces
    }

    fn addresses(&self) -> Vec<AddressReport> {
        let names: BTreeMap<u32, String> = self
            .interfaces()
            .into_iter()
            .map(|interface| (interface.ifindex, interface.name))
            .collect();
        let mut addresses: BTreeMap<IpAddr, AddressReport> = BTreeMap::new();
        for ((address, index), (_, view)) in self.maps.announcements().rows {
            let report = addresses.entry(address).or_insert_with(|| AddressReport {
                address,
                owner: None,
                is_ours: true,
                epoch: view.epoch,
                tenant: None,
                links: Vec::new(),
            });
            let [a, b, c, d, e, f] = view.rival;
            report.links.push(AddressLinkReport {
                interface: names.get(&index).cloned().unwrap_or_else(|| index.to_string()),
                is_answering: view.answers,
                epoch: view.epoch,
                since: view.since,
                answered: view.answered,
                conflicts: view.conflicts,
                last_rival: (view.rival != [0; 6]).then(|| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")),
            });
        }
        addresses.into_values().collect()
    }

    fn snat(&self) -> Vec<SnatReport> {
        let rows = self
            .maps
            .snat
            .iter()
            .map(kubelb_common::snat::SnatAddress::view)
            .filter(|view| view.ports > 0);
        rows.filter_map(|view| {
            let first = u16::try_from(view.first_port).ok()?;
            let last = u16::try_from(view.first_port + view.ports - 1).ok()?;
            Some(SnatReport {
                address: IpAddr::from(view.address),
                ports: PortRange::new(first, last)?,
                capacity: u64::from(view.sections()) * u64::from(view.ports),
                used: used_ports(&self.maps, &view),
            })
        })
        .collect()
    }

    fn live_flows(&self) -> u64 {
        let live = |bucket: &kubelb_common::flow::Bucket| {
            (0..WAYS)
                .filter(|way| tag::state(bucket.tag(*way).load()) == tag::LIVE)
                .count()
        };
        u64::try_from(self.maps.flows.iter().map(live).sum::<usize>()).unwrap_or(u64::MAX)
    }

    fn fill(&self, flows: u64, frontends: usize) -> Vec<MapReport> {
        let backends = self
            .maps
            .backends
            .iter()
            .filter(|row| row.view().flags & flag::IN_USE != 0)
            .count();
        let hops = self
            .maps
            .hops
            .iter()
            .filter(|row| row.view() != NextHopView::default())
            .count();
        let report = |name: &str, used: usize, capacity: usize| MapReport {
            name: name.to_owned(),
            used: u64::try_from(used).unwrap_or(u64::MAX),
            capacity: u64::try_from(capacity).unwrap_or(u64::MAX),
        };
        vec![
            report(names::FRONTENDS, frontends, self.maps.frontends.len()),
            report(names::BACKENDS, backends, self.maps.backends.len()),
            report(names::NEXT_HOPS, hops, self.maps.hops.len()),
            MapReport {
                name: names::FLOWS.to_owned(),
                used: flows,
                capacity: self.maps.flow_capacity(),
            },
        ]
    }

    /// Jiffies in seconds; `None` for 0.
    fn seconds(&self, jiffies: u32) -> Option<u64> {
        let hz = self.maps.control().map_or(0, |control| control.hz.load()).max(1);
        (jiffies > 0).then(|| u64::from(jiffies / hz))
    }

    fn frontends(&self) -> Vec<FrontendReport> {
        let mut backends: BTreeMap<u32, Vec<BackendReport>> = BTreeMap::new();
        for (number, row) in (0u32..).zip(self.maps.backends.iter()).skip(1) {
            let view = row.view();
            if view.flags & flag::IN_USE == 0 {
                continue;
            }
            backends.entry(row.frontend()).or_default().push(BackendReport {
                address: IpAddr::from(view.address),
                port: u16::from_be(view.port),
                weight: row.weight(),
                health: match view.flags & (flag::HAS_CHECK | flag::CHECKED | flag::UNHEALTHY) {
                    0 => BackendHealth::Unchecked,
                    flag::HAS_CHECK => BackendHealth::Unknown,
                    flags if flags & flag::UNHEALTHY == 0 => BackendHealth::Healthy,
                    _ => BackendHealth::Unhealthy,
                },
                state: if view.flags & flag::DRAINING != 0 || row.weight() == 0 {
                    BackendState::Draining
                } else {
                    BackendState::Active
                },
                traffic: traffic(&self.maps.traffic_of_backend(number)),
            });
        }
        let mut frontends = Vec::new();
        for (number, row) in (0u32..)
            .zip(self.maps.frontends.iter())
            .skip(1)
            .filter(|(_, row)| row.is_active())
        {
            let mut backends = backends.remove(&number).unwrap_or_default();
            backends.sort_by_key(|backend| (backend.address, backend.port));
            frontends.push(FrontendReport {
                name: name_of(&self.maps.names, number),
                vip: IpAddr::from(row.vip()),
                port: u16::from_be(row.port()),
                protocol: if row.protocol() == UDP {
                    Protocol::Udp
                } else {
                    Protocol::Tcp
                },
                traffic: traffic(&self.maps.traffic_of_frontend(number)),
                flows_per_second: None,
                packets_per_second: None,
                half_open: (row.protocol() != UDP).then(|| HalfOpenReport {
                    // Below zero for a moment, where a count is not mended yet.
                    flows: u32::try_from(row.half_open().load().cast_signed()).unwrap_or(0),
                    budget: row.half_open_budget(),
                }),
                drops: drops(&self.maps.drops_of_frontend(number)),
                condition: Condition::of(&backends),
                algorithm: algorithm(row.policy().selection),
                affinity_timeout_seconds: self.seconds(row.policy().affinity),
                affinity_failures: u64::from(row.affinity_failures().load()),
                source_ranges: source_set_of(&self.maps, row).map(|set| set.networks()),
                backends,
            });
        }
        frontends.sort_by(|a, b| a.name.cmp(&b.name));
        frontends
    }
}

fn algorithm(selection: Selection) -> Algorithm {
    match selection {
        Selection::RoundRobin => Algorithm::RoundRobin,
        Selection::Maglev => Algorithm::Maglev,
        Selection::MaglevBySource => Algorithm::MaglevBySource,
    }
}

fn traffic(sum: &Row) -> Traffic {
    Traffic {
        packets_in: sum.packets_in,
        bytes_in: sum.bytes_in,
        packets_out: sum.packets_out,
        bytes_out: sum.bytes_out,
        flows_total: sum.flows,
    }
}

fn drops(counters: &Drops) -> BTreeMap<String, u64> {
    let nonzero = Reason::ALL.iter().filter_map(|reason| {
        let count = counters.0.get(reason.index()).copied().filter(|count| *count > 0)?;
        Some((reason.label().to_owned(), count))
    });
    nonzero.collect()
}

/// Fills the rates of `after` from an earlier report, `elapsed` before it.
pub fn add_rates(before: &Report, after: &mut Report, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return;
    }
    let earlier: BTreeMap<&str, &FrontendReport> = before
        .frontends
        .iter()
        .map(|frontend| (frontend.name.as_str(), frontend))
        .collect();
    for frontend in &mut after.frontends {
        let Some(old) = earlier.get(frontend.name.as_str()) else {
            continue;
        };
        let packets = |traffic: &Traffic| traffic.packets_in + traffic.packets_out;
        let rate = |now: u64, then: u64| Some(now.saturating_sub(then)).map(|n| as_f64(n) / seconds);
        frontend.flows_per_second = rate(frontend.traffic.flows_total, old.traffic.flows_total);
        frontend.packets_per_second = rate(packets(&frontend.traffic), packets(&old.traffic));
    }
}

/// Exact up to 2^53, which a difference of counters over seconds never reaches.
fn as_f64(n: u64) -> f64 {
    let (high, low) = (
        u32::try_from(n >> 32).unwrap_or(u32::MAX),
        u32::try_from(n & 0xffff_ffff).unwrap_or(u32::MAX),
    );
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
