//! The testbed itself: what the other tests rely on, without the agent.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kubelb_tests::capture::{Capture, verify_all};
use kubelb_tests::netns::Namespace;
use kubelb_tests::packet::Packet;
use kubelb_tests::scratch::Scratch;
use kubelb_tests::topology::{self, CLIENT_INTERFACE, PEER_INTERFACE, Plan, Topology, VIP4, VIP6};
use kubelb_tests::traffic::{Conversations, Iperf, Kind, Server, Transport, ask, ask_many, client, http_get};
use kubelb_tests::wait;
use kubelb_tests::wire::Wire;

#[test]
fn a_namespace_and_what_is_in_it_go_with_their_guards() {
    let namespace = Namespace::new("gone").expect("root");
    let path = namespace.path();
    namespace
        .ip(&["link", "add", "name", "left", "type", "veth", "peer", "name", "right"])
        .expect("a link");
    assert!(path.exists());
    drop(namespace);
    assert!(!path.exists());

    let scratch = Scratch::new().expect("a directory");
    let bpffs = scratch.bpffs().expect("a bpffs");
    std::fs::create_dir(bpffs.join("kubelb")).expect("a directory on it");
    let path = scratch.path().to_owned();
    drop(scratch);
    assert!(!path.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc");
    assert!(!mounts.contains(path.to_str().expect("UTF-8")));
}

#[test]
fn work_runs_in_the_network_namespace_only() {
    let namespace = Namespace::new("inside").expect("root");
    let links = || {
        let listed = std::fs::read_to_string("/proc/thread-self/net/dev").expect("/proc");
        listed
            .lines()
            .skip(2)
            .map(|line| line.split(':').next().unwrap_or_default().trim().to_owned())
            .collect()
    };
    let inside: Vec<String> = namespace.run(links).expect("a thread");
    assert_eq!(inside, ["lo"]);
    let mounts = |path: &str| std::fs::read_link(Path::new("/proc/thread-self/ns").join(path)).expect("/proc");
    assert_eq!(
        namespace.run(|| mounts("mnt")).expect("a thread"),
        mounts("mnt"),
        "pins on a bpffs are seen outside"
    );
}

#[test]
fn a_killed_runs_namespaces_are_removed_by_the_next_and_a_live_ones_kept() {
    let live = Namespace::new("live").expect("root");
    // Process 4,194,304 can't exist: it is above the highest possible id (proc_sys_kernel(5), pid_max).
    let leaked = "kubelb-4194304-1-0-leaked";
    let made = std::process::Command::new("ip")
        .args(["netns", "add", leaked])
        .status()
        .expect("ip");
    assert!(made.success());
    kubelb_tests::netns::reap().expect("reaping");
    assert!(!Path::new("/run/netns").join(leaked).exists());
    assert!(live.path().exists());
}

#[test]
fn every_kind_of_traffic_passes_between_client_and_tenant() {
    let net = Topology::new(Plan {
        tenants: 1,
        ..Plan::default()
    })
    .expect("a topology");
    let tenant = &net.tenants[0];
    let tcp = Server::start(&tenant.namespace, Kind::Tcp, "one", 7000).expect("a server");
    let _udp = Server::start(&tenant.namespace, Kind::Udp, "one", 7000).expect("a server");
    let _http = Server::start(&tenant.namespace, Kind::Http, "web", 8080).expect("a server");
    let start = wait::now();
    for address in [tenant.v4, tenant.v6] {
        let to = SocketAddr::new(address, 7000);
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(ask(&net.client, transport, to).expect("an answer"), "one");
            let counts = ask_many(&net.client, transport, to, 5).expect("answers");
            let all: usize = counts.values().sum();
            assert_eq!(counts["one"], all);
            assert_eq!(all % 5, 0);
        }
        let answer = http_get(&net.client, SocketAddr::new(address, 8080), "/").expect("an answer");
        assert_eq!(answer, (200, "web".to_owned()));
        client::ping(&net.client, address, 1_400).expect("an echo");
        let closed = SocketAddr::new(address, 9999);
        client::expect_refused(&net.client, Transport::Tcp, closed).expect("a reset");
        client::expect_refused(&net.client, Transport::Udp, closed).expect("port unreachable");
    }
    assert!(
        wait::now() - start < Duration::from_secs(3),
        "nothing waits for address or neighbour detection"
    );
    let clients = tcp.peers();
    assert!(
        clients
            .iter()
            .all(|peer| [net.client_address(VIP4), net.client_address(VIP6)].contains(&peer.ip()))
    );
    assert_eq!(u64::try_from(clients.len()).expect("few"), tcp.served());
}

