use super::*;
use kubelb_common::addr::{Addr, TCP, UDP};
use kubelb_common::flow::Bucket;
use kubelb_common::flow_table::{FlowKey, Layout};
use kubelb_common::frontend::Frontend;
use kubelb_common::port_pool::PortPool;
use kubelb_common::shared::SharedU32;
use kubelb_common::snat::SnatAddress;
use kubelb_common::source::SourceRange;
use kubelb_common::tcp::state;

const PORTS: u32 = 100;
const WEB: u32 = 1;
const DNS: u32 = 2;

/// The rows in vectors: frontend [`WEB`] is TCP, [`DNS`] UDP, and there is one SNAT address.
struct Tables {
    layout: Layout,
    buckets: Vec<Bucket>,
    reverse: Vec<SharedU32>,
    pools: Vec<PortPool>,
    frontends: Vec<Frontend>,
    snat: Vec<SnatAddress>,
    source_ranges: Vec<SourceRange>,
}

fn rows<T: Default>(count: u32) -> Vec<T> {
    (0..count).map(|_| T::default()).collect()
}

fn row<T>(rows: &[T], index: u32) -> Option<&T> {
    rows.get(usize::try_from(index).unwrap())
}

impl FlowTables for Tables {
    fn layout(&self) -> Layout {
        self.layout
    }
    fn bucket(&self, index: u32) -> Option<&Bucket> {
        row(&self.buckets, index)
    }
    fn reverse(&self, index: u32) -> Option<&SharedU32> {
        row(&self.reverse, index)
    }
    fn pool(&self, index: u32) -> Option<&PortPool> {
        row(&self.pools, index)
    }
    fn frontend(&self, index: u32) -> Option<&Frontend> {
        row(&self.frontends, index)
    }
    fn snat(&self, slot: u32) -> Option<&SnatAddress> {
        row(&self.snat, slot)
    }
    fn source_range(&self, index: u32) -> Option<&SourceRange> {
        row(&self.source_ranges, index)
    }
}

fn view() -> SnatView {
    SnatView {
        address: Addr::v4([192, 0, 2, 1]),
        first_port: 10_000,
        ports: PORTS,
        fold_bits: 0,
        reverse: 0,
        pool: 0,
        in_service: true,
    }
}

fn views() -> BTreeMap<u8, SnatView> {
    [(0, view())].into()
}

fn vip() -> Addr {
    Addr::v4([203, 0, 113, 10])
}

impl Tables {
    fn new() -> Self {
        let layout = Layout::for_flows(1_024);
        let tables = Self {
            layout,
            buckets: rows(layout.buckets()),
            reverse: rows(view().sections() * PORTS),
            pools: rows(view().sections()),
            frontends: rows(3),
            snat: rows(1),
            source_ranges: rows(2),
        };
        tables.snat[0].replace(&view());
        for (row, protocol) in [(1, TCP), (2, UDP)] {
            tables.frontends[row].activate(vip(), 80u16.to_be(), protocol);
            tables.frontends[row].set_timeouts([30, 1_000, 10, 20, 200]);
        }
        tables.pools.iter().for_each(|pool| pool.reset(PORTS));
        tables
    }

    /// An established flow of client number `client`, last seen at `now`; returns its slot.
    fn insert(&self, client: u8, frontend: u32, backend: u32, now: u32) -> u32 {
        let udp = frontend == DNS;
        let key = FlowKey {
            client: Addr::v4([198, 51, 100, client]),
            vip: vip(),
            client_port: 4_000u16.to_be(),
            vip_port: 80u16.to_be(),
            protocol: if udp { UDP } else { TCP },
        };
        let hash = key.hash(1);
        let (slot, busy) = flow_table::acquire(self, hash, now).unwrap();
        let section = view().section(udp, 0);
        let port = flow_table::allocate_port(self, &view(), section, slot, (0, PORTS), &mut 0, now).unwrap();
        let binding = Binding {
            client: key.client,
            client_port: key.client_port,
            snat_port: view().raw_port(port),
            snat_slot: 0,
            frontend,
            backend,
            generation: 1,
            fold: 0,
            address_delta: 0,
            flags: if udp { flag::UDP } else { 0 },
        };
        let (word, flow) = flow_table::slot(self, slot).unwrap();
        let established = state::ANSWERED | state::ESTABLISHED;
        flow.bind(&binding, established, now);
        let (_, fingerprint) = self.layout.places(hash);
        word.store(tag::live(busy, fingerprint));
        self.frontends[usize::try_from(frontend).unwrap()].flows().fetch_add(1);
        slot
    }

