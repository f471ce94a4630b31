//! Shares, and how many slots change hands.

use proptest::prelude::*;

use super::*;

fn entries(weights: &[u32]) -> Vec<Entry> {
    (1u32..)
        .zip(weights)
        .map(|(n, weight)| (Addr::v4((0x0a00_0000 + n).to_be_bytes()), 30_080u16.to_be(), *weight))
        .collect()
}

fn table(entries: &[Entry], size: u32) -> Vec<Entry> {
    let table = build(entries, size);
    assert_eq!(table.len(), usize::try_from(size).unwrap());
    table.iter().map(|index| entries[usize::from(*index)]).collect()
}

/// Slots of each backend.
fn slots(table: &[Entry]) -> BTreeMap<Entry, u32> {
    let mut slots = BTreeMap::new();
    for entry in table {
        *slots.entry(*entry).or_default() += 1;
    }
    slots
}

/// Of the slots that neither belong to a backend in `gone` before nor after, how many changed hands, in parts of a thousand.
fn moved(before: &[Entry], after: &[Entry], gone: &[Entry]) -> usize {
    let kept: Vec<_> = before
        .iter()
        .zip(after)
        .filter(|(a, b)| !gone.contains(a) && !gone.contains(b))
        .collect();
    kept.iter().filter(|(a, b)| a != b).count() * 1_000 / before.len()
}

#[test]
fn equal_weights_get_equal_shares() {
    for (count, size) in [
        (1, 4_093),
        (3, 4_093),
        (10, 4_093),
        (40, 4_093),
        (160, 16_381),
        (600, 65_521),
    ] {
        let entries = entries(&vec![1; count]);
        assert_eq!(sizes(&vec![1; count]).next(), Some(size), "{count}");
        let slots = slots(&table(&entries, size));
        let (least, most) = (slots.values().min().unwrap(), slots.values().max().unwrap());
        assert!(slots.len() == count && most - least <= 1, "{count}: {least} to {most}");
    }
}

#[test]
fn weights_are_honoured_and_small_ones_get_something() {
    let of = |weights: &[u32]| {
        let entries = entries(weights);
        let slots = slots(&table(&entries, sizes(weights).next().unwrap()));
        entries.iter().map(|entry| slots[entry]).collect::<Vec<u32>>()
    };
    let shares = of(&[1, 2, 5]);
    assert!((511..=514).contains(&shares[0]), "{shares:?}");
    assert!((1_022..=1_026).contains(&shares[1]), "{shares:?}");
    let shares = of(&[256, 256, 256, 1]);
    assert!(
        shares[3] >= 5 && shares[3] <= 24,
        "{shares:?} of 16,381, of which 21 are its share"
    );
    assert_eq!(shares.iter().sum::<u32>(), 16_381);
}

#[test]
fn what_nodes_agree_on_never_changes() {
    let entries = entries(&[1, 1, 3]);
    let start: Vec<u16> = build(&entries, 251).into_iter().take(24).collect();
    assert_eq!(
        start,
        [2, 2, 0, 2, 0, 0, 1, 2, 0, 2, 2, 0, 2, 2, 2, 2, 2, 2, 2, 0, 2, 0, 1, 1]
    );
}

/// What `docs/design/006-new-flows.md` says of disruption.
#[test]
fn few_slots_change_hands_when_a_backend_goes() {
    for (count, size, limit) in [(3, 4_093, 5), (10, 4_093, 16), (40, 4_093, 30), (100, 16_381, 20)] {
        let all = entries(&vec![1; count]);
        let before = table(&all, size);
        let mut worst = 0;
        for gone in 0..count.min(12) {
            let mut rest = all.clone();
            let gone = rest.remove(gone);
            worst = worst.max(moved(&before, &table(&rest, size), &[gone]));
        }
        assert!(
            worst <= limit,
            "{count} backends: {worst} of 1,000 slots of others changed hands"
        );
    }
}

#[test]
fn a_table_is_made_once() {
    let mut memo = Memo::default();
    let first = memo.table(entries(&[1, 1]), 251);
    memo.end_round();
    assert!(Arc::ptr_eq(&first, &memo.table(entries(&[1, 1]), 251)));
    assert!(Arc::ptr_eq(&first, &memo.table(entries(&[1, 1]), 251)));
    memo.end_round();
    memo.end_round();
    assert_eq!(memo, Memo::default(), "what nobody asks for is forgotten");
}

proptest! {
    #[test]
    fn every_slot_has_a_backend_and_every_backend_its_share(
        weights in prop::collection::vec(1u32..=256, 1..30),
        which in 0usize..3,
    ) {
        let size = SIZES[which];
        let entries = entries(&weights);
        let slots = slots(&table(&entries, size));
        let sum: u32 = weights.iter().sum();
        prop_assert_eq!(slots.len(), entries.len());
        for entry in &entries {
            let exact = f64::from(size) * f64::from(entry.2) / f64::from(sum);
            let off = f64::from(slots[entry]) - exact;
            // One for the first round, and one for each way a last round is not complete.
            prop_assert!(off.abs() <= 2.0 + exact * 0.15 + f64::from(u32::try_from(entries.len()).unwrap()) * f64::from(entry.2) / f64::from(sum), "{off} off {exact}");
        }
    }
}
