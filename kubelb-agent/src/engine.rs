//! The one owner of the maps: turns every change of configuration, health or next hops into rows, and sweeps.
//!
//! Level-triggered: each round reads the rows back, builds what they should be, and carries out the difference. What a
//! round missed, the next one mends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kubelb_common::addr::Addr;
use kubelb_common::backend::flag;
use kubelb_common::flow::Binding;
use kubelb_common::flow_table::FlowTables as _;
use kubelb_common::maps::{MAX_PORT_POOLS, MAX_REVERSE};
use kubelb_common::snat::SnatView;

use crate::announce::{Memory, Place};
use crate::args::AttachMode;
use crate::bpf::attach::{self, Attached, Mode};
use crate::bpf::load::Programs;
use crate::bpf::pins::PinDirectory;
use crate::bpf::store::Store;
use crate::bpf::{BpfError, clock};
use crate::diff::{MapOp, diff};
use crate::model::{Desired, Health, HealthView};
use crate::net::{Link, NextHopView};
use crate::nudge::{End, Sender};
use crate::snat::{self, Plan, Room, SnatOp};
use crate::sweep::{Count, HalfOpenCounts, Suspects, Sweeper};
use crate::tables::{self, Context, Cursors, Tables};

mod announced;

/// Longest that established TCP flows of a removed backend go on.
pub const DRAIN_TIME: Duration = Duration::from_secs(300);
/// A frontend may hold this part of the flow table, so that one cannot starve the others.
const SHARE_OF_FLOWS: (u64, u64) = (4, 5);
/// Half-open flows of one frontend that says nothing else: this part of the flow table, and of a SNAT address's ports.
const SHARE_OF_HALF_OPEN: (u64, u64) = (16, 2);
/// Connections that are over, of which both ends are told, in one step of the sweep.
const ENDED_AT_ONCE: usize = 256;
/// Plans in one round: retire, free, create, and see that nothing is left.
const SNAT_STEPS: usize = 4;

/// The engine.
pub struct Engine {
    store: Store,
    programs: Programs,
    attachments: Attachments,
    hz: u32,
    xdp_interfaces: BTreeSet<u32>,
    cursors: Cursors,
    sweeper: Sweeper,
    draining: BTreeMap<u32, Drain>,
    /// Frontend rows out of service whose flows are not gone yet, and the walks there were when that was first seen.
    leaving: BTreeMap<u32, u64>,
    /// The last round took a frontend out of service.
    left_now: bool,
    snat_unfinished: bool,
    waiting: Vec<IpAddr>,
    route_revision: Option<u64>,
    half_open: HalfOpenCounts,
    sender: Option<Sender>,
    suspects: Option<(Suspects, BTreeMap<u8, SnatView>)>,
    /// Frontends that are not served as they should be since the last round, and why.
    unserved: BTreeMap<String, String>,
    announced: Memory,
    /// Answered for after the last look: what is not any more has been taken by another machine.
    answered: BTreeMap<Place, u32>,
    random: fastrand::Rng,
}

/// Where the programs are to be, and where they are.
pub struct Attachments {
    /// The pins; held for as long as the agent runs.
    pub pins: PinDirectory,
    /// Interfaces and modes asked for.
    pub wanted: Vec<(String, AttachMode)>,
    /// What is attached.
    pub attached: Vec<Attached>,
}

/// A backend row on its way out.
struct Drain {
    address: IpAddr,
    since: Instant,
    passes: u64,
}

impl Engine {
    /// Takes over maps and programs; gives a new flow table its secret.
    ///
    /// # Errors
    /// When the data path's clock cannot be read.
    pub fn new(store: Store, programs: Programs, attachments: Attachments) -> Result<Self, BpfError> {
        let hz = clock::measure_hz(programs.clock()?)?;
        let mut random = fastrand::Rng::new();
        if let Some(control) = store.maps.control() {
            // The seed of a table that may hold flows must stay.
            while control.flow_seed.load() == 0 {
                control.flow_seed.store(random.u64(..));
            }
            control.hz.store(hz);
            control.cpus.store(cpus());
            control.advance_routes();
        }
        let xdp_interfaces = redirectable(&attachments.attached);
        let mut engine = Self {
            store,
            programs,
            attachments,
            hz,
            xdp_interfaces,
            cursors: Cursors::default(),
            sweeper: Sweeper::default(),
            draining: BTreeMap::new(),
            leaving: BTreeMap::new(),
            left_now: false,
            snat_unfinished: false,
            waiting: Vec::new(),
            route_revision: None,
            half_open: HalfOpenCounts::default(),
            sender: Sender::open()
                .inspect_err(|error| tracing::warn!("idle ends of connections that are over are not told: {error}"))
                .ok(),
            suspects: None,
            unserved: BTreeMap::new(),
            announced: Memory::default(),
            answered: BTreeMap::new(),
            random,
        };
        let snat = engine.snat_views();
        engine.suspects = Some((Suspects::find(&engine.store.maps, &snat), snat));
        Ok(engine)
    }

