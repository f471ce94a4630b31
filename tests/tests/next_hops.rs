//! The agent's next hops against a real kernel: routes, neighbours and links that change under it.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use kubelb_agent::model::NextHop;
use kubelb_agent::net::{self, NextHopView, NoHop};
use kubelb_tests::topology::{self, PEER_INTERFACE, Plan, Topology};
use kubelb_tests::{tool, wait};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Generous: what matters is that it happens, not how busy the machine is.
const SOON: Duration = Duration::from_secs(10);

/// The task under test, in a node's namespace.
struct Follower {
    wanted: watch::Sender<BTreeSet<IpAddr>>,
    view: watch::Receiver<NextHopView>,
    shutdown: CancellationToken,
    thread: Option<std::thread::JoinHandle<anyhow::Result<Result<(), net::NetError>>>>,
}

impl Follower {
    fn start(net: &Topology, wanted: &[IpAddr]) -> Self {
        let (wanted, to_follow) = watch::channel(wanted.iter().copied().collect());
        let (out, view) = watch::channel(NextHopView::default());
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(net::run(to_follow, out, stop))
        };
        let thread = Some(net.node.spawn(work).expect("a thread"));
        Self {
            wanted,
            view,
            shutdown,
            thread,
        }
    }

    fn view(&self) -> NextHopView {
        self.view.borrow().clone()
    }

    /// Waits for a view that `wanted` accepts.
    fn until(&self, what: &str, wanted: impl Fn(&NextHopView) -> bool) -> NextHopView {
        let (view, _) = wait::until(SOON, || {
            let view = self.view();
            ensure!(wanted(&view), "{what}: {view:#?}");
            Ok(view)
        })
        .expect("the view");
        view
    }

    fn until_resolved(&self, address: IpAddr) -> NextHop {
        let view = self.until("resolved", |view| mac(view, address).is_some());
        view.hops[&address]
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().expect("dropped once").join();
        if !std::thread::panicking() {
            ended.expect("no panic").expect("entered").expect("no error");
        }
    }
}

fn mac(view: &NextHopView, address: IpAddr) -> Option<[u8; 6]> {
    view.hops.get(&address)?.neighbour_mac
}

