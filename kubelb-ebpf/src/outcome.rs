//! What becomes of a packet. The glue of each program turns an [`Outcome`] into its verdict, arm by arm.

use kubelb_common::stats::Reason;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not ours, or the stack's to serve: untouched.
    Pass,
    /// Ours, but only the tc program can forward it (XDP only): untouched.
    HandOver,
    /// Dropped and counted under this reason.
    Drop(Reason),
    /// Rewritten, link header included: send out of this interface.
    Send(u32),
    /// Rewritten, link header not: the stack resolves the neighbour and sends out of this interface (tc only).
    SendToNeighbour(u32),
    /// An answer of ours to the sender, link header included: send out of the interface it came in on.
    Answer,
}
