//! Rounds of plans over rows that change as the plans say, with two links.

use kubelb_common::announce::AnnounceRow;
use kubelb_common::next_hop::MacWord;

use super::*;

const MAC: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const RIVAL: [u8; 6] = [2, 9, 9, 9, 9, 9];

/// A node with its rows.
struct Node {
    memory: Memory,
    links: BTreeMap<u32, Link>,
    attached: BTreeSet<u32>,
    is_live: bool,
    now: Instant,
    rows: Vec<AnnounceRow>,
    keys: BTreeMap<AnnounceKey, u32>,
    macs: BTreeSet<[u8; 6]>,
}

fn link(name: &str, mac: [u8; 6]) -> Link {
    Link {
        name: name.to_owned(),
        mac: Some(mac),
        mtu: 1_500,
        up: true,
    }
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn new() -> Self {
        Self {
            memory: Memory::default(),
            links: [
                (2, link("eth0", MAC[0])),
                (3, link("eth1", MAC[1])),
                (4, link("veth9", RIVAL)),
            ]
            .into(),
            attached: [2, 3].into(),
            is_live: true,
            now: Instant::now(),
            rows: std::iter::repeat_with(AnnounceRow::default).take(8).collect(),
            keys: BTreeMap::new(),
            macs: BTreeSet::new(),
        }
    }

    fn row(&self, row: u32) -> &AnnounceRow {
        &self.rows[usize::try_from(row).unwrap()]
    }

    fn at(&self, place: Place) -> Option<&AnnounceRow> {
        let key = AnnounceKey::new(place.0.into(), Subject::Interface(place.1));
        self.keys.get(&key).map(|row| self.row(*row))
    }

    fn answers(&self, place: Place) -> bool {
        self.at(place).is_some_and(|row| row.view().answers)
    }

    fn actual(&self) -> Actual {
        let mut actual = Actual {
            macs: self.macs.clone(),
            room: u32::try_from(self.rows.len()).unwrap(),
            ..Actual::default()
        };
        for (key, number) in &self.keys {
            if let Subject::Interface(index) = key.subject() {
                let place = (key.address().into(), index);
                actual.rows.insert(place, (*number, self.row(*number).view()));
            } else {
                actual.keys.insert(*key);
            }
        }
        actual
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::AddMac(mac) => drop(self.macs.insert(*mac)),
            Op::RemoveMac(mac) => drop(self.macs.remove(mac)),
            Op::Vacate(row) => {
                assert!(!self.keys.values().any(|used| used == row), "a row in use is vacated");
                self.row(*row).vacate();
            }
            Op::TakeOver { row, epoch, mac } => self.row(*row).take_over(*epoch, *mac, 7),
            Op::Update { row, epoch, mac } => self.row(*row).update(*epoch, *mac),
            Op::Silence(row) => self.row(*row).silence(),
            Op::Insert(key, row) => drop(self.keys.insert(*key, *row)),
            Op::Remove(key) => drop(self.keys.remove(key)),
        }
    }

    fn plan(&mut self, wanted: &BTreeMap<IpAddr, VirtualAddress>) -> Plan {
        let actual = self.actual();
        let context = Context {
            links: &self.links,
            attached: &self.attached,
            is_live: self.is_live,
            now: self.now,
        };
        self.memory.plan(wanted, &context, &actual)
    }

    fn round(&mut self, wanted: &BTreeMap<IpAddr, VirtualAddress>) -> Plan {
        let plan = self.plan(wanted);
        plan.ops.iter().for_each(|op| self.apply(op));
        plan
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }
}

fn vip() -> IpAddr {
    "2001:db8::1:2:310".parse().unwrap()
}

fn owned(owner: Owner, epoch: u64) -> BTreeMap<IpAddr, VirtualAddress> {
    let address = VirtualAddress {
        owner,
        epoch,
        interfaces: Vec::new(),
        tenant: "a".to_owned(),
        local_ports: BTreeSet::new(),
    };
    [(vip(), address)].into()
}