    fn tag(&self, slot: u32) -> u64 {
        flow_table::slot(self, slot).unwrap().0.load()
    }

    fn free_ports(&self) -> [u32; 2] {
        [self.pools[0].free(), self.pools[1].free()]
    }

    fn mend(&self, before: &Suspects) -> u64 {
        before.mend(self, &views())
    }
}

/// A whole walk; returns how many flows were ended.
fn walk(sweeper: &mut Sweeper, tables: &Tables, now: u32) -> u64 {
    (0..PARTS).map(|_| sweeper.step(tables, |_| false, now)).sum()
}

#[test]
fn idle_flows_end_and_the_others_are_counted() {
    let tables = Tables::new();
    let near_wrap = u32::MAX - 100;
    let idle: Vec<u32> = (0..5).map(|client| tables.insert(client, WEB, 7, near_wrap)).collect();
    let now = near_wrap.wrapping_add(1_001);
    tables.insert(10, WEB, 7, now);
    tables.insert(11, WEB, 8, near_wrap.wrapping_add(1));
    tables.insert(12, DNS, 9, now);

    let mut sweeper = Sweeper::default();
    assert_eq!(sweeper.count(), None, "nothing is known before a whole walk");
    assert_eq!(walk(&mut sweeper, &tables, now), 5);
    assert!(idle.iter().all(|slot| tag::state(tables.tag(*slot)) == tag::FREE));
    assert_eq!(tables.free_ports(), [PORTS - 2, PORTS - 1], "their ports are back");
    assert_eq!(tables.frontends[1].flows().load(), 2);
    let expected = Count {
        flows: 3,
        by_backend: [(7, 1), (8, 1), (9, 1)].into(),
        by_frontend: [(WEB, 2), (DNS, 1)].into(),
        ..Count::default()
    };
    assert_eq!((sweeper.count(), sweeper.passes()), (Some(&expected), 1));
}

#[test]
fn flows_of_a_frontend_out_of_service_end_at_once() {
    let tables = Tables::new();
    tables.insert(1, WEB, 7, 5_000);
    tables.insert(2, DNS, 8, 5_000);
    tables.frontends[1].deactivate();
    let mut sweeper = Sweeper::default();
    assert_eq!(walk(&mut sweeper, &tables, 5_000), 1);
    assert_eq!(sweeper.count().unwrap().by_frontend, [(DNS, 1)].into());
    assert_eq!(tables.frontends[1].flows().load(), 0, "the row can be given out again");
}

#[test]
fn a_count_is_of_one_walk() {
    let tables = Tables::new();
    tables.insert(1, WEB, 7, 5_000);
    let mut sweeper = Sweeper::default();
    walk(&mut sweeper, &tables, 5_000);
    walk(&mut sweeper, &tables, 5_000);
    assert_eq!((sweeper.count().unwrap().flows, sweeper.passes()), (1, 2));
    sweeper.step(&tables, |_| false, 5_000);
    assert_eq!(sweeper.count().unwrap().flows, 1, "half a walk does not count");
}

#[test]
fn nothing_in_use_is_suspect() {
    let tables = Tables::new();
    for client in 0..50 {
        tables.insert(client, if client % 2 == 0 { WEB } else { DNS }, 7, 5_000);
    }
    assert_eq!(Suspects::find(&tables, &views()), Suspects::default());
}

