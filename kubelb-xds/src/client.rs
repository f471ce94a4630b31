//! A delta stream as a data plane sees it: what it subscribes to, what it has, and what it answers.
//!
//! No I/O and no clock. What this keeps outlives streams: after [`Session::connect`], a server (also another replica) sends only what differs. A
//! response is taken resource by resource: the valid ones are applied, and the others are named in the answer, each with the reason.
//!
//! Must not know: transports, which server it talks to, and what resources mean: the caller decodes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::contract::Rejection;
use crate::pb::envoy::config::core::v3::Node;
use crate::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::pb::google::rpc::Status;
use crate::resource_type::{PerType, ResourceType};

const WILDCARD: &str = "*";
/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;
/// Longest message of a rejection, in bytes; `details` have all of it.
const MESSAGE: usize = 4 << 10;

/// What a data plane has and wants.
#[derive(Debug, Default)]
pub struct Session {
    node: Node,
    types: PerType<Subscription>,
    connected: bool,
}

#[derive(Debug, Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    versions: BTreeMap<String, String>,
    /// Asked for on this stream.
    asked: bool,
    /// Asked for only when the caller says so, on each stream.
    held: bool,
}

/// What a response changes, and the answer to it.
#[derive(Debug)]
pub struct Outcome<T> {
    /// In the order of the response, removals first.
    pub changes: Vec<Change<T>>,
    /// Resources that were not taken, and why. The last good version of each stays.
    pub rejections: Vec<Rejection>,
    /// To be sent.
    pub reply: DeltaDiscoveryRequest,
}

/// A change to apply.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// New, or with new contents.
    Updated {
        /// Type of the resource.
        kind: ResourceType,
        /// Its name.
        name: String,
        /// What the caller made of it.
        value: T,
    },
    /// Gone, or never there.
    Removed {
        /// Type of the resource.
        kind: ResourceType,
        /// Its name.
        name: String,
    },
}

