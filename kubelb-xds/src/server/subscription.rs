//! What requests change in what a peer wants. Owns the rules of the xDS protocol for wildcards, subscriptions and versions brought along
//! (envoyproxy.io, "xDS REST and gRPC protocol"); must not know what is sent for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use crate::resource::Version;
use crate::resource_type::ResourceType;
use crate::server::peer::Known;
use crate::server::{Event, Output, Refusal, Session};

const WILDCARD: &str = "*";

impl Session {
    pub(super) fn subscribe_delta(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest, output: &mut Output) {
        let first = self.begin(kind, output);
        let subscribe = &request.resource_names_subscribe;
        let asks_wildcard = subscribe.iter().any(|name| name == WILDCARD);
        let legacy = first && subscribe.is_empty() && kind.is_full_state();
        if asks_wildcard || legacy {
            self.types.get_mut(kind).wildcard = true;
        }
        let added = self.add_names(kind, subscribe.iter().filter(|name| *name != WILDCARD), output);
        if first {
            self.bring_along(kind, request, output);
        }
        let peer = self.types.get_mut(kind);
        for name in added {
            if first {
                peer.dirty.insert(name);
            } else {
                // Also what it has already: the peer may have dropped it.
                peer.ask_again(name);
            }
        }
        if asks_wildcard || legacy {
            self.touch_type(kind);
        }
        self.unsubscribe(kind, &request.resource_names_unsubscribe);
    }

    /// Whether this is the first request for the type. A type that holds nothing for peers of this scope is answered for like any other that is
    /// empty, and reported.
    fn begin(&mut self, kind: ResourceType, output: &mut Output) -> bool {
        let first = !std::mem::replace(&mut self.types.get_mut(kind).requested, true);
        if first && !self.scope.opens(kind) {
            output.events.push(Event::Refused(Refusal::ForeignType(kind)));
        }
        first
    }

    /// A stream starts with what the peer has from an earlier one, maybe from another replica.
    fn bring_along(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest, output: &mut Output) {
        #[expect(clippy::disallowed_methods, reason = "sorted right here")]
        let versions: BTreeMap<&String, &String> = request.initial_resource_versions.iter().collect();
        let peer = self.types.get_mut(kind);
        let mut brought = Vec::new();
        for (name, version) in versions.into_iter() {
            if !peer.covers(name) {
                continue;
            }
            if brought.len() >= self.config.names {
                output.events.push(Event::Refused(Refusal::TooManyNames(kind)));
                break;
            }
            let name: Arc<str> = name.as_str().into();
            peer.known
                .insert(Arc::clone(&name), Known::Foreign(Version::parse(version)));
            brought.push(name);
        }
        for name in brought {
            self.touch(kind, &name);
        }
    }

    fn unsubscribe(&mut self, kind: ResourceType, names: &[String]) {
        for name in names {
            let peer = self.types.get_mut(kind);
            if name == WILDCARD {
                peer.wildcard = false;
                self.forget_uncovered(kind);
            } else if let Some(name) = peer.names.take(name.as_str()) {
                if peer.wildcard {
                    // The wildcard still covers it: the peer has dropped it and wants to hear what is with it.
                    peer.ask_again(name);
                } else {
                    peer.forget(&name);
                }
            } else if peer.wildcard {
                peer.ask_again(name.as_str().into());
            }
        }
    }

    pub(super) fn subscribe_sotw(&mut self, kind: ResourceType, names: &[String], output: &mut Output) {
        self.begin(kind, output);
        let peer = self.types.get_mut(kind);
        peer.had_names |= !names.is_empty();
        let legacy = names.is_empty() && !peer.had_names && kind.is_full_state();
        let wildcard = legacy || names.iter().any(|name| name == WILDCARD);
        let was_wildcard = std::mem::replace(&mut peer.wildcard, wildcard);
        let wanted: BTreeSet<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| *name != WILDCARD)
            .collect();
        peer.names.retain(|name| wanted.contains(&**name));
        let new: Vec<&String> = names
            .iter()
            .filter(|name| *name != WILDCARD && !peer.names.contains(name.as_str()))
            .collect();
        let added = self.add_names(kind, new.into_iter(), output);
        // Also what it has by the wildcard: nobody knows what it has done in between.
        let peer = self.types.get_mut(kind);
        peer.forced
            .extend(added.iter().filter(|name| peer.known.contains_key(*name)).cloned());
        peer.dirty.extend(added);
        self.forget_uncovered(kind);
        if wildcard && !was_wildcard {
            self.touch_type(kind);
        }
    }

    /// Adds names to what is asked for, as far as they may be that many. Those outside the scope are reported.
    fn add_names<'a>(
        &mut self,
        kind: ResourceType,
        names: impl Iterator<Item = &'a String>,
        output: &mut Output,
    ) -> Vec<Arc<str>> {
        let peer = self.types.get_mut(kind);
        let mut added = Vec::new();
        for name in names {
            let found = self.snapshot.as_ref().and_then(|snapshot| snapshot.get(kind, name));
            // The snapshot's own name where there is one, so that memory is shared.
            let name: Arc<str> = found.map_or_else(|| name.as_str().into(), |found| Arc::clone(found.name()));
            if !peer.names.contains(&name) && peer.names.len() >= self.config.names {
                output.events.push(Event::Refused(Refusal::TooManyNames(kind)));
                break;
            }
            if found.is_some_and(|found| !self.scope.sees(found)) {
                let name = Arc::clone(&name);
                output.events.push(Event::Refused(Refusal::OutOfScope { kind, name }));
            }
            peer.names.insert(Arc::clone(&name));
            added.push(name);
        }
        added
    }

    fn forget_uncovered(&mut self, kind: ResourceType) {
        let peer = self.types.get_mut(kind);
        let mut names: BTreeSet<Arc<str>> = peer.known.keys().cloned().collect();
        names.extend(peer.dirty.iter().chain(&peer.forced).cloned());
        names.extend(
            peer.unsure
                .keys()
                .chain(peer.suspects.keys())
                .chain(peer.quarantine.keys())
                .cloned(),
        );
        for name in names {
            if !peer.covers(&name) {
                peer.forget(&name);
            }
        }
    }
}
