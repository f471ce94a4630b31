//! Messages from one manager to another, equal to `proto/kubelb/v1alpha1/relay.proto`, where they are explained. Owns their form only.

use prost::{Enumeration, Message};

use super::reports::Report;

/// Path of the one method of the service: a stream of [`Relayed`]s, answered by a status.
pub const METHOD: &str = "/kubelb.v1alpha1.Relay/Stream";

/// What has changed since the message before it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Relayed {
    /// 1 for the first of a stream, then one more for each.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Part of everything that there is to tell.
    #[prost(bool, tag = "2")]
    pub full: bool,
    /// Of which the rest follows.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Objects whose configuration is another one.
    #[prost(message, repeated, tag = "4")]
    pub objects: Vec<RelayedObject>,
    /// Peers that are new, or tell something else.
    #[prost(message, repeated, tag = "5")]
    pub peers: Vec<RelayedPeer>,
    /// Peers that have gone.
    #[prost(uint64, repeated, tag = "6")]
    pub peers_gone: Vec<u64>,
    /// Nodes that are new, or are otherwise.
    #[prost(message, repeated, tag = "7")]
    pub nodes: Vec<RelayedNode>,
    /// Nodes of which nothing is known any more.
    #[prost(string, repeated, tag = "8")]
    pub nodes_gone: Vec<String>,
}

/// What the configuration of one object is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelayedObject {
    /// `namespace/name`, or the name of a resource of layer 7.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Of all its resources; 0: there is none.
    #[prost(fixed64, tag = "2")]
    pub digest: u64,
}

/// A stream of configuration.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelayedPeer {
    /// Another one for each connection.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Absent: as it was.
    #[prost(message, optional, tag = "2")]
    pub view: Option<RelayedView>,
    /// What its agent has told since.
    #[prost(message, optional, tag = "3")]
    pub report: Option<Report>,
}

/// What a peer is, has taken and refuses.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelayedView {
    /// For people.
    #[prost(string, tag = "1")]
    pub name: String,
    /// That an agent has proved to be on.
    #[prost(string, tag = "2")]
    pub node: String,
    /// It sees what agents see.
    #[prost(bool, tag = "3")]
    pub agent: bool,
    /// It sees what Envoys of all tenants see.
    #[prost(bool, tag = "4")]
    pub all_tenants: bool,
    /// It sees what Envoys of these tenants see.
    #[prost(string, repeated, tag = "5")]
    pub tenants: Vec<String>,
    /// It may not have taken anything yet.
    #[prost(bool, tag = "6")]
    pub all_behind: bool,
    /// Objects that it has not taken all of.
    #[prost(string, repeated, tag = "7")]
    pub behind: Vec<String>,
    /// What it refuses.
    #[prost(message, repeated, tag = "8")]
    pub refusals: Vec<RelayedRefusal>,
    /// Its agent has told everything once.
    #[prost(bool, tag = "9")]
    pub reports: bool,
}

/// What a peer refuses of an object.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelayedRefusal {
    /// `namespace/name`, or the name of a resource of layer 7.
    #[prost(string, tag = "1")]
    pub object: String,
    /// In the peer's words.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// Whether an agent is there.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RelayedNode {
    /// The node's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How it is.
    #[prost(enumeration = "NodePresence", tag = "2")]
    pub presence: i32,
    /// Since when, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub age: u64,
}

/// How a node's agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum NodePresence {
    /// Not said.
    Unspecified = 0,
    /// It was heard lately.
    Heard = 1,
    /// Its stream is open, and it was not.
    Silent = 2,
    /// Its stream ended while it was heard.
    Closed = 3,
    /// Its stream ended when it had been silent.
    Lost = 4,
}

/// Never sent: the stream ends with a status.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RelayEnd {}
