//! The packets of the scene: what a client sends, and what it must become.

use std::net::IpAddr;

use kubelb_common::flow::{ClientHop, tag};
use kubelb_common::flow_table::{FlowTables as _, slot};
use kubelb_common::next_hop::MacWord;
use kubelb_ebpf::model::Rows;
use kubelb_ebpf::model::scene::{
    BACKEND_PORT, EGRESS_MAC, FIRST_PORT, MTU, SERVICE, SNAT, VIP, backend_address, frontend, neighbour,
};

use crate::packet::{Body, Packet, Tcp};

pub(super) const SYN: u8 = Tcp::SYN;
pub(super) const ACK: u8 = Tcp::ACK;
pub(super) const FIN: u8 = Tcp::FIN;
pub(super) const RST: u8 = Tcp::RST;

/// Interface that all frames come in on.
pub(super) const INGRESS: u32 = 1;
/// MAC address of the client's side, as [`Packet::new`] has it.
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of the node's side.
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Family and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) v6: bool,
    pub(super) udp: bool,
}

pub(super) const TCP4: Kind = Kind { v6: false, udp: false };
pub(super) const UDP4: Kind = Kind { v6: false, udp: true };
pub(super) const TCP6: Kind = Kind { v6: true, udp: false };
pub(super) const UDP6: Kind = Kind { v6: true, udp: true };
pub(super) const ALL: [Kind; 4] = [TCP4, UDP4, TCP6, UDP6];
pub(super) const TCPS: [Kind; 2] = [TCP4, TCP6];
pub(super) const UDPS: [Kind; 2] = [UDP4, UDP6];

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match (self.v6, self.udp) {
            (false, false) => "IPv4 TCP",
            (false, true) => "IPv4 UDP",
            (true, false) => "IPv6 TCP",
            (true, true) => "IPv6 UDP",
        }
    }

    fn family(self) -> usize {
        usize::from(self.v6)
    }

    fn protocol(self) -> usize {
        usize::from(self.udp)
    }

    pub(super) fn frontend(self) -> u32 {
        frontend(u32::from(self.v6), u32::from(self.udp))
    }

    /// Client number `n`.
    pub(super) fn client(self, n: u16) -> (IpAddr, u16) {
        let address = if self.v6 {
            IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7])
        } else {
            IpAddr::from([198, 51, 100, 7])
        };
        (address, 40_000 + n)
    }

    pub(super) fn vip(self) -> (IpAddr, u16) {
        (VIP[self.family()].into(), SERVICE[self.protocol()].1)
    }

    pub(super) fn backend(self, n: u8) -> (IpAddr, u16) {
        (backend_address(self.family(), n).into(), BACKEND_PORT[self.protocol()])
    }

    /// What backends see, for the `n`-th flow of the first CPU.
    pub(super) fn snat(self, n: u16) -> (IpAddr, u16) {
        (SNAT[self.family()].into(), FIRST_PORT + n)
    }

    /// A TCP segment or UDP datagram with some data.
    pub(super) fn packet(self, source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Packet {
        if self.udp {
            return Packet::udp(source, destination, b"question");
        }
        let mut packet = Packet::tcp(source, destination, flags);
        if flags & ACK != 0
            && let Body::Tcp(tcp) = &mut packet.body
        {
            // What the other side says next, when it has said nothing but its SYN.
            tcp.acknowledgement = tcp.sequence + 1;
        }
        if flags & (SYN | RST) == 0 {
            set_payload(&mut packet, b"odd data!".to_vec());
        }
        packet
    }

    /// What client `n` sends.
    pub(super) fn request(self, n: u16, flags: u8) -> Packet {
        self.packet(self.client(n), self.vip(), flags)
    }

    /// That, on its way to backend `backend` as flow number `port`.
    pub(super) fn forwarded(self, request: &Packet, backend: u8, port: u16) -> Packet {
        let mut packet = between(request, self.snat(port), self.backend(backend));
        packet.ttl -= 1;
        packet.destination_mac = neighbour(backend);
        packet.source_mac = EGRESS_MAC;
        packet
    }

    /// What backend `backend` answers in flow number `port`.
    pub(super) fn response(self, backend: u8, port: u16, flags: u8) -> Packet {
        self.packet(self.backend(backend), self.snat(port), flags)
    }

    /// That, on its way to client `n`.
    pub(super) fn returned(self, response: &Packet, n: u16) -> Packet {
        let mut packet = between(response, self.vip(), self.client(n));
        packet.ttl -= 1;
        packet.destination_mac = CLIENT_MAC;
        packet.source_mac = NODE_MAC;
        packet
    }
}

pub(super) fn set_payload(packet: &mut Packet, bytes: Vec<u8>) {
    match &mut packet.body {
        Body::Tcp(tcp) => tcp.payload = bytes,
        Body::Udp(udp) => udp.payload = bytes,
        Body::Icmp { payload, .. } => *payload = bytes,
        Body::Raw { bytes: raw, .. } => *raw = bytes,
    }
}

/// The packet with other ends.
pub(super) fn between(packet: &Packet, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Packet {
    let mut packet = packet.clone();
    (packet.source, packet.destination) = (source.0, destination.0);
    match &mut packet.body {
        Body::Tcp(tcp) => (tcp.source, tcp.destination) = (source.1, destination.1),
        Body::Udp(udp) => (udp.source, udp.destination) = (source.1, destination.1),
        Body::Icmp { .. } | Body::Raw { .. } => {}
    }
    packet
}

/// The way back that every client has, on `interface`.
pub(super) fn client_hop(rows: &Rows<'_>, interface: u32, mtu: u16, xdp: bool) -> ClientHop {
    let hop = ClientHop {
        destination: MacWord::new(CLIENT_MAC, rows.control.route_revision()),
        source: MacWord::new(NODE_MAC, 0),
        interface,
    };
    hop.with(mtu, xdp)
}

/// Resolves the way back of every live flow.
pub(super) fn know_clients(rows: &Rows<'_>) {
    set_client_hops(rows, &client_hop(rows, INGRESS, MTU, true));
}

pub(super) fn set_client_hops(rows: &Rows<'_>, hop: &ClientHop) {
    for index in 0..rows.flows.layout().buckets() * 4 {
        if let Some((word, flow)) = slot(&rows.flows, index)
            && tag::state(word.load()) == tag::LIVE
        {
            flow.set_client_hop(hop);
        }
    }
}