fn ours(epoch: u64) -> BTreeMap<IpAddr, VirtualAddress> {
    owned(Owner::This, epoch)
}

fn theirs(epoch: u64) -> BTreeMap<IpAddr, VirtualAddress> {
    owned(Owner::Other("node-2".to_owned()), epoch)
}

#[test]
fn an_address_is_taken_over_once_and_given_back_whole() {
    let mut node = Node::new();
    let plan = node.round(&ours(3));
    assert_eq!(plan.announce, [((vip(), 2), MAC[0]), ((vip(), 3), MAC[1])].into());
    assert!(node.answers((vip(), 2)) && node.answers((vip(), 3)));
    assert_eq!(node.macs, MAC.into());
    let group: Ipv6Addr = "ff02::1:ff02:310".parse().unwrap();
    assert_eq!(plan.stack.groups, [(2, group), (3, group)].into());
    assert!(plan.stack.local.is_empty());

    let plan = node.round(&ours(3));
    assert!(plan.ops.is_empty() && plan.announce.is_empty(), "{plan:?}");
    assert_eq!(plan.answered.len(), 2);

    // An agent that starts anew finds everything as it is to be.
    node.memory = Memory::default();
    let plan = node.round(&ours(3));
    assert!(plan.ops.is_empty() && plan.announce.is_empty(), "{plan:?}");

    let plan = node.round(&theirs(4));
    assert!(plan.answered.is_empty() && plan.stack == Stack::default());
    assert!(node.keys.is_empty());
    assert!(node.rows.iter().all(|row| row.view() == AnnounceView::default()));
}

