//! The map seam.

use kubelb_common::backend::Backend;
use kubelb_common::control::Control;
use kubelb_common::flow::ClientHop;
use kubelb_common::flow_table::FlowTables;
use kubelb_common::frontend::FrontendKey;
use kubelb_common::next_hop::NextHop;
use kubelb_common::stats::{Reason, Scratch};

use crate::parse::Packet;

/// All that steering reads and counts, besides the flow table.
pub trait Tables: FlowTables {
    /// The control row.
    fn control(&self) -> Option<&Control>;
    /// Byte `index` of filter `which`.
    fn filter(&self, which: u32, index: u16) -> u8;
    /// Row number of a frontend, or [`kubelb_common::frontend::ECHO_ONLY`].
    fn frontend_number(&self, key: &FrontendKey) -> Option<u32>;
    /// Backend row number in a slot.
    fn backend_slot(&self, index: u32) -> Option<u32>;
    /// A backend row.
    fn backend(&self, index: u32) -> Option<&Backend>;
    /// A next-hop row.
    fn next_hop(&self, index: u32) -> Option<&NextHop>;
    /// Calls `f` with this CPU's scratch row.
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> Option<R>;

    /// Low half of jiffies.
    fn now(&self) -> u32;
    /// This CPU's number.
    fn cpu(&self) -> u32;
    /// How packets get back to the client of `packet`: from the kernel's routes and neighbours. The revision is left 0
    /// unless the neighbour is known; the interface is 0 when there is no route.
    fn resolve_client(&self, packet: &Packet, client: kubelb_common::addr::Addr, vip: kubelb_common::addr::Addr) -> ClientHop;

    /// Counts a packet from a client.
    fn count_in(&self, frontend: u32, backend: u32, bytes: usize);
    /// Counts a packet from a backend.
    fn count_out(&self, frontend: u32, backend: u32, bytes: usize);
    /// Counts a new flow.
    fn count_flow(&self, frontend: u32, backend: u32);
    /// Counts a packet that is not forwarded; frontend 0 when it belongs to none.
    fn count_drop(&self, frontend: u32, reason: Reason);
}