#[test]
fn what_is_left_half_done_is_mended_the_second_time() {
    let tables = Tables::new();
    let kept = tables.insert(1, WEB, 7, 5_000);
    // Someone died while it emptied a slot, before the port went back,
    let dead = tables.insert(2, WEB, 7, 5_000);
    let busy = tag::busy(tables.tag(dead));
    flow_table::slot(&tables, dead).unwrap().0.store(busy);
    // with a claim in its hands,
    tables.buckets[3].claim().store(2);
    // and another one between taking a port and writing down whose it is.
    assert!(tables.pools[1].take_exact(42));

    let suspects = Suspects::find(&tables, &views());
    assert_eq!(tables.tag(dead), busy, "looking changes nothing");
    assert_eq!(tables.mend(&suspects), 4, "slot, its port, claim, lost port");
    assert_eq!(tag::state(tables.tag(dead)), tag::FREE);
    assert_eq!(tables.buckets[3].claim().load(), 0);
    assert_eq!(tables.free_ports(), [PORTS - 1, PORTS]);
    assert_eq!(tag::state(tables.tag(kept)), tag::LIVE);
    assert_eq!(Suspects::find(&tables, &views()), Suspects::default());
    assert_eq!(tables.mend(&suspects), 0, "mended once");
}

#[test]
fn what_moved_on_in_between_is_left_alone() {
    let tables = Tables::new();
    let slot = tables.insert(1, WEB, 7, 5_000);
    let live = tables.tag(slot);
    flow_table::slot(&tables, slot).unwrap().0.store(tag::busy(live));
    tables.buckets[3].claim().store(2);
    assert!(tables.pools[1].take_exact(42));
    let suspects = Suspects::find(&tables, &views());

    // The owner finishes, another one takes the slot, the claim and the port.
    flow_table::slot(&tables, slot).unwrap().0.store(live);
    tables.buckets[3].claim().store(5);
    let other = tables.insert(2, DNS, 8, 5_000);
    tables.pools[1].put(42);
    assert_eq!(tables.mend(&suspects), 0);
    assert_eq!((tables.tag(slot), tables.buckets[3].claim().load()), (live, 5));
    assert_eq!(tag::state(tables.tag(other)), tag::LIVE);
    assert_eq!(tables.free_ports(), [PORTS - 1, PORTS - 1]);
}

#[test]
fn a_port_whose_reverse_entry_names_another_flow_is_freed_and_that_flow_stays() {
    let tables = Tables::new();
    let slot = tables.insert(1, WEB, 7, 5_000);
    assert!(tables.pools[0].take_exact(99));
    tables.reverse[99].store(slot + 1);
    let suspects = Suspects::find(&tables, &views());
    assert_eq!(tables.mend(&suspects), 1);
    assert!(tables.pools[0].is_free(99));
    assert_eq!(tables.reverse[99].load(), 0);
    assert_eq!(tag::state(tables.tag(slot)), tag::LIVE);
    assert_eq!(tables.free_ports()[0], PORTS - 1);
}

#[test]
fn a_free_port_with_a_stale_reverse_entry_stays_free() {
    let tables = Tables::new();
    tables.reverse[5].store(1);
    let suspects = Suspects::find(&tables, &views());
    assert_eq!(tables.mend(&suspects), 1);
    assert_eq!((tables.reverse[5].load(), tables.free_ports()[0]), (0, PORTS));
}

#[test]
fn ports_of_a_row_that_changed_meanwhile_are_not_judged_by_the_old_one() {
    let tables = Tables::new();
    assert!(tables.pools[0].take_exact(7));
    let suspects = Suspects::find(&tables, &views());
    assert_eq!(suspects.mend(&tables, &BTreeMap::new()), 0);
    assert!(!tables.pools[0].is_free(7));
}