    /// Attaches to interfaces that came back, and forgets those that are gone. True when there is nothing left to do;
    /// otherwise it is to be tried again. May take as long as a driver takes to reset its queues.
    ///
    /// # Errors
    /// When pins or maps cannot be changed.
    pub fn follow_links(&mut self, links: &BTreeMap<u32, Link>) -> Result<bool, BpfError> {
        let attachments = &mut self.attachments;
        if !is_stale(&attachments.wanted, &attachments.attached, links) {
            return Ok(true);
        }
        let maps = &mut self.store.maps;
        let (pins, wanted) = (&attachments.pins, &attachments.wanted);
        let (attached, complete) = attach::attach_again(&mut self.programs, maps, pins, wanted, &attachments.attached)?;
        self.xdp_interfaces = redirectable(&attached);
        attachments.attached = attached;
        Ok(complete)
    }

    /// Interfaces that the programs are attached to.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.attachments.attached.iter().map(|done| done.interface.as_str())
    }

    /// What the rows say of the targets' health: results of the agent that ran before.
    #[must_use]
    pub fn known_health(&self, desired: &Desired) -> HealthView {
        let actual = self.store.read_back();
        let mut known = BTreeMap::new();
        for row in actual.backends.values().filter(|row| row.flags & flag::CHECKED != 0) {
            known.insert((row.frontend, row.address, row.port), row.flags & flag::UNHEALTHY != 0);
        }
        let mut health = HealthView::new();
        for frontend in desired.frontends.values() {
            let Some(row) = actual.frontends.get(&tables::key_of(frontend)) else {
                continue;
            };
            let Some(check) = frontend.check() else {
                continue;
            };
            for backend in &frontend.backends {
                let identity = (row.number, backend.address.ip().into(), backend.address.port().to_be());
                if let Some(unhealthy) = known.get(&identity) {
                    let known = if *unhealthy { Health::Unhealthy } else { Health::Healthy };
                    health.insert(check.target(backend), known);
                }
            }
        }
        health
    }

    /// One round. Returns what could not be served, as text for people.
    ///
    /// # Errors
    /// When a map refuses a change; the round can be repeated.
    pub fn reconcile(
        &mut self,
        desired: &Desired,
        health: &HealthView,
        hops: &NextHopView,
        now: Instant,
    ) -> Result<Vec<String>, BpfError> {
        let plan = self.settle_snat(desired, hops);
        let mut problems: Vec<String> = plan
            .left_out
            .iter()
            .map(|address| format!("SNAT address {address}: no room for its ports"))
            .collect();

        let actual = self.store.read_back();
        let drained = self.drained(&actual, now);
        self.forget_flows_of_the_gone(&actual);
        let flows = self.store.maps.flow_capacity() * SHARE_OF_FLOWS.0 / SHARE_OF_FLOWS.1;
        let context = Context {
            health,
            hops: &hops.hops,
            xdp_interfaces: &self.xdp_interfaces,
            snat: &plan.rows,
            snat_addresses: &plan.addresses,
            hz: self.hz,
            max_flows: u32::try_from(flows).unwrap_or(u32::MAX),
            half_open_budget: default_half_open_budget(self.store.maps.flow_capacity(), desired.snat.ports.count()),
            drained: &drained,
            room: self.store.maps.room(),
        };
        let (wanted, missing) = tables::build(desired, &context, &actual, &mut self.cursors);
        problems.extend(missing.iter().map(ToString::to_string));
        self.unserved = missing
            .iter()
            .map(|problem| (problem.frontend().to_owned(), problem.to_string()))
            .collect();
        self.note_draining(&wanted, now);
        self.left_now = false;
        for op in diff(&actual, &wanted) {
            tracing::debug!(?op, "map operation");
            self.left_now |= matches!(op, MapOp::DeactivateFrontend { .. });
            self.store.apply(&op)?;
        }
        self.publish_filter(wanted.vips);
        if self.route_revision != Some(hops.revision) {
            self.route_revision = Some(hops.revision);
            if let Some(control) = self.store.maps.control() {
                control.advance_routes();
            }
        }
        Ok(problems)
    }

    /// The data path looks at packets to these, and to announced addresses.
    fn publish_filter(&mut self, mut vips: BTreeSet<Addr>) {
        vips.extend(self.store.announced_addresses());
        let random = &mut self.random;
        self.store.publish_filter(&vips, || random.u64(..));
    }

    /// Carries out what is to be done with the SNAT rows. Ports that are all back are seen at once where possible.
    fn settle_snat(&mut self, desired: &Desired, hops: &NextHopView) -> Plan {
        let room = Room {
            reverse: MAX_REVERSE,
            pools: MAX_PORT_POOLS,
        };
        let mut plan = Plan::default();
        for _ in 0..SNAT_STEPS {
            plan = snat::plan(&desired.snat, &hops.hops, &self.store.snat_rows(), room);
            if plan.ops.is_empty() {
                break;
            }
            let (resume, others): (Vec<_>, Vec<_>) =
                plan.ops.iter().partition(|op| matches!(op, SnatOp::Resume { .. }));
            others.into_iter().for_each(|op| self.store.apply_snat(op));
            if !resume.is_empty() {
                // Replies must be known as ours before the first flow has such an address.
                self.publish_filter(self.store.vips());
            }
            resume.into_iter().for_each(|op| self.store.apply_snat(op));
        }
        self.snat_unfinished = plan.unfinished;
        if self.waiting != plan.waiting {
            self.waiting.clone_from(&plan.waiting);
            for address in &plan.waiting {
                tracing::warn!(%address, "another SNAT port range is asked for; it comes into force once no flow holds a port of the present one");
            }
        }
        plan
    }

    /// An agent that died while it ended a flow may have left its frontend's count one too high. Nobody starts flows of a
    /// frontend out of service, so the count is wrong when a whole walk has found none.
    fn forget_flows_of_the_gone(&mut self, actual: &Tables) {
        self.leaving.retain(|row, _| actual.leaving.contains(row));
        let passes = self.sweeper.passes();
        for row in &actual.leaving {
            let since = *self.leaving.entry(*row).or_insert(passes);
            let none = |count: &Count| !count.by_frontend.contains_key(row);
            if passes >= since + 2 && self.sweeper.count().is_some_and(none) {
                tracing::info!(row, "a removed frontend's count of flows was wrong; its row is free");
                self.store.forget_flows(*row);
            }
        }
    }

    /// Rows of removed backends whose time is up, or whose flows are all gone.
    fn drained(&mut self, actual: &Tables, now: Instant) -> BTreeSet<u32> {
        self.note_draining(actual, now);
        let passes = self.sweeper.passes();
        let idle = |row: &u32, drain: &Drain| {
            let counted_since = passes >= drain.passes + 2;
            counted_since
                && self
                    .sweeper
                    .count()
                    .is_some_and(|count| !count.by_backend.contains_key(row))
        };
        let over = |drain: &Drain| now.duration_since(drain.since) >= DRAIN_TIME;
        self.draining
            .iter()
            .filter(|(row, drain)| over(drain) || idle(row, drain))
            .map(|(row, _)| *row)
            .collect()
    }

    /// Keeps the list of backends that drain, and since when.
    fn note_draining(&mut self, tables: &Tables, now: Instant) {
        let leaving = |row: &tables::BackendRow| row.flags & flag::DRAINING != 0;
        self.draining
            .retain(|row, _| tables.backends.get(row).is_some_and(leaving));
        let passes = self.sweeper.passes();
        for (number, row) in tables.backends.iter().filter(|(_, row)| leaving(row)) {
            self.draining.entry(*number).or_insert(Drain {
                address: row.address.into(),
                since: now,
                passes,
            });
        }
    }

    /// Frontends that the last round could not serve as they should be, and why.
    #[must_use]
    pub fn unserved(&self) -> &BTreeMap<String, String> {
        &self.unserved
    }

    /// True while removed backends, frontends or SNAT addresses wait for their flows: then another round is due after a
    /// while.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty() || !self.leaving.is_empty() || self.left_now || self.snat_unfinished
    }

    /// Addresses of removed backends that still have flows: their next hops are wanted too.
    #[must_use]
    pub fn draining_addresses(&self) -> BTreeSet<IpAddr> {
        self.draining.values().map(|drain| drain.address).collect()
    }

    /// Writes down for `status` why the last change of the configuration was refused, or that it is in force.
    pub fn note(&self, config_error: Option<&str>) {
        if let Some(note) = self.store.maps.note.first() {
            note.write(
                u64::from(std::process::id()),
                config_error.unwrap_or_default().as_bytes(),
            );
        }
    }

    /// One step of the sweep; some hundred microseconds.
    ///
    /// # Errors
    /// When the data path's clock cannot be read.
    pub fn sweep(&mut self) -> Result<(), BpfError> {
        // A whole walk later: whoever was in the middle of a step then has long finished, or has died.
        if self.sweeper.passes() > 0
            && let Some((suspects, snat)) = self.suspects.take()
        {
            let unchanged = |slot: &u8, view: &mut SnatView| snat.get(slot).is_some_and(|then| same_ports(then, view));
            let mut now = self.snat_views();
            now.retain(unchanged);
            let mended = suspects.mend(&self.store.maps, &now);
            if mended > 0 {
                tracing::info!(mended, "mended what an earlier process left half done");
            }
        }
        let now = clock::read(self.programs.clock()?)?.tick();
        if let Some(control) = self.store.maps.control() {
            control.swept.store(now);
        }
        let (maps, passes) = (&self.store.maps, self.sweeper.passes());
        let mut over: Vec<Binding> = Vec::new();
        let is_stale = |binding: &Binding| {
            let row = usize::try_from(binding.backend)
                .ok()
                .and_then(|row| maps.backends.get(row));
            let stale = row.is_none_or(|row| row.view().generation != binding.generation);
            // The others are found in the next walk.
            let found = stale && over.len() < ENDED_AT_ONCE;
            if found {
                over.push(*binding);
            }
            found
        };
        let ended = self.sweeper.step(maps, is_stale, now);
        self.tell_ends(&over);
        if self.sweeper.passes() > passes
            && let Some(count) = self.sweeper.count()
        {
            for (row, difference) in self.half_open.compare(&self.store.maps, count) {
                tracing::info!(
                    row,
                    difference,
                    "a frontend's count of half-open flows was wrong and is mended"
                );
            }
        }
        if ended > 0 {
            tracing::debug!(ended, "idle flows ended");
        }
        Ok(())
    }

    /// Has both ends of connections that are over speak, to be answered by the data path.
    fn tell_ends(&mut self, over: &[Binding]) {
        let Some(sender) = &self.sender else { return };
        let maps = &self.store.maps;
        for binding in over {
            let client = SocketAddr::new(binding.client.into(), u16::from_be(binding.client_port));
            let vip = maps
                .frontend(binding.frontend)
                .map(|row| SocketAddr::new(row.vip().into(), u16::from_be(row.port())));
            // A row that went to another backend says nothing of the one before.
            let backend = usize::try_from(binding.backend)
                .ok()
                .and_then(|row| maps.backends.get(row))
                .map(|row| row.view())
                .filter(|view| view.flags & flag::FLOWS_ENDED != 0)
                .map(|view| SocketAddr::new(view.address.into(), u16::from_be(view.port)));
            let snat = maps
                .snat(u32::from(binding.snat_slot))
                .map(|row| SocketAddr::new(row.address().into(), u16::from_be(binding.snat_port)));
            let ends = [(Some(client), vip), (backend, snat)];
            for end in ends
                .into_iter()
                .filter_map(|(to, from)| Some(End { to: to?, from: from? }))
            {
                if let Err(error) = sender.nudge(&end, self.random.u32(..)) {
                    tracing::debug!(to = %end.to, "a connection is over, and its end is not told before it speaks: {error}");
                }
            }
        }
    }

    fn snat_views(&self) -> BTreeMap<u8, SnatView> {
        self.store
            .snat_rows()
            .into_iter()
            .map(|(slot, (view, _))| (slot, view))
            .collect()
    }

    /// Capacity in a line for people.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let addresses = self.snat_views().into_values().map(|view| {
            let per_protocol = u64::from(view.ports) << view.fold_bits;
            (IpAddr::from(view.address), per_protocol)
        });
        Capacity {
            flows: self.store.maps.flow_capacity(),
            buckets: self.store.maps.layout().buckets(),
            hz: self.hz,
            snat: addresses.collect(),
        }
    }
}

