//! Death between any two operations: what packets meet is sound at each point, and the next agent gets where the dead
//! one was going.

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;

const ADDRESSES: u8 = 6;

/// A small world, so that random configurations meet each other.
fn any_inputs() -> impl Strategy<Value = Inputs> {
    let backends = prop::collection::btree_map(0..ADDRESSES, 0u16..4, 0..5);
    let sources = prop::option::of(prop::collection::btree_set(0u8..3, 0..3));
    let shape = (
        0u8..3,
        prop::bool::ANY,
        prop::bool::ANY,
        prop::bool::ANY,
        backends,
        (sources, 0u8..12, prop::bool::ANY),
    );
    let frontends = prop::collection::btree_map(0u8..5, shape, 0..4);
    let hops = prop::collection::btree_map(0..ADDRESSES, (1u32..3, prop::option::of(0u8..2)), 0..5);
    let unhealthy = prop::collection::btree_set(0..ADDRESSES, 0..4);
    let snat = prop::collection::btree_map(0..ADDRESSES, 0u8..3, 0..3);
    (frontends, hops, unhealthy, snat).prop_map(|(frontends, hops, unhealthy, snat)| {
        let mut inputs = Inputs::default();
        inputs.xdp_interfaces.insert(1);
        let mut taken = BTreeSet::new();
        for (name, (vip, udp, check, reset, backends, (sources, algorithm, affinity))) in frontends {
            let mut frontend = frontend(&format!("203.0.113.{vip}"), 80, &[]);
            frontend.protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            frontend.health_check = checked(&[]).desired.frontends["web"]
                .health_check
                .clone()
                .filter(|_| check);
            // Tables are long, and looked at after each operation: a few will do.
            frontend.algorithm = match algorithm {
                0 => Algorithm::Maglev,
                1 => Algorithm::MaglevBySource,
                _ => Algorithm::RoundRobin,
            };
            frontend.affinity = affinity.then_some(Duration::from_secs(10));
            frontend.source_ranges = sources.map(|networks| networks.into_iter().map(network).collect());
            for (address, weight) in backends {
                frontend.backends.push(Backend {
                    on_unhealthy: if reset { OnUnhealthy::Reset } else { OnUnhealthy::Drain },
                    ..Backend::new((ip(address), 8080).into(), weight)
                });
            }
            // A source refuses a VIP and port twice.
            if taken.insert(key_of(&frontend)) {
                for backend in frontend.backends.iter().filter(|backend| is_in(&unhealthy, backend)) {
                    if let Some(target) = frontend.check_target(backend) {
                        inputs.health.insert(target, Health::Unhealthy);
                    }
                }
                inputs.desired.frontends.insert(format!("f{name}"), frontend);
            }
        }
        inputs.hops = hops
            .into_iter()
            .map(|(address, (link, mac))| (ip(address), hop(link, mac)))
            .collect();
        inputs.snat = snat.into_iter().map(|(address, row)| (ip(address), row)).collect();
        inputs
    })
}

/// One of three networks of which the last two are next to each other.
fn network(n: u8) -> IpNet {
    format!("10.{}.0.0/16", [0, 6, 7][usize::from(n)]).parse().unwrap()
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn is_in(addresses: &BTreeSet<u8>, backend: &Backend) -> bool {
    addresses.iter().any(|address| ip(*address) == backend.address.ip())
}

/// Name, turn, timeouts, what becomes of new flows, and whose are refused.
type Served = (
    String,
    Vec<(Addr, u16)>,
    [u32; timeout::COUNT],
    Policy,
    Option<Vec<Span>>,
);
/// Flags, weight, SNAT row and next hop.
type Reached = (u16, u16, Option<u8>, Option<NextHopView>);

/// What the tables mean, whatever the numbers of the rows are.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    frontends: BTreeMap<FrontendKey, Served>,
    backends: BTreeMap<(FrontendKey, Addr, u16), Reached>,
    vips: BTreeSet<Addr>,
    rows: [usize; 3],
}

fn meaning(tables: &Tables) -> Meaning {
    let keys: BTreeMap<u32, FrontendKey> = tables.frontends.iter().map(|(key, row)| (row.number, *key)).collect();
    let identity = |row: &u32| (tables.backends[row].address, tables.backends[row].port);
    Meaning {
        frontends: tables
            .frontends
            .iter()
            .map(|(key, row)| {
                let mut turn: Vec<_> = row.turn.iter().map(identity).collect();
                if row.policy.selection == Selection::RoundRobin {
                    // Who begins depends on the numbers.
                    turn.sort_unstable();
                }
                let admitted = row.sources.as_ref().map(|set| set.spans.clone());
                (*key, (row.name.clone(), turn, row.timeouts, row.policy, admitted))
            })
            .collect(),
        backends: tables
            .backends
            .values()
            .map(|row| {
                let hop = tables.hops.get(&row.next_hop).copied();
                let who = (keys[&row.frontend], row.address, row.port);
                (who, (row.flags, row.weight, row.snat, hop))
            })
            .collect(),
        vips: tables.vips.clone(),
        rows: [tables.backends.len(), tables.hops.len(), tables.stray.len()],
    }
}

/// Draining backends that a round finds in the maps.
fn draining(tables: &Tables) -> BTreeSet<u32> {
    let rows = tables.backends.iter();
    rows.filter(|(_, row)| row.flags & flag::DRAINING != 0)
        .map(|(number, _)| *number)
        .collect()
}

proptest! {
    // Each case of the second test is some thirty deaths.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_change_ends_in_what_is_wanted(steps in prop::collection::vec((any_inputs(), prop::bool::ANY), 1..5)) {
        let mut world = World::default();
        for (mut inputs, drain) in steps {
            if drain {
                inputs.drained = draining(&world.image.read_back());
            }
            let tables = world.round(&inputs);
            prop_assert_eq!(tables.frontends.len(), inputs.desired.frontends.len());
        }
    }

    #[test]
    fn dying_anywhere_harms_nobody_and_is_mended(
        first in any_inputs(),
        second in any_inputs(),
        third in any_inputs(),
        drain in prop::bool::ANY,
    ) {
        let mut world = World::default();
        let mut history = Vec::new();
        for inputs in [&first, &second] {
            world.round(inputs);
            history.append(&mut world.ops);
        }
        let mut inputs = third;
        if drain {
            inputs.drained = draining(&world.image.read_back());
        }
        let wanted = meaning(&world.round(&inputs));
        for died in 0..=world.ops.len() {
            let ops: Vec<MapOp> = history.iter().chain(&world.ops[..died]).cloned().collect();
            let image = Image::after(&ops);
            image.assert_safe();
            // The next agent knows the maps and the configuration, nothing else.
            let mut next = World { image, ..World::default() };
            let reached = next.round(&inputs);
            prop_assert_eq!(&meaning(&reached), &wanted, "died before {:?}", world.ops.get(died));
        }
    }
}
