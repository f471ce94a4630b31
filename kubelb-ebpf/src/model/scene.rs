//! A small configuration for tests, the same in memory and in the kernel: TCP port 80 and UDP port 53 of an IPv4 and an
//! IPv6 VIP, three backends behind each, one SNAT address of each family.

use kubelb_common::addr::{Addr, ICMP, ICMPV6, TCP, UDP};
use kubelb_common::announce::{AnnounceKey, NO_ROW, Subject};
use kubelb_common::control::{FILTER_BYTES, FILTER_SNAT, FILTER_VIP};
use kubelb_common::flow_table::{FlowTables, Layout};
use kubelb_common::frontend::{ECHO_ONLY, FrontendKey, timeout};
use kubelb_common::hash;
use kubelb_common::next_hop::{MacWord, NextHopView, flag};
use kubelb_common::shared::Line;
use kubelb_common::snat::SnatView;

use super::{Model, Rows, Sizes};

/// The VIPs.
pub const VIP: [Addr; 2] = [
    Addr::v4([203, 0, 113, 10]),
    Addr::v6([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
];
/// What backends see as the client.
pub const SNAT: [Addr; 2] = [
    Addr::v4([192, 0, 2, 1]),
    Addr::v6([0x20, 0x01, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
];
/// First SNAT port of both.
pub const FIRST_PORT: u16 = 20_000;
/// Ports of the frontends.
pub const SERVICE: [(u8, u16); 2] = [(TCP, 80), (UDP, 53)];
/// Ports of the backends.
pub const BACKEND_PORT: [u16; 2] = [30_080, 30_053];
/// Backends of each frontend.
pub const BACKENDS: u32 = 3;
/// Interface that leads to the backends.
pub const EGRESS: u32 = 7;
/// MAC address of that interface.
pub const EGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// Interface that the VIPs are announced on.
pub const LINK: u32 = 1;
/// MAC address of that interface.
pub const LINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of another interface of this node.
pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// TCP port of announced VIPs that something on the node serves.
pub const LOCAL_PORT: u16 = 443;
/// Under which announced VIPs were taken over.
pub const EPOCH: u64 = 5;
/// Row number of an announced VIP of a family.
#[must_use]
pub const fn announced(family: u32) -> u32 {
    1 + family
}
/// Largest IP packet on the way to the backends.
pub const MTU: u16 = 1_400;
const FILTER_SEED: u64 = 0x5eed_f117_e400_0001;
const FLOW_SEED: u64 = 0x5eed_f100_0000_0002;
/// Room for the slots of each frontend.
const SLOTS: u32 = 16;

/// Where the rows are: in a [`Model`] or in mapped memory.
pub trait Store {
    /// The rows.
    fn rows(&self) -> Rows<'_>;
    /// Says which frontend a key leads to.
    fn set_key(&mut self, key: FrontendKey, number: u32);
    /// Says what is known of an announced address.
    fn set_announce_key(&mut self, key: AnnounceKey, row: u32);
    /// Says that a MAC address is one of this node's.
    fn set_own_mac(&mut self, mac: MacWord);
}

impl Store for Model {
    fn rows(&self) -> Rows<'_> {
        Self::rows(self)
    }
    fn set_key(&mut self, key: FrontendKey, number: u32) {
        Self::set_key(self, key, number);
    }
    fn set_announce_key(&mut self, key: AnnounceKey, row: u32) {
        Self::set_announce_key(self, key, row);
    }
    fn set_own_mac(&mut self, mac: MacWord) {
        Self::set_own_mac(self, mac);
    }
}

/// What varies.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Flows that the table is made for.
    pub flows: u32,
    /// SNAT ports of each address, of each protocol.
    pub ports: u32,
    /// CPUs that share them out.
    pub cpus: u32,
    /// All idle timeouts, in jiffies.
    pub timeouts: [u32; timeout::COUNT],
    /// Half-open flows of each TCP frontend; 0: no budget.
    pub half_open_budget: u32,
    /// Jiffies per second, for what is measured in parts of one.
    pub hz: u32,
    /// The VIPs are announced on [`LINK`], and [`LOCAL_PORT`] of them is served by something on the node.
    pub announces: bool,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            flows: 1_024,
            ports: 1_000,
            cpus: 2,
            timeouts: [1_000_000; timeout::COUNT],
            half_open_budget: 0,
            hz: 0,
            announces: false,
        }
    }
}

/// Row number of the frontend of a family (0: IPv4) and protocol (0: TCP).
#[must_use]
pub const fn frontend(family: u32, protocol: u32) -> u32 {
    1 + 2 * family + protocol
}

/// Row number of backend `n`, counted from 0, of a frontend.
#[must_use]
pub const fn backend(frontend: u32, n: u32) -> u32 {
    1 + (frontend - 1) * BACKENDS + n
}

/// Address of backend `n`, counted from 0, of a family.
#[must_use]
pub fn backend_address(family: usize, n: u8) -> Addr {
    if family == 0 {
        Addr::v4([10, 0, 1, 11 + n])
    } else {
        Addr::v6([0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11 + n])
    }
}

/// MAC address of backend `n`'s neighbour.
#[must_use]
pub const fn neighbour(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, 1 + n]
}

