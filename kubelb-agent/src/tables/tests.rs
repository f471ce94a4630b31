mod crash;
mod full;
mod image;
mod new_flows;

use std::num::NonZeroU32;
use std::time::Duration;

use kubelb_common::frontend::timeout;

use super::*;
use crate::diff::{MapOp, diff};
use crate::model::{Algorithm, CheckTarget, HealthCheck};
use image::Image;

/// Rows of the maps.
const ROOM: Room = Room {
    frontends: size::MAX_FRONTENDS,
    backends: 65_536,
    slots: size::MIN_BACKEND_SLOTS,
    hops: size::MAX_NEXT_HOPS,
};

/// All that a round depends on but the maps.
#[derive(Clone, Debug, Default)]
struct Inputs {
    desired: Desired,
    health: HealthView,
    hops: BTreeMap<IpAddr, NextHop>,
    xdp_interfaces: BTreeSet<u32>,
    snat: BTreeMap<IpAddr, u8>,
    snat_addresses: BTreeMap<IpAddr, u8>,
    drained: BTreeSet<u32>,
    /// `None`: as many as a new map has.
    backend_slots: Option<u32>,
}

impl Inputs {
    fn build(&self, actual: &Tables, cursors: &mut Cursors) -> (Tables, Vec<Problem>) {
        let context = Context {
            health: &self.health,
            hops: &self.hops,
            xdp_interfaces: &self.xdp_interfaces,
            snat: &self.snat,
            snat_addresses: &self.snat_addresses,
            hz: 250,
            max_flows: 1_000,
            half_open_budget: 500,
            drained: &self.drained,
            room: Room {
                slots: self.backend_slots.unwrap_or(ROOM.slots),
                ..ROOM
            },
        };
        build(&self.desired, &context, actual, cursors)
    }
}

/// Maps that live through rounds, with an agent that does not die.
#[derive(Default)]
struct World {
    image: Image,
    cursors: Cursors,
    ops: Vec<MapOp>,
}

impl World {
    /// One round: nothing may be missing, and a second one has nothing to do.
    fn round(&mut self, inputs: &Inputs) -> Tables {
        let (tables, problems) = self.round_with_problems(inputs);
        assert_eq!(problems, []);
        tables
    }

    fn round_with_problems(&mut self, inputs: &Inputs) -> (Tables, Vec<Problem>) {
        let actual = self.image.read_back();
        let (wanted, problems) = inputs.build(&actual, &mut self.cursors);
        self.ops = diff(&actual, &wanted);
        self.ops.iter().for_each(|op| self.image.apply(op));
        self.image.assert_safe();
        let now = self.image.read_back();
        assert_eq!(without_flows(&now), without_flows(&wanted));
        let (again, _) = inputs.build(&now, &mut self.cursors.clone());
        assert_eq!(again, now, "a second round wants the same");
        assert_eq!(diff(&now, &again), [], "a second round has nothing to do");
        (now, problems)
    }
}

/// Whether a row that left has flows is the data path's to say.
fn without_flows(tables: &Tables) -> Tables {
    Tables {
        leaving: BTreeSet::new(),
        ..tables.clone()
    }
}

fn frontend(vip: &str, port: u16, backends: &[(&str, u16)]) -> Frontend {
    Frontend {
        vip: vip.parse().unwrap(),
        port: port.try_into().unwrap(),
        protocol: Protocol::Tcp,
        algorithm: Algorithm::RoundRobin,
        affinity: None,
        source_ranges: None,
        health_check: None,
        timeouts: Timeouts::default(),
        half_open_budget: None,
        backends: backends
            .iter()
            .map(|(address, weight)| Backend::new(address.parse().unwrap(), *weight))
            .collect(),
    }
}

fn inputs(frontends: &[(&str, Frontend)]) -> Inputs {
    let mut inputs = Inputs::default();
    for (name, frontend) in frontends {
        inputs.desired.frontends.insert((*name).to_owned(), frontend.clone());
    }
    inputs
}

