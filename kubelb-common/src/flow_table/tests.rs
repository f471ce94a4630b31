use super::*;
use crate::addr::{TCP, UDP};
use crate::flow::Binding;
use crate::frontend::timeout;
use crate::shared::Line;
use crate::snat::SnatView;
use crate::tcp::{ACK, Direction, FIN, RST, SYN, state, step};
use proptest::prelude::*;
use std::collections::BTreeSet;

const SEED: u64 = 0x0123_4567_89ab_cdef;
/// Half-open, established, closing, UDP unreplied, UDP replied: in jiffies.
const TIMEOUTS: [u32; timeout::COUNT] = [30, 1_000, 10, 20, 200];

/// The rows in vectors: one TCP frontend in row 1, one UDP frontend in row 2, one SNAT address with `ports` ports.
struct Tables {
    layout: Layout,
    buckets: Vec<Bucket>,
    reverse: Vec<Line>,
    pools: Vec<PortPool>,
    frontends: Vec<Frontend>,
    snat: Vec<SnatAddress>,
}

fn rows<T: Default>(count: u32) -> Vec<T> {
    std::iter::repeat_with(T::default)
        .take(usize::try_from(count).unwrap())
        .collect()
}

impl Tables {
    fn new(flows: u32, ports: u32) -> Self {
        let layout = Layout::for_flows(flows);
        let snat = SnatView {
            address: Addr::v4([192, 0, 2, 1]),
            first_port: 10_000,
            ports,
            fold_bits: 0,
            reverse: 0,
            pool: 0,
            in_service: true,
        };
        let tables = Self {
            layout,
            buckets: rows(layout.buckets()),
            reverse: rows(Line::of(snat.sections() * ports) + 1),
            pools: rows(snat.sections()),
            frontends: rows(3),
            snat: rows(1),
        };
        tables.snat[0].replace(&snat);
        for (row, protocol) in [(1, TCP), (2, UDP)] {
            tables.frontends[row].activate(vip(), port(80), protocol);
            tables.frontends[row].set_timeouts(TIMEOUTS);
        }
        for pool in &tables.pools {
            (0..ports).for_each(|port| pool.put(port));
        }
        tables
    }

    fn slices(&self) -> Slices<'_> {
        Slices {
            layout: self.layout,
            buckets: &self.buckets,
            reverse: &self.reverse,
            pools: &self.pools,
            frontends: &self.frontends,
            snat: &self.snat,
            source_ranges: &[],
        }
    }

    /// Number and tag of every live flow.
    fn live(&self) -> Vec<(u32, u64)> {
        (0..self.layout.buckets() * 4)
            .map(|index| (index, slot(&self.slices(), index).unwrap().0.load()))
            .filter(|(_, tag)| tag::state(*tag) == tag::LIVE)
            .collect()
    }

    /// Slots that the reverse index names.
    fn named(&self) -> BTreeSet<u32> {
        let snat = self.snat[0].view();
        (0..snat.sections() * snat.ports)
            .filter_map(|index| self.slices().reverse(index).unwrap().load().checked_sub(1))
            .collect()
    }

    fn free_ports(&self, udp: bool) -> u32 {
        self.pools[usize::from(udp)].free()
    }
}

fn vip() -> Addr {
    Addr::v4([203, 0, 113, 10])
}

fn port(number: u16) -> u16 {
    number.to_be()
}

/// The flow of client number `n`.
fn key(n: u32, protocol: u8) -> FlowKey {
    let [_, a, b, c] = (n >> 8).to_be_bytes();
    let [.., low] = n.to_be_bytes();
    FlowKey {
        client: Addr::v4([10, a, b, c]),
        vip: vip(),
        client_port: port(1_024 + u16::from(low)),
        vip_port: port(80),
        protocol,
    }
}

