//! SNAT addresses: what backends see as the client, and where the reverse index of each begins.

use crate::addr::Addr;
use crate::shared::{SharedU32, SharedU64};

/// Most SNAT addresses, both families together.
pub const MAX_ADDRESSES: u32 = 16;

/// A SNAT address. Its reverse index is an array of `2 * folds * ports` words: UDP after TCP, fold by fold.
#[repr(C, align(64))]
#[derive(Default)]
pub struct SnatAddress {
    high: SharedU64,
    low: SharedU64,
    /// First port.
    first_port: SharedU32,
    /// Number of ports; 0: the row is not in use.
    ports: SharedU32,
    /// Bits of the backend fold, 0 to 8.
    fold_bits: SharedU32,
    /// First word of the reverse index.
    reverse: SharedU32,
    /// First port pool.
    pool: SharedU32,
    /// 1: takes no new flows.
    retired: SharedU32,
    reserved: [u64; 3],
}

const _: () = assert!(size_of::<SnatAddress>() == 64);

/// A row, loaded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatView {
    /// The address.
    pub address: Addr,
    /// First port, a number.
    pub first_port: u32,
    /// Number of ports.
    pub ports: u32,
    /// Bits of the backend fold.
    pub fold_bits: u32,
    /// First word of the reverse index.
    pub reverse: u32,
    /// First port pool.
    pub pool: u32,
    /// False: takes no new flows.
    pub in_service: bool,
}

impl SnatAddress {
    /// Loads the row.
    #[inline(always)]
    #[must_use]
    pub fn view(&self) -> SnatView {
        SnatView {
            address: Addr::from_words(self.high.load(), self.low.load()),
            first_port: self.first_port.load(),
            ports: self.ports.load(),
            fold_bits: self.fold_bits.load(),
            reverse: self.reverse.load(),
            pool: self.pool.load(),
            in_service: self.retired.load() == 0,
        }
    }

    /// The address alone.
    #[inline(always)]
    #[must_use]
    pub fn address(&self) -> Addr {
        Addr::from_words(self.high.load(), self.low.load())
    }

    /// Raw port at a position of the range.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "first_port + offset is a port")]
    pub fn raw_port(&self, offset: u32) -> u16 {
        ((self.first_port.load() + offset) as u16).to_be()
    }

    /// Writes the row. Only user space.
    pub fn replace(&self, view: &SnatView) {
        self.ports.store(0);
        let (high, low) = view.address.words();
        self.high.store(high);
        self.low.store(low);
        self.first_port.store(view.first_port);
        self.fold_bits.store(view.fold_bits);
        self.reverse.store(view.reverse);
        self.pool.store(view.pool);
        self.retired.store(u32::from(!view.in_service));
        self.ports.store(view.ports);
    }

    /// Stops or resumes giving out ports; flows that have one keep it.
    pub fn set_in_service(&self, in_service: bool) {
        self.retired.store(u32::from(!in_service));
    }
}

impl SnatView {
    /// Number of the (protocol, fold) section, below [`SnatView::sections`].
    #[inline(always)]
    #[must_use]
    pub fn section(&self, udp: bool, fold: u8) -> u32 {
        let bits = self.fold_bits & 15;
        (u32::from(udp) << bits) + (u32::from(fold) & ((1 << bits) - 1))
    }

    /// How many sections there are, each with a port pool and `ports` words of reverse index.
    #[must_use]
    pub fn sections(&self) -> u32 {
        2 << (self.fold_bits & 15)
    }

    /// Index of the pool of a section.
    #[inline(always)]
    #[must_use]
    pub fn pool_index(&self, section: u32) -> u32 {
        self.pool + section
    }

    /// Index of the reverse word of a port (counted from the first) in a section.
    #[inline(always)]
    #[must_use]
    pub fn reverse_index(&self, section: u32, port: u32) -> u32 {
        self.reverse
            .wrapping_add(section.wrapping_mul(self.ports))
            .wrapping_add(port)
    }

    /// Position of a raw port in the range, `None` outside.
    #[inline(always)]
    #[must_use]
    pub fn port_offset(&self, raw: u16) -> Option<u32> {
        let offset = u32::from(u16::from_be(raw)).wrapping_sub(self.first_port);
        (offset < self.ports).then_some(offset)
    }

    /// Raw port at a position of the range.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "first_port + offset is a port")]
    pub fn raw_port(&self, offset: u32) -> u16 {
        ((self.first_port + offset) as u16).to_be()
    }
}
