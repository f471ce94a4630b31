use super::*;
use crate::model::PortRange;
use proptest::prelude::*;

const ROOM: Room = Room {
    reverse: 1 << 22,
    pools: 1_024,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn snat(addresses: &[&str], first: u16, last: u16) -> Snat {
    Snat {
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        ports: PortRange::new(first, last).unwrap(),
    }
}

/// Backends and the node's address towards each.
fn hops(ways: &[(&str, &str)]) -> BTreeMap<IpAddr, NextHop> {
    let hop = |source: &str| NextHop {
        ifindex: 1,
        source_mac: [0; 6],
        neighbour_mac: None,
        mtu: 1_500,
        source: Some(ip(source)),
    };
    ways.iter()
        .map(|(backend, source)| (ip(backend), hop(source)))
        .collect()
}

/// Rows that live through plans, with the ports that flows hold.
#[derive(Default)]
struct Rows(BTreeMap<u8, (SnatView, u64)>);

impl Rows {
    fn apply(&mut self, op: &SnatOp) {
        match *op {
            SnatOp::Create { slot, view } => {
                assert!(
                    !view.in_service,
                    "nothing gives out ports before replies find the address"
                );
                assert_eq!(self.0.insert(slot, (view, 0)), None, "row {slot} is taken");
            }
            SnatOp::Retire { slot } => self.0.get_mut(&slot).unwrap().0.in_service = false,
            SnatOp::Resume { slot } => self.0.get_mut(&slot).unwrap().0.in_service = true,
            SnatOp::Free { slot } => {
                let (view, used) = self.0.remove(&slot).unwrap();
                assert!(used == 0 && !view.in_service, "row {slot} is in use");
            }
        }
    }

    fn round(&mut self, snat: &Snat, hops: &BTreeMap<IpAddr, NextHop>) -> Plan {
        let plan = plan(snat, hops, &self.0, ROOM);
        plan.ops.iter().for_each(|op| self.apply(op));
        self.assert_apart();
        plan
    }

    /// Until nothing is left to do at once.
    fn settle(&mut self, snat: &Snat, hops: &BTreeMap<IpAddr, NextHop>) -> Plan {
        for _ in 0..4 {
            let plan = self.round(snat, hops);
            if plan.ops.is_empty() {
                return plan;
            }
        }
        panic!("no end: {:?}", self.0)
    }

    fn assert_apart(&self) {
        let views = self.0.values().map(|(view, _)| view);
        let words = views
            .clone()
            .map(|view| (view.reverse, view.sections() * view.ports, ROOM.reverse));
        let pools = views.clone().map(|view| (view.pool, view.sections(), ROOM.pools));
        for mut ranges in [words.collect::<Vec<_>>(), pools.collect::<Vec<_>>()] {
            ranges.sort_unstable();
            for (index, (start, length, capacity)) in ranges.iter().enumerate() {
                let end = ranges.get(index + 1).map_or(*capacity, |(next, ..)| *next);
                assert!(start + length <= end, "{ranges:?}");
            }
        }
        let addresses: BTreeSet<Addr> = views.clone().map(|view| view.address).collect();
        assert_eq!(
            addresses.len(),
            self.0.len(),
            "the data path knows one row of an address"
        );
    }

    fn row(&self, address: &str) -> (u8, SnatView) {
        let row = self
            .0
            .iter()
            .find(|(_, (view, _))| view.address == Addr::from(ip(address)));
        row.map(|(slot, (view, _))| (*slot, *view))
            .unwrap_or_else(|| panic!("no row for {address}"))
    }

    fn set_used(&mut self, slot: u8, used: u64) {
        self.0.get_mut(&slot).unwrap().1 = used;
    }
}

#[test]
fn with_nothing_listed_each_backend_sees_the_nodes_address_on_its_side() {
    let mut rows = Rows::default();
    let ways = hops(&[
        ("10.1.0.1", "10.1.0.254"),
        ("10.1.0.2", "10.1.0.254"),
        ("10.2.0.1", "10.2.0.254"),
        ("2001:db8::1", "2001:db8::ffff"),
    ]);
    let plan = rows.round(&Snat::default(), &ways);
    let (one, view) = rows.row("10.1.0.254");
    let (two, _) = rows.row("10.2.0.254");
    let (six, _) = rows.row("2001:db8::ffff");
    assert!(view.in_service);
    assert_eq!((view.first_port, view.ports), (10_000, 20_000));
    assert_eq!(rows.0.len(), 3, "two backends behind one interface share a row");
    let expected = [
        ("10.1.0.1", one),
        ("10.1.0.2", one),
        ("10.2.0.1", two),
        ("2001:db8::1", six),
    ];
    assert_eq!(plan.rows, expected.map(|(backend, row)| (ip(backend), row)).into());
    assert_eq!(rows.round(&Snat::default(), &ways).ops, [], "nothing more to do");
}

#[test]
fn listed_addresses_serve_any_backend_of_their_family() {
    let mut rows = Rows::default();
    let ways = hops(&[("10.1.0.1", "10.1.0.254"), ("2001:db8::1", "2001:db8::ffff")]);
    let plan = rows.round(&snat(&["192.0.2.1", "192.0.2.2"], 1_024, 65_535), &ways);
    assert_eq!(rows.0.len(), 3);
    assert_eq!(rows.row("192.0.2.1").1.ports, 64_512);
    let (six, _) = rows.row("2001:db8::ffff");
    assert_eq!(
        plan.rows,
        [(ip("2001:db8::1"), six)].into(),
        "a family that is not listed has the node's own address; for the other any row will do"
    );
}

#[test]
fn an_address_that_is_no_longer_wanted_goes_once_its_ports_are_back() {
    let mut rows = Rows::default();
    let both = snat(&["192.0.2.1", "192.0.2.2"], 1_024, 2_047);
    let one = snat(&["192.0.2.2"], 1_024, 2_047);
    rows.settle(&both, &BTreeMap::new());
    let (slot, _) = rows.row("192.0.2.1");
    rows.set_used(slot, 5);
    assert_eq!(rows.round(&one, &BTreeMap::new()).ops, [SnatOp::Retire { slot }]);
    let plan = rows.round(&one, &BTreeMap::new());
    assert!(plan.ops.is_empty() && plan.unfinished, "flows hold ports: look again");
    // Wanted again before that: it goes on.
    assert_eq!(rows.round(&both, &BTreeMap::new()).ops, [SnatOp::Resume { slot }]);
    rows.round(&one, &BTreeMap::new());
    rows.set_used(slot, 0);
    assert_eq!(rows.round(&one, &BTreeMap::new()).ops, [SnatOp::Free { slot }]);
    let plan = rows.round(&one, &BTreeMap::new());
    assert!(plan.ops.is_empty() && !plan.unfinished);
}

#[test]
fn another_port_range_waits_for_the_flows_of_the_former_one() {
    let mut rows = Rows::default();
    let (before, after) = (snat(&["192.0.2.1"], 1_024, 2_047), snat(&["192.0.2.1"], 3_000, 3_999));
    rows.settle(&before, &BTreeMap::new());
    let (slot, view) = rows.row("192.0.2.1");
    rows.set_used(slot, 1);
    let plan = rows.round(&after, &BTreeMap::new());
    assert_eq!((plan.ops, plan.waiting), (vec![], vec![ip("192.0.2.1")]));
    assert!(plan.unfinished, "to be looked at again");
    assert_eq!(rows.row("192.0.2.1"), (slot, view), "it goes on as it is");

    rows.set_used(slot, 0);
    let plan = rows.settle(&after, &BTreeMap::new());
    assert!(plan.waiting.is_empty() && !plan.unfinished);
    let (_, view) = rows.row("192.0.2.1");
    assert_eq!((view.first_port, view.ports, view.in_service), (3_000, 1_000, true));
}

#[test]
fn addresses_beyond_the_last_row_are_named() {
    let addresses: Vec<String> = (1..=18).map(|n| format!("192.0.2.{n}")).collect();
    let listed: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut rows = Rows::default();
    let plan = rows.round(&snat(&listed, 1_024, 65_535), &BTreeMap::new());
    assert_eq!(rows.0.len(), 16);
    assert_eq!(plan.left_out, [ip("192.0.2.17"), ip("192.0.2.18")]);
    let folds: BTreeSet<u32> = rows.0.values().map(|(view, _)| view.fold_bits).collect();
    assert_eq!(folds, [1].into(), "addresses that come together get the same");
}

#[test]
fn room_is_left_for_addresses_that_come_later() {
    let mut rows = Rows::default();
    let mut listed: Vec<String> = Vec::new();
    for n in 1..=16 {
        listed.push(format!("192.0.2.{n}"));
        let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
        let plan = rows.round(&snat(&listed, 1, 65_535), &BTreeMap::new());
        assert_eq!(plan.left_out, Vec::<IpAddr>::new(), "address {n}");
    }
    assert_eq!(rows.row("192.0.2.1").1.fold_bits, 4, "the first one found much room");
}

proptest! {
    #[test]
    fn rows_never_overlap_and_rest_when_nothing_changes(
        steps in prop::collection::vec(
            (prop::collection::btree_set(1u8..25, 0..20), 1u16..60_000, 1u16..5_000, prop::collection::btree_map(0u8..16, 0u64..3, 0..16)),
            1..8,
        )
    ) {
        let mut rows = Rows::default();
        for (addresses, first, more, used) in steps {
            let addresses: Vec<String> = addresses.iter().map(|n| format!("192.0.2.{n}")).collect();
            let listed: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let wanted = snat(&listed, first, first + more);
            for (slot, used) in used {
                if let Some(row) = rows.0.get_mut(&slot) {
                    row.1 = used;
                }
            }
            rows.settle(&wanted, &BTreeMap::new());
            rows.0.values_mut().for_each(|row| row.1 = 0);
            let plan = rows.settle(&wanted, &BTreeMap::new());
            prop_assert!(!plan.unfinished && plan.waiting.is_empty());
            prop_assert_eq!(rows.0.len(), listed.len().min(16));
            prop_assert_eq!(plan.left_out.len(), listed.len().saturating_sub(16));
            for (view, _) in rows.0.values() {
                prop_assert!(view.in_service && view.first_port == u32::from(first) && view.ports == u32::from(more) + 1);
            }
        }
    }
}
