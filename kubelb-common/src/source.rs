//! Source ranges: which clients may open flows of a frontend, as sorted spans of addresses that do not overlap.
//!
//! A set is written where no published set is, and then published by one store of [`crate::frontend::Frontend`]. Frontends that
//! ask for the same share one.

use crate::addr::Addr;
use crate::flow_table::FlowTables;
use crate::frontend::Frontend;
use crate::shared::{SharedU64, opaque};

/// Addresses from a first to a last one, both included, held as numbers so that they compare as such.
#[repr(C, align(32))]
#[derive(Default)]
pub struct SourceRange {
    first: [SharedU64; 2],
    last: [SharedU64; 2],
}

const _: () = assert!(size_of::<SourceRange>() == 32);

/// An address as two numbers, the higher half first.
type Number = (u64, u64);

#[inline(always)]
const fn number(addr: Addr) -> Number {
    let (high, low) = addr.words();
    (u64::from_be(high), u64::from_be(low))
}

#[inline(always)]
const fn is_below(a: Number, b: Number) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
}

impl SourceRange {
    /// Writes the row. Only user space, and never a row of a published set unless with what it holds.
    pub fn replace(&self, first: Addr, last: Addr) {
        for (words, addr) in [(&self.first, first), (&self.last, last)] {
            let (high, low) = number(addr);
            words[0].store(high);
            words[1].store(low);
        }
    }

    #[inline(always)]
    fn numbers(&self) -> (Number, Number) {
        (
            (self.first[0].load(), self.first[1].load()),
            (self.last[0].load(), self.last[1].load()),
        )
    }

    /// First and last address.
    #[must_use]
    pub fn view(&self) -> (Addr, Addr) {
        let addr = |(high, low): Number| Addr::from_words(high.to_be(), low.to_be());
        let (first, last) = self.numbers();
        (addr(first), addr(last))
    }
}

/// Looks at this many ranges at most: enough for any set, since a set is shorter than two to this power.
const STEPS: u32 = 17;
/// Longest set.
pub const MAX_SET: u32 = (1 << (STEPS - 1)) - 1;

/// True when the client may open flows of the frontend: it has no source ranges, or one of them holds the address.
#[inline(always)]
pub fn admits<T: FlowTables>(tables: &T, frontend: &Frontend, client: Addr) -> bool {
    let Some((offset, length)) = frontend.sources() else {
        return true;
    };
    let wanted = number(client);
    let (mut from, mut to) = (0, length);
    let mut step = opaque(0);
    while step < STEPS && from < to {
        step += 1;
        let middle = from + ((to - from) >> 1);
        let Some(range) = tables.source_range(offset.wrapping_add(middle)) else {
            return false;
        };
        let (first, last) = range.numbers();
        if is_below(wanted, first) {
            to = middle;
        } else if is_below(last, wanted) {
            from = middle + 1;
        } else {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_table::{Layout, Slices};
    use proptest::prelude::*;

    fn v4(number: u32) -> Addr {
        Addr::v4(number.to_be_bytes())
    }

    fn v6(number: u128) -> Addr {
        Addr::v6(number.to_be_bytes())
    }

    fn admitted(ranges: &[(Addr, Addr)], client: Addr) -> bool {
        let rows: Vec<SourceRange> = [(v4(0), v4(u32::MAX))]
            .iter()
            .chain(ranges)
            .map(|(first, last)| {
                let row = SourceRange::default();
                row.replace(*first, *last);
                assert_eq!(row.view(), (*first, *last));
                row
            })
            .collect();
        let tables = Slices {
            layout: Layout::for_flows(1),
            buckets: &[],
            reverse: &[],
            pools: &[],
            frontends: &[],
            snat: &[],
            source_ranges: &rows,
        };
        let frontend = Frontend::default();
        assert!(admits(&tables, &frontend, client), "no ranges, no filter");
        frontend.publish_sources(Some((1, u32::try_from(ranges.len()).unwrap())));
        admits(&tables, &frontend, client)
    }

    #[test]
    fn an_empty_set_admits_nobody() {
        for client in [v4(0), v4(7), v4(u32::MAX), v6(0), v6(u128::MAX)] {
            assert!(!admitted(&[], client));
        }
    }

    #[test]
    fn bounds_belong_to_a_range() {
        let ranges = [
            (v4(0x0a00_0000), v4(0x0aff_ffff)),
            (v6(0x2001_0db8 << 96), v6((0x2001_0db9 << 96) - 1)),
        ];
        for inside in [
            v4(0x0a00_0000),
            v4(0x0a01_0203),
            v4(0x0aff_ffff),
            v6((0x2001_0db8 << 96) + 1),
        ] {
            assert!(admitted(&ranges, inside));
        }
        for outside in [
            v4(0x09ff_ffff),
            v4(0x0b00_0000),
            v6((0x2001_0db8 << 96) - 1),
            v6(0x2001_0db9 << 96),
            v6(0),
        ] {
            assert!(!admitted(&ranges, outside));
        }
    }

    proptest! {
        #[test]
        fn the_search_finds_what_looking_at_all_finds(
            bounds in prop::collection::btree_set(any::<u128>(), 0..120),
            near in any::<prop::sample::Index>(),
            off in -1i8..=1,
            other in any::<u128>(),
        ) {
            let bounds: Vec<u128> = bounds.into_iter().collect();
            let ranges: Vec<(u128, u128)> =
                bounds.as_chunks::<2>().0.iter().map(|[first, last]| (*first, *last)).collect();
            let client = if bounds.is_empty() { other } else {
                bounds[near.index(bounds.len())].wrapping_add_signed(off.into())
            };
            let rows: Vec<_> = ranges.iter().map(|(first, last)| (v6(*first), v6(*last))).collect();
            for client in [client, other] {
                let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&client));
                prop_assert_eq!(admitted(&rows, v6(client)), expected);
            }
        }
    }
}
