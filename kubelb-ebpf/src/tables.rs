//! The map seam.

use kubelb_common::affinity::{Affinity, AffinityKey};
use kubelb_common::announce::{AnnounceKey, AnnounceRow, Subject};
use kubelb_common::backend::Backend;
use kubelb_common::control::Control;
use kubelb_common::flow::ClientHop;
use kubelb_common::flow_table::FlowTables;
use kubelb_common::frontend::FrontendKey;
use kubelb_common::next_hop::{MacWord, NextHop};
use kubelb_common::shared::SharedU32;
use kubelb_common::stats::{Reason, Scratch};

use crate::parse::Packet;

/// All that steering reads and counts, besides the flow table.
pub trait Tables: FlowTables + Sized {
    /// The control row.
    fn control(&self) -> Option<&Control>;
    /// Byte `index` of filter `which`.
    fn filter(&self, which: u32, index: u16) -> u8;
    /// Row number of a frontend, or [`kubelb_common::frontend::ECHO_ONLY`].
    fn frontend_number(&self, key: &FrontendKey) -> Option<u32>;
    /// Calls `f` with a client's affinity record at a frontend, if there is one.
    fn with_affinity<R>(&self, key: &AffinityKey, f: impl FnOnce(&Affinity) -> R) -> Option<R>;
    /// Makes a client's affinity record; false when there is one or no room.
    fn add_affinity(&self, key: &AffinityKey, record: Affinity) -> bool;
    /// Backend row number in a slot.
    fn backend_slot(&self, index: u32) -> Option<u32>;
    /// A backend row.
    fn backend(&self, index: u32) -> Option<&Backend>;
    /// A next-hop row.
    fn next_hop(&self, index: u32) -> Option<&NextHop>;
    /// Calls `f` with this CPU's scratch row.
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R>;

    /// Value of a key of announced addresses.
    fn announce_key(&self, key: &AnnounceKey) -> Option<u32>;
    /// A row of announced addresses.
    fn announce_row(&self, index: u32) -> Option<&AnnounceRow>;
    /// True for the MAC addresses of this node's interfaces.
    fn is_own_mac(&self, mac: MacWord) -> bool;
    /// The row of an address that is announced on an interface.
    fn announced(&self, address: kubelb_common::addr::Addr, interface: u32) -> Option<&AnnounceRow> {
        self.announce_row(self.announce_key(&AnnounceKey::new(address, Subject::Interface(interface)))?)
    }
    /// Counts a malformed question about an announced address.
    fn count_malformed_question(&self) {
        if let Some(row) = self.announce_row(kubelb_common::announce::MALFORMED_ROW) {
            row.count();
        }
    }
    /// [`crate::insert::is_unserved`], out of line likewise.
    fn is_unserved(&self, packet: &Packet) -> bool {
        crate::insert::is_unserved(self, packet)
    }

    /// Low half of jiffies.
    fn now(&self) -> u32;
    /// This CPU's number.
    fn cpu(&self) -> u32;
    /// How packets get back to the client of `packet`: from the kernel's routes and neighbours. The revision is left 0
    /// unless the neighbour is known; the interface is 0 when there is no route.
    fn resolve_client(
        &self,
        packet: &Packet,
        client: kubelb_common::addr::Addr,
        vip: kubelb_common::addr::Addr,
    ) -> ClientHop;

    /// [`crate::insert::insert`]; in the kernel a function of its own, so that it is verified once and has its own stack.
    fn insert(&self, packet: &Packet) -> u64 {
        crate::insert::insert(self, packet)
    }
    /// [`crate::insert::begin`], out of line likewise.
    fn begin(&self, packet: &Packet) -> u64 {
        crate::insert::begin(self, packet)
    }
    /// [`crate::insert::choose`], out of line likewise.
    fn choose(&self, packet: &Packet, index: u32, number: u32) -> u64 {
        crate::insert::choose(self, packet, index, number)
    }
    /// [`crate::select::admits`], out of line likewise.
    fn admits(&self, packet: &Packet, number: u32) -> bool {
        crate::select::admits(self, packet, number)
    }
    /// [`crate::select::select`], out of line likewise.
    fn select(&self, packet: &Packet, number: u32) -> u64 {
        crate::select::select(self, packet, number)
    }
    /// [`crate::insert::publish`], out of line likewise.
    fn publish(&self, packet: &Packet, index: u32, number: u32, chosen: u64) -> u64 {
        crate::insert::publish(self, packet, index, number, chosen)
    }
    /// [`crate::insert::take_slot`], out of line likewise.
    fn take_slot(&self, hash: u64, now: u32) -> u64 {
        crate::insert::take_slot(self, hash, now)
    }
    /// [`crate::insert::take_port`], out of line likewise.
    fn take_port(&self, slot: u32, index: u32, now: u32, kind: u32) -> u32 {
        crate::insert::take_port(self, slot, index, now, kind)
    }
    /// [`crate::insert::find`], out of line likewise.
    fn find(&self, packet: &Packet, hash: u64) -> u64 {
        crate::insert::find(self, packet, hash)
    }
    /// A word of [`kubelb_common::maps::HALF_OPEN`].
    fn half_open(&self, word: u32) -> Option<&SharedU32>;
    /// [`crate::insert::make_room`], out of line likewise.
    fn make_room(&self, number: u32) -> u32 {
        crate::insert::make_room(self, number)
    }
    /// Counts a flow of the frontend as no longer half-open, out of line likewise.
    fn complete(&self, number: u32) -> u32 {
        crate::insert::complete(self, number)
    }
    /// Ends a flow, out of line likewise.
    fn retire(&self, index: u32, tag: u64) -> u32 {
        u32::from(kubelb_common::flow_table::release(self, index, tag))
    }

    /// Counts a packet from a client.
    fn count_in(&self, frontend: u32, backend: u32, bytes: usize);
    /// Counts a packet from a backend.
    fn count_out(&self, frontend: u32, backend: u32, bytes: usize);
    /// Counts a new flow.
    fn count_flow(&self, frontend: u32, backend: u32);
    /// Counts a packet that is not forwarded; frontend 0 when it belongs to none.
    fn count_drop(&self, frontend: u32, reason: Reason);
}
