//! What a peer says of a response. Owns acknowledgement, rejection, and the search for what was meant; must not know what is sent next.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::contract::Rejection;
use crate::pb::google::rpc::Status;
use crate::resource::Resource;
use crate::resource_type::ResourceType;
use crate::server::peer::InFlight;
use crate::server::{Event, Output, Session};

/// Longest text of a peer that is kept, in bytes.
const TEXT: usize = 4 << 10;

impl Session {
    /// Takes `nonce` for an answer to the unacknowledged response, if it is one.
    pub(super) fn verdict(&mut self, kind: ResourceType, nonce: &str, error: Option<&Status>, output: &mut Output) {
        let nonce: Option<u64> = nonce.parse().ok();
        let peer = self.types.get_mut(kind);
        let Some(in_flight) = peer.in_flight.take_if(|in_flight| Some(in_flight.nonce) == nonce) else {
            return;
        };
        match error {
            None => self.acked_response(kind, &in_flight, output),
            Some(error) => self.nacked_response(kind, in_flight, error, output),
        }
    }

    fn acked_response(&mut self, kind: ResourceType, in_flight: &InFlight, output: &mut Output) {
        for resource in &in_flight.resources {
            self.took(kind, resource);
        }
        self.dropped(kind, &in_flight.removed);
        let names = in_flight.names();
        if !names.is_empty() {
            output.events.push(Event::Acked { kind, names });
        }
    }

    fn nacked_response(&mut self, kind: ResourceType, in_flight: InFlight, error: &Status, output: &mut Output) {
        let text = shortened(&error.message);
        output.events.push(Event::Nacked {
            kind,
            names: in_flight.names(),
            text: text.clone(),
        });
        let rejections: Vec<Rejection> = error.details.iter().filter_map(Rejection::from_any).collect();
        let reason_for = |resource: &Resource| {
            let mut mine = rejections
                .iter()
                .filter(|rejection| rejection.name == **resource.name());
            mine.next().map(|rejection| shortened(&rejection.reason))
        };
        let alone = in_flight.resources.len() == 1;
        let named = in_flight
            .resources
            .iter()
            .any(|resource| reason_for(resource).is_some());
        if named || alone {
            // The peer says which, and that the others are applied; or there is only one that can be meant.
            for resource in &in_flight.resources {
                match reason_for(resource) {
                    Some(reason) => self.reject(kind, resource, reason, output),
                    None if named => self.took(kind, resource),
                    None => self.reject(kind, resource, text.clone(), output),
                }
            }
        } else {
            self.suspect(kind, &in_flight.resources, &error.message);
        }
        if in_flight.resources.is_empty() || named {
            // A removal cannot be wrong.
            self.dropped(kind, &in_flight.removed);
        } else {
            // Nobody knows whether the peer has it still: it is removed again, or sent again if it is wanted by then.
            let peer = self.types.get_mut(kind);
            for name in in_flight.removed {
                peer.may_have_dropped(name);
            }
        }
    }

    /// Nobody knows what of it the peer took. Those that its text names go alone next, else all in smaller parts.
    fn suspect(&mut self, kind: ResourceType, resources: &[Arc<Resource>], text: &str) {
        let hinted: BTreeSet<&str> = resources
            .iter()
            .map(|resource| &**resource.name())
            .filter(|name| names(text, name))
            .collect();
        let part = (resources.len() / 2).max(1);
        let peer = self.types.get_mut(kind);
        for resource in resources {
            peer.may_have(resource);
            let name = resource.name();
            if !peer.covers(name) {
                continue;
            }
            let limit = if hinted.is_empty() {
                part
            } else if hinted.contains(&**name) {
                1
            } else {
                continue;
            };
            let limit = peer.suspects.get(name).map_or(limit, |before| limit.min(*before));
            peer.suspects.insert(Arc::clone(name), limit);
        }
    }

    fn reject(&mut self, kind: ResourceType, resource: &Arc<Resource>, reason: String, output: &mut Output) {
        let peer = self.types.get_mut(kind);
        let name = resource.name();
        peer.suspects.remove(name);
        // Rejected alone, it was not taken earlier either.
        if let Some(versions) = peer.unsure.get_mut(name) {
            versions.retain(|other| other.version() != resource.version());
            if versions.is_empty() {
                peer.unsure.remove(name);
            }
        }
        if peer.covers(name) {
            peer.quarantine.insert(Arc::clone(name), resource.version());
            peer.dirty.insert(Arc::clone(name));
        }
        output.events.push(Event::Quarantined {
            kind,
            name: Arc::clone(name),
            version: resource.version(),
            owner: resource.owner().clone(),
            reason,
        });
    }

    fn took(&mut self, kind: ResourceType, resource: &Arc<Resource>) {
        self.types.get_mut(kind).took(resource);
        if kind == ResourceType::Listener {
            self.awaited.insert(Arc::clone(resource.name()));
        }
        let wanted = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.visible(&self.scope, kind, resource.name()));
        self.types.get_mut(kind).recognise(resource.name(), wanted);
    }

    fn dropped(&mut self, kind: ResourceType, names: &[Arc<str>]) {
        let peer = self.types.get_mut(kind);
        for name in names {
            peer.dropped(name);
        }
        if kind == ResourceType::Listener && !names.is_empty() {
            // What was rejected may have been in conflict with what is gone (an address in use).
            let retried: Vec<Arc<str>> = std::mem::take(&mut peer.quarantine).into_keys().collect();
            peer.suspects.extend(retried.iter().map(|name| (Arc::clone(name), 1)));
            peer.dirty.extend(retried);
        }
    }
}

/// Whether a peer's text names this resource as Envoy does: `Error adding/updating listener(s) A: why, B: why`.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let after = text.get(at + name.len()..).unwrap_or_default();
        let starts = before.is_empty() || before.ends_with([' ', '\n', '\'', '"']);
        starts && after.starts_with([':', '\'', '"'])
    })
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