fn web(backends: &[(&str, u16)]) -> Inputs {
    inputs(&[("web", frontend("203.0.113.10", 80, backends))])
}

/// Row number of the backend with this address.
fn row_of(tables: &Tables, address: &str) -> u32 {
    let address: std::net::SocketAddr = address.parse().unwrap();
    let identity = (Addr::from(address.ip()), address.port().to_be());
    let mut rows = tables
        .backends
        .iter()
        .filter(|(_, row)| (row.address, row.port) == identity);
    let (number, _) = rows.next().unwrap_or_else(|| panic!("no row for {address}"));
    assert!(rows.next().is_none(), "{address} has two rows");
    *number
}

fn only(tables: &Tables) -> &FrontendRow {
    assert_eq!(tables.frontends.len(), 1);
    tables.frontends.values().next().unwrap()
}

fn hop(ifindex: u32, mac: Option<u8>) -> NextHop {
    NextHop {
        ifindex,
        source_mac: [2, 0, 0, 0, 0, 0],
        neighbour_mac: mac.map(|last| [2, 0, 0, 0, 1, last]),
        mtu: 1_500,
        source: None,
    }
}

const A: &str = "10.0.0.1:8080";
const B: &str = "10.0.0.2:8080";
const C: &str = "10.0.0.3:8080";

#[test]
fn a_new_frontend_is_complete_before_clients_find_it() {
    let mut world = World::default();
    let tables = world.round(&web(&[(A, 1), (B, 1)]));
    let row = only(&tables);
    assert_eq!((row.name.as_str(), row.max_flows), ("web", 1_000));
    assert_eq!(row.timeouts[timeout::TCP_ESTABLISHED], 7_440 * 250);
    assert_eq!(row.turn, [row_of(&tables, A), row_of(&tables, B)]);
    assert_eq!(tables.vips, [Addr::v4([203, 0, 113, 10])].into());
    let key = world.ops.iter().position(|op| matches!(op, MapOp::InsertKey { .. }));
    assert_eq!(
        key,
        Some(world.ops.len() - 2),
        "only the answer to echo requests comes after the key"
    );
}

#[test]
fn other_backends_keep_their_rows_when_one_comes_or_goes() {
    let mut world = World::default();
    let before = world.round(&web(&[(A, 1), (B, 1)]));
    let more = world.round(&web(&[(A, 1), (C, 1), (B, 1)]));
    assert_eq!(
        [row_of(&more, A), row_of(&more, B)],
        [row_of(&before, A), row_of(&before, B)]
    );
    assert_eq!(only(&more).turn.len(), 3);
    assert_ne!(
        only(&more).offset,
        only(&before).offset,
        "a published turn is never written to"
    );

    let fewer = world.round(&web(&[(A, 1), (C, 1)]));
    assert_eq!(
        [row_of(&fewer, A), row_of(&fewer, C)],
        [row_of(&more, A), row_of(&more, C)]
    );
    let gone = row_of(&fewer, B);
    assert_eq!(gone, row_of(&before, B), "it drains in its row");
    assert_ne!(fewer.backends[&gone].flags & flag::DRAINING, 0);
    assert!(!only(&fewer).turn.contains(&gone));
}

#[test]
fn a_backend_that_comes_back_while_it_drains_keeps_its_flows() {
    let mut world = World::default();
    let before = world.round(&web(&[(A, 1), (B, 1)]));
    world.round(&web(&[(A, 1)]));
    let after = world.round(&web(&[(A, 1), (B, 1)]));
    assert_eq!(after.backends, before.backends, "the same row, no longer draining");
    assert_eq!(only(&after).turn, only(&before).turn);
}