#[test]
fn flows_of_a_backend_that_is_another_now_close_instead_of_idling() {
    let tables = Tables::new();
    let (stale, kept) = (tables.insert(1, WEB, 5, 0), tables.insert(2, WEB, 6, 0));
    let datagrams = tables.insert(3, DNS, 5, 150);
    let mut sweeper = Sweeper::default();
    let mut at = |now| {
        (0..PARTS)
            .map(|_| sweeper.step(&tables, |binding| binding.backend == 5, now))
            .sum::<u64>()
    };
    assert_eq!(at(100), 0, "both ends are still to be told");
    let state = |slot| flow_table::slot(&tables, slot).unwrap().1.state();
    assert_eq!(state(stale) & state::RESET, state::RESET);
    assert_eq!(state(kept) & state::RESET, 0);
    assert_eq!(state(datagrams) & state::RESET, 0);
    assert_eq!(at(110), 0);
    assert_eq!(at(111), 1, "ten ticks after it was found");
}

#[test]
fn a_wrong_count_of_half_open_flows_is_mended_when_it_is_wrong_for_long() {
    let tables = Tables::new();
    let open = tables.insert(1, WEB, 5, 0);
    let half = tables.insert(2, WEB, 5, 0);
    tables.insert(3, DNS, 5, 0);
    flow_table::slot(&tables, half).unwrap().1.bind(
        &flow_table::slot(&tables, half).unwrap().1.binding(),
        state::ANSWERED,
        0,
    );
    let count = || tables.frontends[usize::try_from(WEB).unwrap()].half_open();
    let (mut sweeper, mut counts) = (Sweeper::default(), HalfOpenCounts::default());
    let mut compare = || {
        walk(&mut sweeper, &tables, 5);
        counts.compare(&tables, sweeper.count().unwrap())
    };
    count().store(1);
    for _ in 0..6 {
        assert_eq!(compare(), []);
    }
    for wrong in [4, 0, 2] {
        count().store(wrong);
        assert_eq!(compare(), [], "a moment's difference may be traffic");
    }
    assert_eq!((compare(), compare()), (vec![], vec![]));
    assert_eq!(compare(), [(WEB, 1)]);
    assert_eq!(count().load(), 1);
    count().store(0);
    assert_eq!((compare(), compare(), compare()), (vec![], vec![], vec![]));
    assert_eq!(compare(), [(WEB, -1)], "too low is wrong too");
    assert_eq!(count().load(), 1);
    assert!(flow_table::release(&tables, open, tables.tag(open)));
    assert_eq!(count().load(), 1);
    assert!(flow_table::release(&tables, half, tables.tag(half)));
    assert_eq!(count().load(), 0);
}

#[test]
fn flows_of_clients_that_may_no_longer_come_end() {
    let tables = Tables::new();
    for client in 0..10 {
        tables.insert(client, WEB, 7, 0);
        tables.insert(client, DNS, 9, 0);
    }
    let mut sweeper = Sweeper::default();
    assert_eq!(walk(&mut sweeper, &tables, 1), 0);
    for (row, first, last) in [(0, 2, 3), (1, 7, 7)] {
        tables.source_ranges[row].replace(Addr::v4([198, 51, 100, first]), Addr::v4([198, 51, 100, last]));
    }
    tables.frontends[1].publish_sources(Some((0, 2)));
    assert_eq!(walk(&mut sweeper, &tables, 1), 7);
    assert_eq!(sweeper.count().unwrap().by_frontend, [(WEB, 3), (DNS, 10)].into());
    assert_eq!(tables.free_ports(), [PORTS - 3, PORTS - 10], "their ports are back");
    tables.frontends[2].publish_sources(Some((0, 0)));
    assert_eq!(walk(&mut sweeper, &tables, 1), 10, "an empty set is nobody");
    tables.frontends[1].publish_sources(None);
    assert_eq!(walk(&mut sweeper, &tables, 1), 0);
}
