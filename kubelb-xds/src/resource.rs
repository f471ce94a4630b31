//! A resource: encoded once, shared by all sessions, with what sessions must know of it without decoding it.
//!
//! Must not know: who sees it ([`crate::snapshot`]) and who has got it ([`crate::server`]).

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};

use crate::canonical::{canonical, delimited_len};
use crate::contract::VirtualAddress;
use crate::pb::envoy::config::cluster::v3::Cluster;
use crate::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use crate::pb::envoy::config::listener::v3::Listener;
use crate::pb::envoy::config::route::v3::RouteConfiguration;
use crate::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use crate::resource_type::ResourceType;

/// Hash of a resource's contents: equal on every replica and in every build, so that a peer that moves is sent nothing again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Of these bytes (XXH3, 64 bit). A collision would have to be between two versions of one resource.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(twox_hash::XxHash3_64::oneshot(bytes))
    }

    /// As a number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Reads [`Self`]'s text; `None` for versions that somebody else made.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Whose a resource is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Nobody's in particular: every fleet sees it.
    Shared,
    /// A tenant's, by name.
    Tenant(Arc<str>),
}

impl Owner {
    /// The tenant called `name`.
    #[must_use]
    pub fn tenant(name: impl Into<Arc<str>>) -> Self {
        Self::Tenant(name.into())
    }
}

/// Which data planes a resource is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    /// The node agents.
    Agents,
    /// The Envoy fleets.
    Fleets,
    /// Both.
    Everyone,
}

/// A resource that another one needs, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Type of what is needed.
    pub kind: ResourceType,
    /// Its name.
    pub name: Arc<str>,
}

/// A message that is a resource of the xDS API.
pub trait XdsResource: Message {
    /// Its type.
    const KIND: ResourceType;

    /// By which it is asked for.
    fn resource_name(&self) -> &str;
}

macro_rules! xds_resource {
    ($($message:ty, $kind:ident, $field:ident;)*) => {$(
        impl XdsResource for $message {
            const KIND: ResourceType = ResourceType::$kind;

            fn resource_name(&self) -> &str {
                &self.$field
            }
        }
    )*};
}

xds_resource! {
    Cluster, Cluster, name;
    ClusterLoadAssignment, Endpoints, cluster_name;
    Secret, Secret, name;
    Listener, Listener, name;
    RouteConfiguration, Route, name;
    VirtualAddress, VirtualAddress, address;
}

/// One resource, encoded.
#[derive(Clone)]
pub struct Resource {
    kind: ResourceType,
    name: Arc<str>,
    version: Version,
    /// `envoy.service.discovery.v3.Resource`, which ends with the `Any`.
    encoded: Bytes,
    /// Where the `google.protobuf.Any` starts in `encoded`.
    any: usize,
    owner: Owner,
    audience: Audience,
    references: Box<[Reference]>,
}

impl Resource {
    /// Encodes `message`. Two calls with equal messages give equal bytes.
    #[must_use]
    pub fn new<M: XdsResource>(message: &M, owner: Owner, audience: Audience) -> Self {
        let value = canonical(M::KIND.type_url(), message.encode_to_vec());
        Self::of(M::KIND, message.resource_name(), &value, owner, audience)
    }

    pub(crate) fn of(kind: ResourceType, name: &str, value: &[u8], owner: Owner, audience: Audience) -> Self {
        let url = kind.type_url();
        let version = Version::of(value);
        let version_text = version.to_string();
        let any_len = delimited_len(url.len()) + delimited_len(value.len());
        let len = delimited_len(version_text.len()) + delimited_len(name.len()) + delimited_len(any_len);
        let mut encoded = BytesMut::with_capacity(len);
        put(1, version_text.as_bytes(), &mut encoded);
        put(3, name.as_bytes(), &mut encoded);
        encode_key(2, WireType::LengthDelimited, &mut encoded);
        encode_varint(any_len as u64, &mut encoded);
        let any = encoded.len();
        put(1, url.as_bytes(), &mut encoded);
        put(2, value, &mut encoded);
        Self {
            kind,
            name: name.into(),
            version,
            encoded: encoded.freeze(),
            any,
            owner,
            audience,
            references: Box::default(),
        }
    }

    /// Adds what it needs. Sessions send it when the peer has these, and remove these when the peer no longer has it.
    #[must_use]
    pub fn needing(mut self, references: impl IntoIterator<Item = Reference>) -> Self {
        let mut all = self.references.into_vec();
        all.extend(references);
        all.sort();
        all.dedup();
        self.references = all.into();
        self
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> ResourceType {
        self.kind
    }

    /// Its name, unique within its type.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Hash of its contents.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Which data planes it is for.
    #[must_use]
    pub fn audience(&self) -> Audience {
        self.audience
    }

    /// What it needs, sorted.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// As `envoy.service.discovery.v3.Resource`, for delta responses.
    #[must_use]
    pub fn delta_bytes(&self) -> &Bytes {
        &self.encoded
    }

    /// As `google.protobuf.Any`, for state-of-the-world responses. Shares its memory with [`Self::delta_bytes`].
    #[must_use]
    pub fn any_bytes(&self) -> Bytes {
        self.encoded.slice(self.any..)
    }

    /// The message, encoded. Shares its memory with [`Self::delta_bytes`].
    pub(crate) fn value_bytes(&self) -> Bytes {
        // It is the last field of the `Any`, which is the last one of all: what is before it has a fixed length.
        let url = delimited_len(self.kind.type_url().len());
        let mut rest = self.encoded.slice(self.any + url..);
        rest.advance(1);
        let _length = decode_varint(&mut rest);
        rest
    }

    /// Whether a session could tell the two apart.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.version == other.version
            && self.owner == other.owner
            && self.audience == other.audience
            && self.references == other.references
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}@{}", self.kind, self.name, self.version)
    }
}

fn put(tag: u32, bytes: &[u8], out: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::service::discovery::v3::Resource as Delta;
    use crate::pb::google::protobuf::Any;

    #[test]
    fn both_forms_decode_to_the_message() {
        let cluster = Cluster {
            name: "tenant-a/web/80-tcp/v4".to_owned(),
            ..Cluster::default()
        };
        let resource = Resource::new(&cluster, Owner::Shared, Audience::Everyone);
        let delta = Delta::decode(resource.delta_bytes().clone()).unwrap();
        assert_eq!(delta.name, cluster.name);
        assert_eq!(delta.version, resource.version().to_string());
        let any = Any::decode(resource.any_bytes()).unwrap();
        assert_eq!(delta.resource.as_ref(), Some(&any));
        assert_eq!(any.type_url, ResourceType::Cluster.type_url());
        assert_eq!(Cluster::decode(any.value.as_slice()).unwrap(), cluster);
    }

    #[test]
    fn a_version_follows_the_contents_and_is_the_same_in_every_build() {
        let address = |epoch| VirtualAddress {
            address: "203.0.113.10".to_owned(),
            epoch,
            ..VirtualAddress::default()
        };
        let version = |epoch| Resource::new(&address(epoch), Owner::Shared, Audience::Agents).version();
        assert_eq!(version(1), version(1));
        assert_ne!(version(1), version(2));
        // From the specification of XXH3.
        assert_eq!(Version::of(b"").to_string(), "2d06800538d394c2");
        assert_eq!(Version::parse(&version(1).to_string()), Some(version(1)));
        for text in ["", "1", "000000000000000G", "+00000000000000f", "00000000000000000"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
