//! A response on the wire: its frame around resources that are encoded already. Owns the encoding of `DeltaDiscoveryResponse` and
//! `DiscoveryResponse`; must not know why something is in it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::resource::{Resource, Version};
use crate::resource_type::ResourceType;
use crate::server::Variant;

/// A response to a peer.
#[derive(Clone, Debug)]
pub struct Response {
    variant: Variant,
    kind: ResourceType,
    nonce: String,
    /// State of the world: of all that is in it.
    version: String,
    resources: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
}

/// Field numbers of both messages.
mod tag {
    pub(super) const VERSION: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    pub(super) const REMOVED: u32 = 6;
}

impl Response {
    pub(super) fn new(
        variant: Variant,
        kind: ResourceType,
        nonce: u64,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
    ) -> Self {
        let version = match variant {
            Variant::Delta => String::new(),
            Variant::StateOfTheWorld => {
                let all: Vec<String> = resources.iter().map(|resource| format!("{resource:?}")).collect();
                Version::of(all.join("\n").as_bytes()).to_string()
            }
        };
        Self {
            variant,
            kind,
            nonce: nonce.to_string(),
            version,
            resources,
            removed,
        }
    }

    /// Type of everything in it.
    #[must_use]
    pub fn kind(&self) -> ResourceType {
        self.kind
    }

    /// By which the peer answers it.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// What is in it.
    #[must_use]
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// Names that it takes away; on the wire of a delta stream only.
    #[must_use]
    pub fn removed(&self) -> &[Arc<str>] {
        &self.removed
    }

    /// Length of [`Self::encode`]'s output.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let mut length = 0;
        self.fields(|_, bytes| length += 1 + encoded_len_varint(bytes.len() as u64) + bytes.len());
        length
    }

    /// Appends the protobuf message. Resources are copied as they are.
    pub fn encode(&self, out: &mut impl BufMut) {
        self.fields(|tag, bytes| {
            encode_key(tag, WireType::LengthDelimited, out);
            encode_varint(bytes.len() as u64, out);
            out.put_slice(bytes);
        });
    }

    /// The protobuf message.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.encoded_len());
        self.encode(&mut out);
        out.freeze()
    }

    /// [`Self::to_bytes`] in pieces that follow each other. Those that are resources share their memory with the snapshot: however many peers
    /// are sent something, and however slowly they read, it is there once.
    #[must_use]
    pub fn to_pieces(&self) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(2 * self.resources.len() + 1);
        let mut frame = BytesMut::new();
        let mut shared = self.resources.iter().map(|resource| match self.variant {
            Variant::Delta => resource.delta_bytes().clone(),
            Variant::StateOfTheWorld => resource.any_bytes(),
        });
        self.fields(|tag, bytes| {
            encode_key(tag, WireType::LengthDelimited, &mut frame);
            encode_varint(bytes.len() as u64, &mut frame);
            let resource = if tag == tag::RESOURCES { shared.next() } else { None };
            match resource {
                Some(resource) => pieces.extend([frame.split().freeze(), resource]),
                None => frame.put_slice(bytes),
            }
        });
        pieces.push(frame.freeze());
        pieces
    }

    fn fields(&self, mut field: impl FnMut(u32, &[u8])) {
        if !self.version.is_empty() {
            field(tag::VERSION, self.version.as_bytes());
        }
        for resource in &self.resources {
            match self.variant {
                Variant::Delta => field(tag::RESOURCES, resource.delta_bytes()),
                Variant::StateOfTheWorld => field(tag::RESOURCES, &resource.any_bytes()),
            }
        }
        field(tag::TYPE_URL, self.kind.type_url().as_bytes());
        field(tag::NONCE, self.nonce.as_bytes());
        if self.variant == Variant::Delta {
            for name in &self.removed {
                field(tag::REMOVED, name.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::cluster::v3::Cluster;
    use crate::resource::{Audience, Owner};

    #[test]
    fn pieces_are_the_message_and_share_the_resources() {
        let cluster = |name: &str| Cluster {
            name: name.to_owned(),
            ..Cluster::default()
        };
        let resource = |name| Arc::new(Resource::new(&cluster(name), Owner::Shared, Audience::Everyone));
        for variant in [Variant::Delta, Variant::StateOfTheWorld] {
            let resources = vec![resource("one"), resource("two")];
            let removed = vec!["three".into()];
            let response = Response::new(variant, ResourceType::Cluster, 7, resources.clone(), removed);
            let pieces = response.to_pieces();
            assert_eq!(pieces.concat(), response.to_bytes());
            let memory = resources[0].delta_bytes().as_ptr_range();
            assert!(pieces.iter().any(|piece| memory.contains(&piece.as_ptr())));
        }
    }
}
