//! Objects of an API server that are written by compare-and-swap: what is known of them, and which requests bring about what is wanted.
//!
//! Pure: what a watch tells and what requests are answered come in. A watch may tell of the past; what an own request has been answered is
//! never taken back by it. Must not know: what the objects mean, and how requests are made.

use std::collections::{BTreeMap, BTreeSet};

use kube::Resource;

use crate::source::cluster::Version;

/// What the server has, as far as is known.
#[derive(Clone, Debug)]
pub struct Ledger<K> {
    known: BTreeMap<String, K>,
    /// Deleted by an own request, with their uid, until the watch tells so too.
    buried: BTreeMap<String, Option<String>>,
    /// Written or deleted by own requests since the last list began: that list may be from before.
    since_listing: BTreeSet<String>,
}

impl<K> Default for Ledger<K> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            buried: BTreeMap::new(),
            since_listing: BTreeSet::new(),
        }
    }
}

/// A request, the condition under which the server is to grant it included.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<K> {
    /// Only if there is none.
    Create(K),
    /// Only if it is the one that is known, whose resourceVersion it carries.
    Replace(K),
    /// Only if it is the one that is known.
    Delete {
        /// Its uid.
        uid: Option<String>,
        /// Its resourceVersion.
        version: Option<String>,
    },
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<K> {
    /// It is as it was wanted; `None`: gone.
    Done(Option<K>),
    /// Somebody else was faster; this is what there is.
    Lost(Option<K>),
    /// The server did not answer, or refused.
    Failed(String),
}

impl<K: Resource<DynamicType = ()> + Clone + PartialEq> Ledger<K> {
    /// What is known of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&K> {
        self.known.get(name)
    }

    /// Names of all that are known.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.known.keys()
    }

    /// A list is about to be made.
    pub fn listing(&mut self) {
        self.since_listing.clear();
    }

    /// The watch tells of an object; whether that is news.
    pub fn seen(&mut self, object: &K) -> bool {
        let meta = object.meta();
        let name = meta.name.clone().unwrap_or_default();
        if let Some(uid) = self.buried.get(&name) {
            if *uid == meta.uid {
                return false;
            }
            self.buried.remove(&name);
        }
        let version = |object: &K| Version::new(object.meta().resource_version.as_deref());
        if self
            .known
            .get(&name)
            .is_some_and(|known| version(known) > version(object))
        {
            return false;
        }
        self.known.insert(name, object.clone());
        true
    }

    /// The watch tells that an object is gone; whether that is news.
    pub fn gone(&mut self, name: &str) -> bool {
        if self.buried.remove(name).is_some() {
            // Of the one that was deleted here; if there is another by now, it is told of next.
            return false;
        }
        self.known.remove(name).is_some()
    }

    /// All objects were listed, and each was [`seen`](Self::seen); those that are known and were not among them are gone.
    pub fn listed(&mut self, names: &BTreeSet<String>) -> Vec<String> {
        let is_over = |name: &&String| !names.contains(*name) && !self.since_listing.contains(*name);
        let gone: Vec<String> = self.known.keys().filter(is_over).cloned().collect();
        for name in &gone {
            self.known.remove(name);
        }
        let fresh = std::mem::take(&mut self.since_listing);
        self.buried
            .retain(|name, _| names.contains(name) || fresh.contains(name));
        self.since_listing = fresh;
        gone
    }

    /// The requests that bring an object about, in their order. One that cannot become the wanted one, as `can_become` says, is deleted first.
    #[must_use]
    pub fn requests(&self, mut wanted: K, can_become: impl Fn(&K, &K) -> bool) -> Vec<Request<K>> {
        let name = wanted.meta().name.clone().unwrap_or_default();
        match self.known.get(&name) {
            None => vec![Request::Create(wanted)],
            Some(known) if can_become(known, &wanted) => {
                *wanted.meta_mut() = known.meta().clone();
                vec![Request::Replace(wanted)]
            }
            Some(known) => vec![delete(known), Request::Create(wanted)],
        }
    }

    /// The request that removes an object, if it is known.
    #[must_use]
    pub fn removal(&self, name: &str) -> Option<Request<K>> {
        self.known.get(name).map(delete)
    }

    /// A request was answered.
    pub fn answered(&mut self, name: &str, outcome: &Outcome<K>) {
        match outcome {
            Outcome::Done(Some(object)) | Outcome::Lost(Some(object)) => {
                self.known.insert(name.to_owned(), object.clone());
                self.buried.remove(name);
            }
            Outcome::Done(None) | Outcome::Lost(None) => {
                if let Some(known) = self.known.remove(name) {
                    self.buried.insert(name.to_owned(), known.meta().uid.clone());
                }
            }
            Outcome::Failed(_) => return,
        }
        self.since_listing.insert(name.to_owned());
    }
}

