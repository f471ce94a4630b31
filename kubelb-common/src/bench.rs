//! What the bench and its driver program share. No part of the data path, and pinned nowhere.

/// One [`Plan`].
pub const PLAN: &str = "PLAN";
/// Rows of [`pack`], for [`LISTED`].
pub const VARIANTS: &str = "VARIANTS";
/// One program: the one that is measured.
pub const UNDER_TEST: &str = "UNDER_TEST";
/// The stock hash map whose hit is the unit of all figures.
pub const HASH: &str = "HASH";

/// Where the words of [`Plan::words`] go in a frame. No header field straddles two of them: a processor that loads what
/// it has just stored in two pieces waits, and a frame from a driver would not make it wait.
pub const WORDS_AT: [usize; 10] = [0, 6, 14, 22, 30, 38, 46, 54, 62, 70];
/// Bytes of a frame that the driver restores before each run: Ethernet, IPv6 and TCP headers fit.
pub const HEADER_BYTES: usize = 78;
/// Most variants that are listed, and most keys of the hash map.
pub const MAX_VARIANTS: u32 = 65_536;
/// First byte of the frame that is part of the hash map's key: IPv4 addresses and ports are.
pub const KEY_AT: usize = 22;
/// Bytes of that key.
pub const KEY_BYTES: usize = 16;

/// Every frame is the same.
pub const FIXED: u32 = 0;
/// The variant is made from the number of the run: see [`counted`].
pub const COUNTED: u32 = 1;
/// The variant is a row of [`VARIANTS`].
pub const LISTED: u32 = 2;

/// What the driver does before each tail call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The frame's first bytes in words as they are in memory, see [`WORDS_AT`].
    pub words: [u64; WORDS_AT.len()],
    /// Number of the next run; the driver counts it up.
    pub run: u64,
    /// Number of variants less one, of which there is a power of two.
    pub mask: u32,
    /// [`FIXED`], [`COUNTED`] or [`LISTED`].
    pub variants: u32,
    /// 1: the frame is IPv6, so addresses and ports are elsewhere.
    pub v6: u32,
    /// No meaning.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Plan>() == 104);

/// The words that a variant replaces: low half of the source address, source port, destination port, each as it is in
/// memory.
#[inline(always)]
#[must_use]
pub const fn pack(address: u16, source_port: u16, destination_port: u16) -> u64 {
    address as u64 | (source_port as u64) << 16 | (destination_port as u64) << 32
}

/// Source port of the first clients of [`counted`].
pub const FIRST_CLIENT_PORT: u16 = 40_000;

/// Variant `which` of a client's frame to this raw destination port: clients differ in address first, then in port.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "16 bits of each half are meant")]
pub const fn counted(which: u32, destination_port: u16) -> u64 {
    let port = FIRST_CLIENT_PORT.wrapping_add((which >> 16) as u16);
    pack((which as u16).to_be(), port.to_be(), destination_port)
}

impl Plan {
    /// The raw destination port of the frame.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "16 bits are meant")]
    pub const fn destination_port(&self) -> u16 {
        let [_, _, _, _, at_30, _, _, at_54, ..] = self.words;
        if self.v6 == 0 {
            (at_30 >> 48) as u16
        } else {
            (at_54 >> 16) as u16
        }
    }

    /// The frame's words with a variant in them. Only where memory is little-endian, as the object is.
    #[inline(always)]
    #[must_use]
    pub const fn with(&self, variant: u64) -> [u64; WORDS_AT.len()] {
        let (address, ports) = (variant & 0xffff, variant >> 16 & 0xffff_ffff);
        let [a, b, c, mut at_22, mut at_30, f, g, mut at_54, i, j] = self.words;
        if self.v6 == 0 {
            at_22 = at_22 & 0xffff_ffff_ffff | address << 48;
            at_30 = at_30 & 0xffff_ffff | ports << 32;
        } else {
            at_30 = at_30 & 0xffff_ffff_ffff | address << 48;
            at_54 = at_54 & !0xffff_ffff | ports;
        }
        [a, b, c, at_22, at_30, f, g, at_54, i, j]
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER_BYTES, Plan, WORDS_AT, counted};

    fn frame(words: [u64; WORDS_AT.len()]) -> [u8; HEADER_BYTES] {
        let mut frame = [0; HEADER_BYTES];
        for (at, word) in WORDS_AT.into_iter().zip(words) {
            frame[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        frame
    }

    #[test]
    fn a_variant_is_where_the_headers_have_it() {
        for (v6, address, ports) in [(0, 28, 34), (1, 36, 54)] {
            let mut plan = Plan {
                words: [u64::MAX; WORDS_AT.len()],
                v6,
                ..Plan::default()
            };
            assert_eq!(plan.destination_port(), 0xffff);
            plan.words = plan.with(counted(0x1_0203, 0x1234));
            assert_eq!(plan.destination_port(), 0x1234);
            let frame = frame(plan.words);
            assert_eq!(frame[address..address + 2], [2, 3]);
            assert_eq!(frame[ports..ports + 2], 40_001u16.to_be_bytes());
            assert_eq!(frame[ports + 2..ports + 4], 0x1234u16.to_le_bytes());
            assert_eq!(frame.iter().filter(|byte| **byte == 0xff).count(), HEADER_BYTES - 6);
        }
    }
}
