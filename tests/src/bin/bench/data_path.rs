//! The product's XDP program with a configuration and flows of the bench's: loaded as the agent loads it, its rows made
//! and written by the agent's own functions, its pins on a bpffs that goes away with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use anyhow::{Context as _, ensure};
use aya::programs::ProgramFd;
use kubelb_agent::bpf::clock;
use kubelb_agent::bpf::load::{Programs, Sizes};
use kubelb_agent::bpf::maps::Maps;
use kubelb_agent::bpf::pins::{PinDirectory, existing_maps};
use kubelb_agent::bpf::store::Store;
use kubelb_agent::diff::diff;
use kubelb_agent::model::{
    Algorithm, Backend, Desired, Frontend, HealthView, NextHop, PortRange, Protocol, Snat, Timeouts,
};
use kubelb_agent::snat::{self, Room};
use kubelb_agent::tables::{self, Context, Cursors};
use kubelb_common::bench::pack;
use kubelb_common::flow::{ClientHop, Flow, WAYS, tag};
use kubelb_common::flow_table;
use kubelb_common::maps::{MAX_PORT_POOLS, MAX_REVERSE};
use kubelb_common::next_hop::MacWord;
use kubelb_common::stats::{Reason, Traffic};
use kubelb_common::tcp::state;
use kubelb_tests::packet::{Packet, Tcp};
use kubelb_tests::scratch::Scratch;

/// Where a test run's frames come in: the loopback interface, there being no other that is known to exist.
pub(crate) const INGRESS: u32 = 1;
/// Another interface, which frames are redirected to; a test run goes no further than the verdict, so none need have
/// this number.
pub(crate) const EGRESS: u32 = 2;

const CLIENT_PORT: u16 = 40_000;
const BACKEND_PORT: u16 = 30_080;
const BACKENDS: u8 = 16;
const MTU: u16 = 1_500;
const FLOW_SEED: u64 = 0x5eed_0000_f10e_0001;
const FILTER_SEED: u64 = 0x5eed_0000_f117_0002;

/// A kind of traffic: one frontend for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    TcpV4,
    TcpV6,
    UdpV4,
}

impl Kind {
    const ALL: [Self; 3] = [Self::TcpV4, Self::TcpV6, Self::UdpV4];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TcpV4 => "TCPv4",
            Self::TcpV6 => "TCPv6",
            Self::UdpV4 => "UDPv4",
        }
    }

    fn v6(self) -> bool {
        self == Self::TcpV6
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::TcpV4 | Self::TcpV6 => Protocol::Tcp,
            Self::UdpV4 => Protocol::Udp,
        }
    }

    fn vip(self) -> (IpAddr, NonZeroU16) {
        (
            address(self.v6(), [203, 0, 113, 10], 0x10),
            NonZeroU16::MIN.saturating_add(442),
        )
    }

    fn client(self) -> (IpAddr, u16) {
        (address(self.v6(), [198, 18, 0, 0], 0x3_0000), CLIENT_PORT)
    }

    fn snat(self) -> IpAddr {
        address(self.v6(), [192, 0, 2, 1], 0x1_0001)
    }

    fn frontend(self) -> Frontend {
        let (vip, port) = self.vip();
        let backend = |number: u8| {
            let address = address(self.v6(), [10, 0, 1, number], 0x2_0000 + u32::from(number));
            Backend::new(SocketAddr::new(address, BACKEND_PORT), 1)
        };
        Frontend {
            vip,
            port,
            protocol: self.protocol(),
            algorithm: Algorithm::RoundRobin,
            affinity: None,
            source_ranges: None,
            health_check: None,
            timeouts: Timeouts::default(),
            half_open_budget: None,
            backends: (1..=BACKENDS).map(backend).collect(),
        }
    }

    /// The first packet of a flow, from the first client.
    pub(crate) fn opening(self) -> Packet {
        self.packet(Tcp::SYN)
    }

    /// A later packet.
    pub(crate) fn following(self) -> Packet {
        self.packet(Tcp::ACK)
    }

    fn packet(self, flags: u8) -> Packet {
        let (vip, port) = self.vip();
        self.segment(self.client(), (vip, port.get()), flags)
    }

    fn segment(self, source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Packet {
        match self.protocol() {
            Protocol::Tcp => Packet::tcp(source, destination, flags),
            Protocol::Udp => Packet::udp(source, destination, b"12345678"),
        }
    }

    /// A packet of a backend; which one and to which port, the list of [`DataPath::reply_variants`] says.
    pub(crate) fn reply(self) -> anyhow::Result<Packet> {
        let backends = self.frontend().backends;
        let backend = backends.first().context("there are backends")?.address;
        Ok(self.segment((backend.ip(), backend.port()), (self.snat(), 1), Tcp::ACK))
    }

    /// A packet to an address that is not ours.
    pub(crate) fn stranger(self) -> Packet {
        let nobody = address(self.v6(), [203, 0, 113, 99], 0x99);
        self.segment(self.client(), (nobody, 443), Tcp::ACK)
    }
}

