//! A model of a data plane, written from the protocol's description and from what Envoy was seen to do; shares no code with the sessions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kubelb_xds::contract::Rejection;
use kubelb_xds::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use kubelb_xds::pb::google::rpc::Status;
use kubelb_xds::server::{Response, Variant};
use kubelb_xds::{Reference, ResourceType, Version};
use prost::Message;

/// How it rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Takes the others, names the bad ones in its text (Envoy, of clusters and listeners).
    NamesInText,
    /// Takes nothing, names nothing (Envoy, of a message that breaks its validation rules).
    WholeResponse,
    /// Takes the others, names nothing.
    Partly,
    /// Takes the others, names the bad ones in details (kubelb's agent).
    Details,
    /// Takes nothing and names the wrong ones: all that were good.
    Lies,
}

impl Manner {
    pub(crate) const ALL: [Self; 5] = [
        Self::NamesInText,
        Self::WholeResponse,
        Self::Partly,
        Self::Details,
        Self::Lies,
    ];
}

/// What it has of a type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) requested: bool,
    pub(crate) wildcard: bool,
    pub(crate) had_names: bool,
    pub(crate) names: BTreeSet<String>,
    pub(crate) has: BTreeMap<String, (Version, Vec<Reference>)>,
    pub(crate) nonce: String,
}

pub(crate) struct Peer {
    pub(crate) variant: Variant,
    pub(crate) manner: Manner,
    pub(crate) types: BTreeMap<ResourceType, Held>,
    pub(crate) inbox: VecDeque<Response>,
    /// Versions that it rejects.
    pub(crate) hates: BTreeSet<(ResourceType, String, Version)>,
}

pub(crate) enum Answer {
    Delta(DeltaDiscoveryRequest),
    Sotw(DiscoveryRequest),
}

impl Held {
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(crate) fn forget_unwanted(&mut self) {
        let Self {
            has, names, wildcard, ..
        } = self;
        has.retain(|name, _| *wildcard || names.contains(name));
    }
}

impl Peer {
    pub(crate) fn new(variant: Variant, manner: Manner) -> Self {
        Self {
            variant,
            manner,
            types: ResourceType::ALL
                .into_iter()
                .map(|kind| (kind, Held::default()))
                .collect(),
            inbox: VecDeque::new(),
            hates: BTreeSet::new(),
        }
    }

    pub(crate) fn held(&mut self, kind: ResourceType) -> &mut Held {
        self.types.get_mut(&kind).unwrap()
    }

    /// Reads the oldest unread response.
    pub(crate) fn read(&mut self) -> Option<(Response, Answer)> {
        let response = self.inbox.pop_front()?;
        let kind = response.kind();
        let bad: Vec<(String, Version)> = response
            .resources()
            .iter()
            .map(|resource| (resource.name().to_string(), resource.version()))
            .filter(|(name, version)| self.hates.contains(&(kind, name.clone(), *version)))
            .collect();
        let error = (!bad.is_empty()).then(|| self.error(&response, &bad));
        self.check_bytes(&response);
        if bad.is_empty() || !matches!(self.manner, Manner::WholeResponse | Manner::Lies) {
            self.take(&response, &bad);
        }
        let held = self.held(kind);
        held.nonce = response.nonce().to_owned();
        let answer = match self.variant {
            Variant::Delta => Answer::Delta(DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                response_nonce: response.nonce().to_owned(),
                error_detail: error,
                ..DeltaDiscoveryRequest::default()
            }),
            Variant::StateOfTheWorld => Answer::Sotw(DiscoveryRequest {
                error_detail: error,
                ..self.sotw_request(kind)
            }),
        };
        Some((response, answer))
    }

    pub(crate) fn sotw_request(&self, kind: ResourceType) -> DiscoveryRequest {
        let held = &self.types[&kind];
        let star = held.wildcard && (held.had_names || !kind.is_full_state());
        DiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: held.nonce.clone(),
            resource_names: held.names.iter().cloned().chain(star.then(|| "*".to_owned())).collect(),
            ..DiscoveryRequest::default()
        }
    }

    fn take(&mut self, response: &Response, bad: &[(String, Version)]) {
        let kind = response.kind();
        let full = self.variant == Variant::StateOfTheWorld && kind.is_full_state();
        let held = self.held(kind);
        if full {
            held.has
                .retain(|name, _| response.resources().iter().any(|resource| **resource.name() == **name));
        }
        if self.variant == Variant::Delta {
            let held = self.held(kind);
            for name in response.removed() {
                held.has.remove(&**name);
            }
        }
        let held = self.held(kind);
        for resource in response.resources() {
            let name = resource.name().to_string();
            if held.covers(&name) && !bad.iter().any(|(bad, _)| *bad == name) {
                held.has
                    .insert(name, (resource.version(), resource.references().to_vec()));
            }
        }
    }

    fn error(&self, response: &Response, bad: &[(String, Version)]) -> Status {
        let good = response.resources().iter().map(|resource| resource.name().to_string());
        let good = good.filter(|name| bad.iter().all(|(bad, _)| bad != name));
        let message = match self.manner {
            Manner::NamesInText => {
                let named: Vec<String> = bad.iter().map(|(name, _)| format!("{name}: no")).collect();
                format!("Error adding/updating listener(s) {}", named.join(", "))
            }
            Manner::Lies => good.map(|name| format!("{name}: no ")).collect(),
            Manner::WholeResponse | Manner::Partly | Manner::Details => "no".to_owned(),
        };
        let details = bad.iter().map(|(name, version)| {
            Rejection {
                type_url: response.kind().type_url().to_owned(),
                name: name.clone(),
                version: version.to_string(),
                reason: "no".to_owned(),
            }
            .to_any()
        });
        Status {
            code: 3,
            message,
            details: if self.manner == Manner::Details {
                details.collect()
            } else {
                Vec::new()
            },
        }
    }

    /// The wire says what the response says.
    fn check_bytes(&self, response: &Response) {
        let bytes = response.to_bytes();
        assert_eq!(bytes.len(), response.encoded_len());
        match self.variant {
            Variant::Delta => {
                let read = DeltaDiscoveryResponse::decode(bytes).unwrap();
                assert_eq!(read.type_url, response.kind().type_url());
                assert_eq!(read.nonce, response.nonce());
                let removed: Vec<&str> = response.removed().iter().map(AsRef::as_ref).collect();
                assert_eq!(read.removed_resources, removed);
                for (read, sent) in read.resources.iter().zip(response.resources()) {
                    assert_eq!(
                        (&*read.name, &*read.version),
                        (&**sent.name(), &*sent.version().to_string())
                    );
                }
                assert_eq!(read.resources.len(), response.resources().len());
            }
            Variant::StateOfTheWorld => {
                let read = DiscoveryResponse::decode(bytes).unwrap();
                assert_eq!(
                    (&*read.type_url, &*read.nonce),
                    (response.kind().type_url(), response.nonce())
                );
                assert_eq!(read.resources.len(), response.resources().len());
                assert!(!read.version_info.is_empty());
            }
        }
    }
}
