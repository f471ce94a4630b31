//! What a peer is sent next. Owns the order of pushes and the size of responses; must not know requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resource::{Owner, Resource};
use crate::resource_type::ResourceType;
use crate::server::peer::{InFlight, Known, Need};
use crate::server::{Output, Response, Session, Variant};
use crate::snapshot::{Scope, Snapshot};

/// Resources of other owners that are looked at in search of more of the same owner. Names start with the owner's namespace, so its resources are neighbours.
const MISSES: usize = 256;

/// Resources in one response to a proxy that serves already: of those that it makes ready before it acknowledges them, and of others.
const COSTLY: usize = 64;
const CHEAP: usize = 512;

/// What one response brings.
#[derive(Default)]
struct Batch {
    sends: Vec<Arc<Resource>>,
    removes: Vec<Arc<str>>,
    bytes: usize,
    /// At most so many resources.
    limit: Option<usize>,
}

/// What was found on a walk over the names to compare.
#[derive(Default)]
struct Findings {
    batch: Batch,
    settled: Vec<Arc<str>>,
    /// The peer asks for what does not exist.
    answers: Vec<Arc<str>>,
    /// The peer may have what does not exist.
    gone: Vec<Arc<str>>,
    /// Whose resources wait for clusters.
    gated: BTreeSet<Owner>,
    /// More could be sent than goes into one response.
    more: bool,
}

impl Session {
    /// Sends what can be sent, until each type waits for an acknowledgement or has nothing.
    pub(super) fn push(&mut self, output: &mut Output) {
        self.report_stalled(output);
        self.forget_awaited();
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        self.waits_for_referrers = false;
        for kind in ResourceType::ALL {
            let peer = self.types.get(kind);
            if peer.requested && peer.in_flight.is_none() {
                let batch = self.plan(kind, &snapshot);
                output
                    .responses
                    .extend(batch.map(|batch| self.send(kind, batch, &snapshot)));
            }
        }
    }

    fn plan(&mut self, kind: ResourceType, snapshot: &Snapshot) -> Option<Batch> {
        let findings = self.find(kind, snapshot);
        let waited = self.settle(kind, &findings);
        let Findings {
            mut batch,
            answers,
            gone,
            gated,
            more,
            ..
        } = findings;
        let most = self.max_resources(kind);
        // What is removed goes with what takes its place, which has to be whole then.
        if kind == ResourceType::Listener && gone.is_empty() {
            batch.sends.truncate(most);
        }
        let peer = self.types.get(kind);
        // An empty list of routes or endpoints would be taken for an answer.
        let first =
            !peer.answered && (peer.wildcard || (kind.is_full_state() && self.variant == Variant::StateOfTheWorld));
        if first && kind.is_full_state() && !gated.is_empty() && !waited {
            // A proxy takes the first response for all there is and starts to serve.
            return None;
        }
        if kind == ResourceType::Listener {
            // Together with what takes its place: an address can be used once.
            let owner_of = |name: &str| match self.types.get(kind).known.get(name) {
                Some(Known::Has(resource)) => Some(resource.owner().clone()),
                Some(Known::Absent | Known::Foreign(_)) | None => None,
            };
            let place_waits = |name: &Arc<str>| match owner_of(name) {
                Some(owner) => gated.contains(&owner),
                None => !gated.is_empty(),
            };
            batch.removes = gone.into_iter().filter(|name| waited || !place_waits(name)).collect();
            if batch.limit.is_some() && !batch.sends.is_empty() {
                batch.removes.clear();
            }
        } else if batch.sends.is_empty() && !more && !gone.is_empty() {
            batch.removes = self.unreferenced(kind, gone);
        }
        match self.variant {
            Variant::Delta => batch.removes.extend(answers),
            Variant::StateOfTheWorld => {
                // There is no way to say that something does not exist, but by leaving it out of a list of all.
                let silent = if kind.is_full_state() {
                    Vec::new()
                } else {
                    std::mem::take(&mut batch.removes)
                };
                let peer = self.types.get_mut(kind);
                for name in answers.into_iter().chain(silent) {
                    peer.dirty.remove(&name);
                    peer.forced.remove(&name);
                    peer.dropped(&name);
                }
            }
        }
        let empty = batch.sends.is_empty() && batch.removes.is_empty();
        (!empty || first).then_some(batch)
    }

    /// Walks over the names to compare, suspects first.
    fn find(&self, kind: ResourceType, snapshot: &Snapshot) -> Findings {
        let peer = self.types.get(kind);
        let mut findings = Findings::default();
        let suspects = peer.suspects.keys().filter(|name| peer.dirty.contains(*name));
        self.walk(kind, snapshot, suspects, true, &mut findings);
        if findings.batch.sends.is_empty() {
            let others = peer.dirty.iter().filter(|name| !peer.suspects.contains_key(*name));
            self.walk(kind, snapshot, others, false, &mut findings);
        } else {
            findings.more = true;
        }
        findings
    }

