//! One history of a server session and a peer: what can happen, what must hold at every response, and in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubelb_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use kubelb_xds::server::{Config, Event, Output, Response, Session, Variant};
use kubelb_xds::{ResourceType, Scope, Snapshot, Version};

use crate::peer::{Answer, Manner, Peer};
use crate::world::{SLOTS, World, name, scope};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Deliver,
    Snapshot(World),
    Wildcard(ResourceType),
    NoWildcard(ResourceType),
    Subscribe(ResourceType, u8),
    Unsubscribe(ResourceType, u8),
    StaleNonce(ResourceType),
    Reconnect,
    Scope(u8),
    Wait(u16),
    /// From now on it rejects this, unless it has been offered before.
    Hate(ResourceType, u8, u8),
}

pub(crate) struct Run {
    session: Session,
    peer: Peer,
    scope: Scope,
    snapshot: Option<Arc<Snapshot>>,
    now: Instant,
    opened: Instant,
    hates: BTreeSet<(ResourceType, u8, u8)>,
    offered: BTreeSet<(ResourceType, String, Version)>,
    /// Clusters that are kept back from the peer on this stream.
    kept_back: BTreeSet<(String, Version)>,
    messages: usize,
}

/// No history of the sizes that are tried needs more to come to rest.
const MESSAGES: usize = 3_000;

impl Run {
    pub(crate) fn new(variant: Variant, manner: Manner) -> Self {
        #[expect(clippy::disallowed_methods, reason = "where time starts is of no matter")]
        let now = Instant::now();
        let scope = Scope::Agent;
        Self {
            session: Session::new(variant, scope.clone(), config(), now),
            peer: Peer::new(variant, manner),
            scope,
            snapshot: None,
            now,
            opened: now,
            hates: BTreeSet::new(),
            offered: BTreeSet::new(),
            kept_back: BTreeSet::new(),
            messages: 0,
        }
    }