/// What the insert path does for a packet of an unknown flow, without the choice of a backend.
fn insert(tables: &Tables, key: &FlowKey, cursor: &mut u32, now: u32) -> Option<u32> {
    let rows = tables.slices();
    let (index, busy) = acquire(&rows, key.hash(SEED), now)?;
    let (word, flow) = slot(&rows, index).unwrap();
    let udp = key.protocol == UDP;
    let snat = tables.snat[0].view();
    let Some(offset) = allocate_port(&rows, &snat, u32::from(udp), index, (0, snat.ports), cursor, now) else {
        word.store(tag::free(busy));
        return None;
    };
    let frontend = 1 + u32::from(udp);
    flow.bind(&mk_binding(tables, key, frontend, offset), 0, now);
    tables.frontends[usize::try_from(frontend).unwrap()]
        .flows()
        .fetch_add(1);
    let (_, fingerprint) = tables.layout.places(key.hash(SEED));
    word.store(tag::live(busy, fingerprint));
    Some(index)
}

fn mk_binding(tables: &Tables, key: &FlowKey, frontend: u32, offset: u32) -> Binding {
    Binding {
        client: key.client,
        client_port: key.client_port,
        snat_port: tables.snat[0].raw_port(offset),
        snat_slot: 0,
        frontend,
        backend: 1,
        generation: 1,
        fold: 0,
        address_delta: 0,
        flags: if key.protocol == UDP { flag::UDP } else { 0 },
    }
}

fn found(tables: &Tables, key: &FlowKey) -> Option<u32> {
    find(&tables.slices(), key.hash(SEED), key).map(|hit| hit.index)
}

#[test]
fn a_flow_is_found_by_its_own_five_tuple_only() {
    let tables = Tables::new(1_000, 100);
    let flow = key(1, TCP);
    let index = insert(&tables, &flow, &mut 0, 0).unwrap();
    assert_eq!(found(&tables, &flow), Some(index));
    let others = [
        FlowKey {
            client: Addr::v4([10, 0, 0, 99]),
            ..flow
        },
        FlowKey {
            vip: Addr::v4([203, 0, 113, 11]),
            ..flow
        },
        FlowKey {
            client_port: port(9),
            ..flow
        },
        FlowKey {
            vip_port: port(81),
            ..flow
        },
        FlowKey { protocol: UDP, ..flow },
    ];
    for other in &others {
        assert_eq!(found(&tables, other), None, "{other:?}");
        // Even when everything hashes alike.
        assert!(find(&tables.slices(), flow.hash(SEED), other).is_none(), "{other:?}");
    }
}

#[test]
fn a_released_flow_is_gone_and_its_port_is_back() {
    let tables = Tables::new(1_000, 100);
    let flow = key(1, TCP);
    let index = insert(&tables, &flow, &mut 0, 0).unwrap();
    assert_eq!(tables.free_ports(false), 99);
    assert_eq!(tables.frontends[1].flows().load(), 1);
    let tag = slot(&tables.slices(), index).unwrap().0.load();
    assert!(release(&tables.slices(), index, tag));
    assert!(
        !release(&tables.slices(), index, tag),
        "only one may give the port back"
    );
    assert_eq!(found(&tables, &flow), None);
    assert_eq!(tables.free_ports(false), 100);
    assert_eq!(tables.frontends[1].flows().load(), 0);
    assert_eq!(tables.named(), BTreeSet::new());
}

#[test]
fn a_tag_from_before_a_change_of_hands_releases_nothing() {
    let tables = Tables::new(1_000, 100);
    let first = insert(&tables, &key(1, TCP), &mut 0, 0).unwrap();
    let old = slot(&tables.slices(), first).unwrap().0.load();
    assert!(release(&tables.slices(), first, old));
    assert_eq!(
        insert(&tables, &key(1, TCP), &mut 0, 0),
        Some(first),
        "the same flow takes the same slot"
    );
    assert!(!release(&tables.slices(), first, old));
    assert!(!expire(&tables.slices(), first, old, 1_000_000));
    assert!(found(&tables, &key(1, TCP)).is_some());
}

