//! Packets as bytes: built for tests, and their checksums verified.
//!
//! Written from the RFCs and sharing no code with the data path, so that both can't be wrong in the same way.

pub mod build;
pub mod checksum;
pub mod link;

pub use build::{Body, Packet, Tcp, Udp, UdpSum};
pub use checksum::{ChecksumError, verify};