impl Scene {
    /// How many rows it takes.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            layout: Layout::for_flows(self.flows),
            rows: 128,
            addresses: 16,
            pools: 4,
            reverse: usize::try_from(Line::of(self.ports * 4) + 1).unwrap_or(usize::MAX),
        }
    }

    /// Maps in memory with this configuration.
    #[must_use]
    pub fn model(&self) -> Model {
        let mut model = Model::new(&self.sizes());
        self.fill(&mut model);
        model
    }

    /// Writes the configuration into empty maps.
    pub fn fill(&self, store: &mut impl Store) {
        for (family, vip) in (0..).zip(VIP) {
            store.set_key(
                FrontendKey::new(vip, 0, if family == 0 { ICMP } else { ICMPV6 }),
                ECHO_ONLY,
            );
            for (n, (protocol, port)) in (0..).zip(SERVICE) {
                store.set_key(FrontendKey::new(vip, port.to_be(), protocol), frontend(family, n));
            }
        }
        if self.announces {
            announce(store);
        }
        let rows = store.rows();
        rows.control.flow_seed.store(FLOW_SEED);
        fill_filter(&rows);
        rows.control.publish_filter(0, FILTER_SEED);
        rows.control.cpus.store(self.cpus);
        rows.control.hz.store(self.hz);
        rows.control.advance_routes();
        self.fill_snat(&rows);
        for n in 0..BACKENDS {
            let hop = NextHopView {
                destination: MacWord::new(neighbour(u8::try_from(n).unwrap_or(0)), MTU),
                source: MacWord::new(EGRESS_MAC, flag::RESOLVED | flag::XDP | flag::ROUTED),
                interface: EGRESS,
            };
            if let Some(row) = row(rows.next_hops, 1 + n) {
                row.replace(&hop);
            }
        }
        for family in 0..2 {
            for protocol in 0..2 {
                self.fill_frontend(&rows, family, protocol);
            }
        }
    }

    fn fill_snat(&self, rows: &Rows<'_>) {
        for (slot, address) in (0..).zip(SNAT) {
            let view = SnatView {
                address,
                first_port: u32::from(FIRST_PORT),
                ports: self.ports,
                fold_bits: 0,
                reverse: slot * 2 * self.ports,
                pool: slot * 2,
                in_service: true,
            };
            for section in 0..view.sections() {
                if let Some(pool) = rows.flows.pool(view.pool_index(section)) {
                    (0..self.ports).for_each(|port| pool.put(port));
                }
            }
            if let Some(row) = rows.flows.snat(slot) {
                row.replace(&view);
            }
        }
    }

    fn fill_frontend(&self, rows: &Rows<'_>, family: u8, protocol: u8) {
        let number = frontend(u32::from(family), u32::from(protocol));
        let (Some(vip), Some((kind, port)), Some(backend_port), Some(row)) = (
            VIP.get(usize::from(family)),
            SERVICE.get(usize::from(protocol)),
            BACKEND_PORT.get(usize::from(protocol)),
            rows.flows.frontend(number),
        ) else {
            return;
        };
        for n in 0..BACKENDS {
            let address = backend_address(usize::from(family), u8::try_from(n).unwrap_or(0));
            if let Some(row) = self::row(rows.backends, backend(number, n)) {
                row.occupy(address, backend_port.to_be(), number, 1 + n);
                row.set_share(1, None);
            }
        }
        row.activate(*vip, port.to_be(), *kind);
        row.set_timeouts(self.timeouts);
        if *kind == TCP {
            row.set_half_open_budget(self.half_open_budget);
        }
        publish(rows, number, &[0, 1, 2]);
    }
}

fn announce(store: &mut impl Store) {
    for mac in [LINK_MAC, OTHER_MAC] {
        store.set_own_mac(MacWord::new(mac, 0));
    }
    for (family, vip) in (0..).zip(VIP) {
        if let Some(row) = row(store.rows().announced, announced(family)) {
            row.vacate();
            row.take_over(EPOCH, LINK_MAC, 0);
        }
        store.set_announce_key(AnnounceKey::new(vip, Subject::Interface(LINK)), announced(family));
        store.set_announce_key(AnnounceKey::new(vip, Subject::Guarded), NO_ROW);
        let port = Subject::LocalPort(TCP, LOCAL_PORT.to_be());
        store.set_announce_key(AnnounceKey::new(vip, port), NO_ROW);
    }
}

fn fill_filter(rows: &Rows<'_>) {
    let mut bytes = Box::new([0; FILTER_BYTES]);
    let mut mark = |address, bits: u8| {
        if let Some(byte) = bytes.get_mut(usize::from(hash::address(FILTER_SEED, address))) {
            *byte |= bits;
        }
    };
    for (number, address) in (1..).zip(SNAT) {
        mark(address, number & FILTER_SNAT);
    }
    for vip in VIP {
        mark(vip, FILTER_VIP);
    }
    if let Some(filter) = rows.filters.first() {
        filter.fill(&bytes);
    }
}

/// Gives a frontend these backends, counted from 0, in this order.
pub fn publish(rows: &Rows<'_>, number: u32, order: &[u32]) {
    let offset = number * SLOTS;
    for (slot, n) in (offset..).zip(order) {
        if let Some(line) = row(rows.backend_slots, Line::of(slot)) {
            line.word(slot).store(backend(number, *n));
        }
    }
    if let Some(frontend) = rows.flows.frontend(number) {
        frontend.publish_set(offset, u32::try_from(order.len()).unwrap_or(0));
    }
}

fn row<T>(rows: &[T], index: u32) -> Option<&T> {
    rows.get(usize::try_from(index).ok()?)
}
