//! Backend rows: one per frontend and backend address.

use crate::addr::Addr;
use crate::hash;
use crate::shared::SharedU64;

/// What the agent says about a backend; bits of [`Backend::flags`].
pub mod flag {
    /// The row is in use.
    pub const IN_USE: u16 = 1;
    /// Removed from the configuration: TCP flows drain, UDP flows move at their next packet.
    pub const DRAINING: u16 = 1 << 1;
    /// The health check says so; informs `status` and outlives a restart of the agent.
    pub const UNHEALTHY: u16 = 1 << 2;
    /// A health check has given a result.
    pub const CHECKED: u16 = 1 << 3;
    /// There is a health check.
    pub const HAS_CHECK: u16 = 1 << 4;
    /// Its flows were ended when it turned unhealthy.
    pub const FLOWS_ENDED: u16 = 1 << 5;
}

/// A backend. A flow remembers the generation it was made under: another generation means the row is another backend now.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Backend {
    address_high: SharedU64,
    address_low: SharedU64,
    /// port | flags << 16 | generation << 32 | fold << 48
    identity: SharedU64,
    /// next hop | frontend << 32
    relations: SharedU64,
    /// weight | (SNAT row + 1) << 16
    share: SharedU64,
    reserved: [u64; 3],
}

const _: () = assert!(size_of::<Backend>() == 64);

/// The part of a backend that a packet needs, loaded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// Where packets go.
    pub address: Addr,
    /// Port, raw.
    pub port: u16,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Generation of the row.
    pub generation: u16,
    /// Eight-bit fold of address and port.
    pub fold: u8,
    /// Row number of the next hop.
    pub next_hop: u32,
}

impl Backend {
    /// Loads what a packet needs.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of packed words")]
    pub fn view(&self) -> BackendView {
        let identity = self.identity.load();
        BackendView {
            address: Addr::from_words(self.address_high.load(), self.address_low.load()),
            port: identity as u16,
            flags: (identity >> 16) as u16,
            generation: (identity >> 32) as u16,
            fold: (identity >> 48) as u8,
            next_hop: self.relations.load() as u32,
        }
    }

    /// Bits of [`flag`], none when the row has another generation.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of a packed word")]
    pub fn flags_of(&self, generation: u16) -> u16 {
        let identity = self.identity.load();
        if (identity >> 32) as u16 == generation {
            (identity >> 16) as u16
        } else {
            0
        }
    }

    /// Which owner of the row this is.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a field of a packed word")]
    pub fn generation(&self) -> u16 {
        (self.identity.load() >> 32) as u16
    }

    /// Row number of the frontend that the backend belongs to.
    #[inline(always)]
    #[must_use]
    pub fn frontend(&self) -> u32 {
        (self.relations.load() >> 32) as u32
    }

    /// Share of new flows.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a field of a packed word")]
    pub fn weight(&self) -> u16 {
        self.share.load() as u16
    }

    /// The SNAT address to use towards this backend; `None`: any of the family.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "eight bits of a packed word")]
    pub fn snat(&self) -> Option<u32> {
        (((self.share.load() >> 16) as u32) & 0xff).checked_sub(1)
    }

    /// Makes the row another backend: under a new generation, so that flows of its former owner are told apart.
    /// Only user space, and never on a row that a published set names.
    pub fn occupy(&self, address: Addr, port: u16, frontend: u32, next_hop: u32) {
        let (high, low) = address.words();
        let generation = (self.identity.load() >> 32).wrapping_add(1) & 0xffff;
        self.identity.store(generation << 32);
        self.address_high.store(high);
        self.address_low.store(low);
        self.relations.store(u64::from(next_hop) | (u64::from(frontend) << 32));
        let fold = u64::from(hash::fold(address, port));
        self.identity
            .store(u64::from(port) | (u64::from(flag::IN_USE) << 16) | (generation << 32) | (fold << 48));
    }

    /// Ends the flows of a backend that stays: they are stale from the next packet on, new ones are not. The flag says that this was
    /// done; both in one store.
    pub fn renew(&self) {
        let identity = self.identity.load();
        let generation = (identity >> 32).wrapping_add(1) & 0xffff;
        let flags = u64::from(flag::FLOWS_ENDED) << 16;
        self.identity
            .store((identity & !(0xffff << 32)) | flags | (generation << 32));
    }

    /// Ends the row's life: flows that still name it are stale from the next packet on.
    pub fn vacate(&self) {
        let identity = self.identity.load();
        let generation = (identity >> 32).wrapping_add(1) & 0xffff;
        self.identity.store(generation << 32);
    }

    /// Points the backend at another next hop.
    pub fn set_next_hop(&self, next_hop: u32) {
        self.relations
            .store((self.relations.load() & !0xffff_ffff) | u64::from(next_hop));
    }

    /// Sets the share of new flows, for `status` (the published set is what counts), and the SNAT row to use towards the
    /// backend, below 255; `None`: any of the family.
    pub fn set_share(&self, weight: u16, snat: Option<u8>) {
        let row = snat.map_or(0, |row| u64::from(row) + 1);
        self.share.store(u64::from(weight) | (row << 16));
    }

    /// Sets and clears bits of [`flag`].
    pub fn change_flags(&self, set: u16, clear: u16) {
        self.identity.fetch_and(!(u64::from(clear) << 16));
        self.identity.fetch_or(u64::from(set) << 16);
    }
}