/// What the tables have room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Flows at half load of the table.
    pub flows: u64,
    /// Buckets, stash included.
    pub buckets: u32,
    /// Jiffies per second.
    pub hz: u32,
    /// Flows of each protocol that each SNAT address has ports for.
    pub snat: BTreeMap<IpAddr, u64>,
}

/// True when an interface that is asked for has come, or one that is attached has gone.
fn is_stale(wanted: &[(String, AttachMode)], attached: &[Attached], links: &BTreeMap<u32, Link>) -> bool {
    let is_attached = |index: u32, name: &str| {
        attached
            .iter()
            .any(|done| done.ifindex == index && done.interface == name)
    };
    let is_wanted = |name: &str| wanted.iter().any(|(interface, _)| interface == name);
    let has_come = |(index, link): (&u32, &Link)| is_wanted(&link.name) && !is_attached(*index, &link.name);
    let has_gone = |done: &Attached| links.get(&done.ifindex).is_none_or(|link| link.name != done.interface);
    links.iter().any(has_come) || attached.iter().any(has_gone)
}

/// Interfaces that XDP may redirect to.
fn redirectable(attached: &[Attached]) -> BTreeSet<u32> {
    let is_redirectable = |done: &&Attached| matches!(done.mode, Mode::Xdp | Mode::Generic);
    attached
        .iter()
        .filter(is_redirectable)
        .map(|done| done.ifindex)
        .collect()
}

