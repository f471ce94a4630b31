//! Real sockets: servers that say who they are, and clients that count who answered.
//!
//! [`server`] runs in a tenant's namespace, [`client`] asks once per flow, [`conversation`] holds flows open and notices
//! every failure, [`http_load`] asks without end, [`tls`] is for HTTPS, [`iperf`] moves bulk data.

pub mod client;
pub mod conversation;
pub mod exchange;
pub mod http_load;
pub mod iperf;
pub mod server;
pub mod tls;
pub(crate) mod unverified;

pub use client::{ask, ask_many, http_get};
pub use conversation::Conversations;
pub use http_load::HttpLoad;
pub use iperf::Iperf;
pub use server::{Kind, Server};
pub use tls::{ClientAuthority, Trust, https_get};

/// Transport of a client's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What servers answer to one line or datagram: their name, a space, and what they were told.
pub(crate) fn answer(name: &str, said: &str) -> String {
    format!("{name} {said}")
}

/// The server's name out of its answer, when it answers to `said`.
pub(crate) fn name_in<'a>(answer: &'a str, said: &str) -> Option<&'a str> {
    let (name, echo) = answer.trim_end().split_once(' ')?;
    (echo == said).then_some(name)
}
