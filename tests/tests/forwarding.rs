//! Real traffic through a VIP, over both families, both transports and both attach modes.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use kubelb_tests::agent::Config;
use kubelb_tests::capture::{Capture, verify_all};
use kubelb_tests::packet::{Packet, Tcp};
use kubelb_tests::topology::{self, CLIENT_INTERFACE, PEER_INTERFACE, Plan};
use kubelb_tests::traffic::{Conversations, Iperf, Transport, ask, ask_many};
use kubelb_tests::wire::Wire;
use kubelb_tests::world::{BULK_PORT, Mode, NODE_PORT, VIP_PORT, Way, World, ensure_round_robin};

/// Flows from each CPU.
const FLOWS: usize = 30;

fn round_robin(mode: Mode) {
    let world = World::new(mode).expect("a world");
    let agent = world.agent(&Config::new(world.frontends())).expect("an agent");
    for way in Way::ALL {
        let counts = ask_many(&world.net.client, way.transport, way.address(), FLOWS).expect("answers");
        ensure_round_robin(&counts, 3)
            .with_context(|| way.name())
            .expect("equal turns");

        let status = agent.status().expect("a status");
        let frontend = status.frontend(&way.name()).expect("a frontend");
        let total: usize = counts.values().sum();
        assert_eq!(frontend.flows(), u64::try_from(total).expect("few"), "{}", way.name());
        let by_backend: u64 = frontend.flows_by_backend().values().sum();
        assert_eq!(by_backend, frontend.flows(), "{}", way.name());
    }
    for interface in world.net.node_interfaces() {
        let status = agent.status().expect("a status");
        assert_eq!(status.mode(interface).expect("attached").0, mode.flag());
    }
    let drops = agent.status().expect("a status").drops();
    assert!(drops.is_empty(), "{drops:?}");
}

#[test]
fn new_flows_go_round_exactly_in_xdp() {
    round_robin(Mode::Xdp);
}

#[test]
fn new_flows_go_round_exactly_in_tcx() {
    round_robin(Mode::Tcx);
}

fn sums_on_the_wire(mode: Mode) {
    // What the node sends is finished before it is captured, so that it shows what a network would see.
    let plan = Plan {
        tenants: 1,
        node_offload: false,
        ..mode.plan()
    };
    let world = World::with(mode, plan).expect("a world");
    let _agent = world.agent(&Config::new(world.frontends())).expect("an agent");
    let tenant = &world.net.tenants[0];
    for way in Way::ALL {
        let protocol = way.protocol().to_lowercase();
        let to_tenant = format!(
            "{protocol} and dst port {NODE_PORT} and src host {}",
            tenant.gateway(way.vip)
        );
        let to_client = format!("{protocol} and src port {VIP_PORT} and src host {}", way.vip);
        let to_tenant = Capture::start(&tenant.namespace, PEER_INTERFACE, &to_tenant).expect("tcpdump");
        let to_client = Capture::start(&world.net.client, PEER_INTERFACE, &to_client).expect("tcpdump");
        assert_eq!(
            ask(&world.net.client, way.transport, way.address()).expect("an answer"),
            "tenant1"
        );
        let packets = if way.transport == Transport::Tcp { 3 } else { 1 };
        for capture in [to_tenant, to_client] {
            let frames = capture.finish(packets).expect("frames");
            verify_all(&frames).with_context(|| way.name()).expect("right sums");
        }
    }
}

#[test]
fn checksums_are_right_on_the_wire_in_xdp() {
    sums_on_the_wire(Mode::Xdp);
}

#[test]
fn checksums_are_right_on_the_wire_in_tcx() {
    sums_on_the_wire(Mode::Tcx);
}

fn bulk(mode: Mode) {
    let world = World::new(mode).expect("a world");
    let agent = world.agent(&Config::new(world.bulk_frontends())).expect("an agent");
    let tenant = &world.net.tenants[0];
    for way in Way::ALL {
        let to = SocketAddr::new(way.vip, BULK_PORT);
        let run = Iperf::start(
            &tenant.namespace,
            BULK_PORT,
            &world.net.client,
            way.transport,
            to,
            3,
            50_000_000,
        );
        let report = run.expect("iperf3").finish().expect("a report");
        let least = if way.transport == Transport::Tcp { 100e6 } else { 35e6 };
        assert!(report.bits_per_second > least, "{}: {report:?}", way.name());
        // What a busy machine's sockets lose is not ours; that the data path drops nothing is asserted below.
        assert!(report.lost_percent < 20.0, "{}: {report:?}", way.name());
        assert_eq!(report.silent_seconds, 0, "{}: {report:?}", way.name());
    }
    let drops = agent.status().expect("a status").drops();
    assert!(drops.is_empty(), "{drops:?}");
}