#[test]
fn a_drained_backend_goes_and_its_row_is_given_out_last() {
    let mut world = World::default();
    world.round(&web(&[(A, 1), (B, 1)]));
    let mut without = web(&[(A, 1)]);
    let draining = row_of(&world.round(&without), B);
    without.drained.insert(draining);
    let after = world.round(&without);
    assert!(!after.backends.contains_key(&draining));
    let next = world.round(&web(&[(A, 1), (C, 1)]));
    assert_ne!(row_of(&next, C), draining);
}

#[test]
fn weights_change_the_turn_and_nothing_else() {
    let mut world = World::default();
    let before = world.round(&web(&[(A, 1), (B, 1)]));
    let (a, b) = (row_of(&before, A), row_of(&before, B));
    let after = world.round(&web(&[(A, 2), (B, 1)]));
    let turn = &only(&after).turn;
    assert_eq!(
        [a, b].map(|row| turn.iter().filter(|slot| **slot == row).count()),
        [2, 1]
    );
    let changes = |op: &MapOp| matches!(op, MapOp::SetBackendShare { .. } | MapOp::PublishTurn { .. });
    assert!(world.ops.iter().all(changes), "{:?}", world.ops);
    let none = world.round(&web(&[(A, 2), (B, 0)]));
    assert_eq!(only(&none).turn, [a], "weight 0 takes no new flows");
    assert_eq!(none.backends[&b].flags & flag::DRAINING, 0, "and keeps its flows");
}

#[test]
fn a_frontend_that_comes_back_gets_another_row_while_its_flows_are_left() {
    let mut world = World::default();
    let first = only(&world.round(&web(&[(A, 1)]))).number;
    world.image.set_flows(first, 3);
    let gone = world.round(&Inputs::default());
    assert_eq!(gone.leaving, [first].into());
    assert!(gone.backends.is_empty() && gone.vips.is_empty() && gone.hops.is_empty());
    // Even an agent that starts anew, and looks for rows from the beginning.
    world.cursors = Cursors::default();
    let second = only(&world.round(&web(&[(A, 1)]))).number;
    assert_ne!(second, first);
    world.image.set_flows(first, 0);
    assert_eq!(world.image.read_back().leaving, BTreeSet::new());
}

#[test]
fn one_port_with_two_protocols_is_two_frontends_on_one_vip() {
    let mut dns = inputs(&[
        ("tcp", frontend("2001:db8::10", 53, &[("[2001:db8:1::1]:5353", 1)])),
        ("udp", frontend("2001:db8::10", 53, &[("[2001:db8:1::1]:5353", 1)])),
    ]);
    dns.desired.frontends.get_mut("udp").unwrap().protocol = Protocol::Udp;
    let mut world = World::default();
    let both = world.round(&dns);
    assert_eq!((both.frontends.len(), both.backends.len(), both.vips.len()), (2, 2, 1));
    dns.desired.frontends.remove("tcp");
    let udp = world.round(&dns);
    assert_eq!(
        (udp.frontends.len(), udp.vips.len()),
        (1, 1),
        "the VIP answers as long as one is left"
    );
    assert_eq!(udp.frontends.keys().next().unwrap().protocol(), UDP);
}

#[test]
fn v4_and_v6_live_side_by_side() {
    let mut world = World::default();
    let tables = world.round(&inputs(&[
        ("four", frontend("203.0.113.10", 80, &[(A, 1)])),
        ("six", frontend("2001:db8::10", 80, &[("[2001:db8:1::1]:8080", 1)])),
    ]));
    assert_eq!(tables.vips.iter().filter(|vip| vip.is_v4()).count(), 1);
    assert_eq!(tables.vips.len(), 2);
}

#[test]
fn a_changed_name_or_timeout_changes_that_alone() {
    let mut world = World::default();
    world.round(&web(&[(A, 1)]));
    let mut renamed = inputs(&[("shop", frontend("203.0.113.10", 80, &[(A, 1)]))]);
    renamed.desired.frontends.get_mut("shop").unwrap().timeouts.udp_replied = Duration::from_secs(7);
    let tables = world.round(&renamed);
    assert_eq!(only(&tables).timeouts[timeout::UDP_REPLIED], 7 * 250);
    assert!(
        matches!(world.ops[..], [MapOp::NameFrontend { .. }, MapOp::SetTimeouts { .. }]),
        "{:?}",
        world.ops
    );
}