#[test]
fn idle_time_is_measured_against_the_state_of_the_flow() {
    let syn = step(0, SYN, Direction::Forward);
    let answered = step(syn, SYN | ACK, Direction::Reply);
    let open = step(answered, ACK, Direction::Forward);
    let half_closed = step(open, FIN | ACK, Direction::Forward);
    let closed = step(half_closed, FIN | ACK, Direction::Reply);
    let reset = step(open, RST, Direction::Reply);
    let cases = [
        (TCP, syn, 30),
        (TCP, answered, 30),
        (TCP, open, 1_000),
        (TCP, half_closed, 1_000),
        (TCP, closed, 10),
        (TCP, reset, 10),
        (UDP, 0, 20),
        (UDP, state::ANSWERED, 200),
    ];
    // The second start has jiffies wrap around within the flow's life.
    for start in [5, u32::MAX - 4] {
        for (protocol, state, timeout) in cases {
            let tables = Tables::new(1_000, 100);
            let index = insert(&tables, &key(1, protocol), &mut 0, start).unwrap();
            let rows = tables.slices();
            let (word, flow) = slot(&rows, index).unwrap();
            flow.add_state(0, state);
            let idle = |jiffies: u32| start.wrapping_add(jiffies);
            assert!(!expire(&rows, index, word.load(), idle(timeout)), "{protocol} {state}");
            assert!(
                !expire(&rows, index, word.load(), start.wrapping_sub(1)),
                "another CPU may be a tick ahead"
            );
            flow.touch(idle(timeout));
            assert!(
                !expire(&rows, index, word.load(), idle(timeout + 1)),
                "a packet starts it anew"
            );
            assert!(
                expire(&rows, index, word.load(), idle(2 * timeout + 1)),
                "{protocol} {state}"
            );
            assert_eq!(found(&tables, &key(1, protocol)), None);
        }
    }
}

#[test]
fn flows_of_a_removed_frontend_expire_at_once() {
    let tables = Tables::new(1_000, 100);
    let index = insert(&tables, &key(1, TCP), &mut 0, 0).unwrap();
    tables.frontends[1].deactivate();
    assert_eq!(found(&tables, &key(1, TCP)), None);
    let tag = slot(&tables.slices(), index).unwrap().0.load();
    assert!(expire(&tables.slices(), index, tag, 0));
    assert_eq!(tables.free_ports(false), 100);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let tables = Tables::new(128, 40_000);
    let mut cursor = 0;
    let kept: Vec<u32> = (0..20_000)
        .filter(|n| insert(&tables, &key(*n, TCP), &mut cursor, 0).is_some())
        .collect();
    let slots = tables.layout.buckets() * 4;
    assert_eq!(
        u32::try_from(kept.len()).unwrap(),
        slots,
        "every slot is used, the stash too"
    );
    for n in &kept {
        assert!(found(&tables, &key(*n, TCP)).is_some());
    }
    assert_eq!(tables.free_ports(false), 40_000 - slots);
    // Once they are idle, newcomers take their places, with nobody sweeping.
    let late = TIMEOUTS[timeout::TCP_HALF_OPEN] + 1;
    for n in 30_000..32_000 {
        assert!(insert(&tables, &key(n, TCP), &mut cursor, late).is_some() || tables.live().len() == kept.len());
    }
    assert!(
        kept.iter().filter(|n| found(&tables, &key(**n, TCP)).is_some()).count() < 10,
        "nearly all old flows are gone"
    );
    assert_eq!(tables.free_ports(false), 40_000 - slots);
}