/// Within the bounds of a row's word; a table or range too small for any gets one.
fn default_half_open_budget(flow_capacity: u64, ports: u32) -> u32 {
    let share = (flow_capacity / SHARE_OF_HALF_OPEN.0).min(u64::from(ports) / SHARE_OF_HALF_OPEN.1);
    u32::try_from(share).unwrap_or(u32::MAX / 2).max(1)
}

/// True when the rows differ in nothing that matters to a port.
fn same_ports(a: &SnatView, b: &SnatView) -> bool {
    let place = |view: &SnatView| {
        (
            view.address,
            view.first_port,
            view.ports,
            view.reverse,
            view.pool,
            view.fold_bits,
        )
    };
    place(a) == place(b)
}

/// CPUs that may run the programs.
fn cpus() -> u32 {
    let configured = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_CONF)
        .ok()
        .flatten();
    configured
        .and_then(|cpus| u32::try_from(cpus).ok())
        .filter(|cpus| *cpus > 0)
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(links: &[(u32, &str)]) -> BTreeMap<u32, Link> {
        let link = |name: &str| Link {
            name: name.to_owned(),
            mac: None,
            mtu: 1_500,
            up: true,
        };
        links.iter().map(|(index, name)| (*index, link(name))).collect()
    }

    #[test]
    fn only_interfaces_that_are_asked_for_and_come_or_go_matter() {
        let wanted = [
            ("eth0".to_owned(), AttachMode::Auto),
            ("eth1".to_owned(), AttachMode::Auto),
        ];
        let attached = ["eth0", "eth1"].map(|name| Attached {
            interface: name.to_owned(),
            ifindex: if name == "eth0" { 2 } else { 3 },
            mode: Mode::Tcx,
            reason: String::new(),
        });
        let stale = |attached: &[Attached], present: &[(u32, &str)]| is_stale(&wanted, attached, &links(present));
        assert!(!stale(&attached, &[(2, "eth0"), (3, "eth1"), (9, "veth9")]));
        assert!(stale(&attached, &[(2, "eth0")]), "eth1 is gone");
        assert!(stale(&attached, &[(2, "eth0"), (7, "eth1")]), "eth1 is another one");
        assert!(stale(&attached, &[(2, "eth0"), (3, "wan")]), "eth1 has another name");
        assert!(!stale(&attached[..1], &[(2, "eth0")]), "eth1 is known to be gone");
        assert!(stale(&attached[..1], &[(2, "eth0"), (8, "eth1")]), "eth1 is back");
    }
}