#[test]
fn a_name_longer_than_its_row_is_cut_once_and_not_in_each_round() {
    let name = "ä".repeat(200);
    let mut world = World::default();
    let tables = world.round(&inputs(&[(name.as_str(), frontend("203.0.113.10", 80, &[]))]));
    assert_eq!(only(&tables).name, "ä".repeat(127));
}

fn checked(health: &[(&str, Health)]) -> Inputs {
    let mut inputs = web(&[(A, 1), (B, 1)]);
    let check = HealthCheck::tcp();
    inputs.desired.frontends.get_mut("web").unwrap().health_check = Some(check.clone());
    for (address, health) in health {
        let target = CheckTarget {
            address: address.parse().unwrap(),
            check: check.clone().into(),
        };
        inputs.health.insert(target, *health);
    }
    inputs
}

#[test]
fn an_unhealthy_backend_is_out_of_the_turn_and_all_of_them_means_none_is() {
    let mut world = World::default();
    let unknown = world.round(&checked(&[]));
    let (a, b) = (row_of(&unknown, A), row_of(&unknown, B));
    assert_eq!(only(&unknown).turn, [a, b], "not checked yet takes traffic");
    let one = world.round(&checked(&[(A, Health::Unhealthy), (B, Health::Healthy)]));
    assert_eq!(only(&one).turn, [b]);
    assert_eq!(
        one.backends[&a].flags,
        flag::IN_USE | flag::HAS_CHECK | flag::CHECKED | flag::UNHEALTHY
    );
    let none = world.round(&checked(&[(A, Health::Unhealthy), (B, Health::Unhealthy)]));
    assert_eq!(only(&none).turn, [a, b], "fail open");
    let back = world.round(&checked(&[(A, Health::Healthy), (B, Health::Unhealthy)]));
    assert_eq!(only(&back).turn, [a]);
}

#[test]
fn fail_open_never_means_a_draining_backend() {
    let mut world = World::default();
    let mut dead = checked(&[(A, Health::Unhealthy), (B, Health::Unhealthy)]);
    world.round(&dead);
    dead.desired.frontends.get_mut("web").unwrap().backends.pop();
    let tables = world.round(&dead);
    assert_eq!(only(&tables).turn, [row_of(&tables, A)]);
    dead.desired.frontends.get_mut("web").unwrap().backends.clear();
    assert_eq!(only(&world.round(&dead)).turn, [0u32; 0]);
}

#[test]
fn backends_behind_one_gateway_share_a_next_hop_until_their_ways_part() {
    let mut inputs = web(&[(A, 1), (B, 1)]);
    inputs.xdp_interfaces.insert(7);
    for address in ["10.0.0.1", "10.0.0.2"] {
        inputs.hops.insert(address.parse().unwrap(), hop(7, Some(1)));
    }
    let mut world = World::default();
    let shared = world.round(&inputs);
    let (row, view) = shared.hops.iter().next().unwrap();
    assert_eq!(shared.hops.len(), 1);
    assert!(shared.backends.values().all(|backend| backend.next_hop == *row));
    assert_eq!(view.flags(), hop_flag::ROUTED | hop_flag::XDP | hop_flag::RESOLVED);
    assert_eq!((view.interface, view.mtu()), (7, 1_500));

    inputs.hops.insert("10.0.0.2".parse().unwrap(), hop(8, Some(2)));
    let parted = world.round(&inputs);
    assert_eq!(parted.hops.len(), 2);
    let b = &parted.backends[&row_of(&parted, B)];
    assert_eq!(parted.hops[&b.next_hop].destination.mac(), [2, 0, 0, 0, 1, 2]);
    assert_eq!(
        parted.hops[&b.next_hop].flags() & hop_flag::XDP,
        0,
        "interface 8 takes no redirects"
    );
    assert_eq!(parted.backends[&row_of(&parted, A)].next_hop, *row);
}