#[test]
fn a_flow_whose_buckets_are_full_goes_to_the_stash() {
    let tables = Tables::new(128, 40_000);
    let ([first, second, stash], _) = tables.layout.places(key(0, TCP).hash(SEED));
    for bucket in [first, second] {
        for way in 0..WAYS {
            tables.buckets[usize::try_from(bucket).unwrap()]
                .tag(way)
                .store(tag::busy(0));
        }
    }
    let index = insert(&tables, &key(0, TCP), &mut 0, 0).unwrap();
    assert_eq!(index >> 2, stash);
    assert!(stash >= tables.layout.main && stash < tables.layout.buckets());
    assert_eq!(found(&tables, &key(0, TCP)), Some(index));
}

#[test]
fn at_half_load_no_flow_is_refused_and_at_ninety_percent_few() {
    let flows = 32_768;
    let tables = Tables::new(flows, 65_535);
    let mut cursor = 0;
    let refused = (0..flows)
        .filter(|n| insert(&tables, &key(*n, TCP), &mut cursor, 0).is_none())
        .count();
    assert_eq!(refused, 0, "at half load");
    let capacity = tables.layout.main * 4;
    assert_eq!(capacity, 2 * flows);
    let refused = (flows..capacity / 10 * 9)
        .filter(|n| insert(&tables, &key(*n, TCP), &mut cursor, 0).is_none())
        .count();
    // An ideal hash refuses 3.5 % of them.
    assert!(refused < 2_500, "{refused} refused at 90 %");
}

#[test]
fn every_port_is_given_out_once_and_then_none() {
    let tables = Tables::new(4_096, 500);
    let mut cursor = 77;
    let given = (0..1_000)
        .filter(|n| insert(&tables, &key(*n, TCP), &mut cursor, 0).is_some())
        .count();
    assert_eq!(given, 500);
    assert_eq!(ports(&tables).len(), 500, "no two flows share one");
    assert_eq!(tables.live().len(), 500, "a flow without a port leaves no record");
    assert!(
        insert(&tables, &key(1, UDP), &mut cursor, 0).is_some(),
        "UDP has its own"
    );
}

/// SNAT ports of the live TCP flows.
fn ports(tables: &Tables) -> BTreeSet<u16> {
    let rows = tables.slices();
    tables
        .live()
        .iter()
        .map(|(index, _)| slot(&rows, *index).unwrap().1.binding())
        .filter(|binding| binding.flags & flag::UDP == 0)
        .map(|binding| binding.snat_port)
        .collect()
}

#[test]
fn three_times_the_ports_are_used_up_with_nobody_sweeping() {
    let tables = Tables::new(4_096, 500);
    let mut cursor = 0;
    for round in 0..3 {
        let now = round * (TIMEOUTS[timeout::TCP_HALF_OPEN] + 1);
        for n in 0..500 {
            assert!(
                insert(&tables, &key(round * 500 + n, TCP), &mut cursor, now).is_some(),
                "round {round}, flow {n}"
            );
        }
    }
    let live = tables.live();
    assert_eq!(ports(&tables).len(), live.len(), "no two flows share a port");
    assert_eq!(live.len(), 500);
    assert_eq!(tables.free_ports(false), 0);
    for (index, tag) in live {
        assert!(release(&tables.slices(), index, tag));
    }
    assert_eq!(tables.free_ports(false), 500);
    assert_eq!(tables.frontends[1].flows().load(), 0);
}

#[test]
fn parts_of_the_range_cover_it_without_overlap() {
    for ports in [1, 7, 64, 20_000, 65_535] {
        for cpus in [0, 1, 2, 3, 64, 100] {
            let mut end = 0;
            for cpu in 0..cpus.max(1) {
                let part = part_of_range(ports, cpu, cpus);
                assert_eq!(part.0, end, "{ports} ports, CPU {cpu} of {cpus}");
                end = part.1;
            }
            assert_eq!(end, ports);
            let (begin, end) = part_of_range(ports, 1_000, cpus);
            assert!(begin <= end && end <= ports, "a CPU beyond the count has a part too");
        }
    }
}