impl Session {
    /// A data plane that has nothing and wants nothing.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// Wants these names, `*` meaning all. The request is to be sent when there is a stream.
    pub fn subscribe(
        &mut self,
        kind: ResourceType,
        names: impl IntoIterator<Item = String>,
    ) -> Option<DeltaDiscoveryRequest> {
        let subscription = self.types.get_mut(kind);
        let mut new = Vec::new();
        for name in names {
            let added = if name == WILDCARD {
                !std::mem::replace(&mut subscription.wildcard, true)
            } else {
                subscription.names.insert(name.clone())
            };
            if added {
                new.push(name);
            }
        }
        if new.is_empty() || !self.connected {
            return None;
        }
        if !subscription.asked {
            return (!subscription.held).then(|| self.opening(kind));
        }
        Some(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: new,
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Does not want these names any more, and forgets what it has of them unless `*` still stands for them.
    pub fn unsubscribe(
        &mut self,
        kind: ResourceType,
        names: impl IntoIterator<Item = String>,
    ) -> Option<DeltaDiscoveryRequest> {
        let subscription = self.types.get_mut(kind);
        let mut gone = Vec::new();
        for name in names {
            let removed = if name == WILDCARD {
                std::mem::replace(&mut subscription.wildcard, false)
            } else {
                subscription.names.remove(&name)
            };
            if removed {
                gone.push(name);
            }
        }
        let Subscription {
            wildcard,
            names,
            versions,
            ..
        } = subscription;
        versions.retain(|name, _| *wildcard || names.contains(name));
        (!gone.is_empty() && self.connected && self.types.get(kind).asked).then(|| DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_unsubscribe: gone,
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// There is a new stream: what to send on it.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.connected = true;
        for kind in ResourceType::ALL {
            self.types.get_mut(kind).asked = false;
        }
        let wanted = ResourceType::ALL.into_iter().filter(|kind| {
            let subscription = self.types.get(*kind);
            !subscription.held && subscription.is_wanted()
        });
        let wanted: Vec<ResourceType> = wanted.collect();
        wanted.into_iter().map(|kind| self.opening(kind)).collect()
    }

    /// Does not ask for this type on a new stream until [`Self::release`]: for types that not every server knows.
    pub fn hold(&mut self, kind: ResourceType) {
        self.types.get_mut(kind).held = true;
    }

    /// Asks for a type that is held, on this stream. `None` when it has been asked for, or when nothing of it is wanted.
    pub fn release(&mut self, kind: ResourceType) -> Option<DeltaDiscoveryRequest> {
        let subscription = self.types.get(kind);
        let is_due = self.connected && !subscription.asked && subscription.is_wanted();
        is_due.then(|| self.opening(kind))
    }

    /// The stream has ended.
    pub fn disconnect(&mut self) {
        self.connected = false;
    }

    /// Has this resource already, from before this session was made: a server sends it again only in another version.
    pub fn restore(&mut self, kind: ResourceType, name: String, version: String) {
        self.types.get_mut(kind).versions.insert(name, version);
    }

    /// Names of a type that this has subscribed to and that are not among `wanted`.
    #[must_use]
    pub fn beyond(&self, kind: ResourceType, wanted: &BTreeSet<String>) -> Vec<String> {
        self.types.get(kind).names.difference(wanted).cloned().collect()
    }

    /// The version of a resource that this has.
    #[must_use]
    pub fn version(&self, kind: ResourceType, name: &str) -> Option<&str> {
        self.types.get(kind).versions.get(name).map(String::as_str)
    }

    /// Names and versions of a type that this has.
    #[must_use]
    pub fn versions(&self, kind: ResourceType) -> &BTreeMap<String, String> {
        &self.types.get(kind).versions
    }

    /// Takes a response. `decode` says of each resource (type, name, contents) what it is, or why it cannot be used.
    pub fn on_response<T>(
        &mut self,
        response: DeltaDiscoveryResponse,
        mut decode: impl FnMut(ResourceType, &str, &[u8]) -> Result<T, String>,
    ) -> Outcome<T> {
        let mut outcome = Outcome {
            changes: Vec::new(),
            rejections: Vec::new(),
            reply: DeltaDiscoveryRequest {
                type_url: response.type_url.clone(),
                response_nonce: response.nonce,
                ..DeltaDiscoveryRequest::default()
            },
        };
        let Some(kind) = ResourceType::from_type_url(&response.type_url) else {
            outcome.reply.error_detail = Some(Status {
                code: INVALID_ARGUMENT,
                message: "nobody asked for this type".to_owned(),
                details: Vec::new(),
            });
            return outcome;
        };
        let subscription = self.types.get_mut(kind);
        for name in response.removed_resources {
            if subscription.wants(&name) {
                subscription.versions.remove(&name);
                outcome.changes.push(Change::Removed { kind, name });
            }
        }
        // A name that nobody asked for may be on its way while it is unsubscribed.
        for resource in response.resources {
            if !subscription.wants(&resource.name) {
                continue;
            }
            match contents(kind, &resource) {
                Ok(None) => {}
                Ok(Some(bytes)) => match decode(kind, &resource.name, bytes) {
                    Ok(value) => {
                        subscription.versions.insert(resource.name.clone(), resource.version);
                        let name = resource.name;
                        outcome.changes.push(Change::Updated { kind, name, value });
                    }
                    Err(reason) => outcome.rejections.push(rejection(kind, &resource, reason)),
                },
                Err(reason) => outcome.rejections.push(rejection(kind, &resource, reason)),
            }
        }
        if !outcome.rejections.is_empty() {
            outcome.reply.error_detail = Some(status(&outcome.rejections));
        }
        outcome
    }

    /// The first request of a type on a stream.
    fn opening(&mut self, kind: ResourceType) -> DeltaDiscoveryRequest {
        let first = !ResourceType::ALL.into_iter().any(|kind| self.types.get(kind).asked);
        let subscription = self.types.get_mut(kind);
        subscription.asked = true;
        let mut names: Vec<String> = subscription.names.iter().cloned().collect();
        // The old form is known to more servers.
        if subscription.wildcard && !(names.is_empty() && kind.is_full_state()) {
            names.push(WILDCARD.to_owned());
        }
        DeltaDiscoveryRequest {
            node: first.then(|| self.node.clone()),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: subscription.versions.clone().into_iter().collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

impl Subscription {
    fn is_wanted(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// Bytes of the resource itself; `None` for a heartbeat, which only has a name.
fn contents(kind: ResourceType, resource: &Resource) -> Result<Option<&[u8]>, String> {
    match &resource.resource {
        None if resource.ttl.is_some() => Ok(None),
        None => Err("has no contents".to_owned()),
        Some(any) if any.type_url == kind.type_url() => Ok(Some(&any.value)),
        Some(any) => {
            let shown: String = any.type_url.chars().take(256).collect();
            Err(format!(
                "is of type {shown:?} in a response of type {:?}",
                kind.type_url()
            ))
        }
    }
}

fn rejection(kind: ResourceType, resource: &Resource, reason: String) -> Rejection {
    Rejection {
        type_url: kind.type_url().to_owned(),
        name: resource.name.clone(),
        version: resource.version.clone(),
        reason,
    }
}

fn status(rejections: &[Rejection]) -> Status {
    let mut message = String::new();
    for rejection in rejections {
        let separator = if message.is_empty() { "" } else { "; " };
        // Writing to a string cannot fail.
        let _written = write!(message, "{separator}{}: {}", rejection.name, rejection.reason);
        if message.len() > MESSAGE {
            let mut end = MESSAGE;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
            break;
        }
    }
    Status {
        code: INVALID_ARGUMENT,
        message,
        details: rejections.iter().map(Rejection::to_any).collect(),
    }
}

#[cfg(test)]
mod tests;