#[test]
fn a_changed_mac_is_written_to_a_row_that_nobody_uses_yet() {
    let mut inputs = web(&[(A, 1)]);
    inputs.hops.insert("10.0.0.1".parse().unwrap(), hop(7, None));
    let mut world = World::default();
    let unresolved = world.round(&inputs);
    assert_eq!(unresolved.hops.values().next().unwrap().flags(), hop_flag::ROUTED);
    inputs.hops.insert("10.0.0.1".parse().unwrap(), hop(7, Some(9)));
    let resolved = world.round(&inputs);
    let [
        MapOp::SetHop { row: new, .. },
        MapOp::SetBackendHop { .. },
        MapOp::ClearHop { row: old },
    ] = world.ops[..]
    else {
        panic!("{:?}", world.ops)
    };
    assert!(unresolved.hops.contains_key(&old) && resolved.hops.contains_key(&new));
    inputs.hops.clear();
    let lost = world.round(&inputs);
    assert!(lost.hops.is_empty(), "no route");
}

#[test]
fn a_draining_backend_keeps_a_next_hop_of_its_own() {
    let mut inputs = web(&[(A, 1), (B, 1)]);
    inputs.hops.insert("10.0.0.1".parse().unwrap(), hop(7, Some(1)));
    inputs.hops.insert("10.0.0.2".parse().unwrap(), hop(7, Some(2)));
    let mut world = World::default();
    world.round(&inputs);
    inputs.desired = web(&[(A, 1)]).desired;
    // The way is still followed, and changes.
    inputs.hops.insert("10.0.0.2".parse().unwrap(), hop(7, Some(3)));
    let followed = world.round(&inputs);
    let mac = |tables: &Tables| {
        tables.hops[&tables.backends[&row_of(tables, B)].next_hop]
            .destination
            .mac()
    };
    assert_eq!(mac(&followed), [2, 0, 0, 0, 1, 3]);
    // Then nothing is known of it any more, and another backend comes that could take the row.
    inputs.hops.remove(&"10.0.0.2".parse::<IpAddr>().unwrap());
    inputs.desired = web(&[(A, 1), (C, 1)]).desired;
    inputs.hops.insert("10.0.0.3".parse().unwrap(), hop(7, Some(4)));
    let forgotten = world.round(&inputs);
    assert_eq!(
        mac(&forgotten),
        [2, 0, 0, 0, 1, 3],
        "packets of its flows go where they went"
    );
}

#[test]
fn the_snat_row_of_a_backend_is_written_down() {
    let mut inputs = web(&[(A, 1), (B, 1)]);
    inputs.snat.insert("10.0.0.2".parse().unwrap(), 3);
    let tables = World::default().round(&inputs);
    assert_eq!(tables.backends[&row_of(&tables, A)].snat, None);
    assert_eq!(tables.backends[&row_of(&tables, B)].snat, Some(3));
}

#[test]
fn timeouts_are_rounded_up_to_jiffies_and_stay_comparable() {
    let timeouts = Timeouts {
        tcp_half_open: Duration::from_millis(1),
        tcp_established: Duration::MAX,
        tcp_closing: Duration::ZERO,
        ..Timeouts::default()
    };
    let [half_open, established, closing, ..] = jiffies(&timeouts, 100);
    assert_eq!((half_open, established, closing), (1, u32::MAX / 2, 0));
}

/// "web" with two checked backends that are reset when they turn unhealthy.
fn resetting() -> Inputs {
    let mut inputs = checked(&[]);
    for frontend in inputs.desired.frontends.values_mut() {
        for backend in &mut frontend.backends {
            backend.on_unhealthy = OnUnhealthy::Reset;
        }
    }
    inputs
}

