//! Incremental update of the Internet checksum (RFC 1071, RFC 1624).
//!
//! A *delta* is what a change of some words adds to the one's-complement sum: `new + !old`, folded to 16 bits. The sum
//! does not depend on byte order as long as all words are loaded the same way; here they are native.

/// Folds a sum of 16- or 32-bit words to 16 bits with end-around carry.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    fold32((sum >> 32) as u32 + (sum >> 16 & 0xffff) as u32 + (sum & 0xffff) as u32)
}

/// Folds a 32-bit sum of 16-bit words, likewise.
#[inline(always)]
#[must_use]
pub const fn fold32(sum: u32) -> u16 {
    carry((sum >> 16) + (sum & 0xffff))
}

/// The last fold: of a sum of at most 0x1fffe, whose carry cannot carry again.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the carry is in the low half now")]
const fn carry(sum: u32) -> u16 {
    (sum + (sum >> 16)) as u16
}

/// The delta that undoes `delta`.
#[inline(always)]
#[must_use]
pub const fn negate(delta: u16) -> u16 {
    !delta
}

/// Both deltas together.
#[inline(always)]
#[must_use]
pub const fn combine(a: u16, b: u16) -> u16 {
    carry(a as u32 + b as u32)
}

/// The checksum field after a change worth `delta`.
#[inline(always)]
#[must_use]
pub const fn update(field: u16, delta: u16) -> u16 {
    !combine(!field, delta)
}

/// The UDP checksum field after a change worth `delta`: zero means "no checksum" (RFC 768) and stays so; a sum that
/// comes out as zero is sent as all ones.
#[inline(always)]
#[must_use]
pub const fn update_udp(field: u16, delta: u16) -> u16 {
    if field == 0 {
        return 0;
    }
    match update(field, delta) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Delta of replacing the 16-bit word `old` by `new`.
#[inline(always)]
#[must_use]
pub const fn delta16(old: u16, new: u16) -> u16 {
    carry(new as u32 + (!old) as u32)
}

/// Sum of an address's words, for [`address_delta`].
#[inline(always)]
const fn sum_words(high: u64, low: u64) -> u64 {
    (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff)
}

/// Delta of replacing the addresses `old` (source, destination) by `new`, over the bytes of their own family: in
/// IPv4-mapped form the constant prefix cancels out.
#[inline(always)]
#[must_use]
pub const fn address_delta(
    old: (crate::addr::Addr, crate::addr::Addr),
    new: (crate::addr::Addr, crate::addr::Addr),
) -> u16 {
    let (a, b) = (old.0.words(), old.1.words());
    let (c, d) = (new.0.words(), new.1.words());
    let plus = sum_words(c.0, c.1) + sum_words(d.0, d.1);
    let minus = fold(sum_words(a.0, a.1) + sum_words(b.0, b.1));
    combine(fold(plus), !minus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use proptest::prelude::*;

    /// RFC 1071's definition, over bytes.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    /// One's complement has two zeros; the field 0x0000 and 0xffff verify alike.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn incremental_equals_full(data in prop::collection::vec(any::<u8>(), 32..64), src: [u8; 4], dst: [u8; 4], port: u16) {
            let mut data = data;
            if data.len() % 2 == 1 { data.pop(); }
            let before = full(&data);
            let old = (Addr::v4(data[0..4].try_into().unwrap()), Addr::v4(data[4..8].try_into().unwrap()));
            let old_port = u16::from_ne_bytes([data[8], data[9]]);
            data[0..4].copy_from_slice(&src);
            data[4..8].copy_from_slice(&dst);
            data[8..10].copy_from_slice(&port.to_ne_bytes());
            let delta = combine(address_delta(old, (Addr::v4(src), Addr::v4(dst))), delta16(old_port, port));
            prop_assert!(same(update(before, delta), full(&data)));
            prop_assert!(same(update(full(&data), negate(delta)), before));
        }

        #[test]
        fn udp_never_becomes_zero(field in 1u16.., delta: u16) {
            prop_assert_ne!(update_udp(field, delta), 0);
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        assert_eq!(update_udp(0, 0x1234), 0);
    }
}