    /// Clusters, endpoints, listeners and routes, the first and the third without names.
    pub(crate) fn open_as_envoy_does(&mut self) {
        for kind in [
            ResourceType::Cluster,
            ResourceType::Endpoints,
            ResourceType::Listener,
            ResourceType::Route,
        ] {
            let held = self.peer.held(kind);
            held.requested = true;
            held.wildcard = kind.is_full_state();
            self.open(kind);
        }
    }

    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Deliver => self.deliver(),
            Op::Snapshot(world) => {
                let snapshot = world.build(self.snapshot.as_deref());
                self.begin_to_hate(&world, &snapshot);
                self.snapshot = Some(Arc::clone(&snapshot));
                let output = self.session.on_snapshot(snapshot, self.now);
                self.sent(output);
            }
            Op::Wildcard(kind) => self.change(kind, |held| {
                held.wildcard = true;
                (vec!["*".to_owned()], vec![])
            }),
            Op::NoWildcard(kind) => self.change(kind, |held| {
                held.wildcard = false;
                (vec![], vec!["*".to_owned()])
            }),
            Op::Subscribe(kind, slot) => self.change(kind, |held| {
                held.names.insert(name(slot));
                (vec![name(slot)], vec![])
            }),
            Op::Unsubscribe(kind, slot) => self.change(kind, |held| {
                held.names.remove(&name(slot));
                (vec![], vec![name(slot)])
            }),
            Op::StaleNonce(kind) => self.stale(kind),
            Op::Reconnect => self.reconnect(),
            Op::Scope(number) => {
                self.scope = scope(number);
                let output = self.session.on_scope(self.scope.clone(), self.now);
                self.sent(output);
            }
            Op::Wait(milliseconds) => self.wait(Duration::from_millis(milliseconds.into())),
            Op::Hate(kind, slot, number) => {
                self.hates.insert((kind, slot, number));
            }
        }
    }

    fn begin_to_hate(&mut self, world: &World, snapshot: &Snapshot) {
        for kind in ResourceType::ALL {
            for (slot, name) in (0..SLOTS).map(|slot| (slot, name(slot))) {
                let Some(resource) = snapshot.get(kind, &name) else {
                    continue;
                };
                let this = (kind, name, resource.version());
                if self.offered.insert(this.clone()) && self.hates.contains(&(kind, slot, world.number(kind, slot))) {
                    self.peer.hates.insert(this);
                }
            }
        }
    }

    /// Changes what the peer wants, and tells the server. A name that is asked for again has been lost, or the peer would not ask.
    fn change(
        &mut self,
        kind: ResourceType,
        change: impl FnOnce(&mut crate::peer::Held) -> (Vec<String>, Vec<String>),
    ) {
        let variant = self.peer.variant;
        let held = self.peer.held(kind);
        let first = !held.requested;
        held.requested = true;
        let (subscribe, unsubscribe) = change(held);
        held.had_names |= !held.names.is_empty() || held.wildcard;
        if variant == Variant::StateOfTheWorld && !held.had_names && kind.is_full_state() {
            // There is no way to ask for nothing before something was asked for by name: it asks for all then.
            held.wildcard = true;
        }
        if variant == Variant::Delta && first && !unsubscribe.is_empty() && kind.is_full_state() {
            // A first request without names to subscribe to is the old form of a wildcard.
            held.wildcard = !unsubscribe.contains(&"*".to_owned());
        }
        for name in subscribe
            .iter()
            .chain(&unsubscribe)
            .filter(|_| variant == Variant::Delta)
        {
            held.has.remove(name);
        }
        // State of the world: what it does not want any more it keeps until it can say so.
        if variant == Variant::Delta || self.peer.inbox.iter().all(|response| response.kind() != kind) {
            self.peer.held(kind).forget_unwanted();
        }
        let output = match variant {
            Variant::Delta => self.session.on_delta_request(
                DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: subscribe,
                    resource_names_unsubscribe: unsubscribe,
                    ..DeltaDiscoveryRequest::default()
                },
                self.now,
            ),
            Variant::StateOfTheWorld => self.session.on_sotw_request(&self.peer.sotw_request(kind), self.now),
        };
        self.sent(output);
    }

    /// In delta, the subscription counts and the nonce does not; in the other form, neither does.
    fn stale(&mut self, kind: ResourceType) {
        let held = &self.peer.types[&kind];
        if !held.requested {
            return;
        }
        let output = match self.peer.variant {
            Variant::Delta => {
                let wanted = name(7);
                let request = DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: vec![wanted.clone()],
                    response_nonce: "999999".to_owned(),
                    ..DeltaDiscoveryRequest::default()
                };
                let held = self.peer.held(kind);
                held.names.insert(wanted.clone());
                held.has.remove(&wanted);
                self.session.on_delta_request(request, self.now)
            }
            Variant::StateOfTheWorld => {
                let mut request = self.peer.sotw_request(kind);
                request.response_nonce = "999999".to_owned();
                request.resource_names = vec!["nobody".to_owned()];
                self.session.on_sotw_request(&request, self.now)
            }
        };
        self.sent(output);
    }

    fn reconnect(&mut self) {
        self.peer.inbox.clear();
        self.kept_back.clear();
        self.opened = self.now;
        self.session = Session::new(self.peer.variant, self.scope.clone(), config(), self.now);
        if let Some(snapshot) = &self.snapshot {
            let output = self.session.on_snapshot(Arc::clone(snapshot), self.now);
            self.sent(output);
        }
        let requested: Vec<ResourceType> = ResourceType::ALL
            .into_iter()
            .filter(|kind| self.peer.types[kind].requested)
            .collect();
        for kind in &requested {
            self.peer.held(*kind).requested = false;
        }
        for kind in requested {
            self.peer.held(kind).requested = true;
            self.open(kind);
        }
    }

    /// The first request of a type on a stream.
    fn open(&mut self, kind: ResourceType) {
        let held = self.peer.held(kind);
        held.nonce.clear();
        let output = match self.peer.variant {
            Variant::Delta => {
                let held = &self.peer.types[&kind];
                let star = held.wildcard && !(held.names.is_empty() && kind.is_full_state());
                let nothing = !held.wildcard && held.names.is_empty();
                let request = DeltaDiscoveryRequest {
                    type_url: kind.type_url().to_owned(),
                    resource_names_subscribe: held.names.iter().cloned().chain(star.then(|| "*".to_owned())).collect(),
                    resource_names_unsubscribe: nothing.then(|| "*".to_owned()).into_iter().collect(),
                    initial_resource_versions: held
                        .has
                        .iter()
                        .map(|(name, (version, _))| (name.clone(), version.to_string()))
                        .collect(),
                    ..DeltaDiscoveryRequest::default()
                };
                self.session.on_delta_request(request, self.now)
            }
            Variant::StateOfTheWorld => {
                let held = self.peer.held(kind);
                held.had_names = !held.names.is_empty() || (held.wildcard && !kind.is_full_state());
                if !held.wildcard && held.names.is_empty() && kind.is_full_state() {
                    // There is no way to ask for nothing; it asks for all then.
                    held.wildcard = true;
                }
                self.session.on_sotw_request(&self.peer.sotw_request(kind), self.now)
            }
        };
        self.sent(output);
    }

    fn deliver(&mut self) {
        let Some((response, answer)) = self.peer.read() else {
            return;
        };
        let kind = response.kind();
        self.peer.held(kind).forget_unwanted();
        let output = match answer {
            Answer::Delta(request) => self.session.on_delta_request(request, self.now),
            Answer::Sotw(request) => self.session.on_sotw_request(&request, self.now),
        };
        self.sent(output);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.session.poll_timeout().filter(|deadline| *deadline <= end) {
            assert!(
                deadline > self.now,
                "a deadline that has passed would be waited for again and again"
            );
            self.now = deadline;
            let output = self.session.on_timeout(deadline);
            self.sent(output);
        }
        self.now = end;
    }

    /// What the server has sent is on its way.
    fn sent(&mut self, output: Output) {
        for event in output.events {
            if let Event::Quarantined {
                kind: ResourceType::Cluster,
                name,
                version,
                ..
            } = event
            {
                self.kept_back.insert((name.to_string(), version));
            }
        }
        for response in output.responses {
            self.messages += 1;
            assert!(self.messages < MESSAGES, "no end of messages");
            self.check_response(&response);
            self.peer.inbox.push_back(response);
        }
    }

    fn check_response(&self, response: &Response) {
        let kind = response.kind();
        let snapshot = self.snapshot.as_ref().unwrap();
        assert!(self.peer.types[&kind].requested, "{kind} was not asked for");
        assert!(
            self.peer.inbox.iter().all(|other| other.kind() != kind),
            "two unacknowledged responses of {kind}"
        );
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let resources = response.resources().iter().map(|resource| &**resource.name());
        for name in resources.chain(response.removed().iter().map(AsRef::as_ref)) {
            assert!(names.insert(name), "{kind} {name} comes twice");
        }
        for resource in response.resources() {
            assert_eq!(resource.kind(), kind);
            // State of the world repeats what the peer has until nothing names it any more.
            let repeats =
                self.peer.variant == Variant::StateOfTheWorld && self.session.acked(kind, resource.name()).is_some();
            assert!(
                repeats || self.scope.sees(resource),
                "{resource:?} is none of the peer's business"
            );
            if matches!(kind, ResourceType::Listener | ResourceType::Route) && !repeats {
                for needs in resource
                    .references()
                    .iter()
                    .filter(|needs| needs.kind == ResourceType::Cluster)
                {
                    self.check_named_cluster(kind, &needs.name, snapshot);
                }
            }
        }
        if kind == ResourceType::Cluster {
            for name in self.peer.types[&kind].has.keys() {
                let goes = match self.peer.variant {
                    Variant::Delta => response.removed().iter().any(|removed| **removed == **name),
                    // What the peer brought from another stream nobody can know.
                    Variant::StateOfTheWorld => {
                        response.resources().iter().all(|resource| **resource.name() != **name)
                            && self.session.acked(kind, name).is_some()
                    }
                };
                if goes {
                    self.check_removed_cluster(name);
                }
            }
        }
    }

    fn check_named_cluster(&self, by: ResourceType, name: &str, snapshot: &Snapshot) {
        let clusters = &self.peer.types[&ResourceType::Cluster];
        let wanted = snapshot.visible(&self.scope, ResourceType::Cluster, name);
        let is_kept_back = |version| self.kept_back.contains(&(name.to_owned(), version));
        if by == ResourceType::Route && wanted.is_some_and(|wanted| is_kept_back(wanted.version())) {
            // The peer answers for it with an error.
            return;
        }
        let exists = wanted.is_some();
        // A change of subscription under an old nonce does not count; it comes again with the answer to what is on its way.
        let heard = self.peer.variant == Variant::Delta
            || self
                .peer
                .inbox
                .iter()
                .all(|response| response.kind() != ResourceType::Cluster);
        if exists && clusters.requested && clusters.covers(name) && heard {
            let acked = match self.peer.variant {
                // Maybe brought along from another stream, and its new version rejected; but not lost and asked for again.
                Variant::Delta => clusters.has.contains_key(name),
                Variant::StateOfTheWorld => {
                    self.session.acked(ResourceType::Cluster, name).is_some() || clusters.has.contains_key(name)
                }
            };
            assert!(acked, "{name} is named, and not acknowledged");
        }
    }

    fn check_removed_cluster(&self, cluster: &str) {
        for kind in [ResourceType::Listener, ResourceType::Route] {
            let held = &self.peer.types[&kind];
            if !held.requested && self.now >= self.opened + config().phase_wait {
                continue;
            }
            if kind == ResourceType::Route && self.scope == Scope::Agent && !held.requested {
                continue;
            }
            let queued = self.peer.inbox.iter().filter(|response| response.kind() == kind);
            let queued = queued
                .flat_map(|response| response.resources())
                .map(|resource| (&**resource.name(), resource.references()));
            let held = held
                .has
                .iter()
                .filter(|(name, _)| self.peer.variant == Variant::Delta || self.session.acked(kind, name).is_some())
                .map(|(name, (_, references))| (name.as_str(), references.as_slice()));
            for (name, references) in held.chain(queued) {
                let names_it = references
                    .iter()
                    .any(|needs| needs.kind == ResourceType::Cluster && &*needs.name == cluster);
                assert!(!names_it, "cluster {cluster} goes, and {kind} {name} names it");
            }
        }
    }

    /// Lets everything that is on its way arrive, and time pass.
    pub(crate) fn settle(&mut self) {
        loop {
            while !self.peer.inbox.is_empty() {
                self.deliver();
            }
            let Some(deadline) = self.session.poll_timeout() else {
                break;
            };
            self.wait(deadline - self.now);
        }
    }

    /// The peer has what it asked for and may see.
    pub(crate) fn check(&mut self) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        for kind in ResourceType::ALL {
            let held = &self.peer.types[&kind];
            if !held.requested {
                continue;
            }
            let visible = snapshot
                .view(&self.scope, kind)
                .filter(|resource| held.covers(resource.name()));
            let wanted: BTreeMap<String, Version> = visible
                .map(|resource| (resource.name().to_string(), resource.version()))
                .collect();
            for (name, version) in &wanted {
                let hated = self.peer.hates.contains(&(kind, name.clone(), *version));
                let has = held.has.get(name).map(|(version, _)| *version);
                if hated {
                    assert_ne!(has, Some(*version));
                } else if self.peer.hates.is_empty() {
                    assert_eq!(has, Some(*version), "{kind} {name}");
                } else if has != Some(*version) {
                    assert!(
                        self.waits_for_hated(kind, name, &snapshot),
                        "{kind} {name}: {has:?} instead of {version:?}"
                    );
                }
            }
            for name in held.has.keys().filter(|name| !wanted.contains_key(*name)) {
                let silent = self.peer.variant == Variant::StateOfTheWorld && !kind.is_full_state();
                assert!(silent || self.is_named(kind, name), "{kind} {name} should be gone");
            }
        }
    }

    /// Whether it leads to a cluster that the peer rejects.
    fn waits_for_hated(&self, kind: ResourceType, name: &str, snapshot: &Snapshot) -> bool {
        let Some(resource) = snapshot.get(kind, name) else {
            return false;
        };
        resource.references().iter().any(|needs| match needs.kind {
            // Routes go without it.
            ResourceType::Cluster if kind == ResourceType::Route => false,
            ResourceType::Cluster => self
                .peer
                .hates
                .iter()
                .any(|(kind, name, _)| *kind == needs.kind && **name == *needs.name),
            ResourceType::Route => self.waits_for_hated(needs.kind, &needs.name, snapshot),
            ResourceType::Endpoints | ResourceType::Secret | ResourceType::Listener | ResourceType::VirtualAddress => {
                false
            }
        })
    }

    /// Whether something that the peer has names it.
    fn is_named(&self, kind: ResourceType, name: &str) -> bool {
        let rejects = !self.peer.hates.is_empty();
        let held = kind
            .referrers()
            .iter()
            .flat_map(|referrer| self.peer.types[referrer].has.values());
        let mut references = held.flat_map(|(_, references)| references);
        let named = references.any(|needs| needs.kind == kind && *needs.name == *name);
        named || rejects
    }
}

fn config() -> Config {
    Config {
        // So that responses are split.
        response_bytes: 600,
        ..Config::default()
    }
}
