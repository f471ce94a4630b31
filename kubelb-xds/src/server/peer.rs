//! What a peer asked for and has, of one type. Owns that state; must not know the order of pushes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::resource::{Resource, Version};

/// Versions of one resource that a peer may have, beside the acknowledged one. More make it [`Known::Foreign`].
const UNSURE: usize = 4;

#[derive(Debug, Default)]
pub(super) struct PeerType {
    /// The peer has asked for this type: nothing is sent before (Envoy drops it without a word).
    pub(super) requested: bool,
    pub(super) wildcard: bool,
    /// State of the world: a list without names has never been preceded by one with names.
    pub(super) had_names: bool,
    pub(super) names: BTreeSet<Arc<str>>,
    pub(super) known: BTreeMap<Arc<str>, Known>,
    /// Versions that were in a rejected response: the peer may have taken them all the same.
    pub(super) unsure: BTreeMap<Arc<str>, Vec<Arc<Resource>>>,
    /// Names to compare again.
    pub(super) dirty: BTreeSet<Arc<str>>,
    /// Of these, names to answer even if the peer has the version.
    pub(super) forced: BTreeSet<Arc<str>>,
    /// Names that the peer asked for although it had them, or that were removed in a response that it rejected: it may have dropped what it had, until it
    /// acknowledges them again.
    pub(super) lost: BTreeSet<Arc<str>>,
    /// Names that were in a rejected response, and how many of them the next response may have.
    pub(super) suspects: BTreeMap<Arc<str>, usize>,
    /// Versions that the peer rejects.
    pub(super) quarantine: BTreeMap<Arc<str>, Version>,
    pub(super) in_flight: Option<InFlight>,
    /// Whether there has been a response.
    pub(super) answered: bool,
    /// Whether the peer has once been sent all there was.
    pub(super) loaded: bool,
    pub(super) last_nonce: Option<u64>,
    /// Since when something waits for clusters.
    pub(super) gated_since: Option<Instant>,
}

/// What a peer has under a name.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// It was told that there is nothing.
    Absent,
    /// Something that it brought along from another stream.
    Foreign(Option<Version>),
    /// What it has acknowledged.
    Has(Arc<Resource>),
}

/// An unacknowledged response.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: u64,
    pub(super) sent: Instant,
    pub(super) reported: bool,
    /// What is new in it.
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Arc<str>>,
}

/// What is to be done about a name.
pub(super) enum Need {
    Nothing,
    Send(Arc<Resource>),
    /// The peer may have what is gone.
    Remove,
    /// The peer asks for what does not exist.
    Answer,
}

impl InFlight {
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let resources = self.resources.iter().map(|resource| Arc::clone(resource.name()));
        resources.chain(self.removed.iter().cloned()).collect()
    }
}

impl Known {
    fn version(&self) -> Option<Version> {
        match self {
            Self::Absent => None,
            Self::Foreign(version) => *version,
            Self::Has(resource) => Some(resource.version()),
        }
    }
}

impl PeerType {
    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(super) fn is_latest(&self, nonce: &str) -> bool {
        nonce.parse().ok().is_some_and(|nonce| self.last_nonce == Some(nonce))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_none() && self.dirty.is_empty()
    }

    pub(super) fn acked(&self, name: &str) -> Option<Version> {
        match self.known.get(name) {
            Some(Known::Has(resource)) => Some(resource.version()),
            Some(Known::Absent | Known::Foreign(_)) | None => None,
        }
    }

    /// Whether the peer has this very version, and no doubt about it.
    pub(super) fn has(&self, wanted: &Resource) -> bool {
        let version = self.known.get(wanted.name()).and_then(Known::version);
        let doubtful = self.unsure.contains_key(wanted.name()) || self.lost.contains(wanted.name());
        version == Some(wanted.version()) && !doubtful
    }

    /// Whether the peer has some version, as far as it has not asked for it again.
    pub(super) fn keeps_some(&self, name: &str) -> bool {
        self.may_keep_some(name) && !self.lost.contains(name)
    }

    fn may_keep_some(&self, name: &str) -> bool {
        matches!(self.known.get(name), Some(Known::Foreign(_) | Known::Has(_)))
    }