fn delete<K: Resource>(known: &K) -> Request<K> {
    Request::Delete {
        uid: known.meta().uid.clone(),
        version: known.meta().resource_version.clone(),
    }
}

#[cfg(test)]
mod tests {
    use kubelb_api::v1alpha1::{AddressClaim, AddressClaimSpec};

    use super::*;

    fn claim(uid: &str, version: &str, tenant: &str) -> AddressClaim {
        let mut claim = AddressClaim::new(
            "a",
            AddressClaimSpec {
                tenant: tenant.to_owned(),
                ..AddressClaimSpec::default()
            },
        );
        claim.metadata.uid = Some(uid.to_owned());
        claim.metadata.resource_version = Some(version.to_owned());
        claim
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_a_watch_tells_late_is_no_news() {
        let mut ledger = Ledger::default();
        assert!(ledger.seen(&claim("u", "5", "x")));
        ledger.answered("a", &Outcome::Done(Some(claim("u", "9", "x"))));
        assert!(!ledger.seen(&claim("u", "7", "x")));
        assert!(ledger.seen(&claim("u", "9", "x")));
        ledger.answered("a", &Outcome::Done(None));
        assert!(!ledger.seen(&claim("u", "9", "x")), "it is deleted by now");
        assert!(!ledger.gone("a"), "that was known");
        assert!(ledger.seen(&claim("v", "12", "y")), "another one of this name");
        assert!(ledger.gone("a"));
    }

    #[test]
    fn a_list_from_before_takes_nothing_away() {
        let mut ledger = Ledger::default();
        ledger.seen(&claim("u", "5", "x"));
        ledger.listing();
        ledger.answered("b", &Outcome::Done(Some(claim("w", "6", "x"))));
        assert_eq!(ledger.listed(&names(&["a"])), Vec::<String>::new());
        ledger.listing();
        assert_eq!(ledger.listed(&names(&["a"])), ["b"]);
    }

    #[test]
    fn requests_are_granted_only_for_what_is_known() {
        let mut ledger = Ledger::default();
        let same_tenant = |old: &AddressClaim, new: &AddressClaim| old.spec.tenant == new.spec.tenant;
        let wanted = |tenant: &str| {
            let spec = claim("", "", tenant).spec;
            AddressClaim::new("a", spec)
        };
        assert_eq!(
            ledger.requests(wanted("x"), same_tenant),
            [Request::Create(wanted("x"))]
        );
        ledger.seen(&claim("u", "5", "x"));
        assert_eq!(
            ledger.requests(wanted("x"), same_tenant),
            [Request::Replace(claim("u", "5", "x"))]
        );
        let delete = Request::Delete {
            uid: Some("u".to_owned()),
            version: Some("5".to_owned()),
        };
        assert_eq!(
            ledger.requests(wanted("y"), same_tenant),
            [delete.clone(), Request::Create(wanted("y"))]
        );
        assert_eq!(ledger.removal("a"), Some(delete));
        assert_eq!(ledger.removal("b"), None);
    }
}