    fn walk<'a>(
        &self,
        kind: ResourceType,
        snapshot: &Snapshot,
        names: impl Iterator<Item = &'a Arc<str>>,
        suspects: bool,
        findings: &mut Findings,
    ) {
        let peer = self.types.get(kind);
        let together = !suspects && self.bundles(kind);
        let most = if kind == ResourceType::Listener {
            usize::MAX
        } else {
            self.max_resources(kind)
        };
        let mut misses = 0;
        for name in names {
            match peer.need(name, snapshot.visible(&self.scope, kind, name)) {
                Need::Nothing => findings.settled.push(Arc::clone(name)),
                Need::Answer => findings.answers.push(Arc::clone(name)),
                Need::Remove => findings.gone.push(Arc::clone(name)),
                Need::Send(resource) if !self.is_ready(&resource, snapshot) => {
                    findings.gated.insert(resource.owner().clone());
                }
                Need::Send(resource) => {
                    let limit = suspects.then(|| peer.suspects.get(name).copied().unwrap_or(1));
                    let fits = findings.batch.sends.len() < most;
                    if !fits || !findings.batch.take(resource, together, limit, self.max_bytes(kind)) {
                        findings.more = true;
                        misses += 1;
                        if misses > MISSES {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Whether a response may hold resources of several owners. An agent says which resource it rejects and takes the others; an Envoy may reject them together.
    fn bundles(&self, kind: ResourceType) -> bool {
        match (self.variant, &self.scope) {
            (Variant::StateOfTheWorld, _) | (_, Scope::Agent) => true,
            // Of no route configuration two: one that is bad takes the other with it.
            (Variant::Delta, Scope::Fleet(_)) => kind != ResourceType::Route && !self.types.get(kind).loaded,
        }
    }

    fn max_bytes(&self, kind: ResourceType) -> usize {
        match (self.variant, &self.scope) {
            // All of it is in each response anyway.
            (Variant::StateOfTheWorld, _) => usize::MAX,
            (Variant::Delta, Scope::Fleet(_)) if kind == ResourceType::Route => 0,
            (Variant::Delta, _) => self.config.response_bytes,
        }
    }

    /// A proxy acknowledges what it was sent together, when all of it is ready, and until then nothing else of the type gets through to it: what is
    /// very many for one tenant is not to keep the others waiting. The first response is for one that does not serve yet, and best whole.
    fn max_resources(&self, kind: ResourceType) -> usize {
        match (self.variant, &self.scope, kind) {
            _ if !self.types.get(kind).answered => usize::MAX,
            (Variant::StateOfTheWorld, ..) | (_, Scope::Agent, _) => usize::MAX,
            (
                Variant::Delta,
                Scope::Fleet(_),
                ResourceType::Cluster | ResourceType::Secret | ResourceType::Listener | ResourceType::Route,
            ) => COSTLY,
            (Variant::Delta, Scope::Fleet(_), ResourceType::Endpoints | ResourceType::VirtualAddress) => CHEAP,
        }
    }

    /// Forgets names that need nothing. Returns whether what is gated has been so for too long.
    fn settle(&mut self, kind: ResourceType, findings: &Findings) -> bool {
        let now = self.now;
        let wait = self.config.phase_wait;
        let peer = self.types.get_mut(kind);
        for name in &findings.settled {
            peer.dirty.remove(name);
            peer.forced.remove(name);
            peer.suspects.remove(name);
        }
        if findings.gated.is_empty() {
            peer.loaded |= findings.batch.sends.is_empty() && !findings.more;
            peer.gated_since = None;
            return false;
        }
        let since = *peer.gated_since.get_or_insert(now);
        since + wait <= now
    }

    /// Whether the peer has every cluster that `resource` leads to, in the version that it is to have.
    fn is_ready(&self, resource: &Resource, snapshot: &Snapshot) -> bool {
        match resource.kind() {
            ResourceType::Listener => resource.references().iter().all(|needs| match needs.kind {
                // Else the listener would wait for its routes, which wait for clusters.
                ResourceType::Route => snapshot
                    .visible(&self.scope, ResourceType::Route, &needs.name)
                    .is_none_or(|route| self.has_clusters(route, snapshot)),
                ResourceType::Cluster => self.has_cluster(&needs.name, snapshot),
                ResourceType::Endpoints
                | ResourceType::Secret
                | ResourceType::Listener
                | ResourceType::VirtualAddress => true,
            }),
            ResourceType::Route => self.has_clusters(resource, snapshot),
            ResourceType::Cluster | ResourceType::Endpoints | ResourceType::Secret | ResourceType::VirtualAddress => {
                true
            }
        }
    }

    /// For routes one that is refused is none that they wait for: a proxy answers for it with an error, and the others of the same configuration go on.
    fn has_clusters(&self, resource: &Resource, snapshot: &Snapshot) -> bool {
        let mut clusters = resource
            .references()
            .iter()
            .filter(|needs| needs.kind == ResourceType::Cluster);
        clusters.all(|needs| self.has_cluster(&needs.name, snapshot) || self.refuses_cluster(&needs.name, snapshot))
    }

    fn refuses_cluster(&self, name: &str, snapshot: &Snapshot) -> bool {
        let wanted = snapshot.visible(&self.scope, ResourceType::Cluster, name);
        let refused = self.types.get(ResourceType::Cluster).quarantine.get(name);
        wanted.is_some_and(|wanted| refused == Some(&wanted.version()))
    }

    fn has_cluster(&self, name: &str, snapshot: &Snapshot) -> bool {
        let peer = self.types.get(ResourceType::Cluster);
        let Some(wanted) = snapshot.visible(&self.scope, ResourceType::Cluster, name) else {
            return true;
        };
        let last_good = self.refuses_cluster(name, snapshot) && peer.keeps_some(name);
        !peer.requested || !peer.covers(name) || peer.has(wanted) || last_good
    }

    /// Those that nothing names which the peer may have.
    fn unreferenced(&mut self, kind: ResourceType, mut gone: Vec<Arc<str>>) -> Vec<Arc<str>> {
        let young = self.now < self.opened + self.config.phase_wait;
        for referrer in kind.referrers() {
            let peer = self.types.get(*referrer);
            let never = *referrer == ResourceType::Route && self.scope == Scope::Agent;
            if !peer.requested && young && !never {
                // It may be about to tell what it has of them.
                self.waits_for_referrers = true;
                return Vec::new();
            }
            let Some(possible) = peer.possible() else {
                return Vec::new();
            };
            let named: BTreeSet<&str> = possible
                .iter()
                .flat_map(|resource| resource.references())
                .filter(|needs| needs.kind == kind)
                .map(|needs| &*needs.name)
                .collect();
            gone.retain(|name| !named.contains(&**name));
        }
        gone
    }

    fn send(&mut self, kind: ResourceType, batch: Batch, snapshot: &Snapshot) -> Response {
        self.last_nonce += 1;
        let nonce = self.last_nonce;
        let peer = self.types.get_mut(kind);
        let names = batch.sends.iter().map(|resource| resource.name()).chain(&batch.removes);
        for name in names {
            peer.dirty.remove(name);
            peer.forced.remove(name);
        }
        let resources = match self.variant {
            Variant::StateOfTheWorld if kind.is_full_state() => peer.all_with(&batch.sends, &batch.removes),
            Variant::StateOfTheWorld | Variant::Delta => batch.sends.clone(),
        };
        peer.answered = true;
        peer.last_nonce = Some(nonce);
        let response = Response::new(self.variant, kind, nonce, resources, batch.removes.clone());
        peer.in_flight = Some(InFlight {
            nonce,
            sent: self.now,
            reported: false,
            resources: batch.sends,
            removed: batch.removes,
        });
        if kind == ResourceType::Cluster {
            self.send_endpoints_again(snapshot);
        }
        response
    }

    /// A cluster that changes forgets its endpoints and does not ask again: Envoy would wait for them for 15 s.
    fn send_endpoints_again(&mut self, snapshot: &Snapshot) {
        let clusters = self.types.get(ResourceType::Cluster);
        let sent: Vec<Arc<Resource>> = clusters
            .in_flight
            .iter()
            .flat_map(|sent| sent.resources.iter().cloned())
            .collect();
        let kind = ResourceType::Endpoints;
        let endpoints = self.types.get_mut(kind);
        let needed = sent
            .iter()
            .flat_map(|cluster| cluster.references())
            .filter(|needs| needs.kind == kind);
        for needs in needed {
            if endpoints.requested
                && endpoints.covers(&needs.name)
                && snapshot.visible(&self.scope, kind, &needs.name).is_some()
            {
                endpoints.forced.insert(Arc::clone(&needs.name));
                endpoints.dirty.insert(Arc::clone(&needs.name));
            }
        }
    }
}

impl Batch {
    /// Takes `resource` in if it fits.
    fn take(&mut self, resource: Arc<Resource>, together: bool, limit: Option<usize>, max_bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(resource.delta_bytes().len());
        if let Some(first) = self.sends.first() {
            let limit = self.limit.min(limit);
            let full = limit.is_some_and(|limit| self.sends.len() >= limit);
            if full || bytes > max_bytes || !(together || first.owner() == resource.owner()) {
                return false;
            }
        }
        self.limit = match (self.limit, limit) {
            (Some(own), Some(other)) => Some(own.min(other)),
            (own, other) => own.or(other),
        };
        self.bytes = bytes;
        self.sends.push(resource);
        true
    }
}