/// Says what the checks of "web" find.
fn find(inputs: &mut Inputs, healths: [Health; 2]) {
    let web = inputs.desired.frontends["web"].clone();
    for (backend, health) in web.backends.iter().zip(healths) {
        inputs.health.insert(web.check_target(backend).unwrap(), health);
    }
}

#[test]
fn flows_of_an_unhealthy_backend_end_once_and_only_while_another_takes_new_ones() {
    use Health::{Healthy, Unhealthy};
    let mut inputs = resetting();
    let mut world = World::default();
    let mut ends = |healths| {
        find(&mut inputs, healths);
        let now = world.round(&inputs);
        let is_end = |op: &&MapOp| matches!(op, MapOp::EndBackendFlows { .. });
        let ended: Vec<MapOp> = world.ops.iter().filter(is_end).cloned().collect();
        let rows = [row_of(&now, A), row_of(&now, B)];
        let publish = world.ops.iter().position(|op| matches!(op, MapOp::PublishTurn { .. }));
        let end = world.ops.iter().position(|op| is_end(&op));
        assert!(
            end.is_none() || publish < end,
            "new flows go elsewhere first: {:?}",
            world.ops
        );
        rows.map(|row| ended.contains(&MapOp::EndBackendFlows { row }))
    };
    assert_eq!(ends([Healthy, Healthy]), [false, false]);
    assert_eq!(ends([Unhealthy, Healthy]), [true, false]);
    assert_eq!(ends([Unhealthy, Healthy]), [false, false], "once");
    assert_eq!(ends([Unhealthy, Unhealthy]), [false, false], "nobody is better");
    assert_eq!(
        ends([Unhealthy, Healthy]),
        [true, false],
        "those that came in between too"
    );
    assert_eq!(ends([Healthy, Healthy]), [false, false]);
    assert_eq!(ends([Healthy, Unhealthy]), [false, true]);
}

#[test]
fn flows_stay_with_an_unhealthy_backend_that_is_not_to_be_reset() {
    let mut inputs = checked(&[]);
    let mut world = World::default();
    world.round(&inputs);
    find(&mut inputs, [Health::Unhealthy, Health::Healthy]);
    world.round(&inputs);
    assert!(
        !world.ops.iter().any(|op| matches!(op, MapOp::EndBackendFlows { .. })),
        "{:?}",
        world.ops
    );
}

#[test]
fn a_budget_of_half_open_flows_is_the_frontends_own_or_the_default_and_never_for_udp() {
    let mut inputs = web(&[]);
    let mut world = World::default();
    assert_eq!(only(&world.round(&inputs)).half_open_budget, 500);
    let mut change = |change: &dyn Fn(&mut Frontend)| {
        inputs.desired.frontends.values_mut().for_each(change);
        only(&world.round(&inputs)).half_open_budget
    };
    assert_eq!(change(&|web| web.half_open_budget = NonZeroU32::new(7)), 7);
    assert_eq!(change(&|web| web.protocol = Protocol::Udp), 0);
}

#[test]
fn a_snat_address_that_is_asked_for_is_used_or_the_frontend_waits() {
    let address: IpAddr = "192.0.2.7".parse().unwrap();
    let mut inputs = web(&[("10.0.0.1:8080", 1)]);
    inputs.snat.insert("10.0.0.1".parse().unwrap(), 3);
    inputs
        .desired
        .frontends
        .values_mut()
        .for_each(|web| web.backends[0].snat = Some(address));
    let mut world = World::default();
    let (now, problems) = world.round_with_problems(&inputs);
    assert_eq!(now.frontends.len(), 0);
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["frontend web: SNAT address 192.0.2.7 is not in use"]
    );
    inputs.snat_addresses.insert(address, 5);
    let (now, problems) = world.round_with_problems(&inputs);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(now.backends[&row_of(&now, "10.0.0.1:8080")].snat, Some(5));
}
