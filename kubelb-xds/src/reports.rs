//! What an agent tells the manager, from both ends: a [`Reporter`] is told how things are and says what differs, a [`Received`] takes that in.
//!
//! By [`crate::telling`], so without I/O and clock. Only what is out of the ordinary is told and kept, so that a manager with many agents that forward very many listeners has next to nothing to hold.
//!
//! Must not know: transports, who the peer is, and what is made of it.

mod received;
mod reporter;

pub use received::{Changes, Fault, Known, Limits, Received, UnhealthySince};
pub use reporter::{PACE, Reporter};
