//! The packet seam: windows of fixed size into the frame, and the few operations that need the driver's or the stack's help.

use kubelb_common::next_hop::MacWord;

use crate::answer::{self, Why};
use crate::neighbour::{self, Question};
use crate::parse::Packet;
use crate::tables::Tables;

/// A frame that can be read, rewritten and resized. Offsets count from the Ethernet header.
pub trait Bytes: Sized {
    /// True for the tc side: it can have the stack resolve a neighbour.
    const RESOLVES_NEIGHBOURS: bool;

    /// `N` bytes at `offset`, `None` when the frame is shorter.
    fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// True when the frame is at least `length` bytes long, parts outside the windows' reach included.
    fn holds(&self, length: usize) -> bool;

    /// Length of the largest IP packet that leaves for `packet`: less than its own where the stack has merged several
    /// segments into one.
    fn segment_length(&self, packet: &Packet) -> usize {
        packet.ip_length
    }

    /// The index of the interface that the frame came in on.
    fn interface(&self) -> u32;

    /// Updates the TCP or UDP checksum at `offset` after the addresses changed by `addresses` and words that the sum
    /// covers directly by `covered`. False when that is impossible; the frame is then lost.
    fn update_checksum(&mut self, offset: usize, addresses: u16, covered: u16, udp: bool, v6: bool) -> bool;

    /// True when the checksum at `offset` is left to hardware: the field then holds the sum of the pseudo-header alone.
    fn checksum_is_partial(&mut self, offset: usize) -> bool;

    /// Inserts `room` bytes (28 or 48) before the network header at `l3`, keeping the link header in front.
    fn make_room(&mut self, l3: usize, room: usize) -> bool;

    /// Cuts the frame to `length`.
    fn truncate(&mut self, length: usize) -> bool;

    /// [`answer::respond`]; in the kernel out of line, so that the established path stays small.
    fn respond<T: Tables>(&mut self, tables: &T, packet: &Packet, frontend: u32, why: Why) -> bool {
        answer::respond(self, tables, packet, frontend, why)
    }

    /// [`neighbour::consider`], out of line likewise.
    fn consider<T: Tables>(&mut self, tables: &T, question: Question) -> bool {
        neighbour::consider(self, tables, question)
    }
}

/// The raw 16-bit word at `AT`.
#[inline(always)]
#[must_use]
pub fn get16<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u16 {
    const { assert!(AT + 2 <= N) };
    // SAFETY: AT + 2 <= N is asserted at compile time; the read needs no alignment.
    unsafe { bytes.as_ptr().add(AT).cast::<u16>().read_unaligned() }
}

/// Stores a raw 16-bit word at `AT`.
#[inline(always)]
pub fn put16<const AT: usize, const N: usize>(bytes: &mut [u8; N], value: u16) {
    const { assert!(AT + 2 <= N) };
    // SAFETY: AT + 2 <= N is asserted at compile time; the write needs no alignment.
    unsafe { bytes.as_mut_ptr().add(AT).cast::<u16>().write_unaligned(value) }
}

/// The raw 32-bit word at `AT`.
#[inline(always)]
#[must_use]
pub fn get32<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(AT + 4 <= N) };
    // SAFETY: AT + 4 <= N is asserted at compile time; the read needs no alignment.
    unsafe { bytes.as_ptr().add(AT).cast::<u32>().read_unaligned() }
}

/// Stores a raw 32-bit word at `AT`.
#[inline(always)]
pub fn put32<const AT: usize, const N: usize>(bytes: &mut [u8; N], value: u32) {
    const { assert!(AT + 4 <= N) };
    // SAFETY: AT + 4 <= N is asserted at compile time; the write needs no alignment.
    unsafe { bytes.as_mut_ptr().add(AT).cast::<u32>().write_unaligned(value) }
}

/// The raw 64-bit word at `AT`.
#[inline(always)]
#[must_use]
pub fn get64<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u64 {
    const { assert!(AT + 8 <= N) };
    // SAFETY: AT + 8 <= N is asserted at compile time; the read needs no alignment.
    unsafe { bytes.as_ptr().add(AT).cast::<u64>().read_unaligned() }
}

/// Stores a raw 64-bit word at `AT`.
#[inline(always)]
pub fn put64<const AT: usize, const N: usize>(bytes: &mut [u8; N], value: u64) {
    const { assert!(AT + 8 <= N) };
    // SAFETY: AT + 8 <= N is asserted at compile time; the write needs no alignment.
    unsafe { bytes.as_mut_ptr().add(AT).cast::<u64>().write_unaligned(value) }
}

/// Stores the MAC address of a word at `AT`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two parts of six bytes")]
pub fn put_mac<const AT: usize, const N: usize>(bytes: &mut [u8; N], mac: MacWord) {
    const { assert!(AT + 6 <= N) };
    let (low, high) = ((mac.word() as u32).to_le(), ((mac.word() >> 32) as u16).to_le());
    // SAFETY: AT + 6 <= N is asserted at compile time; the writes need no alignment.
    unsafe {
        bytes.as_mut_ptr().add(AT).cast::<u32>().write_unaligned(low);
        bytes.as_mut_ptr().add(AT + 4).cast::<u16>().write_unaligned(high);
    }
}

/// The MAC address at `AT`.
#[inline(always)]
#[must_use]
pub fn get_mac<const AT: usize, const N: usize>(bytes: &[u8; N]) -> MacWord {
    const { assert!(AT + 6 <= N) };
    // SAFETY: AT + 6 <= N is asserted at compile time; the reads need no alignment.
    let (low, high) = unsafe {
        (
            bytes.as_ptr().add(AT).cast::<u32>().read_unaligned(),
            bytes.as_ptr().add(AT + 4).cast::<u16>().read_unaligned(),
        )
    };
    MacWord::from_word(u64::from(u32::from_le(low)) | (u64::from(u16::from_le(high)) << 32))
}
