//! Protobuf messages of kubelb's own, equal to `proto/kubelb/v1alpha1/xds.proto`. Owns their form only.

use prost::Message;

use crate::pb::google::protobuf::Any;

/// Who announces an address, and which of its ports a proxy on the node serves.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct VirtualAddress {
    /// In canonical text form; the resource's name, too.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Kubernetes node; empty: nobody announces it.
    #[prost(string, tag = "2")]
    pub owner_node: String,
    /// Grows with each change of owner, below 2^63; the higher one wins.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Interfaces to announce on; empty: all that the agent's programs are attached to.
    #[prost(string, repeated, tag = "4")]
    pub interfaces: Vec<String>,
    /// The tenant that the address belongs to.
    #[prost(string, tag = "5")]
    pub tenant: String,
    /// Ports that a proxy on the node serves.
    #[prost(message, repeated, tag = "6")]
    pub local_ports: Vec<LocalPort>,
}

/// A port of a [`VirtualAddress`] that a proxy on the node serves.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LocalPort {
    /// What is spoken on it.
    #[prost(enumeration = "LocalPortProtocol", tag = "1")]
    pub protocol: i32,
    /// 1 to 65535.
    #[prost(uint32, tag = "2")]
    pub port: u32,
}

/// Protocol of a [`LocalPort`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum LocalPortProtocol {
    /// Never sent.
    Unspecified = 0,
    /// RFC 9293.
    Tcp = 1,
    /// RFC 768.
    Udp = 2,
}

/// Why a peer rejected a resource; one of `error_detail.details`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rejection {
    /// Type of the resource.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The version that was rejected.
    #[prost(string, tag = "3")]
    pub version: String,
    /// For a person, with the path of the field.
    #[prost(string, tag = "4")]
    pub reason: String,
}

impl Rejection {
    /// `type_url` of the `Any` that carries one.
    pub const TYPE_URL: &'static str = "type.googleapis.com/kubelb.v1alpha1.Rejection";

    /// As one of `error_detail.details`.
    #[must_use]
    pub fn to_any(&self) -> Any {
        Any {
            type_url: Self::TYPE_URL.to_owned(),
            value: self.encode_to_vec(),
        }
    }

    /// `None` when `any` is something else, or broken.
    #[must_use]
    pub fn from_any(any: &Any) -> Option<Self> {
        (any.type_url == Self::TYPE_URL)
            .then(|| Self::decode(any.value.as_slice()).ok())
            .flatten()
    }
}