#[test]
fn whatever_is_the_last_change_before_a_death_the_next_agent_mends_it() {
    for (before, after) in [(theirs(1), ours(2)), (ours(2), theirs(3)), (ours(2), BTreeMap::new())] {
        let steps = {
            let mut node = Node::new();
            node.round(&before);
            node.plan(&after).ops.len()
        };
        for stop in 0..=steps {
            let mut node = Node::new();
            node.round(&before);
            let plan = node.plan(&after);
            plan.ops.iter().take(stop).for_each(|op| node.apply(op));
            node.memory = Memory::default();
            node.round(&after);
            let mut fresh = Node::new();
            fresh.round(&after);
            assert_eq!(
                node.answers((vip(), 2)),
                fresh.answers((vip(), 2)),
                "stopped after {stop}"
            );
            assert_eq!(
                node.keys.keys().collect::<Vec<_>>(),
                fresh.keys.keys().collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn what_another_machine_took_is_left_to_it_until_a_higher_epoch_comes() {
    let mut node = Node::new();
    node.round(&ours(3));
    node.is_live = false;
    let place = (vip(), 2);
    assert!(node.at(place).unwrap().give_way(MacWord::new(RIVAL, 0)));
    let plan = node.round(&ours(3));
    assert_eq!(plan.lost, [(place, RIVAL)].into());
    assert!(!plan.answered.contains(&place) && plan.answered.contains(&(vip(), 3)));
    for _ in 0..20 {
        node.pass(1_000);
        let plan = node.round(&ours(3));
        assert!(
            plan.announce.is_empty() && plan.lost.is_empty(),
            "nobody confirms that it is ours"
        );
    }
    assert!(!node.answers(place) && node.memory.is_watchful());
    let plan = node.round(&ours(4));
    assert_eq!(plan.announce.len(), 2, "taken over anew on both");
    assert!(node.answers(place) && !node.memory.is_watchful());
}

#[test]
fn with_a_manager_that_still_says_so_an_address_is_defended_now_and_then() {
    let mut node = Node::new();
    node.round(&ours(3));
    let place = (vip(), 2);
    let silence = |node: &Node| assert!(node.at(place).unwrap().give_way(MacWord::new(RIVAL, 0)));
    silence(&node);
    node.round(&ours(3));
    node.pass(900);
    assert!(
        node.round(&ours(3)).announce.is_empty(),
        "the manager may be about to say otherwise"
    );
    node.pass(200);
    assert_eq!(node.round(&ours(3)).announce, [(place, MAC[0])].into());
    assert!(node.answers(place));

    // The other one does not give in.
    silence(&node);
    let defences = (0..600).filter(|_| {
        node.pass(100);
        let is_defended = !node.round(&ours(3)).announce.is_empty();
        if is_defended {
            silence(&node);
        }
        is_defended
    });
    let defences = defences.count();
    assert!((1..=6).contains(&defences), "{defences} in a minute");
}

#[test]
fn a_silenced_address_that_moves_away_is_not_defended() {
    let mut node = Node::new();
    node.round(&ours(3));
    assert!(node.at((vip(), 2)).unwrap().give_way(MacWord::new(RIVAL, 0)));
    node.round(&ours(3));
    node.round(&theirs(4));
    node.pass(60_000);
    assert!(node.round(&theirs(4)).ops.is_empty());
    assert!(!node.memory.is_watchful());
}

#[test]
fn a_link_that_comes_back_or_changes_its_address_is_told() {
    let mut node = Node::new();
    node.round(&ours(3));
    node.links.get_mut(&2).unwrap().up = false;
    assert!(node.round(&ours(3)).announce.is_empty());
    node.links.get_mut(&2).unwrap().up = true;
    assert_eq!(node.round(&ours(3)).announce, [((vip(), 2), MAC[0])].into());
    let mac = [2, 0, 0, 0, 0, 0x33];
    node.links.get_mut(&3).unwrap().mac = Some(mac);
    assert_eq!(node.round(&ours(3)).announce, [((vip(), 3), mac)].into());
    assert_eq!(node.at((vip(), 3)).unwrap().view().mac, mac);
    assert_eq!(node.macs, [MAC[0], mac].into());
    node.links.remove(&3);
    assert!(node.round(&ours(3)).announce.is_empty());
    assert!(node.at((vip(), 3)).is_none());
}

#[test]
fn local_ports_make_the_address_the_nodes_own() {
    let mut node = Node::new();
    let mut wanted = ours(3);
    let port = 443.try_into().unwrap();
    wanted.get_mut(&vip()).unwrap().local_ports = [(Protocol::Tcp, port)].into();
    let plan = node.round(&wanted);
    assert_eq!(plan.stack.local, [vip()].into());
    let key = |subject| AnnounceKey::new(vip().into(), subject);
    let (local, guarded) = (key(Subject::LocalPort(TCP, 443u16.to_be())), key(Subject::Guarded));
    let position = |wanted: &AnnounceKey| {
        let is_it = |op: &Op| matches!(op, Op::Insert(key, _) if key == wanted);
        plan.ops.iter().position(is_it).unwrap()
    };
    assert!(position(&local) < position(&guarded));
    let plan = node.plan(&BTreeMap::new());
    let position = |wanted: AnnounceKey| plan.ops.iter().position(|op| *op == Op::Remove(wanted)).unwrap();
    assert!(position(guarded) < position(local));
}

#[test]
fn named_interfaces_are_the_only_ones_and_too_many_addresses_are_said() {
    let mut node = Node::new();
    let mut wanted = ours(3);
    wanted.get_mut(&vip()).unwrap().interfaces = vec!["eth1".to_owned(), "veth9".to_owned()];
    let plan = node.round(&wanted);
    assert_eq!(plan.announce, [((vip(), 3), MAC[1])].into());
    wanted.get_mut(&vip()).unwrap().interfaces = vec!["eth7".to_owned()];
    let plan = node.round(&wanted);
    assert_eq!(plan.problems.len(), 1);
    assert!(plan.problems[0].contains("no interface"), "{:?}", plan.problems);
    assert!(node.keys.is_empty());

    let many = (1..=5u8).map(|last| {
        let (_, address) = ours(1).pop_first().unwrap();
        (IpAddr::from([203, 0, 113, last]), address)
    });
    let plan = node.round(&many.collect());
    assert_eq!(plan.answered.len(), 7, "as many as there are rows");
    assert_eq!(plan.problems.len(), 1);
}