fn mk_net(tenants: u8) -> Topology {
    Topology::new(Plan {
        tenants,
        ..Plan::default()
    })
    .expect("a topology")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn unheard_of_neighbours_are_resolved_in_both_families() {
    let net = mk_net(2);
    let wanted: Vec<IpAddr> = net.tenants.iter().flat_map(|tenant| [tenant.v4, tenant.v6]).collect();
    let follower = Follower::start(&net, &wanted);
    for tenant in &net.tenants {
        for address in [tenant.v4, tenant.v6] {
            let hop = follower.until_resolved(address);
            let peer = topology::mac(&tenant.namespace, PEER_INTERFACE).expect("a MAC");
            let own = topology::mac(&net.node, &tenant.node_interface).expect("a MAC");
            assert_eq!(hop.neighbour_mac, Some(peer));
            assert_eq!(hop.source_mac, own);
            assert_eq!(hop.mtu, 1500);
            assert_eq!(
                hop.source,
                Some(tenant.gateway(address)),
                "the node's address on that link"
            );
            assert_eq!(follower.view().links[&hop.ifindex].name, tenant.node_interface);
        }
    }
}

#[test]
fn gateways_route_mtus_and_dead_ends_are_seen_as_they_change() {
    let net = mk_net(2);
    let far = [ip("198.51.100.1"), ip("2001:db8:1::1")];
    let follower = Follower::start(&net, &far);
    let view = follower.until("looked up", |view| view.unroutable.len() == 2);
    assert!(view.unroutable.values().all(|why| *why == NoHop::NoRoute), "{view:?}");

    for (tenant, mtu) in [(0, "1400"), (1, "1300")] {
        for (net_block, address) in [("198.51.100.0/24", 0), ("2001:db8:1::/64", 1)] {
            let tenant = &net.tenants[tenant];
            let via = tenant.address(far[address]).to_string();
            let before = follower.view().revision;
            net.node
                .ip(&["route", "replace", net_block, "via", &via, "mtu", mtu])
                .expect("a route");
            let peer = topology::mac(&tenant.namespace, PEER_INTERFACE).expect("a MAC");
            let view = follower.until("through the gateway", |view| mac(view, far[address]) == Some(peer));
            assert_eq!(view.hops[&far[address]].mtu.to_string(), mtu);
            assert!(view.revision > before);
        }
    }
    let dead_ends = [
        ("blackhole", NoHop::Blackhole),
        ("unreachable", NoHop::Unreachable),
        ("prohibit", NoHop::Prohibited),
    ];
    for (kind, why) in dead_ends {
        for address in far {
            net.node
                .ip(&["route", "replace", kind, &address.to_string(), "metric", "1"])
                .expect("a route");
        }
        follower.until(kind, |view| {
            far.iter().all(|address| view.unroutable.get(address) == Some(&why))
        });
        for address in far {
            net.node
                .ip(&["route", "del", kind, &address.to_string(), "metric", "1"])
                .expect("a route");
        }
        follower.until("back", |view| far.iter().all(|address| mac(view, *address).is_some()));
    }
    follower
        .wanted
        .send_replace(BTreeSet::from([ip("10.2.1.1"), ip("fd02:1::1"), ip("10.2.1.255")]));
    let view = follower.until("new set", |view| view.unroutable.len() == 3);
    assert_eq!(view.unroutable[&ip("10.2.1.1")], NoHop::Local);
    assert_eq!(view.unroutable[&ip("fd02:1::1")], NoHop::Local);
    assert_eq!(view.unroutable[&ip("10.2.1.255")], NoHop::NotUnicast);
    assert!(view.hops.is_empty());
}

#[test]
fn a_neighbour_with_a_new_mac_or_none_raises_the_revision() {
    let net = mk_net(1);
    let tenant = &net.tenants[0];
    let follower = Follower::start(&net, &[tenant.v4, tenant.v6]);
    for address in [tenant.v4, tenant.v6] {
        follower.until_resolved(address);
        let before = follower.view().revision;
        let text = address.to_string();
        let neighbour = ["neigh", "replace", &text, "dev", &tenant.node_interface];
        net.node
            .ip(&[&neighbour[..], &["lladdr", "02:00:00:00:00:99", "nud", "reachable"]].concat())
            .expect("a neighbour");
        let view = follower.until("new MAC", |view| mac(view, address) == Some([2, 0, 0, 0, 0, 0x99]));
        assert!(view.revision > before);
        net.node
            .ip(&[&neighbour[..], &["nud", "failed"]].concat())
            .expect("a neighbour");
        let view = follower.until("failed, then found again", |view| {
            view.revision > before + 1 && mac(view, address).is_some_and(|mac| mac != [2, 0, 0, 0, 0, 0x99])
        });
        assert!(view.revision > before + 1);
    }
}

#[test]
fn aging_neighbours_are_confirmed_and_nothing_changes() {
    let net = mk_net(1);
    let tenant = &net.tenants[0];
    for family in ["ipv4", "ipv6"] {
        let key = format!("net/{family}/neigh/{}/delay_first_probe_time", tenant.node_interface);
        net.node
            .sysctl(&key, "1")
            .expect("a shorter delay than the kernel's five seconds");
    }
    let follower = Follower::start(&net, &[tenant.v4, tenant.v6]);
    for address in [tenant.v4, tenant.v6] {
        follower.until_resolved(address);
        let before = follower.view();
        let text = address.to_string();
        let reachable = || {
            let shown = tool::output(net.node.command("ip").args(["neigh", "show", &text]))?;
            ensure!(shown.contains("REACHABLE"), "{shown}");
            Ok(())
        };
        wait::until(SOON, reachable).expect("resolved");
        let peer = topology::mac(&tenant.namespace, PEER_INTERFACE).expect("a MAC");
        let change = [
            "neigh",
            "replace",
            &text,
            "lladdr",
            &topology::mac_text(peer),
            "nud",
            "stale",
            "dev",
            &tenant.node_interface,
        ];
        net.node.ip(&change).expect("a neighbour");
        wait::until(SOON, reachable).expect("the agent has it confirmed again");
        assert_eq!(follower.view(), before);
    }
}

#[test]
fn a_flushed_neighbour_is_found_again() {
    let net = mk_net(1);
    let tenant = &net.tenants[0];
    let follower = Follower::start(&net, &[tenant.v4, tenant.v6]);
    for address in [tenant.v4, tenant.v6] {
        let known = follower.until_resolved(address);
        let before = follower.view().revision;
        net.node
            .ip(&["neigh", "flush", "to", &address.to_string()])
            .expect("a neighbour");
        let view = follower.until("found again", |view| {
            view.revision > before && mac(view, address).is_some()
        });
        assert_eq!(view.hops[&address], known);
    }
}

#[test]
fn a_neighbour_that_appears_late_is_found() {
    let net = mk_net(1);
    let tenant = &net.tenants[0];
    net.set_tenant_link(0, false).expect("down");
    let follower = Follower::start(&net, &[tenant.v4, tenant.v6]);
    let view = follower.until("looked up", |view| view.hops.len() + view.unroutable.len() == 2);
    assert!(view.hops.values().all(|hop| hop.neighbour_mac.is_none()));
    net.set_tenant_link(0, true).expect("up");
    follower.until_resolved(tenant.v4);
    follower.until_resolved(tenant.v6);
}

#[test]
fn link_changes_are_followed() {
    let net = mk_net(1);
    let tenant = &net.tenants[0];
    let follower = Follower::start(&net, &[tenant.v4]);
    let before = follower.until_resolved(tenant.v4);
    net.node
        .ip(&["link", "set", &tenant.node_interface, "mtu", "1400"])
        .expect("a link");
    follower.until("MTU", |view| {
        view.hops.get(&tenant.v4).is_some_and(|hop| hop.mtu == 1400)
    });
    net.node
        .ip(&["link", "set", &tenant.node_interface, "address", "02:00:00:00:00:77"])
        .expect("a link");
    let view = follower.until("MAC", |view| {
        view.hops
            .get(&tenant.v4)
            .is_some_and(|hop| hop.source_mac == [2, 0, 0, 0, 0, 0x77] && hop.neighbour_mac.is_some())
    });
    assert_eq!(view.hops[&tenant.v4].ifindex, before.ifindex);
    let revision = view.revision;
    net.node.ip(&["link", "del", &tenant.node_interface]).expect("a link");
    let view = follower.until("gone", |view| view.unroutable.contains_key(&tenant.v4));
    assert!(view.revision > revision);
    assert!(!view.links.contains_key(&before.ifindex));
}

#[test]
fn a_storm_of_events_leaves_a_true_picture() {
    let net = mk_net(1);
    let tenant = &net.tenants[0];
    let follower = Follower::start(&net, &[tenant.v4, tenant.v6]);
    follower.until_resolved(tenant.v4);
    follower.until_resolved(tenant.v6);
    let before = follower.view();
    // More than the event queue holds, should the agent not keep up.
    let mut batch = String::new();
    for number in 0..20_000u32 {
        batch += &format!(
            "route add 100.{}.{}.{}/32 via {}\n",
            number >> 16,
            (number >> 8) & 255,
            number & 255,
            tenant.v4
        );
    }
    batch += &format!(
        "neigh replace {} lladdr 02:00:00:00:00:55 nud permanent dev {}\n",
        tenant.v4, tenant.node_interface
    );
    let mut child = net
        .node
        .command("ip")
        .args(["-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("ip");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), batch.as_bytes()).expect("written");
    assert!(child.wait().expect("ip").success());
    let view = follower.until("the last word", |view| {
        mac(view, tenant.v4) == Some([2, 0, 0, 0, 0, 0x55])
    });
    assert!(view.revision > before.revision);
    assert_eq!(mac(&view, tenant.v6), mac(&before, tenant.v6));
}