#[test]
fn conversations_notice_a_reset_and_a_silence() {
    let net = Topology::new(Plan {
        tenants: 1,
        ..Plan::default()
    })
    .expect("a topology");
    let tenant = &net.tenants[0];
    for transport in [Transport::Tcp, Transport::Udp] {
        let kind = if transport == Transport::Tcp {
            Kind::Tcp
        } else {
            Kind::Udp
        };
        let server = Server::start(&tenant.namespace, kind, "one", 7000).expect("a server");
        let flows = Conversations::open(&net.client, transport, SocketAddr::new(tenant.v4, 7000), 10).expect("flows");
        flows.keep_talking(3).expect("life");
        assert!(flows.ledger().failures.is_empty());
        server.stop().expect("it worked");
        let noticed = wait::until(Duration::from_secs(10), || {
            anyhow::ensure!(flows.ledger().failures.len() == 10);
            Ok(())
        });
        noticed.expect("all are noticed");
        assert!(flows.keep_talking(1).is_err());
        let ledger = flows.finish().expect("they were open");
        assert_eq!(ledger.servers["one"], 10);
    }
}

#[test]
fn iperf_measures_both_transports_and_families() {
    let net = Topology::new(Plan {
        tenants: 1,
        ..Plan::default()
    })
    .expect("a topology");
    let tenant = &net.tenants[0];
    for address in [tenant.v4, tenant.v6] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let to = SocketAddr::new(address, 5201);
            let run = Iperf::start(&tenant.namespace, 5201, &net.client, transport, to, 1, 10_000_000).expect("iperf3");
            let report = run.finish().expect("a report");
            assert!(report.bits_per_second > 5e6, "{transport:?} to {to}: {report:?}");
            assert!(report.lost_percent < 1.0, "{transport:?} to {to}: {report:?}");
        }
    }
}

#[test]
fn captures_tell_finished_checksums_from_unfinished_ones() {
    for peer_offload in [false, true] {
        let plan = Plan {
            tenants: 1,
            peer_offload,
            node_offload: false,
            ..Plan::default()
        };
        let net = Topology::new(plan).expect("a topology");
        let tenant = &net.tenants[0];
        let _server = Server::start(&tenant.namespace, Kind::Tcp, "one", 7000).expect("a server");
        let leaving = Capture::start(&net.client, PEER_INTERFACE, "tcp and src host 10.1.0.2").expect("tcpdump");
        let arriving = Capture::start(&tenant.namespace, PEER_INTERFACE, "tcp and dst host 10.2.1.2").expect("tcpdump");
        ask(&net.client, Transport::Tcp, SocketAddr::new(tenant.v4, 7000)).expect("an answer");
        let leaving = verify_all(&leaving.finish(4).expect("frames"));
        assert_eq!(leaving.is_err(), peer_offload, "{leaving:?}");
        verify_all(&arriving.finish(4).expect("frames")).expect("the node finishes what the client leaves open");
    }
}

#[test]
fn a_cut_link_comes_back_whole() {
    let net = Topology::new(Plan {
        tenants: 1,
        ..Plan::default()
    })
    .expect("a topology");
    let tenant = &net.tenants[0];
    let _server = Server::start(&tenant.namespace, Kind::Tcp, "one", 7000).expect("a server");
    net.set_tenant_link(0, false).expect("down");
    net.set_tenant_link(0, true).expect("up");
    net.pin_neighbours().expect("neighbours");
    for address in [tenant.v4, tenant.v6] {
        assert_eq!(
            ask(&net.client, Transport::Tcp, SocketAddr::new(address, 7000)).expect("an answer"),
            "one"
        );
    }
}

#[test]
fn frames_built_here_reach_real_sockets_and_odd_ones_the_wire() {
    let net = Topology::new(Plan {
        tenants: 1,
        ..Plan::default()
    })
    .expect("a topology");
    let tenant = &net.tenants[0];
    let server = Server::start(&tenant.namespace, Kind::Udp, "one", 7000).expect("a server");
    let wire = Wire::open(&net.client, PEER_INTERFACE).expect("a socket");
    let node_mac = topology::mac(&net.node, CLIENT_INTERFACE).expect("a MAC");
    for address in [tenant.v4, tenant.v6] {
        let from = (net.client_address(address), 40_000);
        let mut packet = Packet::udp(from, (address, 7000), b"hello");
        packet.destination_mac = node_mac;
        let answer = Capture::start(&net.client, PEER_INTERFACE, "udp and src port 7000").expect("tcpdump");
        wire.send(&packet.bytes()).expect("sent");
        verify_all(&answer.finish(1).expect("an answer")).expect("right sums");
        assert!(server.peers().contains(&SocketAddr::new(from.0, from.1)));

        packet.vlan = Some(5);
        let tagged = packet.bytes();
        let arriving = Capture::start(&net.node, CLIENT_INTERFACE, "vlan 5").expect("tcpdump");
        wire.send(&tagged).expect("sent");
        assert_eq!(arriving.finish(1).expect("a frame"), [tagged]);
    }
}