#[test]
fn bulk_data_flows_in_xdp() {
    bulk(Mode::Xdp);
}

#[test]
fn bulk_data_flows_in_tcx() {
    bulk(Mode::Tcx);
}

fn other_traffic(mode: Mode) {
    let world = World::new(mode).expect("a world");
    let _agent = world.agent(&Config::new(world.frontends())).expect("an agent");
    for tenant in &world.net.tenants {
        for address in [tenant.v4, tenant.v6] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let answer = ask(&world.net.client, transport, SocketAddr::new(address, NODE_PORT));
                assert_eq!(answer.expect("routed by the node as before"), tenant.node_interface);
            }
        }
    }
}

#[test]
fn traffic_to_other_addresses_is_routed_as_before() {
    Mode::ALL.into_iter().for_each(other_traffic);
}

fn peers_seen(world: &World, vip: IpAddr) -> Vec<SocketAddr> {
    let peers = world.peers().into_iter();
    peers.filter(|peer| peer.is_ipv4() == vip.is_ipv4()).collect()
}

/// Packets to a frontend that no honest sender makes: cut at every length, with lengths that lie, of odd protocols.
fn odd_frames(world: &World, way: Way) -> Vec<Vec<u8>> {
    // Outside of the ephemeral ports, however its bytes are bent: a reset must not meet a conversation by chance.
    let from = (world.net.client_address(way.vip), 2_000);
    let to = (way.vip, VIP_PORT);
    let mut packet = match way.transport {
        Transport::Tcp => Packet::tcp(from, to, Tcp::SYN),
        Transport::Udp => Packet::udp(from, to, b"hello"),
    };
    packet.destination_mac = topology::mac(&world.net.node, CLIENT_INTERFACE).expect("a MAC");
    let whole = packet.bytes();
    let mut frames: Vec<Vec<u8>> = (14..whole.len()).map(|length| whole[..length].to_vec()).collect();
    // Every byte behind the addresses of Ethernet, all ones and all zero.
    for at in 12..whole.len() {
        for byte in [0x00, 0xff] {
            let mut frame = whole.clone();
            frame[at] = byte;
            frames.push(frame);
        }
    }
    for flags in 0..=u8::MAX {
        let mut odd = Packet::tcp(from, to, flags);
        odd.destination_mac = packet.destination_mac;
        frames.push(odd.bytes());
    }
    frames
}

fn survive_odd_frames(mode: Mode) {
    let world = World::new(mode).expect("a world");
    let agent = world.agent(&Config::new(world.frontends())).expect("an agent");
    let wire = Wire::open(&world.net.client, PEER_INTERFACE).expect("a socket");
    for way in Way::ALL {
        let flows = Conversations::open(&world.net.client, way.transport, way.address(), 5).expect("flows");
        for frame in odd_frames(&world, way) {
            wire.send(&frame).expect("sent");
        }
        flows.keep_talking(3).with_context(|| way.name()).expect("life");
        ask(&world.net.client, way.transport, way.address()).expect("an answer");
    }
    assert_eq!(
        agent.status().expect("a status").get("/agent/running"),
        Some(&true.into())
    );
}

#[test]
fn odd_frames_to_a_vip_harm_nobody() {
    Mode::ALL.into_iter().for_each(survive_odd_frames);
}

#[test]
fn backends_see_the_nodes_address_by_default() {
    let world = World::new(Mode::Xdp).expect("a world");
    let _agent = world.agent(&Config::new(world.frontends())).expect("an agent");
    for way in Way::ALL {
        ask_many(&world.net.client, way.transport, way.address(), 3).expect("answers");
        let gateways: Vec<IpAddr> = world.net.tenants.iter().map(|tenant| tenant.gateway(way.vip)).collect();
        for peer in peers_seen(&world, way.vip) {
            assert!(gateways.contains(&peer.ip()), "{}: {peer}", way.name());
            assert!((10_000..=29_999).contains(&peer.port()), "{}: {peer}", way.name());
        }
    }
}

#[test]
fn backends_see_the_snat_addresses_and_ports_that_were_asked_for() {
    for mode in Mode::ALL {
        let world = World::new(mode).expect("a world");
        let mut config = Config::new(world.frontends());
        config.snat_addresses = vec![
            "192.0.2.1".parse().expect("valid"),
            "2001:db8:ff::1".parse().expect("valid"),
        ];
        config.snat_ports = Some((20_000, 20_999));
        let _agent = world.agent(&config).expect("an agent");
        for way in Way::ALL {
            ask_many(&world.net.client, way.transport, way.address(), 6).expect("answers");
            for peer in peers_seen(&world, way.vip) {
                assert!(config.snat_addresses.contains(&peer.ip()), "{}: {peer}", way.name());
                assert!((20_000..=20_999).contains(&peer.port()), "{}: {peer}", way.name());
            }
        }
    }
}
