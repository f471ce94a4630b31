//! Keyed hashing of packets: multiply and xor-shift, seeded per table so that nobody outside can aim at a bucket.

use crate::addr::Addr;

const M1: u64 = 0x9e37_79b9_7f4a_7c15;
const M2: u64 = 0xd6e8_feb8_6659_fd93;
const M3: u64 = 0xa076_1d64_78bd_642f;

#[inline(always)]
const fn mix(value: u64, by: u64) -> u64 {
    let v = value.wrapping_mul(by);
    v ^ (v >> 32)
}

/// Hash of a flow's client-side 5-tuple, 64 bits. Ports are the raw words of the header.
#[inline(always)]
#[must_use]
pub const fn flow(
    seed: u64,
    source: Addr,
    destination: Addr,
    source_port: u16,
    destination_port: u16,
    protocol: u8,
) -> u64 {
    let (a, b) = source.words();
    let (c, d) = destination.words();
    let ports = (source_port as u64) | ((destination_port as u64) << 16) | ((protocol as u64) << 32);
    // The high words are the same constant for every IPv4 address; adding keeps IPv6's in play at one instruction each.
    let h = mix(b ^ seed, M1);
    let h = mix(h ^ d.wrapping_add(a.rotate_left(17)), M2);
    let h = mix(h ^ ports ^ c.rotate_left(31), M3);
    mix(h ^ seed.rotate_left(32), M1)
}

/// Seed of what all nodes must agree on. Not a secret: who wants to meet one backend can open flows until it does, as with any backend
/// that is found by hash.
const AGREED: u64 = 0x6b75_6265_6c62_0001;

/// The hash by which a flow finds its backend in a Maglev table, the same on every node and in every version.
#[inline(always)]
#[must_use]
pub const fn choice(client: Addr, vip: Addr, client_port: u16, vip_port: u16, protocol: u8) -> u64 {
    flow(AGREED, client, vip, client_port, vip_port, protocol)
}

/// The same for all flows of a client's address.
#[inline(always)]
#[must_use]
pub const fn choice_of_client(client: Addr) -> u64 {
    flow(AGREED, client, Addr::from_words(0, 0), 0, 0, 0)
}

/// Where a backend begins in its order of preference of a Maglev table, and how far its steps are; `port` is raw. The same everywhere.
#[must_use]
pub const fn preference(address: Addr, port: u16) -> (u64, u64) {
    let none = Addr::from_words(0, 0);
    (
        flow(AGREED ^ M2, address, none, port, 0, 0),
        flow(AGREED ^ M3, address, none, port, 0, 0),
    )
}

/// First bucket, fingerprint and second bucket from a flow's hash; the stash bucket is other bits of the second.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "each part is its own slice of the hash")]
pub const fn parts(hash: u64) -> (u32, u32, u32) {
    // The high half of the product: its low bits depend on the low bits of `hash` alone, that is, on the first bucket.
    let second = hash.wrapping_mul(M2) >> 32;
    (hash as u32, (hash >> 32) as u32, second as u32)
}

/// Hash of one address, 16 bits, for the destination filter.
#[inline(always)]
#[must_use]
pub const fn address(seed: u64, address: Addr) -> u16 {
    let (a, b) = address.words();
    ((b ^ seed).wrapping_add(a.wrapping_mul(M2)).wrapping_mul(M1) >> 48) as u16
}

/// Hash of a backend's address and port, 8 bits: the fold that lets one SNAT port serve several backends.
#[inline(always)]
#[must_use]
pub const fn fold(address: Addr, port: u16) -> u8 {
    let (a, b) = address.words();
    (b.wrapping_add(a.wrapping_mul(M2))
        .wrapping_add((port as u64).wrapping_mul(M3))
        .wrapping_mul(M1)
        >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn flows_of_one_bucket_have_many_second_buckets() {
        let client = |n: u32| Addr::v4((0x0a00_0000 + n).to_be_bytes());
        let vip = Addr::v4([203, 0, 113, 10]);
        let places: Vec<(u32, u32, u32)> = (0..65_536).map(|n| parts(flow(1, client(n), vip, 1, 2, 6))).collect();
        let of_one: Vec<u32> = places
            .iter()
            .filter(|(first, ..)| first % 256 == 0)
            .map(|(.., second)| second % 256)
            .collect();
        assert!(
            of_one.len() > 150,
            "{} of 65,536 flows in one of 256 buckets",
            of_one.len()
        );
        let distinct: BTreeSet<u32> = of_one.iter().copied().collect();
        assert!(distinct.len() > of_one.len() / 3, "{} second buckets", distinct.len());
    }

    #[test]
    fn what_nodes_agree_on_never_changes() {
        let (client, vip) = (Addr::v4([192, 0, 2, 7]), Addr::v4([203, 0, 113, 10]));
        let v6 = Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        let found = [
            choice(client, vip, 1_234u16.to_be(), 80u16.to_be(), 6),
            choice_of_client(client),
            choice_of_client(v6),
            preference(client, 30_080u16.to_be()).0,
            preference(v6, 30_080u16.to_be()).1,
        ];
        assert_eq!(
            found,
            [
                10_800_215_835_309_094_702,
                9_540_330_773_009_723_074,
                17_560_044_293_686_184_412,
                5_916_669_715_027_990_080,
                7_257_952_867_838_420_022
            ]
        );
    }

    #[test]
    fn another_seed_is_another_order() {
        let (a, b) = (Addr::v4([10, 0, 0, 1]), Addr::v4([203, 0, 113, 10]));
        assert_ne!(flow(1, a, b, 1, 2, 6), flow(2, a, b, 1, 2, 6));
        assert_ne!(address(1, a), address(2, a));
    }
}