fn address(v6: bool, v4: [u8; 4], host: u32) -> IpAddr {
    if v6 {
        let [a, b, c, d] = host.to_be_bytes();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low).into()
    } else {
        Ipv4Addr::from(v4).into()
    }
}

/// The program and its maps.
pub(crate) struct DataPath {
    programs: Programs,
    store: Store,
    _pins: PinDirectory,
    // Last: the bpffs goes when nothing uses it any more.
    _scratch: Scratch,
}

impl DataPath {
    /// Loads it anew, with backends behind interface `egress`.
    pub(crate) fn load(egress: u32) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let bpffs = scratch.bpffs()?.join("kubelb");
        let pins = PinDirectory::open(&bpffs)?;
        let programs = Programs::load(&pins, Sizes::default(), false)?;
        let store = Store::new(Maps::open(&existing_maps(&bpffs)?, true)?)?;
        let mut path = Self {
            programs,
            store,
            _pins: pins,
            _scratch: scratch,
        };
        path.configure(egress)?;
        Ok(path)
    }

    fn configure(&mut self, egress: u32) -> anyhow::Result<()> {
        let frontends = Kind::ALL.map(|kind| (kind.name().to_owned(), kind.frontend()));
        let hop = NextHop {
            ifindex: egress,
            source_mac: [2, 0, 0, 0, 0, 0x0e],
            neighbour_mac: Some([2, 0, 0, 0, 0, 0x0f]),
            mtu: MTU.into(),
            source: None,
        };
        let desired = Desired {
            snat: Snat {
                addresses: vec![Kind::TcpV4.snat(), Kind::TcpV6.snat()],
                ports: PortRange::new(1_024, 65_535).context("a range")?,
            },
            frontends: frontends.into(),
            addresses: None,
        };
        let backends = desired.frontends.values().flat_map(|frontend| &frontend.backends);
        let hops: BTreeMap<IpAddr, NextHop> = backends.map(|backend| (backend.address.ip(), hop)).collect();
        let room = Room {
            reverse: MAX_REVERSE,
            pools: MAX_PORT_POOLS,
        };
        let plan = snat::plan(&desired.snat, &hops, &self.store.snat_rows(), room);
        ensure!(
            plan.left_out.is_empty(),
            "no room for SNAT addresses {:?}",
            plan.left_out
        );
        plan.ops.iter().for_each(|op| self.store.apply_snat(op));

        let control = self.store.maps.control().context("there is a control row")?;
        control.flow_seed.store(FLOW_SEED);
        control.cpus.store(1);
        control.advance_routes();
        let context = Context {
            health: &HealthView::new(),
            hops: &hops,
            xdp_interfaces: &BTreeSet::from([egress]),
            snat: &plan.rows,
            snat_addresses: &plan.addresses,
            hz: clock::measure_hz(self.programs.clock()?)?,
            max_flows: 0,
            // Not half of it is spent by any cell: flows are noted, and none has to give way.
            half_open_budget: 1 << 20,
            drained: &BTreeSet::new(),
            room: self.store.maps.room(),
        };
        let actual = self.store.read_back();
        let (wanted, problems) = tables::build(&desired, &context, &actual, &mut Cursors::default());
        ensure!(problems.is_empty(), "{problems:?}");
        for op in diff(&actual, &wanted) {
            self.store.apply(&op)?;
        }
        let mut seed = FILTER_SEED;
        self.store.publish_filter(&wanted.vips, || {
            seed = seed.wrapping_add(1);
            seed
        });
        Ok(())
    }

    /// The XDP program.
    pub(crate) fn program(&mut self) -> anyhow::Result<ProgramFd> {
        Ok(self.programs.xdp()?.fd()?.try_clone()?)
    }

    /// Number of flows.
    pub(crate) fn flows(&self) -> usize {
        live(&self.store.maps).count()
    }

    /// Makes all flows established, with their way back to the client known.
    pub(crate) fn establish(&self) -> anyhow::Result<()> {
        let revision = self
            .store
            .maps
            .control()
            .context("there is a control row")?
            .route_revision();
        let hop = ClientHop {
            destination: MacWord::new([2, 0, 0, 0, 0, 0x0c], revision),
            source: MacWord::new([2, 0, 0, 0, 0, 0x0d], 0),
            interface: EGRESS,
        };
        let hop = hop.with(MTU, true);
        for (_, _, flow) in live(&self.store.maps) {
            flow.add_state(0, state::ANSWERED | state::ESTABLISHED);
            flow.set_client_hop(&hop);
        }
        Ok(())
    }

    /// Ends all flows.
    pub(crate) fn forget_flows(&self) -> anyhow::Result<()> {
        let maps = &self.store.maps;
        let flows: Vec<(u32, u64)> = live(maps).map(|(index, tag, _)| (index, tag)).collect();
        for (index, tag) in flows {
            ensure!(flow_table::release(maps, index, tag), "a flow does not go");
        }
        Ok(())
    }

    /// For each flow, what a reply to it differs in, as the driver's list has it.
    pub(crate) fn reply_variants(&self) -> anyhow::Result<Vec<u64>> {
        live(&self.store.maps)
            .map(|(_, _, flow)| {
                let binding = flow.binding();
                let row = self.store.maps.backends.get(usize::try_from(binding.backend)?);
                let backend = row.context("the flow's backend has a row")?.view();
                let [.., low, last] = backend.address.bytes();
                Ok(pack(u16::from_ne_bytes([low, last]), backend.port, binding.snat_port))
            })
            .collect()
    }

    /// Counters of a kind's frontend over all CPUs.
    pub(crate) fn traffic(&self, kind: Kind) -> anyhow::Result<Traffic> {
        let rows = self.store.maps.frontend_traffic.get(&self.row(kind)?, 0)?;
        let mut sum = Traffic::default();
        rows.iter().for_each(|row| sum += *row);
        Ok(sum)
    }

    /// Reasons of packets that were not forwarded.
    pub(crate) fn drops(&self, kind: Kind) -> anyhow::Result<BTreeSet<&'static str>> {
        let mut reasons = BTreeSet::new();
        for row in [0, self.row(kind)?] {
            for counters in self.store.maps.frontend_drops.get(&row, 0)?.iter() {
                let counted = Reason::ALL.iter().zip(counters.0).filter(|(_, count)| *count > 0);
                reasons.extend(counted.map(|(reason, _)| reason.label()));
            }
        }
        Ok(reasons)
    }

    fn row(&self, kind: Kind) -> anyhow::Result<u32> {
        let tables = self.store.read_back();
        let row = tables.frontends.get(&tables::key_of(&kind.frontend()));
        Ok(row.context("the frontend has a row")?.number)
    }
}

fn live(maps: &Maps) -> impl Iterator<Item = (u32, u64, &Flow)> {
    (0u32..).zip(maps.flows.iter()).flat_map(|(number, bucket)| {
        (0u32..).zip(0..WAYS).filter_map(move |(way, place)| {
            let word = bucket.tag(place).load();
            (tag::state(word) == tag::LIVE).then(|| (number * 4 + way, word, bucket.flow(place)))
        })
    })
}