    /// What the peer brought along is what is wanted, or what it acknowledged is wanted with other references: then that is what it has.
    pub(super) fn recognise(&mut self, name: &str, wanted: Option<&Arc<Resource>>) {
        if let (Some(known), Some(wanted)) = (self.known.get_mut(name), wanted)
            && known.version() == Some(wanted.version())
        {
            *known = Known::Has(Arc::clone(wanted));
        }
    }

    pub(super) fn need(&self, name: &str, wanted: Option<&Arc<Resource>>) -> Need {
        let forced = self.forced.contains(name);
        if !self.covers(name) {
            return Need::Nothing;
        }
        if let Some(wanted) = wanted {
            let rejected = self.quarantine.get(name) == Some(&wanted.version());
            return if forced || !(rejected || self.has(wanted)) {
                Need::Send(Arc::clone(wanted))
            } else {
                Need::Nothing
            };
        }
        let known = self.known.get(name);
        if self.may_keep_some(name) || self.unsure.contains_key(name) {
            Need::Remove
        } else if forced || (known.is_none() && self.names.contains(name)) {
            Need::Answer
        } else {
            Need::Nothing
        }
    }

    /// The peer has it now.
    pub(super) fn took(&mut self, resource: &Arc<Resource>) {
        let name = resource.name();
        self.unsure.remove(name);
        self.lost.remove(name);
        self.suspects.remove(name);
        self.quarantine.remove(name);
        if self.covers(name) {
            self.known.insert(Arc::clone(name), Known::Has(Arc::clone(resource)));
        } else {
            self.known.remove(name);
        }
    }

    /// The peer has nothing of this name now.
    pub(super) fn dropped(&mut self, name: &Arc<str>) {
        self.unsure.remove(name);
        self.lost.remove(name);
        self.suspects.remove(name);
        if self.names.contains(name) {
            self.known.insert(Arc::clone(name), Known::Absent);
        } else {
            self.known.remove(name);
        }
    }

    /// The peer may or may not have it.
    pub(super) fn may_have(&mut self, resource: &Arc<Resource>) {
        let name = resource.name();
        if !self.covers(name) {
            return;
        }
        let versions = self.unsure.entry(Arc::clone(name)).or_default();
        if versions.iter().all(|other| other.version() != resource.version()) {
            versions.push(Arc::clone(resource));
        }
        if versions.len() > UNSURE {
            versions.remove(0);
            self.known.insert(Arc::clone(name), Known::Foreign(None));
        }
        self.dirty.insert(Arc::clone(name));
    }

    /// The peer is not interested any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.unsure.remove(name);
        self.suspects.remove(name);
        self.quarantine.remove(name);
        self.dirty.remove(name);
        self.forced.remove(name);
        self.lost.remove(name);
    }

    /// The peer asks for what it may have: it is told, whatever it has.
    pub(super) fn ask_again(&mut self, name: Arc<str>) {
        self.forced.insert(Arc::clone(&name));
        self.may_have_dropped(name);
    }

    /// Whether the peer has what it had is not known any more.
    pub(super) fn may_have_dropped(&mut self, name: Arc<str>) {
        if self.may_keep_some(&name) {
            self.lost.insert(Arc::clone(&name));
        }
        self.dirty.insert(name);
    }

    /// Every version that the peer may be using; `None` when it has something that nobody here has seen.
    pub(super) fn possible(&self) -> Option<Vec<&Arc<Resource>>> {
        let mut all = Vec::new();
        for known in self.known.values() {
            match known {
                Known::Has(resource) => all.push(resource),
                Known::Foreign(_) => return None,
                Known::Absent => {}
            }
        }
        all.extend(self.unsure.values().flatten());
        all.extend(self.in_flight.iter().flat_map(|in_flight| &in_flight.resources));
        Some(all)
    }

    /// All that the peer has, with these added or replaced and those left out, by name.
    pub(super) fn all_with(&self, added: &[Arc<Resource>], removed: &[Arc<str>]) -> Vec<Arc<Resource>> {
        let mut all: BTreeMap<Arc<str>, Arc<Resource>> = BTreeMap::new();
        for (name, known) in &self.known {
            if let Known::Has(resource) = known
                && !removed.contains(name)
            {
                all.insert(Arc::clone(name), Arc::clone(resource));
            }
        }
        for resource in added {
            all.insert(Arc::clone(resource.name()), Arc::clone(resource));
        }
        all.into_values().collect()
    }
}
