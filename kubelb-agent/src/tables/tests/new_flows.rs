//! What rows say of new flows: who may open them, and which backend gets them.

use ipnet::IpNet;

use super::*;

fn admitting(ranges: &[&str]) -> Inputs {
    let mut inputs = web(&[(A, 1), (B, 1)]);
    let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    for frontend in inputs.desired.frontends.values_mut() {
        frontend.source_ranges = Some(ranges.clone());
    }
    inputs
}

fn hashing(frontends: &[(&str, Frontend)]) -> Inputs {
    let mut inputs = inputs(frontends);
    for frontend in inputs.desired.frontends.values_mut() {
        frontend.algorithm = Algorithm::Maglev;
    }
    inputs
}

#[test]
fn a_change_of_source_ranges_is_one_publication() {
    let mut world = World::default();
    world.round(&admitting(&["10.0.0.0/8"]));
    let first = only(&world.image.read_back()).clone();
    world.round(&admitting(&["10.0.0.0/8", "192.0.2.0/24"]));
    assert!(
        matches!(world.ops[..], [MapOp::PublishSources { .. }]),
        "{:?}",
        world.ops
    );
    let second = only(&world.image.read_back()).clone();
    let places = [&first, &second].map(|row| {
        let set = row.sources.clone().unwrap();
        set.offset..set.offset + u32::try_from(set.spans.len()).unwrap()
    });
    assert!(
        !places[1].contains(&places[0].start),
        "what is published is not overwritten: {places:?}"
    );
    world.round(&admitting(&["192.0.2.0/25", "192.0.2.128/25", "10.0.0.0/8"]));
    assert_eq!(world.ops, [], "the same networks in other words");
    world.round(&admitting(&["0.0.0.0/0"]));
    assert_eq!(
        world.ops,
        [MapOp::PublishSources {
            row: first.number,
            sources: None
        }]
    );
    world.round(&admitting(&[]));
    assert_eq!(only(&world.image.read_back()).sources.clone().unwrap().spans, []);
}

#[test]
fn frontends_that_admit_the_same_share_a_set() {
    let mut world = World::default();
    let mut inputs = admitting(&["10.0.0.0/8", "192.0.2.0/24"]);
    for port in 8_000..8_050 {
        let mut other = inputs.desired.frontends["web"].clone();
        other.port = port.try_into().unwrap();
        inputs.desired.frontends.insert(format!("f{port}"), other);
    }
    let tables = world.round(&inputs);
    let offsets: BTreeSet<u32> = tables
        .frontends
        .values()
        .map(|row| row.sources.as_ref().unwrap().offset)
        .collect();
    assert_eq!((tables.frontends.len(), offsets.len()), (51, 1));
}

#[test]
fn source_ranges_without_room_are_named() {
    let mut inputs = Inputs::default();
    for n in 0..17u32 {
        let mut one = frontend("203.0.113.10", 80, &[]);
        one.vip = IpAddr::from((0xcb00_0000 + n).to_be_bytes());
        let range = |m: u32| IpNet::from(IpAddr::from((0x0a00_0000 + n + 2 * m * 17).to_be_bytes()));
        one.source_ranges = Some((0..8_192).map(range).collect());
        inputs.desired.frontends.insert(format!("f{n:02}"), one);
    }
    let (tables, problems) = inputs.build(&Tables::default(), &mut Cursors::default());
    let full = Problem::Full {
        frontend: "f16".to_owned(),
        map: size::SOURCE_RANGES,
        capacity: size::MAX_SOURCE_RANGES,
    };
    assert_eq!(
        (tables.frontends.len(), problems),
        (16, vec![full]),
        "what has no room stays closed"
    );
}

/// Which backend each slot leads to.
fn led_to(tables: &Tables) -> Vec<Addr> {
    let row = only(tables);
    assert_eq!(row.policy.selection, Selection::Maglev);
    row.turn.iter().map(|number| tables.backends[number].address).collect()
}

#[test]
fn nodes_with_other_row_numbers_choose_alike() {
    let wanted = hashing(&[("web", frontend("203.0.113.10", 80, &[(A, 1), (B, 2), (C, 1)]))]);
    let mut fresh = World::default();
    let mut old = World::default();
    old.round(&inputs(&[("old", frontend("203.0.113.9", 80, &[(C, 1), (B, 1)]))]));
    old.round(&hashing(&[("web", frontend("203.0.113.10", 80, &[(C, 1), (A, 1)]))]));
    let (fresh, old) = (fresh.round(&wanted), old.round(&wanted));
    assert_ne!(only(&fresh).turn, only(&old).turn);
    assert_eq!(led_to(&fresh), led_to(&old));
    assert_eq!(led_to(&fresh).len(), 4_093);
}

/// The frontend "web" with three backends, checked with these results.
fn with_health(health: &[(&str, Health)], change: impl Fn(&mut Frontend)) -> Inputs {
    let mut inputs = checked(health);
    let web = inputs.desired.frontends.get_mut("web").unwrap();
    web.backends = frontend("203.0.113.10", 80, &[(A, 1), (B, 1), (C, 1)]).backends;
    change(web);
    inputs
}

#[test]
fn an_unhealthy_backend_gets_no_slot_and_moves_few_others() {
    let hashing = |health: &[(&str, Health)]| with_health(health, |web| web.algorithm = Algorithm::Maglev);
    let mut world = World::default();
    let before = led_to(&world.round(&hashing(&[])));
    let after = led_to(&world.round(&hashing(&[(B, Health::Unhealthy)])));
    let gone = Addr::v4([10, 0, 0, 2]);
    assert!(before.contains(&gone) && !after.contains(&gone));
    let moved = before.iter().zip(&after).filter(|(a, b)| **a != gone && a != b).count();
    assert!(moved < 100, "{moved} of {} slots", before.len());
    let back = led_to(&world.round(&hashing(&[(B, Health::Healthy)])));
    assert_eq!(back, before, "and back again");
}

#[test]
fn a_table_takes_what_room_there_is() {
    let mut inputs = hashing(&[("web", frontend("203.0.113.10", 80, &[(A, 1), (B, 1)]))]);
    inputs.backend_slots = Some(3_000);
    let mut world = World::default();
    assert_eq!(led_to(&world.round(&inputs)).len(), 1_021);
    inputs.backend_slots = Some(6_000);
    assert_eq!(led_to(&world.round(&inputs)).len(), 4_093, "more room, a finer table");
}

#[test]
fn affinity_is_a_word_of_the_row_and_knows_of_fail_open() {
    let sticky =
        |health: &[(&str, Health)]| with_health(health, |web| web.affinity = Some(Duration::from_secs(10_800)));
    let mut world = World::default();
    let policy = only(&world.round(&sticky(&[]))).policy;
    assert_eq!((policy.affinity, policy.fail_open), (10_800 * 250, false));
    let all = [A, B, C].map(|address| (address, Health::Unhealthy));
    assert!(only(&world.round(&sticky(&all))).policy.fail_open);
    assert!(!only(&world.round(&sticky(&all[..2]))).policy.fail_open);
    let plain = with_health(&[], |_web| ());
    assert_eq!(only(&world.round(&plain)).policy, Policy::default());
}