#[test]
fn another_part_is_robbed_when_the_own_is_empty() {
    let tables = Tables::new(1_000, 100);
    let rows = tables.slices();
    let snat = tables.snat[0].view();
    let mut cursor = 0;
    let mut taken: Vec<u32> = Vec::new();
    while let Some(port) = allocate_port(&rows, &snat, 0, 0, (50, 100), &mut cursor, 0) {
        taken.push(port);
    }
    assert_eq!(taken.len(), 100);
    assert!(
        taken[..50].iter().all(|port| (50..100).contains(port)),
        "its own part first"
    );
}

#[test]
fn ports_are_shared_out_by_several_threads_without_loss() {
    const THREADS: u32 = 4;
    let tables = Tables::new(16_384, 2_000);
    let run = |thread: u32| {
        let mut cursor = 0;
        for round in 0..12 {
            let now = round * (TIMEOUTS[timeout::TCP_HALF_OPEN] + 1);
            for n in 0..500 {
                // Refusals are legal: the other threads may hold all ports.
                if let Some(index) = insert(&tables, &key(thread << 20 | round << 10 | n, TCP), &mut cursor, now)
                    && n % 3 == 0
                {
                    let tag = slot(&tables.slices(), index).unwrap().0.load();
                    release(&tables.slices(), index, tag);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || run(thread));
        }
    });
    let live = tables.live();
    assert_eq!(ports(&tables).len(), live.len(), "no two flows share a port");
    assert_eq!(u32::try_from(live.len()).unwrap() + tables.free_ports(false), 2_000);
    assert_eq!(
        tables.frontends[1].flows().load(),
        u32::try_from(live.len()).unwrap(),
        "the frontend's count is right"
    );
    let held: BTreeSet<u32> = live.iter().map(|(index, _)| *index).collect();
    assert_eq!(
        tables.named(),
        held,
        "the reverse index names the live flows and nothing else"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Inserts, releases and expiries in any order: what the table says is what a set would say.
    #[test]
    fn behaves_like_a_set_of_flows(steps in prop::collection::vec((0u8..4, 0u32..200), 1..600)) {
        let tables = Tables::new(256, 300);
        let mut model = std::collections::BTreeMap::new();
        let (mut cursor, mut now) = (0, 0);
        for (action, n) in steps {
            let flow = key(n, if n % 2 == 0 { TCP } else { UDP });
            let rows = tables.slices();
            match action {
                0 | 1 if !model.contains_key(&n) => {
                    prop_assert!(insert(&tables, &flow, &mut cursor, now).is_some());
                    model.insert(n, now);
                }
                2 => {
                    let hit = find(&rows, flow.hash(SEED), &flow);
                    prop_assert_eq!(hit.is_some(), model.remove(&n).is_some());
                    if let Some(hit) = hit {
                        prop_assert!(release(&rows, hit.index, hit.tag));
                    }
                }
                3 => {
                    now += n / 20;
                    for (index, tag) in tables.live() {
                        expire(&rows, index, tag, now);
                    }
                    model.retain(|n, seen| {
                        let class = if n % 2 == 0 { timeout::TCP_HALF_OPEN } else { timeout::UDP_UNREPLIED };
                        now - *seen <= TIMEOUTS[class]
                    });
                }
                _ => {
                    prop_assert_eq!(found(&tables, &flow).is_some(), model.contains_key(&n));
                }
            }
        }
        prop_assert_eq!(tables.live().len(), model.len());
        let tcp = u32::try_from(model.keys().filter(|n| **n % 2 == 0).count()).unwrap();
        let udp = u32::try_from(model.len()).unwrap() - tcp;
        prop_assert_eq!((tables.free_ports(false), tables.free_ports(true)), (300 - tcp, 300 - udp));
        prop_assert_eq!((tables.frontends[1].flows().load(), tables.frontends[2].flows().load()), (tcp, udp));
    }
}
